#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Replays recordings of record.py to many power cuts and looks at each, without a VM.

replay.py [--points N] [--seed N] [--jobs N] [--point INDEX:KIND:DRAW] RECORDING...

At each cut: qemu-img check finds no error in any image, and leaks only where a journal tells of
them; the chain holds what the model (guest.py) allows; a finished backup is the disk of one
instant. Then point.c does with our own library and journal what an attach and a detach do: no image
has errors or leaks afterwards, and the content is the same. Every tenth cut the content is
read by qemu-img as well. Status 1 when a cut has lost something.
"""
import argparse
import json
import os
import random
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cutlog  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
POINT = os.path.join(os.environ.get("LIVECHAIN_BUILD", os.path.join(TOP, "build")), "tests/crash/point")
ORACLE_EVERY = 10
ZEROS = bytes(1 << 20)


class Bad(Exception):
    """What a cut has broken, as a sentence."""


class Looker:
    """point.c, asked line by line."""

    def __init__(self, model, bdev):
        self.err = tempfile.TemporaryFile("w+")
        self.p = subprocess.Popen([POINT], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=self.err, text=True)
        self.ask("model", model)
        self.ask("bdev", int(bdev))

    def ask(self, *words):
        self.p.stdin.write(" ".join(map(str, words)) + "\n")
        self.p.stdin.flush()
        answer = self.p.stdout.readline().strip()
        if not answer:
            self.err.seek(0)
            raise Bad("%s: point has died: %s" % (words[0], self.err.read()[-1000:]))
        if answer != "ok":
            raise Bad("%s: %s" % (words[0], answer))


def qemu_node(chain):
    """[(format, file)...] as one node, without what the headers say about the chain."""
    node = None
    for fmt, path in reversed(chain):
        protocol = "host_device" if os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode) else "file"
        below = {"driver": fmt, "file": {"driver": protocol, "filename": path}}
        if fmt == "qcow2":
            below["backing"] = node
        node = below
    return "json:" + json.dumps(node)


def qemu_img(*args):
    r = subprocess.run(("qemu-img",) + args, capture_output=True, text=True)
    return r.returncode, (r.stdout + r.stderr).strip()


def backing_name(path):
    """None when this is no qcow2 image."""
    with open(path, "rb") as f:
        head = f.read(1 << 16)
    if head[:4] != b"QFI\xfb":
        return None
    off, length = struct.unpack(">QI", head[8:20])
    return head[off:off + length].decode("ascii", "replace") if off else ""


def active_image(meta, state):
    """The image that the daemon's state names as the active one of the disk."""
    with open(os.path.join(state, "state.json")) as f:
        s = json.load(f)
    dm = next(x["dm"] for x in s["exports"] if x["id"] == "vm1")
    nodes = {n["name"]: n for n in s["nodes"]}
    top = nodes[next(v["top"] for v in s["views"] if v["dm"] == dm)]
    path = nodes[top["file"]]["filename"]
    return next(n for n, i in meta.images.items() if i["path"] == path)


def valid_chain(meta, chain, files):
    """None, or what is wrong with its headers; files: where the images are."""
    for name, below in zip(chain, chain[1:] + [None]):
        if meta.images[name]["format"] == "raw":
            continue
        path = meta.images[below]["path"] if below else ""
        got = backing_name(files[name]) if os.path.exists(files[name]) else None
        if got != path:
            return "image %s names %r as its backing file, not %r" % (name, got, path)
    return None


def chain_of(meta, world, files, state):
    """The chain that a user starts the machine with again: what the command was to make if it is there,
    or, at a pivot, if the daemon's state names it."""
    chain, alt = world["chain"], world.get("alt")
    if world.get("pivot"):
        top = active_image(meta, state)
        if top not in (chain[0], alt[0]):
            raise Bad("the state names %s, neither %s nor %s" % (top, chain[0], alt[0]))
        chain = alt if top == alt[0] else chain
    elif alt and not valid_chain(meta, alt, files):
        return alt
    wrong = valid_chain(meta, chain, files)
    if wrong:
        raise Bad(wrong)
    return chain


class Meta:
    """What a recording consists of; see record.py and record_ops.py."""

    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "meta.json")) as f:
            self.__dict__.update(json.load(f))
        self.model = os.path.join(folder, "model")


