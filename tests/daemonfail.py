#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A daemon's images on disks whose N-th request fails: attach, backup, snapshot, detach.

daemonfail.py --program DISKS --daemon LIVECHAIND --work DIR --seed N [--seconds S]
              [--job mirror|stream|commit|commit-active] [--only KINDS:N:COUNT:HOW]

With --job it is attach, that job, detach (class Jobs): a failed one has left the chain as it was, and what
fails of a mirror's target alone no guest sees.

The whole of it (class Scenario) runs undisturbed, then with request N of KINDS (a mask of reads,
writes, flushes; HEAD: only what is written of the first clusters, which is the daemon's alone) and COUNT - 1
more failing, to any of the four disks, of the kernel or of the daemon. A command is answered by an error only if
something failed, and works when it is sent again with nothing failing any more; the guest's reads are
right, and without errors a little later (what of a map could not be read is read again); a backup that
completed is right; images have no errors in the end, at most leaks, and hold what was flushed. The end is
a clean one, or (HOW has DIES) the daemon and the guest are gone with requests still failing.
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

import qmp
from badio import ALL, FLUSH, HALF, LOSE, READ, WRITE, BadDisks, Model, Wrong, attempts
from dmio import Disk, control, pattern, TABLE_STATUS, SPEC
from kview import parse_status

NR = 8192
BASE, TOP, TARGET, NEXT = range(4)
HEAD, DIES = 8, 8               # more of KINDS, of HOW
HEAD_SECTORS = 4 * 128          # header, refcount table, refcounts, L1 table, as qemu-img makes them
FOREVER = 1 << 20
LIMIT, BLKFLSBUF = 240, 0x1261


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
    def __init__(self, bad, args, pristine, kinds):
        self.bad, self.args, self.kinds, self.log = bad, args, kinds, []
        bad.settle()
        for content, data in zip(bad.content, pristine):
            content.write(0, data + bytes(content.sectors() * 512 - len(data)))
        self.forget_caches()
        bad.settle()
        self.model, self.version = Model(pristine[BASE]), 1
        self.broken, self.attached = None, False
        self.cur, self.below = (TOP, "n0"), False   # the active image and its node; n0 is below
        self.daemon = Daemon(args.daemon, args.work)

    def hits(self):
        return self.bad.hits()

    def forget_caches(self):
        """What the kernel has cached of the disks is of the last time that qemu-img read them."""
        for disk in self.bad.flushers:
            fcntl.ioctl(disk.fd, BLKFLSBUF)

    # --- commands ---

    def do(self, command, anew=False, **arguments):
        """As a user: an error is understood, then the same again. @anew: to a view
        that has failed meanwhile the command is of no use."""
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        refused = reopened = False
        while True:
            before = self.hits()
            reply = self.daemon.send(command, arguments)
            if "return" in reply:
                self.log.append(command)
                return reply["return"]
            text = reply["error"]["desc"]
            self.log.append("%s: %s" % (command, text))
            if text.endswith("close it and open it again") and self.hits() and not reopened:
                reopened = True
                self.bad.heal()
                self.reopen(text, command == "blockdev-snapshot")
                continue
            if refused or not self.may_fail(before):
                raise Wrong(self.log[-1])
            refused = True
            self.bad.heal()
            if anew:
                self.again()

    def reopen(self, text, is_overlay):
        """The image that @text names, whose metadata could not be written."""
        disk = [i for i, path in enumerate(self.bad.paths) if "'%s'" % path in text][0]
        if self.attached and (disk == self.cur[0] or self.below and disk == TOP):
            self.anew()
            return
        name = {TOP: "n0", TARGET: "t0", NEXT: "n1"}[disk]
        self.do("blockdev-del", node_name=name)
        self.add(name, disk, **({"backing": None} if is_overlay else {}))

    def may_fail(self, before):
        return self.hits() > before or self.view_failed() or \
            (self.broken and time.monotonic() < self.broken + 40)

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
        self.disk, self.attached = Disk("/dev/mapper/vm0"), True

    def detach(self, name):
        self.disk.close()
        self.attached = False
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
            if not self.may_fail(before) or self.only_target():
                raise Wrong(self.log[-1])
            self.broken = self.broken or time.monotonic()
        if self.hits() > before or not good:
            self.broken = time.monotonic()
        if self.lost():
            self.model.lose(128) # 64 KiB: the clusters of all images
        return good

    def only_target(self):
        """Nothing but the target's has failed, which is not the guest's disk."""
        return self.cur[0] != TARGET and all(f[0] == TARGET for f in self.bad.failed())

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

    def again(self):
        """A view that has failed is of no use: the disk is attached anew."""
        if self.view_failed():
            self.log.append("the view has failed")
            self.anew()

    def anew(self):
        self.bad.heal()
        disk, name = self.cur
        self.detach(name)
        if self.below:
            self.do("blockdev-del", node_name="n0")
        self.take_up(disk)
        if self.below:
            self.add("n0", TOP)
        self.add(name, disk, **({"backing": "n0"} if self.below else {}))
        self.attach(name)

    def snapshot(self):
        self.add("n1", NEXT, backing=None)
        self.do("blockdev-snapshot", anew=True, node="n0", overlay="n1")
        self.cur, self.below = (NEXT, "n1"), True

    def run(self):
        self.images("n0", TOP)
        self.guest(1)
        self.guest(2)
        self.again()
        self.add("t0", TARGET)
        self.backup()
        self.again()
        self.snapshot()
        self.guest(3)
        self.again()
        self.guest(4)
        self.again()

    def healed(self):
        self.bad.heal()
        end = time.monotonic() + 120
        while not self.read(0, NR):
            if time.monotonic() > end:
                raise Wrong("reads still fail")
            time.sleep(1)
        self.broken = None
        if not self.write(7000, 300) or not self.flush() or not self.read(0, NR):
            raise Wrong("it does not work though nothing fails any more")
        self.detach(self.cur[1])
        self.daemon.send("quit", {})
        if self.daemon.p.wait(LIMIT):
            raise Wrong("the daemon's status is %d" % self.daemon.p.returncode)
        self.forget_caches()
        self.check_images()
        self.take_up(self.cur[0])

    def dies(self):
        """Nobody writes any more what failed before: the images alone are looked at."""
        self.daemon.p.kill()
        self.daemon.p.wait()
        self.clear()
        self.forget_caches()
        self.check_images()
        self.take_up(self.cur[0])

    def check_images(self):
        for disk in TOP, NEXT, TARGET:
            out = run("qemu-img", "check", "-f", "qcow2", self.bad.paths[disk])
            leaks = out.returncode == 3 and (self.hits() or self.how & DIES)
            if out.returncode and not leaks:
                raise Wrong("qemu-img check of disk %d: %s" % (disk, out.stdout))

    def convert(self, disk, out):
        self.forget_caches()
        words = "qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.bad.paths[disk], out
        before, r = self.hits(), run(*words)
        if r.returncode and self.hits() > before:
            self.bad.heal()
            self.forget_caches()
            r = run(*words)
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
        self.bad.arm(first, count, how & ~DIES, disks=0xf, kinds=self.kinds & ~HEAD,
                     below=HEAD_SECTORS if self.kinds & HEAD else 0)
        self.run()
        seen = self.bad.seen()
        if how & DIES:
            self.dies()
        else:
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


class Jobs(Scenario):
    """One job that changes the chain."""

    def read(self, first, nr):
        """
        Disks that lose at a failed flush what they had taken lose the copies that a stream has made of what
        the guest never wrote. No record names these, so attached anew the disk is right; until then the
        view, which has failed, reads what the disk has left of them.
        """
        if not self.lost() or not self.view_failed():
            return super().read(first, nr)
        return self.op("read %d+%d" % (first, nr), self.disk.read, first, nr)

    def files(self):
        """The chain, as the daemon has it."""
        for x in self.do("query-block"):
            image, out = x["inserted"]["image"], []
            while image:
                out.append(image["filename"])
                image = image.get("backing-image")
            return out

    def job(self, command, **arguments):
        """Until one has succeeded."""
        chain = self.files()
        for attempt in range(4):
            before = self.hits()
            self.daemon.events.clear()
            self.do(command, anew=True, job_id="j", **arguments)
            self.guest(5)
            data = self.follow()
            if "error" not in data:
                return
            self.log.append("the job: " + data["error"])
            if self.files() != chain:
                raise Wrong("a job that failed has left the chain %s" % self.files())
            if self.hits() == before and not self.view_failed() and attempt > 1:
                raise Wrong(self.log[-1])
            self.bad.heal()
            if attempt:
                self.anew()
            self.again()
        raise Wrong("it does not succeed though nothing fails any more: " + self.log[-1])

    def follow(self):
        end, seen = time.monotonic() + LIMIT, 0
        while time.monotonic() < end:
            for e in self.daemon.events[seen:]:
                seen += 1
                if e["event"] == "BLOCK_JOB_COMPLETED":
                    return e["data"]
                if e["event"] == "BLOCK_JOB_CANCELLED":
                    return {"error": "cancelled"}
                if e["event"] == "BLOCK_JOB_READY":
                    self.daemon.send("job-complete", {"id": "j"})
                if e["event"] == "BLOCK_JOB_ERROR" and e["data"]["action"] == "stop":
                    self.log.append("stopped by a failed " + e["data"]["operation"])
                    self.bad.heal()
                    # in a view that has failed it would be stopped again each time
                    self.daemon.send("job-cancel" if self.view_failed() else "job-resume", {"id": "j"})
            if select.select([self.daemon.client.sock], [], [], .2)[0]:
                self.daemon.client.take_events()
        raise Wrong("the job does not end: %s" % self.daemon.send("query-jobs", {}))

    def mirror(self, policy):
        self.add("t0", TARGET)
        self.job("blockdev-mirror", device="vm0", target="t0", sync="full", on_target_error=policy,
                 on_source_error=policy)
        self.cur = TARGET, "t0"
        self.do("blockdev-del", node_name="n0")

    def stream(self, policy):
        self.job("block-stream", device="vm0", on_error=policy)

    def commit(self, policy):
        self.snapshot()
        self.guest(3)
        self.again()
        self.job("block-commit", device="vm0", top=self.bad.paths[TOP], base=self.bad.paths[BASE],
                 on_error=policy)
        self.below = False

    def commit_active(self, policy):
        self.snapshot()
        self.guest(3)
        self.again()
        self.job("block-commit", device="vm0", base=self.bad.paths[TOP], on_error=policy)
        self.cur, self.below = (TOP, "n0"), False
        self.do("blockdev-del", node_name="n1")

    def run(self):
        self.images("n0", TOP)
        self.guest(1)
        self.guest(2)
        self.again()
        policy = "stop" if self.how & ALL else "report"
        getattr(self, self.args.job.replace("-", "_"))(policy)
        self.guest(4)
        self.again()


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


def points(args, rng, changes, heads):
    """(kinds, first, count, how): there are about as many reads as @changes, and @heads writes of
    the first clusters, of which every third point is one."""
    if args.only:
        return [tuple(map(int, args.only.split(":")))]
    hows = [w | f for w in (0, HALF, ALL) for f in (0, LOSE)]
    numbers = [(WRITE | FLUSH, n) for n in range(1, changes + 1)] + \
              [(READ | WRITE | FLUSH, n) for n in range(1, 2 * changes + 1, 2)]
    rng.shuffle(numbers)
    out = [(kinds, n, rng.choice((1, 1, 1, 3, 20)), rng.choice(hows) | rng.choice((0, DIES)))
           for kinds, n in numbers]
    for i in range(len(out) // 2):
        out.insert(3 * i, (WRITE | HEAD, rng.randrange(1, heads + 1), rng.choice((1, 3, FOREVER)),
                           rng.choice((0, HALF)) | rng.choice((0, DIES))))
    return out


def scenario(bad, args, first, kinds):
    return (Jobs if args.job else Scenario)(bad, args, first, kinds)


def undisturbed(args, bad, first, kinds, how):
    """How many requests of @kinds there are."""
    s = scenario(bad, args, first, kinds)
    start = time.monotonic()
    try:
        total = s.whole(0, 0, how)
    except Exception:
        print("undisturbed: %s" % "; ".join(s.log), flush=True)
        s.clear()
        raise
    print("%d %s, %.1f s" % (total, "writes of the daemon's own" if kinds & HEAD else
                             "writes and flushes", time.monotonic() - start), flush=True)
    return total


def rounds(args, rng, bad):
    first = pristine(args.work)
    total = undisturbed(args, bad, first, WRITE | FLUSH, 0)
    todo = points(args, rng, total, undisturbed(args, bad, first, WRITE | HEAD, DIES))
    results = [good for _, good in attempts(todo, time.monotonic() + args.seconds,
                                            lambda p: scenario(bad, args, first, p[0]), bad)]
    print("%d of %d points" % (len(results), len(todo)), flush=True)
    return 0 if all(results) else 1


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--program", required=True)
    p.add_argument("--daemon", required=True)
    p.add_argument("--work", required=True)
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("--job", choices=["mirror", "stream", "commit", "commit-active"])
    p.add_argument("--only")
    args = p.parse_args()
    rng = random.Random(args.seed)
    bad = BadDisks(args.program, args.work, [NR // 2048, 16, 32, 16])
    try:
        st = rounds(args, rng, bad)
    finally:
        bad.end()
    sys.exit(st)


main()
