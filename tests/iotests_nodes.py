# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs' verbs, and commands about nodes and images: scenarios for iotests.py."""
import json

from iotests_chain import three_disk
from iotests_copy import backed, four, target

SECTIONS = ("jobs", "nodes", "create", "reopen", "snapshot")
M = 1 << 20


# --- jobs: their life, by both families of commands ---------------------------------------------------

def pairs(w, job, paused, running):
    for pause, key in (("block-job-pause", "device"), ("job-pause", "id")):
        for resume, other in (("block-job-resume", "device"), ("job-resume", "id")):
            w.refused("Can't resume a job that was not paused", resume, **{other: job})
            w.ok(pause, **{key: job})
            w.wait("JOB_STATUS_CHANGE", id=job, status=paused)
            w.eq(w.ask("query-jobs")["return"][0]["status"], paused, "status")
            w.refused("Job is already paused", pause, **{key: job})
            w.ok(resume, **{other: job})
            w.wait("JOB_STATUS_CHANGE", id=job, status=running)


def wrong(w, job, state, verbs):
    for verb in verbs:
        sentence = "Job '%s' in state '%s' cannot accept command verb '%s'" % (job, state, verb)
        w.refused(sentence, "job-" + verb, id=job)
        w.refused(sentence, "block-job-" + verb, **{"device" if verb in ("complete", "pause", "resume") else "id": job})


def jobs_mirror(w):
    """a mirror's, with auto-finalize and auto-dismiss off"""
    four(w)
    target(w, 8 * M)
    w.need("blockdev-mirror", job_id="job0", device="drive0", target="node1", sync="full", speed=1, granularity=65536,
           buf_size=65536, auto_finalize=False, auto_dismiss=False)
    w.wait("JOB_STATUS_CHANGE", id="job0", status="running")
    pairs(w, "job0", "paused", "running")
    wrong(w, "job0", "running", ("complete", "finalize", "dismiss"))
    w.ok("block-job-set-speed", device="job0", speed=0)
    w.ready("job0")
    w.eq(w.ask("query-jobs")["return"], [{"id": "job0", "type": "mirror", "status": "ready", "current-progress": 8 * M,
                                         "total-progress": 8 * M}], "query-jobs")
    pairs(w, "job0", "standby", "ready")
    wrong(w, "job0", "ready", ("finalize", "dismiss"))
    w.ok("job-complete", id="job0")
    w.wait("BLOCK_JOB_PENDING", id="job0")
    wrong(w, "job0", "pending", ("complete", "dismiss", "pause"))
    w.refused("Can't resume a job that was not paused", "job-resume", id="job0")
    w.ok("job-finalize", id="job0")
    w.wait("JOB_STATUS_CHANGE", id="job0", status="concluded")
    wrong(w, "job0", "concluded", ("complete", "finalize", "pause"))
    w.refused("Job 'job0' in state 'concluded' cannot accept command verb 'cancel'", "job-cancel", id="job0")
    w.ok("job-dismiss", id="job0")
    w.wait_gone("job0")
    w.eq(w.ask("query-jobs")["return"], [], "query-jobs")


def jobs_backup(w):
    """a backup's"""
    four(w)
    target(w, 8 * M)
    w.need("blockdev-backup", job_id="job0", device="drive0", target="node1", sync="full", speed=1)
    w.wait("JOB_STATUS_CHANGE", id="job0", status="paused")
    w.wait("JOB_STATUS_CHANGE", id="job0", status="running")
    pairs(w, "job0", "paused", "running")
    wrong(w, "job0", "running", ("complete", "finalize", "dismiss"))
    w.eq(sorted(w.ask("query-jobs")["return"][0]), ["current-progress", "id", "status", "total-progress", "type"], "members")
    w.eq(sorted(w.job("job0")), sorted(["auto-dismiss", "auto-finalize", "busy", "device", "io-status", "len", "offset",
                                        "paused", "ready", "speed", "status", "type"]), "members")
    w.ok("block-job-set-speed", device="job0", speed=0)
    w.completed("job0")


