#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon's images on disks whose N-th request fails: attach, backup, snapshot, detach.

daemonfail.py --program DISKS --daemon LIVECHAIND --work DIR --seed N [--seconds S]
              [--only N:COUNT:HOW]

The whole of it (class Scenario) runs undisturbed, then with request N and COUNT - 1 more failing, to
any of the four disks, of the kernel or of the daemon. A command is answered by an error only if
something failed, and works when it is sent again with nothing failing any more; the guest's reads are
right, and without errors a little later (what of a map could not be read is read again); a backup that
completed is right; images have no errors in the end, at most leaks, and hold what was flushed.
"""
import argparse
import fcntl
import json
import os
import random
import select
import subprocess
import sys
import time
import traceback

import qmp
from badio import ALL, FLUSH, HALF, LOSE, BadDisks, Model, Wrong
from dmio import Disk, control, pattern, TABLE_STATUS, SPEC
from kview import parse_status

NR = 8192
BASE, TOP, TARGET, NEXT = range(4)
LIMIT, BLKFLSBUF = 60, 0x1261


def run(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Daemon:
    def __init__(self, program, work):
        self.sock, self.events = os.path.join(work, "qmp.sock"), []
        state = os.path.join(work, "state")
        os.makedirs(state, exist_ok=True)
        self.log = open(os.path.join(work, "daemon.log"), "a")
        self.p = subprocess.Popen([program, "--qmp", self.sock, "--state-dir", state],
                                  stdout=self.log, stderr=subprocess.STDOUT)
        end = time.monotonic() + LIMIT
        while True:
            try:
                self.client = qmp.Client(self.sock, self.events.append)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        self.client.negotiate()

    def send(self, command, arguments):
        reply = self.client.command(json.dumps({"execute": command, "arguments": arguments}))
        self.client.drain()
        return reply

    def wait_event(self, name):
        end = time.monotonic() + LIMIT
        while True:
            for e in self.events:
                if e["event"] == name:
                    return e["data"]
            if select.select([self.client.sock], [], [], .2)[0]:
                self.client.take_events()
            if time.monotonic() > end:
                raise Wrong("no event %s" % name)


class Scenario:
    def __init__(self, bad, args, pristine):
        self.bad, self.args, self.log = bad, args, []
        bad.settle()
        for content, data in zip(bad.content, pristine):
            content.write(0, data + bytes(content.sectors() * 512 - len(data)))
        # what the kernel has cached of them is of the last time
        for disk in bad.flushers:
            fcntl.ioctl(disk.fd, BLKFLSBUF)
        bad.settle()
        self.model, self.version = Model(pristine[BASE]), 1
        self.broken = None
        self.daemon = Daemon(args.daemon, args.work)

    def hits(self):
        return self.bad.hits()

    # --- commands ---

    def do(self, command, **arguments):
        """As a user: an error is understood, then the same again."""
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        for attempt in range(2):
            before = self.hits()
            reply = self.daemon.send(command, arguments)
            if "return" in reply:
                self.log.append(command)
                return reply["return"]
            self.log.append("%s: %s" % (command, reply["error"]["desc"]))
            if attempt or not self.may_fail(before):
                raise Wrong(self.log[-1])
            self.bad.heal()

    def may_fail(self, before):
        return self.hits() > before or self.view_failed() or \
            (self.broken and time.monotonic() < self.broken + 15)

    def view_failed(self):
        try:
            data = control().call(TABLE_STATUS, "vm0")[3]
        except OSError:
            return False
        return parse_status(data[SPEC.size:].split(b"\0")[0].decode())["mode"] == "fail"

    def add(self, name, disk, fmt="qcow2", **more):
        self.do("blockdev-add", driver=fmt, node_name=name,
                file={"driver": "host_device", "filename": self.bad.paths[disk]}, **more)

    def attach(self, name):
        self.do("block-export-add", type="dm", id="vm0", node_name=name, name="vm0", writable=True)
        self.disk = Disk("/dev/mapper/vm0")

    def detach(self, name):
        self.disk.close()
        self.do("block-export-del", id="vm0")
        self.do("blockdev-del", node_name=name)

    def backup(self):
        """Its end is an event. One that has failed is made again."""
        for attempt in range(2):
            before, frozen = self.hits(), None
            self.daemon.events.clear()
            frozen = Model(bytes(self.model.latest))
            frozen.maybe = {s: set(m) for s, m in self.model.maybe.items()}
            frozen.lost = set(self.model.lost)
            self.do("blockdev-backup", job_id="b", device="n0", target="t0", sync="full")
            self.guest(5)
            data = self.daemon.wait_event("BLOCK_JOB_COMPLETED")
            if "error" not in data:
                break
            self.log.append("the backup: " + data["error"])
            if attempt or self.hits() == before:
                raise Wrong(self.log[-1])
            self.bad.heal()
        self.do("blockdev-del", node_name="t0")
        if self.lost():
            return
        out = os.path.join(self.args.work, "copy")
        self.convert(TARGET, out)
        with open(out, "rb") as f:
            frozen.read(0, f.read(), "the backup")

    # --- the guest ---

    def op(self, what, fn, *args):
        before = self.hits()
        self.now = what
        try:
            fn(*args)
            good = True
        except OSError as e:
            good = False
            self.log.append("%s: %s" % (what, e.strerror))
            if not self.may_fail(before):
                raise Wrong(self.log[-1])
            self.broken = self.broken or time.monotonic()
        if self.hits() > before or not good:
            self.broken = time.monotonic()
        if self.lost():
            self.model.lose(128) # 64 KiB: the clusters of all images
        return good

    def lost(self):
        return self.how & LOSE and any(f[1] == FLUSH for f in self.bad.failed())

    def read(self, first, nr):
        out = []
        if self.op("read %d+%d" % (first, nr), lambda: out.append(self.disk.read(first, nr))):
            self.model.read(first, out[0], self.now)
            return True
        return False

    def write(self, first, nr):
        self.version += 1
        data = pattern(self.version, first, nr)
        if self.op("write %d+%d" % (first, nr), self.disk.write, first, data):
            self.model.wrote(first, data)
            return True
        self.model.may_have_written(first, data)
        return False

    def flush(self):
        good = self.op("flush", self.disk.flush)
        if good:
            self.model.flushed()
        return good

    def guest(self, part):
        """Some of everything, at other places each time."""
        at = part * 1000
        self.write(at + 3, 8)
        self.write(at + 128, 300)
        self.read(at, 600)
        self.flush()
        self.write(at + 130, 8)
        self.read(0, 900)

    # --- the whole ---

    def images(self, name, disk):
        self.add(name, disk)
        self.attach(name)

    def again(self, name):
        """A view that has failed is of no use: the disk is attached anew."""
        if not self.view_failed():
            return
        self.bad.heal()
        self.log.append("the view has failed")
        self.detach(name)
        self.take_up(TOP if name == "n0" else NEXT)
        self.add(name, TOP if name == "n0" else NEXT)
        self.attach(name)

    def run(self):
        self.images("n0", TOP)
        self.guest(1)
        self.guest(2)
        self.again("n0")
        self.add("t0", TARGET)
        self.backup()
        self.again("n0")
        self.add("n1", NEXT, backing=None)
        self.do("blockdev-snapshot", node="n0", overlay="n1")
        self.guest(3)
        self.again("n1")
        self.guest(4)
        self.again("n1")

    def healed(self):
        self.bad.heal()
        end = time.monotonic() + 30
        while not self.read(0, NR):
            if time.monotonic() > end:
                raise Wrong("reads still fail")
            time.sleep(1)
        self.broken = None
        if not self.write(7000, 300) or not self.flush() or not self.read(0, NR):
            raise Wrong("it does not work though nothing fails any more")
        self.detach("n1")
        self.daemon.send("quit", {})
        if self.daemon.p.wait(LIMIT):
            raise Wrong("the daemon's status is %d" % self.daemon.p.returncode)
        for disk in TOP, NEXT, TARGET:
            out = run("qemu-img", "check", "-f", "qcow2", self.bad.paths[disk])
            if out.returncode and (out.returncode != 3 or not self.hits()):
                raise Wrong("qemu-img check of disk %d: %s" % (disk, out.stdout))
        self.take_up(NEXT)

    def convert(self, disk, out):
        r = run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.bad.paths[disk], out)
        if r.returncode:
            raise Wrong("qemu-img: " + r.stdout)

    def take_up(self, disk):
        """What the images hold by themselves is the disk from now on."""
        out = os.path.join(self.args.work, "disk")
        self.convert(disk, out)
        with open(out, "rb") as f:
            data = f.read()
        self.model.durable(data, "the images")
        self.model.taken_up(data)

    def whole(self, first, count, how):
        self.how = how
        self.bad.arm(first, count, how, disks=0xf)
        self.run()
        seen = self.bad.seen()
        self.healed()
        return seen

    def clear(self):
        self.bad.heal()
        try:
            self.disk.close()
        except AttributeError:
            pass
        self.daemon.p.kill()
        self.daemon.p.wait()
        run("dmsetup", "resume", "vm0")
        run("dmsetup", "remove", "--retry", "vm0")
        run("rm", "-rf", os.path.join(self.args.work, "state"))


def pristine(work):
    """The disks' content at first."""
    base = pattern(1, 0, NR)
    out = [base]
    for i in (TOP, TARGET, NEXT):
        path = os.path.join(work, "image")
        words = ["-u", "-b", "/dev/nbd%d" % (BASE if i == TOP else TOP), "-F",
                 "raw" if i == TOP else "qcow2"] if i != TARGET else []
        r = run("qemu-img", "create", "-q", "-f", "qcow2", *words, path, str(NR * 512))
        if r.returncode:
            raise RuntimeError(r.stdout)
        with open(path, "rb") as f:
            out.append(f.read())
        os.unlink(path)
    return out


