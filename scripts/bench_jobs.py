# SPDX-License-Identifier: GPL-2.0-or-later
"""For scripts/bench-tables: how fast jobs are, what a guest has beside them, and for how long it is held."""
import os
import re
import sys
import time

from bench_tools import (MIB, Daemon, Fio, StorageDaemon, Table, fill, longest_write, make_place,
                         make_qcow2, ramdisks, settled, sh)

COPY_MIB = 512
DD, LC, QSD = "dd bs=1M, direct", "livechain", "qemu-storage-daemon"


def run_job(who, command, until, **args):
    """Seconds from the command to this event; a job that is ready then is cancelled."""
    start = time.monotonic()
    who.qmp.run(command, job_id="j", **args)
    data = who.qmp.wait(until)
    took = time.monotonic() - start
    if data.get("error"):
        sys.exit("bench: %s failed: %s" % (command, data["error"]))
    if until == "BLOCK_JOB_READY":
        who.qmp.run("block-job-cancel", device="j")
        who.qmp.wait("BLOCK_JOB_COMPLETED")
    return took


def force(who, fmt):
    """We refuse a raw target that could be a mistake."""
    return {"x_force": True} if isinstance(who, Daemon) and fmt == "raw" else {}


def copy_rate(who, command, until, fmt, source, target):
    """MiB/s of a job that copies all."""
    who.add("target", fmt, target)
    took = run_job(who, command, until, device=source, target="target", sync="full", **force(who, fmt))
    who.qmp.run("blockdev-del", node_name="target")
    return COPY_MIB / took


def both_copies(who, sources, what):
    return [copy_rate(who, *what, "raw", sources[0], "/dev/ram1"),
            copy_rate(who, *what, "qcow2", sources[1], "/dev/ram3")]


BACKUP = "blockdev-backup", "BLOCK_JOB_COMPLETED"
MIRROR = "blockdev-mirror", "BLOCK_JOB_READY"


def dd_rate(source, target):
    """As dd says it itself: without its start."""
    out = sh("LC_ALL=C dd if=%s of=%s bs=1M count=%d iflag=direct oflag=direct conv=notrunc" %
             (source, target, COPY_MIB))
    return COPY_MIB / float(re.search(r"copied, ([0-9.e-]+) s", out).group(1))


def table_copy():
    ramdisks(4, COPY_MIB + 64)
    for n in 0, 1, 3:
        fill("/dev/ram%d" % n, COPY_MIB + 32)
    t = Table("Full backup, and mirror till it is ready, of %d MiB between RAM disks, MiB/s" % COPY_MIB,
              ("raw to raw", "qcow2 to qcow2"), DD)
    d = Daemon()
    make_qcow2("/dev/ram2", COPY_MIB)
    dev = d.attach("q", "qcow2", "/dev/ram2")
    fill(dev, COPY_MIB)
    settled("q")
    t.row(DD, [dd_rate("/dev/ram0", "/dev/ram1"), dd_rate("/dev/ram2", "/dev/ram3")])
    d.attach("r", "raw", "/dev/ram0")
    settled("r")
    for what in BACKUP, MIRROR:
        make_qcow2("/dev/ram3", COPY_MIB)
        t.row("%s %s" % (LC, what[0][9:]), both_copies(d, "rq", what))
    d.quit()
    sh("qemu-img compare -U -q -f qcow2 -F qcow2 /dev/ram2 /dev/ram3")
    q = StorageDaemon()
    q.add("r", "raw", "/dev/ram0")
    q.add("q", "qcow2", "/dev/ram2")
    for what in BACKUP, MIRROR:
        make_qcow2("/dev/ram3", COPY_MIB)
        t.row("%s %s" % (QSD, what[0][9:]), both_copies(q, "rq", what))
    q.quit()
    t.ratio("both", LC + " backup", DD, 0.8)
    t.ratio("both", LC + " backup", QSD + " backup", 1.5)
    t.ratio("both", LC + " mirror", DD, 0.9)
    t.ratio("both", LC + " mirror", QSD + " mirror", 1)


# --- jobs within a chain ---------------------------------------------------------------------

def make_chain(d, full):
    """ram0 below ram1; one of them (0, 1) has all the data, the other none. It was attached to write it."""
    make_qcow2("/dev/ram0", COPY_MIB)
    if not full:
        fill(d.attach("w", "qcow2", "/dev/ram0"), COPY_MIB)
        d.detach("w")
    make_qcow2("/dev/ram1", COPY_MIB, "-b", "/dev/ram0", "-F", "qcow2")
    if full:
        fill(d.attach("w", "qcow2", "/dev/ram1"), COPY_MIB)
        d.detach("w")