def jobs_names(w):
    """ids that are none, in use, not there"""
    four(w)
    target(w, 8 * M)
    for name in ("9x", "a b", "", "#x"):
        w.refused("Invalid job ID '%s'" % name, "blockdev-backup", job_id=name, device="drive0", target="node1", sync="full")
    w.need("blockdev-backup", device="drive0", target="node1", sync="full", speed=1)
    w.refused("Job ID 'drive0' already in use|Node .* is busy.*|Need a root block node", "blockdev-mirror", device="drive0", target="node1", sync="full")
    for verb in ("cancel", "pause", "resume", "complete", "dismiss", "finalize"):
        w.refused("Job not found", "job-" + verb, id="nix")
    for verb in ("cancel", "pause", "resume", "complete"):
        w.refused("Block job 'nix' not found", "block-job-" + verb, "DeviceNotActive", device="nix")
    w.cancelled()


def jobs_held(w):
    """blockdev-del of what a job uses"""
    base, mid, top = three_disk(w, 8 * M)
    target(w, 8 * M)
    busy = "Node '%s' is busy: block device is in use by block job: %s|Node %s is in use|Block device %s is in use"
    w.need("blockdev-mirror", job_id="job0", device="drive0", target="node1", sync="none")
    w.eq((w.ready("job0")["len"], w.job("job0")["offset"]), (0, 0), "len and offset")
    w.refused(busy % (("node1", "mirror") + ("node1",) * 2), "blockdev-del", node_name="node1")
    w.ok("block-job-cancel", device="job0")
    data = w.wait("BLOCK_JOB_COMPLETED", device="job0")
    w.eq((data["len"], data["offset"], data["speed"], data["type"]), (0, 0, 0, "mirror"), "the end")
    w.wait_gone("job0")
    w.need("block-commit", job_id="job0", device="drive0")
    w.ready("job0")
    w.refused("Node 'mid' is busy: .*|Node mid is in use", "blockdev-del", node_name="mid")
    w.ok("block-job-cancel", device="job0")
    w.wait_gone("job0")
    w.need("block-commit", job_id="job0", device="drive0", top_node="mid", speed=1)
    w.refused("Node 'base' is busy: .*|Node base is in use", "blockdev-del", node_name="base")
    w.cancelled("job0", "commit")
    w.need("block-stream", job_id="job0", device="drive0", speed=1)
    w.refused("Node 'base' is busy: .*|Node base is in use", "blockdev-del", node_name="base")
    w.cancelled("job0", "stream")


# --- nodes ------------------------------------------------------------------------------------------------

def nodes_del(w):
    """what blockdev-del takes and what not"""
    path = w.create("hd0", M)
    w.need("blockdev-add", driver="qcow2", node_name="node0", file={"driver": "file", "node-name": "node0_file", "filename": path})
    w.refused("Node node0_file is not owned by the monitor", "blockdev-del", node_name="node0_file")
    w.ok("blockdev-del", node_name="node0")
    w.eq(w.node("node0_file"), None, "its file")
    w.refused("Failed to find node with node-name='node0'", "blockdev-del", node_name="node0")
    over = w.create("hd1", M, backing=("hd0", "qcow2"))
    w.add((over, "qcow2", "hd1"), (path, "qcow2", "hd0"))
    w.refused("Node 'hd0' is busy: node is used as backing hd of 'hd1'", "blockdev-del", node_name="hd0")
    w.ok("blockdev-del", node_name="hd1")
    w.eq(w.node("hd0"), None, "its backing node")


def nodes_names(w):
    """names that are none"""
    path = w.create("hd0", M)
    for name, text in (("9x", "Invalid node-name: '9x'"), ("a b", "Invalid node-name: 'a b'"), ("", "Invalid node-name: ''"),
                       ("x" * 32, "Node name too long")):
        w.refused(text, "blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": path})
    w.refused("Parameter 'driver' does not accept value 'nix'", "blockdev-add", driver="qcow2", node_name="x",
              file={"driver": "nix", "filename": path})
    w.refused("'node-name' must be specified for the root node", "blockdev-add", driver="qcow2",
              file={"driver": "file", "filename": path})
    w.ok("blockdev-add", driver="qcow2", node_name="x", file={"driver": "file", "filename": path}, discard="unmap",
         cache={"direct": True}, **{"l2-cache-size": 1 << 20, "refcount-cache-size": 1 << 18})


