# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations that death.py lets the daemon die in: an entry each; those on chains are in death_chain.py.

An operation prepares, undisturbed; has steps, each a command with a way to see that it is
done; and finishes: what it made is looked at and taken away. World is in death_world.py.
"""
import os
import shutil
import threading
import time

import death_world
import dmio
import oracle

MIB = 1 << 20


class Step:
    """@send: the command. @done: was it. @wait: until what it began has ended. @voids: what it
    does undoes what earlier steps did. @again: it may be under way still, or has to be done anew."""

    def __init__(self, name, send, done, wait=None, voids=False, again=False):
        self.name, self.send, self.done, self.voids, self.again = name, send, done, voids, again
        self.wait = wait or (lambda: None)


class Op:
    def __init__(self, world):
        self.w, self.old = world, world.top("vm0")

    def names(self):
        """What has another name in each round: {name: one for all rounds}."""
        return {self.old: "OLD"}

    def left_out(self):
        """Names whose nodes do not count: whether they stay depends on who made them."""
        return []

    def prepare(self):
        pass

    def finish(self):
        pass

    def until(self, what, condition, seconds=300):
        end = time.monotonic() + seconds
        while not condition():
            if self.w.process.poll() is not None:
                self.w.reap()
            if time.monotonic() > end:
                raise death_world.Wrong("%s: not within %d s" % (what, seconds))
            time.sleep(0.02)

    def template(self, name, file, *options):
        """A copy of an image that is made once."""
        source = self.w.path("template-" + name)
        if not os.path.exists(source):
            death_world.tool("qemu-img", "create", "-q", "-f", "qcow2", *options[:-1], source,
                       options[-1])
        shutil.copyfile(source, self.w.path(file))

    def clean(self, file, *options):
        death_world.tool("qemu-img", "check", *options, self.w.path(file))
        os.unlink(self.w.path(file))


# --- disks ---

class Disk(Op):
    """A disk of its own beside vm0: image x, disk d1."""
    SIZE, TOP = 32, "x"

    def image(self):
        self.template("x", "x", "-o", "cluster_size=4k", "%dM" % self.SIZE)
        self.data = bytearray(self.SIZE * MIB)

    def put(self, mib, nr):
        disk = dmio.Disk("/dev/mapper/d1")
        for i in range(mib * 4, (mib + nr) * 4):
            data = dmio.pattern(self.w.serial, i * 512, 512)
            disk.write(i * 512, data)
            self.data[i * len(data):(i + 1) * len(data)] = data
        disk.flush()
        disk.close()

    def compare(self):
        """The image is clean, and holds what was written."""
        raw = self.w.path("x.raw")
        death_world.tool("qemu-img", "convert", "-O", "raw", self.w.path(self.TOP), raw)
        oracle.check(raw, bytes(self.data), [], self.TOP)
        os.unlink(raw)
        self.clean(self.TOP)

    def attached(self):
        return "d1" in self.w.exports()

    def added(self):
        return "x" in self.w.node_names()


class Attach(Disk):
    name = "attach"

    def prepare(self):
        self.image()

    def steps(self):
        return [Step("blockdev-add", lambda: self.w.add("x", "x"), self.added),
                Step("block-export-add", lambda: self.w.attach("x", "d1"), self.attached)]

    def finish(self):
        self.put(3, 2)
        self.w.detach("d1")
        self.w.delete("x")
        self.compare()


class Detach(Disk):
    name = "detach"

    def prepare(self):
        self.image()
        self.w.add("x", "x")
        self.w.attach("x", "d1")
        self.put(3, 2)

    def steps(self):
        return [Step("block-export-del", lambda: self.w.detach("d1"),
                     lambda: not self.attached()),
                Step("blockdev-del", lambda: self.w.delete("x"), lambda: not self.added())]

    def finish(self):
        self.compare()


class DetachAdopted(Detach):
    """From a daemon that found the disk: what the first one's death leaked is taken back, too."""
    name = "detach-adopted"

    def prepare(self):
        super().prepare()
        self.w.kill()
        self.w.start()


