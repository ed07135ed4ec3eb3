# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of soak.py.

An operation is a function of a Soak and a line of OPS with its weight. It returns None
where it does not apply, else a list of the images that it may have written, and
has brought Soak.chain to what it must be.
"""
import os
import select
import subprocess
import time

import oracle
from soak_qemu import WRITE

DISK = "vm1"
DEVICE = "/dev/mapper/" + DISK
KIB, MIB = 1 << 10, 1 << 20
NULL = object()         # JSON's null, as an argument; None: the argument is left out
CHAIN_MAX = 9
PATIENCE = 400
GARBAGE = b"\xa5" * 512
STATES = {
    "created": "running aborting null", "running": "paused ready waiting aborting",
    "paused": "running", "ready": "standby waiting aborting", "standby": "ready",
    "waiting": "pending aborting", "pending": "aborting concluded",
    "aborting": "aborting concluded", "concluded": "null",
}


class Wrong(Exception):
    pass


class Refused(Exception):
    def __init__(self, desc, verb, arguments):
        super().__init__("%s %s: %s" % (verb, arguments, desc))
        self.desc = desc


def tool(*words, good=(0,)):
    r = subprocess.run(words, capture_output=True, text=True, timeout=300)
    if r.returncode not in good:
        raise Wrong("%s: status %d: %s" % (" ".join(words), r.returncode,
                                           (r.stdout + r.stderr).strip()))
    return r.stdout


class Image:
    """@backing: the header's own words for what is below; None: nothing."""

    def __init__(self, path, fmt, size, backing=None):
        self.path, self.fmt, self.size, self.backing = path, fmt, size, backing
        self.stamp = None

    def look(self):
        st = os.stat(self.path)
        return st.st_mtime_ns, st.st_size

    def __repr__(self):
        return os.path.basename(self.path)


