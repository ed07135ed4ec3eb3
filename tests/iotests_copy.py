# SPDX-License-Identifier: GPL-2.0-or-later
"""Mirror and backup: scenarios for iotests.py."""
import time

SECTIONS = ("mirror", "backup")
M = 1 << 20


def backed(w, size=M, fill=True):
    """A full raw base, an empty image on it, the disk on that. The files of the two."""
    base = w.create("base", size, fmt="raw")
    test = w.create("test", size, backing=("base", "raw"))
    if fill:
        w.fill(base, "raw", "write -q -P 0x5a 0 %d" % size)
    w.disk((test, "qcow2", "test"), (base, "raw", "base"))
    return base, test


def target(w, size, backing=None, **opts):
    path = w.create("target", size, backing=backing, **opts)
    w.add((path, "qcow2", "node1"))
    return path


# --- mirror --------------------------------------------------------------------------------------------

def mirror_complete(w):
    """drive-mirror, and the disk goes on as its target"""
    base, test = backed(w)
    new = w.path("i-new")
    w.need("drive-mirror", device="drive0", sync="full", target=new)
    w.complete(kind="mirror")
    w.eq(w.story("drive0"), "created running ready READY waiting pending COMPLETED concluded null", "events")
    w.eq(w.inserted()["file"], new, "inserted/file")
    w.chain_is([new])
    w.reads(0x5a, 0, M)
    if not w.real:
        w.same(test, new)


def mirror_blockdev(w):
    """blockdev-mirror to a target with a name"""
    base, test = backed(w)
    new = target(w, M)
    w.need("blockdev-mirror", device="drive0", sync="full", target="node1")
    w.complete(kind="mirror")
    w.eq((w.inserted()["file"], w.inserted()["node-name"]), (new, "node1"), "inserted")
    if not w.real: # it has gone with its disk
        w.ok("blockdev-del", node_name="test")


def mirror_cancel(w):
    """a cancel before it is ready"""
    base, test = backed(w, 4 * M)
    target(w, 4 * M)
    w.need("blockdev-mirror", device="drive0", sync="full", target="node1", speed=1, buf_size=65536)
    w.cancelled(kind="mirror", force=True)
    w.eq(w.story("drive0"), "created running aborting CANCELLED concluded null", "events")
    w.eq(w.inserted()["file"], test, "inserted/file")


def mirror_cancel_ready(w):
    """a cancel when it is ready leaves a copy"""
    base, test = backed(w)
    new = w.path("i-new")
    w.need("drive-mirror", device="drive0", sync="full", target=new)
    w.eq(w.ready()["len"], M, "len")
    w.ok("block-job-cancel", device="drive0")
    w.completed(kind="mirror", length=M)
    w.eq(w.inserted()["file"], test, "inserted/file")
    w.same(test, new)


def mirror_pause(w):
    """pause holds the offset"""
    backed(w, 8 * M)
    w.need("drive-mirror", device="drive0", sync="full", target=w.path("i-new"), speed=1 << 20, buf_size=65536)
    w.ok("block-job-pause", device="drive0")
    time.sleep(0.5)
    offset = w.job()["offset"]
    time.sleep(0.7)
    w.eq((w.job()["offset"], w.job()["paused"]), (offset, True), "while paused")
    w.ok("block-job-resume", device="drive0")
    w.ok("block-job-set-speed", device="drive0", speed=0)
    w.complete()


def mirror_clusters(w):
    """targets with large clusters, an existing one with a backing file of its own"""
    base, test = backed(w)
    new = w.create("new", M, cluster_size=M)
    w.need("drive-mirror", device="drive0", sync="full", target=new, mode="existing", buf_size=65536)
    w.complete()
    w.eq(w.inserted()["file"], new, "inserted/file")
    w.reads(0x5a, 0, M)


def mirror_large_cluster_backed(w):
    """an existing target whose header names a backing file keeps it"""
    base, test = backed(w)
    new = w.create("new", M, backing=("base", "raw"), cluster_size=M)
    w.need("drive-mirror", device="drive0", sync="full", target=new, mode="existing", node_name="new")
    w.complete()
    w.chain_is([new, base])


