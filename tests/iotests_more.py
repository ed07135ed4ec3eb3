# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of unequal sizes, guests that write and discard while jobs run, what jobs hold: scenarios for iotests.py."""
import os
import subprocess
import threading

from iotests import run
from iotests_chain import three_disk
from iotests_copy import backed, four, target

SECTIONS = ("held", "active", "sizes", "zeros")
M = 1 << 20


# --- a job that runs holds up neither its guest nor others ---------------------------------------------

def held_stop(w):
    """'stop' waits for no job; the guest writes on; a slow job of each kind is cancelled"""
    base, mid, top = three_disk(w, 8 * M)
    for command, args in (("drive-mirror", {"sync": "full", "target": w.path("i-m"), "buf_size": 65536}),
                          ("drive-backup", {"sync": "full", "target": w.path("i-b")}),
                          ("block-commit", {"top": mid}), ("block-stream", {})):
        w.forget()
        w.need(command, device="drive0", speed=1, **args)
        w.ok("stop")
        job = w.job()
        w.eq((job["status"], job["ready"], job["paused"]), ("running", False, False), "%s after stop" % command)
        w.write(0x41, 0, 4096)
        w.ok("cont")
        w.cancelled(force=True)
        w.reads(0x41, 0, 4096)
    w.chain_is([top, mid, base])


