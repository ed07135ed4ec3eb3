# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations of death.py that change chains and images."""
import os

import death_ops
import death_world
import oracle

MIB = 1 << 20


# --- jobs that change the chain of the guest's disk ---

class Chain(death_ops.Op):
    """A job on vm0's chain, which gets overlays for it: OLD <- A <- B ..., the last one active."""
    overlays = 1
    verb, arguments = None, {}

    def __init__(self, world):
        super().__init__(world)
        self.new = ["s%d%s" % (world.serial, "abc"[i]) for i in range(self.overlays)]

    def names(self):
        return dict([(self.old, "OLD")] + [(n, "NEW%d" % i) for i, n in enumerate(self.new)])

    def prepare(self):
        for name in self.new:
            self.w.guest.progress(5, 80, "between snapshots")
            self.w.command("blockdev-snapshot-sync", device="vm0", snapshot_file=self.w.path(name),
                           snapshot_node_name=name)
            self.w.depth += 1

    def status(self):
        job = self.w.job("j")
        return job and job["status"]

    def wait_for(self, *wanted):
        self.until("the job is %s" % (wanted,), lambda: self.status() in wanted)

    def begin(self):
        self.w.command(self.verb, job_id="j", auto_dismiss=False, **self.arguments)

    def begun(self):
        return self.w.job("j") is not None

    def dismiss(self):
        return death_ops.Step("job-dismiss", lambda: self.w.command("job-dismiss", id="j"),
                    lambda: self.status() is None, voids=True)

    def steps(self):
        return [death_ops.Step(self.verb, self.begin, self.begun, lambda: self.wait_for("concluded")),
                self.dismiss()]

    def files_gone(self, *names):
        """Images that left the chain: nobody has a node of them any more."""
        for name in reversed(names):
            if name in self.w.node_names():
                raise death_world.Wrong("the node %s is left" % name)
            self.clean(name, "-U")      # what is below it is in use
            self.w.depth -= 1


class Ready(Chain):
    """Gets ready, then the disk is switched."""

    def switched(self):
        return self.w.top("vm0") == self.target()

    def end(self):
        """Ready or not, begun or not: afterwards the disk is switched. A daemon that dies on the way loses the job."""
        for _ in range(4):
            if self.switched():
                return
            job = self.w.job("j")
            if job and job.get("error"):
                self.w.command("job-dismiss", id="j")
                job = None
            if not job:
                self.begin()
            self.wait_for("ready", "waiting", "pending", "concluded")
            try:
                self.w.command("job-complete", id="j")
            except death_world.Wrong as e:
                if "cannot accept" not in str(e):
                    raise
            self.wait_for("concluded")
        raise death_world.Wrong("the disk is not switched: %r" % self.w.job("j"))

    def steps(self):
        return [death_ops.Step(self.verb, self.begin, self.begun,
                     lambda: self.wait_for("ready", "concluded")),
                death_ops.Step("job-complete", self.end, self.switched,
                     lambda: self.wait_for("concluded"), again=True), self.dismiss()]


class Mirror(Ready):
    name = "mirror"
    verb = "blockdev-mirror"

    def names(self):
        return dict(super().names(), **{self.target(): "TARGET"})

    def left_out(self):
        return [self.old]   # of its chain nothing is left in the end

    def target(self):
        return "m%d" % self.w.serial

    def prepare(self):
        super().prepare()
        self.chain = self.w.images()
        self.template("t", self.target(), "%dM" % death_world.DISK_MIB)
        self.w.add(self.target(), self.target())
        self.arguments = {"device": "vm0", "target": self.target(), "sync": "full"}

    def finish(self):
        def own():  # newest first: what only another one refers to goes with that
            return [n for n in reversed(self.w.node_names()) if self.w.path(n) in self.chain]

        while names := own():
            self.w.delete(names[0])
        left = [i for i in self.chain if i in self.w.images()]
        if left:
            raise death_world.Wrong("images of the old chain are in use: %s" % left)
        for image in self.chain:
            death_world.tool("qemu-img", "check", image)
        for image in self.chain:    # else rounds would fill the file system
            os.unlink(image)
        self.w.depth = 1


class CommitActive(Ready):
    name = "commit-active"
    verb, overlays = "block-commit", 2

    def target(self):
        return self.old

    def prepare(self):
        super().prepare()
        self.arguments = {"device": "vm0", "base_node": self.old}

    def finish(self):
        self.files_gone(*self.new)


class Commit(Chain):
    name = "commit"
    verb, overlays = "block-commit", 2

    def prepare(self):
        super().prepare()
        self.arguments = {"device": "vm0", "base_node": self.old, "top_node": self.new[0]}

    def finish(self):
        self.files_gone(self.new[0])


class Stream(Chain):
    name = "stream"
    verb, overlays, into = "block-stream", 2, 1

    def prepare(self):
        super().prepare()
        self.arguments = {"device": self.new[self.into], "base_node": self.old}

    def finish(self):
        self.files_gone(self.new[0])


class StreamBelow(Stream):
    """Into an image that is not the active one."""
    name = "stream-below"
    overlays = 3


