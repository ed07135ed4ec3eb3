#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A small scenario on a view, again and again, each time with another request failing.

iofail.py --program DISKS --work DIR --seed N [--seconds S] [--only LAYOUT:N:COUNT:HOW] [--all]

The scenario is reads, writes of every kind, flushes, a discard, a copy and a snapshot. First it
runs undisturbed, which counts the requests to all devices; then request N and COUNT - 1 more fail
(nothing, half or all of a write has been done; a flush has lost what was cached or not). Each time:

- only an operation during which a request for it failed sees an error; a view is read-only only
  after a failed record or flush; a copy's device never disturbs the guest;
- every read is right: after an error the old content or the new, sector by sector;
- a job that says ok has the content of its moment;
- then, nothing failing any more: a view that goes on takes writes and records them all; one that
  has failed can be read, suspended and removed;
- what the images hold by themselves is at each sector not older than the last flush, and of that
  sector; a new view on them works.
"""
import argparse
import errno
import functools
import os
import random
import sys
import threading
import time

from badio import ALL, FLUSH, HALF, LOSE, READ, WRITE, BadDisks, Model, Wrong, attempts
from dmio import Disk, compare, pattern
from kview import Image, View, reconstruct

NR = 2048
BASE, TOP, DEST, NEXT = range(4)
# block and unit of the active image, in sectors
LAYOUTS = {"same": (128, 128), "unit": (16, 128), "block": (128, 16)}
POISON = b"\xa5" * (NR * 512)


@functools.lru_cache(None)
def junk(seed, nr):
    """What a disk holds at first."""
    return pattern(seed, 0, nr)


class Scenario:
    """One run. bad: the disks; layout: a key of LAYOUTS."""

    def __init__(self, bad, layout):
        self.bad = bad
        self.block, unit = LAYOUTS[layout]
        self.grain = max(self.block, unit)
        bad.settle()
        for i, content in enumerate(bad.content):
            content.write(0, junk(600 + i, content.sectors()))
        base = junk(1, NR)
        bad.content[BASE].write(0, base)
        self.images = [Image(i, bad.paths[i], NR, unit if i in (TOP, NEXT) else None,
                             seed=i, disk=bad.content[i]) for i in range(4)]
        self.model = Model(base)
        self.version = 1
        self.log, self.mode, self.frozen, self.job = [], "rw", None, None
        self.chain = [self.images[TOP], self.images[BASE]]
        bad.settle()

    # --- the disks' figures ---

    def arm(self, first, count, how):
        self.how = how
        self.bad.arm(first, count, how, disks=0xf)

    def is_record(self, disk, off):
        image = self.images[disk]
        return image.unit and any(p * 512 <= off < p * 512 + 4096 for p in image.page_sector)

    # --- the guest ---

    def start(self):
        self.view = View("iofail", self.chain, NR, self.block,
                         extra=[i for i in self.images if i not in self.chain])
        self.view.dm.message(self.images[NEXT].describe())
        self.view.grant_sectors = 256
        for layer in TOP, NEXT:
            self.view.dm.message("layer %d low 256" % layer)
        self.view.begin()
        self.disk = Disk(self.view.dm.path)

    def op(self, what, fn, *args):
        """Does it; returns whether it worked. Judges an error."""
        before = self.bad.hits()
        self.now = what
        try:
            fn(*args)
            good = True
        except OSError as e:
            if e.errno != errno.EIO:
                raise Wrong("%s: %s" % (what, e))
            good = False
        new = self.bad.failed(before)
        self.log.append("%s %s%s" % (what, "ok" if good else "EIO",
                                     " (%d failed)" % len(new) if new else ""))
        self.look()
        self.judge(what.split()[0], good, new)
        return good

    def look(self):
        """What the state of the view and the disks says."""
        failed = self.bad.failed()
        mode = self.view.status()["mode"]
        if mode == "fail" and self.mode != "fail" and not any(
                disk in (TOP, NEXT) and (kind == FLUSH or self.is_record(disk, off))
                for disk, kind, off, _ in failed):
            raise Wrong("the view has failed, but no record or flush had")
        if mode != "fail" and self.mode == "fail":
            raise Wrong("a view that had failed is %s" % mode)
        self.mode = mode
        if self.how & LOSE and any(kind == FLUSH and disk in (TOP, NEXT) for disk, kind, _, _ in failed):
            self.model.lose(self.grain)

    def judge(self, word, good, new):
        """new: the requests that have failed meanwhile."""
        if good:
            if word in ("flush", "fua") and self.mode != "fail" and any(
                    kind == FLUSH and disk in (TOP, NEXT) for disk, kind, _, _ in new):
                raise Wrong("a flush failed below, but the guest's did not")
        elif (word == "read" or self.mode != "fail") and not any(
                disk != DEST and (kind == READ or word != "read") for disk, kind, _, _ in new):
            raise Wrong("%s failed, but no request for it had" % self.now)

    def read(self, first, nr):
        out = []
        self.disk.buf[:nr * 512] = POISON[:nr * 512]
        if self.op("read %d+%d" % (first, nr), lambda: out.append(self.disk.read(first, nr))):
            self.model.read(first, out[0], self.now)

    def write(self, first, nr, word="write"):
        self.version += 1
        data = bytes(nr * 512) if word == "zero" else pattern(self.version, first, nr)
        fn = {"write": lambda: self.disk.write(first, data),
              "fua": lambda: self.disk.write(first, data, os.RWF_DSYNC),
              "zero": lambda: self.disk.zeroout(first, nr)}[word]
        if self.op("%s %d+%d" % (word, first, nr), fn):
            self.model.wrote(first, data)
        else:
            self.model.may_have_written(first, data)

    def discard(self, first, nr):
        """Each sector is zero afterwards or as it was."""
        self.op("discard %d+%d" % (first, nr), self.disk.discard, first, nr)
        self.model.may_have_written(first, bytes(nr * 512))

    def flush(self):
        if self.op("flush", self.disk.flush):
            self.model.flushed()

    # --- the operations ---

    def copy_start(self):
        self.view.dm.suspend()
        try:
            # what a read that failed has left open is settled by nobody yet
            self.frozen = Model(bytes(self.model.latest))
            self.frozen.maybe = {s: set(m) for s, m in self.model.maybe.items()}
            self.frozen.lost = set(self.model.lost)
            self.view.dm.message("copy j %d before-write timeout 30000" % DEST)
        finally:
            self.view.dm.resume()

    def copy_end(self):
        job = self.view.wait_job("j", timeout=120)
        result = self.job = job["result"]
        self.log.append("the copy: " + result)
        self.look()
        failed = self.bad.failed()
        if result == "ok":
            self.frozen.lost |= self.model.lost
            self.frozen.read(0, self.bad.content[DEST].read(0, NR), "the copy")
            if any(disk == DEST for disk, _, _, _ in failed):
                raise Wrong("the copy says ok, but its device had failed")
        else:
            side = {"error:read:5": (READ, (BASE, TOP)),
                    "error:write:5": (WRITE | FLUSH, (DEST,))}.get(result)
            if not side or not any(kind & side[0] and disk in side[1] for disk, kind, _, _ in failed):
                raise Wrong("the copy says %s" % result)
        self.view.dm.message("job j dismiss")

    def snapshot(self):
        """As long as the view has not failed."""
        image = self.images[NEXT]
        for _ in range(200):
            self.view.dm.message("commit")
            self.view.dm.suspend()
            try:
                self.look()
                if self.mode == "fail":
                    self.log.append("no snapshot")
                    return
                self.view.activate(image)
                self.log.append("snapshot")
                return
            except OSError as e:
                if e.errno != errno.EBUSY:
                    raise
            finally:
                self.view.dm.resume()
            time.sleep(0.005)
        raise Wrong("a snapshot is always refused: " + self.view.dm.status())

    def run(self):
        self.read(100, 200)
        self.write(130, 8)
        self.write(256, 256)
        self.read(128, 400)
        self.flush()
        self.copy_start()
        self.write(132, 8)
        self.write(1030, 300)
        self.write(522, 200, "zero")
        self.write(1500, 8, "fua")
        self.discard(256, 128)
        self.write(300, 16)
        self.read(0, NR)
        self.copy_end()
        self.flush()
        self.snapshot()
        self.write(131, 9)
        self.write(640, 128)
        self.flush()
        self.read(0, NR)

    # --- afterwards ---

    def healed(self):
        """Nothing fails any more, but a view that has failed."""
        self.bad.heal()
        hits = self.bad.hits()
        self.read(0, NR)
        if self.mode == "fail":
            for word in "write", "zero":
                self.write(40, 8, word)
        else:
            self.write(1100, 77)
            self.write(200, 300, "zero")
            self.read(0, NR)
        self.flush()
        self.view.dm.suspend()
        self.view.dm.resume()
        self.read(0, NR)
        if self.bad.hits() != hits:
            raise Wrong("it still fails")
        self.disk.close()
        self.view.remove()

    def again(self):
        """The images by themselves, and a new view on them."""
        data = reconstruct(self.view.chain, NR)
        self.model.durable(data, "the images")
        self.chain, self.mode = self.view.chain, "rw"
        self.model.taken_up(data)
        self.how = 0
        self.start()
        self.read(0, NR)
        self.write(700, 100)
        self.flush()
        self.read(0, NR)
        self.disk.close()
        self.view.remove()
        compare(reconstruct(self.view.chain, NR), bytes(self.model.latest), 0)

    def whole(self, first, count, how):
        """Returns how many requests there were."""
        self.how = 0
        self.start()
        self.arm(first, count, how)
        self.run()
        seen = self.bad.seen()
        self.healed()
        self.again()
        return seen

    def clear(self):
        """After what went wrong."""
        self.bad.heal()
        self.view.stop = True
        for _ in range(100):
            try:
                self.disk.close()
                self.view.dm.remove()
                return
            except OSError:
                time.sleep(0.1)         # what goes on meanwhile ends


class Watch(threading.Thread):
    """Tells where a run hangs, and ends it."""

    def __init__(self, limit, bad):
        super().__init__(daemon=True)
        self.limit, self.bad, self.what, self.since = limit, bad, None, None
        self.start()

    def run(self):
        while True:
            time.sleep(1)
            if self.what and time.monotonic() - self.since > self.limit:
                print("hang %s: %s" % (self.what[0], "; ".join(self.what[1].log)), flush=True)
                print("hang at %s, %s, %s" % (getattr(self.what[1], "now", "-"),
                                              self.bad.tell(),
                                              self.what[1].view.dm.status()), flush=True)
                self.bad.server.kill()          # so that nothing waits any more
                os._exit(1)

    def begin(self, what, scenario):
        self.since, self.what = time.monotonic(), (what, scenario)


def points(args, rng, totals):
    """(layout, first, count, how) of the runs to be made."""
    if args.only:
        layout, first, count, how = args.only.split(":")
        return [(layout, int(first), int(count), int(how))]
    every = [(layout, first) for layout, n in totals.items() for first in range(1, n + 1)]
    out = []
    for layout, first in every:
        hows = [w | f for w in (0, HALF, ALL) for f in (0, LOSE)]
        for count in (1, 2, 1 << 20) if args.all else [rng.choice((1, 1, 1, 2, 5, 1 << 20))]:
            out += [(layout, first, count, how) for how in (hows if args.all else [rng.choice(hows)])]
    rng.shuffle(out)
    return out


def rounds(args, rng, bad):
    """Returns the exit status."""
    watch, totals = Watch(250, bad), {}
    for layout in LAYOUTS:
        s = Scenario(bad, layout)
        watch.begin(layout, s)
        start = time.monotonic()
        totals[layout] = s.whole(0, 0, 0)
        print("%s: %d requests, %.1f s" % (layout, totals[layout], time.monotonic() - start), flush=True)
    todo = points(args, rng, totals)
    end = time.monotonic() + (args.seconds if not args.only and not args.all else 1e9)

    def begin(point):
        s = Scenario(bad, point[0])
        watch.begin("%s:%d:%d:%d" % point, s)
        return s

    done, results, wrong = 0, {}, 0
    for s, good in attempts(todo, end, begin, bad):
        done, wrong = done + 1, wrong + (not good)
        key = (s.job, "errors" if any("EIO" in line for line in s.log) else "no error")
        results[key] = results.get(key, 0) + 1
    watch.what = None
    print("requests %s; %d of %d points; copy and guest: %s" % (totals, done, len(todo), ", ".join(
        "%s, %s: %d" % (k + (n,)) for k, n in sorted(results.items(), key=str))), flush=True)
    return 1 if wrong else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--program", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--seconds", type=float, default=40)
    p.add_argument("--only")
    p.add_argument("--all", action="store_true")
    args = p.parse_args()
    rng = random.Random(args.seed)
    bad = BadDisks(args.program, args.work, [2, 6, 2, 6])
    try:
        st = rounds(args, rng, bad)
    finally:
        bad.end()
    sys.exit(st)


main()
