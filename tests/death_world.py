# SPDX-License-Identifier: GPL-2.0-or-later
"""What death.py lets the daemon die in: a daemon, the disk vm0 on a chain, and its guest."""
import json
import mmap
import os
import random
import re
import shutil
import struct
import subprocess
import threading
import time

import dmio
import oracle
import qmp

MIB = 1 << 20
FAULT_NAMES = 4095
FAULT_FILE_SIZE = 64 + 64 * FAULT_NAMES
DISK_MIB = 16
CHAIN_MAX = 10


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
        self.map[0:8] = self.map[16:24] = bytes(8)
        self.map[8:16] = struct.pack("=Q", number)

    def disarm(self):
        self.map[8:16] = bytes(8)

    def count(self):
        return struct.unpack("=Q", self.map[0:8])[0]

    def passed(self):
        """No thread is within a point."""
        return struct.unpack("=Q", self.map[16:24])[0] >= self.count()

    def name(self, number):
        start = 64 + 64 * ((number - 1) % FAULT_NAMES)
        return self.map[start:start + 64].split(b"\0")[0].decode()


class Stream(oracle.Timed):
    """Random I/O on [first, end) of the disk; how long each operation took."""

    def __init__(self, guest, rng, first, end, verbs):
        super().__init__(guest, rng)
        self.VERBS, self.first, self.end = verbs, first, end

    def pick(self):
        nr = self.rng.choice([8, 8, 8, 32, 128])
        return self.rng.randrange(self.first, self.end - nr) // 8 * 8, nr


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
            s.join(240)
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


def loops(expected=()):
    """The files behind loop devices; others than the expected ones have a moment to go."""
    end = time.monotonic() + 20
    while any(f not in expected for f in loops_now()) and time.monotonic() < end:
        time.sleep(0.05)
    return loops_now()


def loops_now():
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
                self.client = qmp.Client(self.socket, lambda e: None, 240)
                self.client.negotiate()
                break
            except (OSError, ConnectionError):
                if time.monotonic() > begin + 240:
                    raise Wrong("the daemon does not start")
                time.sleep(0.01)
        self.longest_start = max(self.longest_start, time.monotonic() - begin)

    def reap(self):
        """The daemon has ended or is about to: by SIGKILL, or it is wrong."""
        status = self.process.wait(240)
        self.client = None
        if status != -9:
            raise Wrong("the daemon ended with status %d" % status)
        raise Died

    def disarm(self):
        """It has not died; Died if it has, or had begun to."""
        self.faults.disarm()
        while not self.faults.passed() and self.process.poll() is None:
            time.sleep(0.001)
        self.command("query-status")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.client = None

    def let_guards(self, signo):
        """Stops the processes that resume devices after a daemon, or lets them go on."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if read_word("/proc/%s/comm" % pid) == "lc-guard":
                os.kill(int(pid), signo)

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
        status = self.process.wait(240)
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

    def images(self):
        return [self.path(os.path.basename(n["file"])) for n in self.nodes() if n["drv"] == "qcow2"]

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
        inner = ["livechain-%s--%s" % (j, side) for j in jobs for side in ("source", "target", "stream")]
        for n in self.nodes():
            if n["drv"] == "copy-before-write":
                inner += ["livechain-cbw:%s--%s" % (n["node-name"], side) for side in ("source", "target")]
            elif n["drv"] == "snapshot-access":
                inner.append("livechain-%s--access" % n["node-name"])
        exports, found = self.exports(), devices()
        for name, suspended in found.items():
            if name not in exports and name not in inner:
                raise Wrong("the device %s is left behind" % name)
            if suspended:
                raise Wrong("the device %s is suspended" % name)
        for x in exports:
            if x not in found:
                raise Wrong("the disk %s has no device" % x)
        for name in os.listdir("/dev/mapper"):
            if name not in found and name != "control":
                raise Wrong("the node /dev/mapper/%s leads nowhere" % name)
        files = [os.path.basename(n["file"]) for n in self.nodes()]
        for f in loops(files):
            if f not in files:
                raise Wrong("a loop device is left on %s" % f)

    def check_journals(self):
        """A journal is of an image that is open."""
        folder, files = self.state + "/grants", [n["file"] for n in self.nodes()]
        for f in os.listdir(folder) if os.path.exists(folder) else []:
            image = read_word(os.path.join(folder, f))
            if image not in files:
                raise Wrong("a journal is left of %s" % image)

    def check_jobs(self):
        """The daemon's jobs are the kernel's."""
        found = {}
        for name in devices():
            text = dmio.control().call(dmio.TABLE_STATUS, name)[3]
            found.update((m[0], m[1:]) for m in re.findall(
                r" (j) (running|paused|ready|standby|concluded) \d+/\d+ (\d+) \S+ \d+", text.decode("latin1")))
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
        self.guest.progress(1, 240, "after the attach")

    def end(self):
        """The clean end: all is as it should be, on the disk too."""
        self.guest.end()
        top = self.path(self.top("vm0"))
        chain = self.images()
        oracle.same("/dev/mapper/vm0", self.guest.model)
        self.detach("vm0")
        self.quit()
        left = list(devices()), loops()
        if any(left):
            raise Wrong("left behind: %s, %s" % left)
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
