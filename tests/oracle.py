#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of a disk, and random I/O on a device that is compared with it.

oracle.py churn DEVICE MODEL [--seconds S] [--until FILE] [--seed N] [--threads T] [--within MIB]
    random writes, reads, discards, write-zeroes and flushes on DEVICE; the file MODEL
    (its content before) gets the same; every read must return what the model says
oracle.py same DEVICE MODEL
    the whole device reads as the model
oracle.py pester SOCKET SOURCE TARGET [--jobs N]
    short backups of one node to the other, each with verbs until it is gone: no answer
    may tell of a job that has ended in one place and not in another

Status 0: all as it should be; 1: it tells what was not.
"""
import argparse
import json
import mmap
import os
import random
import re
import sys
import threading
import time

import dmio
import qmp

SECTOR = 512
MIB = 1 << 20


def say(text):
    print("# " + text, flush=True)


class Mismatch(Exception):
    pass


class Model:
    """What the disk must hold, as a file. All methods may be called by any thread."""

    def __init__(self, path):
        self.file = open(path, "r+b")
        self.size = os.fstat(self.file.fileno()).st_size
        self.data = mmap.mmap(self.file.fileno(), self.size)
        self.cond = threading.Condition()
        self.busy = {}          # op number: (sector, nr, allowed new data)
        self.window = None      # list of (sector, [allowed data]...) since freeze()
        self.next = 1
        self.held = False

    def sectors(self):
        return self.size // SECTOR

    def get(self, sector, nr):
        return self.data[sector * SECTOR:(sector + nr) * SECTOR]

    def begin(self, sector, nr, new, wait=True):
        """Reserves the range for one operation that may make it @new; returns its number."""
        with self.cond:
            while self.held or any(sector < s + n and s < sector + nr
                                   for s, n, _ in self.busy.values()):
                if not wait:
                    return 0
                self.cond.wait()
            number, self.next = self.next, self.next + 1
            self.busy[number] = (sector, nr, new)
            if self.window is not None and new is not None:
                self.window.append((sector, nr, new))
            return number

    def end(self, number, data):
        """The operation is over, the range holds @data now (None: what it held)."""
        with self.cond:
            sector, nr, _ = self.busy.pop(number)
            if data is not None:
                self.data[sector * SECTOR:(sector + nr) * SECTOR] = data
            self.cond.notify_all()

    def hold(self):
        """Waits until nothing is under way, and lets nothing begin until release()."""
        with self.cond:
            self.held = True
            while self.busy:
                self.cond.wait()

    def release(self):
        with self.cond:
            self.held = False
            self.cond.notify_all()

    def freeze(self):
        """A copy of now; until thaw() what happens is noted as possible too."""
        with self.cond:
            self.window = [op for op in self.busy.values() if op[2] is not None]
            return bytes(self.data)

    def thaw(self):
        with self.cond:
            window, self.window = self.window, None
            return window


def check(path, frozen, window, what):
    """The file @path holds @frozen, or in places what an operation of @window wrote there."""
    allowed = {}
    for sector, nr, new in window:
        for i in range(nr):
            allowed.setdefault(sector + i, []).append(new[i * SECTOR:(i + 1) * SECTOR])
    with open(path, "rb") as f:
        pos = 0
        while pos < len(frozen):
            got, want = f.read(MIB), frozen[pos:pos + MIB]
            if got != want:
                check_sectors(got, want, pos // SECTOR, allowed, what)
            pos += MIB
        if f.read(1):
            raise Mismatch("%s is longer than the disk" % what)


def check_sectors(got, want, first, allowed, what):
    if len(got) != len(want):
        raise Mismatch("%s is shorter than the disk" % what)
    for i in range(0, len(want), SECTOR):
        a, b = got[i:i + SECTOR], want[i:i + SECTOR]
        sector = first + i // SECTOR
        if a != b and a not in allowed.get(sector, []):
            raise Mismatch("%s, sector %d: %s instead of %s" % (
                what, sector, dmio.explain(a), dmio.explain(b)))


class Churn(threading.Thread):
    """One stream of random operations."""

    VERBS = ["write"] * 10 + ["read"] * 6 + ["discard", "zeroout", "flush", "flush", "rewrite"]

    def __init__(self, device, model, rng, stop, within=None):
        super().__init__(daemon=True)
        self.disk = dmio.Disk(device)
        self.within = within
        self.model, self.rng, self.stop = model, rng, stop
        self.counts, self.error, self.longest = {}, None, 0

    def pick(self):
        rng, total = self.rng, self.model.sectors()
        total = min(self.within or total, total)
        nr = min(total, max(1, int(2 ** rng.uniform(0, 10.5))))
        # Half of it in a hot tenth of the disk, so that places are met again.
        span = total // 10 if rng.random() < 0.5 else total
        sector = rng.randrange(max(1, min(span, total - nr + 1)))
        if rng.random() < 0.7:
            align = rng.choice([8, 8, 8, 128])
            sector = sector // align * align
            nr = max(align, nr // align * align)
        return sector, min(nr, total - sector)

    def run(self):
        try:
            while not self.stop.is_set():
                begin = time.monotonic()
                self.one()
                self.longest = max(self.longest, time.monotonic() - begin)
        except Exception as e:      # whatever it is: the test ends, and says it
            self.error = e
            self.stop.set()
        finally:
            self.disk.close()

    def one(self):
        verb = self.rng.choice(self.VERBS)
        self.counts[verb] = self.counts.get(verb, 0) + 1
        if verb == "flush":
            self.disk.flush()
            return
        sector, nr = self.pick()
        getattr(self, verb)(sector, nr)

    def write(self, sector, nr):
        data = dmio.pattern(self.rng.getrandbits(40), sector, nr)
        self.change(sector, nr, data, lambda: self.disk.write(
            sector, data, os.RWF_DSYNC if self.rng.random() < 0.1 else 0))

    def rewrite(self, sector, nr):
        """Zeros as data."""
        data = bytes(nr * SECTOR)
        self.change(sector, nr, data, lambda: self.disk.write(sector, data))

    def zeroout(self, sector, nr):
        self.change(sector, nr, bytes(nr * SECTOR), lambda: self.disk.zeroout(sector, nr))

    def change(self, sector, nr, data, act):
        number = self.model.begin(sector, nr, data)
        try:
            act()
        except OSError:
            self.model.end(number, None)
            raise
        self.model.end(number, data)

    def read(self, sector, nr):
        number = self.model.begin(sector, nr, None)
        try:
            got, want = self.disk.read(sector, nr), self.model.get(sector, nr)
            if got != want:
                check_sectors(got, want, sector, {}, "read of %d+%d" % (sector, nr))
        finally:
            self.model.end(number, None)

    def discard(self, sector, nr):
        """Each sector is as it was or zero; from then on it stays that."""
        number = self.model.begin(sector, nr, bytes(nr * SECTOR))
        got = None
        try:
            self.disk.discard(sector, nr)
            got, want = self.disk.read(sector, nr), self.model.get(sector, nr)
            zero = bytes(SECTOR)
            check_sectors(got, want, sector, {s: [zero] for s in range(sector, sector + nr)},
                          "discarded %d+%d" % (sector, nr))
        finally:
            self.model.end(number, got)


class Timed(Churn):
    """Counts its operations; the longest, and since when the one under way is (0: none)."""
    NAP = 0.01

    def __init__(self, guest, rng):
        super().__init__(guest.device, guest.model, rng, guest.stop)
        self.ops, self.longest, self.since = 0, 0.0, 0.0

    def one(self):
        self.since = time.monotonic()
        super().one()
        self.longest = max(self.longest, time.monotonic() - self.since)
        self.since = 0.0
        self.ops += 1
        time.sleep(self.NAP)


class Load:
    """Several streams, until stopped."""

    def __init__(self, device, model, seed, threads, within=None):
        self.stop = threading.Event()
        self.streams = [Churn(device, model, random.Random(seed * 1000 + i), self.stop, within)
                        for i in range(threads)]
        for s in self.streams:
            s.start()
        say("under way")

    def failed(self):
        return self.stop.is_set()

    def end(self):
        """Raises what a stream ran into."""
        self.stop.set()
        for s in self.streams:
            s.join(300)
            if s.is_alive():
                raise Mismatch("an operation did not end within 300 s")
        total = {}
        for s in self.streams:
            for k, v in s.counts.items():
                total[k] = total.get(k, 0) + v
        say("operations: " + ", ".join("%s %d" % kv for kv in sorted(total.items())))
        say("longest operation: %d ms" % (1000 * max(s.longest for s in self.streams)))
        for s in self.streams:
            if s.error:
                raise s.error


def same(device, model, what="the device"):
    disk = dmio.Disk(device)
    total = disk.sectors()
    if total != model.sectors():
        raise Mismatch("%s has %d sectors, the model %d" % (what, total, model.sectors()))
    for sector in range(0, total, 2048):
        nr = min(2048, total - sector)
        got, want = disk.read(sector, nr), model.get(sector, nr)
        if got != want:
            check_sectors(got, want, sector, {}, what)
    disk.close()


def churn(args):
    model = Model(args.model)
    load = Load(args.device, model, args.seed, args.threads, args.within * MIB // SECTOR)
    end = time.monotonic() + args.seconds
    while time.monotonic() < end and not (args.until and os.path.exists(args.until)):
        if load.stop.wait(0.2):
            break
    load.end()
    same(args.device, model)


# What a verb may meet when the job ends meanwhile, in QEMU's words.
LATE = re.compile(r"[Jj]ob (\S+ )?not found$|Job '\S+' in state '\S+' cannot accept command verb"
                  r"|^Can't resume a job that was not paused$|^Job is already paused$")


def pester(args):
    """Short backups, each with verbs all its life: none may meet a job that has half ended."""
    client = qmp.Client(args.socket, lambda e: None)
    client.negotiate()

    def command(name, **arguments):
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        return client.command(json.dumps({"execute": name, "arguments": arguments}))

    counts = {"taken": 0, "late": 0}
    for job in ("p%d" % i for i in range(args.jobs)):
        reply = command("blockdev-backup", device=args.source, target=args.target, sync="full", job_id=job)
        if "error" in reply:
            raise Mismatch("%s does not start: %s" % (job, reply["error"]["desc"]))
        while True:
            desc = ""
            for verb, more in (("block-job-set-speed", {"device": job, "speed": 0}), ("job-pause", {"id": job}),
                               ("job-resume", {"id": job})):
                desc = command(verb, **more).get("error", {}).get("desc", "")
                counts["late" if desc else "taken"] += 1
                if desc and not LATE.search(desc):
                    raise Mismatch("%s of %s: %s" % (verb, job, desc))
            if desc == "Job not found":
                break
    say("%d verbs of %d jobs were taken, %d came late" % (counts["taken"], args.jobs, counts["late"]))


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="verb", required=True)
    for verb, words in (("churn", "device model"), ("same", "device model"),
                        ("pester", "socket source target")):
        s = sub.add_parser(verb)
        for w in words.split():
            s.add_argument(w)
        s.add_argument("--seconds", type=float, default=10)
        s.add_argument("--until", metavar="FILE", help="end when FILE appears")
        s.add_argument("--seed", type=int, default=1)
        s.add_argument("--threads", type=int, default=4)
        s.add_argument("--within", metavar="MIB", type=int, default=0, help="touch only the first so many")
        s.add_argument("--jobs", type=int, default=60)
    args = p.parse_args()
    try:
        if args.verb == "churn":
            churn(args)
        elif args.verb == "same":
            same(args.device, Model(args.model))
        else:
            pester(args)
    except (Mismatch, AssertionError, OSError, ConnectionError) as e:
        say("WRONG: %s: %s" % (type(e).__name__, e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
