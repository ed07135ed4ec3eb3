# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks whose N-th request fails (tests/crash/disks.c), and a model of a guest's disk on them."""
import mmap
import os
import signal
import struct
import subprocess
import time
import traceback

from dmio import Disk, explain

READ, WRITE, FLUSH = 1, 2, 4
HALF, ALL, LOSE = 1, 2, 4
KINDS = {READ: "read", WRITE: "write", FLUSH: "flush"}
FAULTS, HIT, TOLD = struct.Struct("=8I"), struct.Struct("=2I2Q"), 1024
SECTOR = 512


class Content:
    """What a disk holds, behind its back: no request of the kernel's. As dmio.Disk."""

    def __init__(self, path):
        with open(path, "r+b") as f:
            self.mem = mmap.mmap(f.fileno(), 0)

    def sectors(self):
        return len(self.mem) // SECTOR

    def read(self, sector, nr):
        return self.mem[sector * SECTOR:(sector + nr) * SECTOR]

    def write(self, sector, data):
        self.mem[sector * SECTOR:sector * SECTOR + len(data)] = data

    def close(self):
        pass


class BadDisks:
    """/dev/nbd0 and on, of so many MiB each. Content is not kept."""

    def __init__(self, program, folder, sizes):
        self.folder, self.paths, self.content = folder, [], []
        for i, mib in enumerate(sizes):
            path = os.path.join(folder, "nbd%d" % i)
            with open(path, "wb") as f:
                f.truncate(mib << 20)
            self.paths.append("/dev/nbd%d" % i)
            self.content.append(Content(path))
        path = os.path.join(folder, "faults")
        with open(path, "wb") as f:
            f.write(bytes(FAULTS.size + TOLD * HIT.size))
        with open(path, "r+b") as f:
            self.mem = mmap.mmap(f.fileno(), 0)
        self.server = subprocess.Popen([program, "-f", path, os.path.join(folder, "control"), "-",
                                        folder] + [str(mib) for mib in sizes],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 240
        while not all(self.ready(p, mib) for p, mib in zip(self.paths, sizes)):
            if time.monotonic() > end:
                raise TimeoutError("the disks do not come")
            time.sleep(0.05)
        self.flushers = [Disk(p) for p in self.paths]

    @staticmethod
    def ready(path, mib):
        try:
            with open(path, "rb", buffering=0) as f:
                return f.seek(0, os.SEEK_END) == mib << 20 and not f.seek(0) and len(f.read(512))
        except OSError:
            return False

    def arm(self, first, count, how=0, disks=0xffffffff, kinds=7, below=0):
        """From now on, of these requests on these disks (masks), below this sector if it is not 0,
        number first and on fail."""
        self.mem[:FAULTS.size] = FAULTS.pack(0, 0, disks, kinds, first, count, how, below)

    def heal(self):
        self.mem[16:24] = bytes(8)

    def seen(self):
        """How many requests were counted."""
        return FAULTS.unpack_from(self.mem)[0]

    def hits(self):
        """How many have failed."""
        return FAULTS.unpack_from(self.mem)[1]

    def failed(self, first=0):
        """Those that have failed, from the first-th on: (disk, kind, offset, length)."""
        return [HIT.unpack_from(self.mem, FAULTS.size + i * HIT.size)
                for i in range(first, min(self.hits(), TOLD))]

    def tell(self):
        """In words."""
        said = ["a %s of disk %d, %d+%d" % (KINDS[kind], disk, off // SECTOR, length // SECTOR)
                for disk, kind, off, length in self.failed()[:6]]
        return "what failed (%d of %d): %s" % (self.hits(), self.seen(), "; ".join(said) or "nothing")

    def settle(self):
        """What the content is now is durable. No faults."""
        self.arm(0, 0)
        for disk in self.flushers:
            disk.flush()

    def end(self):
        for disk in self.flushers:
            disk.close()
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(120)


class Wrong(Exception):
    """What may not be."""


def attempts(points, end, begin, bad):
    """Each of @points (its last three: number, count, how) until @end: begin(point) makes a
    scenario, whose whole() is the test and clear() what is done after it went wrong. Yields
    the scenario and whether it went well; five that did not are enough."""
    wrong = 0
    for point in points:
        if time.monotonic() > end or wrong == 5:
            return
        s = begin(point)
        try:
            s.whole(*point[-3:])
            good = True
        except Exception as e:      # whatever it is: it is told, and the next point is tried
            good = False
            wrong += 1
            print("wrong %s: %s" % (":".join(map(str, point)),
                                    e if isinstance(e, (Wrong, AssertionError)) else
                                    traceback.format_exc().replace("\n", " | ")), flush=True)
            print("    %s; %s" % ("; ".join(s.log), bad.tell()), flush=True)
            s.clear()
        yield s, good


class Model:
    """What each sector of a disk may hold.

    latest: what was written last; past: what it held since the last good flush, before that;
    maybe: after an error, what else may be there than `latest`; lost: a disk below has lost what
    was not flushed there, so these may read as anything until they are written again.
    """

    def __init__(self, data):
        self.latest, self.past, self.maybe, self.lost = bytearray(data), {}, {}, set()

    def get(self, s):
        return bytes(self.latest[s * SECTOR:(s + 1) * SECTOR])

    def wrote(self, first, data):
        for i in range(0, len(data), SECTOR):
            s = first + i // SECTOR
            self.past.setdefault(s, set()).update({self.get(s)} | self.maybe.pop(s, set()))
            self.lost.discard(s)
        self.latest[first * SECTOR:first * SECTOR + len(data)] = data

    def may_have_written(self, first, data):
        """A write that failed: sector by sector the old or the new content."""
        for i in range(0, len(data), SECTOR):
            s = first + i // SECTOR
            self.maybe.setdefault(s, set()).add(data[i:i + SECTOR])
            self.past.setdefault(s, set()).add(data[i:i + SECTOR])

    def flushed(self):
        self.past = {s: set(m) for s, m in self.maybe.items()}

    def lose(self, grain):
        """A write that allocates copies what is around it, to a multiple of @grain sectors: lost, too."""
        for g in {s // grain for s in self.past}:
            self.lost |= set(range(g * grain, (g + 1) * grain))

    def read(self, first, data, what):
        """The disk says so: that is what it holds."""
        same = data == self.latest[first * SECTOR:first * SECTOR + len(data)]
        for i in range(0, 0 if same else len(data), SECTOR):
            s, got = first + i // SECTOR, data[i:i + SECTOR]
            if got == self.get(s):
                continue
            if s not in self.lost and got not in self.maybe.get(s, ()):
                raise Wrong("%s: sector %d reads as %s, not as %s%s" % (
                    what, s, explain(got), explain(self.get(s)),
                    "".join(" or " + explain(m) for m in self.maybe.get(s, ()))))
            self.past.setdefault(s, set()).add(self.get(s))
            self.latest[s * SECTOR:(s + 1) * SECTOR] = got
        # a sector that has been read keeps what it is
        for s in range(first, first + len(data) // SECTOR):
            self.maybe.pop(s, None)

    def durable(self, data, what):
        """What the images hold by themselves: nothing older than the last flush, nothing strange."""
        for i in range(0, len(data), SECTOR):
            s, got = i // SECTOR, data[i:i + SECTOR]
            may = {self.get(s)} | self.past.get(s, set()) | self.maybe.get(s, set())
            if got not in may:
                raise Wrong("%s: sector %d holds %s, not %s" % (
                    what, s, explain(got), " or ".join(explain(m) for m in may)))

    def taken_up(self, data):
        """The images' content is the disk now, whatever it was."""
        self.latest, self.past, self.maybe, self.lost = bytearray(data), {}, {}, set()
