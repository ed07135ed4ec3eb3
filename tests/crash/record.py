#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Records what reaches the disks while a guest works and operations run, for replay.py.

record.py LAYOUT OUT DIR [--seconds S] [--seed N]      (in the VM, as root)
record.py --attach N LAYOUT OUT DIR                    N cuts of it, each attached afresh

LAYOUT files: images in an ext4 file system on a dm-log-writes device (RAM[0], log RAM[1]).
LAYOUT disks: each image a disk of its own, with its own write cache (disks.c).
In both, the daemon's state lies on what is recorded. OUT gets log, model and meta.json.

The operations are in record_ops.py.
"""
import argparse
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")]
import cutlog  # noqa: E402
import dmio  # noqa: E402
import guest  # noqa: E402
import qmp  # noqa: E402
import replay  # noqa: E402
from record_ops import OPS, op_commit_active  # noqa: E402

TOP = replay.TOP
BUILD = os.environ.get("LIVECHAIN_BUILD", os.path.join(TOP, "build"))
MOUNT = "/mnt/crash"
MIB = 1 << 20
LIMIT = 240
# No further operations: the log lies in the VM's memory, of which it has 1 GiB at least.
LOG_MAX = 800 * MIB


def run(*args):
    r = subprocess.run(args, capture_output=True, text=True)
    if r.returncode:
        raise RuntimeError("%s: %s" % (" ".join(args), r.stdout + r.stderr))


def wait_until(fn, what):
    end = time.monotonic() + LIMIT
    while not fn():
        if time.monotonic() > end:
            raise RuntimeError("not within %d s: %s" % (LIMIT, what))
        time.sleep(.05)


def mount(device):
    os.makedirs(MOUNT, exist_ok=True)
    run("mount", "-t", "ext4", device, MOUNT)


class Disks:
    """/dev/nbd0: the daemon's state; nbd1: a raw base; the others: for images."""
    name, blocks, state_disk, folder_in_fs = "disks", 4096, 0, "/d"
    sizes = [16, 16] + [28] * 12

    def __init__(self, work):
        self.work = work
        self.images = {"a": {"disk": 1, "path": "/dev/nbd1", "format": "raw"}}
        for i in range(2, len(self.sizes)):
            self.images["i%d" % i] = {"disk": i, "path": "/dev/nbd%d" % i, "format": "qcow2"}
        self.server = self.sock = None

    def disk_sizes(self):
        return [s * MIB for s in self.sizes]

    def start(self, content="-", log=True):
        control = os.path.join(self.work, "control")
        self.server = subprocess.Popen(
            [os.path.join(BUILD, "tests/crash/disks"), control,
             os.path.join(self.work, "log") if log else "-", content] + [str(s) for s in self.sizes])
        wait_until(lambda: all(os.path.exists("/sys/block/nbd%d/pid" % i)
                               for i in range(len(self.sizes))), "the disks")
        wait_until(lambda: all(self.ready(i, s) for i, s in enumerate(self.sizes)), "their size")
        wait_until(lambda: os.path.exists(control), "the control socket")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(control)

    @staticmethod
    def ready(i, mib):
        """The kernel sets a disk's size last."""
        try:
            with open("/dev/nbd%d" % i, "rb", buffering=0) as f:
                return f.seek(0, os.SEEK_END) == mib * MIB and f.seek(0) == 0 and len(f.read(512))
        except OSError:
            return False

    def make(self):
        self.start()
        run("mkfs.ext4", "-q", "-b", "1024", "-E", "nodiscard,lazy_itable_init=0", "/dev/nbd0")
        mount("/dev/nbd0")
        guest.write_base("/dev/nbd1", self.blocks)

    def fork_mark(self):
        """A way to set marks for one more process."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(os.path.join(self.work, "control"))
        return lambda text: (sock.send(text.encode()), sock.recv(4096))

    def mark(self, text):
        self.sock.send(text.encode())
        self.sock.recv(4096)

    def end(self):
        self.sock.close()
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(LIMIT)
        os.unlink(os.path.join(self.work, "control"))

    def logged(self):
        return os.path.getsize(os.path.join(self.work, "log"))

    def save_log(self, out):
        run("cp", os.path.join(self.work, "log"), os.path.join(out, "log"))

    def put(self, cut):
        """The disks as they are after a cut."""
        self.start(cut.work, False)
        mount("/dev/nbd0")


class Files:
    """One ext4 file system; the base is a qcow2 image too."""
    name, blocks, state_disk, folder_in_fs = "files", 2048, 0, "/d"
    size = 192  # 12 images full of data, and the journal

    def __init__(self, work):
        self.work = work
        self.images = {n: {"path": "%s/d/img/%s.qcow2" % (MOUNT, n), "format": "qcow2"}
                       for n in ["a"] + ["i%d" % i for i in range(2, 14)]}
        self.dm = None

    def disk_sizes(self):
        return [self.size * MIB]

    def make(self):
        self.dm = dmio.Dm("log", [(0, self.size * MIB // 512, "log-writes", "/dev/ram0 /dev/ram1")])
        run("mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
            "-J", "size=4", self.dm.path)
        mount(self.dm.path)
        os.makedirs(MOUNT + "/d/img")
        raw = os.path.join(self.work, "base")
        guest.write_base(raw, self.blocks)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, self.images["a"]["path"])
        os.unlink(raw)

    def fork_mark(self):
        return self.mark

    def mark(self, text):
        self.dm.message("mark " + text)

    def end(self):
        if self.dm:
            self.dm.remove()
        self.dm = None

    def logged(self):
        return 512 * int(self.dm.status().split()[-1])

    def save_log(self, out):
        end = cutlog.dm_log_end("/dev/ram1")
        with open(os.path.join(out, "log"), "wb") as f, open("/dev/ram1", "rb") as log:
            for at in range(0, end, MIB):
                f.write(log.read(min(MIB, end - at)))

    def put(self, cut):
        with open(cut.disks[0].path, "rb") as f, open("/dev/ram0", "wb") as to:
            while (data := f.read(MIB)):
                to.write(data)
        self.dm = dmio.Dm("log", [(0, self.size * MIB // 512, "linear", "/dev/ram0 0")])
        mount(self.dm.path)


LAYOUTS = {"disks": Disks, "files": Files}


class Daemon:
    def __init__(self, work):
        self.work, self.sock, self.events = work, os.path.join(work, "qmp.sock"), []
        self.p = self.client = None

    def start(self):
        os.makedirs(MOUNT + "/d/state", exist_ok=True)
        self.p = subprocess.Popen(
            [os.path.join(BUILD, "livechaind"), "--qmp", self.sock, "--state-dir", MOUNT + "/d/state"],
            stdout=open(os.path.join(self.work, "daemon.log"), "a"), stderr=subprocess.STDOUT)
        wait_until(self.connect, "the daemon")

    def connect(self):
        if self.p.poll() is not None:
            raise RuntimeError("the daemon has ended")
        try:
            self.client = qmp.Client(self.sock, self.events.append)
        except OSError:
            return False
        self.client.negotiate()
        return True

    def do(self, command, **args):
        msg = {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in args.items()}}
        reply = self.client.command(json.dumps(msg))
        self.client.drain()
        if "return" not in reply:
            raise RuntimeError("%s: %s" % (command, reply["error"]["desc"]))
        return reply["return"]

    def only_send(self, command, **args):
        """No answer is waited for: the daemon is about to be killed."""
        msg = {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in args.items()}}
        self.client.sock.sendall(json.dumps(msg).encode() + b"\n")

    def wait_event(self, match, what):
        end = time.monotonic() + LIMIT
        while not any(match(e) for e in self.events):
            bad = [e["data"] for e in self.events if e["event"] == "BLOCK_JOB_ERROR"]
            if bad:
                raise RuntimeError("%s: %s" % (what, bad))
            if select.select([self.client.sock], [], [], .2)[0]:
                self.client.take_events()
            if time.monotonic() > end:
                raise RuntimeError("no event within %d s: %s" % (LIMIT, what))

    def wait_job(self, event, job):
        self.wait_event(lambda e: e["event"] == event and
                        e["data"].get("device", e["data"].get("id")) == job, "%s %s" % (event, job))
        bad = [e["data"] for e in self.events if e["event"] == "BLOCK_JOB_COMPLETED" and e["data"].get("error")]
        if bad:
            raise RuntimeError("%s" % bad)

    def kill(self):
        self.p.kill()
        self.p.wait()

    def quit(self):
        self.do("quit")
        self.p.wait(LIMIT)

    def add(self, name, image):
        path = image["path"]
        driver = "host_device" if path.startswith("/dev/") else "file"
        self.do("blockdev-add", driver=image["format"], node_name=name,
                file={"driver": driver, "filename": path})


class Recorder:
    def __init__(self, layout, out, work, seed):
        self.layout, self.out, self.work, self.seed = layout, out, work, seed
        self.rng = random.Random(seed)
        self.images = layout.images
        self.free = [n for n in self.images if n != "a"]
        self.worlds, self.counts, self.jobs, self.old = [], {}, 0, []
        self.least = 1 << 60    # bytes free in the file system
        self.logs = 0           # bytes of the log, in the end
        self.raw = self.rests = False
        self.clock = mmap.mmap(-1, 4096)
        self.daemon = Daemon(work)
        self.model = os.path.join(work, "model")
        self.log_marks = None

    # --- what may be found ---------------------------------------------------------

    def say(self, step, **keys):
        w = dict(self.worlds[-1] if self.worlds else {"made": [], "settled": [], "copies": {}})
        w.update({"alt": None, "making": [], "pivot": False})
        w.update(keys)
        w["step"] = step
        raw = "raw" in (self.images[c[0]]["format"] for c in (w["chain"], w["alt"]) if c)
        if raw != self.raw:     # the guest knows before it may be so, and after it can't be any more
            self.tell(b"01"[raw:raw + 1])
        self.raw = raw
        self.worlds.append(w)
        self.layout.mark("w%d" % (len(self.worlds) - 1))

    def during(self, **keys):
        self.say(self.step + " begins", **keys)

    def now(self, **keys):
        self.say(self.step + " is done", **keys)

    @property
    def chain(self):
        return self.worlds[-1]["chain"]

    @property
    def made(self):
        return self.worlds[-1]["made"]

    def settled(self, more=(), less=()):
        return sorted((set(self.worlds[-1]["settled"]) | set(more)) - set(less))

    def events(self):
        return struct.unpack_from("<Q", self.clock, 0)[0]

    # --- images, guest -----------------------------------------------------------------

    def path(self, name):
        return self.images[name]["path"]

    def create(self, name, *more):
        """By qemu-img; not an image for us before it is durable."""
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o",
            "cluster_size=%s" % self.rng.choice(("4k", "16k", "64k")), *more, self.path(name),
            *(() if more else (str(self.layout.blocks * 4096),)))
        fd = os.open(self.path(name), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        if not self.path(name).startswith("/dev/"):
            run("sync", "-f", os.path.dirname(self.path(name)))

    def top(self):
        """The image that the daemon says is the disk's active one."""
        path = self.daemon.do("query-block")[0]["inserted"]["file"]
        return next(n for n in self.images if self.path(n) == path)

    def node(self, name):
        """The node of an image; None if it has none."""
        drivers = "raw", "qcow2"
        return next((n["node-name"] for n in self.daemon.do("query-named-block-nodes")
                     if n["drv"] in drivers and n["file"] == self.path(name)), None)

    def give_up(self, names):
        """Images that are no disk's any more: their nodes go, if a client made them."""
        for name in names:
            node = self.node(name)
            if node:
                self.daemon.do("blockdev-del", node_name=node)
        self.old += [n for n in names if n != "a"]

    def recycle(self):
        """The oldest of them makes room; durably: it must not be taken for what is made of it next."""
        gone = self.old.pop(0)
        self.during(made=[n for n in self.made if n != gone], settled=self.settled(less=[gone]),
                    copies=self.copies(gone))
        if self.path(gone).startswith("/dev/"):
            with open(self.path(gone), "r+b") as f:
                f.write(bytes(1 << 16))
                f.flush()
                os.fsync(f.fileno())
        else:
            os.unlink(self.path(gone))
            fd = os.open(os.path.dirname(self.path(gone)), os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        self.free.append(gone)

    def room(self, least):
        while len(self.free) < least and self.old:
            self.recycle()
        return len(self.free) >= least

    def copies(self, gone):
        return {n: t for n, t in self.worlds[-1]["copies"].items() if n != gone}

    def over(self, below):
        return ("-b", self.path(below), "-F", self.images[below]["format"])

    def start_guest(self):
        to, word = os.pipe(), os.pipe()
        self.word, self.reply = to[1], word[0]
        self.guest = os.fork()
        if self.guest:
            return
        try:
            guest.Guest("/dev/mapper/vm1", self.layout.blocks, self.seed, self.model,
                        self.layout.fork_mark(), self.clock, to[0], word[1]).run()
        except BaseException as e:  # the reader of the pipe sees its end
            print("guest: %r" % e, flush=True)
            os._exit(1)
        os._exit(0)

    def tell(self, letter):
        os.write(self.word, letter)
        if not select.select([self.reply], [], [], LIMIT)[0]:
            raise RuntimeError("the guest hangs")
        if os.read(self.reply, 1) != letter:
            raise RuntimeError("the guest has ended")

    def let_work(self, least=150):
        """The guest gets on by so many events."""
        until = self.events() + least
        wait_until(lambda: self.events() >= until, "work of the guest")

    def attach(self):
        self.daemon.add(self.chain[0], self.images[self.chain[0]])
        self.daemon.do("block-export-add", type="dm", id="vm1", node_name=self.chain[0], name="vm1",
                       writable=True)

    def detach(self):
        """An asynchronous request holds the disk open for a moment after it has been reported."""
        end = time.monotonic() + LIMIT
        while True:
            try:
                return self.daemon.do("block-export-del", id="vm1")
            except RuntimeError as e:
                if "is in use" not in str(e) or time.monotonic() > end:
                    raise
                time.sleep(.05)

    # --- the whole -----------------------------------------------------------------------

    def begin(self):
        self.layout.make()
        top = self.free.pop(0)
        self.create(top, *self.over("a"))
        os.makedirs(MOUNT + "/d/state", exist_ok=True)
        os.sync()
        self.daemon.start()
        self.layout.mark("start")
        self.step = "first attach"
        self.during(chain=[top, "a"], made=[top])
        self.attach()
        self.now()
        self.start_guest()
        self.tell(b"r")

    def operate(self, seconds):
        end, tries = time.monotonic() + seconds, 60
        todo = list(OPS)
        self.rng.shuffle(todo)
        while time.monotonic() < end and self.layout.logged() < LOG_MAX or todo:
            name = todo.pop() if todo else self.rng.choice(list(OPS))
            self.step = name
            done = OPS[name](self)
            if done is False:   # there was no image left for it
                op_commit_active(self)
                done = OPS[name](self)
            if done is False and name not in self.counts and tries:     # others make room for it
                tries -= 1
                todo.insert(0, name)
            room = os.statvfs(MOUNT)
            self.least = min(self.least, room.f_bavail * room.f_frsize)
            if done is not False:
                self.counts[name] = self.counts.get(name, 0) + 1
            self.let_work(60)
        missing = [n for n in OPS if n not in self.counts]
        if missing:
            raise RuntimeError("not one of: %s" % ", ".join(missing))

    def finish(self):
        self.tell(b"q")
        os.waitpid(self.guest, 0)
        self.step = "the end"
        self.during()
        self.detach()
        self.daemon.quit()
        self.now(settled=self.settled(self.chain))
        run("umount", MOUNT)
        self.logs = self.layout.logged()
        self.layout.end()

    def save(self):
        os.makedirs(self.out, exist_ok=True)
        self.layout.save_log(self.out)
        run("cp", self.model, os.path.join(self.out, "model"))
        with open(os.path.join(self.out, "meta.json"), "w") as f:
            json.dump({"layout": self.layout.name, "blocks": self.layout.blocks, "seed": self.seed,
                       "disks": self.layout.disk_sizes(), "state_disk": self.layout.state_disk,
                       "folder_in_fs": self.layout.folder_in_fs, "images": self.images,
                       "worlds": self.worlds}, f)


# --- fresh attaches ------------------------------------------------------------------------

def new_boot(work, n):
    """For the daemon the machine has been started anew."""
    path = os.path.join(work, "boot_id")
    with open(path, "w") as f:
        f.write("00000000-0000-4000-8000-%012d\n" % n)
    run("mount", "--bind", path, "/proc/sys/kernel/random/boot_id")


def attach_after_cut(layout, meta, cut, looker, work, n):
    """The real thing on what a cut left; says what is wrong by an exception."""
    layout.put(cut)
    d = Daemon(work)
    try:
        files = {k: i["path"] for k, i in meta.images.items()}
        chain = replay.chain_of(meta, cut.world, files, MOUNT + "/d/state")
        top = chain[0]
        new_boot(work, n)
        try:
            d.start()
            if cut.world.get("pivot"):
                with open(os.path.join(work, "daemon.log")) as f:
                    told = [l for l in f if "the disk 'vm1' was on" in l][-1:]
                if not told or "'%s'" % files[top] not in told[0]:
                    raise replay.Bad("the daemon does not tell of %s: %s" % (files[top], told))
            d.add(top, meta.images[top])
            d.do("block-export-add", type="dm", id="vm1", node_name=top, name="vm1", writable=True)
            looker.ask("raw", "/dev/mapper/vm1")
            d.do("block-export-del", id="vm1")
            d.quit()
        finally:
            run("umount", "/proc/sys/kernel/random/boot_id")
            if d.p and d.p.poll() is None:
                d.kill()
        st, out = replay.qemu_img("check", replay.qemu_node([("qcow2", files[top])])) \
            if meta.images[top]["format"] == "qcow2" else (0, "")
        if st:
            raise replay.Bad("image %s after a detach: qemu-img check: %s" % (top, out))
        looker.ask("read", *[w for k in chain for w in (meta.images[k]["format"], files[k])])
    finally:
        run("umount", MOUNT)
        layout.end()


def attach_points(layout, out, work, n, seed):
    meta = replay.Meta(out)
    os.makedirs(work + "/cut", exist_ok=True)
    log = cutlog.Log(os.path.join(out, "log"))
    cut = replay.Cut(meta, work + "/cut", log)
    looker = replay.Looker(meta.model, True)
    bad, spent, start = 0, 0, time.monotonic()
    for i, (index, kind, draw) in enumerate(cutlog.choose(log, n, seed, meta.worlds)):
        cut.forward(index)
        for a in cut.acks:
            looker.ask("ack", a)
        cut.acks = []
        cut.cut(index, kind, draw, seed)
        begin = time.monotonic()
        try:
            if cut.world:
                attach_after_cut(layout, meta, cut, looker, work, i)
        except (RuntimeError, replay.Bad) as e:
            bad += 1
            print("cut %d:%s:%d (%s): %s" % (index, kind, draw, cut.world["step"], e), flush=True)
        cut.heal()
        spent += time.monotonic() - begin
    print("%d fresh attaches after cuts, %d bad; %d s, %d s more to get there" % (
        n, bad, spent, time.monotonic() - start - spent))
    return 1 if bad else 0


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--seconds", type=float, default=40)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--attach", type=int)
    p.add_argument("layout", choices=sorted(LAYOUTS))
    p.add_argument("out")
    p.add_argument("work")
    a = p.parse_args()
    layout = LAYOUTS[a.layout](a.work)
    if a.attach is not None:
        return attach_points(layout, a.out, a.work, a.attach, a.seed)
    r = Recorder(layout, a.out, a.work, a.seed)
    times = [time.monotonic()]
    for step in (r.begin, lambda: r.operate(a.seconds), r.finish, r.save):
        step()
        times.append(time.monotonic())
    print("%d events of the guest; %s; %d KiB free at least, %d MiB logged" % (r.events(), ", ".join(
        "%s %d" % x for x in sorted(r.counts.items())), r.least >> 10, r.logs >> 20))
    print("begin %d s, operations %d s, end %d s, save %d s" % tuple(
        b - a for a, b in zip(times, times[1:])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
