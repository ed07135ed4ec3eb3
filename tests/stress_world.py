# SPDX-License-Identifier: GPL-2.0-or-later
"""What stress.py works on: a daemon that comes and goes, disks on images, and their guests."""
import json
import os
import random
import signal
import subprocess
import threading
import time

import dmio
import oracle
import qmp

MIB = 1 << 20
SECTOR = 512
DISK = 16 * MIB
PATIENCE = 300          # nothing may take longer, however slow the machine is


class Wrong(Exception):
    """What must not be."""


class Gone(Exception):
    """The daemon ended before it answered."""


class Refused(Exception):
    """An error reply."""


FAILURES = (Wrong, Refused, oracle.Mismatch, AssertionError, OSError, subprocess.TimeoutExpired)


def tool(*words, limit=PATIENCE):
    r = subprocess.run(words, capture_output=True, text=True, timeout=limit)
    if r.returncode:
        raise Wrong("%s: %s" % (" ".join(words), (r.stdout + r.stderr).strip()))
    return r.stdout


def until(condition, what, seconds=PATIENCE, nap=0.05):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Wrong("not within %d s: %s" % (seconds, what))
        time.sleep(nap)


def in_cgroup(group, words, nice=0):
    """A command line that runs @words in the memory cgroup @group, if there is one."""
    words = ["nice", "-n", str(nice)] + list(words) if nice else list(words)
    if not group:
        return words
    return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', group] + words


class Daemon:
    """livechaind. Who asks it waits while there is none; `kills` and `quits` count its ends."""

    def __init__(self, program, work, group):
        self.program, self.group = program, group
        self.socket, self.state = work + "/stress.sock", work + "/state"
        self.log = open(work + "/stress-daemon.log", "ab")
        self.up, self.process = threading.Event(), None
        self.kills = self.quits = 0
        self.longest_start = 0.0
        # Held by who must not be seen idle by a quit, which releases idle disks.
        self.busy = threading.Condition()
        self.holders = 0
        self.quitting = False

    def start(self):
        begin = time.monotonic()
        self.process = subprocess.Popen(
            in_cgroup(self.group, [self.program, "--qmp", self.socket, "--state-dir", self.state]),
            stdout=self.log, stderr=self.log)
        until(self.answers, "the daemon starts", nap=0.02)
        self.longest_start = max(self.longest_start, time.monotonic() - begin)
        self.up.set()

    def answers(self):
        self.check()
        try:
            qmp.Client(self.socket, lambda e: None, 30).sock.close()
            return True
        except (OSError, ConnectionError):
            return False

    def check(self):
        if self.process.poll() is not None:
            raise Wrong("the daemon ended by itself, status %d" % self.process.returncode)

    def kill(self):
        self.check()
        self.up.clear()
        self.kills += 1
        self.process.kill()
        self.process.wait()

    def quit(self):
        """Once nobody has a disk that looks idle; none may look so until it is over."""
        with self.busy:
            self.quitting = True
            try:
                if not self.busy.wait_for(lambda: not self.holders, 20):
                    return False
                # in this order: a job that it takes away was begun by who has read `quits` before
                self.up.clear()
                self.quits += 1
                client = qmp.Client(self.socket, lambda e: None)
                client.negotiate()
                client.command('{"execute": "quit"}')
                if self.process.wait(PATIENCE):
                    raise Wrong("after quit its status is %d" % self.process.returncode)
                return True
            finally:
                self.quitting = False
                self.busy.notify_all()

    def __enter__(self):
        with self.busy:
            self.busy.wait_for(lambda: not self.quitting)
            self.holders += 1

    def __exit__(self, *_):
        with self.busy:
            self.holders -= 1
            self.busy.notify_all()


class Client:
    """One client of the daemon; a thread's own."""

    def __init__(self, daemon):
        self.daemon, self.conn, self.process = daemon, None, None

    def command(self, verb, **arguments):
        """Gone: it may have been done or not."""
        if not self.daemon.up.wait(PATIENCE):
            raise Wrong("no daemon for %d s" % PATIENCE)
        text = json.dumps({"execute": verb, "arguments": {
            k.replace("_", "-"): v for k, v in arguments.items()}})
        try:
            if not self.conn or self.process is not self.daemon.process:
                self.process = self.daemon.process
                self.conn = qmp.Client(self.daemon.socket, lambda e: None, PATIENCE)
                self.conn.negotiate()
            reply = self.conn.command(text)
        except TimeoutError:
            raise Wrong("no answer to %s" % text)
        except (OSError, ConnectionError, ValueError):
            self.conn = None
            time.sleep(0.02)
            raise Gone
        if "return" not in reply:
            if reply["error"]["desc"] == "The daemon is shutting down":
                raise Gone      # it was up when it was asked for
            raise Refused("%s: %s" % (text, reply["error"]["desc"]))
        return reply["return"]

    def ask(self, verb, **arguments):
        """A query, of whatever daemon is there."""
        while True:
            try:
                return self.command(verb, **arguments)
            except Gone:
                pass

    def sure(self, done, verb, **arguments):
        """A command that has been done when this returns, at the latest by a later daemon.
        Returns whether the first daemon answered it."""
        first = True
        while True:
            try:
                if first or not done():
                    self.command(verb, **arguments)
                return first
            except Gone:
                first = False