class DetachSnapshot(Detach):
    """From a daemon that found it, of an image that a snapshot made: its node goes with the disk."""
    name, TOP = "detach-snapshot", "xs"

    def prepare(self):
        super().prepare()
        self.w.command("blockdev-snapshot-sync", device="d1", snapshot_file=self.w.path(self.TOP))
        self.put(4, 2)
        self.w.kill()
        self.w.start()

    def compare(self):
        super().compare()
        self.clean("x")


class FirstWrites(Disk):
    """The guest writes to a fresh disk: the map is loaded, tables are made, space is granted."""
    name = "writes"
    thread = error = None

    def prepare(self):
        self.image()
        self.w.add("x", "x")

    def work(self):
        try:
            self.put(0, 20)
        except Exception as e:
            self.error = e

    def begin(self):
        if not self.thread:
            self.thread = threading.Thread(target=self.work, daemon=True)
            self.thread.start()

    def written(self):
        return self.thread is not None and not self.thread.is_alive()

    def steps(self):
        return [Step("block-export-add", lambda: self.w.attach("x", "d1"), self.attached),
                Step("writes", self.begin, self.written,
                     lambda: self.until("the guest's writes", self.written), again=True)]

    def finish(self):
        if self.error:
            raise death_world.Wrong("a write: %s" % self.error)
        self.w.detach("d1")
        self.w.delete("x")
        self.compare()


# --- snapshots ---

class SnapshotSync(Op):
    name = "snapshot-sync"

    def __init__(self, world):
        super().__init__(world)
        self.new = "s%d" % world.serial

    def names(self):
        return {self.old: "OLD", self.new: "NEW"}

    def steps(self):
        return [Step("blockdev-snapshot-sync", lambda: self.w.command(
            "blockdev-snapshot-sync", device="vm0", snapshot_file=self.w.path(self.new),
            snapshot_node_name=self.new), lambda: self.w.top("vm0") == self.new)]

    def finish(self):
        self.w.depth += 1


class Snapshot(SnapshotSync):
    """The overlay is a node that the client made."""
    name = "snapshot"

    def prepare(self):
        death_world.tool("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", self.old,
                   "-F", "qcow2", self.w.path(self.new), "%dM" % death_world.DISK_MIB)

    def steps(self):
        return [Step("blockdev-add", lambda: self.w.add(self.new, self.new, backing=None),
                     lambda: self.new in self.w.node_names()),
                Step("blockdev-snapshot", lambda: self.w.command(
                    "blockdev-snapshot", node="vm0", overlay=self.new),
                    lambda: self.w.top("vm0") == self.new)]


class Transaction(SnapshotSync):
    """Snapshots of two disks and a backup of a third, as one: all or none."""
    name = "transaction"

    def prepare(self):
        for name in ("x", "y"):
            self.template("x", name, "-o", "cluster_size=4k", "32M")
            self.w.add(name, name)
            self.w.attach(name, "d" + name)
        self.template("t32", "t", "32M")
        self.w.add("t", "t")

    def send(self):
        def sync(device, name):
            return {"type": "blockdev-snapshot-sync", "data": {
                "device": device, "snapshot-file": self.w.path(name), "snapshot-node-name": name}}
        backup = {"device": "dy", "target": "t", "sync": "full", "job-id": "j", "auto-dismiss": False}
        self.w.command("transaction", actions=[
            sync("vm0", self.new), sync("dx", "z"), {"type": "blockdev-backup", "data": backup}])

    def status(self):
        job = self.w.job("j")
        return job and job["status"]

    def done(self):
        """What one disk says holds for all."""
        made = self.w.top("vm0") == self.new
        if (self.w.top("dx") == "z") != made or (self.status() is not None) != made:
            raise death_world.Wrong("part of it was done: %s %s %s" % (
                self.w.top("vm0"), self.w.top("dx"), self.status()))
        return made

    def steps(self):
        return [Step("transaction", self.send, self.done, lambda: self.until(
            "the job has ended", lambda: self.status() in ("concluded", None)))]

    def finish(self):
        super().finish()
        if self.w.job("j").get("error"):
            raise death_world.Wrong("the backup: %s" % self.w.job("j"))
        self.w.command("job-dismiss", id="j")
        for name in ("x", "y"):
            self.w.detach("d" + name)
        for name in ("t", "y") + (("z",) if "z" in self.w.node_names() else ()) + ("x",):
            if name in self.w.node_names():
                self.w.delete(name)
        death_world.tool("qemu-img", "compare", "-q", self.w.path("y"), self.w.path("t"))
        for name in ("z", "x", "y", "t"):
            self.clean(name)