class Job:
    """One job to its end. @want: "done", "cancel" (at any moment), "soft" (when ready; the guest
    is held from before that on, and on_soft() is called at the end), "still" (a cancel, likewise)."""

    def __init__(self, s, verb, want="done", on_soft=None, **arguments):
        rng = s.rng
        self.s, self.want, self.on_soft, self.id = s, want, on_soft, s.new("j")
        self.held, self.paused, self.cancelled = False, False, False
        self.hurry = time.monotonic() + rng.uniform(0, 2)
        self.cancel_at = time.monotonic() + rng.uniform(0, 1)
        arguments.setdefault("speed", rng.choice([None, 0, MIB, 4 * MIB, 4 * MIB, 16 * MIB]))
        arguments["auto_finalize"] = rng.choice([None, True, True, False])
        arguments["auto_dismiss"] = rng.choice([None, True, False])
        s.note("%s %s: %s, %s" % (self.id, verb, want, arguments))
        s.command(verb, job_id=self.id, **arguments)

    def now(self):
        for j in self.s.command("query-jobs"):
            if j["id"] == self.id:
                return j
        return None

    def verb(self, verb, **arguments):
        """It may come too late."""
        try:
            self.s.command(verb, **arguments)
            return True
        except Refused as e:
            if not oracle.LATE.search(e.desc):
                raise
            return False

    def bother(self, status):
        rng = self.s.rng
        r = rng.random()
        if r < 0.1 and not self.paused:
            self.paused = self.verb("job-pause", id=self.id)
        elif r < 0.4 and self.paused:
            self.paused = not self.verb("job-resume", id=self.id)
        elif r < 0.5:
            self.verb("block-job-set-speed", device=self.id,
                      speed=rng.choice([0, 512 * KIB, 4 * MIB, 64 * MIB]))
        if self.want in ("cancel", "still") and time.monotonic() > self.cancel_at:
            if self.want == "still":
                self.hold()
            self.cancelled = True
            if status in ("ready", "standby") or rng.random() < 0.5:
                self.verb("block-job-cancel", device=self.id, force=True)
            else:
                self.verb("job-cancel", id=self.id)

    def hold(self):
        if not self.held:
            self.s.guest.hold()
            self.held = True

    def hasten(self):
        self.hurry = time.monotonic() + 1
        if self.paused:
            self.paused = not self.verb("job-resume", id=self.id)
        self.verb("block-job-set-speed", device=self.id, speed=0)

    def ready(self):
        if self.paused:
            self.paused = not self.verb("job-resume", id=self.id)
        if self.want == "done":
            self.verb("job-complete", id=self.id)
        elif self.want == "soft":
            self.hold()
            if self.verb("block-job-cancel", device=self.id, force=False):
                self.want = "softly"

    def step(self):
        now = self.now()
        status = now and now["status"]
        self.s.guest.front = now["current-progress"] / max(1, now["total-progress"]) if now else None
        if status in ("running", "paused", "ready", "standby"):
            if self.want != "softly":
                self.bother(status)
            if time.monotonic() > self.hurry and self.want not in ("cancel", "still"):
                self.hasten()
        if status == "ready" and self.s.rng.random() < 0.4 and not self.cancelled:
            self.ready()
        elif status == "pending" and not self.cancelled:
            self.verb("job-finalize", id=self.id)
        elif status == "concluded":
            self.verb("job-dismiss", id=self.id)
        return now

    def outcome(self):
        """The last event of it; "done", "soft" or "cancel"."""
        last, states = None, []
        for e in self.s.events:
            d = e["data"]
            if d.get("device") == self.id and e["event"] in ("BLOCK_JOB_COMPLETED",
                                                             "BLOCK_JOB_CANCELLED"):
                last = e
            if e["event"] == "JOB_STATUS_CHANGE" and d["id"] == self.id:
                states.append(d["status"])
        for a, b in zip(states, states[1:]):
            if b not in STATES[a].split():
                raise Wrong("%s: from %s to %s: %s" % (self.id, a, b, states))
        if not last or states[-1:] != ["null"]:
            return None
        if last["data"].get("error"):
            raise Wrong("the job failed: %s" % last["data"])
        if last["event"] == "BLOCK_JOB_CANCELLED":
            if not self.cancelled:
                raise Wrong("%s was cancelled by nobody" % self.id)
            return "cancel"
        return "soft" if self.want == "softly" else "done"

    def end(self):
        """Until it is gone."""
        limit, s = time.monotonic() + PATIENCE, self.s
        try:
            while True:
                s.guest.check()
                now = self.step()
                if not now:
                    if select.select([s.client.sock], [], [], 0.1)[0]:
                        s.client.take_events()
                    how = self.outcome()
                    if how:
                        break
                if time.monotonic() > limit:
                    raise Wrong("the job does not end: %s" % now)
                time.sleep(s.rng.choice([0, 0.02, 0.05]))
            if self.on_soft and (how == "soft" or self.want == "still"):
                self.on_soft()
        finally:
            s.guest.front = None
            if self.held:
                s.guest.release()
        s.counts[how if how != "done" else "jobs done"] += 1
        return how


def qcow2(s, kind, size, below=None):
    return s.create(Image(s.path(s.new(kind)), "qcow2", size), below)


def words_for(s, base):
    """(backing-file argument, what the header says then)"""
    text = s.rng.choice([None, None, base.path, os.path.basename(base.path)])
    return text, text or base.path


# --- snapshots -----------------------------------------------------------------------------------

def snapshot(s):
    if len(s.chain) >= CHAIN_MAX:
        return None
    top, image = s.chain[0], Image(s.path(s.new("s")), "qcow2", s.chain[0].size)
    name = s.new("n")
    args = {}
    if s.rng.random() < 0.5:
        image.backing = top.path
    else:
        s.create(image, top)
        args = {"mode": "existing"}
    s.command("blockdev-snapshot-sync", device=DISK, snapshot_file=image.path,
              snapshot_node_name=name, format=s.rng.choice([None, "qcow2"]), **args)
    s.named[name] = image
    s.chain.insert(0, image)
    return []