def chain_job(who, command, until):
    """MiB/s."""
    if isinstance(who, Daemon):
        who.attach("top", "qcow2", "/dev/ram1")
        settled("top")
    else:
        who.add("top", "qcow2", "/dev/ram1")
    took = run_job(who, command, until, device="top")
    who.quit()
    return COPY_MIB / took


STREAM = "block-stream", "BLOCK_JOB_COMPLETED", 0
COMMIT = "block-commit", "BLOCK_JOB_READY", 1


def table_chain():
    ramdisks(2, COPY_MIB + 64)
    for n in 0, 1:
        fill("/dev/ram%d" % n, COPY_MIB + 32)
    t = Table("Stream to its end, commit of the active image till it is ready, %d MiB, MiB/s" % COPY_MIB,
              ("stream", "active commit"), QSD)
    for name, make in (QSD, StorageDaemon), (LC, Daemon):
        rates = []
        for command, until, full in STREAM, COMMIT:
            d = Daemon()
            make_chain(d, full)
            d.quit()
            rates.append(chain_job(make(), command, until))
        t.row(name, rates)
    t.ratio("stream", LC, QSD, 2, [0])
    t.ratio("active commit", LC, QSD, 1.2, [1])


# --- holes ---------------------------------------------------------------------------------

SPARSE_MIB, PARTS = 1024, 16