def nodes_query(w):
    """members of query-named-block-nodes and query-block"""
    base, mid, top = three_disk(w)
    node = w.node("top")
    for key, value in (("drv", "qcow2"), ("file", top), ("ro", False), ("backing_file", mid), ("backing_file_depth", 2),
                       ("encrypted", False), ("detect_zeroes", "off"), ("iops", 0), ("write_threshold", 0)):
        w.eq(node.get(key), value, key)
    image = node["image"]
    w.eq((image["format"], image["virtual-size"], image["filename"], image["full-backing-filename"], image["backing-filename-format"],
          image["cluster-size"], image["dirty-flag"]), ("qcow2", M, top, mid, "qcow2", 65536, False), "image")
    w.eq(w.files(image), [top, mid, base], "its chain")
    flat = [n for n in w.ask("query-named-block-nodes", flat=True)["return"] if n["node-name"] == "top"][0]
    w.holds("backing-image" not in flat["image"], "flat has no backing-image")
    entry = [e for e in w.ask("query-block")["return"] if e["device"] == "drive0"][0]
    w.eq((entry["locked"], entry["removable"], entry["type"], entry["inserted"]["node-name"]),
         (False, False, "unknown", "top"), "query-block")


def nodes_file(w):
    """file nodes, with no raw node above them, are images: backing, target, base, disk"""
    base, test = w.create("base", M, fmt="raw"), w.create("test", M, backing=("base", "raw"))
    w.fill(base, "raw", "write -q -P 0x5a 0 1M")
    w.disk((test, "qcow2", "test"), (base, "file", "base"))
    w.chain_is([test, base])
    w.write(0x33, 0, 65536)
    copies = [w.create(name, M, fmt="raw") for name in ("t0", "t1")]
    w.add((copies[0], "file", "t0"))
    w.need("blockdev-backup", device="drive0", target="t0", sync="full", job_id="b")
    w.completed("b", "backup")
    w.ok("blockdev-del", node_name="t0")
    w.fill(copies[0], "raw", "read -q -P 0x33 0 64k", "read -q -P 0x5a 64k 960k")
    w.refused("Node 'base' is busy: node is used as backing hd of 'test'", "blockdev-del", node_name="base") if not w.real else None
    w.need("block-commit", device="drive0", base_node="base", job_id="c")
    w.complete("c", "commit")
    w.chain_is([base])
    w.eq((w.inserted()["node-name"], w.inserted()["drv"], w.inserted()["image"]["format"]), ("base", "file", "file"), "inserted")
    w.add((copies[1], "file", "t1"))
    w.need("blockdev-mirror", device="drive0", target="t1", sync="full", job_id="m", replaces="base")
    w.complete("m", "mirror")
    w.eq(w.inserted()["node-name"], "t1", "inserted/node-name")
    w.refused("Block device t1 is in use|Node t1 is in use", "blockdev-del", node_name="t1")
    w.ok("blockdev-del", node_name="base") if w.node("base") else None
    w.reads(0x33, 0, 65536)
    w.reads(0x5a, 65536, M - 65536)
    if not w.real:
        w.eq([n["node-name"] for n in w.ask("query-named-block-nodes")["return"] if n["drv"] == "raw"], [], "raw nodes")


# --- images ---------------------------------------------------------------------------------------------------

def job_create(w, wanted, **options):
    """blockdev-create: with wanted None it succeeds, else that is the job's error."""
    w.need("blockdev-create", job_id="job0", options={k.replace("_", "-"): v for k, v in options.items()})
    w.wait("JOB_STATUS_CHANGE", id="job0", status="concluded")
    w.eq(w.ask("query-jobs")["return"][0].get("error"), wanted, "error of %s" % json.dumps(options))
    w.eq(w.ask("query-block-jobs")["return"], [], "query-block-jobs")
    w.ok("job-dismiss", id="job0")
    w.wait_gone("job0")


