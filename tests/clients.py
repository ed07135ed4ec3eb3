#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of every kind on one QMP socket.

clients.py SOCKET KIND [--seed N] [--share S]     one kind, of KINDS; 1 is all of it
clients.py --native DAEMON [--seed N] [--share S] each kind, with a daemon of its own, as TAP

The last line says what was seen; status 0 if that is as it should be. --native needs no device-mapper; meanwhile
one client behaves well, and says how long it has waited. --share 1: 1 GiB of garbage; the default is a part.
"""
import argparse
import json
import multiprocessing
import os
import random
import resource
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import qmp


def connect(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(path)  # blocking: it waits while the queue of those who want in is full
    s.settimeout(120)
    return s


CLIENTS_MAX = 100       # the daemon's MONITOR_CLIENTS_MAX
MEMORY_MAX = 320        # MiB: MONITOR_HELD_MAX, and what is freed but not given back yet
WAIT_MAX = 5           # s, for the neighbour: two slow cores that others use too
MIB = 1 << 20
share = .04


def alive(path):
    """A well-behaved client is served at once."""
    start = time.monotonic()
    c = qmp.Client(path, lambda e: None)
    c.negotiate()
    assert "return" in c.command('{"execute": "query-version"}')
    c.sock.close()
    return time.monotonic() - start


def memory(path):
    """What the daemon has used at most, in MiB."""
    s = connect(path)
    pid = struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    s.close()
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) >> 10 for line in f if line.startswith("VmHWM"))


def many(path, rng):
    """As many as are let in, all at once, each with its own negotiation and its own ids."""
    clients = []
    for i in range(60):
        c = qmp.Client(path, lambda e: None)
        if i % 2:
            c.negotiate()
        clients.append(c)
    for i, c in enumerate(clients):
        c.sock.sendall(b'{"execute": "query-block-jobs", "id": %d}' % i)
    for i, c in enumerate(clients):
        reply = c.recv()
        assert reply["id"] == i, reply
        assert ("return" in reply) == bool(i % 2), reply
    more = []
    try:
        for _ in range(200):
            s = connect(path)
            if not s.recv(4096):
                break
            more.append(s)
    except OSError:
        pass
    assert len(more) < 200, "there is no limit to clients"
    for s in more:
        s.close()
    for c in clients:
        c.sock.close()
    # The places are free again once the daemon has seen the ends.
    for _ in range(500):
        try:
            return "60 at once, %d more were let in, then %.2f s" % (len(more), alive(path))
        except (OSError, ValueError):
            time.sleep(0.1)
    raise AssertionError("no place became free")


def garbage(path, rng):
    pieces = [b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b":", b",", b"\xff", b"\0", b"\n", b"1e9", b"-",
              b'"execute"', b'"arguments"', b'"query-block"', b'{"execute": "query-jobs"}', b"nul", b"true",
              b"\\ud800", b"{" * 40, b"[" * 600, os.urandom(50)]
    n = 0
    for _ in range(30):
        s = connect(path)
        try:
            for _ in range(40):
                s.sendall(b"".join(rng.choice(pieces) for _ in range(30)))
                n += 1
        except OSError:
            pass
        s.close()
    return "%d blocks of garbage, then %.2f s" % (n, alive(path))


def flood(path, rng):
    """Far more requests than it reads: answered in order, none lost, others are served between."""
    s = connect(path)
    count = 3000
    out = b'{"execute": "qmp_capabilities"}' + b"".join(
        b'{"execute": "query-version", "id": %d}' % i for i in range(count))
    sel = selectors.DefaultSelector()
    s.setblocking(False)
    sel.register(s, selectors.EVENT_READ | selectors.EVENT_WRITE)
    got, buf, sent, slowest = 0, b"", 0, 0
    end = time.monotonic() + 300
    while got < count:
        assert time.monotonic() < end, "only %d answers" % got
        for _, mask in sel.select(1):
            if mask & selectors.EVENT_WRITE and sent < len(out):
                sent += s.send(out[sent:sent + 65536])
                if sent == len(out):
                    sel.modify(s, selectors.EVENT_READ)
            if mask & selectors.EVENT_READ:
                buf += s.recv(65536)
        *lines, buf = buf.split(b"\n")
        for line in lines:
            if b'"id": ' in line:
                assert json.loads(line)["id"] == got, line
                got += 1
        if got and got % 1000 < 20 and sent:
            slowest = max(slowest, alive(path))
    s.close()
    return "%d answers in order, another client waited %.2f s at most" % (got, slowest)


def unread(path, rng):
    """Requests without ever reading: it is held, memory does not grow with it."""
    before = memory(path)
    s = connect(path)
    s.settimeout(3)
    sent = 0
    request = b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * 50
    try:
        while sent < 4 << 20:
            sent += s.send(request)
    except OSError:
        pass
    t, grown = alive(path), memory(path) - before
    s.close()
    assert sent < 4 << 20, "it took everything"
    assert grown < 30, "it needs %d MiB more" % grown
    return "it stopped taking after %d bytes and %d MiB, others wait %.2f s" % (sent, grown, t)


def slow(path, rng):
    """A byte at a time, and a token that never ends."""
    before = memory(path)
    a, b = connect(path), connect(path)
    a.recv(4096)
    b.recv(4096)
    b.settimeout(60)
    sent = 0
    try:
        while sent < 160 << 20:
            sent += b.send(b'"' + b"x" * 65535 if not sent else b"x" * 65536)
    except OSError:
        pass
    answer = b.recv(4096)
    assert b'"error"' in answer, "an endless token was answered by %r" % answer
    for c in b'{"execute": "qmp_capabilities"}':
        a.sendall(bytes([c]))
    assert b"return" in a.recv(4096)
    t, grown = alive(path), memory(path) - before
    a.close()
    b.close()
    assert grown < 150, "it needs %d MiB more" % grown
    return "a byte at a time is served; of an endless token of %d MiB %d were kept, others wait %.2f s" % (
        sent >> 20, grown, t)


def halves(path, rng):
    """Half a request, then the end; and a client that shuts down its sending side only."""
    for _ in range(50):
        s = connect(path)
        s.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-'[:rng.randrange(1, 50)])
        s.close()
    s = connect(path)
    s.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-jobs", "id": "last"}')
    s.shutdown(socket.SHUT_WR)
    text = b""
    while True:
        data = s.recv(65536)
        if not data:
            break
        text += data
    assert b'"id": "last"' in text, text
    return "answers came to a client that had ended its side; %.2f s" % alive(path)


def abandon(path, rng):
    """Commands that take their time, whose client does not wait for the answer."""
    for _ in range(20):
        s = connect(path)
        s.sendall(b'{"execute": "qmp_capabilities"}{"execute": "blockdev-add", "arguments": '
                  b'{"driver": "file", "node-name": "x", "filename": "/nonexistent"}}'
                  b'{"execute": "query-named-block-nodes"}{"execute": "blockdev-del", "arguments": {"node-name": "x"}}')
        if rng.random() < 0.5:
            time.sleep(rng.random() / 50)
        s.close()
    return "20 walked away; %.2f s" % alive(path)


def crowd(path, rng):
    """10,000 at once: as many as there are places are served, all others are shut out at once."""
    count = 10000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
    count = min(count, hard - 100)
    here = alive(path)
    everybody, start = [connect(path) for _ in range(count)], time.monotonic()
    served = [s for s in everybody if s.recv(4096)]
    took = time.monotonic() - start
    assert CLIENTS_MAX - 5 <= len(served) <= CLIENTS_MAX, "%d of %d were let in" % (len(served), count)
    for s in served:
        s.sendall(b'{"execute": "qmp_capabilities"}')
    assert all(b"return" in s.recv(4096) for s in served), "one that was let in got no answer"
    for s in everybody:
        s.close()
    return "%d of %d at once were let in, the others shut out %.1f s later; %.2f s before, %.2f s after" % (
        len(served), count, took, here, again(path))


def again(path, places=1):
    """How long it takes until there is a place once more, or several."""
    start = time.monotonic()
    while time.monotonic() < start + 300: # in a VM each of what is left takes 50 times as long
        try:
            alive(path)
            some = [connect(path) for _ in range(places - 1)]
            if all([s.recv(4096) for s in some]):
                return time.monotonic() - start
            time.sleep(.1)
        except (OSError, ValueError):
            time.sleep(.02)
    raise AssertionError("no place became free")


def parade(path, rng):
    """10,000 one after the other; some without a word, some in the middle of one."""
    count, slowest = 10000, 0
    for i in range(count):
        if i % 4:
            s = connect(path)
            if i % 4 == 1:
                s.sendall(b'{"execute": "qmp_capabilities"}{"exec')
            s.close()
        else:
            slowest = max(slowest, again(path))
    return "%d one after the other, the slowest took %.2f s" % (count, slowest)


def bulk(path, rng):
    """1 GiB of garbage on a few connections, whose answers are read."""
    want, sent, replies = int((1 << 30) * share), 0, 0
    words = [b"[{'a':" * 11000, b'"' + b"x" * 65535, b"1" * 65536, b"[" * 65536, b" " * 65536] * 3 + [
        os.urandom(8192), b"\xff" * 65536, b'{"a": 1}' * 100, b"}" * 500, b"nul " * 500,
        b'{"execute": "query-version"}\n' * 100]
    socks = [connect(path) for _ in range(4)]
    for s in socks:
        s.setblocking(False)
    todo = {s: memoryview(b"") for s in socks}
    while sent < want:
        for s in socks:
            if not todo[s]:
                todo[s] = memoryview(rng.choice(words))
            try:
                n = s.send(todo[s])
                todo[s], sent = todo[s][n:], sent + n
            except BlockingIOError:
                pass
            try:
                while True:
                    replies += s.recv(1 << 20).count(b"\n")
            except BlockingIOError:
                pass
    for s in socks:
        s.close()
    return "%d MiB of garbage, %d answers, then %.2f s" % (sent >> 20, replies, again(path))


def answer_to(path, text, limit=60):
    """The first line after the greeting."""
    s = connect(path)
    s.settimeout(limit)
    s.recv(4096)
    sender = threading.Thread(target=send_quietly, args=(s, text))
    sender.start()
    got = b""
    try:
        while b"\n" not in got:
            data = s.recv(65536)
            if not data:
                break
            got += data
    except OSError:
        pass
    s.close()
    sender.join()
    return got


def send_quietly(s, text):
    try:
        s.sendall(text)
    except OSError:
        pass


def deep(path, rng):
    """Nesting without end, balanced and not, and values of very many parts."""
    n = int(20 * MIB * share)
    for text in (b"[" * n, b"{'a':" * n, b"[{'a':" * n, b"[" * 2000 + b"]" * 2000):
        got = answer_to(path, text)
        assert b"nesting depth limit" in got, "%r... was answered by %r" % (text[:12], got[:200])
    for text, word in ((b"[" + b"1," * 600000, b"token count limit"),
                       (b"[" + b"[1]," * 150000, b"token count limit"),
                       (b"[" + b"{'a':1}," * 100000, b"token count limit"),
                       (b'"' + b"x" * (17 << 20), b"message size limit")):
        got = answer_to(path, text)
        assert word in got or not got, "%r... was answered by %r" % (text[:12], got[:200])
    return "8 kinds were refused, then %.2f s" % again(path)


def hoard(path, rng):
    """All places taken by clients that never end their large value: memory is bounded for all together."""
    socks, cut = {}, 0
    parts = [b"[" + b"{}," * 5000, b"[" + b"[]," * 5000, b"[" + b"'%s'," % (b"y" * 1000) * 100, b'"' + b"x" * 65536]
    for _ in range(CLIENTS_MAX - 5):
        s = connect(path)
        s.setblocking(False)
        part = rng.choice(parts)
        socks[s] = [part, part]
    end, limit = time.monotonic() + max(2, 20 * share), time.monotonic() + 150
    while time.monotonic() < (end if cut else limit):
        for s, (part, left) in list(socks.items()):
            try:
                left = left[s.send(left):]
                socks[s][1] = left or part[1:]
            except BlockingIOError:
                pass
            except OSError:
                cut += 1
                del socks[s]
    for s in socks:
        s.close()
    assert cut, "nobody was disconnected"
    return "%d of %d were disconnected for what they took, then %.2f s" % (cut, CLIENTS_MAX - 5, again(path))


def deaf(path, rng):
    """All places taken by clients that ask and never read."""
    socks, sent = [], 0
    request = b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * 2000
    for _ in range(CLIENTS_MAX - 5):
        s = connect(path)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        s.setblocking(False)
        socks.append(s)
    end = time.monotonic() + max(4, 20 * share)
    while time.monotonic() < end:
        before = sent
        for s in socks:
            try:
                sent += s.send(request)
            except OSError:
                pass
        if sent == before:
            time.sleep(.05)
    for s in socks:
        s.close()
    return "%d MiB of requests were taken of %d who do not read, then %.2f s, and %.2f s for 60 places" % (
        sent >> 20, len(socks), again(path), again(path, 60))


def pipeline(path, rng):
    """Thousands of commands in one write, good ones and bad ones: each is answered, in order."""
    n = int(50000 * share)
    text = b'{"execute": "qmp_capabilities"}' + b"".join(
        b'{"execute": "%s", "id": %d}' % (rng.choice((b"query-version", b"query-jobs", b"nix")), i)
        for i in range(n))
    s = connect(path)
    sender = threading.Thread(target=send_quietly, args=(s, text))
    sender.start()
    got, buf = 0, b""
    while got < n:
        data = s.recv(1 << 20)
        assert data, "only %d answers" % got
        *lines, buf = (buf + data).split(b"\n")
        for line in lines:
            if b'"id": ' in line:
                assert json.loads(line)["id"] == got, line
                got += 1
    sender.join()
    s.close()
    return "%d commands in one write are answered in order, then %.2f s" % (n, again(path))


def stranger(path, rng):
    """Somebody else: the socket's mode shuts him out, and where it does not the daemon does."""
    if os.geteuid():
        return "not root: left out"
    folder, mode = os.path.dirname(path), os.stat(path).st_mode & 0o777
    assert not mode & 0o7, "the socket's mode is %o" % mode
    os.chmod(folder, 0o755)
    try:
        assert as_nobody(path) == b"EACCES"
        os.chmod(path, 0o777)
        got = as_nobody(path)
        assert got == b"EOF", "a stranger got %r" % got
    finally:
        os.chmod(path, mode)
    return "mode %o shuts a stranger out; with 777 the daemon does; %.2f s" % (mode, alive(path))


