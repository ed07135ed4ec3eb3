#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations on random chains under a random guest; after each QEMU's tools are asked.

soak.py --dir DIR --socket SOCKET --work W [--seed N] [--seconds S] [--verbose]

A round makes a chain of 1 to 8 images with QEMU (sizes, formats, clusters, versions,
content at random), attaches it, and has a guest write, zero, discard and flush while operations of
soak_ops.py run. After each the guest rests: the disk reads as the model, QEMU reads the same from the
flushed images, the chain and the names in its headers are what QEMU would have made of
them, `qemu-img check` finds no errors, and no image was written that need not be. After the detach
there are no leaks either. Some chains get another round, with their top image grown.

Prints "# notes"; status 0: all was right.
"""
import argparse
import collections
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time

import dmio
import oracle
import qmp
import soak_ops
from soak_ops import DEVICE, DISK, NULL, Image, Refused, Wrong, tool
from soak_qemu import TRIM, WRITE, ZEROES, NO_HOLE, Qemu, QemuError


def say(text):
    print("# " + text, flush=True)


class Hot(oracle.Timed):
    """
    Small operations, most of them on a few small places, which are others after a while, and about where
    a job is: what it does to a place meets a guest there, and what it then loses is not soon written again.
    """
    NAP = 0.001
    VERBS = ["write"] * 8 + ["read"] * 5 + ["discard"] * 3 + ["zeroout"] * 3 + ["flush", "rewrite", "sweep"]

    def __init__(self, guest, rng):
        super().__init__(guest, rng)
        self.guest, self.left, self.spots, self.at = guest, 0, [], 0

    def pick(self):
        rng, total = self.rng, self.model.sectors()
        if rng.random() < 0.2:
            return super().pick()
        if not self.left:
            self.left = rng.randrange(5, 80)
            self.spots = [rng.randrange(total) // 128 * 128 for _ in range(rng.randrange(1, 5))]
            if rng.random() < 0.2:
                self.spots.append((total - 1) // 128 * 128)
        self.left -= 1
        front = self.guest.front
        if front is not None and rng.random() < 0.5:
            spot = max(0, int(front * total) // 8 * 8 + rng.randrange(-256, 1024))
        else:
            spot = rng.choice(self.spots) + rng.randrange(256)
        sector = min(total - 1, spot // 8 * 8)
        nr = 2 ** rng.randrange(8)
        if rng.random() < 0.2:
            sector = min(total - 1, sector + rng.randrange(8))
        return sector, min(nr, total - sector)

    def sweep(self, _sector, _nr):
        """The disk in turn, the next part of it."""
        total = self.model.sectors()
        self.at = self.at if self.at < total else 0
        nr = min(512, total - self.at)
        self.read(self.at, nr)
        self.at += nr


class Guest:
    """Random I/O on the disk; hold() until release() nothing is under way and all is flushed."""

    def __init__(self, model, rng):
        self.device, self.stop = DEVICE, threading.Event()
        self.front = None       # where a job is, as a part of the disk
        self.model = oracle.Model(model)
        self.disk = dmio.Disk(DEVICE)
        self.streams = [Hot(self, random.Random(rng.random())) for _ in range(3)]
        for s in self.streams:
            s.start()

    def check(self):
        for s in self.streams:
            if s.error:
                raise Wrong("the guest: %s: %s" % (type(s.error).__name__, s.error))
            if s.since and time.monotonic() - s.since > 400:
                raise Wrong("the guest's I/O stands still")

    def hold(self):
        self.check()
        self.model.hold()
        self.disk.flush()

    def release(self):
        self.model.release()

    def end(self):
        self.stop.set()
        for s in self.streams:
            s.join(400)
            if s.is_alive():
                raise Wrong("an operation of the guest did not end within 400 s")
        self.check()
        self.disk.flush()
        self.disk.close()


class Soak:
    def __init__(self, args):
        self.args, self.rng = args, random.Random(args.seed)
        self.events, self.counts, self.spent = [], collections.Counter(), collections.Counter()
        self.client = qmp.Client(args.socket, self.events.append)
        self.client.negotiate()
        self.qemu = Qemu(args.dir)
        self.serial, self.log = 0, []
        self.chain, self.gone, self.named, self.guest = [], [], {}, None
        self.model = os.path.join(args.dir, "model")

    def note(self, text):
        self.log.append(text)
        if self.args.verbose:
            say(text)

    @contextlib.contextmanager
    def timed(self, what):
        begin = time.monotonic()
        yield
        self.spent[what] += time.monotonic() - begin

    def new(self, kind):
        self.serial += 1
        return "%s%d" % (kind, self.serial)

    def path(self, name):
        return os.path.join(self.args.dir, name)

    # --- the daemon ---

    def command(self, verb, /, **arguments):
        arguments = {k.replace("_", "-"): v for k, v in arguments.items() if v is not None}
        reply = self.client.command(json.dumps({"execute": verb, "arguments": arguments},
                                               default=lambda null: None))
        self.client.drain()
        if "return" not in reply:
            raise Refused(reply["error"]["desc"], verb, arguments)
        return reply["return"]

    def nodes(self):
        return self.command("query-named-block-nodes", flat=True)

    def node_of(self, image):
        for n in self.nodes():
            if n["file"] == image.path and n["drv"] in ("raw", "qcow2"):
                return n["node-name"]
        raise Wrong("there is no node of %s" % image.path)

    def add(self, image, **more):
        name = self.new("n")
        self.command("blockdev-add", driver=image.fmt, node_name=name,
                     file={"driver": "file", "filename": image.path}, **more)
        self.named[name] = image
        return name

    def drop_nodes(self, keep=()):
        """Nodes of images that are in no chain; what only they refer to goes with them."""
        names = [n for n, image in self.named.items() if image not in keep]
        while names:
            left, last = [], None
            for n in names:
                try:
                    self.command("blockdev-del", node_name=n)
                    del self.named[n]
                except Refused as e:
                    if "Failed to find node" in e.desc:     # it went with the one above
                        del self.named[n]
                        continue
                    left.append(n)
                    last = e
            if len(left) == len(names):
                raise Wrong("nodes can't be deleted: %s" % last)
            names = left

    # --- chains ---

    def sizes(self, top, count):
        """
        Most as large as the disk; some shorter or longer. In multiples of 4096 bytes: an image that ends amid a
        block can't be below one that goes on, and each may be the top of what a commit reads.
        """
        out = []
        for _ in range(count):
            r = self.rng.random()
            out.append(self.rng.randrange(min(256, top // 8192), top // 4096) * 4096 if 0.55 <= r < 0.95
                       else top + self.rng.randrange(1, 512) * 4096 if r >= 0.95 and top % 4096 == 0
                       else top)
        return out

    def create(self, image, below=None):
        """A new image file; @below is named relative or absolute."""
        if image.fmt == "raw":
            self.qemu.create(image.path, "raw", image.size)
            return image
        options = {"cluster-size": 1 << self.rng.randrange(12, 22),
                   "version": self.rng.choice(["v3", "v3", "v3", "v2"])}
        if below:
            image.backing = self.rng.choice([below.path, os.path.basename(below.path)])
            options.update({"backing-file": image.backing, "backing-fmt": below.fmt})
        self.qemu.create(image.path, "qcow2", image.size, **options)
        self.note("%r: %d bytes, %s" % (image, image.size, options))
        return image

    def fill(self, image):
        """Data, zeros and discarded places; what is written nowhere is a hole."""
        work, sectors, rng = [], image.size // 512, self.rng
        for _ in range(rng.randrange(2, 10)):
            kind, flags = rng.choice([(WRITE, 0)] * 4 + [(ZEROES, NO_HOLE), (ZEROES, 0), (TRIM, 0)])
            nr = min(sectors, int(2 ** rng.uniform(0, 11 if kind == WRITE else 13)))
            # the end of it is behind that of others, or before
            at = sectors - nr if rng.random() < 0.15 else rng.randrange(sectors - nr + 1)
            if rng.random() < 0.5:
                at = at // 128 * 128
            data = dmio.pattern(rng.getrandbits(40), at, nr) if kind == WRITE else b""
            work.append((kind, at * 512, nr * 512, data, flags))
        self.qemu.fill(image.path, image.fmt, work)

    def build(self):
        rng = self.rng
        size = int(2 ** rng.uniform(20, 24.5)) // 512 * 512
        if rng.random() < 0.8:
            size = size // 4096 * 4096
        count = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 8])
        self.chain = []
        for i, bytes_ in enumerate(self.sizes(size, count - 1) + [size]):
            fmt = "raw" if i == 0 and rng.random() < 0.4 else "qcow2"
            image = Image(self.path(self.new("i")), fmt, bytes_)
            self.create(image, self.chain[0] if self.chain else None)
            self.fill(image)
            self.chain.insert(0, image)
        if count == 1 and self.chain[0].fmt == "raw":
            self.note("a raw image alone, %d bytes" % size)

    def regrow(self):
        """The same chain again, its top larger: what that adds reads as zeros."""
        top = self.chain[0]
        if top.fmt != "qcow2" or any(i.size > top.size or i.size % 4096 for i in self.chain):
            return
        top.size += self.rng.randrange(1, 8192) * 512
        tool("qemu-img", "resize", "-q", "-f", "qcow2", top.path, str(top.size))
        self.note("%r grown to %d bytes" % (top, top.size))

    def options(self, images):
        """blockdev-add's of a whole chain, each node with a name."""
        top, name = images[0], self.new("n")
        self.named[name] = top
        out = {"driver": top.fmt, "node-name": name,
               "file": {"driver": "file", "filename": top.path}}
        if top.fmt == "qcow2":
            out["backing"] = self.options(images[1:]) if len(images) > 1 else NULL
        return out

    def attach(self):
        top = self.chain[0]
        self.flat(top, self.model)
        if self.rng.random() < 0.5:
            name = self.add(top)
        else:
            options = self.options(self.chain)
            name = options["node-name"]
            self.command("blockdev-add", **options)
        self.command("block-export-add", type="dm", id=DISK, node_name=name, name=DISK,
                     writable=True)
        for image in self.chain:
            image.stamp = image.look()
        self.guest = Guest(self.model, self.rng)

    def detach(self):
        self.guest.end()
        oracle.same(DEVICE, self.guest.model)
        self.command("block-export-del", id=DISK)
        self.drop_nodes()
        if self.nodes():
            raise Wrong("nodes are left: %s" % [n["node-name"] for n in self.nodes()])
        end = time.monotonic() + 30     # they go a moment after the last one has closed them
        while (left := tool("losetup", "-a")) and time.monotonic() < end:
            time.sleep(0.1)
        if left:
            raise Wrong("loop devices are left: " + left)
        self.chain_is_right()
        self.guest = None
        for image in self.chain:
            if image.fmt == "qcow2":
                tool("qemu-img", "check", "-q", image.path)
        top = self.chain[0]
        tool("qemu-img", "compare", "-q", "-f", top.fmt, "-F", "raw", top.path, self.model)

    # --- what must hold ---

    def flat(self, image, path):
        """What QEMU reads from @image, as the file @path."""
        content = self.qemu.read(image.path, image.fmt)
        next(content)
        with open(path, "wb") as f:
            for piece in content:
                f.write(piece)

    def same(self, image, what):
        """QEMU reads from it what the disk should hold. Return: what it says of the image."""
        content, at, model = self.qemu.read(image.path, image.fmt), 0, self.guest.model
        info = next(content)
        for piece in content:
            want = model.get(at // 512, len(piece) // 512)
            if piece != want:
                oracle.check_sectors(piece, want, at // 512, {}, what)
            at += len(piece)
        if at != model.size:
            raise Wrong("%s has %d bytes instead of %d" % (image.path, at, model.size))
        return info

    def chain_is_right(self):
        info, got = self.same(self.chain[0], "the images"), []
        while info:
            got.append((os.path.basename(info["filename"]), info["format"], info["virtual-size"],
                        info.get("backing-filename")))
            info = info.get("backing-image")
        want = [(repr(i), i.fmt, i.size, i.backing) for i in self.chain]
        if got != want:
            raise Wrong("the chain is %s instead of %s" % (got, want))

    def to_daemon(self):
        for x in self.command("query-block"):
            if x["device"] == DISK:
                image, got = x["inserted"]["image"], []
                while image:
                    got.append(image["filename"])
                    image = image.get("backing-image")
                break
        if got != [i.path for i in self.chain]:
            raise Wrong("the daemon's chain is %s instead of %s" % (got, self.chain))

    def check(self, written):
        """@written: images that the operation may have written, beside the guest's own."""
        with self.timed("until all is flushed"):
            self.guest.hold()
        try:
            with self.timed("compare"):
                oracle.same(DEVICE, self.guest.model)
                self.to_daemon()
                self.chain_is_right()
            with self.timed("qemu-img check"):
                self.check_images(written)
        finally:
            self.guest.release()

    def check_images(self, written):
        for image in self.chain:
            if image is self.chain[0] or image in written or not image.stamp:
                # errors stay until the image leaves the chain or the disk is detached, where each is looked at
                if image.fmt == "qcow2" and self.rng.random() < 0.3:
                    tool("qemu-img", "check", "-q", "-U", image.path, good=(0, 3))
            elif image.stamp != image.look():
                raise Wrong("%s was written: %s, %s" % (image.path, image.stamp, image.look()))
            image.stamp = image.look()

    def operate(self):
        before = list(self.chain)
        # what makes the chain longer is the more likely the shorter it is
        longer = 3 if len(self.chain) < 4 else 1
        name = self.rng.choices(list(soak_ops.OPS), [w * longer if n in ("snapshot", "overlay") else w
                                                     for n, (_, w) in soak_ops.OPS.items()])[0]
        begin = time.monotonic()
        self.events.clear()
        with self.timed("operations"):
            written = soak_ops.OPS[name][0](self)
        if written is None:
            return
        self.note("%s: %s -> %s, %.1f s" % (name, before, self.chain, time.monotonic() - begin))
        self.counts[name] += 1
        for image in [i for i in before if i not in self.chain] + self.gone:
            written.append(image)
        self.drop_nodes(keep=self.chain)
        # the guest wrote these until they were not active any more
        written += [before[0]]
        self.check(written)
        self.remove([i for i in before if i not in self.chain])

    def remove(self, images):
        for image in images:
            if image.fmt == "qcow2":
                tool("qemu-img", "check", "-q", "-U", image.path)
            os.unlink(image.path)

    # --- all of it ---

    def round(self, end):
        if self.chain and self.rng.random() < 0.3:
            self.regrow()
        else:
            for image in self.chain:
                os.unlink(image.path)
            with self.timed("build"):
                self.build()
        with self.timed("attach"):
            self.attach()
        for _ in range(self.rng.randrange(3, 12)):
            if time.monotonic() > end:
                break
            self.operate()
        with self.timed("detach"):
            self.detach()
        self.counts["rounds"] += 1

    def run(self):
        end = time.monotonic() + self.args.seconds
        while time.monotonic() < end:
            self.round(end)
        say(", ".join("%s %d" % c for c in sorted(self.counts.items())))
        say("seconds: " + ", ".join("%s %.1f" % c for c in sorted(self.spent.items())))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dir", required=True)
    p.add_argument("--socket", required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--verbose", action="store_true")
    args = p.parse_args()
    soak = Soak(args)
    try:
        soak.run()
    except (Wrong, Refused, QemuError, oracle.Mismatch, OSError, subprocess.SubprocessError) as e:
        if not args.verbose:
            for line in soak.log[-25:]:
                say(line)
        say("chain: %s" % soak.chain)
        say("WRONG: %s: %s" % (type(e).__name__, e))
        os._exit(1)     # the guest's threads may wait for ever; QEMU dies with us
    soak.qemu.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