def overlay(s):
    if len(s.chain) >= CHAIN_MAX:
        return None
    image = qcow2(s, "o", s.chain[0].size, s.chain[0])
    s.command("blockdev-snapshot", node=s.node_of(s.chain[0]), overlay=s.add(image, backing=NULL))
    s.chain.insert(0, image)
    return []


# --- stream, commit --------------------------------------------------------------------------------

def name_base(s, base):
    if s.rng.random() < 0.5:
        return {"base": base.path}
    return {"base_node": s.node_of(base)}


def stream(s):
    rng, n = s.rng, len(s.chain)
    at = 0 if rng.random() < 0.6 else rng.randrange(n)
    if s.chain[at].fmt != "qcow2":
        return None
    below = max(rng.randrange(at + 1, n + 1), rng.randrange(at + 1, n + 1))
    top, args = s.chain[at], {}
    text, says = None, None
    if below < n:
        text, says = words_for(s, s.chain[below])
        if rng.random() < 0.25:
            args = {"bottom": s.node_of(s.chain[below - 1])}
        else:
            args = name_base(s, s.chain[below])
    device = DISK if at == 0 and rng.random() < 0.5 else s.node_of(top)
    how = Job(s, "block-stream", rng.choice(["done"] * 6 + ["cancel"]), device=device,
              backing_file=text, on_error=rng.choice([None, "report", "stop", "ignore", "enospc"]),
              **args).end()
    if how == "done":
        top.backing = says
        s.chain = s.chain[:at + 1] + s.chain[below:]
    return [top]


def refused_by_size(s, at, to):
    """May it be? The end of a base that is longer than what is committed into it would be seen; so would that
    of a backing image that is longer than a base which has to grow, if the base can't hide it."""
    top, base = s.chain[at], s.chain[to]
    below = s.chain[to + 1].size if to + 1 < len(s.chain) else 0
    return min(base.size, s.chain[at - 1].size if at else base.size) > top.size or \
        base.size < top.size and below > base.size


def commit(s):
    rng, n = s.rng, len(s.chain)
    if n < 2:
        return None
    at = 0 if n < 3 or rng.random() < 0.4 else rng.randrange(1, n - 1)
    to = rng.randrange(at + 1, n)
    top, base = s.chain[at], s.chain[to]
    args = {} if to == n - 1 and rng.random() < 0.3 else name_base(s, base)
    text = says = None
    if at:
        text, says = words_for(s, base)
        args.update({"top": top.path} if rng.random() < 0.5 else {"top_node": s.node_of(top)})
    elif rng.random() < 0.3:
        args["top_node"] = s.node_of(top)
    want = rng.choice(["done", "done", "done", "cancel"] + (["soft"] if not at else []))
    try:
        job = Job(s, "block-commit", want, device=rng.choice([DISK, s.node_of(s.chain[0])]),
                  backing_file=text, on_error=rng.choice([None, "report", "stop", "ignore"]), **args)
    except Refused:
        if not refused_by_size(s, at, to):
            raise
        s.counts["commits refused by size"] += 1
        return []
    if base.size < top.size:
        s.counts["bases that grew"] += 1
        base.size = top.size
    how = job.end()
    written = [base] + ([s.chain[at - 1]] if at else [])
    if how == "done":
        gone = s.chain[at:to]
        s.chain = s.chain[:at] + s.chain[to:]
        if at:
            s.chain[at - 1].backing = says
        stays_invalid(s, gone)
    return written


def stays_invalid(s, gone):
    """What a commit made invalid is refused."""
    image = s.rng.choice(gone)
    if image.fmt != "qcow2" or s.rng.random() < 0.5:
        return
    s.drop_nodes(keep=s.chain)
    try:
        s.add(image, backing=NULL)
    except Refused as e:
        if "was committed into" not in str(e):
            raise
        return
    raise Wrong("%s was committed and is taken nevertheless" % image.path)


# --- copies ----------------------------------------------------------------------------------------

def old_content(s, image):
    """Something is there already, and has to go."""
    if s.rng.random() < 0.5:
        s.fill(image)


