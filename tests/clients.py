#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients of every kind on one QMP socket.

clients.py SOCKET many|garbage|flood|unread|slow|halves|abandon [--seed N]
The last line says what was seen; status 0 if that is as it should be.
"""
import json
import os
import random
import selectors
import socket
import struct
import sys
import time

import qmp


def connect(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(60)
    s.connect(path)
    return s


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
    for _ in range(50):
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
    end = time.monotonic() + 80
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
    b.settimeout(5)
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


def main(argv):
    path, what = argv[0], argv[1]
    seed = int(argv[3]) if len(argv) > 3 else 1
    print("seed", seed)
    print({f.__name__: f for f in (many, garbage, flood, unread, slow, halves, abandon)}[what](
        path, random.Random(seed)))
    return 0


sys.exit(main(sys.argv[1:]))
