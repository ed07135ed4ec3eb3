#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Power cuts on dm-log-writes: the images' device is logged while a guest works,
then replayed to many points, each of which must be a state that lost nothing.

    powercut.py work DISK LOGDEV SEED SECONDS STATE    writes DISK, marks what was flushed
    powercut.py replay LOG DEVICE POINTS SEED CHECK...
                                    replays LOG onto DEVICE; at each point runs CHECK with
                                    the point's number and the last mark

    powercut.py base RAW BLOCKS        the content before the first write
    powercut.py verify RAW STATE MARK  does RAW hold what mark MARK promised?

Each 4 KiB block holds its own number and the sequence number of its write, so a foreign
or an old block is told from a good one. Log format: drivers/md/dm-log-writes.c.
"""
import fcntl
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import time

BLOCK = 4096
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
BLKZEROOUT = 0x127F


def content(block, seq):
    return struct.pack("<QQ", block, seq) * (BLOCK // 16)


class Work:
    """A guest: writes, zeroes, flushes; remembers what each block may hold."""

    def __init__(self, disk, log, seed, state):
        self.fd = os.open(disk, os.O_RDWR | os.O_DIRECT)
        self.blocks = os.lseek(self.fd, 0, os.SEEK_END) // BLOCK
        self.rng = random.Random(seed)
        self.log, self.state = log, state
        self.buf = mmap.mmap(-1, 64 * BLOCK)
        self.seq = 0
        self.history = {}  # block -> [[seq, is_zero]...]
        self.marks = []    # seq that each mark covers
        self.hot = [self.rng.randrange(self.blocks) for _ in range(24)]

    def note(self, first, n, zero):
        for b in range(first, first + n):
            self.history.setdefault(b, []).append([self.seq, zero])

    def place(self, longest):
        n = self.rng.randint(1, longest)
        base = self.rng.choice(self.hot) if self.rng.random() < .6 else self.rng.randrange(self.blocks)
        first = max(0, min(base + self.rng.randint(0, 16), self.blocks - n))
        return first, n

    def write(self):
        first, n = self.place(32 if self.rng.random() < .2 else 4)
        self.seq += 1
        for i in range(n):
            self.buf[i * BLOCK:(i + 1) * BLOCK] = content(first + i, self.seq)
        self.note(first, n, False)
        os.pwritev(self.fd, [memoryview(self.buf)[:n * BLOCK]], first * BLOCK)

    def zero(self):
        first, n = self.place(64)
        self.seq += 1
        self.note(first, n, True)
        fcntl.ioctl(self.fd, BLKZEROOUT, struct.pack("QQ", first * BLOCK, n * BLOCK))

    def flush(self):
        covered = self.seq
        os.fsync(self.fd)
        subprocess.run(["dmsetup", "message", self.log, "0", "mark", "m%d" % len(self.marks)], check=True)
        self.marks.append(covered)

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not os.path.exists(self.state + ".stop"):
            for _ in range(self.rng.randint(1, 10)):
                p = self.rng.random()
                if p < .9:
                    self.write()
                else:
                    self.zero()
            self.flush()
            self.save()
        print("%d writes, %d flushes" % (self.seq, len(self.marks)))

    def save(self):
        with open(self.state + ".new", "w") as f:
            json.dump({"marks": self.marks, "history": self.history}, f)
        os.rename(self.state + ".new", self.state)


def verify(raw, state, mark):
    with open(state) as f:
        s = json.load(f)
    acked = s["marks"][mark] if mark >= 0 else 0
    bad = 0
    with open(raw, "rb") as f:
        block = -1
        while True:
            data = f.read(BLOCK)
            if not data:
                break
            block += 1
            hist = [[0, False]] + s["history"].get(str(block), [])
            last = max(h[0] for h in hist if h[0] <= acked)
            allowed = [h for h in hist if h[0] >= last]
            if not data.strip(b"\0") and block:
                good = any(h[1] for h in allowed)
                got = "zeros"
            else:
                got = struct.unpack("<QQ", data[:16])
                good = data == content(*got) and got[0] == block and any(
                    h[0] == got[1] and not h[1] for h in allowed)
            if not good:
                bad += 1
                if bad < 5:
                    print("block %d holds %s; flushed is %d, allowed %s" % (block, got, last, allowed[:4]))
    return bad


class Log:
    """The entries of a log device, in order."""

    def __init__(self, path):
        self.f = open(path, "rb")
        magic, _, self.n, self.ss = struct.unpack("<QQQI", self.f.read(28))
        if magic != MAGIC:
            sys.exit("%s is no log of dm-log-writes" % path)

    def entries(self):
        at = self.ss
        for _ in range(self.n):
            self.f.seek(at)
            sector, nr, flags, length = struct.unpack("<QQQQ", self.f.read(32))
            text = self.f.read(length).decode() if flags & MARK else None
            at += self.ss
            data = None
            if nr and not flags & (DISCARD | MARK):
                self.f.seek(at)
                data = self.f.read(nr * self.ss)
                at += nr * self.ss
            yield sector * self.ss, nr * self.ss, flags, data, text


def choose(log, points, seed):
    """Every kind of point: behind marks, at flushes and FUA writes, between (a torn batch)."""
    rng = random.Random(seed)
    kinds = {"mark": [], "flush": [], "between": []}
    started = False
    for i, (_, _, flags, _, text) in enumerate(log.entries()):
        started |= text == "start"
        if not started:
            continue
        kinds["mark" if flags & MARK else "flush" if flags & (FLUSH | FUA) else "between"].append(i)
    chosen = set()
    for _, all_of_kind in sorted(kinds.items()):
        chosen |= set(rng.sample(all_of_kind, min(len(all_of_kind), points // 3)))
    return chosen


def replay(log, device, points, seed, command):
    log = Log(log)
    chosen = choose(log, points, seed)
    deadline = time.monotonic() + float(os.environ.get("LIVECHAIN_REPLAY_SECONDS", "150"))
    out = os.open(device, os.O_RDWR)
    mark, failed, done, steps = -1, 0, 0, ""
    for i, (off, length, flags, data, text) in enumerate(log.entries()):
        if data:
            os.pwrite(out, data, off)
        elif flags & DISCARD:
            at, zeros = off, bytes(1 << 20)
            while at < off + length:
                at += os.pwrite(out, zeros[:off + length - at], at)
        if text and text[0] == "m" and text[1:].isdigit():
            mark = int(text[1:])
        elif text:
            steps = text
        if i not in chosen or (time.monotonic() > deadline and done >= 6):
            continue
        os.fsync(out)
        done += 1
        r = subprocess.run(command + [str(mark), steps])
        if r.returncode:
            failed += 1
            print("point: entry %d, flags %d, mark %d, step '%s': status %d" %
                  (i, flags, mark, steps, r.returncode), flush=True)
    print("%d points, %d failed, %d left out for time (%d entries, seed %d)" %
          (done, failed, len(chosen) - done, log.n, seed))
    return failed or done < min(6, len(chosen))


def main():
    verb, args = sys.argv[1], sys.argv[2:]
    if verb == "work":
        disk, log, seed, seconds, state = args
        w = Work(disk, log, int(seed), state)
        w.run(float(seconds))
    elif verb == "base":
        with open(args[0], "wb") as f:
            for b in range(int(args[1])):
                f.write(content(b, 0))
    elif verb == "verify":
        sys.exit(1 if verify(args[0], args[1], int(args[2])) else 0)
    elif verb == "replay":
        sys.exit(1 if replay(args[0], args[1], int(args[2]), int(args[3]), args[4:]) else 0)


main()
