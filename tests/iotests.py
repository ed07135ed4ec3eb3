#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU's own tests of block jobs look at, asked of our daemon (or of QEMU, to see that it is right).

iotests.py [--qemu] [--only REGEX] [--list] SOCKET DIR

SOCKET is the daemon's; with --qemu one is started for each scenario, at that path. DIR is for images. A scenario is a
function "section_what" of iotests_*.py: it sets up images and a disk, sends requests, and says what it wanted and did not
get. Prints TAP: one line for each. The disk "drive0" is a device-mapper device, or a virtio disk of QEMU's.
"""
import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import traceback

import qmp

TIMEOUT = 120


def run(*argv, check=True):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and p.returncode:
        raise AssertionError("%s: %s" % (" ".join(argv), p.stdout))
    return p.stdout


def copy(source, dest):
    """Holes stay holes."""
    with open(source, "rb") as a, open(dest, "wb") as b:
        while chunk := a.read(1 << 20):
            if chunk.count(0) != len(chunk):
                b.seek(a.tell() - len(chunk))
                b.write(chunk)
        b.truncate(a.tell())


def file_node(path, node=None):
    opts = {"driver": "file", "filename": path}
    if node:
        opts["node-name"] = node
    return opts


def chain_options(chain):
    """chain: (file, format, node) from the top down; a node None has no name; format "file": nothing above the file."""
    path, fmt, node = chain[0]
    if fmt == "file":
        return file_node(path, node)
    opts = {"driver": fmt, "file": file_node(path)}
    if node:
        opts["node-name"] = node
    if len(chain) > 1:
        opts["backing"] = chain_options(chain[1:])
    elif fmt == "qcow2":
        opts["backing"] = None
    return opts


def flat(opts, prefix=""):
    out = []
    for key, value in opts.items():
        if isinstance(value, dict):
            out += flat(value, prefix + key + ".")
        elif value is None:
            continue # headers without a backing file
        else:
            out.append("%s%s=%s" % (prefix, key, value))
    return out


class World:
    """A server, its events, a folder. What is not as wanted is in .wrong."""

    def __init__(self, args):
        self.sock, self.dir, self.real = args.socket, args.dir, args.qemu
        self.wrong, self.events, self.client, self.proc = [], [], None, None

    # --- begin and end of a scenario ------------------------------------------------------------

    def begin(self):
        self.wrong, self.events, self.seen = [], [], 0
        for name in os.listdir(self.dir):
            if name.startswith("i-"):
                os.unlink(self.path(name))
        if self.real:
            if os.path.exists(self.sock):
                os.unlink(self.sock)
            self.proc = subprocess.Popen(
                ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-accel", "tcg", "-machine", "pc",
                 "-qmp", "unix:%s,server=on,wait=off" % self.sock])
            while not os.path.exists(self.sock):
                time.sleep(0.02)
        self.client = qmp.Client(self.sock, self.events.append)
        self.client.negotiate()

    def end(self):
        if self.real:
            self.ask("quit")
            self.proc.wait()
            return
        for job in self.ask("query-block-jobs")["return"]:
            self.ask("block-job-cancel", device=job["device"], force=True)
        for job in self.ask("query-jobs")["return"]:
            self.wait_gone(job["id"]) if job["status"] != "concluded" else self.ask("job-dismiss", id=job["id"])
        for export in self.ask("query-block-exports")["return"]:
            self.ok("block-export-del", id=export["id"])
        self.drop_nodes()
        self.client.sock.close()

    def drop_nodes(self):
        nodes = {n["node-name"] for n in self.ask("query-named-block-nodes", flat=True)["return"]}
        while True:
            gone = [n for n in nodes if n[0] != "#" and "return" in self.ask("blockdev-del", node_name=n)]
            nodes = {n["node-name"] for n in self.ask("query-named-block-nodes", flat=True)["return"]}
            if not gone:
                break
        self.eq(sorted(nodes), [], "no node is left")

    # --- asking ------------------------------------------------------------------------------------

    def ask(self, command, **args):
        """Underscores are dashes; a value None is JSON's null."""
        args = {k.replace("_", "-"): v for k, v in args.items()}
        text = json.dumps({"execute": command, "arguments": args} if args else {"execute": command})
        reply = self.client.command(text)
        self.client.drain()
        self.last = text
        return reply

    def ok(self, command, **args):
        reply = self.ask(command, **args)
        if "return" not in reply:
            self.wrong.append("%s: %s" % (self.last, reply["error"]["desc"]))
        return reply.get("return")

    def refused(self, desc, command, cls="GenericError", **args):
        """desc: the sentence, or a pattern that it has to match from end to end."""
        reply = self.ask(command, **args)
        error = reply.get("error")
        if not error:
            self.wrong.append("%s: done, not refused (%s)" % (self.last, desc))
        elif error["class"] != cls or (error["desc"] != desc and not re.fullmatch(desc, error["desc"])):
            self.wrong.append("%s: %s '%s', wanted %s '%s'" % (self.last, error["class"], error["desc"], cls, desc))

    def need(self, command, **args):
        """A request without which the rest makes no sense."""
        reply = self.ask(command, **args)
        if "return" not in reply:
            raise AssertionError("%s: %s" % (self.last, reply["error"]["desc"]))
        return reply["return"]

    def eq(self, got, wanted, text):
        if got != wanted:
            self.wrong.append("%s: %r, wanted %r" % (text, got, wanted))
        return got == wanted

    def holds(self, cond, text):
        if not cond:
            self.wrong.append(text)

    # --- events ------------------------------------------------------------------------------------

    def wait(self, name, **match):
        """The next event of that name with these data, from behind the last one that was waited for."""
        until = time.time() + TIMEOUT
        while True:
            for i in range(self.seen, len(self.events)):
                event = self.events[i]
                data = event.get("data", {})
                if event["event"] == name and all(data.get(k.replace("_", "-")) == v for k, v in match.items()):
                    self.seen = i + 1
                    return data
            self.client.sock.settimeout(max(0.1, until - time.time()))
            try:
                self.client.take_events()
            except TimeoutError:
                raise AssertionError("no %s %s: %s" % (name, match, self.story())) from None
            finally:
                self.client.sock.settimeout(TIMEOUT)

    def forget(self):
        self.events.clear()
        self.seen = 0

    def wait_gone(self, job):
        return self.wait("JOB_STATUS_CHANGE", id=job, status="null")

    def story(self, job=None):
        """What was said of a job, in order: "created running ... COMPLETED concluded null"."""
        out = []
        for event in self.events:
            data = event.get("data", {})
            if job not in (None, data.get("id"), data.get("device")):
                continue
            if event["event"] == "JOB_STATUS_CHANGE":
                out.append(data["status"])
            elif event["event"].startswith("BLOCK_JOB_"):
                out.append(event["event"][10:])
        return " ".join(out)

    def completed(self, job="drive0", kind=None, error=None, length=None, same=True):
        """The job ends by itself; its last event says how."""
        data = self.wait("BLOCK_JOB_COMPLETED", device=job)
        self.eq(data.get("error"), error, "error of '%s'" % job)
        if kind:
            self.eq(data["type"], kind, "type of '%s'" % job)
        if length is not None:
            self.eq(data["len"], length, "len of '%s'" % job)
        if same:
            self.eq(data["offset"], data["len"], "offset of '%s'" % job)
        self.no_job(job)
        return data

    def no_job(self, job="drive0"):
        self.wait_gone(job)
        self.eq(self.ask("query-block-jobs")["return"], [], "query-block-jobs") if job == "drive0" else None

    def job(self, name="drive0"):
        for job in self.ask("query-block-jobs")["return"]:
            if job["device"] == name:
                return job
        raise AssertionError("no job '%s': %s" % (name, self.story()))

    def cancelled(self, job="drive0", kind=None, **args):
        self.ok("block-job-cancel", device=job, **args)
        data = self.wait("BLOCK_JOB_CANCELLED", device=job)
        if kind:
            self.eq(data["type"], kind, "type of '%s'" % job)
        self.no_job(job)
        return data

    def ready(self, job="drive0"):
        return self.wait("BLOCK_JOB_READY", device=job)

    def complete(self, job="drive0", kind=None, wait_ready=True):
        if wait_ready:
            self.ready(job)
        self.ok("block-job-complete", device=job)
        return self.completed(job, kind)

    # --- images, disks, I/O ----------------------------------------------------------------------------

    def path(self, name):
        return os.path.join(self.dir, name)

    def create(self, name, size=None, backing=None, fmt="qcow2", **opts):
        """Makes i-NAME; backing: (name, format). Its path."""
        argv = ["qemu-img", "create", "-q", "-f", fmt]
        if backing:
            argv += ["-b", self.path("i-" + backing[0]), "-F", backing[1]]
        if opts:
            argv += ["-o", ",".join("%s=%s" % (k, v) for k, v in opts.items())]
        path = self.path("i-" + name)
        # qemu-img is slow in an emulated machine: what was made once is copied.
        kept = self.path("k-" + hashlib.sha256(repr((argv, path, size)).encode()).hexdigest()[:16])
        if not os.path.exists(kept):
            run(*argv, path, *([str(size)] if size is not None else []))
            os.rename(path, kept)
        copy(kept, path)
        return path

    def fill(self, path, fmt, *commands):
        argv = ["qemu-io", "-f", fmt]
        for command in commands:
            argv += ["-c", command]
        out = run(*argv, path)
        self.holds("verification failed" not in out, "%s: %s" % (path, out))

    def map(self, path, fmt="qcow2", depth=False):
        """What is allocated in the image itself: (start, length) without the chain, neighbours joined."""
        out = []
        if self.real: # what QEMU has in its caches
            self.ask("human-monitor-command", command_line="qemu-io drive0 flush")
        for e in json.loads(run("qemu-img", "map", "-U", "-f", fmt, "--output=json", path)):
            if e["depth"] == 0 and (e["data"] or e.get("present", True)) and (fmt != "raw" or e["data"]):
                if out and sum(out[-1]) == e["start"]:
                    out[-1] = (out[-1][0], out[-1][1] + e["length"])
                else:
                    out.append((e["start"], e["length"]))
        return out

    def same(self, a, b, fa="qcow2", fb="qcow2"):
        out = run("qemu-img", "compare", "-U", "-f", fa, "-F", fb, a, b, check=False)
        self.holds("identical" in out, "compare %s %s: %s" % (a, b, out.strip()))

    def add(self, *chain):
        return self.need("blockdev-add", **chain_options(list(chain)))

    def disk(self, *chain, name="drive0"):
        """The chain as a guest's disk, writable."""
        if self.real:
            if len(chain) > 3 or chain[-1][1] == "file": # a monitor's line is short, its "file" is another
                self.add(*chain[1:])
                top = dict(chain_options(chain[:1]), backing=chain[1][2])
            else:
                top = chain_options(list(chain))
            opts = "if=none,id=%s,%s" % (name, ",".join(flat(top)))
            out = self.need("human-monitor-command", **{"command-line": "drive_add 0 " + opts})
            self.holds(out == "OK\r\n", out)
            self.need("device_add", driver="virtio-blk-pci", id="dev-" + name, drive=name, share_rw=True)
            return
        self.add(*chain)
        self.need("block-export-add", type="dm", id=name, name=name, node_name=chain[0][2], writable=True)

    def undisk(self, name="drive0"):
        if not self.real:
            self.ok("block-export-del", id=name)

    def write(self, pattern, offset, length, name="drive0"):
        """A guest's write."""
        if self.real:
            self.ok("human-monitor-command",
                    command_line="qemu-io %s \"write -P %d %d %d\"" % (name, pattern, offset, length))
            return
        fd = os.open("/dev/mapper/" + name, os.O_RDWR)
        os.pwrite(fd, bytes([pattern]) * length, offset)
        os.fsync(fd)
        os.close(fd)

    def reads(self, pattern, offset, length, name="drive0"):
        if self.real:
            return
        fd = os.open("/dev/mapper/" + name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        got = os.pread(fd, length, offset)
        os.close(fd)
        self.holds(got == bytes([pattern]) * length, "%d bytes at %d are not %#x" % (length, offset, pattern))

    def inserted(self, name="drive0"):
        for entry in self.ask("query-block")["return"]:
            if entry["device"] == name:
                return entry["inserted"]
        raise AssertionError("no disk %s" % name)

    def files(self, image):
        """The chain's files as an ImageInfo tells them."""
        out = []
        while image:
            out.append(image["filename"])
            image = image.get("backing-image")
        return out

    def chain_is(self, files, name="drive0"):
        self.eq(self.files(self.inserted(name)["image"]), files, "the disk's chain")

    def node(self, name):
        for node in self.ask("query-named-block-nodes")["return"]:
            if node["node-name"] == name:
                return node
        return None

    def backing_of(self, path):
        return json.loads(run("qemu-img", "info", "-U", "--output=json", path)).get("backing-filename")


def scenarios():
    import iotests_chain
    import iotests_copy
    import iotests_more
    import iotests_nodes
    for module in (iotests_chain, iotests_copy, iotests_nodes, iotests_more):
        for name, function in vars(module).items():
            if callable(function) and function.__doc__ and name.split("_")[0] in module.SECTIONS:
                yield name, function


def one(world, name, function, number):
    begun = time.time()
    try:
        world.begin()
        function(world)
    except (AssertionError, OSError, ValueError, KeyError, IndexError, TypeError) as e:
        where = traceback.extract_tb(e.__traceback__)[1]
        world.wrong.append("line %s: %s%s" % (where.lineno, "" if isinstance(e, AssertionError) else type(e).__name__ + " ", e))
    try:
        world.end()
    except (AssertionError, OSError, ValueError) as e:
        world.wrong.append("end: %s" % e)
    text = (function.__doc__ or name).split("\n")[0]
    print("%s %d - %s: %s (%.1f s)" % ("not ok" if world.wrong else "ok", number, name, text, time.time() - begun))
    for wrong in world.wrong:
        print("# %s" % wrong.strip().replace("\n", "\n# "))
    sys.stdout.flush()
    return not world.wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--qemu", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("socket", nargs="?")
    parser.add_argument("dir", nargs="?")
    args = parser.parse_args()
    chosen = [(n, f) for n, f in scenarios() if re.search(args.only, n)]
    if args.list:
        print("\n".join(n for n, _ in chosen))
        return 0
    print("1..%d" % len(chosen))
    world = World(args)
    good = [one(world, n, f, i + 1) for i, (n, f) in enumerate(chosen)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
