#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations on several busy disks, while the daemon is killed and restarted.

stress.py DIR DEVICE --work W --daemon P [--seed N] [--seconds S] [--cgroup G] [--disks K]
          [--verbose]

Each disk has a thread that picks operations of OPS, a guest whose every read is compared
(oracle.py) and fio --verify. Even disks have their images in DIR, odd ones on slices of DEVICE.
The last one's fio works through the page cache, in a memory cgroup below G with too little
memory. Beside them one of FATES befalls the daemon every few seconds.

An operation is a function of a Disk and a line in OPS (or those of stress_chain.py) with its weight. It
returns False where it does not apply. Prints "pass TEXT", "fail TEXT" and "# notes".
"""
import argparse
import collections
import errno
import faulthandler
import os
import random
import sys
import threading
import time
import traceback

import dmio
import stress_chain
import stress_world
from stress_world import (DISK, FAILURES, MIB, Client, Daemon, Files, Guest, Hog, Slices, Wrong,
                          Refused, compare, read_image, tool, until)

CHAIN_MAX = 6
MINUTE = 60     # from here on each operation must be done


def say(text):
    print("# " + text, flush=True)


class Disk(threading.Thread):
    """One disk's life: attached, operated on, detached, looked at; again and again."""

    def __init__(self, runner, number):
        super().__init__(daemon=True)
        self.runner, self.name = runner, "vm%d" % number
        self.store = runner.stores[number % 2]
        self.group = runner.low if number == runner.args.disks - 1 else None
        self.rng = random.Random(runner.args.seed * 100 + number)
        self.daemon, self.client = runner.daemon, Client(runner.daemon)
        self.counts, self.history = collections.Counter(), collections.deque(maxlen=25)
        self.serial, self.job, self.guest, self.error = 0, None, None, None
        self.chain, self.gone, self.longest = [], [], 0.0     # images: (path, format)

    # --- names, images ---

    @property
    def device(self):
        return "/dev/mapper/" + self.name

    def image(self, kind, size=None):
        """A new place for an image, in this disk's store."""
        self.serial += 1
        return self.store.new("%s-%s%d" % (self.name, kind, self.serial), size)

    def create(self, path, *options, **how):
        size = how.get("cluster") or 1 << self.rng.randrange(12, 22)
        compat = self.rng.choice(["1.1", "1.1", "1.1", "0.10"])
        tool("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-o",
             "cluster_size=%d,compat=%s" % (size, compat), *options, path, str(DISK))

    def base(self, content):
        """New images with that content: a base, raw or not, and an overlay."""
        for path, _ in self.chain:
            self.store.free(path)
        raw = os.path.join(self.runner.args.work, self.name + ".base")
        with open(raw, "wb") as f:
            f.write(content)
        fmt = self.rng.choice(["raw", "qcow2"])
        base, top = self.image("i", DISK if fmt == "raw" else None), self.image("i")
        tool("qemu-img", "convert", "-n" if fmt == "raw" else "-q", "-f", "raw", "-O", fmt, raw, base)
        os.unlink(raw)
        self.create(top, "-b", base, "-F", fmt)
        self.chain = [(top, "qcow2"), (base, fmt)]

    def file(self, path):
        return {"driver": self.store.driver, "filename": path}

    # --- what the daemon says ---

    def node_names(self):
        return [n["node-name"] for n in self.client.ask("query-named-block-nodes", flat=True)]

    def export(self):
        for x in self.client.ask("query-block-exports"):
            if x["id"] == self.name:
                return x
        return None

    def top(self):
        """The node that the disk writes to, and its file."""
        node = self.export()["node-name"]
        for n in self.client.ask("query-named-block-nodes", flat=True):
            if n["node-name"] == node:
                return node, n["file"]
        raise Wrong("%s is on node %s, which is not there" % (self.name, node))

    def own_nodes(self):
        """Those that were given a name: the top, and images that had been the top. Newest first."""
        names = [n for n in self.node_names() if n.startswith(self.name + "-")]
        return sorted(names, key=lambda n: -int(n.split("-")[1][1:]))

    def add(self, node, driver, path, **more):
        self.client.sure(lambda: node in self.node_names(), "blockdev-add", driver=driver,
                         node_name=node, file=self.file(path), **more)

    def delete(self, node):
        self.client.sure(lambda: node not in self.node_names(), "blockdev-del", node_name=node)

    # --- its life ---

    def attach(self, content):
        with self.daemon:
            self.serial += 1
            node = "%s-n%d" % (self.name, self.serial)
            self.add(node, "qcow2", self.chain[0][0])
            self.client.sure(lambda: self.export() is not None, "block-export-add", type="dm",
                             id=self.name, node_name=node, name=self.name, writable=True)
            model = os.path.join(self.runner.args.work, self.name + ".model")
            with open(model, "wb") as f:
                f.write(content)
            self.guest = Guest(self.device, model, self.rng, self.group)

    def detach(self):
        """The clean end of an attachment; returns the content."""
        end_job(self)
        data = self.guest.end()
        self.longest = max(self.longest, self.guest.longest())
        self.counts["fio rounds"] += self.guest.fio.rounds
        self.counts["guest's requests"] += sum(s.ops for s in self.guest.streams)
        with self.daemon:
            path = self.top()[1]
            if path != self.chain[0][0]:
                raise Wrong("%s writes to %s instead of %s" % (self.name, path, self.chain[0][0]))
            self.guest.close()
            self.guest = None
            self.client.sure(lambda: self.export() is None, "block-export-del", id=self.name)
            while names := self.own_nodes():    # what only an overlay refers to goes with it
                self.delete(names[0])
        for path, fmt in self.chain + self.gone:
            if fmt == "qcow2":
                tool("qemu-img", "check", path)
        while self.gone:
            self.store.free(self.gone.pop()[0])
        if read_image(*self.chain[0], self.runner.args.work) != data:
            raise Wrong("QEMU reads something else from %s than the disk held" % self.chain[0][0])
        return data

    def check(self):
        if self.guest:
            self.guest.check()
            self.longest = max(self.longest, self.guest.longest())

    def pick(self):
        return self.runner.pick(OPS, self.rng)

    def run(self):
        try:
            self.live()
        except Exception as e:      # whatever it is: the test ends, and says it
            self.error = e
            if not isinstance(e, FAILURES):
                say(traceback.format_exc().replace("\n", "\n# "))
            self.runner.stop.set()

    def live(self):
        self.base(bytes(DISK // 4) + dmio.pattern(7, DISK // 2048, DISK // 4 // 512) + bytes(DISK // 2))
        data = bytes(DISK // 4) + dmio.pattern(7, DISK // 2048, DISK // 4 // 512) + bytes(DISK // 2)
        while True:
            self.attach(data)
            while not self.runner.stop.is_set() and len(self.chain) <= CHAIN_MAX:
                name = self.pick()
                if name == "detach, attach":
                    break
                self.operate(name)
            self.history.append("detach")
            if self.runner.failed():
                return
            data = self.detach()
            self.counts["detach, attach"] += 1
            if self.runner.stop.is_set():
                return
            if len(self.chain) > CHAIN_MAX:
                self.base(data)

    def operate(self, name):
        begin = time.monotonic()
        self.history.append(name)
        if OPS[name][0](self) is not False:
            self.counts[name] += 1
            if self.runner.args.verbose:
                say("%s: %s, %.1f s" % (self.name, name, time.monotonic() - begin))
            time.sleep(self.rng.random() * 0.5)
        self.check()
        look_at_job(self)

    def close(self):
        """The images are taken away."""
        for path, _ in self.chain + self.gone:
            self.store.free(path)


# --- operations: snapshots ---

def snapshot(d):
    """The daemon makes the overlay. (Not during a backup: its source is busy then, as in QEMU.)"""
    if d.job:
        return False
    path = d.image("i")
    d.client.sure(lambda: d.top()[1] == path, "blockdev-snapshot-sync", device=d.name,
                  snapshot_file=path, snapshot_node_name="%s-s%d" % (d.name, d.serial))
    d.chain.insert(0, (path, "qcow2"))


def overlay(d):
    """The user has made it, with clusters of any size."""
    if d.job:
        return False
    path, node = d.image("i"), "%s-o%d" % (d.name, d.serial)
    d.create(path, "-b", d.chain[0][0], "-F", d.chain[0][1])
    d.add(node, "qcow2", path, backing=None)
    d.client.sure(lambda: d.export()["node-name"] == node, "blockdev-snapshot",
                  node=d.top()[0], overlay=node)
    d.chain.insert(0, (path, "qcow2"))


# --- operations: backup ---

class Job:
    def __init__(self, d, quiet):
        d.serial += 1
        self.id, self.node = "%s-j%d" % (d.name, d.serial), "%s-t%d" % (d.name, d.serial)
        self.quiet, self.cancelled, self.answered = quiet, False, False
        self.driver = d.rng.choice(["qcow2", "qcow2", "raw"])
        self.path = d.image("t", DISK if self.driver == "raw" else None)
        self.window, self.want = [], None
        self.quits = d.daemon.quits


def backup(d, quiet=False):
    if d.job:
        return False
    job = Job(d, quiet)
    if job.driver == "qcow2":
        d.create(job.path)
    d.add(job.node, job.driver, job.path)

    def start():
        job.answered = d.client.sure(
            lambda: job_now(d, job) is not None, "blockdev-backup", device=d.name, target=job.node,
            sync="full", job_id=job.id, auto_dismiss=False,
            speed=d.rng.choice([0, MIB, 2 * MIB, 8 * MIB]))

    d.job = job
    if quiet:
        try:
            job.want = d.guest.hold()
            start()
        finally:
            d.guest.release()
    else:
        job.want = d.guest.model.freeze()[:DISK // 2]
        try:
            start()
        finally:
            job.window = d.guest.model.thaw()


def backup_quiet(d):
    """Of a moment at which nothing is in flight: all of its content is known."""
    return backup(d, True)


def job_now(d, job):
    for j in d.client.ask("query-jobs"):
        if j["id"] == job.id:
            return j
    return None


def look_at_job(d):
    """Has it ended? Then its image is looked at and taken away."""
    job = d.job
    if not job:
        return
    now, quits = job_now(d, job), d.daemon.quits
    if now and now["status"] != "concluded":
        return
    if not now and quits == job.quits:
        raise Wrong("the job %s is gone" % job.id)
    error = now.get("error") if now else "quit"
    if error and not (job.cancelled or error == "quit" or
                      "lost the job" in error and not job.answered):
        raise Wrong("the job %s: %s" % (job.id, error))
    if now:
        try:
            d.client.sure(lambda: job_now(d, job) is None, "job-dismiss", id=job.id)
        except Refused:
            if d.daemon.quits == job.quits:     # else it went with a daemon
                raise
    d.delete(job.node)
    d.job = None
    if job.driver == "qcow2":
        tool("qemu-img", "check", job.path)
    if error:
        d.counts["backups cut short"] += 1
    else:
        compare(read_image(job.path, job.driver, d.runner.args.work), job.want, job.window,
                "the %sbackup (%s) %s" % ("quiet " if job.quiet else "", job.driver, job.path))
        d.counts["backups compared"] += 1
    d.store.free(job.path)


def job_verb(d, verb, **arguments):
    """It may have ended, or be paused, before the verb comes."""
    job = d.job
    before = job_now(d, job)
    if not before or before["status"] == "concluded":
        return
    try:
        d.client.sure(lambda: job_now(d, job) != before, verb, **arguments)
    except Refused:
        now = job_now(d, job)
        if now and now["status"] == before["status"]:
            raise


def job_pause(d):
    now = d.job and job_now(d, d.job)
    if not now or now["status"] not in ("running", "paused"):
        return False
    job_verb(d, "job-pause" if now["status"] == "running" else "job-resume", id=d.job.id)


def job_speed(d):
    if not d.job:
        return False
    now = job_now(d, d.job)
    if not now or now["status"] == "concluded":
        return False
    job_verb(d, "block-job-set-speed", device=d.job.id, speed=d.rng.choice([0, MIB, 16 * MIB]))


def job_cancel(d):
    if not d.job or d.rng.random() < 0.5:
        return False
    now = job_now(d, d.job)
    if not now or now["status"] == "concluded":
        return False
    d.job.cancelled = True
    job_verb(d, "block-job-cancel", device=d.job.id, force=True)


def end_job(d):
    """Lets a job that is under way come to its end."""
    end = time.monotonic() + stress_world.PATIENCE
    while d.job:
        now = job_now(d, d.job)
        if now and now["status"] == "paused":
            job_verb(d, "job-resume", id=d.job.id)
        elif now and now["status"] == "running":
            job_verb(d, "block-job-set-speed", device=d.job.id, speed=0)
        if time.monotonic() > end:
            raise Wrong("the job %s does not end: %s" % (d.job.id, now))
        time.sleep(0.1)
        look_at_job(d)


# --- operations: device-mapper ---

def mapped(d):
    dm = dmio.Dm.__new__(dmio.Dm)
    dm.name, dm.path = d.name, d.device
    return dm


def persist(what):
    """Of two who suspend, or resume, at the same time one is told EINVAL."""
    def done():
        try:
            what()
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            return False
        return True
    until(done, "a suspend or resume by hand", nap=0.01)


def suspend(d):
    """By hand, as LVM or an administrator does."""
    dm, noflush = mapped(d), d.rng.random() < 0.5
    persist(lambda: dm.suspend(noflush=noflush))
    try:
        time.sleep(d.rng.random() * 0.4)
    finally:
        persist(dm.resume)


def reload(d):
    """The same table again. (Not while the daemon may do so: who loads last wins.)"""
    if d.job:
        return False
    dm = mapped(d)
    dm.load([(0, DISK // 512, "livechain", dm.table())])
    if d.rng.random() < 0.3:
        dm.clear()
    elif d.rng.random() < 0.5:
        persist(dm.suspend)
    persist(dm.resume)


def idle(d):
    time.sleep(d.rng.random())


OPS = {     # name: (function, weight)
    "snapshot": (snapshot, 3),
    "overlay": (overlay, 3),
    "backup": (backup, 3),
    "quiet backup": (backup_quiet, 3),
    "pause, resume": (job_pause, 4),
    "speed": (job_speed, 3),
    "cancel": (job_cancel, 1),
    "suspend": (suspend, 4),
    "reload": (reload, 4),
    "idle": (idle, 2),
    "detach, attach": (None, 1),    # ends an attachment: live()
    **stress_chain.OPS,
}


# --- what befalls the daemon ---

def kill(runner):
    runner.daemon.kill()
    time.sleep(runner.rng.choice([0, 0, runner.rng.random() * 2]))
    runner.daemon.start()


def kill_twice(runner):
    """The new one dies as well, soon after its start."""
    kill(runner)
    time.sleep(runner.rng.random() * 0.3)
    kill(runner)


def quit_and_start(runner):
    if not runner.daemon.quit():
        return False
    time.sleep(runner.rng.choice([0, runner.rng.random() * 2]))
    runner.daemon.start()


FATES = {
    "kill": (kill, 4),
    "kill twice": (kill_twice, 1),
    "quit": (quit_and_start, 2),
}


class Runner:
    def __init__(self, args):
        self.args, self.rng = args, random.Random(args.seed)
        self.stop = threading.Event()
        group = args.cgroup
        self.low = group and self.cgroup("guest", 24 * MIB)
        self.daemon = Daemon(args.daemon, args.work, group and self.cgroup("daemon", 96 * MIB))
        self.stores = [Files(args.dir), Slices(args.device)]
        self.disks = [Disk(self, i) for i in range(args.disks)]
        self.fates, self.hog, self.error = collections.Counter(), None, None
        self.half = float("inf")

    def cgroup(self, name, limit):
        path = os.path.join(self.args.cgroup, name)
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "memory.max"), "w") as f:
            f.write(str(limit))
        return path

    def failed(self):
        return self.error or any(d.error for d in self.disks)

    def undone(self, names):
        return [n for n in names
                if not self.fates[n] and not any(d.counts[n] for d in self.disks)]

    def goes_on(self, end):
        """A slow machine has three times as much again to do each operation once."""
        return self.args.seconds >= MINUTE and time.monotonic() < end + 3 * self.args.seconds and \
            self.undone([*OPS, *FATES])

    def pick(self, names, rng):
        """By their weights; in the second half often what nobody has done yet."""
        rare = self.undone(names)
        if rare and time.monotonic() > self.half and rng.random() < 0.5:
            return rng.choice(rare)
        return rng.choices(list(names), [weight for _, weight in names.values()])[0]

    def live(self):
        self.daemon.start()
        self.half = time.monotonic() + self.args.seconds / 2
        self.hog = Hog(self.low, 32) if self.low else None
        for d in self.disks:
            d.start()
        end = time.monotonic() + self.args.seconds
        while not self.stop.is_set() and (time.monotonic() < end or self.goes_on(end)):
            self.stop.wait(self.rng.uniform(0.5, 8))
            if self.stop.is_set():
                break
            self.daemon.check()
            if self.hog and self.hog.error:
                raise self.hog.error
            name = self.pick(FATES, self.rng)
            if self.args.verbose:
                say("daemon: " + name)
            if FATES[name][0](self) is not False:
                self.fates[name] += 1
        self.stop.set()
        for d in self.disks:
            d.join(3 * stress_world.PATIENCE)
            if d.is_alive():
                raise Wrong("%s does not come to its end" % d.name)

    def finish(self):
        """The daemon ends; nothing of it stays."""
        nodes = Client(self.daemon).ask("query-named-block-nodes", flat=True)
        if nodes:
            raise Wrong("nodes are left: %s" % [n["node-name"] for n in nodes])
        if not self.daemon.quit():
            raise Wrong("quit waits")
        folder = self.daemon.state + "/grants"
        left = os.listdir(folder) if os.path.exists(folder) else []
        left += [f for f in os.listdir(self.daemon.state) if f not in ("state.json", "lock", "grants")]
        if left:
            raise Wrong("left in the state folder: %s" % left)
        for d in self.disks:
            d.close()

    def run(self):
        try:
            self.live()
            if not self.failed():
                self.finish()
        except FAILURES as e:
            self.error = e
            self.stop.set()
        if self.hog:
            self.hog.end()
        self.report()
        if self.failed():
            self.abandon()
        return bool(self.failed())

    def report(self):
        for d in self.disks:
            text = "%s (%s): %s; longest wait %.1f s" % (
                d.name, "files" if d.store.driver == "file" else "block devices",
                ", ".join("%s %d" % c for c in sorted(d.counts.items())), d.longest)
            if d.error:
                text += "; %s: %s; after %s" % (type(d.error).__name__, d.error, list(d.history))
            print("%s %s" % ("fail" if d.error else "pass", text.replace("\n", " | ")))
        text = "the daemon: %s; longest start %.1f s; nothing is left" % (
            ", ".join("%s %d" % c for c in sorted(self.fates.items())), self.daemon.longest_start)
        if self.hog:
            text += "; swapped %s" % self.swapped()
        if self.error:
            text += "; %s: %s" % (type(self.error).__name__, self.error)
        print("%s %s" % ("fail" if self.error else "pass", text.replace("\n", " | ")))
        missing = self.undone([*OPS, *FATES, "backups compared", "fio rounds"])
        bad = bool(missing) and self.args.seconds >= MINUTE
        print("%s each operation was done%s" % ("fail" if bad else "pass",
                                               ", except " + ", ".join(missing) if missing else ""))
        if bad:
            self.error = self.error or Wrong("too little happened")

    def swapped(self):
        with open("/proc/vmstat") as f:
            v = dict(line.split() for line in f)
        return "in %s, out %s pages, hog killed %d times" % (v["pswpin"], v["pswpout"],
                                                            self.hog.killed)

    def abandon(self):
        """After a failure: whoever waits gets on, so that the case can end."""
        if self.daemon.process.poll() is not None:
            try:
                self.daemon.start()
            except FAILURES:
                pass
        for d in self.disks:
            if d.guest:
                d.guest.stop.set()
                d.guest.release()
                d.guest.fio.signal(9)
        time.sleep(5)
        self.daemon.process.kill()


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir")
    p.add_argument("device")
    p.add_argument("--work", required=True, help="folder for everything but images")
    p.add_argument("--daemon", required=True)
    p.add_argument("--cgroup", help="memory cgroup (version 2) to make groups in")
    p.add_argument("--disks", type=int, default=3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seconds", type=float, default=100)
    p.add_argument("--verbose", action="store_true")
    args = p.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.dump_traceback_later(4 * args.seconds + 8 * stress_world.PATIENCE, exit=True)
    status = Runner(args).run()
    sys.stdout.flush()
    os._exit(status)    # threads of a failed run may hang


if __name__ == "__main__":
    main()