def target(s, below=None):
    fmt = "qcow2" if below else s.rng.choice(["qcow2", "qcow2", "raw"])
    image = Image(s.path(s.new("t")), fmt, s.chain[0].size)
    return s.create(image, below)


def write_all(s, image, get):
    """@get: what goes to (sector, number of sectors)"""
    total, work = image.size // 512, []
    for at in range(0, total, 2048):
        nr = min(2048, total - at)
        work.append((WRITE, at * 512, nr * 512, get(at, nr)))
    s.qemu.fill(image.path, image.fmt, work)


def is_model(s, image):
    """QEMU reads from it what the disk holds; the guest is held."""
    s.same(image, "the copy " + image.path)


def mirror_arguments(s):
    rng = s.rng
    return {
        "granularity": rng.choice([None, 512, 4 * KIB, 64 * KIB, MIB, 64 * MIB]),
        "buf_size": rng.choice([None, 0, 64 * KIB, 32 * MIB]),
        "copy_mode": rng.choice([None, "background", "write-blocking"]),
        "filter_node_name": rng.choice([None, s.new("f")]),
        "on_target_error": rng.choice([None, "stop", "ignore"]),
        "x_force": True,
    }


def finish_mirror(s, image, rest, want, verb, **arguments):
    how = Job(s, verb, want, lambda: is_model(s, image), device=DISK, **arguments).end()
    if how == "done":
        s.chain = [image] + rest
        return [image]
    s.drop_nodes(keep=s.chain)
    s.remove([image])
    return []


def mirror(s):
    """The whole disk, or what its own image has over the one below."""
    rng = s.rng
    sync = "top" if len(s.chain) > 1 and rng.random() < 0.4 else "full"
    want = rng.choice(["done", "done", "soft", "cancel"])
    rest = s.chain[1:] if sync == "top" else []
    image = target(s, rest[0] if rest else None)
    if not rest:
        old_content(s, image)
    if rest:
        node = s.add(image, backing=s.node_of(rest[0]))
    else:
        node = s.add(image)
    return finish_mirror(s, image, rest, want, "blockdev-mirror", target=node, sync=sync,
                         **mirror_arguments(s))


def drive_mirror(s):
    """The same into a file that the daemon makes or opens."""
    rng = s.rng
    sync = "top" if len(s.chain) > 1 and rng.random() < 0.4 else "full"
    existing = sync == "full" and rng.random() < 0.4
    rest = s.chain[1:] if sync == "top" else []
    fmt = "qcow2" if rest else rng.choice(["qcow2", "qcow2", "raw"])
    image = Image(s.path(s.new("d")), fmt, s.chain[0].size, rest[0].path if rest else None)
    if existing:
        s.create(image)
        old_content(s, image)
    args = mirror_arguments(s)
    del args["filter_node_name"]
    node = s.new("n")
    args.update(target=image.path, format=fmt, sync=sync, unmap=rng.choice([None, True, False]),
                mode="existing" if existing else rng.choice([None, "absolute-paths"]))
    how = Job(s, "drive-mirror", rng.choice(["done", "soft", "cancel"]),
              lambda: is_model(s, image), device=DISK, node_name=node, **args).end()
    if how == "done":
        s.chain = [image] + rest
        return [image]
    s.remove([image])
    return []


def mirror_none(s):
    """What is written from now on, into an image that has the rest."""
    image = target(s)
    s.guest.hold()
    try:
        write_all(s, image, s.guest.model.get)
        node = s.add(image)
        job = Job(s, "blockdev-mirror", s.rng.choice(["done", "soft", "cancel"]),
                  lambda: is_model(s, image), device=DISK, target=node, sync="none",
                  **mirror_arguments(s))
    finally:
        s.guest.release()
    if job.end() == "done":
        s.chain = [image]
        return [image]
    s.drop_nodes(keep=s.chain)
    s.remove([image])
    return []


