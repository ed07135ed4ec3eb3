# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations that record.py records.

An operation is a function that takes the recorder, named in OPS: it says what may be found from now on
(during), does its work, and says what must be found once it is done (now). The
keys of such a "world": chain and alt (image names, top first; alt: the chain that is about
to be: if its headers say so, or with pivot, if the daemon's state does), made (images that exist),
making (ours, may be half made), settled (nobody writes them: no leaks), copies (backups: between
which two events they began).
"""
import time


def op_write(r):
    r.let_work(300)


def op_discard(r):
    r.tell(b"d")


def snapshot(r, command, new, **args):
    chain = r.chain
    r.during(alt=[new] + chain, making=[new] if new not in r.made else [])
    r.daemon.do(command, **args)
    r.now(chain=[new] + chain, made=r.made + [new], settled=r.settled(chain[:1], [new]))


def op_snapshot(r):
    """False: there was no image left for it."""
    if not r.room(3):
        return False
    new = r.free.pop(0)
    snapshot(r, "blockdev-snapshot-sync", new, device="vm1", snapshot_file=r.path(new),
             snapshot_node_name=new)


def op_snapshot_existing(r):
    """Onto an overlay that the user has made, with clusters of any size."""
    if not r.room(3):
        return False
    new = r.free.pop(0)
    r.create(new, *r.over(r.chain[0]))
    r.daemon.do("blockdev-add", driver="qcow2", node_name=new, backing=None, file={
        "driver": "host_device" if r.path(new).startswith("/dev/") else "file",
        "filename": r.path(new)})
    snapshot(r, "blockdev-snapshot", new, node="vm1", overlay=new)


def op_backup(r, cancel=False):
    if r.old:  # the target before last makes room
        r.recycle()
    target, r.jobs = r.free.pop(0), r.jobs + 1
    r.create(target)
    r.during(made=r.made + [target])
    r.daemon.add(target, r.images[target])
    job, before = "j%d" % r.jobs, r.events()
    r.daemon.do("blockdev-backup", device="vm1", target=target, sync="full", job_id=job,
                **({"speed": 1 << 16} if cancel else {}))
    copy = {} if cancel else {target: [before, r.events()]}
    if cancel:
        r.daemon.do("block-job-cancel", device=job)
    name = "BLOCK_JOB_CANCELLED" if cancel else "BLOCK_JOB_COMPLETED"
    r.daemon.wait_event(lambda e: e["event"] == name and e["data"]["device"] == job, job)
    r.now(copies={**r.worlds[-1]["copies"], **copy})
    r.daemon.do("blockdev-del", node_name=target)
    r.now(settled=r.settled([target]))
    r.old.append(target)


def op_transaction(r):
    """A snapshot and a drive-backup of the same disk at one moment; the target is made here."""
    if not r.room(4):
        return False
    new, chain, target, r.jobs = r.free.pop(0), r.chain, r.free.pop(0), r.jobs + 1
    job, before = "j%d" % r.jobs, r.events()
    r.during(alt=[new] + chain, making=[new, target])
    r.daemon.do("transaction", actions=[
        {"type": "blockdev-snapshot-sync", "data": {
            "device": "vm1", "snapshot-file": r.path(new), "snapshot-node-name": new}},
        {"type": "drive-backup", "data": {
            "device": "vm1", "target": r.path(target), "format": "qcow2", "sync": "full", "job-id": job}}])
    copy = {target: [before, r.events()]}
    r.now(chain=[new] + chain, made=r.made + [new, target], settled=r.settled(chain[:1], [new]))
    r.during()
    r.daemon.wait_event(lambda e: e["event"] == "BLOCK_JOB_COMPLETED" and e["data"]["device"] == job, job)
    r.now(copies={**r.worlds[-1]["copies"], **copy}, settled=r.settled([target]))
    r.old.append(target)


def op_cancel(r):
    op_backup(r, True)


def op_detach_attach(r):
    r.tell(b"p")
    r.during()
    r.detach()
    for name in r.chain:
        node = r.node(name)
        if node:
            r.daemon.do("blockdev-del", node_name=node)
    r.now(settled=r.settled(r.chain))
    r.during(settled=r.settled(less=r.chain[:1]))
    r.attach()
    r.now()
    r.tell(b"r")


def op_restart(r):
    """SIGKILL and a new daemon, while the guest works."""
    r.during()
    r.daemon.kill()
    until, end = r.events() + 10, time.monotonic() + 1
    while r.events() < until and time.monotonic() < end: # it may have to wait for space
        time.sleep(.05)
    r.daemon.start()
    r.now()


def op_killed_snapshot(r):
    """SIGKILL amid a snapshot: the new daemon says whether it was made."""
    if not r.room(3):
        return False
    new, chain = r.free.pop(0), r.chain
    r.during(alt=[new] + chain, making=[new])
    r.daemon.only_send("blockdev-snapshot-sync", device="vm1", snapshot_file=r.path(new),
                       snapshot_node_name=new)
    time.sleep(r.rng.random() * r.rng.choice((.05, .2, .8)))
    r.daemon.kill()
    r.daemon.start()
    top = r.top()
    if top == new:
        r.now(chain=[new] + chain, made=r.made + [new], settled=r.settled(chain[:1], [new]))
    elif top == chain[0]:
        r.now()
    else:
        raise RuntimeError("the disk's node is %s, neither %s nor %s" % (top, new, chain[0]))
    r.counts["... which was made"] = r.counts.get("... which was made", 0) + (top == new)


# --- jobs that change the chain -----------------------------------------------------------

def deepen(r, least):
    """The chain has as many images at least."""
    while len(r.chain) < least:
        if op_snapshot(r) is False:
            return False
        r.let_work(60)
    return True


def begin_job(r, command, **args):
    """In every other one the guest rests from here until it has ended: no flush of its comes between."""
    r.rests = r.rng.random() < .5
    if r.rests:
        r.tell(b"p")
    r.jobs += 1
    job = "j%d" % r.jobs
    r.daemon.do(command, job_id=job, **args)
    return job


def get_ready(r, job):
    r.daemon.wait_job("BLOCK_JOB_READY", job)
    if not r.rests:
        r.let_work(80)


def go_on(r):
    if r.rests:
        r.tell(b"r")


def pivot(r, job, chain):
    """The disk goes on as what the job has made equal to it; what it was is given up."""
    gone = [n for n in r.chain if n not in chain]
    r.during(alt=chain, pivot=True)
    r.daemon.do("block-job-complete", device=job)
    r.daemon.wait_job("BLOCK_JOB_COMPLETED", job)
    r.now(chain=chain, settled=r.settled(gone, chain[:1]))
    go_on(r)
    r.give_up(gone)


def start_mirror(r, sync):
    """(job, target): ready. The target is new, or what was the base once."""
    again = sync == "full" and "a" not in r.chain and r.images["a"]["format"] == "raw" and r.rng.random() < .5
    target = "a" if again else r.free.pop(0)
    r.during(making=[target], copies=r.copies(target))
    job = begin_job(r, "drive-mirror", device="vm1", target=r.path(target), sync=sync,
                    format=r.images[target]["format"], mode="existing" if again else "absolute-paths",
                    copy_mode=r.rng.choice(("background", "write-blocking")),
                    **({"x_force": True} if again else {}))
    r.during(made=sorted(set(r.made) | {target}))
    get_ready(r, job)
    return job, target


def op_mirror(r, sync="full"):
    if not r.room(3):
        return False
    job, target = start_mirror(r, sync)
    pivot(r, job, [target] + (r.chain[1:] if sync == "top" else []))


def op_mirror_top(r):
    return op_mirror(r, "top") if deepen(r, 2) else False


def op_mirror_cancel(r):
    """Ready, then cancelled: the disk as it was at that moment."""
    if not r.room(3):
        return False
    job, target = start_mirror(r, "full")
    before = r.events()
    r.during()
    r.daemon.do("block-job-cancel", device=job)
    r.daemon.wait_job("BLOCK_JOB_COMPLETED", job)
    r.now(copies={**r.worlds[-1]["copies"], target: [before, r.events()]}, settled=r.settled([target]))
    go_on(r)
    r.give_up([target])


def op_commit_active(r):
    if not deepen(r, 2):
        return False
    at = r.rng.randrange(1, len(r.chain))
    base = r.chain[at]
    r.during(settled=r.settled(less=[base]))
    job = begin_job(r, "block-commit", device="vm1", base=r.path(base))
    get_ready(r, job)
    pivot(r, job, r.chain[at:])


def shorten(r, first, end, writes, command, **args):
    """A job by which the images of the chain from number first to before end leave it, which writes some others."""
    gone, chain = r.chain[first:end], r.chain[:first] + r.chain[end:]
    ask = r.rng.random() < .7
    r.during(alt=None if ask else chain, settled=r.settled(less=writes))
    job = begin_job(r, command, auto_finalize=not ask, **args)
    if ask:
        r.daemon.wait_job("BLOCK_JOB_PENDING", job)
        r.during(alt=chain)
        r.daemon.do("job-finalize", id=job)
    r.daemon.wait_job("BLOCK_JOB_COMPLETED", job)
    r.now(chain=chain, settled=r.settled(gone + [n for n in writes if n not in (chain[0], "a")]))
    go_on(r)
    r.give_up(gone)


def op_commit(r):
    """Images below the active one, into one further below."""
    if not deepen(r, 3):
        return False
    at = r.rng.randrange(2, len(r.chain))
    first = r.rng.randrange(1, at)
    return shorten(r, first, at, [r.chain[first - 1], r.chain[at]], "block-commit", device="vm1",
                   top=r.path(r.chain[first]), base=r.path(r.chain[at]))


def stream(r, into, end):
    top = r.chain[into]
    return shorten(r, into + 1, end, [top], "block-stream", device=r.node(top),
                   **({"base": r.path(r.chain[end])} if end < len(r.chain) else {}))


def op_stream(r):
    if not deepen(r, 2):
        return False
    return stream(r, 0, len(r.chain))


def op_stream_base(r):
    if not deepen(r, 3):
        return False
    return stream(r, 0, r.rng.randrange(2, len(r.chain)))


def op_stream_below(r):
    """Into an image that is not the active one."""
    if not deepen(r, 4):
        return False
    into = r.rng.randrange(1, len(r.chain) - 2)
    return stream(r, into, r.rng.randrange(into + 2, len(r.chain) + 1))


OPS = {
    "write": op_write,
    "discard": op_discard,
    "snapshot": op_snapshot,
    "snapshot onto an existing overlay": op_snapshot_existing,
    "backup": op_backup,
    "cancelled backup": op_cancel,
    "transaction": op_transaction,
    "detach, attach": op_detach_attach,
    "daemon restart": op_restart,
    "killed snapshot": op_killed_snapshot,
    "mirror": op_mirror,
    "mirror of the top": op_mirror_top,
    "cancelled mirror": op_mirror_cancel,
    "active commit": op_commit_active,
    "commit": op_commit,
    "stream": op_stream,
    "stream to a base": op_stream_base,
    "stream below": op_stream_below,
}
