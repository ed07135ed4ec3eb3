# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations of stress.py that change a disk's chain: block-stream, block-commit, blockdev-mirror.

Each runs its job to the end, under the guest's load, while the daemon is killed and quits.
"""
import time

import stress_world
from stress_world import Refused, Wrong


# What a job may fail with when the daemon has been killed.
OF_DEATH = "lost the job", "the daemon ended while it"


def chain_now(d):
    """The files of the disk's images, top first, as the daemon has them."""
    for x in d.client.ask("query-block"):
        if x["device"] == d.name:
            image, out = x["inserted"]["image"], []
            while image:
                out.append(image["filename"])
                image = image.get("backing-image")
            return out
    raise Wrong("%s is not in query-block" % d.name)


def job_now(d, name):
    for j in d.client.ask("query-jobs"):
        if j["id"] == name:
            return j
    return None


def tried(d, done, verb, **arguments):
    """A verb that may come too late, or too early."""
    try:
        d.client.sure(done, verb, **arguments)
    except Refused:
        pass


def follow(d, name, quits):
    """Until it has ended: the error, or None. A quit takes it away."""
    end = time.monotonic() + stress_world.PATIENCE
    while True:
        now = job_now(d, name)
        if not now:
            if d.daemon.quits == quits:
                raise Wrong("the job %s is gone" % name)
            return "quit"
        if now["status"] == "concluded":
            tried(d, lambda: job_now(d, name) is None, "job-dismiss", id=name)
            return now.get("error")
        if now["status"] == "ready" and d.rng.random() < 0.5:
            tried(d, lambda: (job_now(d, name) or {}).get("status") != "ready", "job-complete", id=name)
        if time.monotonic() > end:
            raise Wrong("the job %s does not end: %s" % (name, now))
        time.sleep(0.1)


def chain_job(d, verb, after, **arguments):
    """@after: the chain once it is done; if the daemon ended meanwhile it may be what it was."""
    d.serial += 1
    name, before = "%s-c%d" % (d.name, d.serial), list(d.chain)
    kills, quits = d.daemon.kills, d.daemon.quits
    d.client.sure(lambda: job_now(d, name) or d.daemon.quits != quits, verb, job_id=name,
                  auto_dismiss=False, **arguments)
    error = follow(d, name, quits)
    if error and error != "quit" and (d.daemon.kills == kills or not any(w in error for w in OF_DEATH)):
        raise Wrong("%s: %s" % (verb, error))
    now = chain_now(d)
    if now == [path for path, _ in after]:
        d.gone += [image for image in before if image not in after]
        d.chain = after
    elif now != [path for path, _ in before] or not error:
        raise Wrong("after %s, %s: the chain is %s instead of %s" % (verb, error, now, after))
    d.counts[verb + (" cut short" if error else "")] += 1


def drop_left(d):
    """Our nodes of images that have left the chain, newest first: nothing is committed into what is below one."""
    files = {n["node-name"]: n["file"] for n in d.client.ask("query-named-block-nodes", flat=True)}
    now = {path for path, _ in d.chain}
    for node in d.own_nodes():
        if node.split("-")[1][0] in "omn" and files.get(node, d.chain[0][0]) not in now:
            d.delete(node)


def stream(d):
    """What is between the top and a base, or all, goes into the top."""
    if d.job or len(d.chain) < 2:
        return False
    base = d.rng.randrange(2, len(d.chain) + 1)
    more = {"base": d.chain[base][0]} if base < len(d.chain) else {}
    chain_job(d, "block-stream", d.chain[:1] + d.chain[base:], device=d.top()[0], **more)
    drop_left(d)
    return None


def commit(d):
    """Images below the active one go into one further below."""
    if d.job or len(d.chain) < 3:
        return False
    top, base = sorted(d.rng.sample(range(1, len(d.chain)), 2))
    return chain_job(d, "block-commit", d.chain[:top] + d.chain[base:], device=d.top()[0],
                     top=d.chain[top][0], base=d.chain[base][0])


def commit_active(d):
    """The active image, and those below it, go into another."""
    if d.job or len(d.chain) < 2:
        return False
    base = d.rng.randrange(1, len(d.chain))
    if d.chain[base][1] != "qcow2":     # the disk's top() is a qcow2 image, as snapshots need it
        return False
    return chain_job(d, "block-commit", d.chain[base:], device=d.top()[0], base=d.chain[base][0])


def mirror(d):
    """All of it goes to another place."""
    if d.job:
        return False
    path = d.image("m")
    d.create(path)
    node = "%s-m%d" % (d.name, d.serial)
    d.add(node, "qcow2", path)
    chain_job(d, "blockdev-mirror", [(path, "qcow2")], device=d.top()[0], target=node, sync="full")
    if d.chain[0][0] != path:
        d.delete(node)
        d.gone.append((path, "qcow2"))


OPS = {
    "stream": (stream, 2),
    "commit": (commit, 2),
    "active commit": (commit_active, 2),
    "mirror": (mirror, 2),
}