def held_pending(w):
    """a commit that waits for job-finalize: reads and writes go on, before, and in the new chain"""
    base, mid, top = three_disk(w)
    w.need("block-commit", device="drive0", job_id="job0", top_node="mid", auto_finalize=False)
    w.wait("BLOCK_JOB_PENDING", id="job0")
    w.write(0x31, 65536, 65536)
    w.reads(0xab, 0, 65536)
    w.chain_is([top, mid, base])
    w.ok("job-finalize", id="job0")
    w.completed("job0", "commit")
    w.eq(w.story("job0"), "created running waiting pending PENDING COMPLETED concluded null", "events")
    w.chain_is([top, base])
    w.reads(0x31, 65536, 65536)
    w.reads(0xef, M // 2, M // 2)


def held_concluded(w):
    """a job that has concluded holds nothing, dismissed or not"""
    four(w)
    target(w, 8 * M)
    w.need("blockdev-backup", job_id="job0", device="drive0", target="node1", sync="full", auto_finalize=False, auto_dismiss=False)
    w.wait("BLOCK_JOB_PENDING", id="job0")
    w.refused("Node 'node1' is busy: .*|Node node1 is in use|Block device node1 is in use", "blockdev-del", node_name="node1")
    w.ok("job-finalize", id="job0")
    w.wait("JOB_STATUS_CHANGE", id="job0", status="concluded")
    w.ok("blockdev-del", node_name="node1")
    w.eq(w.job("job0")["status"], "concluded", "status")
    w.ok("job-dismiss", id="job0")
    w.wait_gone("job0")


def held_locks(w):
    """nobody else can write the source or the target of a mirror, nor the source when it was cancelled"""
    raw = w.create("raw", M, fmt="raw")
    w.disk((raw, "raw", "raw"))
    new = w.create("new", M, fmt="raw")
    w.add((new, "raw", "new"))
    w.need("blockdev-mirror", job_id="job0", device="drive0", target="new", sync="full")
    w.ready("job0")

    def locked(path):
        out = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", path], capture_output=True, text=True)
        w.holds("Is another process using the image" in out.stdout + out.stderr, "%s: %s" % (path, out))
    locked(raw) if not w.real else None # there the share-rw of our device shares it
    locked(new)
    w.ok("block-job-cancel", device="job0")
    w.completed("job0", "mirror")
    locked(raw) if not w.real else None


def held_graph(w):
    """overlays come and go under a guest that writes"""
    base, test = backed(w)
    if w.real:
        return
    until, last = threading.Event(), [0]

    def guest():
        fd = os.open("/dev/mapper/drive0", os.O_RDWR)
        while not until.is_set():
            last[0] = last[0] % 250 + 1
            os.pwrite(fd, bytes([last[0]]) * 65536, 65536)
            os.fsync(fd)
        os.close(fd)
    thread = threading.Thread(target=guest)
    thread.start()
    try:
        for i in range(4):
            w.forget()
            over = w.create("over%d" % i, M)
            w.need("blockdev-add", driver="qcow2", node_name="over%d" % i, backing=None, file={"driver": "file", "filename": over})
            w.ok("blockdev-snapshot", node="test", overlay="over%d" % i)
            w.need("block-commit", job_id="c", device="over%d" % i, base_node="test", top_node="over%d" % i)
            w.complete("c", "commit")
            w.ok("blockdev-del", node_name="over%d" % i)
    finally:
        until.set()
        thread.join()
    w.chain_is([test, base])
    w.reads(last[0], 65536, 65536)
    w.reads(0x5a, 0, 65536)


class BrokenTarget:
    """A block device that fails from break_it() on."""

    def __init__(self, w, size):
        self.loop = run("losetup", "-f", "--show", w.create("bad", size, fmt="raw")).strip()
        self.sectors = size // 512
        run("dmsetup", "create", "iotests-bad", "--table", "0 %d linear %s 0" % (self.sectors, self.loop))
        w.need("blockdev-add", driver="host_device", node_name="bad", filename="/dev/mapper/iotests-bad")

    def break_it(self):
        run("dmsetup", "suspend", "iotests-bad")
        run("dmsetup", "load", "iotests-bad", "--table", "0 %d error" % self.sectors)
        run("dmsetup", "resume", "iotests-bad")

    def __enter__(self):
        return self

    def __exit__(self, *what):
        run("dmsetup", "remove", "--retry", "iotests-bad")
        run("losetup", "-d", self.loop)


def held_error(w):
    """a ready mirror whose target fails: stopped, a cancel has to be forced; reporting, a cancel fails"""
    if w.real:
        return
    four(w)
    for policy in ("stop", "report"):
        with BrokenTarget(w, 8 * M) as target_device:
            w.forget()
            w.need("blockdev-mirror", job_id="j", device="drive0", target="bad", sync="full", on_target_error=policy)
            w.ready("j")
            target_device.break_it()
            w.write(9, M, 65536)
            data = w.wait("BLOCK_JOB_ERROR", device="j")
            w.eq((data["operation"], data["action"]), ("write", policy), "BLOCK_JOB_ERROR")
            if policy == "stop":
                w.wait("JOB_STATUS_CHANGE", id="j", status="standby")
                w.eq((w.job("j")["io-status"], w.job("j")["paused"]), ("failed", True), "the job")
                w.refused("The block job for device 'j' is currently paused", "block-job-cancel", device="j")
                w.cancelled("j", "mirror", force=True)
            else:
                data = w.wait("BLOCK_JOB_COMPLETED", device="j")
                w.eq(data.get("error"), "Input/output error", "error")
                w.wait_gone("j")
            w.reads(9, M, 65536)
            w.ok("blockdev-del", node_name="bad")


# --- guests that write and discard while a mirror runs --------------------------------------------------

def discard(w, offset, length):
    if w.real:
        w.ok("human-monitor-command", command_line="qemu-io drive0 \"discard %d %d\"" % (offset, length))
    else:
        subprocess.run(["blkdiscard", "-o", str(offset), "-l", str(length), "/dev/mapper/drive0"], check=True)


def active_discard(w):
    """what the guest discards while a mirror runs is discarded in the target"""
    test = w.create("test", 2 * M)
    w.fill(test, "qcow2", "write -q -P 0x5d 0 2M")
    w.disk((test, "qcow2", "test"))
    new = w.path("i-new")
    w.need("drive-mirror", device="drive0", sync="full", target=new)
    discard(w, 0, 65536)
    w.ready()
    discard(w, M, 65536)
    w.ok("block-job-cancel", device="drive0")
    w.completed(kind="mirror")
    w.reads(0x5d, 65536, M - 65536)
    if not w.real: # its source's caches
        w.same(test, new)
        w.fill(new, "qcow2", "read -q -P 0 0 64k", "read -q -P 0x5d 64k 960k", "read -q -P 0 1M 64k")


def active_writes(w):
    """write-blocking: writes before, during and after the copy, unaligned ones and over one another"""
    test = w.create("test", 8 * M)
    w.fill(test, "qcow2", "write -q -P 1 0 8M")
    w.disk((test, "qcow2", "test"))
    new = target(w, 8 * M)
    w.write(2, M, M)
    w.need("blockdev-mirror", device="drive0", job_id="mirror", target="node1", sync="full", copy_mode="write-blocking",
           buf_size=M // 4, speed=1, filter_node_name="mirror-node")
    w.write(3, M + 42, 1)
    w.write(3, 4 * M - 512, 1024)
    for length in (M, 2 * M, 2 * M):
        w.write(4, 5 * M, length)
    w.ok("block-job-set-speed", device="mirror", speed=0)
    w.ready("mirror")
    w.write(5, 7 * M, M // 2)
    discard(w, 2 * M, M // 2)
    w.complete("mirror", "mirror", wait_ready=False)
    w.eq(w.inserted()["node-name"], "node1", "the disk's node")
    for pattern, offset, length in ((1, 0, M), (2, M, 42), (3, M + 42, 1), (2, M + 43, M - 43), (1, 3 * M, M - 512),
                                    (3, 4 * M - 512, 1024), (4, 5 * M, 2 * M), (5, 7 * M, M // 2), (1, 7 * M + M // 2, M // 2)):
        w.reads(pattern, offset, length)
    if not w.real:
        w.same(test, new)


def active_tiny(w):
    """a disk smaller than the granularity"""
    for fmt in ("raw", "qcow2"):
        for late in (False, True):
            w.forget()
            name = "%s%d" % (fmt, late)
            test = w.create(name, 512, fmt=fmt)
            w.disk((test, fmt, "n-" + name), name=name)
            new = w.path("i-new-" + name)
            w.need("drive-mirror", device=name, sync="full", granularity=65536, target=new, format=fmt)
            w.ready(name)
            if late:
                w.write(7, 0, 512, name=name)
            w.complete(name, "mirror", wait_ready=False)
            w.eq(w.inserted(name)["image"]["virtual-size"], 512, "size of the target")
            w.reads(7 if late else 0, 0, 512, name=name)


def active_migration(w):
    """oVirt's: a snapshot, its overlay mirrored into a copy of the chain, all but the copies deleted"""
    back = w.create("back", M)
    test = w.create("test", M, backing=("back", "qcow2"))
    w.fill(back, "qcow2", "write -q -P 1 0 256k")
    w.fill(test, "qcow2", "write -q -P 2 64k 192k")
    over = w.create("over", M, backing=("test", "qcow2"))
    copies = [w.create("copy0", M), w.create("copy1", M, backing=("copy0", "qcow2")), w.create("copy2", M, backing=("copy1", "qcow2"))]
    w.fill(copies[0], "qcow2", "write -q -P 1 0 256k")
    w.fill(copies[1], "qcow2", "write -q -P 2 64k 192k")
    w.disk((test, "qcow2", "test"), (back, "qcow2", "back"))
    w.need("blockdev-snapshot-sync", device="drive0", snapshot_file=over, format="qcow2", mode="existing")
    w.write(3, 128 << 10, 128 << 10)
    w.need("drive-mirror", device="drive0", target=copies[2], mode="existing", sync="top", format="qcow2")
    w.ready()
    w.write(4, 192 << 10, 64 << 10)
    w.complete(kind="mirror", wait_ready=False)
    w.chain_is(copies[::-1])
    for i in range(4):
        w.reads(i + 1, i << 16, 1 << 16)
    if not w.real:
        w.undisk()
        w.drop_nodes()
        for path in (back, test, over):
            os.unlink(path)
        w.fill(copies[2], "qcow2", *["read -q -P %d %d 64k" % (i + 1, i << 16) for i in range(4)])


# --- chains of unequal sizes --------------------------------------------------------------------------------

def unequal(w, *sizes):
    """The lowest is full of 1; the others have nothing. The disk is on the last. Their files, from the top down."""
    below, chain = None, []
    for i, size in enumerate(sizes):
        path = w.create("n%d" % i, size, backing=below)
        if not i:
            w.fill(path, "qcow2", "write -q -P 1 0 %d" % size)
        chain.insert(0, (path, "qcow2", "n%d" % i))
        below = ("n%d" % i, "qcow2")
    w.disk(*chain)
    return [c[0] for c in chain]


def half(w, path=None):
    """1 in the first MiB, zeros in the second; of the disk, and of an image that is not in use."""
    w.reads(1, 0, M)
    w.reads(0, M, M)
    if path and not w.real:
        w.undisk()
        w.drop_nodes()
        w.fill(path, "qcow2", "read -q -P 1 0 1M", "read -q -P 0 1M 1M")


def sizes_commit(w):
    """a disk into a shorter image above a longer one"""
    top, mid, base = unequal(w, 2 * M, M, 2 * M)
    w.reads(0, M, M)
    w.need("block-commit", device="n2", base_node="n1", job_id="job0", auto_dismiss=False)
    w.ready("job0")
    w.ok("job-complete", id="job0")
    w.wait("BLOCK_JOB_COMPLETED", device="job0")
    w.wait("JOB_STATUS_CHANGE", id="job0", status="concluded")
    w.ok("job-dismiss", id="job0")
    w.chain_is([mid, base])
    w.eq(w.inserted()["image"]["virtual-size"], 2 * M, "its size")
    half(w, mid)


def sizes_commit_mid(w):
    """the same of an image in between, with and without data behind the end"""
    top, mid2, mid, base = unequal(w, 4 * M, M, 2 * M, 2 * M)
    w.need("block-commit", device="drive0", top_node="n2", base_node="n1", job_id="job0")
    w.completed("job0", "commit")
    w.chain_is([top, mid, base])
    w.eq(w.node("n1")["image"]["virtual-size"], 2 * M, "its size")
    half(w, top)


def sizes_stream(w):
    """a stream that leaves a shorter image out brings the zeros behind its end"""
    top, mid, base = unequal(w, 2 * M, M, 2 * M)
    w.need("block-stream", device="drive0", base_node="n0", job_id="job0")
    w.completed("job0", "stream")
    w.chain_is([top, base])
    half(w, top)


def sizes_stream_all(w):
    """all of such a chain into the disk, and into the image in between"""
    for device, chain in (("n1", 2), ("n2", 1)):
        files = unequal(w, 2 * M, M, 2 * M)
        w.need("block-stream", device=device, job_id="job0")
        w.completed("job0", "stream")
        w.chain_is(files[:chain])
        half(w)
        if w.real:
            return
        w.undisk()
        w.drop_nodes()
        w.fill(files[0], "qcow2", "read -q -P 1 0 1M", "read -q -P 0 1M 1M")
        w.forget()


def sizes_copies(w):
    """mirror and backup, sync full and top"""
    top, mid, base = unequal(w, 2 * M, M, 2 * M)
    w.write(2, 3 * M // 2, 65536)
    for command in ("drive-backup", "drive-mirror"):
        for sync in ("full", "top"):
            w.forget()
            new = w.path("i-%s-%s" % (command, sync))
            w.need(command, device="drive0", sync=sync, target=new, format="qcow2")
            if command == "drive-mirror":
                w.ready()
                w.ok("block-job-cancel", device="drive0")
            w.completed(same=False)
            w.eq(w.backing_of(new), mid if sync == "top" else None, "the backing file of %s" % new)
            if not w.real:
                w.fill(new, "qcow2", "read -q -P 1 0 1M", "read -q -P 0 1M 512k", "read -q -P 2 1536k 64k", "read -q -P 0 1600k 448k")


def sizes_resize(w):
    """block_resize of an image above a longer one, to its size, beyond it, within a cluster"""
    for i, (old, new) in enumerate(((M, 2 * M), (M, 3 * M), (256 << 10, (256 << 10) + 512))):
        base = w.create("base%d" % i, 2 * M)
        w.fill(base, "qcow2", "write -q -P 1 0 2M")
        top = w.create("top%d" % i, old, backing=("base%d" % i, "qcow2"))
        w.add((top, "qcow2", "top"), (base, "qcow2", "base"))
        w.ok("block_resize", node_name="top", size=new)
        w.eq(w.node("top")["image"]["virtual-size"], new, "size")
        w.ok("blockdev-del", node_name="top")
        w.ok("blockdev-del", node_name="base") if w.node("base") else None
        w.fill(top, "qcow2", "read -q -P 1 0 %d" % old, "read -q -P 0 %d %d" % (old, new - old))
        if not w.real: # QEMU's goes on to the new size
            w.eq(w.map(top), [(old, min(new, 2 * M) - old)], "what is allocated")


# --- zeros ----------------------------------------------------------------------------------------------------

def zeros_commit(w):
    """clusters that an image between has discarded become zeros in the base"""
    base = w.create("base", M)
    mid = w.create("mid", M, backing=("base", "qcow2"))
    top = w.create("top", M, backing=("mid", "qcow2"))
    w.fill(base, "qcow2", "write -q -P 1 64k 128k")
    w.fill(mid, "qcow2", "discard 64k 64k")
    w.disk((top, "qcow2", "top"), (mid, "qcow2", "mid"), (base, "qcow2", "base"))
    w.need("block-commit", device="drive0", top=mid, base=base)
    w.completed(kind="commit")
    w.chain_is([top, base])
    for pattern, offset in ((0, 0), (0, 65536), (1, 131072), (0, 196608)):
        w.reads(pattern, offset, 65536)
    if not w.real:
        w.undisk()
        w.drop_nodes()
        w.fill(base, "qcow2", "read -q -P 0 64k 64k", "read -q -P 1 128k 64k")


def zeros_stream(w):
    """the same of a stream that leaves it out, over a base that has data there"""
    base = w.create("base", M)
    mid = w.create("mid", M, backing=("base", "qcow2"))
    top = w.create("top", M, backing=("mid", "qcow2"))
    w.fill(base, "qcow2", "write -q -P 1 64k 128k")
    w.fill(mid, "qcow2", "discard 64k 64k")
    w.disk((top, "qcow2", "top"), (mid, "qcow2", "mid"), (base, "qcow2", "base"))
    w.need("block-stream", device="drive0", base=base)
    w.completed(kind="stream")
    w.chain_is([top, base])
    for pattern, offset in ((0, 0), (0, 65536), (1, 131072), (0, 196608)):
        w.reads(pattern, offset, 65536)