# --- jobs ---

class Backup(Op):
    """To its end, then dismissed."""
    name = "backup"
    speed, finalize = 0, True
    window = None

    def prepare(self):
        self.template("t", "t", "%dM" % death_world.DISK_MIB)
        self.w.add("t", "t")

    def start(self):
        model = self.w.guest.model
        model.thaw()
        self.frozen = model.freeze()
        self.w.command("blockdev-backup", device="vm0", target="t", sync="full", job_id="j",
                       speed=self.speed, auto_dismiss=False, auto_finalize=self.finalize)
        self.window = model.thaw()

    def there(self):
        """The job is known, or it is known that it is not: so is its moment."""
        found = self.w.job("j") is not None
        if found and self.window is None:
            self.window = self.w.guest.model.thaw()
        return found

    def status(self):
        job = self.w.job("j")
        return job and job["status"]

    def wait_for(self, status):
        self.until("the job is %s" % status, lambda: self.status() in (status, None))

    def begin(self):
        return Step("blockdev-backup", self.start, self.there,
                    lambda: self.wait_for("concluded"))

    def end(self):
        return Step("job-dismiss", lambda: self.w.command("job-dismiss", id="j"),
                    lambda: self.status() is None, voids=True)

    def steps(self):
        return [self.begin(), self.end()]

    def finish(self):
        self.w.delete("t")
        self.compare()

    def compare(self):
        raw = self.w.path("t.raw")
        death_world.tool("qemu-img", "convert", "-O", "raw", self.w.path("t"), raw)
        oracle.check(raw, self.frozen, self.window, "the backup")
        os.unlink(raw)
        self.clean("t")


class Fleecing(Backup):
    """What the disk held is kept, shown, read, and let go."""
    name = "fleecing"

    def start(self):
        model = self.w.guest.model
        model.thaw()
        self.frozen = model.freeze()
        self.w.command("blockdev-add", driver="copy-before-write", node_name="c", file=self.old,
                       target="t", on_cbw_error="break-snapshot")
        self.window = model.thaw()

    def there(self):
        found = "c" in self.w.node_names()
        if found and self.window is None:
            self.window = self.w.guest.model.thaw()
        return found

    def show(self):
        self.w.command("block-export-add", type="dm", id="f", node_name="s", name="f")

    def look(self):
        oracle.check("/dev/mapper/f", self.frozen, self.window, "what was kept")

    def gone(self, name):
        return Step("blockdev-del " + name, lambda: self.w.delete(name),
                    lambda: name not in self.w.node_names(), voids=True)

    def steps(self):
        return [Step("blockdev-add c", self.start, self.there),
                Step("blockdev-add s", lambda: self.w.command(
                    "blockdev-add", driver="snapshot-access", node_name="s", file="c"),
                    lambda: "s" in self.w.node_names()),
                Step("block-export-add", self.show, lambda: "f" in self.w.exports(), self.look),
                Step("block-export-del", lambda: self.w.detach("f"),
                     lambda: "f" not in self.w.exports(), voids=True),
                self.gone("s"), self.gone("c")]

    def finish(self):
        self.w.delete("t")
        self.clean("t")


class DriveBackup(Backup):
    """The target is made by the command."""
    name = "drive-backup"

    def prepare(self):
        pass

    def start(self):
        model = self.w.guest.model
        model.thaw()
        self.frozen = model.freeze()
        self.w.command("drive-backup", device="vm0", target=self.w.path("t"), sync="full",
                       job_id="j", auto_dismiss=False, speed=65536)
        self.window = model.thaw()

    def steps(self):
        return [Step("drive-backup", self.start, self.there),
                Step("block-job-set-speed",
                     lambda: self.w.command("block-job-set-speed", device="j", speed=0),
                     lambda: self.status() == "concluded" or
                     self.w.command("query-block-jobs")[0]["speed"] == 0,
                     lambda: self.wait_for("concluded")), self.end()]

    def finish(self):
        self.compare()


