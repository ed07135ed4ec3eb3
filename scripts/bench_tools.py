# SPDX-License-Identifier: GPL-2.0-or-later
"""For scripts/bench-tables: RAM disks, fio, the daemon and its peers, tables on the screen."""
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
BUILD = os.path.join(TOP, "build")
IMAGES = os.path.join(BUILD, "bench")
MIB = 1 << 20
JOBS = (  # heading, fio's rw, block size, depth
    ("4k rread q1", "randread", "4k", 1), ("q16", "randread", "4k", 16),
    ("4k rwrite q1", "randwrite", "4k", 1), ("q16", "randwrite", "4k", 16),
    ("1M read q4", "read", "1m", 4), ("1M write q4", "write", "1m", 4))


# --- small tools ---------------------------------------------------------------

def sh(command, check=True):
    r = subprocess.run(command, shell=isinstance(command, str), stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    if check and r.returncode:
        sys.exit("bench: '%s' failed: %s" % (command, r.stdout))
    return r.stdout


def say(text=""):
    print(text, flush=True)


def wait_for(what, condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit("bench: waited in vain for " + what)
        time.sleep(0.05)


def ramdisks(number, mib):
    sh("modprobe brd rd_nr=%d rd_size=%d max_part=1" % (number, mib * 1024))


def fill(device, mib):
    """Zeros, but really there: later reads and writes find their pages."""
    sh("dd if=/dev/zero of=%s bs=1M count=%d oflag=direct conv=notrunc" % (device, mib))
    sh("sync " + device)


class Fio:
    """One fio job on a device; what it measured."""

    def __init__(self, device, rw, bs, depth, *more, size="128m", runtime="500ms"):
        args = ["fio", "--name=j", "--filename=" + device, "--direct=1", "--ioengine=libaio",
                "--rw=" + rw, "--bs=" + bs, "--iodepth=%d" % depth, "--size=" + size,
                "--thread", "--output-format=json"]
        if runtime:
            args += ["--time_based", "--runtime=" + runtime]
        out = subprocess.run(args + list(more), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
        try:
            job = json.loads(out.stdout[out.stdout.index("{"):])["jobs"][0]
        except ValueError:
            sys.exit("bench: fio on %s: %s" % (device, out.stdout + out.stderr))
        if job["error"]:
            sys.exit("bench: fio on %s: error %d" % (device, job["error"]))
        side = job["read" if "read" in rw else "write"]
        self.iops = side["iops"]
        self.mib = side["bw"] / 1024
        self.max_ms = side["clat_ns"]["max"] / 1e6
        self.rate = self.mib if bs == "1m" else self.iops


def rate(device, rw, bs, depth, *more, **options):
    """1 MiB: the median of three, since one in ten is far off."""
    if bs != "1m":
        return Fio(device, rw, bs, depth, *more, **options).rate
    return statistics.median(Fio(device, rw, bs, depth, *more, runtime="300ms", **options).rate
                             for _ in range(3))


def measure(device, *more):
    return [rate(device, rw, bs, depth, *more) for _, rw, bs, depth in JOBS]


# --- tables on the screen ------------------------------------------------------

class Table:
    def __init__(self, title, columns, reference):
        self.columns, self.reference, self.rows = columns, reference, {}
        say("\n%s" % title)
        say("%-34s" % "" + "".join("%16s" % c for c in columns))

    def row(self, name, figures):
        self.rows[name] = figures
        ref = self.rows.get(self.reference)
        cells = []
        for i, f in enumerate(figures):
            if f is None:
                cells.append("%16s" % "-")
                continue
            text = "%.1fk" % (f / 1000) if f >= 10000 else "%.2fk" % (f / 1000) if f >= 3000 else "%.0f" % f
            share = "" if ref is None or name == self.reference else " (%.2f)" % (f / ref[i])
            cells.append("%16s" % (text + share))
        say("%-34s" % name + "".join(cells))

    def worst(self, name, other, columns=None):
        return min(self.rows[name][i] / self.rows[other][i]
                   for i in (columns or range(len(self.columns))))

    def ratio(self, what, name, other, factor, columns=None):
        """Goal: in these columns @name is at least @factor times @other."""
        worst = self.worst(name, other, columns)
        self.goal("%s / %s, %s: at least %g" % (name, other, what, factor), worst >= factor,
                  "%.3f" % worst)

    def compare(self, what, name, other, columns=None):
        """No goal: what others reach of it, which tells what a goal asks for."""
        say("  %-7s %-82s %.3f" % ("", "%s / %s, %s" % (name, other, what),
                                   self.worst(name, other, columns)))

    def added(self, raw, names):
        """What each adds to one 4 KiB I/O on what lies below: the ratios hide it behind fio's own way."""
        columns = [i for i, c in enumerate(self.columns) if not c.startswith("1M")]
        say("  microseconds (thousands of instructions) that a 4 KiB I/O takes more than on %s:" % raw)
        for name in names:
            more = [1e6 / self.rows[name][i] - 1e6 / self.rows[raw][i] for i in columns]
            say("  %-32s" % name + "".join("%16.2f" % m for m in more))

    def goal(self, text, met, measured):
        say("  %-7s %-82s %s" % ("met" if met else "MISSED", text, measured))


# --- the daemon and QEMU's ------------------------------------------------------

class Qmp:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        wait_for("QMP on " + path, lambda: self.connect(path))
        self.file = self.sock.makefile("rwb")
        self.events = []
        json.loads(self.file.readline())
        self.run("qmp_capabilities")

    def connect(self, path):
        try:
            self.sock.connect(path)
            return True
        except OSError:
            return False

    def read(self):
        line = self.file.readline()
        if not line:
            sys.exit("bench: the QMP connection ended")
        return json.loads(line)

    def run(self, command, **arguments):
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.file.flush()
        while True:
            m = self.read()
            if "event" in m:
                self.events.append(m)
            elif "error" in m:
                sys.exit("bench: %s: %s" % (command, m["error"]["desc"]))
            else:
                return m["return"]

    def wait(self, event):
        while True:
            m = self.events.pop(0) if self.events else self.read()
            if m.get("event") == event:
                return m["data"]


def protocol(path):
    return {"driver": "host_device" if path.startswith("/dev/") else "file", "filename": path,
            "cache": {"direct": True}, "aio": "native"}


class Daemon:
    """A livechaind of its own."""
    number = 0

    def __init__(self):
        Daemon.number += 1
        base = "/run/bench%d" % Daemon.number
        self.log = base + ".log"
        self.process = subprocess.Popen(
            [BUILD + "/livechaind", "--qmp", base + ".sock", "--state-dir", base, "--log-level", "info"],
            stdout=open(self.log, "w"), stderr=subprocess.STDOUT)
        self.qmp = Qmp(base + ".sock")

    def add(self, node, fmt, path, **more):
        self.qmp.run("blockdev-add", driver=fmt, node_name=node, file=protocol(path), **more)

    def attach(self, name, fmt, path, writable=True):
        self.add(name, fmt, path, read_only=not writable)
        self.qmp.run("block-export-add", type="dm", id=name, node_name=name, name=name,
                     writable=writable)
        return "/dev/mapper/" + name

    def detach(self, name):
        self.qmp.run("block-export-del", id=name)
        self.qmp.run("blockdev-del", node_name=name)

    def rss_kib(self):
        text = open("/proc/%d/status" % self.process.pid).read()
        return int(re.search(r"VmRSS:\s+(\d+)", text).group(1))

    def quit(self):
        self.qmp.run("quit")
        self.process.wait()

    def held_ms(self):
        """For how long the last change held the guest."""
        return int(re.findall(r"held for (\d+) ms", open(self.log).read())[-1])


def status(name):
    """The status line's words, from the format's number on."""
    return sh(["dmsetup", "status", name]).split()[3:]


def settled(name):
    """Everything loaded and recorded."""
    def ready():
        w = status(name)
        loaded, slices = w[6].split("/")
        return loaded == slices and w[8] == "0"
    wait_for("%s to be loaded" % name, ready)


def nbd_attach(path, aio="native", number=0):
    """qemu-nbd and the kernel's nbd, as people serve qcow2 to a block device. aio: threads is its default."""
    os.makedirs("/run/lock", exist_ok=True)
    sh("modprobe nbd nbds_max=4 max_part=0")
    dev = "/dev/nbd%d" % number
    # It goes on in the background: it must not have our pipe.
    subprocess.run(["qemu-nbd", "-c", dev, "-f", "qcow2", "--cache=none", "--aio=" + aio, path],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    wait_for(dev, lambda: int(sh(["blockdev", "--getsize64", dev])) > 0)
    return dev


def nbd_detach(dev):
    sh(["qemu-nbd", "-d", dev])
    # The server goes on a little: its image is free when its locks are.
    wait_for("qemu-nbd's end", lambda: not sh("pgrep -x qemu-nbd", check=False))


class StorageDaemon:
    def __init__(self):
        self.process = subprocess.Popen(["qemu-storage-daemon", "--chardev",
                                         "socket,id=q,path=/run/qsd.sock,server=on,wait=off",
                                         "--monitor", "q"])
        self.qmp = Qmp("/run/qsd.sock")

    def add(self, node, fmt, path, **more):
        self.qmp.run("blockdev-add", driver=fmt, node_name=node, file=protocol(path),
                     cache={"direct": True}, **more)

    def quit(self):
        self.qmp.run("quit")
        self.process.wait()


# --- images and their servers -------------------------------------------------------
def make_qcow2(path, mib, *more):
    sh(["qemu-img", "create", "-q", "-f", "qcow2", *more, path, "%dM" % mib])


OURS = ["livechain, raw", "livechain, qcow2"]
NBD = ["qemu-nbd, qcow2, aio=native", "qemu-nbd, qcow2, aio=threads"]


def nbd_rows(t, path):
    for name in NBD:
        dev = nbd_attach(path, name.split("=")[1])
        if name == NBD[0]:
            fill(dev, 192)
        t.row(name, measure(dev))
        nbd_detach(dev)


def make_place(mib):
    """ext4 on a RAM disk: a place for image files that has direct I/O."""
    ramdisks(1, mib)
    sh("modprobe ext4; modprobe loop")
    sh("mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/ram0")
    os.makedirs("/srv/img", exist_ok=True)
    sh("mount -t ext4 -o noatime /dev/ram0 /srv/img")
    os.chdir("/srv/img")


def longest_write(device, during=None):
    """The longest of 4 KiB writes, 500 a second for 3 seconds, while @during runs in the second."""
    args = ["fio", "--name=j", "--filename=" + device, "--direct=1", "--ioengine=psync", "--rw=randwrite",
            "--bs=4k", "--size=128m", "--rate_iops=500", "--time_based", "--runtime=3", "--thread",
            "--output-format=json"]
    p = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    if during:
        during()
    out = p.communicate()[0]
    return json.loads(out[out.index("{"):])["jobs"][0]["write"]["clat_ns"]["max"] / 1e6