def as_nobody(path):
    """What nobody gets for a connection."""
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            s = connect(path)
            os.write(w, s.recv(4096) or b"EOF")
        except PermissionError:
            os.write(w, b"EACCES")
        except OSError as e:
            os.write(w, repr(e).encode())
        os._exit(0)
    os.close(w)
    os.waitpid(pid, 0)
    got = os.read(r, 4096)
    os.close(r)
    return got


class Neighbour:
    """A client that behaves well, all the while: how long was its longest wait? A process: a kind that never rests
    would keep a thread of ours waiting, not the daemon."""

    def __init__(self, path):
        self.pipe, end = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=self.run, args=(path, end), daemon=True)
        self.process.start()
        end.close()
        self.pipe.recv()

    @staticmethod
    def run(path, pipe):
        longest, n, wrong = 0, 0, None
        client = qmp.Client(path, lambda e: None)
        client.negotiate()
        pipe.send("ready")
        try:
            while not n or not pipe.poll(.01):
                begin = time.monotonic()
                client.command('{"execute": "query-block-exports"}')
                longest = max(longest, time.monotonic() - begin)
                n += 1
        except (OSError, ValueError) as e:
            wrong = repr(e)
        pipe.send((longest, n, wrong))

    def end(self):
        self.pipe.send("end")
        assert self.pipe.poll(240), "the neighbour waits for ever"
        self.longest, self.n, self.wrong = self.pipe.recv()
        self.process.join()


