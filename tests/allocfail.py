#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""An allocation of each call fails: of tables, messages, suspends, I/O.

allocfail.py --seed N --seconds S [--points N] [--only CALL[:N]] DISK...

Each call (a do_ function) is made with its first allocation failing, then with its second, and so on
(/proc/thread-self/fail-nth, which counts those of the calling task only); of a call that has more
than --points the first ones and random others. It must work all the same, or fail with ENOMEM and have changed nothing: status
says what it said before, made again it works, and the device does too. I/O must not fail for it. For what work queues allocate
krandom.py runs while a part of all allocations that have the module in their call chain fail there.
"""
import argparse
import errno
import os
import random
import subprocess
import sys
import traceback

from dmio import CREATE, REMOVE, SUSPEND, Disk, Dm, compare, control, pattern
from failnth import Nth, Queues, put, setup
from kview import Image, View

NR, BLOCK = 16384, 128
MANY = 1 << 20      # more allocations than any call has


class Calls:
    """Names beginning with do_ are calls; each leaves all as it was, so that it can be repeated."""

    def __init__(self, disks, nth):
        self.nth, self.disks = nth, disks
        self.base, self.dest = Image(0, disks[0], NR), Image(9, disks[3], NR)
        self.base.disk.write(0, pattern(1, 0, NR))
        self.tops = [Image(1, disks[1], NR, 128), Image(2, disks[2], NR, 128)]
        self.view = self.side = None
        self.version, self.length = 1, 2048

    # --- the device that calls are made to ---

    def make(self):
        self.view = View("alloc", [self.tops[0], self.base], NR, BLOCK, extra=[self.tops[1], self.dest])
        self.tops[0].clear()
        self.tops[1].clear()
        self.dm = self.view.dm
        self.dm.message(self.tops[1].describe())
        self.view.load_all()
        for image in self.tops:
            self.dm.message("home %d %s" % (image.id, image.home(0)))
            image.end = 2048
            self.view.grant(image, nr=NR, ranges=2)
        self.disk = Disk(self.dm.path)
        self.next = 0

    def end(self):
        self.disk.close()
        self.view.dm.remove()
        self.view = None

    def probe(self):
        """The device works."""
        compare(self.disk.read(NR - 16, 8), pattern(1, NR - 16, 8), NR - 16)
        self.version += 1
        self.disk.write(8, pattern(self.version, 8, 8))
        self.disk.flush()
        compare(self.disk.read(8, 8), pattern(self.version, 8, 8), 8)
        status = self.view.status()
        if status["mode"] != "rw" or status["unrecorded"]:
            raise AssertionError("it does not work: " + self.dm.status())

    # --- calls; before_NAME and after_NAME are not made to fail ---

    def do_table(self):
        self.dm.load(self.view.table())

    after_table = lambda self: self.dm.clear()

    def before_newview(self):
        """Of another length each time: a view that is left behind would refuse it."""
        self.other, self.length = "allocn", self.length + 8
        control().call(CREATE, self.other)

    def do_newview(self):
        Dm.load(self, [(0, self.length, "livechain", "allocn 8 0 2 0 %s 32 1 %s 16" % (
            self.disks[4], self.disks[5]))])

    def again_newview(self):
        """With a new device: the core does not make a half-made disk whole."""
        control().call(REMOVE, self.other)
        control().call(CREATE, self.other)
        self.do_newview()

    name = "allocn"

    def after_newview(self):
        control().call(REMOVE, self.other)

    def before_firstresume(self):
        self.before_newview()
        self.do_newview()

    def do_firstresume(self):
        control().call(SUSPEND, self.other)

    def again_firstresume(self):
        """A resume that fails takes the new table away: device-mapper's way."""
        self.do_newview()
        self.do_firstresume()

    after_firstresume = after_newview

    def before_lastremove(self):
        self.before_firstresume()
        self.do_firstresume()

    def do_lastremove(self):
        control().call(REMOVE, self.other)

    def do_suspend(self):
        self.dm.suspend()
        self.dm.resume()

    after_suspend = lambda self: self.dm.resume()

    def do_reload(self):
        self.dm.load(self.view.table())
        self.dm.suspend()
        self.dm.resume()

    after_reload = lambda self: self.dm.resume()

    def do_status(self):
        self.dm.status()
        self.dm.table()

    def do_requests(self):
        self.dm.message("requests")

    before_map = before_maps = lambda self: self.dm.message("forget 0 %d" % self.view.blocks())

    def do_map(self):
        self.dm.message("map %d 0 %d:d:0:0" % (self.generation(), self.view.blocks()))

    def do_maps(self):
        self.dm.message("map %d 0 1:z %d:d:0:%d" % (self.generation(), self.view.blocks() - 1, BLOCK))

    def generation(self):
        return self.view.status()["generation"]

    def after_map(self):
        self.dm.message("forget 0 %d" % self.view.blocks())
        self.view.generation = self.generation()
        self.view.load_all()

    after_maps = after_map

    before_forget = lambda self: self.disk.flush()

    def do_forget(self):
        self.dm.message("forget 0 %d" % self.view.blocks())

    after_forget = after_map

    # a second view, whose layers are new each time

    def before_describe(self):
        top, large = Image(4, self.disks[4], NR, 8), Image(5, self.disks[5], NR, 2048)
        self.side = View("allocs", [top], NR, 8, extra=[large])

    def after_describe(self):
        self.side.remove()
        self.side = None

    before_home, after_home = before_describe, after_describe

    def do_describe(self):
        self.side.dm.message(self.side.extra[0].describe())

    def do_home(self):
        top = self.side.chain[0]
        self.side.dm.message("home 4 " + " ".join(top.home(p) for p in range(4)))

    def do_grant(self):
        self.tops[1].end = 4 * NR       # nobody writes there
        self.view.grant(self.tops[1], nr=128, ranges=8)

    def do_reclaim(self):
        self.dm.message("reclaim 2")

    def do_commit(self):
        self.dm.message("commit")

    # jobs: made without a failure by before_, ended by after_

    def job(self, text, suspended=True):
        if suspended:
            self.dm.suspend()
        try:
            self.dm.message(text)
        finally:
            if suspended:
                self.dm.resume()

    def end_job(self):
        self.dm.resume()
        self.dm.message("job a cancel")
        self.view.wait_job("a")
        self.dm.message("job a dismiss")

    def ready(self, text):
        self.job(text)
        self.view.wait_job("a", "ready")

    def do_copy(self):
        self.dm.message("copy a 9 none paused")

    def do_filtered(self):
        self.dm.message("copy a 9 none zeroed skip 0 grain 8 paused")

    before_beforewrite = before_track = before_access = lambda self: self.dm.suspend()

    def do_beforewrite(self):
        self.dm.message("copy a 9 before-write grain 256 paused")

    def do_track(self):
        self.dm.message("copy a 9 track paused")

    def do_access(self):
        self.dm.message("copy a 9 before-write access break-snapshot")

    def do_promote(self):
        self.dm.message("promote a skip 2 paused")

    after_copy = after_filtered = after_beforewrite = after_track = after_access = after_promote = end_job

    before_verbs = do_copy

    def do_verbs(self):
        self.dm.message("job a pause")
        self.dm.message("job a speed 100")
        self.dm.message("job a speed 0")
        self.dm.message("job a resume")

    before_runcopy = do_copy

    def do_runcopy(self):
        self.dm.message("job a resume")

    def wait_end(self):
        job = self.view.wait_job("a")
        if job["result"] != "ok":
            raise AssertionError("the job: " + job["result"])
        self.end_job()

    def before_runpromote(self):
        self.remake()
        self.do_promote()

    do_runpromote = do_runcopy
    after_verbs = end_job
    after_runcopy = wait_end

    def after_runpromote(self):
        self.wait_end()
        if self.view.status()["layers"][0]["entries"]:
            raise AssertionError("blocks are left below: " + self.dm.status())
        self.remake()

    def before_mode(self):
        self.ready("copy a 9 track")

    def do_mode(self):
        self.dm.message("job a mode both")
        self.dm.message("job a mode track")

    after_mode = end_job

    def before_complete(self):
        self.ready("copy a 9 track")
        self.dm.suspend()

    def do_complete(self):
        self.dm.message("job a complete")

    after_complete = wait_end

    def before_dismiss(self):
        self.do_copy()
        self.dm.message("job a cancel")
        self.view.wait_job("a")

    def do_dismiss(self):
        self.dm.message("job a dismiss")

    def before_point(self):
        self.job("copy a 9 before-write access break-guest-write")
        control().call(CREATE, self.name)

    def do_point(self):
        Dm.load(self, [(0, NR, "livechain-point", "alloc a %s 0" % self.dest.path)])

    def again_point(self):
        control().call(REMOVE, self.name)
        control().call(CREATE, self.name)
        self.do_point()

    def after_point(self):
        control().call(REMOVE, self.name)
        self.end_job()

    def before_pointread(self):
        self.job("copy a 9 before-write access break-guest-write")
        at = self.fresh()
        self.disk.write(at, pattern(2, at, BLOCK))
        self.at = at
        self.point = Dm("allocp", [(0, NR, "livechain-point", "alloc a %s 0" % self.dest.path)])
        self.pdisk = Disk(self.point.path)

    def do_pointread(self):
        compare(self.pdisk.read(self.at - 8, BLOCK + 16), pattern(1, self.at - 8, BLOCK + 16), self.at - 8)

    def after_pointread(self):
        self.pdisk.close()
        self.point.remove()
        self.end_job()

    def do_remap(self):
        self.dm.message("remap %d %d if-layer 0 %d:d:0:%d" % (
            self.generation(), NR // BLOCK - 4, 2, NR - 4 * BLOCK))

    def before_remap(self):
        self.remake()           # a slice that has not been written is no array yet

    def before_activate(self):
        self.view.commit()
        self.disk.flush()
        self.dm.suspend()

    def do_activate(self):
        self.dm.message("activate 2")

    def after_activate(self):
        if self.view.status()["active"] == "2":
            self.dm.message("activate 1")
        self.dm.resume()

    # --- I/O, which must not fail but for the caller's own memory ---

    def fresh(self, nr=1):
        """The sector of nr blocks that have not been written yet."""
        if (self.next + nr + 2) * BLOCK > NR - 4 * BLOCK:
            self.remake()
        self.next += nr + 1
        return (self.next - nr) * BLOCK

    def remake(self):
        """The same view from its beginning; what is in hand goes on with it."""
        self.end()
        self.make()

    def before_write(self):
        self.at = self.fresh()

    before_whole = before_zero = before_write

    def do_write(self):
        self.disk.write(self.at + 8, pattern(2, self.at + 8, 8))

    def do_whole(self):
        self.disk.write(self.at, pattern(2, self.at, BLOCK), os.RWF_DSYNC)

    def do_zero(self):
        self.disk.zeroout(self.at, BLOCK)

    def before_bwrite(self):
        self.at = self.fresh()
        self.job("copy a 9 before-write paused")

    def before_awrite(self):
        self.at = self.fresh()
        self.job("copy a 9 before-write access break-guest-write")

    def before_both(self):
        self.at = self.fresh()
        self.ready("copy a 9 both")

    do_bwrite = do_awrite = do_both = do_write

    def before_bzero(self):
        self.before_both()

    do_bzero = do_zero
    after_bwrite = after_awrite = after_both = after_bzero = end_job

    def do_flush(self):
        self.disk.flush()

    def do_inplace(self):
        self.disk.write(8, pattern(2, 8, 8))

    def before_discard(self):
        self.at = self.fresh()
        self.do_whole()

    def do_discard(self):
        self.disk.discard(self.at, BLOCK)

    def do_read(self):
        compare(self.disk.read(NR - 1024, 600), pattern(1, NR - 1024, 600), NR - 1024)

    # --- the loop ---

    def part(self, when, name):
        getattr(self, when + "_" + name, lambda: None)()

    def nameless(self, name, error):
        """A disk whose name could not be allocated is -EINVAL to the device core; the target was content."""
        if name not in ("newview", "point") or error.errno != errno.EINVAL:
            return False
        log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace").stdout
        return "livechain: " not in log.split(self.mark)[-1]

    def state(self):
        s = (self.side or self.view).status()
        for k in SHIFTING:          # what a commit, or a job at work, changes by itself
            s.pop(k)
        for layer in s["layers"].values():
            layer.pop("clean")
        return s, {n: j["state"] for n, j in s.pop("jobs").items() if j["state"] == "paused"}

    def unchanged(self, name, was):
        """A refused message has changed nothing; a map may have come in part."""
        if name in IN_PART or not was:
            return
        if self.state() != was:
            raise AssertionError("a failed %s has changed %r into %r" % (name, was, self.state()))

    def call(self, name, n):
        """Makes it with its n-th allocation failing. Returns (allocations until its end, error)."""
        fn, error = getattr(self, "do_" + name), None
        self.nth.arm(n)
        try:
            fn()
        except OSError as e:
            error = e
        except MemoryError:
            error = OSError(errno.ENOMEM, "this program's own memory")
        left = self.nth.left()
        if error and left:
            raise error
        return n - left, error

    def once(self, name, n):
        """Returns (hit, failed)."""
        self.part("before", name)
        self.mark = "allocfail %s %d" % (name, n)
        put("/dev/kmsg", self.mark + "\n")
        was = None if name in IO else self.state()
        made, error = self.call(name, n)
        if error and error.errno != errno.ENOMEM and not self.nameless(name, error):
            raise AssertionError("%s:%d failed with %s" % (name, n, error))
        if error:
            self.unchanged(name, was)
            try:
                getattr(self, "again_" + name, getattr(self, "do_" + name))()
            except OSError as e:
                raise AssertionError("%s:%d again, with all memory: %s" % (name, n, e))
        self.part("after", name)
        if error or made < n or n % 8 == 0:
            self.probe()
        return made == n, bool(error)

    def all(self, name, rng, points, first=1):
        """Returns (allocations, those that failed, calls that failed)."""
        self.part("before", name)
        total, error = self.call(name, MANY)
        self.part("after", name)
        which = range(first, total + 1)
        if len(which) > points:
            which = sorted(list(which[:points // 2]) + rng.sample(which[points // 2:], points - points // 2))
        hits = failed = 0
        for n in which:
            hit, error = self.once(name, n)
            hits, failed = hits + hit, failed + error
        self.part("before", name)       # what has failed has left nothing that is in the way
        self.call(name, MANY)
        self.part("after", name)
        return total, hits, failed


IO = {"write", "whole", "zero", "bwrite", "awrite", "both", "bzero", "flush", "inplace", "discard", "read", "pointread"}
IN_PART = {"map", "maps"}
SHIFTING = "unrecorded", "parked"


def fill(path):
    """A RAM disk takes its memory at the first write: that may not fail for us."""
    disk = Disk(path)
    for at in range(0, disk.sectors(), 8192):
        disk.write(at, bytes(min(8192, disk.sectors() - at) * 512))


def queues(args):
    for path in args.disks:
        fill(path)
    q = Queues(30)
    q.start()
    out = subprocess.run([sys.executable, os.path.join(os.path.dirname(__file__), "krandom.py"), "--seed",
                          str(args.seed), "--seconds", str(args.seconds)] + args.disks,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    hits = q.end()
    print(out.stdout, end="")
    if out.returncode or hits < 10:
        raise AssertionError("random I/O with %d failing allocations, seed %d" % (hits, args.seed))
    return hits


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--points", type=int, default=40)
    p.add_argument("--only")
    p.add_argument("disks", nargs="+")
    args = p.parse_args()
    setup()
    names = [n[3:] for n in vars(Calls) if n.startswith("do_")]
    bad, nth, first = 0, Nth(), 1
    if args.only:
        names, _, n = args.only.partition(":")
        names, first = [names], int(n or 1)
    rng = random.Random(args.seed)
    for name in names:
        calls = Calls(args.disks, nth)
        try:
            calls.make()
            total, hits, failed = calls.all(name, rng, args.points, first)
            calls.end()
            print("pass %s: %d of %d allocations failed, and the call %d times" % (
                name, hits, total, failed), flush=True)
        except Exception as e:
            nth.left()
            print(traceback.format_exc(), flush=True)
            print("fail %s: %s" % (name, str(e).replace("\n", " ")), flush=True)
            bad += 1
            break               # what is left is not to be trusted
    if not args.only and not bad:
        try:
            print("pass work queues: %d allocations failed" % queues(args), flush=True)
        except Exception as e:
            print("fail work queues: %s" % e, flush=True)
            bad += 1
    sys.exit(1 if bad else 0)


main()