def mirror_errors(w):
    """what is not there, what is out of range"""
    base, test = backed(w)
    new = w.path("i-new")
    w.refused("Could not open '%s': No such file or directory" % new, "drive-mirror",
              device="drive0", sync="full", target=new, mode="existing")
    w.refused("Cannot find device='nonexistent' nor node-name='nonexistent'", "drive-mirror",
              device="nonexistent", sync="full", target=new)
    w.refused("Cannot find device='nonexistent' nor node-name='nonexistent'", "blockdev-mirror",
              device="nonexistent", sync="full", target="base")
    w.refused("Cannot find device='' nor node-name='nonexistent'|Cannot find device='nonexistent' nor node-name='nonexistent'",
              "blockdev-mirror", device="drive0", sync="full", target="nonexistent")
    w.refused("Unknown driver 'spaghetti'|Unknown file format 'spaghetti'|Invalid.*", "drive-mirror",
              device="drive0", sync="full", target=new, format="spaghetti")
    w.refused("Parameter 'speed' expects a non-negative value", "drive-mirror",
              device="drive0", sync="full", target=new, speed=-1)
    w.refused("Parameter 'granularity' expects a value in range \\[512B, 64MB\\]", "drive-mirror",
              device="drive0", sync="full", target=new, granularity=100)
    w.refused("Parameter 'granularity' expects a power of 2", "drive-mirror",
              device="drive0", sync="full", target=new, granularity=1 << 20 | 512)
    w.eq(w.ask("query-block-jobs")["return"], [], "query-block-jobs")


def mirror_resized(w):
    """an image larger than what is below it, sync top and full"""
    base = w.create("base", M, fmt="raw")
    w.fill(base, "raw", "write -q -P 0x5a 0 %d" % M)
    test = w.create("test", 2 * M, backing=("base", "raw"))
    w.disk((test, "qcow2", "test"), (base, "raw", "base"))
    new = w.path("i-new")
    w.need("drive-mirror", device="drive0", sync="top", target=new)
    w.complete()
    w.chain_is([new, base])
    w.reads(0x5a, 0, M)
    w.reads(0, M, M)
    newer = w.path("i-newer")
    w.need("drive-mirror", device="drive0", sync="full", target=newer)
    w.complete()
    w.chain_is([newer])
    w.reads(0x5a, 0, M)
    w.reads(0, M, M)


def mirror_unbacked(w):
    """sync full, top, none of an image without a backing file, mode absolute-paths"""
    test = w.create("test", 2 * M)
    w.disk((test, "qcow2", "test"))
    for sync in ("full", "top", "none"):
        w.forget()
        new = w.path("i-" + sync)
        w.need("drive-mirror", device="drive0", sync=sync, target=new, mode="absolute-paths")
        w.complete(kind="mirror")
        w.eq(w.inserted()["file"], new, "inserted/file after sync " + sync)


def mirror_none_backing(w):
    """sync none makes an overlay of the source; completed, the disk is on it"""
    base, test = backed(w)
    new = w.path("i-new")
    w.need("drive-mirror", device="drive0", sync="none", target=new, mode="absolute-paths", node_name="target", format="qcow2")
    w.write(0x77, 0, 65536)
    w.complete(kind="mirror")
    w.eq(w.inserted()["node-name"], "target", "node")
    w.chain_is([new, test, base])
    w.eq(w.backing_of(new), test, "the header's backing file")
    w.reads(0x77, 0, 65536)
    w.reads(0x5a, 65536, M - 65536)
    w.eq(w.files(w.node("test")["image"]), [test, base], "the source's chain")


def mirror_none_held(w):
    """an overlay of the source in standby, cancelled, with auto-finalize off"""
    base, test = backed(w)
    args = dict(device="drive0", sync="none", mode="absolute-paths", format="qcow2")
    w.need("drive-mirror", target=w.path("i-1"), **args)
    w.eq((w.ready()["len"], w.job()["offset"]), (0, 0), "len and offset")
    w.refused(".*is busy: .*", "blockdev-snapshot-sync", device="drive0", snapshot_file=w.path("i-x"))
    w.ok("block-job-cancel", device="drive0")
    w.completed(kind="mirror")
    w.chain_is([test, base])
    w.forget()
    w.need("drive-mirror", target=w.path("i-2"), **args)
    w.ready()
    w.ok("job-pause", id="drive0")
    w.wait("JOB_STATUS_CHANGE", id="drive0", status="standby")
    w.ok("job-complete", id="drive0")
    w.eq(w.job()["status"], "standby", "status")
    w.ok("block-job-set-speed", device="drive0", speed=M)
    w.ok("job-resume", id="drive0")
    w.completed(kind="mirror")
    w.chain_is([w.path("i-2"), test, base])
    w.forget()
    w.need("drive-mirror", target=w.path("i-3"), auto_finalize=False, **args)
    w.ready()
    w.ok("job-complete", id="drive0")
    w.wait("BLOCK_JOB_PENDING", id="drive0")
    w.cancelled(kind="mirror")
    w.chain_is([w.path("i-2"), test, base])
    w.reads(0x5a, 0, M)