def native(daemon, seed):
    """Each kind once, in a daemon that has nothing else to do; status 0 when all is well."""
    kinds = KINDS
    print("1..%d\n# seed %d" % (len(kinds) + 1, seed))
    work = tempfile.mkdtemp(prefix="livechain-clients-")
    path, bad = os.path.join(work, "qmp.sock"), 0
    with open(os.path.join(work, "log"), "w+") as log:
        p = subprocess.Popen([daemon, "--qmp", path, "--state-dir", os.path.join(work, "state")], stderr=log)
        try:
            again(path)
            for i, f in enumerate(kinds, 1):
                bad += not one_kind(i, f, path, random.Random(seed + i))
            p.send_signal(signal.SIGTERM)
            good = p.wait(240) == 0 and os.fstat(log.fileno()).st_size < MIB
            print("%sok %d - the daemon ends as usual, its log has %d KiB" % (
                "" if good else "not ", len(kinds) + 1, os.fstat(log.fileno()).st_size >> 10))
            bad += not good
        finally:
            if p.poll() is None:
                p.kill()
            if bad:
                log.seek(0)
                print("".join("# " + line for line in log.readlines()[-20:]))
            shutil.rmtree(work)
    return 1 if bad else 0


def one_kind(i, f, path, rng):
    start = time.monotonic()
    neighbour = Neighbour(path)
    try:
        text, good = f(path, rng), True
    except (AssertionError, OSError, ValueError) as e:
        text, good = "%s: %r" % (f.__doc__, e), False
    neighbour.end()
    used = memory(path)
    good = good and not neighbour.wrong and neighbour.longest < WAIT_MAX and used < MEMORY_MAX
    print("%sok %d - %s: %s; a neighbour waited %.2f s of %d times, %d MiB, %.1f s%s" % (
        "" if good else "not ", i, f.__name__, text, neighbour.longest, neighbour.n, used,
        time.monotonic() - start, ", %s" % neighbour.wrong if neighbour.wrong else ""), flush=True)
    return good


KINDS = (many, garbage, flood, unread, slow, halves, abandon, crowd, parade, bulk, deep, hoard, deaf, pipeline, stranger)


def main():
    global share
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--native", metavar="DAEMON")
    p.add_argument("--seed", type=int, default=int(os.environ.get("LIVECHAIN_SEED") or random.randrange(1 << 16)))
    p.add_argument("--share", type=float, default=share)
    p.add_argument("words", nargs="*", metavar="SOCKET KIND")
    a = p.parse_args()
    share = a.share
    if a.native:
        return native(a.native, a.seed)
    path, what = a.words
    print("seed", a.seed)
    print({f.__name__: f for f in KINDS}[what](path, random.Random(a.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