def sparse_image(d, name, mib):
    """A base and an overlay that share SPARSE_MIB of data, in PARTS places all over the disk."""
    make_qcow2(name + "-a", mib)
    make_qcow2(name, mib, "-b", name + "-a", "-F", "qcow2")
    part = SPARSE_MIB // PARTS
    for image, first in (name + "-a", 0), (name, 1):
        dev = d.attach("w", "qcow2", os.path.abspath(image))
        for i in range(first, PARTS, 2):
            sh("dd if=/dev/zero of=%s bs=1M count=%d seek=%d oflag=direct conv=notrunc" %
               (dev, part, i * (mib // PARTS)))
        d.detach("w")


def table_sparse():
    make_place(3 * SPARSE_MIB + 1000)
    t = Table("Jobs over a chain of %d MiB of data, seconds times 1000" % SPARSE_MIB,
              ("backup", "mirror", "stream"), "all of the disk")
    d = Daemon()
    for name, mib in ("all of the disk", SPARSE_MIB), ("in 1 TiB", MIB):
        image = "s%d" % mib
        sparse_image(d, image, mib)
        d.attach("disk", "qcow2", os.path.abspath(image))
        settled("disk")
        took = []
        for command, until in BACKUP, MIRROR:
            make_qcow2("target", mib)
            d.add("target", "qcow2", os.path.abspath("target"))
            took.append(1e3 * run_job(d, command, until, device="disk", target="target", sync="full"))
            d.qmp.run("blockdev-del", node_name="target")
            os.unlink("target")
        took.append(1e3 * run_job(d, "block-stream", "BLOCK_JOB_COMPLETED", device="disk"))
        t.row(name, took)
        d.detach("disk")
        os.unlink(image)
        os.unlink(image + "-a")
    d.quit()
    worst = max(t.rows["in 1 TiB"][i] / t.rows["all of the disk"][i] for i in range(3))
    t.goal("as long as with the data alone: at most 1.2 times", worst <= 1.2, "%.3f" % worst)


# --- a guest beside a job ----------------------------------------------------------------------

GUEST_MIB = 256


def nbd_of(q):
    """The storage daemon's node as a block device."""
    q.qmp.run("nbd-server-start", addr={"type": "unix", "data": {"path": "/run/qsd.nbd"}})
    q.qmp.run("block-export-add", type="nbd", id="e", node_name="disk", name="disk", writable=True)
    sh("modprobe nbd nbds_max=1 max_part=0")
    sh("nbd-client -unix /run/qsd.nbd /dev/nbd0 -name disk")
    return "/dev/nbd0"


def guest_iops(dev):
    return Fio(dev, "randwrite", "4k", 16, size="%dm" % (GUEST_MIB - 64), runtime="1s").iops


def beside(who, dev):
    """The guest's IOPS without a job, beside a slow backup, beside a mirror that is ready, and afterwards."""
    rates = [guest_iops(dev)]
    make_qcow2("/dev/ram1", GUEST_MIB)
    who.add("target", "qcow2", "/dev/ram1")
    who.qmp.run("blockdev-backup", job_id="b", device="disk", target="target", sync="full", speed=MIB)
    rates.append(guest_iops(dev))
    who.qmp.run("block-job-cancel", device="b")
    who.qmp.wait("BLOCK_JOB_CANCELLED")
    who.qmp.run("blockdev-del", node_name="target")
    make_qcow2("/dev/ram1", GUEST_MIB)
    who.add("target", "qcow2", "/dev/ram1")
    who.qmp.run("blockdev-mirror", job_id="m", device="disk", target="target", sync="full")
    who.qmp.wait("BLOCK_JOB_READY")
    rates.append(guest_iops(dev))
    who.qmp.run("block-job-cancel", device="m", force=True)
    who.qmp.wait("BLOCK_JOB_CANCELLED")
    who.qmp.run("blockdev-del", node_name="target")
    return rates + [guest_iops(dev)]


def table_beside():
    ramdisks(2, GUEST_MIB + 64)
    t = Table("A guest's 4 KiB random writes at depth 16, IOPS",
              ("no job", "backup 1 MiB/s", "mirror, ready", "no job again"), QSD)
    make_qcow2("/dev/ram0", GUEST_MIB)
    d = Daemon()
    dev = d.attach("disk", "qcow2", "/dev/ram0")
    fill(dev, GUEST_MIB)
    d.detach("disk")
    q = StorageDaemon()
    q.add("disk", "qcow2", "/dev/ram0")
    t.row(QSD, beside(q, nbd_of(q)))
    sh("nbd-client -d /dev/nbd0")
    q.quit()
    dev = d.attach("disk", "qcow2", "/dev/ram0")
    settled("disk")
    t.row(LC, beside(d, dev))
    d.quit()
    t.ratio("beside a backup", LC, QSD, 2, [1])
    t.ratio("beside a mirror that is ready", LC, QSD, 2, [2])
    again = t.rows[LC][3] / t.rows[LC][0]
    t.goal("afterwards as before: within 1 %", abs(again - 1) < 0.01, "%.3f" % again)


# --- how long a guest is held ------------------------------------------------------------------------

def pivot(d, t, dev, name, command, **args):
    """A row: the guest's longest write while the disk goes over, and for how long it was suspended."""
    d.qmp.run(command, job_id="j", device="disk", **args)
    d.qmp.wait("BLOCK_JOB_READY")

    def complete():
        d.qmp.run("block-job-complete", device="j")
        d.qmp.wait("BLOCK_JOB_COMPLETED")
    longest = longest_write(dev, complete)
    t.row(name, [longest, d.held_ms()])
    return longest


def table_pause():
    make_place(1500)
    d = Daemon()
    make_qcow2("a.qcow2", 256)
    make_qcow2("backup.qcow2", 256)
    dev = d.attach("disk", "qcow2", "/srv/img/a.qcow2")
    fill(dev, 256)
    settled("disk")
    t = Table("The guest's pause: the longest of its 4 KiB writes, ms", ("longest", "suspended"), "")
    t.row("nothing happens", [longest_write(dev), None])
    goals = []
    goals.append(("a snapshot", longest_write(dev, lambda: d.qmp.run(
        "blockdev-snapshot-sync", device="disk", snapshot_file="/srv/img/b.qcow2"))))
    t.row("snapshot", [goals[-1][1], d.held_ms()])
    d.add("target", "qcow2", "/srv/img/backup.qcow2")
    goals.append(("a job's start", longest_write(dev, lambda: d.qmp.run(
        "blockdev-backup", device="disk", target="target", sync="full", job_id="b", speed=MIB))))
    t.row("start of a backup", [goals[-1][1], d.held_ms()])
    d.qmp.run("job-cancel", id="b")
    d.qmp.wait("BLOCK_JOB_CANCELLED")
    d.qmp.run("blockdev-del", node_name="target")
    goals.append(("the pivot of a commit", pivot(d, t, dev, "active commit completes", "block-commit")))
    goals.append(("the pivot of a mirror", pivot(
        d, t, dev, "mirror completes", "drive-mirror", target="/srv/img/m.qcow2", sync="full")))
    d.detach("disk")
    d.quit()
    for what, ms in goals:
        t.goal("pause at %s: under 20 ms" % what, ms < 20, "%.1f ms" % ms)


TABLES = {"copy": table_copy, "chain": table_chain, "sparse": table_sparse, "beside": table_beside,
          "pause": table_pause}