def create_qcow2(w):
    """a file, then an image in it"""
    path = w.path("i-image")
    job_create(w, None, driver="file", filename=path, size=0)
    w.eq(w.story("job0"), "created running waiting pending concluded null", "events")
    w.need("blockdev-add", driver="file", filename=path, node_name="f")
    w.forget()
    job_create(w, "Image size must be a multiple of 512 bytes", driver="qcow2", file="f", size=1234)
    w.eq(w.story("job0"), "created running aborting concluded null", "events")
    job_create(w, "Could not resize image: Image size cannot be negative", driver="qcow2", file="f", size=18446744073709551104)
    job_create(w, "Cluster size must be a power of two between 512 and 2048k", driver="qcow2", file="f", size=M, cluster_size=1234)
    job_create(w, "Cluster size must be a power of two between 512 and 2048k", driver="qcow2", file="f", size=M, cluster_size=4 * M)
    job_create(w, "Refcount width must be a power of two and may not exceed 64 bits", driver="qcow2", file="f", size=M, refcount_bits=7)
    job_create(w, "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
               driver="qcow2", file="f", size=M, version="v2", refcount_bits=8)
    job_create(w, "Backing format cannot be used without backing file", driver="qcow2", file="f", size=M, backing_fmt="qcow2")
    job_create(w, "Cannot find device='nix' nor node-name='nix'", driver="qcow2", file="nix", size=M)
    w.refused("Parameter 'version' does not accept value 'v1'", "blockdev-create", job_id="job0",
              options={"driver": "qcow2", "file": "f", "size": M, "version": "v1"})
    job_create(w, None, driver="qcow2", file="f", size=32 * M, version="v3", cluster_size=2 * M, refcount_bits=1)
    w.ok("blockdev-add", driver="qcow2", file="f", node_name="image")
    image = w.node("image")["image"]
    w.eq((image["virtual-size"], image["cluster-size"], image["format-specific"]["data"]["refcount-bits"]), (32 * M, 2 * M, 1), "the image")


def create_overlay(w):
    """libvirt's snapshot: an image with a backing file is created, then blockdev-snapshot"""
    base, test = backed(w)
    path = w.path("i-over")
    job_create(w, None, driver="file", filename=path, size=0)
    w.need("blockdev-add", driver="file", filename=path, node_name="over-file")
    job_create(w, None, driver="qcow2", file="over-file", size=M, backing_file=test, backing_fmt="qcow2")
    w.need("blockdev-add", driver="qcow2", node_name="over", file="over-file", backing=None)
    w.ok("blockdev-snapshot", node="test", overlay="over")
    w.chain_is([path, test, base])
    w.write(0x21, 0, 65536)
    w.need("block-commit", job_id="c", device="over", top_node="over", base_node="test", auto_dismiss=False)
    w.ready("c")
    w.ok("job-complete", id="c")
    w.wait("JOB_STATUS_CHANGE", id="c", status="concluded")
    w.ok("job-dismiss", id="c")
    w.chain_is([test, base])
    w.ok("blockdev-del", node_name="over")
    w.reads(0x21, 0, 65536)


# --- blockdev-reopen ------------------------------------------------------------------------------------------

def hd(w, i, **more):
    opts = {"driver": "qcow2", "node-name": "hd%d" % i,
            "file": {"driver": "file", "node-name": "hd%d-file" % i, "filename": w.path("i-hd%d" % i)}}
    return dict(opts, **{k.replace("_", "-"): v for k, v in more.items()})


def reopen_images(w):
    w.create("hd0", 3 * M)
    w.create("hd1", 3 * M, backing=("hd0", "qcow2"))
    w.create("hd2", 3 * M)


