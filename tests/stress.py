#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations on several busy disks, while the daemon is killed and restarted.

stress.py DIR DEVICE --work W --daemon P [--seed N] [--seconds S] [--cgroup G] [--disks K]
          [--verbose]

Each disk has a thread that picks operations of OPS, a guest whose every read is compared
(oracle.py) and fio --verify. Even disks have their images in DIR, odd ones on slices of DEVICE.
The last one's fio works through the page cache, in a memory cgroup below G with too little
memory. Beside them one of FATES befalls the daemon every few seconds.

An operation is a function of a Disk and a line in OPS (stress_ops.py, stress_chain.py) with its weight. It
returns False where it does not apply. Prints "pass TEXT", "fail TEXT" and "# notes".
"""
import argparse
import collections
import faulthandler
import os
import random
import sys
import threading
import time
import traceback

import dmio
import stress_world
from stress_ops import OPS, end_job, look_at_job
from stress_world import (DISK, FAILURES, MIB, Client, Daemon, Files, Guest, Hog, Slices, Wrong,
                          read_image, tool)

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
