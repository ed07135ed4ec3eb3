# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that works on a disk and notes what it did: the model of point.c.

Each block holds its sectors' numbers and the sequence number of its write, so a foreign
or an old sector is told from a good one. Writes are asynchronous, several in flight, never two on
one block; some are FUA. Zeros, discards and flushes come in between.
"""
import ctypes
import fcntl
import mmap
import os
import random
import struct

BLOCK = 4096
SLOT = 64 * BLOCK
DEPTH = 8
ALIGN = 16              # blocks: the largest grain that discards are rounded to
BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F
IO_SETUP, IO_DESTROY, IO_GETEVENTS, IO_SUBMIT = 206, 207, 208, 209
PWRITE, DSYNC = 1, 2

libc = ctypes.CDLL(None, use_errno=True)


def content(block, seq):
    return b"".join(struct.pack("<QQ", block * 8 + s, seq) * 32 for s in range(8))


def base_is_zero(block):
    return block // 16 % 4 == 3


def write_base(path, blocks):
    """The disk before the first write."""
    with open(path, "wb") as f:
        for b in range(blocks):
            f.write(bytes(BLOCK) if base_is_zero(b) else content(b, 0))
        f.flush()
        os.fsync(f.fileno())


class Aio:
    """Linux's own asynchronous I/O: with DSYNC a write is FUA, and no flush follows it."""

    def __init__(self):
        self.ctx = ctypes.c_ulong(0)
        self.call(IO_SETUP, DEPTH * 2, ctypes.byref(self.ctx))
        self.events = ctypes.create_string_buffer(32 * DEPTH)

    def call(self, nr, *args):
        r = libc.syscall(ctypes.c_long(nr), *args)
        if r < 0:
            raise OSError(ctypes.get_errno(), "aio call %d" % nr)
        return r

    def write(self, tag, fd, addr, length, off, fua):
        iocb = ctypes.create_string_buffer(struct.pack(
            "<QIIHhIQQqQII", tag, 0, DSYNC if fua else 0, PWRITE, 0, fd, addr, length, off, 0, 0, 0))
        ptr = ctypes.c_void_p(ctypes.addressof(iocb))
        self.call(IO_SUBMIT, self.ctx, ctypes.c_long(1), ctypes.byref(ptr))

    def wait(self, least):
        n = self.call(IO_GETEVENTS, self.ctx, ctypes.c_long(least), ctypes.c_long(DEPTH),
                      self.events, None)
        for i in range(n):
            tag, _, res, _ = struct.unpack_from("<QQqq", self.events, i * 32)
            yield tag, res


class Guest:
    """Runs in a process of its own. clock: shared memory, the number of events so far."""

    def __init__(self, disk, blocks, seed, model, mark, clock, pipe, answer):
        self.disk, self.blocks, self.mark, self.clock = disk, blocks, mark, clock
        self.pipe, self.answer = pipe, answer
        self.rng = random.Random(seed)
        self.model = open(model, "w")
        self.lines = self.seq = self.flushes = 0
        self.busy = {}      # sequence number: (slot, first, n, fua)
        self.slots = list(range(DEPTH))
        self.buf = mmap.mmap(-1, SLOT * DEPTH)
        self.addr = ctypes.addressof(ctypes.c_char.from_buffer(self.buf))
        self.aio = Aio()
        self.fd, self.raw = -1, False
        self.hot = [self.rng.randrange(blocks) for _ in range(12)]
        self.note("b %d" % blocks)
        for b in range(blocks):
            if base_is_zero(b):
                self.note("z %d 1" % b)

    def note(self, line):
        self.model.write(line + "\n")
        self.lines += 1
        struct.pack_into("<Q", self.clock, 0, self.lines)

    def place(self, longest, align=1):
        """A range that nothing in flight touches."""
        while True:
            n = self.rng.randint(1, longest) * align
            hot = self.rng.random() < .6
            b = self.rng.choice(self.hot) if hot else self.rng.randrange(self.blocks)
            b = min(b + self.rng.randint(0, 16), self.blocks - n) // align * align
            if not any(b < f + m and f < b + n for _, f, m, _ in self.busy.values()):
                return b, n
            self.reap(1)

    def write(self):
        first, n = self.place(self.rng.choice((1, 2, 4, 4, 32)))
        slot = self.slots.pop()
        self.seq += 1
        at = slot * SLOT
        for i in range(n):
            self.buf[at + i * BLOCK:at + (i + 1) * BLOCK] = content(first + i, self.seq)
        fua = self.rng.random() < .08
        self.busy[self.seq] = slot, first, n, fua
        self.note("w %d %d %d" % (self.seq, first, n))
        self.aio.write(self.seq, self.fd, self.addr + at, n * BLOCK, first * BLOCK, fua)

    def reap(self, least):
        for seq, res in self.aio.wait(least):
            slot, _, n, fua = self.busy.pop(seq)
            self.slots.append(slot)
            if res != n * BLOCK:
                raise OSError("write %d: result %d" % (seq, res))
            self.note("c %d" % seq)
            if fua:
                self.mark("u%d" % seq)

    def range_ioctl(self, code, kind, align):
        first, n = self.place(4 if align > 1 else 48, align)
        self.seq += 1
        self.note("%s %d %d %d" % (kind, self.seq, first, n))
        fcntl.ioctl(self.fd, code, struct.pack("QQ", first * BLOCK, n * BLOCK))
        self.note("c %d" % self.seq)

    def zero(self):
        self.range_ioctl(BLKZEROOUT, "o", 1)

    def discard(self):
        """Whole grains read as zeros afterwards, but in a raw image; of others nothing is known."""
        if self.rng.random() < .7:
            self.range_ioctl(BLKDISCARD, "d" if self.raw else "o", ALIGN)
        else:
            self.range_ioctl(BLKDISCARD, "d", 1)

    def flush(self):
        self.note("f %d" % self.flushes)
        os.fsync(self.fd)
        self.mark("m%d" % self.flushes)
        self.flushes += 1

    def step(self):
        p = self.rng.random()
        while not self.slots:
            self.reap(1)
        if p < .86:
            self.write()
        elif p < .91:
            self.zero()
        elif p < .95:
            self.discard()
        else:
            while self.busy:
                self.reap(1)

    def burst(self):
        for _ in range(self.rng.choice((1, 2, 4, 8))):
            self.step()
        if self.rng.random() < .5:
            while self.busy:
                self.reap(1)
        self.flush()

    def open(self):
        self.fd = os.open(self.disk, os.O_RDWR | os.O_DIRECT)

    def close(self):
        while self.busy:
            self.reap(1)
        self.flush()
        os.close(self.fd)
        self.fd = -1
        self.model.flush()

    def obey(self, word):
        if word == b"p":
            self.close()
        elif word == b"r":
            self.open()
        elif word == b"d":
            for _ in range(8):
                self.discard()
        elif word in b"01":
            self.raw = word == b"1"
        elif word == b"q":
            if self.fd >= 0:
                self.close()
        os.write(self.answer, word)
        return word != b"q"

    def run(self):
        """Works when it has the disk open; does what one letter in the pipe says."""
        while True:
            os.set_blocking(self.pipe, self.fd < 0)
            try:
                word = os.read(self.pipe, 1)
            except BlockingIOError:
                word = b""
            if word and not self.obey(word):
                return
            if self.fd >= 0:
                self.burst()