def mirror_backing(w):
    """what is below the target afterwards"""
    back0 = w.create("back0", M)
    back1 = w.create("back1", M, backing=("back0", "qcow2"))
    back2 = w.create("back2", M, backing=("back1", "qcow2"))
    source = w.create("source", M, backing=("back2", "qcow2"))
    w.disk((source, "qcow2", "source"), (back2, "qcow2", "b2"), (back1, "qcow2", "b1"), (back0, "qcow2", "b0"))
    new = w.path("i-new")
    w.need("drive-mirror", device="drive0", sync="top", target=new, node_name="target", format="qcow2")
    w.complete()
    w.chain_is([new, back2, back1, back0])
    if w.real: # "source" has gone with drive_add's reference
        return
    w.eq(w.files(w.node("source")["image"]), [source, back2, back1, back0], "the source's chain")


def mirror_existing_backing(w):
    """blockdev-mirror leaves the target's chain as it was opened"""
    base, test = backed(w)
    back = w.create("back", M, fmt="raw")
    new = w.create("target", M, backing=("back", "raw"))
    w.add((new, "qcow2", "node1"), (back, "raw", "back"))
    w.need("blockdev-mirror", device="drive0", sync="full", target="node1")
    w.complete()
    w.chain_is([new, back])
    w.reads(0x5a, 0, M)


def mirror_granularity(w):
    """a granularity of 8 KiB, the whole image allocated"""
    test = w.create("test", 4 * M)
    w.fill(test, "qcow2", "write -q -P 0x31 0 4M")
    w.disk((test, "qcow2", "test"))
    w.need("drive-mirror", device="drive0", sync="full", target=w.path("i-new"), mode="absolute-paths", granularity=8192)
    w.complete()
    w.reads(0x31, 0, 4 * M)


def mirror_speed(w):
    """speed 0 by default, then what is said"""
    test = w.create("test", 8 * M)
    w.fill(test, "qcow2", "write -q -P 0x31 0 8M")
    w.disk((test, "qcow2", "test"))
    target(w, 8 * M)
    w.need("blockdev-mirror", device="drive0", sync="full", target="node1")
    w.eq((w.job()["device"], w.job()["speed"]), ("drive0", 0), "speed")
    w.ready()
    w.ok("block-job-cancel", device="drive0")
    w.completed()
    w.need("blockdev-mirror", device="drive0", sync="full", target="node1", speed=M)
    w.eq(w.job()["speed"], M, "speed from the start")
    w.ok("block-job-set-speed", device="drive0", speed=8 * M)
    w.eq(w.job()["speed"], 8 * M, "speed")
    w.refused("Parameter 'speed' expects a non-negative value", "block-job-set-speed", device="drive0", speed=-1)
    w.refused("Invalid parameter type for 'speed', expected: integer", "block-job-set-speed", device="drive0", speed="1M")
    data = w.ready()
    w.eq(data["speed"], 8 * M, "speed in BLOCK_JOB_READY")
    w.ok("block-job-cancel", device="drive0")
    w.completed()


def mirror_write_blocking(w):
    """copy-mode write-blocking: guests' writes are on both sides"""
    backed(w)
    new = w.path("i-new")
    w.need("drive-mirror", device="drive0", sync="full", target=new, copy_mode="write-blocking")
    w.ready()
    for i in range(4):
        w.write(0x60 + i, i * 65536, 65536)
    w.complete(wait_ready=False)
    for i in range(4):
        w.reads(0x60 + i, i * 65536, 65536)


def mirror_change(w):
    """block-job-change turns background into write-blocking"""
    if w.real:
        return # not in 7.2
    backed(w)
    w.refused("Block job 'drive0' not found", "block-job-change", "DeviceNotActive", id="drive0", type="mirror", copy_mode="write-blocking")
    w.need("drive-mirror", device="drive0", sync="full", target=w.path("i-new"))
    w.ready()
    w.eq(w.job().get("actively-synced"), False, "actively-synced")
    w.refused("Parameter 'copy-mode' is missing", "block-job-change", id="drive0", type="mirror")
    w.need("block-job-change", id="drive0", type="mirror", copy_mode="write-blocking")
    w.ok("block-job-change", id="drive0", type="mirror", copy_mode="write-blocking")
    w.refused("Change to copy mode 'background' is not implemented", "block-job-change",
              id="drive0", type="mirror", copy_mode="background")
    w.write(0x12, 0, 4096)
    w.eq(w.job().get("actively-synced"), True, "actively-synced")
    w.complete(wait_ready=False)
    w.reads(0x12, 0, 4096)