class Cut:
    """The disks, moved forward along the log; durable(i), then cuts there."""

    lose = False        # flushes do nothing: the cuts must be found bad

    def __init__(self, meta, work, log=None):
        self.meta, self.work = meta, work
        self.log = log or cutlog.Log(os.path.join(meta.folder, "log"))
        # ext4 trusts that a superblock is written whole; images need no more than sectors
        self.disks = [cutlog.Cache(os.path.join(work, "nbd%d" % i), size, self.log,
                                   4096 if i == meta.state_disk else cutlog.SECTOR)
                      for i, size in enumerate(meta.disks)]
        self.next, self.acks, self.world = 0, [], None

    def forward(self, index):
        """Everything up to entry number index has happened."""
        for e in self.log.entries[self.next:index + 1]:
            if not e.flags & cutlog.MARK:
                self.disks[e.disk].apply(e, self.lose and self.world is not None)
            elif e.text[0] in "mu" and e.text[1:].isdigit():
                self.acks.append(e.text)
            elif e.text[0] == "w" and e.text[1:].isdigit():
                self.world = self.meta.worlds[int(e.text[1:])]
        self.next = index + 1

    def cut(self, index, kind, draw, seed):
        rng = random.Random("%s.%d.%s.%d" % (seed, index, kind, draw))
        for d in self.disks:
            d.cut(kind, rng)

    def heal(self):
        for d in self.disks:
            d.heal()


class Ext4:
    """Files of an ext4 file system, after its journal's recovery, by e2fsprogs: in place, for
    new memory each time would cost more than all else."""

    EXTENT = re.compile(r"^ *(\d+)/ *(\d+) +\d+/ *\d+ +(\d+) - +(\d+) +(\d+) - +\d+ +\d+ *(Uninit)?")

    def __init__(self, disk, folder, work):
        self.disk, self.folder, self.work = disk, folder, work
        self.fs = cutlog.Buffer(os.path.join(work, "fs"), len(disk.mem))
        self.buffers = {}

    def refresh(self, images):
        """Recovers; the state folder is extracted, and all of images that exist."""
        self.fs.mem[:] = self.disk.mem
        out = os.path.join(self.work, "out")
        shutil.rmtree(out, ignore_errors=True)
        os.mkdir(out)
        # before that debugfs may find checksums that do not match
        subprocess.run(["e2fsck", "-y", "-E", "journal_only", self.fs.path], capture_output=True)
        lines = ["rdump %s/state %s" % (self.folder, out)]
        if images:
            lines += ["ls -p %s/img" % self.folder]
            lines += ["ex %s/img/%s" % (self.folder, n) for n in images]
        r = subprocess.run(["debugfs", "-c", "-f", "/dev/stdin", self.fs.path], text=True,
                           input="\n".join(lines) + "\n", capture_output=True)
        if r.returncode:
            raise Bad("debugfs: %s" % r.stderr)
        parts = dict(p.partition("\n")[::2] for p in r.stdout.split("debugfs: ")[1:])
        sizes = {}
        for l in parts.get("ls -p %s/img" % self.folder, "").splitlines():
            w = l.split("/")
            if len(w) > 6 and w[2].startswith("100"):
                sizes[w[5]] = int(w[6] or 0)
        return {n: self.copy(n, sizes[n], parts["ex %s/img/%s" % (self.folder, n)])
                for n in images if n in sizes}

    def copy(self, name, size, extents):
        """Returns (path, what tells the content)."""
        fs = memoryview(self.fs.mem)
        block = 1024 << struct.unpack_from("<I", fs, 1024 + 24)[0]
        out = os.path.join(self.work, name)
        data, crc = [], size
        for m in filter(None, map(self.EXTENT.match, extents.splitlines())):
            level, depth, first, last, at = map(int, m.groups()[:5])
            if level != depth or m.group(6) or first * block >= size:
                continue
            piece = fs[at * block:(at + last - first + 1) * block][:size - first * block]
            data.append((first * block, piece))
            crc = zlib.crc32(piece, zlib.crc32(b"%d" % first, crc))
        if self.buffers.get(name) != (size, crc):
            with open(out, "r+b" if os.path.exists(out) else "w+b") as f:
                self.write(f.fileno(), size, data)
        self.buffers[name] = size, crc
        return out, (name, size, crc)

    def forget(self, names):
        """These files have been written meanwhile."""
        for n in names:
            self.buffers.pop(n, None)

    @staticmethod
    def write(fd, size, data):
        os.ftruncate(fd, size)
        at = 0
        for off, piece in sorted(data, key=lambda d: d[0]) + [(size, b"")]:
            while at < off:
                at += os.pwrite(fd, ZEROS[:off - at], at)
            os.pwrite(fd, piece, off)
            at = off + len(piece)