class MirrorOverlay(Ready):
    """To an overlay of the disk's own image: at the end it is a snapshot."""
    name, overlays = "mirror-overlay", 0
    verb = "drive-mirror"

    def names(self):
        return dict(super().names(), **{self.target(): "TARGET"})

    def target(self):
        return "m%d" % self.w.serial

    def prepare(self):
        self.arguments = {"device": "vm0", "target": self.w.path(self.target()),
                          "node_name": self.target(), "sync": "none"}

    def finish(self):
        self.w.depth += 1


class MirrorStop(Mirror):
    """Cancelled when it is ready: the target is the disk at that moment."""
    name = "mirror-stop"
    frozen = None

    def left_out(self):
        return []

    def stopped(self):
        return self.status() == "concluded" and not self.w.job("j").get("error")

    def end(self):
        """Ready or not, begun or not: afterwards it has ended well."""
        for _ in range(4):
            job = self.w.job("j")
            if job and job.get("error"):
                self.w.command("job-dismiss", id="j")
                job = None
            if not job:
                self.frozen = None
                self.begin()
            self.wait_for("ready", "concluded")
            if self.frozen is None:
                self.w.guest.model.thaw()
                self.frozen = self.w.guest.model.freeze()
            if self.status() == "ready":
                self.w.command("block-job-cancel", device="j")
            self.wait_for("concluded")
            if self.stopped():
                return
        raise death_world.Wrong("it does not end: %r" % self.w.job("j"))

    def steps(self):
        begin, _, dismiss = super().steps()
        return [begin, death_ops.Step("block-job-cancel", self.end, self.stopped, again=True), dismiss]

    def finish(self):
        window, raw = self.w.guest.model.thaw(), self.w.path("t.raw")
        self.w.delete(self.target())
        death_world.tool("qemu-img", "convert", "-O", "raw", self.w.path(self.target()), raw)
        oracle.check(raw, self.frozen, window, "the mirror")
        os.unlink(raw)
        self.clean(self.target())


# --- images of no disk ---

class Create(death_ops.Op):
    """An image by blockdev-create: the file, then what is in it."""
    name = "create"

    def make(self, ident, options):
        self.w.command("blockdev-create", job_id=ident, options=options)

    def made(self, ident):
        job = self.w.job(ident)
        if job and job.get("error"):
            raise death_world.Wrong("%s: %s" % (ident, job["error"]))
        return job is not None

    def one(self, ident, options):
        return [death_ops.Step("blockdev-create " + ident, lambda: self.make(ident, options),
                               lambda: self.made(ident), lambda: self.made(ident), voids=True),
                death_ops.Step("job-dismiss", lambda: self.w.command("job-dismiss", id=ident),
                               lambda: self.w.job(ident) is None, voids=True)]

    def steps(self):
        file = {"driver": "file", "filename": self.w.path("x")}
        return (self.one("file", dict(file, size=0)) +
                self.one("qcow2", {"driver": "qcow2", "file": file, "size": 16 * MIB}))

    def finish(self):
        self.w.add("x", "x")
        self.w.delete("x")
        self.clean("x")


class Resize(death_ops.Disk):
    name = "resize"

    def prepare(self):
        self.image()
        self.w.add("x", "x")

    def larger(self):
        return any(n["image"]["virtual-size"] == 2 * self.SIZE * MIB for n in self.w.nodes()
                   if n["node-name"] == "x")

    def steps(self):
        return [death_ops.Step("block_resize", lambda: self.w.command(
            "block_resize", node_name="x", size=2 * self.SIZE * MIB), self.larger)]

    def finish(self):
        self.data.extend(bytes(self.SIZE * MIB))
        self.w.attach("x", "d1")
        self.put(self.SIZE - 1, 2)
        self.w.detach("d1")
        self.w.delete("x")
        self.compare()


class Reopen(death_ops.Disk):
    """An image gets a backing node, which it has no more, and gets again."""
    name, TOP = "reopen", "y"

    def prepare(self):
        self.image()
        death_world.tool("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "x", "-F", "qcow2",
                         self.w.path("y"), "%dM" % self.SIZE)
        self.w.add("x", "x")
        self.w.attach("x", "d1")
        self.put(3, 2)
        self.w.detach("d1")
        self.w.add("y", "y", backing=None)

    def options(self, name, **more):
        return dict({"driver": "qcow2", "node-name": name,
                     "file": {"driver": "file", "filename": self.w.path(name)}}, **more)

    def backed(self):
        return any(n["ro"] for n in self.w.nodes() if n["node-name"] == "x")

    def set(self, backed):
        changes = [self.options("y", backing="x")] if backed else [
            self.options("y", backing=None), self.options("x", **{"read-only": False})]
        return death_ops.Step("blockdev-reopen", lambda: self.w.command(
            "blockdev-reopen", options=changes), lambda: self.backed() == backed, voids=True)

    def steps(self):
        return [self.set(True), self.set(False), self.set(True)]

    def finish(self):
        self.w.attach("y", "d1")
        self.put(4, 2)
        self.w.detach("d1")
        self.w.delete("y")
        self.w.delete("x")
        self.compare()
        self.clean("x")


OPS = (Mirror, MirrorOverlay, MirrorStop, CommitActive, Commit, Stream, StreamBelow, Create, Resize, Reopen)