def mirror_del(w):
    """blockdev-del while it runs, and afterwards"""
    base, test = backed(w)
    w.need("drive-mirror", device="drive0", job_id="j", sync="top", target=w.path("i-new"), node_name="mirror0", format="qcow2")
    w.holds(w.node("mirror0"), "mirror0 is a node")
    w.refused(".*", "blockdev-del", node_name="test")
    w.refused("Node 'mirror0' is busy: .*|Node mirror0 is in use|Node mirror0 is not owned by the monitor", "blockdev-del", node_name="mirror0")
    w.ready("j")
    w.ok("block-job-complete", device="j")
    w.completed("j")
    if not w.real:
        w.ok("blockdev-del", node_name="test")
        w.refused(".*", "blockdev-del", node_name="mirror0")


def mirror_sizes(w):
    """a target of another size fails the job"""
    backed(w)
    target(w, 2 * M)
    w.need("blockdev-mirror", device="drive0", sync="full", target="node1", auto_dismiss=False)
    data = w.wait("BLOCK_JOB_COMPLETED", device="drive0")
    w.eq(data.get("error"), "Source and target image have different sizes", "error")
    w.wait("JOB_STATUS_CHANGE", id="drive0", status="concluded")
    w.ok("job-dismiss", id="drive0")


# --- backup --------------------------------------------------------------------------------------------

def four(w, size=8 * M):
    test = w.create("test", size)
    w.fill(test, "qcow2", "write -q -P 0x5d 0 64k", "write -q -P 0xd5 1M 32k", "write -q -P 0xdc 4M 124k",
           "write -q -P 0xdc %d 64k" % (size - 65536))
    w.disk((test, "qcow2", "test"))
    return test


def backup_drive(w):
    """drive-backup; pause holds the offset"""
    test = four(w)
    new = w.path("i-new")
    w.need("drive-backup", device="drive0", sync="full", target=new, speed=65536)
    w.ok("block-job-pause", device="drive0")
    time.sleep(0.5)
    offset = w.job()["offset"]
    time.sleep(0.7)
    w.eq(w.job()["offset"], offset, "offset while paused")
    w.ok("block-job-resume", device="drive0")
    w.ok("block-job-set-speed", device="drive0", speed=0)
    w.completed(kind="backup", length=8 * M)
    w.same(test, new)


def backup_cancel(w):
    """cancelled, drive-backup and blockdev-backup, alone and in a transaction"""
    four(w)
    target(w, 8 * M)
    for i, (command, to) in enumerate((("drive-backup", w.path("i-1")), ("blockdev-backup", "node1"))):
        w.forget()
        w.need(command, device="drive0", target=to, sync="full", speed=1)
        w.cancelled(kind="backup")
        w.eq(w.story("drive0"), "created running paused running aborting CANCELLED concluded null", "events")
        w.forget()
        if i == 0:
            to = w.path("i-2")
        w.need("transaction", actions=[{"type": command, "data": {"device": "drive0", "target": to, "sync": "full", "speed": 1}}])
        w.cancelled(kind="backup")


def backup_errors(w):
    """what is not there, the source as its own target"""
    four(w)
    new = w.path("i-new")
    nowhere = "Cannot find device='%s' nor node-name='%s'" % (("nonexistent",) * 2)
    w.refused("Could not open '%s': No such file or directory" % new, "drive-backup",
              device="drive0", target=new, sync="full", mode="existing")
    w.refused("Unknown driver 'spaghetti-noodles'|Unknown file format 'spaghetti-noodles'.*|Invalid.*", "drive-backup",
              device="drive0", target=new, sync="full", format="spaghetti-noodles")
    for args in (dict(device="nonexistent", target="drive0"), dict(device="drive0", target="nonexistent"),
                 dict(device="nonexistent", target="nonexistent")):
        w.refused(nowhere, "blockdev-backup", sync="full", **args)
        w.refused(nowhere, "transaction", actions=[{"type": "blockdev-backup", "data": dict(args, sync="full")}])
    w.refused(nowhere, "drive-backup", device="nonexistent", target=new, sync="full")
    w.refused("Source and target cannot be the same", "blockdev-backup", device="drive0", target="drive0", sync="full")
    w.refused("Parameter 'speed' expects a non-negative value", "drive-backup", device="drive0", target=new, sync="full", speed=-1)
    w.refused("Parameter 'type' does not accept value 'Abort'|Parameter 'actions\\[1\\].type' does not accept value 'Abort'",
              "transaction", actions=[{"type": "blockdev-backup", "data": {"device": "drive0", "target": "x", "sync": "full"}},
                                      {"type": "Abort", "data": {}}])
    w.refused("Transaction aborted using Abort action", "transaction", actions=[
        {"type": "drive-backup", "data": {"device": "drive0", "target": new, "sync": "full"}}, {"type": "abort", "data": {}}])
    w.eq(w.ask("query-block-jobs")["return"], [], "query-block-jobs")