def nodes_now(w):
    return sorted(json.dumps(n, sort_keys=True) for n in w.ask("query-named-block-nodes")["return"])


def reopen_same(w):
    """what can't be changed"""
    reopen_images(w)
    w.need("blockdev-add", **hd(w, 0))
    before = nodes_now(w)

    def same(desc, **changes):
        opts = hd(w, 0)
        for key, value in changes.items():
            (opts["file"] if key[:5] == "file_" else opts)[key.replace("file_", "").replace("_", "-")] = value
        if desc:
            w.refused(desc, "blockdev-reopen", options=[opts])
        else:
            w.ok("blockdev-reopen", options=[opts])
    same(None)
    same(None, file="hd0-file")
    same("Failed to find node with node-name='not-found'", node_name="not-found")
    same("Invalid parameter type for 'options\\[0\\].node-name', expected: string", node_name=None)
    same("Cannot change the option 'driver'", driver="raw")
    same("Parameter 'driver' does not accept value ''", driver="")
    same("Cannot find device='' nor node-name='not-found'", file="not-found")
    same("Cannot change the option 'node-name'", **{"file_node-name": "newname"})
    same("Cannot change the option 'driver'", file_driver="host_device")
    same("Cannot change the option 'filename'", file_filename=w.path("i-hd1"))
    same("Cannot change the option 'aio'", file_aio="native")
    same("Cannot change the option 'locking'", file_locking="off")
    opts = hd(w, 0)
    del opts["node-name"]
    w.refused("node-name not specified", "blockdev-reopen", options=[opts])
    w.refused("Invalid parameter type for 'options', expected: array", "blockdev-reopen", options={})
    w.eq(nodes_now(w), before, "nodes")


def reopen_backing(w):
    """backing nodes: given, taken away, given again; read-only and back"""
    reopen_images(w)
    w.need("blockdev-add", **hd(w, 1))
    w.refused("backing is missing for 'hd1'", "blockdev-reopen", options=[hd(w, 1)])
    w.refused("Cannot find device='' nor node-name='not-found'", "blockdev-reopen", options=[hd(w, 1, backing="not-found")])
    w.ok("blockdev-del", node_name="hd1")
    both = hd(w, 1, backing=hd(w, 0))
    w.need("blockdev-add", **both)
    before = nodes_now(w)
    w.ok("blockdev-reopen", options=[both])
    w.eq(nodes_now(w), before, "nodes")
    w.ok("blockdev-reopen", options=[dict(both, **{"read-only": True})])
    w.eq(w.node("hd1")["ro"], True, "ro")
    w.ok("blockdev-reopen", options=[both])
    w.eq(w.node("hd1")["ro"], False, "ro")
    w.refused("Cannot change the option 'force-share'", "blockdev-reopen", options=[dict(both, **{"force-share": True})])
    w.ok("blockdev-reopen", options=[hd(w, 1, backing=None)])
    w.holds("backing-image" not in w.node("hd1")["image"], "no backing-image")
    w.eq(w.node("hd0"), None, "the old backing node")
    w.need("blockdev-add", **hd(w, 0))
    w.refused("Cannot change the option 'backing.driver'", "blockdev-reopen", options=[both])
    w.ok("blockdev-reopen", options=[hd(w, 1, backing="hd0")])
    w.eq(w.node("hd1")["image"]["backing-image"]["filename"], w.path("i-hd0"), "backing-image")
    w.refused("Node 'hd0' is busy: node is used as backing hd of 'hd1'", "blockdev-del", node_name="hd0")
    w.refused("Making 'hd0' a backing child of 'hd0' would create a cycle", "blockdev-reopen", options=[hd(w, 0, backing="hd0")])
    # Both or none.
    w.refused("Failed to find node with node-name='hd2'", "blockdev-reopen", options=[hd(w, 1, backing=None), hd(w, 2)])
    w.eq(w.node("hd1")["image"]["backing-image"]["filename"], w.path("i-hd0"), "backing-image")
    w.ok("blockdev-del", node_name="hd1")
    w.ok("blockdev-del", node_name="hd0")


