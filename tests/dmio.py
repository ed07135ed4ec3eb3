# SPDX-License-Identifier: GPL-2.0-or-later
"""Device-mapper by ioctl, and direct I/O on block devices.

For tests that do too much for a dmsetup process each time. Devices are made without
udev: the node is made here.
"""
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import threading

HEAD = struct.Struct("=3I I I I i I I I Q 128s 129s 7s")
SPEC = struct.Struct("=Q Q i I 16s")
CREATE, REMOVE, RENAME, SUSPEND, STATUS, LOAD, CLEAR, TABLE_STATUS, MSG = \
    3, 4, 5, 6, 7, 9, 10, 12, 14
READONLY, SUSPENDED, STATUS_TABLE, BUFFER_FULL = 1, 2, 16, 256
SKIP_LOCKFS, NOFLUSH, INACTIVE, DATA_OUT = 1 << 10, 1 << 11, 1 << 12, 1 << 16

BLKDISCARD, BLKZEROOUT, BLKGETSIZE64 = 0x1277, 0x127f, 0x80081272

libc = ctypes.CDLL(None, use_errno=True)
memory = threading.local()


class Control:
    """/dev/mapper/control."""

    def __init__(self):
        if not os.path.exists("/dev/mapper/control"):
            os.makedirs("/dev/mapper", exist_ok=True)
            with open("/sys/class/misc/device-mapper/dev") as f:
                major, minor = map(int, f.read().split(":"))
            os.mknod("/dev/mapper/control", 0o600 | stat.S_IFCHR, os.makedev(major, minor))
        self.fd = os.open("/dev/mapper/control", os.O_RDWR)

    def call(self, cmd, name, flags=0, data=b"", targets=0, size=65536):
        """Return (flags, dev, event number, data) of the answer."""
        while True:
            start = HEAD.size
            total = max(start + len(data), size)
            buf = bytearray(total)
            HEAD.pack_into(buf, 0, 4, 0, 0, total, start, targets, 0, flags, 0, 0, 0,
                           name.encode(), b"", b"")
            buf[start:start + len(data)] = data
            code = (3 << 30) | (HEAD.size << 16) | (0xfd << 8) | cmd
            # not fcntl.ioctl: with so large a buffer that one keeps other threads waiting
            mem = (ctypes.c_char * total).from_buffer(buf)
            if libc.ioctl(self.fd, ctypes.c_ulong(code), mem) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "dm ioctl %d of %s" % (cmd, name))
            h = HEAD.unpack_from(buf)
            if not h[7] & BUFFER_FULL:
                return h[7], h[10], h[8], bytes(buf[h[4]:h[3]])
            size = total * 2


_control = None


def control():
    global _control
    if not _control:
        _control = Control()
    return _control


class Dm:
    """One mapped device. table: list of (start, length, type, parameters)."""

    def __init__(self, name, table, readonly=False):
        self.name, self.path = name, "/dev/mapper/" + name
        _, dev, _, _ = control().call(CREATE, name)
        try:
            self.load(table, readonly)
            self.resume()
        except OSError:
            control().call(REMOVE, name)
            raise
        if os.path.lexists(self.path):
            os.unlink(self.path)
        # the kernel's "huge" encoding
        major, minor = (dev & 0xfff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xfff00)
        os.mknod(self.path, 0o600 | stat.S_IFBLK, os.makedev(major, minor))

    def load(self, table, readonly=False):
        data = b""
        for start, length, kind, params in table:
            text = params.encode() + b"\0"
            text += b"\0" * (-len(text) % 8)
            data += SPEC.pack(start, length, 0, SPEC.size + len(text), kind.encode()) + text
        control().call(LOAD, self.name, READONLY if readonly else 0, data, len(table))

    def suspend(self, noflush=True):
        control().call(SUSPEND, self.name,
                       SUSPENDED | SKIP_LOCKFS | (NOFLUSH if noflush else 0))

    def resume(self):
        control().call(SUSPEND, self.name, 0)

    def clear(self):
        control().call(CLEAR, self.name)

    def remove(self):
        control().call(REMOVE, self.name)
        os.unlink(self.path)

    def message(self, text, sector=0):
        flags, _, _, data = control().call(MSG, self.name, 0,
                                           struct.pack("=Q", sector) + text.encode() + b"\0")
        return data.split(b"\0")[0].decode() if flags & DATA_OUT else ""

    def _status(self, flags):
        _, _, _, data = control().call(TABLE_STATUS, self.name, flags)
        return data[SPEC.size:].split(b"\0")[0].decode()

    def status(self):
        return self._status(0)

    def table(self):
        return self._status(STATUS_TABLE)

    def events(self):
        return control().call(STATUS, self.name)[2]


