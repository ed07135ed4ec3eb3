#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Uses memory so that it has to be reclaimed through a device; every byte is compared.

reclaim.py lock MIB            locks all available memory but MIB, until it is killed; prints "locked". Most of it
                               is the kernel's pool of huge pages, which is quick: who kills it empties that
reclaim.py files DIR MIB       writes MIB of files in DIR through the page cache, in ROUNDS over each
                               other, and reads them back from the device
reclaim.py anon MIB            uses MIB of anonymous memory at random for SECONDS, in and out of swap

Options: --seed N --rounds N --seconds S. Status 1: what was read is wrong. In the end it tells
how long it took, and what was swapped meanwhile.
"""
import argparse
import ctypes
import mmap
import os
import random
import struct
import sys
import time

MIB = 1 << 20
PAGE = 4096
PIECE = 256 << 10


def word_of(path, word):
    with open(path) as f:
        for line in f:
            parts = line.split()
            if parts[0].rstrip(":") == word:
                return int(parts[1])
    raise KeyError(word)


def available():
    return word_of("/proc/meminfo", "MemAvailable") // 1024


def take_huge_pages(mib):
    """All but @mib, as far as there are whole ones and the kernel knows them."""
    try:
        with open("/proc/sys/vm/nr_hugepages", "w") as f:
            f.write(str(max(0, available() - mib) // 2))
    except OSError:
        pass


def lock(args):
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/oom_score_adj", "w") as f:
        f.write("-1000")        # it is the others that must get along
    held = []
    take_huge_pages(args.mib + 64)
    while (left := available()) > args.mib + 2:
        m = mmap.mmap(-1, min(16, left - args.mib) * MIB)
        a = ctypes.addressof(ctypes.c_char.from_buffer(m))
        if libc.mlock(ctypes.c_void_p(a), ctypes.c_size_t(len(m))):
            print("mlock: " + os.strerror(ctypes.get_errno()))
            return 1
        held.append(m)
    print("locked", sum(map(len, held)) // MIB, "MiB", flush=True)
    while True:
        time.sleep(100)


def piece(seed, number, place):
    """PIECE bytes that tell where they belong."""
    return struct.pack("=QQQQ", seed, number, place, seed ^ number ^ place) * (PIECE // 32)


def files(args):
    rng = random.Random(args.seed)
    names = [os.path.join(args.dir, "file%d" % i) for i in range(4)]
    pieces = args.mib * MIB // PIECE // len(names)
    holds = {}
    for number in range(args.rounds):
        places = [(n, p) for n in range(len(names)) for p in range(pieces)]
        rng.shuffle(places)
        fds = [os.open(n, os.O_RDWR | os.O_CREAT) for n in names]
        for n, p in places:
            holds[n, p] = number
            if os.pwrite(fds[n], piece(args.seed, number, p * 8 + n), p * PIECE) != PIECE:
                raise OSError("short write")
        for fd in fds:
            os.fsync(fd)
        for n, fd in enumerate(fds):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for p in range(pieces):
                if os.pread(fd, PIECE, p * PIECE) != piece(args.seed, holds[n, p], p * 8 + n):
                    print("WRONG: %s at %d, round %d" % (names[n], p * PIECE, number))
                    return 1
            os.close(fd)
    return 0


def anon(args):
    rng, nr = random.Random(args.seed), args.mib * MIB // PAGE
    mem, holds, end, touched = mmap.mmap(-1, nr * PAGE), [0] * nr, time.monotonic() + args.seconds, 0
    order = list(range(nr))
    while time.monotonic() < end or touched < 2 * nr:
        if touched % nr == 0:
            rng.shuffle(order)
        for p in order[touched % nr:touched % nr + 64]:
            first, = struct.unpack_from("=Q", mem, p * PAGE)
            last, = struct.unpack_from("=Q", mem, p * PAGE + PAGE - 8)
            if (first, last) != (holds[p], holds[p]):
                print("WRONG: page %d holds %x, %x instead of %x" % (p, first, last, holds[p]))
                return 1
            holds[p] = p << 32 | rng.getrandbits(32)
            struct.pack_into("=Q", mem, p * PAGE, holds[p])
            struct.pack_into("=Q", mem, p * PAGE + PAGE - 8, holds[p])
        touched += len(order[touched % nr:touched % nr + 64])
    print("%d pages touched" % touched)
    return 0


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="verb", required=True)
    for verb in ("lock", "files", "anon"):
        s = sub.add_parser(verb)
        if verb == "files":
            s.add_argument("dir")
        s.add_argument("mib", type=int)
        s.add_argument("--seed", type=int, default=1)
        s.add_argument("--rounds", type=int, default=2)
        s.add_argument("--seconds", type=float, default=5)
    args = p.parse_args()
    begin = time.monotonic()
    before = [word_of("/proc/vmstat", w) for w in ("pswpin", "pswpout")]
    status = {"lock": lock, "files": files, "anon": anon}[args.verb](args)
    after = [word_of("/proc/vmstat", w) for w in ("pswpin", "pswpout")]
    print("%.1f s, %d pages swapped in, %d out" % (time.monotonic() - begin, after[0] - before[0],
                                                  after[1] - before[1]))
    return status


if __name__ == "__main__":
    sys.exit(main())