class Finalize(Backup):
    name = "finalize"
    finalize = False

    def prepare(self):
        super().prepare()
        self.start()
        self.wait_for("pending")

    def steps(self):
        return [Step("job-finalize", lambda: self.w.command("job-finalize", id="j"),
                     lambda: self.status() in ("concluded", None),
                     lambda: self.wait_for("concluded")), self.end()]


class Cancel(Backup):
    name = "cancel"
    speed = 65536

    def prepare(self):
        super().prepare()
        self.start()

    def steps(self):
        return [Step("block-job-cancel", lambda: self.w.command("block-job-cancel", device="j"),
                     lambda: self.status() in ("concluded", None),
                     lambda: self.wait_for("concluded")), self.end()]

    def compare(self):
        self.clean("t")


class Pause(Backup):
    """Paused, resumed, let go; to its end."""
    name = "pause"
    speed = 65536

    def prepare(self):
        super().prepare()
        self.start()

    def steps(self):
        def send(verb, **arguments):
            return lambda: self.w.command(verb, **arguments)
        return [Step("job-pause", send("job-pause", id="j"), lambda: self.status() == "paused"),
                Step("job-resume", send("job-resume", id="j"),
                     lambda: self.status() == "running", voids=True),
                Step("block-job-set-speed", send("block-job-set-speed", device="j", speed=0),
                     lambda: self.status() == "concluded" or
                     self.w.command("query-block-jobs")[0]["speed"] == 0,
                     lambda: self.wait_for("concluded"), voids=True)]

    def finish(self):
        self.w.command("job-dismiss", id="j")
        super().finish()


class BackupNode(Backup):
    """Of an image that is on no disk, to a raw image: the source has a device for the job."""
    name = "backup-node"

    def prepare(self):
        self.template("x", "x", "-o", "cluster_size=4k", "32M")
        self.w.add("x", "x")
        self.w.attach("x", "d1")
        disk = dmio.Disk("/dev/mapper/d1")
        disk.write(0, dmio.pattern(self.w.serial, 0, 4096))
        disk.close()
        self.w.detach("d1")
        with open(self.w.path("t"), "wb") as f:
            f.truncate(32 * MIB)
        self.w.add("t", "t", driver="raw")

    def start(self):
        self.w.command("blockdev-backup", device="x", target="t", sync="full", job_id="j",
                       auto_dismiss=False, x_force=True)

    def finish(self):
        self.w.delete("t")
        self.w.delete("x")
        death_world.tool("qemu-img", "compare", "-q", "-F", "raw", self.w.path("x"), self.w.path("t"))
        self.clean("x")
        os.unlink(self.w.path("t"))


# --- the daemon itself ---

class Quit(Disk):
    """With a disk that is in use, one that is not, and a job."""
    name = "quit"

    def prepare(self):
        self.image()
        self.w.add("x", "x")
        self.w.attach("x", "d1")
        self.put(3, 2)
        self.job = Cancel(self.w)
        self.job.prepare()

    def wait(self):
        """The next daemon finds what was left."""
        if self.w.process.poll() is not None:
            self.w.start()

    def steps(self):
        return [Step("quit", self.w.quit, lambda: False, self.wait, again=True)]

    def finish(self):
        if self.attached():
            raise death_world.Wrong("the disk d1 is there after quit")
        if self.w.job("j"):
            raise death_world.Wrong("the job is there after quit")
        self.w.delete("x")
        self.w.delete("t")
        self.compare()
        self.clean("t")


class Restart(Quit):
    """The daemon was killed; the one that takes over dies."""
    name = "restart"

    def again(self):
        self.w.kill()
        self.w.start()

    def steps(self):
        return [Step("restart", self.again, lambda: True)]

    def finish(self):
        self.put(6, 1)
        self.w.command("block-job-cancel", device="j")
        self.w.command("job-dismiss", id="j")
        self.w.detach("d1")
        super().finish()


OPS = (Attach, Detach, DetachAdopted, DetachSnapshot, FirstWrites, SnapshotSync, Snapshot, Transaction, Backup,
       DriveBackup, Fleecing, BackupNode, Finalize, Cancel, Pause, Quit, Restart)