class Disk:
    """Direct I/O on a block device, in sectors."""

    def __init__(self, path, flags=0):
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT | flags)

    @property
    def buf(self):
        """This thread's memory for I/O: another thread's may be in use by the kernel."""
        if not hasattr(memory, "buf"):
            memory.buf = mmap.mmap(-1, 4 << 20)
        return memory.buf

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __del__(self):
        self.close()

    def sectors(self):
        buf = bytearray(8)
        fcntl.ioctl(self.fd, BLKGETSIZE64, buf)
        return struct.unpack("=Q", buf)[0] // 512

    def read(self, sector, nr):
        out, buf = [], self.buf
        while nr:
            n = min(nr, len(buf) // 512)
            view = memoryview(buf)[:n * 512]
            got = os.preadv(self.fd, [view], sector * 512)
            if got != n * 512:
                raise OSError(errno.EIO, "short read of %s" % self.path)
            out.append(bytes(view))
            sector, nr = sector + n, nr - n
        return b"".join(out)

    def write(self, sector, data, flags=0):
        pos, buf = 0, self.buf
        while pos < len(data):
            n = min(len(data) - pos, len(buf))
            buf[:n] = data[pos:pos + n]
            got = os.pwritev(self.fd, [memoryview(buf)[:n]], sector * 512 + pos, flags)
            if got != n:
                raise OSError(errno.EIO, "short write to %s" % self.path)
            pos += n

    def flush(self):
        os.fsync(self.fd)

    def discard(self, sector, nr):
        fcntl.ioctl(self.fd, BLKDISCARD, struct.pack("=QQ", sector * 512, nr * 512))

    def zeroout(self, sector, nr):
        fcntl.ioctl(self.fd, BLKZEROOUT, struct.pack("=QQ", sector * 512, nr * 512))


def pattern(seed, sector, nr):
    """Bytes that tell which seed and which sector they are."""
    return b"".join(struct.pack("<QQ", seed, s) * 32 for s in range(sector, sector + nr))


def explain(data):
    """What a sector's first bytes say, for messages."""
    if not any(data[:512]):
        return "zeros"
    seed, sector = struct.unpack("<QQ", data[:16])
    if data[:512] == struct.pack("<QQ", seed, sector) * 32:
        return "pattern %d of sector %d" % (seed, sector)
    magic, kind, nr, rand, offset, sec, nsec, _, number = struct.unpack("<HHIQQIIHH", data[:36])
    if magic == 0xacca:
        return "fio's write %d at %d.%09d of %d+%d, kind %d, %x" % (number, sec, nsec, offset, nr, kind, rand)
    return "bytes %s..." % data[:16].hex()


def compare(got, want, sector):
    """Raise AssertionError at the first sector that differs."""
    if got == want:
        return
    for i in range(0, len(want), 512):
        if got[i:i + 512] != want[i:i + 512]:
            raise AssertionError("sector %d: %s instead of %s" % (
                sector + i // 512, explain(got[i:i + 512]), explain(want[i:i + 512])))
    raise AssertionError("length %d instead of %d" % (len(got), len(want)))