class Examiner:
    """Looks at cuts of one recording, in order."""

    def __init__(self, meta, work, seed):
        self.meta, self.work, self.seed = meta, work, seed
        self.cut = Cut(meta, work)
        self.looker = Looker(meta.model, meta.layout == "disks")
        self.fs = Ext4(self.cut.disks[meta.state_disk], meta.folder_in_fs, work)
        self.checked = {}   # what a file holds: what qemu-img check said of it
        self.copies, self.touched = set(), set()
        self.n = 0

    # --- where things are --------------------------------------------------------

    def unpack(self):
        """Image files and the state folder as they are after the cut."""
        by_file = {os.path.basename(i["path"]): n for n, i in self.meta.images.items()
                   if "disk" not in i}
        found = self.fs.refresh(sorted(by_file))
        self.state = os.path.join(self.work, "out", "state")
        self.files, self.held = {}, {}
        for f, name in by_file.items():
            self.files[name], self.held[name] = found.get(f, (os.path.join(self.work, "none"), None))
        for name, image in self.meta.images.items():
            if "disk" in image:
                d = self.cut.disks[image["disk"]]
                self.files[name], self.held[name] = d.path, (image["disk"],) + d.content

    def journals(self):
        """Names of the images of which the state folder says that they may have leaks."""
        found, folder = set(), os.path.join(self.state, "grants")
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            if len(name) != 16:
                continue # one that was being written
            with open(os.path.join(folder, name), "rb") as f:
                found.add(f.read().decode("ascii", "replace").strip())
        return {n for n, i in self.meta.images.items() if i["path"] in found}

    def spec(self, chain):
        return [(self.meta.images[n]["format"], self.files[n]) for n in chain]

    def words(self, chain):
        return [w for pair in self.spec(chain) for w in pair]

    # --- what must hold -------------------------------------------------------------

    def check(self, name, again=False):
        """0, or 3 for leaks."""
        if self.meta.images[name]["format"] != "qcow2":
            return 0
        key = self.held[name]
        if again or key not in self.checked:
            st, out = qemu_img("check", qemu_node([("qcow2", self.files[name])]))
            if st not in (0, 3):
                raise Bad("image %s%s: qemu-img check: %s" % (
                    name, " after an attach" if again else "", out[:400]))
            if again:
                return st
            self.checked = dict(list(self.checked.items())[-200:])
            self.checked[key] = st
        return self.checked[key]

    def exists(self, name):
        return os.path.exists(self.files[name])

    def images(self):
        """Whatever must be an image now; what is being made may be none as yet."""
        w = self.cut.world
        names = set(w["chain"]) | set(w["made"])
        for name in w.get("making", ()):
            if self.exists(name) and backing_name(self.files[name]) is not None:
                names.add(name)
        return sorted(names)

    def look(self):
        w, journals = self.cut.world, self.journals()
        for name in self.images():
            st = self.check(name)
            if st == 3 and name in w.get("settled", ()):
                raise Bad("image %s, of which nobody writes any more, has leaks" % name)
            if st == 3 and name not in journals:
                raise Bad("image %s has leaks and no journal" % name)
        chain = chain_of(self.meta, w, self.files, self.state)
        self.looker.ask("read", *self.words(chain))
        if self.n % ORACLE_EVERY == 0:
            self.look_by_qemu(chain)
        for name, (t0, t1) in w.get("copies", {}).items():
            key = (name, self.held[name], t0)
            if key not in self.copies:
                self.looker.ask("copy", t0, t1, *self.words([name]))
                self.copies.add(key)
        state = os.path.join(self.state, "state.json")
        if os.path.exists(state):
            with open(state) as f:
                json.load(f)
        return chain, journals

    def look_by_qemu(self, chain):
        raw = os.path.join(self.work, "raw")
        st, out = qemu_img("convert", "-O", "raw", qemu_node(self.spec(chain)), raw)
        if st:
            raise Bad("qemu-img convert: %s" % out[:300])
        self.looker.ask("raw", raw)

    def use(self, chain, journals):
        """An attach and a detach; then every other image that has a journal is opened."""
        top = [n for n in chain[:1] if self.meta.images[n]["format"] == "qcow2"]
        names = [n for n in self.images() if n in journals and n != chain[0]]
        self.touched = {os.path.basename(self.meta.images[n]["path"]) for n in top + names}
        for n in top + names:
            self.looker.ask("attach" if n == chain[0] else "settle", self.state,
                            self.meta.images[n]["path"], self.files[n])
            if self.check(n, True):
                raise Bad("image %s has leaks after an attach and a detach" % n)
        left = self.journals() & set(names + chain[:1])
        if left:
            raise Bad("journal of %s left after an attach and a detach" % " ".join(left))
        self.looker.ask("read", *self.words(chain))

    def point(self, index, kind, draw):
        """One cut; raises Bad."""
        self.cut.forward(index)
        for a in self.cut.acks:
            self.looker.ask("ack", a)
        self.cut.acks = []
        if self.cut.world is None:
            return
        self.n += 1
        self.cut.cut(index, kind, draw, self.seed)
        try:
            self.unpack()
            self.use(*self.look())
        finally:
            self.looker.ask("undo")
            self.cut.heal()
            self.fs.forget(self.touched)
            self.touched = set()


