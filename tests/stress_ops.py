# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of stress.py on one disk: snapshots, backups and what is done to them, device-mapper by hand.

Each is a function of a Disk; it returns False where it does not apply.
"""
import errno
import time

import dmio
import stress_chain
import stress_world
from stress_world import DISK, MIB, Refused, Wrong, compare, read_image, tool, until


# --- operations: snapshots ---

def snapshot(d):
    """The daemon makes the overlay. (Not during a backup: its source is busy then, as in QEMU.)"""
    if d.job:
        return False
    path = d.image("i")
    d.client.sure(lambda: d.top()[1] == path, "blockdev-snapshot-sync", device=d.name,
                  snapshot_file=path, snapshot_node_name="%s-s%d" % (d.name, d.serial))
    d.chain.insert(0, (path, "qcow2"))


def overlay(d):
    """The user has made it, with clusters of any size."""
    if d.job:
        return False
    path, node = d.image("i"), "%s-o%d" % (d.name, d.serial)
    d.create(path, "-b", d.chain[0][0], "-F", d.chain[0][1])
    d.add(node, "qcow2", path, backing=None)
    d.client.sure(lambda: d.export()["node-name"] == node, "blockdev-snapshot",
                  node=d.top()[0], overlay=node)
    d.chain.insert(0, (path, "qcow2"))


# --- operations: backup ---

class Job:
    def __init__(self, d, quiet):
        d.serial += 1
        self.id, self.node = "%s-j%d" % (d.name, d.serial), "%s-t%d" % (d.name, d.serial)
        self.quiet, self.cancelled, self.answered = quiet, False, False
        self.driver = d.rng.choice(["qcow2", "qcow2", "raw"])
        self.path = d.image("t", DISK if self.driver == "raw" else None)
        self.window, self.want = [], None
        self.quits = d.daemon.quits


def backup(d, quiet=False):
    if d.job:
        return False
    job = Job(d, quiet)
    if job.driver == "qcow2":
        d.create(job.path)
    d.add(job.node, job.driver, job.path)

    def start():
        job.answered = d.client.sure(
            lambda: job_now(d, job) is not None, "blockdev-backup", device=d.name, target=job.node,
            sync="full", job_id=job.id, auto_dismiss=False,
            speed=d.rng.choice([0, MIB, 2 * MIB, 8 * MIB]))

    d.job = job
    if quiet:
        try:
            job.want = d.guest.hold()
            start()
        finally:
            d.guest.release()
    else:
        job.want = d.guest.model.freeze()[:DISK // 2]
        try:
            start()
        finally:
            job.window = d.guest.model.thaw()


def backup_quiet(d):
    """Of a moment at which nothing is in flight: all of its content is known."""
    return backup(d, True)


def job_now(d, job):
    for j in d.client.ask("query-jobs"):
        if j["id"] == job.id:
            return j
    return None


def look_at_job(d):
    """Has it ended? Then its image is looked at and taken away."""
    job = d.job
    if not job:
        return
    now, quits = job_now(d, job), d.daemon.quits
    if now and now["status"] != "concluded":
        return
    if not now and quits == job.quits:
        raise Wrong("the job %s is gone" % job.id)
    error = now.get("error") if now else "quit"
    if error and not (job.cancelled or error == "quit" or
                      "lost the job" in error and not job.answered):
        raise Wrong("the job %s: %s" % (job.id, error))
    if now:
        try:
            d.client.sure(lambda: job_now(d, job) is None, "job-dismiss", id=job.id)
        except Refused:
            if d.daemon.quits == job.quits:     # else it went with a daemon
                raise
    d.delete(job.node)
    d.job = None
    if job.driver == "qcow2":
        tool("qemu-img", "check", job.path)
    if error:
        d.counts["backups cut short"] += 1
    else:
        compare(read_image(job.path, job.driver, d.runner.args.work), job.want, job.window,
                "the %sbackup (%s) %s" % ("quiet " if job.quiet else "", job.driver, job.path))
        d.counts["backups compared"] += 1
    d.store.free(job.path)


def job_verb(d, verb, **arguments):
    """It may have ended, or be paused, before the verb comes."""
    job = d.job
    before = job_now(d, job)
    if not before or before["status"] == "concluded":
        return
    try:
        d.client.sure(lambda: job_now(d, job) != before, verb, **arguments)
    except Refused:
        now = job_now(d, job)
        if now and now["status"] == before["status"]:
            raise


def job_pause(d):
    now = d.job and job_now(d, d.job)
    if not now or now["status"] not in ("running", "paused"):
        return False
    job_verb(d, "job-pause" if now["status"] == "running" else "job-resume", id=d.job.id)


def job_speed(d):
    if not d.job:
        return False
    now = job_now(d, d.job)
    if not now or now["status"] == "concluded":
        return False
    job_verb(d, "block-job-set-speed", device=d.job.id, speed=d.rng.choice([0, MIB, 16 * MIB]))


def job_cancel(d):
    if not d.job or d.rng.random() < 0.5:
        return False
    now = job_now(d, d.job)
    if not now or now["status"] == "concluded":
        return False
    d.job.cancelled = True
    job_verb(d, "block-job-cancel", device=d.job.id, force=True)


def end_job(d):
    """Lets a job that is under way come to its end."""
    end = time.monotonic() + stress_world.PATIENCE
    while d.job:
        now = job_now(d, d.job)
        if now and now["status"] == "paused":
            job_verb(d, "job-resume", id=d.job.id)
        elif now and now["status"] == "running":
            job_verb(d, "block-job-set-speed", device=d.job.id, speed=0)
        if time.monotonic() > end:
            raise Wrong("the job %s does not end: %s" % (d.job.id, now))
        time.sleep(0.1)
        look_at_job(d)


# --- operations: device-mapper ---

def mapped(d):
    dm = dmio.Dm.__new__(dmio.Dm)
    dm.name, dm.path = d.name, d.device
    return dm


def persist(what):
    """Of two who suspend, or resume, at the same time one is told EINVAL."""
    def done():
        try:
            what()
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            return False
        return True
    until(done, "a suspend or resume by hand", nap=0.01)


def suspend(d):
    """By hand, as LVM or an administrator does."""
    dm, noflush = mapped(d), d.rng.random() < 0.5
    persist(lambda: dm.suspend(noflush=noflush))
    try:
        time.sleep(d.rng.random() * 0.4)
    finally:
        persist(dm.resume)


def reload(d):
    """The same table again. (Not while the daemon may do so: who loads last wins.)"""
    if d.job:
        return False
    dm = mapped(d)
    dm.load([(0, DISK // 512, "livechain", dm.table())])
    if d.rng.random() < 0.3:
        dm.clear()
    elif d.rng.random() < 0.5:
        persist(dm.suspend)
    persist(dm.resume)


def idle(d):
    time.sleep(d.rng.random())


OPS = {     # name: (function, weight)
    "snapshot": (snapshot, 3),
    "overlay": (overlay, 3),
    "backup": (backup, 3),
    "quiet backup": (backup_quiet, 3),
    "pause, resume": (job_pause, 4),
    "speed": (job_speed, 3),
    "cancel": (job_cancel, 1),
    "suspend": (suspend, 4),
    "reload": (reload, 4),
    "idle": (idle, 2),
    "detach, attach": (None, 1),    # ends an attachment: live()
    **stress_chain.OPS,
}
