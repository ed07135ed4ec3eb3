#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon dies after each step that counts, while a guest does I/O.

death.py DIR DAEMON [--seed N] [--seconds S] [--only WHAT]

For each operation: once undisturbed, which counts its points (userspace/lib/fault.h); then
again and again with SIGKILL at point N. After each death
  - the guest's I/O goes on although nobody is there, and sees no error;
  - a new daemon takes up every device and job; the operation was done or not done;
  - nothing is left of it that neither the daemon nor a client knows;
  - what is not done is done when the client sends its command again;
  - the end is that of the undisturbed run: nodes, disks, jobs, data, clean images.
Some of the new daemons die as well, while they start (N:M).

WHAT: all (every N of every operation), OP (every N of one), OP:A-B (a part of them), OP:N or
OP:N:M (that one). Without
it N are picked at random, at least one for each operation, until S seconds are over.

Images go to DIR. Prints "pass TEXT", "fail TEXT" and "# notes".
"""
import argparse
import json
import mmap
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time

import death_ops
import dmio
import oracle
import qmp

MIB = 1 << 20
FAULT_NAMES = 4095
FAULT_FILE_SIZE = 64 + 64 * FAULT_NAMES
DISK_MIB = 16
CHAIN_MAX = 10
FAILURES_MAX = 5


class Died(Exception):
    """The daemon is gone; which it may be."""


class Wrong(Exception):
    """What must not be."""


FAILURES = (Wrong, Died, oracle.Mismatch, AssertionError, OSError, subprocess.TimeoutExpired)


class Faults:
    """The file that is shared with the daemon: userspace/lib/fault.h."""

    def __init__(self, path):
        with open(path, "wb") as f:
            f.truncate(FAULT_FILE_SIZE)
        self.path = path
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), FAULT_FILE_SIZE)

    def arm(self, number):
        """The daemon dies at point @number from now on; 0: it does not."""
        self.map[8:16] = bytes(8)
        self.map[0:8] = bytes(8)
        self.map[8:16] = struct.pack("=Q", number)

    def disarm(self):
        self.map[8:16] = bytes(8)

    def count(self):
        return struct.unpack("=Q", self.map[0:8])[0]

    def name(self, number):
        start = 64 + 64 * ((number - 1) % FAULT_NAMES)
        return self.map[start:start + 64].split(b"\0")[0].decode()


class Stream(oracle.Churn):
    """Random I/O on [first, end) of the disk; how long each operation took."""

    def __init__(self, guest, rng, first, end, verbs):
        super().__init__(guest.device, guest.model, rng, guest.stop)
        self.VERBS, self.first, self.end = verbs, first, end
        self.ops, self.longest, self.since = 0, 0.0, 0.0

    def pick(self):
        nr = self.rng.choice([8, 8, 8, 32, 128])
        return self.rng.randrange(self.first, self.end - nr) // 8 * 8, nr

    def one(self):
        self.since = time.monotonic()
        super().one()
        self.longest = max(self.longest, time.monotonic() - self.since)
        self.since = 0.0
        self.ops += 1
        time.sleep(0.01)


class Guest:
    """Who uses the disk vm0. `pulse` stays on what is loaded: it must never wait for a daemon."""

    def __init__(self, device, model, seed):
        self.device, self.model = device, oracle.Model(model)
        self.stop = threading.Event()
        rng = random.Random(seed)
        self.pulse = Stream(self, random.Random(rng.random()), 0, 2048, ["write", "read", "flush"])
        self.wide = Stream(self, random.Random(rng.random()), 2048, 5 * 2048,
                           ["write"] * 5 + ["read"] * 3 + ["discard", "zeroout", "flush"])
        for s in (self.pulse, self.wide):
            s.start()

    def check(self):
        for s in (self.pulse, self.wide):
            if s.error:
                raise Wrong("the guest's I/O: %s: %s" % (type(s.error).__name__, s.error))

    def progress(self, number, seconds, what):
        """The guest gets @number operations done."""
        want, end = self.pulse.ops + number, time.monotonic() + seconds
        while self.pulse.ops < want:
            self.check()
            if time.monotonic() > end:
                raise Wrong("the guest's I/O stands still %s" % what)
            time.sleep(0.005)

    def end(self):
        self.stop.set()
        for s in (self.pulse, self.wide):
            s.join(60)
            if s.is_alive():
                raise Wrong("an operation of the guest does not end")
        self.check()


def tool(*words):
    r = subprocess.run(words, capture_output=True, text=True)
    if r.returncode:
        raise Wrong("%s: %s" % (" ".join(words), (r.stdout + r.stderr).strip()))
    return r.stdout


def read_word(path):
    try:
        with open(path) as f:
            return f.read().strip()
    except OSError:
        return None


def devices():
    """The mapped devices: {name: suspended}."""
    found = {}
    for entry in os.listdir("/sys/block"):
        name = read_word("/sys/block/%s/dm/name" % entry)
        if name:
            found[name] = read_word("/sys/block/%s/dm/suspended" % entry) == "1"
    return found


def loops():
    """The files behind loop devices."""
    found = (read_word("/sys/block/%s/loop/backing_file" % e) for e in os.listdir("/sys/block"))
    return sorted(os.path.basename(f) for f in found if f)


class World:
    """A daemon, its state folder, the disk vm0 and its guest."""

    def __init__(self, args):
        self.args = args
        self.dir, self.daemon = args.dir, args.daemon
        self.state, self.socket = args.work + "/state", args.work + "/death.sock"
        self.log = open(args.work + "/death.log", "ab")
        self.faults = Faults(args.work + "/faults")
        self.process = self.client = self.guest = None
        self.seed, self.serial, self.depth = args.seed, 0, 0
        self.below = []
        self.longest_start = 0.0

    def path(self, name):
        return os.path.join(self.dir, name)

    # --- the daemon ---

    def start(self):
        """Starts it and connects; Died if it dies before it answers."""
        begin = time.monotonic()
        self.process = subprocess.Popen(
            [self.daemon, "--qmp", self.socket, "--state-dir", self.state],
            stdout=self.log, stderr=self.log,
            env=dict(os.environ, LIVECHAIN_FAULTS=self.faults.path))
        while True:
            if self.process.poll() is not None:
                self.reap()
            try:
                self.client = qmp.Client(self.socket, lambda e: None, 60)
                self.client.negotiate()
                break
            except (OSError, ConnectionError):
                if time.monotonic() > begin + 60:
                    raise Wrong("the daemon does not start")
                time.sleep(0.01)
        self.longest_start = max(self.longest_start, time.monotonic() - begin)

    def reap(self):
        """The daemon has ended or is about to: by SIGKILL, or it is wrong."""
        status = self.process.wait(60)
        self.client = None
        if status != -9:
            raise Wrong("the daemon ended with status %d" % status)
        raise Died

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.client = None

    def command(self, verb, **arguments):
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        try:
            reply = self.client.command(json.dumps({"execute": verb, "arguments": arguments}))
        except TimeoutError:
            raise Wrong("no answer to %s" % verb)
        except (OSError, ConnectionError):
            self.reap()
        if "return" not in reply:
            raise Wrong("%s %s: %s" % (verb, arguments, reply["error"]["desc"]))
        return reply["return"]

    def quit(self):
        self.command("quit")
        status = self.process.wait(60)
        self.client = None
        if status == -9:
            raise Died
        if status:
            raise Wrong("the daemon ended with status %d after quit" % status)

    # --- what a client sees ---

    def nodes(self):
        return self.command("query-named-block-nodes", flat=True)

    def node_names(self):
        return [n["node-name"] for n in self.nodes()]

    def exports(self):
        return [x["id"] for x in self.command("query-block-exports")]

    def job(self, ident):
        for j in self.command("query-jobs"):
            if j["id"] == ident:
                return j
        return None

    def top(self, disk):
        for d in self.command("query-block"):
            if d["device"] == disk:
                return os.path.basename(d["inserted"]["file"])
        raise Wrong("the disk %s is gone" % disk)

    def add(self, name, file, driver="qcow2", **more):
        self.command("blockdev-add", driver=driver, node_name=name,
                     file={"driver": "file", "filename": self.path(file)}, **more)

    def delete(self, name):
        self.command("blockdev-del", node_name=name)

    def attach(self, node, disk):
        self.command("block-export-add", type="dm", id=disk, node_name=node, name=disk,
                     writable=True)

    def detach(self, disk):
        self.command("block-export-del", id=disk)

    def shape(self, names):
        """Nodes and disks; @names are replaced, and what was below vm0's top at the round's
        start is left out: so rounds compare."""
        found = []
        for n in self.nodes():
            if os.path.basename(n["file"]) in self.below:
                continue
            name = n["node-name"] if not n["node-name"].startswith("#") else "-"
            found.append("node %s %s %s %s" % (name, n["drv"], "ro" if n["ro"] else "rw",
                                               os.path.basename(n["file"])))
        for x in self.command("query-block-exports"):
            found.append("disk %s on %s" % (x["id"], self.top(x["id"])))
        for word, other in names.items():
            found = [re.sub(r"\b%s\b" % re.escape(word), other, f) for f in found]
        return sorted(found)

    def check_explained(self):
        """Every device and every loop device is somebody's, and goes."""
        jobs = [j["id"] for j in self.command("query-jobs") if j["status"] != "concluded"]
        inner = ["livechain-%s--%s" % (j, side) for j in jobs for side in ("source", "target")]
        exports, found = self.exports(), devices()
        for name, suspended in found.items():
            if name not in exports and name not in inner:
                raise Wrong("the device %s is left behind" % name)
            if suspended:
                raise Wrong("the device %s is suspended" % name)
        for x in exports:
            if x not in found:
                raise Wrong("the disk %s has no device" % x)
        files = [os.path.basename(n["file"]) for n in self.nodes()]
        for f in loops():
            if f not in files:
                raise Wrong("a loop device is left on %s" % f)

    def check_jobs(self):
        """The daemon's jobs are the kernel's."""
        found = {}
        for name in devices():
            text = dmio.control().call(dmio.TABLE_STATUS, name)[3]
            found.update((m[0], m[1:]) for m in re.findall(
                r" (j) (running|paused|concluded) \d+/\d+ (\d+) \S+ \d+", text.decode("latin1")))
        for j in self.command("query-block-jobs"):
            state, speed = found.pop(j["device"], (None, None))
            if (j["status"] in ("running", "paused") and state != "concluded"
                    and (state, speed) != (j["status"], str(j["speed"]))):
                raise Wrong("job %s: %s, speed %d; in the kernel %s, speed %s" % (
                    j["device"], j["status"], j["speed"], state, speed))
        for ident in found:
            raise Wrong("nobody knows the kernel's job %s" % ident)

    # --- its life ---

    def build(self):
        """New images with the content of the last ones, a daemon, the disk, the guest."""
        base, model = self.path("base"), self.args.work + "/model"
        if not os.path.exists(base):
            with open(base, "wb") as f:
                for i in range(DISK_MIB // 2):
                    f.write(dmio.pattern(7, i * 2048, 2048))
                f.truncate(DISK_MIB * MIB)
        shutil.copyfile(base, model)
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", self.path("o0"))
        self.depth = 1
        self.start()
        self.add("o0", "o0")
        self.attach("o0", "vm0")
        self.seed += 1
        self.guest = Guest("/dev/mapper/vm0", model, self.seed)
        self.guest.progress(1, 60, "after the attach")

    def end(self):
        """The clean end: all is as it should be, on the disk too."""
        self.guest.end()
        top = self.path(self.top("vm0"))
        chain = [self.path(os.path.basename(n["file"])) for n in self.nodes() if n["drv"] == "qcow2"]
        oracle.same("/dev/mapper/vm0", self.guest.model)
        self.detach("vm0")
        self.quit()
        if devices() or loops():
            raise Wrong("left behind: %s, %s" % (list(devices()), loops()))
        left = os.listdir(self.state + "/grants") if os.path.exists(self.state + "/grants") else []
        left += [f for f in os.listdir(self.state) if f not in ("state.json", "lock", "grants")]
        if left:
            raise Wrong("left in the state folder: %s" % left)
        for image in chain:
            tool("qemu-img", "check", image)
        raw = self.path("flat")
        tool("qemu-img", "convert", "-O", "raw", top, raw)
        oracle.check(raw, self.guest.model.get(0, self.guest.model.sectors()), [], "the chain")
        self.guest = None
        for image in chain:
            os.unlink(image)
        os.replace(raw, self.path("base"))

    def abandon(self):
        """After a failure: takes away what is left, so that the case can go on."""
        self.faults.disarm()
        if self.process and self.process.poll() is not None:
            try:
                self.start()    # what waits for space gets it
            except (Died, Wrong):
                pass
        if self.guest:
            self.guest.stop.set()
            self.guest.pulse.join(20)
            self.guest.wide.join(20)
        if self.process and self.process.poll() is None:
            self.kill()
        for name in list(devices()) * 2:
            try:
                dmio.control().call(dmio.SUSPEND, name, 0)
                dmio.control().call(dmio.REMOVE, name)
            except OSError:
                pass
        self.guest = None
        shutil.rmtree(self.state)
        for f in os.listdir(self.dir):
            if os.path.isfile(self.path(f)) and f != "base" and not f.startswith("template-"):
                os.unlink(self.path(f))


class Runner:
    def __init__(self, args):
        self.args = args
        self.world = World(args)
        self.rng = random.Random(args.seed)
        self.counts, self.finals, self.between = {}, {}, {}
        self.deaths, self.second, self.late, self.failed = {}, 0, 0, []
        self.end_at = time.monotonic() + args.seconds
        self.stalls, self.recovery, self.where = {}, 40, "undisturbed"

    def note(self, text):
        print("# " + text, flush=True)

    # --- one round ---

    def dead(self, text):
        """Nobody is there; the guest does not notice. Then a new daemon, maybe a second."""
        held = [n for n, s in devices().items() if s]
        self.world.guest.progress(5, 20, "while no daemon is there (%s)%s" % (
            text, ", suspended: %s" % held if held else ""))
        self.world.guest.check()

    def recover(self, second):
        w = self.world
        if second:
            w.faults.arm(second)
            try:
                w.start()
            except Died:
                self.second += 1
                text = "second death after '%s'" % w.faults.name(second)
                self.where += ", " + text
                w.faults.disarm()
                self.dead(text)
                w.start()
            w.faults.disarm()
        else:
            w.faults.arm(0)
            w.start()
            self.recovery = max(self.recovery, w.faults.count())

    def steps(self, op, number, second):
        """Does the operation with a death at point @number; returns the points, and if it died."""
        w, died, acked = self.world, False, 0
        shapes = [w.shape(op.names())]
        w.faults.arm(number)
        try:
            for step in op.steps():
                step.send()
                acked += 1
                step.wait()
                shapes.append(w.shape(op.names()))
            w.faults.disarm()
            w.command("query-status")
        except Died:
            died = True
        w.faults.disarm()
        points = w.faults.count()
        if not number:
            self.between[op.name] = shapes
        if died:
            self.where = "died after '%s'" % w.faults.name(number)
            self.after_death(op, acked, second)
        return points, died

    def after_death(self, op, acked, second):
        w, steps = self.world, op.steps()
        self.dead(self.where)
        self.recover(second)
        w.check_explained()
        now = w.shape(op.names())
        if now not in self.between[op.name]:
            raise Wrong("neither done nor not done: %s" % self.differences(op, now))
        w.check_jobs()
        first = max([i for i, step in enumerate(steps[:acked + 1]) if step.voids] + [0])
        for i, step in enumerate(steps[first:], first):
            done = step.done()
            if not done and i < acked and not step.again:
                raise Wrong("'%s' had been answered, and is not done" % step.name)
            if not done:
                step.send()
            step.wait()

    def differences(self, op, now):
        nearest = min(self.between[op.name], key=lambda s: len(set(s) ^ set(now)))
        return "more: %s, less: %s" % ([x for x in now if x not in nearest],
                                       [x for x in nearest if x not in now])

    def round(self, name, number=0, second=0):
        """One operation; number 0: undisturbed. Returns its points."""
        w = self.world
        w.serial += 1
        if w.depth >= CHAIN_MAX:
            w.end()
            w.build()
        w.below = []
        op = death_ops.ALL[name](w)
        for s in (w.guest.pulse, w.guest.wide):
            s.longest = 0.0
        self.where = "undisturbed"
        w.below = [os.path.basename(n["file"]) for n in w.nodes()]
        w.below = [f for f in w.below if f not in op.names()]
        self.what = "%s:%d%s" % (name, number, ":%d" % second if second else "")
        times = [time.monotonic()]
        op.prepare()
        times.append(time.monotonic())
        points, died = self.steps(op, number, second)
        times.append(time.monotonic())
        op.finish()
        times.append(time.monotonic())
        w.check_explained()
        w.guest.check()
        if w.command("query-jobs"):
            raise Wrong("jobs are left: %s" % w.command("query-jobs"))
        final = w.shape(op.names())
        if self.finals.setdefault(name, final) != final:
            raise Wrong("the end is not that of an undisturbed run: %s instead of %s" % (
                [x for x in final if x not in self.finals[name]],
                [x for x in self.finals[name] if x not in final]))
        stall = max(w.guest.pulse.longest, time.monotonic() - w.guest.pulse.since
                    if w.guest.pulse.since else 0)
        if stall > self.stalls.get((name, died), (0, ""))[0]:
            self.stalls[name, died] = (stall, self.where)
        if died:
            self.deaths[name] = self.deaths.get(name, 0) + 1
        elif number:
            self.late += 1
        if self.args.verbose:
            self.note("%s %s: %d points, stall %.0f ms; %s s" % (
                self.what, self.where, points, stall * 1000,
                " ".join("%.1f" % (b - a) for a, b in zip(times, times[1:]))))
        return points

    # --- all of them ---

    def second_point(self, chance):
        return self.rng.randrange(1, self.recovery + 1) if self.rng.random() < chance else 0

    def plan(self, names):
        """(name, N, M) without end, or as many as are wanted."""
        only = self.args.only
        if only and ":" in only:
            words = only.split(":") + ["0"]
            first, _, last = words[1].partition("-")
            for number in range(int(first), int(last) + 1) if last else [int(first)] * 3:
                yield words[0], number, int(words[2])
        elif only:
            for name in names:
                for number in range(1, self.counts[name] + 1):
                    yield name, number, 0
                    if number % 3 == 0:
                        yield name, number, self.second_point(1)
        else:
            order = {n: self.rng.sample(range(1, self.counts[n] + 1), self.counts[n])
                     for n in names}
            first = True
            while any(order.values()) and (first or time.monotonic() < self.end_at):
                for name in self.rng.sample(names, len(names)):
                    if order[name] and (first or time.monotonic() < self.end_at):
                        yield name, order[name].pop(), self.second_point(0.25)
                first = False

    def run(self):
        only = (self.args.only or "all").split(":")[0]
        names = list(death_ops.ALL) if only == "all" else [only]
        for name in names:
            self.attempt(name, 0, 0)
        for name, number, second in self.plan([n for n in names if n in self.counts]):
            self.attempt(name, number, second)
            if len(self.failed) >= FAILURES_MAX:
                break
        self.what = "the end"
        try:
            if self.world.guest:
                self.world.end()
        except FAILURES as e:
            self.failure(e)
        self.report(names)
        return bool(self.failed)

    def attempt(self, name, number, second):
        """A round; after a failure the next one begins with a new world."""
        try:
            if not self.world.guest:
                self.what = "start"
                self.world.build()
            points = self.round(name, number, second)
            self.counts.setdefault(name, points)
        except FAILURES as e:
            self.failure(e)

    def failure(self, e):
        text = "%s (%s): %s: %s" % (self.what, self.where, type(e).__name__, e)
        self.note(text)
        self.note("repeat it with LIVECHAIN_DEATH=%s LIVECHAIN_SEED=%d" % (self.what,
                                                                          self.args.seed))
        self.failed.append((self.what.split(":")[0], text))
        self.world.log.write((text + "\n").encode())
        self.world.log.flush()
        self.world.abandon()

    def report(self, names):
        failed = [name for name, _ in self.failed]
        for name in names:
            stall, where = self.stalls.get((name, True), (0, "-"))
            quiet = self.stalls.get((name, False), (0, ""))[0]
            line = "%s: %d deaths at %d points; longest stall %.0f ms (%s), undisturbed %.0f ms" % (
                name, self.deaths.get(name, 0), self.counts.get(name, 0), stall * 1000, where,
                quiet * 1000)
            ok = name not in failed and (name in self.deaths or self.args.only) \
                and name in self.counts
            print("%s %s" % ("pass" if ok else "fail", line))
        others = [n for n in failed if n not in names]
        print("%s %d deaths, %d of a daemon that had just been started, %d points not reached; "
              "longest start %.1f s" % ("fail" if others else "pass", sum(self.deaths.values()),
                                        self.second, self.late, self.world.longest_start))


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir")
    p.add_argument("daemon")
    p.add_argument("--work", required=True, help="folder for everything but images")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seconds", type=float, default=100)
    p.add_argument("--only", default="")
    p.add_argument("--verbose", action="store_true")
    args = p.parse_args()
    return Runner(args).run()


if __name__ == "__main__":
    import death    # the one that death_ops sees
    sys.exit(death.main())
