# SPDX-License-Identifier: GPL-2.0-or-later
"""What a daemon does for a view, in a made-up format, for tests of the target.

An Image keeps one big-endian record of 8 bytes for each unit, as qcow2's L2 tables do:
(sector << 9) | 1 << 63 for data that is its own, without bit 63 for data that is shared,
| 1 for zeros that keep their space, 1 for plain zeros, 0 for nothing. Its pages of 512
records lie in shuffled order, so that a home that is not asked for is not found by chance.
"""
import random
import struct
import threading
import time

import slow
from dmio import Disk, Dm

COPIED, ZERO = 1 << 63, 1
PAGE_RECORDS = 512
SLICE = 512


class Image:
    """A layer: `unit` None is raw. nr: sectors that a view sees of it. disk: another way to it."""

    def __init__(self, ident, path, nr, unit=None, start=0, seed=0, disk=None):
        self.id, self.path, self.nr, self.unit, self.start = ident, path, nr, unit, start
        self.disk = disk or Disk(path)
        self.grant_no = 0
        if not unit:
            return
        self.units = -(-nr // unit)
        pages = -(-self.units // PAGE_RECORDS)
        rec = 64
        self.page_sector = [rec + 8 * p for p in range(pages)]
        random.Random(seed).shuffle(self.page_sector)
        self.end = rec + 8 * pages
        self.end += -self.end % max(unit, 8)
        self.clear()

    def text(self):
        return "%d %s %d" % (self.id, self.path, self.start)

    def clear(self):
        """No unit has anything."""
        for sector in self.page_sector:
            self.disk.write(self.start + sector, bytes(4096))

    def describe(self):
        if not self.unit:
            return "layer %d unit 8 raw" % self.id
        return "layer %d unit %d record 9 0x8000000000000000 0x8000000000000001 0x1" % (
            self.id, self.unit)

    def limit(self):
        return self.disk.sectors() - self.start

    def alloc(self, nr, gap=0):
        """Space for nr sectors, aligned to the unit."""
        self.end += gap * self.unit
        sector = self.end
        if sector + nr > self.limit():
            raise OSError("no space on %s" % self.path)
        self.end += nr + -nr % self.unit
        return sector

    def records(self, first=0, nr=None):
        """The records of units first.. as the device has them now."""
        nr = self.units - first if nr is None else nr
        out = []
        for page in range(first // PAGE_RECORDS, -(-(first + nr) // PAGE_RECORDS)):
            raw = self.disk.read(self.start + self.page_sector[page], 8)
            out += struct.unpack(">512Q", raw)
        skip = first % PAGE_RECORDS
        return out[skip:skip + nr]

    def set_record(self, unit, value):
        page, i = divmod(unit, PAGE_RECORDS)
        sector = self.start + self.page_sector[page]
        raw = bytearray(self.disk.read(sector, 8))
        struct.pack_into(">Q", raw, i * 8, value)
        self.disk.write(sector, raw)

    def set_records(self, values):
        """The records of all units."""
        values = values + [0] * (-len(values) % PAGE_RECORDS)
        for page, sector in enumerate(self.page_sector):
            self.disk.write(self.start + sector, struct.pack(
                ">512Q", *values[page * PAGE_RECORDS:(page + 1) * PAGE_RECORDS]))

    def home(self, page):
        nr = min(PAGE_RECORDS, self.units - page * PAGE_RECORDS)
        return "%d+%d@%d" % (page * PAGE_RECORDS, nr, self.page_sector[page])

    def put(self, unit, data, shared=False):
        """Make a unit hold data, from outside (before a view uses the image)."""
        if not self.unit:
            self.disk.write(self.start + unit * 8, data)
            return
        sector = self.alloc(self.unit)
        self.disk.write(self.start + sector, data)
        self.set_record(unit, (sector << 9) | (0 if shared else COPIED))


def decode(record):
    """(type, sector or None, shared)"""
    if not record:
        return None, None, False
    sector = (record & ~(COPIED | 0x1ff)) >> 9
    if record & ZERO:
        return "z", sector or None, not record & COPIED and sector != 0
    return "d", sector, not record & COPIED


def extents(image, nr):
    """(first, sectors, source sector or None) of what an image has, runs joined."""
    out = []
    if not image.unit:
        return [[0, min(nr, image.limit()), 0]]
    for unit, record in enumerate(image.records()):
        kind, sector, _ = decode(record)
        if not kind:
            continue
        if kind == "z":
            sector = None
        first, n = unit * image.unit, min(image.unit, nr - unit * image.unit)
        last = out[-1] if out else None
        if last and last[0] + last[1] == first and (last[2] is None) == (sector is None) and \
           (sector is None or last[2] + last[1] == sector):
            last[1] += n
        else:
            out.append([first, n, sector])
    return out


def reconstruct(chain, nr):
    """The bytes that a chain (top first) holds, from the devices alone."""
    out = bytearray(nr * 512)
    for image in reversed(chain):
        for first, n, sector in extents(image, nr):
            out[first * 512:(first + n) * 512] = bytes(n * 512) if sector is None else \
                image.disk.read(image.start + sector, n)
    return bytes(out)


class View:
    """A device on a chain of images (top first), and the service that it wants."""

    def __init__(self, name, chain, nr, block, active=True, extra=(), view=None):
        self.name, self.chain, self.nr, self.block = name, list(chain), nr, block
        self.view = view or name
        self.extra = list(extra)
        self.active = chain[0] if active else None
        self.generation = 0
        self.stop = self.thread = self.error = None
        self.grant_sectors = 2048
        self.serving = threading.Lock()
        self.withhold = set()
        self.dm = Dm(name, self.table())
        for image in ([self.active] if self.active else []):
            self.dm.message(image.describe())

    def table(self):
        layers = self.chain + self.extra
        return [(0, self.nr, "livechain", "%s %d %s %d %s" % (
            self.view, self.block, self.active.id if self.active else "-", len(layers),
            " ".join(i.text() for i in layers)))]

    # --- the map ---

    def entry(self, block, records):
        """The entry of one block as a tuple: (type, layer, sector, shared)."""
        first = block * self.block
        for image in self.chain:
            if not image.unit:
                if first >= image.limit():
                    return ("z", image.id, None, False)
                return ("d", image.id, first, False)
            kind, sector, shared = decode(records[image.id][first // image.unit])
            if kind and sector is not None:
                return (kind, image.id, sector + first % image.unit, shared)
            if kind:
                return (kind, image.id, None, False)
        return ("z", None, None, False)

    def runs(self, first, nr):
        """The runs of blocks [first, first + nr)."""
        records = {}
        for image in self.chain:
            if image.unit:
                lo = first * self.block // image.unit
                hi = min(-(-(first + nr) * self.block // image.unit), image.units)
                got = image.records(lo, hi - lo)
                records[image.id] = dict(zip(range(lo, hi), got))
        out = []
        for block in range(first, first + nr):
            e = self.entry(block, records)
            if out and self.continues(out[-1], e):
                out[-1][0] += 1
            else:
                out.append([1, e])
        return [self.run_text(count, e) for count, e in out]

    def continues(self, run, e):
        count, (kind, layer, sector, shared) = run
        if (kind, layer, shared) != (e[0], e[1], e[3]) or (sector is None) != (e[2] is None):
            return False
        return sector is None or sector + count * self.block == e[2]

    @staticmethod
    def run_text(count, e):
        kind, layer, sector, shared = e
        words = [str(count), kind]
        words += [] if layer is None else [str(layer)]
        words += [] if sector is None else [str(sector)]
        return ":".join(words + (["s"] if shared else []))

    def blocks(self):
        return -(-self.nr // self.block)

    def load(self, block):
        """Answer for the slice of a block. Return the target's reply."""
        first = block // SLICE * SLICE
        nr = min(SLICE, self.blocks() - first)
        reply = self.dm.message("map %d %d %s" % (
            self.generation, first, " ".join(self.runs(first, nr))))
        if reply.startswith("stale"):
            self.generation = int(reply.split()[1])
            return self.load(block)
        return reply

    def load_all(self):
        for block in range(0, self.blocks(), SLICE):
            self.load(block)

    # --- the service ---

    def image(self, ident):
        return next(i for i in self.chain + self.extra if i.id == ident)

    def grant(self, image, nr=None, ranges=2, gap=0):
        nr = nr or self.grant_sectors
        nr += -nr % max(image.unit, self.block)
        words = []
        for _ in range(ranges):
            words.append("%d+%d" % (image.alloc(nr, gap), nr))
        image.grant_no += 1
        return self.dm.message("grant %d %d %s" % (image.id, image.grant_no, " ".join(words)))

    def serve_once(self):
        """Answer what is wanted now. Return the lines."""
        slow.pause()
        with self.serving:
            lines = self.dm.message("requests").split("\n")
            lines = [line for line in lines if line]
            for line in lines:
                word, *args = line.split()
                if word in self.withhold:
                    continue
                if word == "slice":
                    for block in map(int, args):
                        self.load(block)
                elif word == "home":
                    image = self.image(int(args[0]))
                    pages = {int(u) // PAGE_RECORDS for u in args[1:]}
                    self.dm.message("home %d %s" % (
                        image.id, " ".join(image.home(p) for p in sorted(pages))))
                elif word == "pool":
                    self.grant(self.image(int(args[0])))
        return lines

    def _service(self):
        try:
            while not self.stop:
                if not self.serve_once():
                    time.sleep(0.005)
                elif self.withhold:
                    time.sleep(0.02)
        except Exception as e:          # kept for the test: end() raises it
            self.error = e

    def begin(self):
        self.stop = None
        self.thread = threading.Thread(target=self._service, daemon=True)
        self.thread.start()

    def end(self):
        self.stop = True
        if self.thread:
            self.thread.join()
            self.thread = None
        if self.error:
            raise self.error

    # --- changes of the device ---

    def reload(self):
        """Load and make live what table() says now, as a daemon does it."""
        self.dm.load(self.table())
        self.dm.suspend()
        self.dm.resume()

    def snapshot(self, image):
        """A new active image on top, which extra has already and the live table too."""
        self.commit()
        self.dm.suspend()
        try:
            self.activate(image)
        finally:
            self.dm.resume()

    def activate(self, image):
        with self.serving:
            self.dm.message("activate %d" % image.id)
            if image in self.extra:
                self.extra.remove(image)
            self.chain.insert(0, image)
            self.active = image

    def commit(self, timeout=60):
        self.dm.message("commit")
        end = time.monotonic() + timeout
        while self.status()["unrecorded"]:
            if time.monotonic() > end:
                raise TimeoutError("not recorded: " + self.dm.status())
            time.sleep(0.01)

    def status(self):
        if self.error:
            raise self.error
        return parse_status(self.dm.status())

    def job(self, name):
        return self.status()["jobs"].get(name)

    def wait_job(self, name, state="concluded", timeout=240):
        end = time.monotonic() + timeout
        while True:
            job = self.job(name)
            if job and job["state"] == state:
                return job
            if time.monotonic() > end:
                raise TimeoutError("job %s is not %s: %s" % (name, state, self.dm.status()))
            time.sleep(0.01)

    def remove(self):
        self.end()
        self.dm.remove()


def parse_status(text):
    w = iter(text.split())
    s = {"format": int(next(w)), "view": next(w), "generation": int(next(w)),
         "mode": next(w), "block": int(next(w)), "active": next(w)}
    s["loaded"], s["slices"] = map(int, next(w).split("/"))
    s["bytes"], s["unrecorded"], s["parked"] = int(next(w)), int(next(w)), int(next(w))
    s["layers"], s["jobs"] = {}, {}
    for _ in range(int(next(w))):
        ident = int(next(w))
        s["layers"][ident] = dict(entries=int(next(w)), unit=next(w), grant=int(next(w)),
                                  free=int(next(w)), clean=next(w) == "clean")
    for _ in range(int(next(w))):
        name = next(w)
        job = {"state": next(w)}
        job["copied"], job["total"] = map(int, next(w).split("/"))
        job.update(speed=int(next(w)), result=next(w), layer=int(next(w)))
        s["jobs"][name] = job
    if list(w):
        raise ValueError("status has more than it says: " + text)
    return s