def rounds(args, rng, bad):
    first = pristine(args.work)
    s = Scenario(bad, args, first)
    start = time.monotonic()
    try:
        total = s.whole(0, 0, 0)
    except Exception:
        print("undisturbed: %s" % "; ".join(s.log), flush=True)
        s.clear()
        raise
    print("%d requests, %.1f s" % (total, time.monotonic() - start), flush=True)
    hows = [w | f for w in (0, HALF, ALL) for f in (0, LOSE)]
    todo = [(n, rng.choice((1, 1, 1, 3, 20)), rng.choice(hows)) for n in range(1, total + 1)]
    rng.shuffle(todo)
    if args.only:
        todo = [tuple(map(int, args.only.split(":")))]
    end, done, wrong = time.monotonic() + args.seconds, 0, 0
    for point in todo:
        if time.monotonic() > end and done:
            break
        s = Scenario(bad, args, first)
        try:
            s.whole(*point)
        except Exception as e:
            print("wrong %d:%d:%d: %s" % (point + (e if isinstance(e, (Wrong, AssertionError)) else
                                                   traceback.format_exc().replace("\n", " | "),)))
            print("    %s; %s" % ("; ".join(s.log), bad.tell()), flush=True)
            s.clear()
            wrong += 1
            if wrong == 5:
                break
        done += 1
    print("%d of %d points" % (done, len(todo)), flush=True)
    return 1 if wrong else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--program", required=True)
    p.add_argument("--daemon", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("--only")
    args = p.parse_args()
    rng = random.Random(args.seed)
    bad = BadDisks(args.program, args.work, [NR // 2048, 16, 16, 16])
    try:
        st = rounds(args, rng, bad)
    finally:
        bad.end()
    sys.exit(st)


main()