def backup_speed(w):
    """speed 0 by default, then what is said"""
    four(w)
    target(w, 8 * M)
    w.need("blockdev-backup", device="drive0", target="node1", sync="full", speed=32768)
    w.eq(w.job()["speed"], 32768, "speed")
    w.ok("block-job-set-speed", device="drive0", speed=65536)
    w.eq(w.job()["speed"], 65536, "speed")
    w.refused("Parameter 'speed' expects a non-negative value", "block-job-set-speed", device="drive0", speed=-1)
    w.cancelled()


def backup_top(w):
    """sync top: the target has what the disk's image has, and what is below below it"""
    base, test = backed(w, 4 * M)
    w.write(0x41, 0, 512)
    w.write(0xd5, M, 32 << 10)
    new = w.path("i-new")
    w.need("drive-backup", device="drive0", sync="top", format="qcow2", target=new)
    w.completed(kind="backup", same=False)
    w.eq(w.backing_of(new), base, "the header's backing file")
    w.eq(w.map(new), [(0, 65536), (M, 65536)], "what is allocated")
    if not w.real: # QEMU has not flushed its source
        w.same(test, new)


def backup_top_busy(w):
    """sync top while the guest writes, over what is copied and over what is below: one point in time"""
    base, test = backed(w, 4 * M)
    w.write(0xd5, M, M)
    new = w.path("i-new")
    w.need("drive-backup", device="drive0", sync="top", format="qcow2", target=new, speed=65536)
    w.write(0x77, 0, 65536)
    w.write(0x78, M, 65536)
    w.write(0x79, 2 * M - 65536, 131072)
    w.write(0x7a, 3 * M + 4096, 4096)
    if not w.real: # QEMU copies a MiB at once
        w.ok("block-job-set-speed", device="drive0", speed=0)
    w.completed(kind="backup", same=False)
    w.eq(w.map(new), [(M, M)], "what is allocated")
    if not w.real: # the source is below it, in use
        w.fill(new, "qcow2", "read -q -P 0xd5 %d %d" % (M, M), "read -q -P 0x5a 0 1M", "read -q -P 0x5a 2M 2M")
    w.reads(0x77, 0, 65536)
    w.reads(0x78, M, 65536)
    w.reads(0x7a, 3 * M + 4096, 4096)


def backup_none(w):
    """sync none keeps what is overwritten"""
    base, test = backed(w, 4 * M)
    w.write(0x41, 0, 512)
    new = target(w, 4 * M)
    w.need("blockdev-backup", device="drive0", sync="none", target="node1")
    w.eq((w.job()["len"], w.job()["status"]), (4 * M, "running"), "the job")
    w.write(0x5e, 0, 512)
    w.cancelled(kind="backup")
    w.ok("blockdev-del", node_name="node1")
    w.fill(new, "qcow2", "read -q -P 0x41 0 512")


def backup_none_overlay(w):
    """sync none to an image that is made: what is not copied is in the disk's image, which is below it"""
    base, test = backed(w, 4 * M)
    new = w.path("i-new")
    w.refused("Backing file not supported for file format 'raw'", "drive-backup", device="drive0", sync="none",
              format="raw", target=w.path("i-raw"))
    w.need("drive-backup", device="drive0", sync="none", format="qcow2", target=new)
    w.eq((w.job()["len"], w.job()["status"]), (4 * M, "running"), "the job")
    w.eq(w.backing_of(new), test, "the header's backing file")
    w.write(0x5e, 0, 512)
    w.write(0x5f, M, 65536)
    w.cancelled(kind="backup")
    w.eq(w.map(new), [(0, 65536), (M, 65536)], "what is allocated")


