# SPDX-License-Identifier: GPL-2.0-or-later
"""Logs of what was written, and what a power cut may leave of it.

Two kinds of log, read the same way: dm-log-writes (one device, one write cache; a write is
logged once a flush covers it) and disks.c (several, each with a cache of its own).
"""
import mmap
import os
import random
import struct

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
MAGIC = 0x6A736677736872
SECTOR = 512
NEAR = 12               # entries


class Entry:
    __slots__ = ("disk", "off", "len", "flags", "at", "text")

    def __init__(self, disk, off, length, flags, at, text):
        self.disk, self.off, self.len, self.flags, self.at, self.text = \
            disk, off, length, flags, at, text


class Log:
    """entries: all of them; data(e): what was written."""

    def __init__(self, path):
        self.file = open(path, "rb")
        size = os.fstat(self.file.fileno()).st_size
        self.map = mmap.mmap(self.file.fileno(), size, prot=mmap.PROT_READ)
        self.view = memoryview(self.map)
        magic, = struct.unpack_from("<Q", self.map)
        self.entries = list(self.parse_dm() if magic == MAGIC else self.parse_disks(size))

    def parse_dm(self):
        _, _, n, sector = struct.unpack_from("<QQQI", self.map)
        at = sector
        for _ in range(n):
            first, nr, flags, length = struct.unpack_from("<QQQQ", self.map, at)
            text = self.map[at + 32:at + 32 + length].decode() if flags & MARK else None
            at += sector
            yield Entry(0, first * sector, nr * sector, flags, at, text)
            if nr and not flags & (DISCARD | MARK):
                at += nr * sector

    def parse_disks(self, size):
        at = 0
        while at < size:
            off, length, disk, flags = struct.unpack_from("<QQII", self.map, at)
            at += 24
            text = self.map[at:at + length].decode() if flags & MARK else None
            yield Entry(disk, off, 0 if flags & MARK else length, flags, at, text)
            if not flags & DISCARD:
                at += length

    def data(self, e):
        if e.flags & DISCARD:
            return bytes(e.len)
        return self.view[e.at:e.at + e.len]


def dm_log_end(path):
    """How much of a log device dm-log-writes has used."""
    with open(path, "rb", buffering=0) as f:
        _, _, n, sector = struct.unpack("<QQQI", f.read(28))
        at = sector
        for _ in range(n):
            f.seek(at)
            _, nr, flags, _ = struct.unpack("<QQQQ", f.read(32))
            at += sector * (1 + (0 if flags & (DISCARD | MARK) else nr))
    return at


class Buffer:
    """A file that is memory too."""

    def __init__(self, path, size):
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(fd, size)
        self.mem = mmap.mmap(fd, size)
        os.close(fd)


class Cache(Buffer):
    """A disk: what is durable lies in the file; what is not may be lost, in any part.

    cut() puts a choice of the latter into the file, heal() takes it out again.
    """

    def __init__(self, path, size, log, atom):
        """atom: what the disk writes whole or not at all."""
        super().__init__(path, size)
        self.log, self.atom = log, atom
        self.pending = []
        self.saved = []
        self.content = 0    # a number that tells what the file holds
        self.durable = 0

    def put(self, off, data):
        self.mem[off:off + len(data)] = data

    def settle(self, entries):
        for e in entries:
            self.put(e.off, self.log.data(e))
        if entries:
            self.durable += 1

    def apply(self, e, lose=False):
        if e.flags & FLUSH and not lose:
            self.settle(self.pending)
            self.pending = []
        if not e.len:
            return
        if not e.flags & FUA:
            self.pending.append(e)
            return
        # The cache wrote back what lies below, then this.
        below = [p for p in self.pending if p.off < e.off + e.len and e.off < p.off + p.len]
        if below:
            self.pending = [p for p in self.pending if p not in below]
        self.settle(below + [e])

    def cut(self, kind, rng):
        """kind: all, none, or some of what the cache held has reached the disk."""
        self.content = ("d", self.durable)
        if kind == "none" or not self.pending:
            return
        if kind == "all":
            chosen = self.pending
            self.content = ("a", self.durable, len(chosen))
        else:
            share = rng.choice((.1, .5, .9))
            chosen = [e for e in self.pending if rng.random() < share]
            self.content = ("s", self.durable, rng.random())
        for e in chosen:
            data = self.log.data(e)
            first, last = 0, e.len // self.atom
            if kind == "some" and last > 1 and rng.random() < .2:
                first, last = sorted(rng.sample(range(last + 1), 2))
                data = data[first * self.atom:last * self.atom]
            at, piece = e.off + first * self.atom, data
            self.saved.append((at, self.mem[at:at + len(piece)]))
            self.put(at, piece)

    def heal(self):
        for at, data in reversed(self.saved):
            self.put(at, data)
        self.saved = []


def by_world(log, points, worlds):
    """The points in which an image is being made or put on top or leaves the chain: a list for each time,
    and one more for what follows a header's write, where headers lie at a disk's start."""
    found, current = {}, None
    marks = iter([(i, int(e.text[1:])) for i, e in enumerate(log.entries)
                  if e.text and e.text[0] == "w" and e.text[1:].isdigit()] + [(len(log.entries), None)])
    at, after = next(marks)
    for p in points:
        while at is not None and at <= p[0]:
            current = after
            at, after = next(marks, (None, None))
        if current is not None and (worlds[current].get("making") or worlds[current].get("alt")):
            found.setdefault(current, []).append(p)
            if any(e.len and e.off < 4096 and e.disk for e in log.entries[max(p[0] - NEAR, 0):p[0] + 1]):
                found.setdefault((current, "header"), []).append(p)
    return list(found.values())


def choose(log, wanted, seed, worlds):
    """[(index, kind, draw)...]: cuts behind entry number index, in order.

    Half of them behind marks, flushes and FUA writes, with nothing left of the caches; then any place,
    with all or some. Half of either where by_world() says that much happens, the times alike: they are short.
    """
    rng = random.Random(seed)
    begin = next((i for i, e in enumerate(log.entries) if e.text == "start"), 0)
    firm, any_place, pending = [], [], 0
    for i, e in enumerate(log.entries[begin:], begin):
        if e.flags & MARK:
            firm.append((i, "none"))
            continue
        if e.flags & (FLUSH | FUA):
            nxt = log.entries[i + 1] if i + 1 < len(log.entries) else None
            if pending and not (nxt and nxt.flags & MARK):
                firm.append((i, "none"))
            pending = 0 if e.flags & FLUSH else pending
        pending += 1 if e.len else 0
        if e.len and not e.flags & FUA:
            any_place.append((i,))

    def pick(points, hot):
        return rng.choice(rng.choice(hot) if hot and rng.random() < .5 else points)

    hot = by_world(log, firm, worlds)
    points, tries = set(), 0
    while len(points) < min(wanted // 2, len(firm)) and tries < 4 * wanted:
        points.add(pick(firm, hot) + (0,))
        tries += 1
    hot = by_world(log, any_place, worlds)
    while len(points) < wanted and any_place:
        kind = rng.choice(("all", "some", "some", "some"))
        points.add((pick(any_place, hot)[0], kind, 0 if kind == "all" else len(points)))
    return sorted(points)