class Files:
    """A store of images: files in a folder."""
    driver = "file"

    def __init__(self, folder):
        self.folder = folder

    def new(self, name, size):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as f:
            f.truncate(size or 0)
        return path

    def free(self, path):
        os.unlink(path)


class Slices:
    """A store of images: block devices, as logical volumes are, linear maps of one big device."""
    driver = "host_device"
    SLOT = 2 * DISK + 8 * MIB

    def __init__(self, device):
        self.device, self.lock, self.used = device, threading.Lock(), {}
        disk = dmio.Disk(device)
        self.slots = list(range(disk.sectors() // (self.SLOT // SECTOR)))
        disk.close()

    def new(self, name, size):
        with self.lock:
            slot = self.slots.pop(0)
        dm = dmio.Dm("lv-" + name, [(0, (size or self.SLOT) // SECTOR, "linear", "%s %d" % (
            self.device, slot * (self.SLOT // SECTOR)))])
        self.blank(dm.path)
        self.used[dm.path] = dm, slot
        return dm.path

    @staticmethod
    def blank(path):
        """Nobody takes it for an image any more. All else stays: old content must never be seen."""
        disk = dmio.Disk(path)
        disk.write(0, bytes(4096))
        disk.close()

    def free(self, path):
        dm, slot = self.used.pop(path)
        until(lambda: self.removed(dm), "the removal of " + path)
        with self.lock:
            self.slots.append(slot)

    @staticmethod
    def removed(dm):
        try:
            dm.remove()
            return True
        except OSError:
            return False


class Stream(oracle.Timed):
    """Random I/O on the first half of the disk."""
    VERBS = ["write"] * 8 + ["read"] * 5 + ["discard", "zeroout", "flush", "flush", "rewrite"]
    NAP = 0.03

    def pick(self):
        nr, half = self.rng.choice([1, 8, 8, 8, 24, 128, 512]), DISK // SECTOR // 2
        sector = self.rng.randrange(half - nr)
        return (sector if nr < 8 else sector // 8 * 8), nr


class Fio(threading.Thread):
    """fio writes the second half of the disk anew, verifies it, again and again."""

    def __init__(self, guest, rng):
        super().__init__(daemon=True)
        self.guest, self.rng = guest, rng
        self.process, self.error, self.rounds, self.last = None, None, 0, None
        self.cond, self.held = threading.Condition(), False

    def words(self, path, seed, *more):
        half = str(DISK // 2)
        return ["fio", "--name=half", "--filename=" + path, "--offset=" + half, "--size=" + half,
                "--rw=randwrite", "--bssplit=4k/60:12k/20:64k/20", "--randseed=%d" % seed,
                "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--do_verify=1",
                "--fsync=32", "--thread"] + list(more)

    def how(self):
        if self.guest.group:    # through the page cache, of which there is little
            return ["--ioengine=psync", "--direct=0", "--invalidate=1", "--end_fsync=1"]
        return ["--ioengine=libaio", "--direct=1", "--iodepth=8"]

    def once(self, path, seed, *more):
        words = in_cgroup(self.guest.group, self.words(path, seed, *self.how(), *more), 15)
        with self.cond:
            self.cond.wait_for(lambda: not self.held)
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                            text=True)
        out, _ = self.process.communicate()
        if self.process.returncode:
            raise Wrong("%s: status %d: %s" % (" ".join(words), self.process.returncode,
                                               "\n".join(out.split("\n")[:12])))

    def run(self):
        try:
            while not self.guest.stop.is_set():
                seed = self.rng.getrandbits(30)
                self.once(self.guest.device, seed, "--rate_iops=100")
                self.rounds, self.last = self.rounds + 1, seed
        except Exception as e:      # whatever it is: the guest ends, and says it
            self.error = e
            self.guest.stop.set()

    def tasks(self, file):
        """That file of each of its threads."""
        out, folder = [], "/proc/%d/task" % self.process.pid
        for task in os.listdir(folder) if os.path.exists(folder) else []:
            try:
                with open("%s/%s/%s" % (folder, task, file)) as f:
                    out.append(f.read())
            except OSError:
                pass    # it has ended
        return out

    def where(self):
        """What its threads are doing, for a report."""
        return "fio in " + ", ".join(self.tasks("wchan"))

    def stopped(self):
        """A signal that stops is sent before it is obeyed: who is in a system call ends that first."""
        return all(stat.rpartition(")")[2].split()[0] in "TtZX" for stat in self.tasks("stat"))

    def hold(self):
        """It does nothing, and no round begins, until release()."""
        with self.cond:
            self.held = True
            self.signal(signal.SIGSTOP)
        if self.process:
            until(self.stopped, "fio stops", nap=0.01)

    def release(self):
        with self.cond:
            self.signal(signal.SIGCONT)
            self.held = False
            self.cond.notify_all()

    def verify(self, path):
        """What the last round wrote is there."""
        if self.last is not None:
            self.once(path, self.last, "--verify_only")

    def signal(self, number):
        with self.cond:
            if self.process and self.process.poll() is None:
                self.process.send_signal(number)


class Hog(threading.Thread):
    """Somebody in the guest's cgroup who uses more memory than there is: all is swapped."""
    CODE = """
import mmap, os, random, struct, sys, time
n = int(sys.argv[1]); m = mmap.mmap(-1, n * 4096); have = {}
while os.getppid() != 1:
    for _ in range(50):
        p = random.randrange(n); v = have.get(p, 0)
        got, = struct.unpack_from("=Q", m, p * 4096)
        if got != v: print("page %d: %d instead of %d" % (p, got, v)); sys.exit(1)
        have[p] = random.getrandbits(60); struct.pack_into("=Q", m, p * 4096, have[p])
    time.sleep(0.1)
"""

    def __init__(self, group, mib):
        super().__init__(daemon=True)
        self.words = in_cgroup(group, ["python3", "-S", "-c", self.CODE, str(mib * 256)], 19)
        self.over, self.error, self.killed = False, None, 0
        self.start()

    def run(self):
        while not self.over:
            self.process = subprocess.Popen(self.words, stdout=subprocess.PIPE, text=True)
            out, _ = self.process.communicate()
            if not self.over and self.process.returncode == -9:
                self.killed += 1
            elif not self.over:
                self.error = Wrong("the memory hog: %s" % out)
                return

    def end(self):
        self.over = True
        self.process.kill()


class Guest:
    """Who uses the disk. An open descriptor keeps it in use from the start to the end."""

    def __init__(self, device, model, rng, group):
        self.device, self.group = device, group
        self.model = oracle.Model(model)
        self.stop = threading.Event()
        self.disk = dmio.Disk(device)
        self.streams = [Stream(self, random.Random(rng.random())) for _ in range(2)]
        self.fio = Fio(self, random.Random(rng.random()))
        for t in self.streams + [self.fio]:
            t.start()

    def check(self):
        for s in self.streams:
            if s.error:
                raise Wrong("the guest's I/O on %s: %s: %s" % (self.device, type(s.error).__name__,
                                                               s.error))
            if s.since and time.monotonic() - s.since > PATIENCE:
                raise Wrong("I/O of the guest on %s stands still" % self.device)
        if self.fio.error:
            raise self.fio.error

    def longest(self):
        return max(s.longest for s in self.streams)

    def number(self):
        rdev = os.fstat(self.disk.fd).st_rdev
        return os.major(rdev), os.minor(rdev)

    def content(self):
        total = self.disk.sectors()
        return b"".join(self.disk.read(s, min(4096, total - s)) for s in range(0, total, 4096))

    def hold(self):
        """Nothing is under way until release(); returns what the disk holds."""
        self.model.hold()
        self.fio.hold()
        self.disk.flush()
        until(lambda: inflight(self.number()) == 0, "requests come back", nap=0.01)
        return self.content()

    def release(self):
        self.fio.release()
        self.model.release()

    def completed(self):
        with open("/sys/dev/block/%d:%d/stat" % self.number()) as f:
            figures = f.read().split()
        return figures[0], figures[4]       # reads, writes

    def join(self, thread):
        """It may take its time on a slow machine as long as requests get done."""
        last, since = None, 0
        while thread.is_alive():
            now = self.completed()
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                raise Wrong("load on %s does not end: %s" % (self.device, self.fio.where()))
            thread.join(1)

    def end(self):
        """All load is over; the disk holds what it should. Returns that."""
        self.stop.set()
        for t in self.streams + [self.fio]:
            self.join(t)
        self.check()
        self.fio.verify(self.device)
        data = self.content()
        compare(data, self.model.get(0, self.model.sectors() // 2), [], "the disk " + self.device)
        return data

    def close(self):
        self.disk.close()


def inflight(number):
    with open("/sys/dev/block/%d:%d/inflight" % number) as f:
        return sum(map(int, f.read().split()))


def compare(data, want, window, what):
    """@data begins with @want, or in places what an operation of @window wrote there."""
    if len(data) < len(want):
        raise Wrong("%s is shorter than the disk" % what)
    allowed = {}
    for sector, nr, new in window:
        for i in range(nr):
            allowed.setdefault(sector + i, []).append(new[i * SECTOR:(i + 1) * SECTOR])
    for pos in range(0, len(want), MIB):
        a, b = data[pos:min(pos + MIB, len(want))], want[pos:pos + MIB]
        if a != b:
            oracle.check_sectors(a, b, pos // SECTOR, allowed, what)


def read_image(path, fmt, work):
    """What QEMU reads from an image."""
    raw = os.path.join(work, os.path.basename(path) + ".flat")
    tool("qemu-img", "convert", "-f", fmt, "-O", "raw", path, raw)
    with open(raw, "rb") as f:
        data = f.read()
    os.unlink(raw)
    return data
