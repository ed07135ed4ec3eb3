# SPDX-License-Identifier: GPL-2.0-or-later
"""Stream and commit: scenarios for iotests.py."""
import time

SECTIONS = ("stream", "commit")
M = 1 << 20
BUSY = r"Node '[^']+' is busy: .*"


def three(w, size=M, fmt="raw", fill=True):
    """base <- mid <- top, half a MiB of data each in base and mid; the disk is on top."""
    base = w.create("base", size, fmt=fmt)
    mid = w.create("mid", size, backing=("base", fmt))
    top = w.create("top", size, backing=("mid", "qcow2"))
    if fill:
        w.fill(base, fmt, "write -q -P 0xab 0 %d" % (size // 2))
        w.fill(mid, "qcow2", "write -q -P 0xef %d %d" % (size // 2, size // 2))
    return base, mid, top


def three_disk(w, size=M, fmt="raw", fill=True):
    base, mid, top = three(w, size, fmt, fill)
    w.disk((top, "qcow2", "top"), (mid, "qcow2", "mid"), (base, fmt, "base"))
    return base, mid, top


# --- stream -------------------------------------------------------------------------------------------

def stream_all(w):
    """the whole chain into the disk's image"""
    base, mid, top = three_disk(w)
    w.need("block-stream", device="drive0")
    w.completed(kind="stream", length=M)
    w.eq(w.story("drive0"), "created running waiting pending COMPLETED concluded null", "events")
    w.chain_is([top])
    w.eq(w.backing_of(top), None, "the header's backing file")
    w.eq(w.map(top), [(0, M)], "what is allocated")
    w.reads(0xab, 0, M // 2)
    w.reads(0xef, M // 2, M // 2)


def stream_intermediate(w):
    """into an image below the disk's own"""
    base, mid, top = three_disk(w)
    w.need("block-stream", device="mid", job_id="stream-mid")
    w.completed("stream-mid", "stream", length=M)
    w.chain_is([top, mid])
    w.eq(w.map(mid), [(0, M)], "what is allocated")
    w.eq(w.node("mid")["ro"], True, "read-only again")


def stream_pause(w):
    """pause holds the offset"""
    three_disk(w, 8 * M)
    w.need("block-stream", device="drive0", speed=512 << 10)
    w.ok("block-job-pause", device="drive0")
    time.sleep(0.5)
    offset = w.job()["offset"]
    time.sleep(0.7)
    job = w.job()
    w.eq((job["offset"], job["paused"], job["status"]), (offset, True, "paused"), "while paused")
    w.ok("block-job-resume", device="drive0")
    w.ok("block-job-set-speed", device="drive0", speed=0)
    w.completed(length=8 * M)


def stream_no_op(w):
    """with the next image as base nothing is copied; the header gets the name that is given, or the base's path"""
    base, mid, top = three_disk(w)
    w.need("block-stream", device="drive0", base=mid, backing_file="i-mid")
    w.completed(kind="stream", length=0)
    w.eq(w.story("drive0"), "created running waiting pending COMPLETED concluded null", "events")
    w.eq(w.backing_of(top), "i-mid", "the header's backing file")
    w.need("block-stream", device="drive0", base_node="mid")
    w.completed(length=0)
    w.eq(w.backing_of(top), mid, "the header's backing file, none given")
    w.chain_is([top, mid, base])
    w.eq(w.map(top), [], "what is allocated")


def stream_no_op_below(w):
    """the same into an image below, which is read-only; at the end, if it comes to one"""
    base, mid, top = three_disk(w)
    for end, text, says in (("job-cancel", "i-base", base), ("job-finalize", "i-base", "i-base"),
                            ("job-finalize", None, base)):
        args = {"backing_file": text} if text else {}
        w.need("block-stream", device="mid", job_id=end, base=base, auto_finalize=False, **args)
        w.wait("BLOCK_JOB_PENDING", id=end)
        w.refused(BUSY, "block-stream", device="drive0", base=base)
        w.ok(end, id=end)
        w.wait_gone(end)
        w.eq(w.backing_of(mid), says, "the header's backing file after %s" % end)
        w.eq(w.node("mid")["ro"], True, "read-only again")
    w.chain_is([top, mid, base])
    w.eq(w.map(mid), [(M // 2, M // 2)], "what is allocated")


def stream_no_backing(w):
    """nothing is below: nothing is done, and a name to give is refused"""
    w.disk((w.create("base", M), "qcow2", "base"))
    w.need("block-stream", device="drive0")
    w.completed(kind="stream", length=0)
    w.refused("backing file specified, but streaming the entire chain", "block-stream", device="drive0",
              backing_file="i-base")


def stream_partial(w):
    """down to a base given by its file"""
    base, mid, top = three_disk(w)
    w.need("block-stream", device="drive0", base=base)
    w.completed(length=M)
    w.chain_is([top, base])
    w.eq(w.backing_of(top), base, "the header's backing file")
    w.eq(w.map(top), [(M // 2, M // 2)], "what is allocated")


def stream_bottom(w):
    """down to a bottom, with another text in the header"""
    base, mid, top = three_disk(w)
    w.refused("Parameter 'base-node' and 'bottom' cannot be used together|.*", "block-stream",
              device="drive0", bottom="mid", base_node="base")
    if w.real: # refuses backing-file here
        return
    w.need("block-stream", device="drive0", bottom="mid", backing_file="i-base")
    w.completed(length=M)
    w.chain_is([top, base])
    w.eq(w.backing_of(top), "i-base", "the header's backing file")


def stream_errors(w):
    """a device that is not there, a job without an id"""
    base, mid, top = three_disk(w)
    w.refused("Cannot find device='nonexistent' nor node-name='nonexistent'", "block-stream", device="nonexistent")
    w.refused("Invalid job ID ''", "block-stream", device="mid")
    w.refused("Parameter 'speed' expects a non-negative value", "block-stream", device="drive0", speed=-1)
    w.refused("Parameter 'on-error' does not accept value 'x'", "block-stream", device="drive0", on_error="x")
    w.need("block-stream", device="drive0", speed=1)
    w.refused("Parameter 'speed' expects a non-negative value", "block-job-set-speed", device="drive0", speed=-1)
    w.eq(w.job()["speed"], 1, "speed")
    w.ok("block-job-set-speed", device="drive0", speed=8 * M)
    w.eq(w.job()["speed"], 8 * M, "speed")
    w.completed()


def stream_smaller_base(w):
    """a base that is smaller than the disk, with an odd end"""
    base = w.create("base", M + 4096, fmt="raw")
    w.fill(base, "raw", "write -q -P 0xab 0 %d" % (M + 4096))
    top = w.create("top", 2 * M, backing=("base", "raw"))
    w.disk((top, "qcow2", "top"), (base, "raw", "base"))
    w.need("block-stream", device="drive0")
    w.completed(length=2 * M)
    w.reads(0xab, 0, M + 4096)
    w.reads(0, M + 4096, M - 4096)


def nine(w):
    """node0 <- ... <- node8, the disk on the last, data in those with an odd number"""
    size, paths = 4 * M, []
    for i in range(9):
        paths.append(w.create("img%d" % i, size, backing=("img%d" % (i - 1), "qcow2" if i > 1 else "raw") if i else None,
                              fmt="qcow2" if i else "raw"))
    for i in range(4):
        w.fill(paths[2 * i + 1], "qcow2", "write -q -P %d %d %d" % (i + 1, i * M, (512 + 512 * (i % 2)) << 10))
    w.disk(*[(paths[i], "qcow2" if i else "raw", "node%d" % i) for i in range(8, -1, -1)])
    return paths


def stream_parallel(w):
    """several in one chain at once"""
    paths = nine(w)
    for i in range(2, 9, 2):
        w.need("block-stream", device="node%d" % i, job_id="stream-node%d" % i, bottom="node%d" % (i - 1),
               speed=256 << 10)
    if not w.real: # QEMU's first have ended: half a MiB is copied at once
        w.eq(len(w.ask("query-block-jobs")["return"]), 4, "jobs")
        w.eq(sorted(j["id"] for j in w.ask("query-jobs")["return"]), ["stream-node%d" % i for i in range(2, 9, 2)], "ids")
    done = set()
    while len(done) < 4:
        data = w.wait("BLOCK_JOB_COMPLETED")
        w.eq(data.get("error"), None, "error")
        done.add(data["device"])
    for name in done:
        w.seen = 0
        w.wait_gone(name)
    w.chain_is([paths[i] for i in (8, 6, 4, 2, 0)])
    for i in range(2, 9, 2):
        w.eq(w.map(paths[i]), w.map(paths[i - 1]), "allocated in node%d" % i)


def stream_overlapping(w):
    """jobs that touch another one's images are refused"""
    paths = nine(w)
    w.need("block-stream", device="node4", job_id="j4", base=paths[1], speed=256 << 10)
    w.refused(BUSY, "block-stream", device="node5", job_id="j5", base=paths[2])
    w.refused(BUSY, "block-stream", device="node3", job_id="j3", base=paths[2])
    w.refused(BUSY, "block-stream", device="node4", job_id="j4-v2")
    w.refused(BUSY, "block-commit", device="drive0", base=paths[4], job_id="c4")
    w.refused(BUSY, "block-commit", device="drive0", base=paths[1], top=paths[3], job_id="c1")
    w.refused(BUSY, "block-commit", device="drive0", base=paths[0], top=paths[1], job_id="c0")
    w.refused("Node 'node[24]' is busy: .*|Node 'node[0-9]' is (in use|busy).*|.*node4.*",
              "blockdev-del", node_name="node4")
    w.ok("block-job-set-speed", device="j4", speed=0)
    w.completed("j4")


def stream_overlapping_commit(w):
    """the same with a commit first"""
    paths = nine(w)
    w.need("block-commit", device="drive0", top=paths[5], base=paths[3], job_id="c3", speed=256 << 10)
    w.refused(BUSY, "block-stream", device="node3", job_id="j3")
    w.refused(BUSY, "block-stream", device="node6", base=paths[2], job_id="j6")
    w.refused(BUSY, "block-stream", device="node4", base=paths[2], job_id="j4")
    w.refused(BUSY, "block-stream", device="node6", base=paths[4], job_id="j6-v2")
    if w.real: # it copies half a MiB at once, and is done
        return
    w.refused(BUSY, "block-stream", device="node7", base=paths[5], job_id="j6-v3")
    w.refused(BUSY + "|Need a root block node", "block-commit", device="drive0", base=paths[7], job_id="c8")
    w.ok("block-job-set-speed", device="c3", speed=0)
    w.completed("c3", "commit")


def stream_overlapping_active(w):
    """and with a commit of the disk's own image"""
    paths = nine(w)
    w.write(0x55, 0, 3 * M)
    w.need("block-commit", device="drive0", base=paths[3], job_id="c", speed=256 << 10)
    w.refused(BUSY, "block-stream", device="node5", base=paths[3], job_id="j")
    w.ok("block-job-set-speed", device="c", speed=0)
    data = w.ready("c")
    w.eq((data["type"], "error" in data), ("commit", False), "BLOCK_JOB_READY")
    w.ok("block-job-complete", device="c")
    w.completed("c", "commit")
    w.chain_is([paths[i] for i in (3, 2, 1, 0)])


def stream_and_commit(w):
    """a stream below and a commit above at once"""
    paths = nine(w)
    w.need("block-stream", device="node2", base_node="node0", job_id="node2", speed=256 << 10)
    w.need("block-commit", device="drive0", base=paths[3])
    w.ready()
    w.ok("block-job-complete", device="drive0")
    w.wait("BLOCK_JOB_COMPLETED", device="drive0")
    if not w.real:
        w.refused("Export 'drive0' is in use by a block job; cancel it first", "block-export-del", id="drive0")
    w.ok("block-job-set-speed", device="node2", speed=0)
    w.completed("node2", "stream")
    w.chain_is([paths[i] for i in (3, 2, 0)])


def stream_base_node(w):
    """base-node's rules"""
    paths = nine(w)
    w.refused("Cannot find device='none' nor node-name='none'|Cannot find device='' nor node-name='none'",
              "block-stream", device="node4", base_node="none", job_id="stream")
    w.refused("Node 'node6' is not a backing image of 'node4'", "block-stream", device="node4", base_node="node6", job_id="stream")
    w.refused("Node 'node4' is not a backing image of 'node4'", "block-stream", device="node4", base_node="node4", job_id="stream")
    w.refused("'base' and 'base-node' cannot be specified at the same time", "block-stream",
              device="node4", base=paths[2], base_node="node2", job_id="stream")
    w.need("block-stream", device="node4", base_node="node2", job_id="stream")
    w.completed("stream")
    w.eq(w.map(paths[4]), w.map(paths[3]), "allocated in node4")


# --- commit --------------------------------------------------------------------------------------------

def commit_intermediate(w):
    """mid into base"""
    base, mid, top = three_disk(w)
    w.need("block-commit", device="drive0", top=mid, base=base)
    w.completed(kind="commit", length=M)
    w.eq(w.story("drive0"), "created running waiting pending COMPLETED concluded null", "events")
    w.chain_is([top, base])
    w.eq(w.backing_of(top), base, "the header's backing file")
    w.reads(0xab, 0, M // 2)
    w.reads(0xef, M // 2, M // 2)
    w.undisk()
    if not w.real:
        w.drop_nodes()
        w.fill(base, "raw", "read -q -P 0xab 0 %d" % (M // 2), "read -q -P 0xef %d %d" % (M // 2, M // 2))


def commit_nodes(w):
    """the same by names of nodes, with another text in the header"""
    base, mid, top = three_disk(w)
    w.need("block-commit", device="drive0", top_node="mid", base_node="base", backing_file="i-base", job_id="c")
    w.completed("c", "commit", length=M)
    w.eq(w.backing_of(top), "i-base", "the header's backing file")


def commit_errors(w):
    """what does not fit together"""
    base, mid, top = three_disk(w)
    w.refused("Device 'nonexistent' not found", "block-commit", "DeviceNotFound", device="nonexistent", top=mid)
    w.refused("Device 'nonexistent' not found", "block-commit", "DeviceNotFound", device="nonexistent")
    w.refused("Can't find '%s' in the backing chain" % base, "block-commit", device="drive0", top=base, base=base)
    w.refused("Top image file badfile not found", "block-commit", device="drive0", top="badfile", base=base)
    w.refused("Can't find 'badfile' in the backing chain", "block-commit", device="drive0", top=mid, base="badfile")
    w.refused("Can't find '%s' in the backing chain" % mid, "block-commit", device="drive0", top=base, base=mid)
    w.refused("Cannot find device= nor node[_-]name=badfile|Cannot find device='' nor node-name='badfile'",
              "block-commit", device="drive0", top_node="badfile", base_node="base")
    w.refused("'mid' is not in this backing file chain", "block-commit", device="drive0", top_node="base", base_node="mid")
    w.refused("cannot commit an image into itself", "block-commit", device="drive0", top_node="mid", base_node="mid")
    w.refused("'base-node' and 'base' are mutually exclusive", "block-commit", device="drive0", top=mid, base=base, base_node="base")
    w.refused("'top-node' and 'top' are mutually exclusive", "block-commit", device="drive0", top=mid, top_node="mid", base=base)
    w.refused("Need a root block node", "block-commit", device="mid", job_id="c")
    w.refused("'backing-file' specified, but 'top' is the active layer", "block-commit", device="drive0", base=base, backing_file="x")
    w.eq(w.ask("query-jobs")["return"], [], "query-jobs")


def commit_active(w):
    """all of it into base, by default"""
    base, mid, top = three_disk(w)
    w.write(0x77, 0, 65536)
    w.need("block-commit", device="drive0")
    data = w.ready()
    w.eq(data["type"], "commit", "type")
    w.ok("block-job-complete", device="drive0")
    w.completed(kind="commit")
    w.eq(w.story("drive0"), "created running ready READY waiting pending COMPLETED concluded null", "events")
    w.chain_is([base])
    w.eq(w.inserted()["node-name"], "base", "the disk's node")
    w.reads(0x77, 0, 65536)
    w.reads(0xab, 65536, M // 2 - 65536)
    w.reads(0xef, M // 2, M // 2)


def commit_active_top(w):
    """the same by the file's name; a commit into the image below"""
    base, mid, top = three_disk(w)
    w.write(0x77, 0, 65536)
    w.need("block-commit", device="drive0", top=top, base=mid)
    w.complete(kind="commit")
    w.chain_is([mid, base])
    w.reads(0x77, 0, 65536)


def commit_again(w):
    """after an active commit a snapshot, and a commit again"""
    base, mid, top = three_disk(w)
    w.need("block-commit", device="drive0", job_id="c")
    w.ready("c")
    w.ok("block-job-complete", device="c")
    w.completed("c")
    over = w.path("i-over")
    w.ok("blockdev-snapshot-sync", device="drive0", snapshot_file=over, format="qcow2")
    w.chain_is([over, base])
    w.write(0x66, 0, 4096)
    w.need("block-commit", device="drive0", job_id="c2")
    w.complete("c2", "commit")
    w.chain_is([base])


def commit_relative(w):
    """headers with relative names"""
    import os
    import subprocess
    base, mid, top = three(w)
    subprocess.run(["qemu-img", "rebase", "-u", "-b", "i-base", "-F", "raw", mid], check=True)
    subprocess.run(["qemu-img", "rebase", "-u", "-b", "i-mid", "-F", "qcow2", top], check=True)
    if w.real:
        w.need("human-monitor-command", command_line="drive_add 0 if=none,id=drive0,driver=qcow2,node-name=top,file=" + top)
    else:
        w.need("blockdev-add", driver="qcow2", node_name="top", file={"driver": "file", "filename": top})
        w.need("block-export-add", type="dm", id="drive0", name="drive0", node_name="top", writable=True)
    w.refused("Top image file badfile not found", "block-commit", device="drive0", top="badfile", base="i-base")
    w.need("block-commit", device="drive0", top="i-mid", base="i-base")
    w.completed(kind="commit", length=M)
    w.eq([os.path.basename(f) for f in w.files(w.inserted()["image"])], ["i-top", "i-base"], "the disk's chain")


def commit_speed(w):
    """a speed that was given is there"""
    base, mid, top = three_disk(w, 8 * M)
    w.need("block-commit", device="drive0", top=mid, speed=512 << 10)
    job = w.job()
    w.eq((job["speed"], job["type"], job["status"], job["ready"], job["io-status"], job["len"]),
         (512 << 10, "commit", "running", False, "ok", 8 * M), "the job")
    w.cancelled(kind="commit")
    w.eq(w.story("drive0"), "created running aborting CANCELLED concluded null", "events")
    w.chain_is([top, mid, base])
    w.eq(w.node("base")["ro"], True, "base is read-only again")


def commit_overlay_busy(w):
    """mid and base are not free while a commit writes"""
    base, mid, top = three_disk(w, 8 * M)
    w.need("block-commit", device="drive0", top=mid, speed=65536, job_id="c")
    w.refused("Node 'mid' is busy: .*|Node mid is in use", "blockdev-del", node_name="mid")
    w.refused(BUSY + "|Need a root block node", "blockdev-mirror", device="drive0", target="base", sync="full", job_id="m")
    w.refused(BUSY + "|Need a root block node", "block-commit", device="drive0", job_id="c2")
    w.cancelled("c")


def commit_zero_length(w):
    """an image without a size"""
    base, mid, top = three(w, 0, fill=False)
    w.add((top, "qcow2", "top"), (mid, "qcow2", "mid"), (base, "raw", "base"))
    w.refused(".*size.*|.*", "block-commit", device="top", job_id="c") if not w.real else None
