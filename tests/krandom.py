#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random I/O on a view against a model of its bytes.

krandom.py --seed N --seconds S DISK...

Writers read, write, discard, zero and flush, each op on sectors that no other op has at
that moment (but often in the same block). Meanwhile the device is suspended, reloaded,
snapshotted, its map forgotten, its pool reclaimed, and copied at points in time. In
the end the device, each copy, and what the records on the devices say must all be
what the model says. Prints TAP.
"""
import argparse
import errno
import os
import random
import threading
import time
import traceback

from dmio import Disk, compare
from kview import Image, View, reconstruct


# Data to write is cut from here at a random place: cheap to make, and no two are alike.
BLOB = random.Random(0).randbytes(4 << 20)


def junk(rng, nr):
    at = rng.randrange(len(BLOB) - nr * 512)
    return BLOB[at:at + nr * 512]


class Model:
    """The bytes of the device, and the ops that are under way."""

    def __init__(self, data):
        self.data = bytearray(data)
        self.lock = threading.Condition()
        self.busy = []          # (first, end, new bytes or None) of ops under way
        self.hold = False       # no new ops

    def begin(self, first, nr, new):
        op = (first, first + nr, new)
        with self.lock:
            while self.hold or any(f < first + nr and first < e for f, e, _ in self.busy):
                self.lock.wait()
            self.busy.append(op)
        return op

    def end(self, op, apply=True):
        with self.lock:
            first, end, new = op
            if apply and new is not None:
                self.data[first * 512:end * 512] = new
            self.busy.remove(op)
            self.lock.notify_all()

    def freeze(self):
        """What the device holds now: the bytes, and what else may be there by now."""
        with self.lock:
            return bytes(self.data), [op for op in self.busy if op[2] is not None]

    def quiet(self):
        with self.lock:
            self.hold = True
            while self.busy:
                self.lock.wait()

    def go(self):
        with self.lock:
            self.hold = False
            self.lock.notify_all()


def check_frozen(disk, frozen, maybe):
    """The copy holds `frozen`, but for sectors whose write was under way."""
    got = disk.read(0, len(frozen) // 512)
    want = bytearray(frozen)
    for first, end, new in maybe:
        for s in range(first, end):
            cut = slice(s * 512, s * 512 + 512)
            if got[cut] == new[(s - first) * 512:(s - first) * 512 + 512]:
                want[cut] = got[cut]
    compare(got, bytes(want), 0)


class Writers:
    def __init__(self, view, model, seed, count):
        self.view, self.model, self.stop, self.errors = view, model, False, []
        self.ops = dict(read=0, write=0, discard=0, zero=0, flush=0)
        self.threads = []
        for i in range(count):
            disk = Disk(view.dm.path)
            t = threading.Thread(target=self.run, args=(random.Random(seed * 100 + i), disk),
                                 daemon=True)
            self.threads.append(t)

    def start(self):
        for t in self.threads:
            t.start()

    def run(self, rng, disk):
        try:
            while not self.stop:
                self.one(rng, disk)
        except Exception:
            self.errors.append(traceback.format_exc())
        finally:
            disk.close()

    def place(self, rng):
        """Mostly small, often in a few hot places; now and then large."""
        size = rng.choice([1, 2, 8, 8, 8, 8, 16, 64, 128, 256, 2048])
        nr = self.model_sectors()
        if rng.random() < 0.5:
            first = rng.randrange(nr // 16) if rng.random() < 0.5 else nr - nr // 8
            first += rng.randrange(nr // 8)
        else:
            first = rng.randrange(nr)
        if size >= 8 and rng.random() < 0.8:
            first -= first % min(size, 128)
        first = min(first, nr - 1)
        return first, min(size, nr - first)

    def model_sectors(self):
        return len(self.model.data) // 512

    def one(self, rng, disk):
        first, nr = self.place(rng)
        kind = rng.choices(["read", "write", "discard", "zero", "flush"],
                           [30, 55, 3, 4, 2])[0]
        new = {"write": lambda: junk(rng, nr),
               "zero": lambda: bytes(nr * 512)}.get(kind, lambda: None)()
        if kind == "discard":
            self.discard(disk, first, nr)
            return
        op = self.model.begin(first, nr, new)
        try:
            if kind == "read":
                got = disk.read(first, nr)
                compare(got, bytes(self.model.data[first * 512:(first + nr) * 512]), first)
            elif kind == "write":
                disk.write(first, new, os.RWF_DSYNC if rng.random() < 0.05 else 0)
            elif kind == "zero":
                disk.zeroout(first, nr)
            else:
                disk.flush()
            self.ops[kind] += 1
        finally:
            self.model.end(op)

    def discard(self, disk, first, nr):
        """What is discarded may read as zeros or as before, sector by sector: look."""
        op = self.model.begin(first, nr, bytes(nr * 512))
        try:
            disk.discard(first, nr)
            got = disk.read(first, nr)
            with self.model.lock:
                for i in range(0, len(got), 512):
                    s = slice(first * 512 + i, first * 512 + i + 512)
                    if got[i:i + 512] != bytes(512):
                        compare(got[i:i + 512], bytes(self.model.data[s]), first + i // 512)
                    self.model.data[s] = got[i:i + 512]
            self.ops["discard"] += 1
        except OSError as e:
            if e.errno != errno.EOPNOTSUPP:
                raise
        finally:
            self.model.end(op, apply=False)

    def finish(self):
        self.stop = True
        for t in self.threads:
            t.join(240)
            if t.is_alive():
                raise AssertionError("a writer hangs: " + self.view.dm.status())
        if self.errors:
            raise AssertionError("a writer failed:\n" + self.errors[0])


class Test:
    def __init__(self, args):
        self.rng = rng = random.Random(args.seed)
        self.args = args
        # base, middle, tops of the chain; the last disk takes the copies
        self.block = rng.choice([8, 16, 64, 128, 128, 128])
        self.nr = rng.choice([8192, 16384, 16384 + 24, 32768 - 8])
        units = [u for u in (8, 16, 64, 128, 256, 512)]
        lower = [u for u in units if u >= self.block]
        paths = args.disks
        base = Image(0, paths[0], self.nr, None if rng.random() < 0.5 else rng.choice(lower))
        middle = Image(1, paths[1], self.nr, rng.choice(lower), start=rng.choice([0, 8, 2048]),
                       seed=args.seed)
        self.tops = [Image(2 + i, p, self.nr, rng.choice(lower if i < len(paths) - 4 else units),
                           seed=args.seed + i)
                     for i, p in enumerate(paths[2:-1])]
        self.fill(base, 0.7)
        self.fill(middle, 0.3)
        self.fill(self.tops[0], 0.2 if self.tops[0].unit >= self.block else 0)
        self.chain = [self.tops.pop(0), middle, base]
        self.dest = Image(100, paths[-1], self.nr)
        self.counts = {}
        self.longest = (0, "")

    def describe(self):
        return "block %d, view %d sectors, units %s" % (
            self.block, self.nr, " ".join(str(i.unit or "raw") for i in
                                          list(reversed(self.tops)) + self.chain))

    def fill(self, image, part):
        rng = self.rng
        if not image.unit:
            for s in range(0, min(self.nr, image.limit()), 256):
                n = min(256, self.nr - s)
                image.disk.write(s, junk(rng, n) if rng.random() < part else bytes(n * 512))
            return
        records = []
        for unit in range(image.units):
            if rng.random() > part:
                records.append(0)
                continue
            sector = image.alloc(image.unit)
            kind = rng.choices([1 << 63, 0, (1 << 63) | 1, None], [56, 24, 10, 10])[0]
            records.append(1 if kind is None else (sector << 9) | kind)
        image.set_records(records)
        for sector in range(0, image.end, 2048):
            n = min(2048, image.end - sector)
            if sector > max(image.page_sector) + 8:
                image.disk.write(image.start + sector, junk(rng, n))
            else:
                keep = image.disk.read(image.start + sector, n)
                first = max(image.page_sector) + 8 - sector
                data = keep[:first * 512] + junk(rng, n)[first * 512:]
                image.disk.write(image.start + sector, data)

    # --- what happens meanwhile ---

    def did(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def do(self, what):
        start = time.monotonic()
        getattr(self, what)()
        self.longest = max(self.longest, (time.monotonic() - start, what))
        self.did(what)

    def suspend(self):
        self.view.dm.suspend(noflush=True)
        time.sleep(self.rng.random() * 0.02)
        self.view.dm.resume()

    def reload(self):
        self.view.reload()

    def forget(self):
        slices = -(-self.view.blocks() // 512)
        first = self.rng.randrange(slices)
        try:
            self.view.dm.message("forget %d %d" % (
                first * 512, min(512, self.view.blocks() - first * 512)))
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            self.did("forget refused")

    def commit(self):
        self.view.dm.message("commit")

    def reclaim(self):
        """Offer, give back, grant anew: space that was offered is never used again."""
        image = self.view.active
        with self.view.serving:
            self.view.dm.message("reclaim %d" % image.id)
            again = self.view.dm.message("reclaim %d" % image.id)
            self.view.dm.message("reclaim %d done" % image.id)
            del again

    def snapshot(self):
        if not self.tops:
            return
        image = self.tops.pop(0)
        self.view.extra.append(image)
        self.view.reload()
        self.view.dm.message(image.describe())
        for _ in range(100):
            self.view.commit()
            self.view.dm.suspend()
            try:
                self.view.activate(image)
                break
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise
                self.did("activate refused")
            finally:
                self.view.dm.resume()
        else:
            raise AssertionError("activate is always refused: " + self.view.dm.status())

    def copy(self):
        """A before-write copy, checked at its end."""
        name = "copy%d" % self.counts.get("copy", 0)
        speed = self.rng.choice([0, 4 << 20, 16 << 20])
        self.view.dm.suspend()
        try:
            self.view.dm.message("copy %s %d before-write speed %d timeout 0" % (
                name, self.dest.id, speed))
            frozen, maybe = self.model.freeze()
        finally:
            self.view.dm.resume()
        end = time.monotonic() + 400
        while True:
            job = self.view.job(name)
            if job["state"] == "concluded":
                break
            if time.monotonic() > end:
                raise AssertionError("the copy hangs: " + self.view.dm.status())
            if self.rng.random() < 0.1:
                self.rng.choice([self.suspend, self.reload, self.forget, self.commit])()
            if self.rng.random() < 0.05:
                try:
                    self.view.dm.message("job %s pause" % name)
                    self.view.dm.message("job %s resume" % name)
                except OSError as e:
                    if e.errno != errno.EPERM:      # it has concluded
                        raise
            if self.rng.random() < 0.02:
                self.snapshot()
            time.sleep(0.01)
        if job["result"] != "ok":
            raise AssertionError("the copy failed: " + self.view.dm.status())
        check_frozen(self.dest.disk, frozen, maybe)
        self.view.dm.message("job %s dismiss" % name)

    def steer(self, name):
        """Things that happen to a job while it runs."""
        what = self.rng.random()
        try:
            if what < 0.1:
                self.rng.choice([self.suspend, self.reload, self.forget, self.commit])()
            elif what < 0.15:
                self.view.dm.message("job %s pause" % name)
                self.view.dm.message("job %s resume" % name)
            elif what < 0.2:
                self.view.dm.message("job %s mode %s" % (name, self.rng.choice(["track", "both"])))
            elif what < 0.21:
                self.snapshot()
        except OSError as e:
            if e.errno != errno.EPERM:      # it has concluded
                raise
        time.sleep(0.01)

    def mirror(self):
        """A tracking copy; in the end both sides are equal while suspended, or it is cancelled."""
        name = "mirror%d" % self.counts.get("mirror", 0)
        self.view.dm.suspend()
        try:
            self.view.dm.message("copy %s %d %s grain %d speed %d" % (
                name, self.dest.id, self.rng.choice(["track", "both"]),
                self.rng.choice([8, 16, 128, 128, 1024]), self.rng.choice([0, 0, 8 << 20])))
        finally:
            self.view.dm.resume()
        end = time.monotonic() + 400
        while self.view.job(name)["state"] != "ready":
            if time.monotonic() > end:
                raise AssertionError("the mirror does not get ready: " + self.view.dm.status())
            self.steer(name)
        for _ in range(self.rng.randrange(20)):
            self.steer(name)
        if self.rng.random() < 0.2:
            self.view.dm.message("job %s cancel" % name)
            self.view.wait_job(name)
            self.did("mirror cancelled")
        else:
            self.complete(name)
        self.view.dm.message("job %s dismiss" % name)

    def complete(self, name):
        if self.rng.random() < 0.5:
            self.view.dm.message("job %s complete" % name)
        with self.view.serving:
            self.view.load_all()        # nobody is asked for slices while suspended
            self.view.dm.suspend()
            try:
                self.view.dm.message("job %s complete" % name)
                job = self.view.wait_job(name)
                frozen, maybe = self.model.freeze()
                check_frozen(self.dest.disk, frozen, maybe)
            finally:
                self.view.dm.resume()
        if job["result"] != "ok":
            raise AssertionError("the mirror failed: " + self.view.dm.status())

    def promote(self):
        """Lower layers' blocks go up; sometimes it is cancelled."""
        name = "promote%d" % self.counts.get("promote", 0)
        below = self.view.chain[1:]
        wanted = self.rng.sample(below, self.rng.randint(1, len(below)))
        self.view.dm.message("promote %s only %s speed %d" % (
            name, ",".join(str(i.id) for i in wanted), self.rng.choice([0, 4 << 20])))
        end = time.monotonic() + 400
        while self.view.job(name)["state"] != "concluded":
            if time.monotonic() > end:
                raise AssertionError("the promotion hangs: " + self.view.dm.status())
            if self.rng.random() < 0.1:
                self.rng.choice([self.suspend, self.reload, self.forget, self.commit])()
            if self.rng.random() < 0.01:
                self.view.dm.message("job %s cancel" % name)
            time.sleep(0.01)
        result = self.view.job(name)["result"]
        self.view.dm.message("job %s dismiss" % name)
        if result != "cancelled":
            if result != "ok":
                raise AssertionError("the promotion failed: " + result)
            self.view.load_all()
            left = {i.id: self.view.status()["layers"][i.id]["entries"] for i in wanted}
            if any(left.values()):
                raise AssertionError("entries are left after a promotion: %r" % left)

    def check_all(self):
        """Quiet: the device and what the devices below say are the model."""
        self.model.quiet()
        try:
            want = bytes(self.model.data)
            self.reader.flush()
            compare(reconstruct(self.view.chain, self.nr), want, 0)
            compare(self.reader.read(0, self.nr), want, 0)
        finally:
            self.model.go()

    def run(self):
        start = reconstruct(self.chain, self.nr)
        self.view = View("krandom", self.chain, self.nr, self.block, extra=[self.dest])
        self.view.grant_sectors = self.rng.choice([512, 2048])
        try:
            self.view.dm.message("layer %d low 1024" % self.chain[0].id)
            self.view.begin()
            self.model = Model(start)
            self.reader = Disk(self.view.dm.path)
            compare(self.reader.read(0, self.nr), start, 0)
            writers = Writers(self.view, self.model, self.args.seed, 4)
            writers.start()
            end = time.monotonic() + self.args.seconds
            while time.monotonic() < end and not writers.errors:
                what = self.rng.choices(
                    ["suspend", "reload", "forget", "commit", "reclaim", "snapshot", "copy",
                     "mirror", "promote", "check_all", "rest"],
                    [6, 4, 8, 6, 3, 1, 2, 3, 0.3, 1, 20])[0]
                if what == "rest":
                    time.sleep(self.rng.random() * 0.2)
                else:
                    self.do(what)
            writers.finish()
            self.ops = writers.ops
            self.check_all()
            self.reader.close()
            self.view.end()
            self.view.dm.remove()
        except Exception:
            print("# status: " + self.view.dm.status())
            raise
        # after the last table there is nothing but the devices
        compare(reconstruct(self.view.chain, self.nr), bytes(self.model.data), 0)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("disks", nargs="+")
    args = p.parse_args()
    print("1..1", flush=True)
    test = Test(args)
    print("# seed %d: %s" % (args.seed, test.describe()), flush=True)
    try:
        test.run()
    except Exception:
        for line in traceback.format_exc().splitlines():
            print("# " + line)
        print("# happened: %s" % test.counts)
        print("not ok 1 - random I/O, seed %d" % args.seed, flush=True)
        os._exit(1)         # writers may still be there
    print("# ops %s, meanwhile %s, the longest %.1f s (%s)" % ((test.ops, test.counts) + test.longest))
    print("ok 1 - random I/O, seed %d" % args.seed)


main()