def reopen_disk(w):
    """under a disk: a backing image becomes writable and read-only again, a job goes on"""
    base, mid, top = three_disk(w, 8 * M)
    opts = {"driver": "qcow2", "node-name": "mid", "file": {"driver": "file", "filename": mid}, "backing": "base"}
    w.ok("blockdev-reopen", options=[dict(opts, **{"read-only": False})])
    w.eq(w.node("mid")["ro"], False, "ro")
    w.write(0x31, 0, 65536)
    w.ok("blockdev-reopen", options=[dict(opts, **{"read-only": True})])
    w.eq(w.node("mid")["ro"], True, "ro")
    w.ok("blockdev-reopen", options=[dict(opts, **{"read-only": False})])
    w.need("block-commit", device="drive0", job_id="c", base_node="mid", top_node="top")
    w.complete("c", "commit")
    w.chain_is([mid, base])
    w.reads(0x31, 0, 65536)
    w.reads(0xef, 4 * M, 4 * M)
    w.refused("Node 'mid' is in use: .*", "blockdev-reopen", options=[dict(opts, backing=None)]) if not w.real else None
    w.refused("Cannot make block node read-only, there is a writer on it|.*", "blockdev-reopen",
              options=[dict(opts, **{"read-only": True})])


# --- snapshots ----------------------------------------------------------------------------------------------------

def snapshot_errors(w):
    """overlays that are none"""
    base, test = backed(w)
    busy, over = w.create("busy", M, backing=("base", "raw")), w.create("over", M)
    w.need("blockdev-add", driver="qcow2", node_name="busy", file={"driver": "file", "filename": busy})
    w.refused("The overlay already has a backing image", "blockdev-snapshot", node="test", overlay="busy")
    w.refused("Cannot find device='nix' nor node-name='nix'", "blockdev-snapshot", node="nix", overlay="busy")
    w.refused("Cannot find device='nix' nor node-name='nix'|Cannot find device='' nor node-name='nix'",
              "blockdev-snapshot", node="test", overlay="nix")
    w.refused("Node 'base' is busy: node is used as backing hd of '[^']*'", "blockdev-snapshot-sync",
              node_name="base", snapshot_file=w.path("i-x"), snapshot_node_name="x")
    w.refused("New overlay node-name missing", "blockdev-snapshot-sync", node_name="test", snapshot_file=w.path("i-x"))
    w.refused("New overlay node-name already in use", "blockdev-snapshot-sync", node_name="test",
              snapshot_file=w.path("i-x"), snapshot_node_name="busy")
    w.refused("Parameter 'mode' does not accept value 'x'", "blockdev-snapshot-sync", device="drive0",
              snapshot_file=w.path("i-x"), mode="x")
    w.need("blockdev-add", driver="qcow2", node_name="over", file={"driver": "file", "filename": over}, backing=None)
    w.ok("blockdev-snapshot", node="test", overlay="over")
    w.refused("The overlay is already in use|.*", "blockdev-snapshot", node="busy", overlay="over")
    w.eq(w.files(w.inserted()["image"])[1:], [test, base], "below the overlay")


def snapshot_group(w):
    """two disks in one transaction, none if one fails"""
    a, b = w.create("a", M), w.create("b", M)
    w.disk((a, "qcow2", "a"))
    w.disk((b, "qcow2", "b"), name="drive1")

    def action(device, file):
        return {"type": "blockdev-snapshot-sync", "data": {"device": device, "snapshot-file": w.path(file), "format": "qcow2"}}
    w.refused("Cannot find device='drive2' nor node-name=''|Cannot find device='drive2' nor node-name='drive2'|Cannot find device='drive2'.*",
              "transaction", actions=[action("drive0", "i-a1"), action("drive2", "i-b1")])
    w.chain_is([a])
    w.ok("transaction", actions=[action("drive0", "i-a2"), action("drive1", "i-b2")])
    w.chain_is([w.path("i-a2"), a])
    w.chain_is([w.path("i-b2"), b], "drive1")