def start_backup(s, image, sync, want, quiet):
    """(job, what the target must hold, what else may be in places)"""
    node = s.add(image)
    model = s.guest.model
    if quiet:
        s.guest.hold()
    frozen = model.freeze()
    try:
        job = Job(s, "blockdev-backup", want, device=DISK, target=node, sync=sync,
                  on_source_error=s.rng.choice([None, "stop"]),
                  on_target_error=s.rng.choice([None, "stop"]), x_force=True)
    finally:
        window = model.thaw()
        if quiet:
            s.guest.release()
    return job, frozen, [] if quiet else window


def holds(s, image, frozen, window):
    raw = s.path("flat")
    s.flat(image, raw)
    oracle.check(raw, frozen, window, "the backup " + image.path)
    os.unlink(raw)


def backup(s):
    """All of it, or what the disk's image has, into an image above the one below."""
    below = s.chain[1] if len(s.chain) > 1 and s.rng.random() < 0.4 else None
    image = target(s, below)
    if not below:
        old_content(s, image)
    job, frozen, window = start_backup(s, image, "top" if below else "full",
                                       s.rng.choice(["done", "done", "cancel"]),
                                       s.rng.random() < 0.5)
    how = job.end()
    if how == "done" and s.rng.random() < 0.3:
        s.command("block-export-add", type="dm", id="bk", node_name=s.node_of(image), name="bk",
                  writable=False)
        oracle.check("/dev/mapper/bk", frozen, window, "the backup's own disk")
        s.command("block-export-del", id="bk")
    s.drop_nodes(keep=s.chain)
    if how == "done":
        holds(s, image, frozen, window)
    s.remove([image])
    return []


def backup_none(s):
    """Only what a guest overwrites is saved, until somebody ends it: the rest is what it was."""
    image = target(s)
    write_all(s, image, lambda _, nr: GARBAGE * nr)
    s.guest.hold()
    try:
        job, frozen, _ = start_backup(s, image, "none", "still", False)
    finally:
        s.guest.release()

    def saved():
        raw, model = s.path("flat"), s.guest.model
        s.flat(image, raw)
        # what the disk still holds need not have been saved
        window = [(i, 1, GARBAGE) for i in range(model.sectors())
                  if model.get(i, 1) == frozen[i * 512:(i + 1) * 512]]
        oracle.check(raw, frozen, window, "what was saved in " + image.path)
        os.unlink(raw)
    job.on_soft = saved
    job.end()
    s.drop_nodes(keep=s.chain)
    s.remove([image])
    return []


def fleece(s):
    """Read through copy-before-write while the guest goes on."""
    image = target(s)
    tmp, cbw, snap = s.add(image), s.new("c"), s.new("a")
    s.guest.hold()
    frozen = s.guest.model.freeze()
    s.guest.model.thaw()
    try:
        s.command("blockdev-add", driver="copy-before-write", node_name=cbw, target=tmp,
                  file=s.node_of(s.chain[0]), on_cbw_error=s.rng.choice(
                      [None, "break-snapshot", "break-guest-write"]))
    finally:
        s.guest.release()
    s.command("blockdev-add", driver="snapshot-access", node_name=snap, file=cbw)
    s.command("block-export-add", type="dm", id="fl", node_name=snap, name="fl", writable=False)
    for _ in range(2):
        oracle.check("/dev/mapper/fl", frozen, [], "what is read of the past")
        time.sleep(s.rng.random())
    s.command("block-export-del", id="fl")
    s.command("blockdev-del", node_name=snap)
    s.command("blockdev-del", node_name=cbw)
    s.drop_nodes(keep=s.chain)
    s.remove([image])
    return []


# What makes a chain one image long is rare: stream and commit need long ones.
OPS = {
    "snapshot": (snapshot, 6),
    "overlay": (overlay, 4),
    "stream": (stream, 10),
    "commit": (commit, 12),
    "mirror": (mirror, 3),
    "drive-mirror": (drive_mirror, 2),
    "mirror none": (mirror_none, 1),
    "backup": (backup, 3),
    "backup none": (backup_none, 2),
    "fleecing": (fleece, 1),
}