def work_on(meta, points, seed, out):
    """In a process of its own: a line for each bad cut, and the number of cuts."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base, prefix="cut.") as work:
        ex = Examiner(meta, work, seed)
        for index, kind, draw in points:
            try:
                ex.point(index, kind, draw)
            except (Bad, OSError, ValueError, subprocess.SubprocessError) as e:
                w = ex.cut.world or {}
                out.write("BAD %s cut %d:%s:%d (%s): %s\n" % (
                    meta.folder, index, kind, draw, w.get("step", "?"), e))
                out.flush()
        out.write("DONE %d\n" % ex.n)
        out.flush()


def split(points, jobs):
    size = -(-len(points) // jobs) or 1
    return [points[i:i + size] for i in range(0, len(points), size)]


def replay(folder, wanted, seed, jobs, only):
    """(cuts, bad ones) of one recording."""
    meta = Meta(folder)
    log = cutlog.Log(os.path.join(folder, "log"))
    points = [only] if only else cutlog.choose(log, wanted, seed, meta.worlds)
    outs, kids, start = [], [], time.monotonic()
    for part in split(points, jobs):
        out = tempfile.TemporaryFile("w+")
        pid = os.fork()
        if not pid:
            try:
                work_on(meta, part, seed, out)
            finally:
                sys.stderr.flush()
                os._exit(0)
        outs.append(out)
        kids.append(pid)
    for pid in kids:
        os.waitpid(pid, 0)
    lines = []
    for out in outs:
        out.seek(0)
        lines += out.read().splitlines()
    bad = [l[4:] for l in lines if l.startswith("BAD ")]
    counts = [int(l[5:]) for l in lines if l.startswith("DONE ")]
    if len(counts) < len(kids):
        bad.append("%s: a process that looked at cuts has died" % folder)
    for l in bad[:2 if Cut.lose else 20]:
        print(("as it should be: " if Cut.lose else "") + l[:500])
    print("%s (%s, recorded with seed %s): %d cuts, %d bad, %d log entries, %d s" % (
        os.path.basename(folder), meta.layout, meta.seed, sum(counts), len(bad),
        len(log.entries), time.monotonic() - start), flush=True)
    return sum(counts), len(bad)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--points", type=int, default=2000, help="cuts, of all recordings together")
    p.add_argument("--seed", default=os.environ.get("LIVECHAIN_SEED", str(random.randrange(1 << 16))))
    p.add_argument("--jobs", type=int, default=os.cpu_count())
    p.add_argument("--point", help="one cut only, as a report names it")
    p.add_argument("--lose", action="store_true", help="no flush is effective: status 0 if that is seen")
    p.add_argument("recordings", nargs="+")
    a = p.parse_args()
    Cut.lose = a.lose
    only = None
    if a.point:
        index, kind, draw = a.point.split(":")
        only = int(index), kind, int(draw)
    n = bad = 0
    for folder in a.recordings:
        got = replay(folder, -(-a.points // len(a.recordings)), a.seed, a.jobs, only)
        n, bad = n + got[0], bad + got[1]
    print("%d power cuts, %d bad (seed %s)%s" % (
        n, bad, a.seed, ", with flushes that do nothing" if a.lose else ""))
    if a.lose:
        return 0 if bad > n // 4 else 1
    return 1 if bad or (not only and n < a.points * 9 // 10) else 0


if __name__ == "__main__":
    sys.exit(main())