def backup_manual(w):
    """auto-finalize and auto-dismiss off, BLOCK_JOB_PENDING"""
    four(w)
    target(w, 8 * M)
    w.need("blockdev-backup", job_id="j", device="drive0", target="node1", sync="full", auto_finalize=False, auto_dismiss=False)
    w.eq(w.wait("BLOCK_JOB_PENDING", id="j"), {"id": "j", "type": "backup"}, "BLOCK_JOB_PENDING")
    job = w.job("j")
    w.eq((job["status"], job["auto-finalize"], job["auto-dismiss"], job["offset"]), ("pending", False, False, 8 * M), "the job")
    w.refused("Job 'j' in state 'pending' cannot accept command verb 'dismiss'", "block-job-dismiss", id="j")
    w.ok("block-job-finalize", id="j")
    w.wait("BLOCK_JOB_COMPLETED", device="j")
    w.wait("JOB_STATUS_CHANGE", id="j", status="concluded")
    w.eq(w.job("j")["status"], "concluded", "status")
    w.refused("Job ID 'j' already in use", "blockdev-backup", job_id="j", device="drive0", target="node1", sync="full")
    w.refused("Job 'j' in state 'concluded' cannot accept command verb 'finalize'", "block-job-finalize", id="j")
    w.ok("block-job-dismiss", id="j")
    w.wait_gone("j")
    w.refused("Block job 'j' not found", "block-job-dismiss", "DeviceNotActive", id="j")
    w.eq(w.story("j"), "created running paused running waiting pending PENDING COMPLETED concluded null", "events")


def backup_manual_error(w):
    """dismissed after an error: the error is told until then"""
    four(w)
    target(w, 8 * M)
    w.need("blockdev-backup", job_id="j", device="drive0", target="node1", sync="full", speed=1, auto_dismiss=False)
    w.ok("block-job-cancel", device="j")
    w.wait("JOB_STATUS_CHANGE", id="j", status="concluded")
    job = w.job("j")
    w.eq((job["status"], job.get("error")), ("concluded", "Operation canceled"), "query-block-jobs")
    w.eq(w.ask("query-jobs")["return"][0].get("error"), "Operation canceled", "query-jobs")
    w.ok("block-job-dismiss", id="j")


def backup_grouped(w):
    """two backups in one transaction that end together"""
    four(w)
    other = w.create("other", 4 * M)
    w.disk((other, "qcow2", "other"), name="drive1")
    t0, t1 = w.create("t0", 8 * M), w.create("t1", 4 * M)
    w.add((t0, "qcow2", "t0"))
    w.add((t1, "qcow2", "t1"))

    def actions(speed):
        return [{"type": "blockdev-backup", "data": {"device": d, "target": t, "sync": "full", "job-id": d, "speed": s}}
                for d, t, s in (("drive0", "t0", speed), ("drive1", "t1", 0))]
    w.need("transaction", actions=actions(65536), properties={"completion-mode": "grouped"})
    w.wait("JOB_STATUS_CHANGE", id="drive1", status="waiting")
    w.ok("block-job-cancel", device="drive0")
    w.wait_gone("drive0")
    w.seen = 0
    w.wait_gone("drive1")
    w.eq(w.story("drive1"), "created running paused running waiting aborting CANCELLED concluded null", "events of the other")
    w.forget()
    w.need("transaction", actions=actions(0), properties={"completion-mode": "grouped"})
    w.wait("BLOCK_JOB_COMPLETED", device="drive0")
    w.seen = 0
    w.wait("BLOCK_JOB_COMPLETED", device="drive1")
    w.seen = 0
    w.wait_gone("drive0")
    w.seen = 0
    w.wait_gone("drive1")


def backup_policies(w):
    """every policy of errors is taken"""
    four(w)
    target(w, 8 * M)
    for policy in ("report", "ignore", "enospc", "stop", "auto"):
        w.forget()
        w.need("blockdev-backup", device="drive0", target="node1", sync="full", on_source_error=policy, on_target_error=policy)
        w.completed(kind="backup")


def backup_compress(w):
    """compress of a raw target is refused, as in QEMU"""
    four(w)
    raw = w.create("raw", 8 * M, fmt="raw")
    w.add((raw, "raw", "raw"))
    w.refused("Compression is not supported for this drive ?", "blockdev-backup", device="drive0", target="raw",
              sync="full", compress=True)
