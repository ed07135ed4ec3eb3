#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A small QMP client for tests, independent of the project's own.

qmp.py SOCKET COMMAND...        send each (JSON), print each reply; status 1 on an error reply
qmp.py --ping SOCKET            status 0 when the server greets
qmp.py --serve EVENTS SOCKET    a command per line on stdin, "ok JSON" or "error JSON" per
                                line on stdout; events are appended to the file EVENTS
"""
import json
import os
import select
import selectors
import socket
import sys

import slow

TIMEOUT = 120


class Client:
    def __init__(self, path, on_event, timeout=TIMEOUT):
        self.on_event = on_event
        self.buf = b""
        self.strays = []    # answers to nothing
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.greeting = self.recv()
        if "QMP" not in self.greeting:
            raise ConnectionError("no QMP greeting: %r" % (self.greeting,))

    def next_line(self):
        """A complete line that was received, or None."""
        line, sep, rest = self.buf.partition(b"\n")
        if not sep:
            return None
        self.buf = rest
        return line

    def fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buf += data

    def recv(self):
        while True:
            line = self.next_line()
            if line is None:
                self.fill()
            elif line.strip():
                return json.loads(line)

    def command(self, text):
        """Sends text as it is; returns the reply, handing events on."""
        slow.pause()
        self.sock.sendall(text.encode() + b"\n")
        while True:
            msg = self.recv()
            if "event" in msg:
                self.on_event(msg)
            else:
                return msg

    def negotiate(self):
        reply = self.command('{"execute": "qmp_capabilities"}')
        if "return" not in reply:
            raise ConnectionError("capabilities refused: %r" % (reply,))

    def take_events(self):
        """What came without being asked for; called when the socket is readable."""
        self.fill()
        self.drain()

    def drain(self):
        """Hands on the events that lie in the buffer."""
        while (line := self.next_line()) is not None:
            msg = json.loads(line)
            if "event" in msg:
                self.on_event(msg)
            else:
                self.strays.append(msg)


def serve(events_path, path):
    with open(events_path, "a") as events:
        def on_event(msg):
            events.write(json.dumps(msg) + "\n")
            events.flush()

        client = None
        sel = selectors.DefaultSelector()
        sel.register(0, selectors.EVENT_READ)
        inbuf = b""

        def drop():
            nonlocal client
            if client:
                sel.unregister(client.sock)
                client.sock.close()
            client = None

        def connect():
            nonlocal client
            client = Client(path, on_event)
            client.negotiate()
            sel.register(client.sock, selectors.EVENT_READ)

        def take_if_any():
            """What lies in the socket; its end too, when the server has gone unnoticed."""
            try:
                while client and select.select([client.sock], [], [], 0)[0]:
                    client.take_events()
            except (OSError, ValueError):
                drop()

        def answer(text):
            take_if_any()
            try:
                if not client:
                    connect()
                reply = client.command(text)
                client.drain()
                if client.strays:
                    raise ValueError("more answers than commands: %s" % client.strays)
            except (OSError, ValueError) as e:
                drop()
                return "error " + json.dumps({"class": "Connection", "desc": str(e)})
            if "return" in reply:
                return "ok " + json.dumps(reply["return"])
            return "error " + json.dumps(reply.get("error", reply))

        while True:
            # Without a connection, look for one: events come unasked.
            if not client:
                try:
                    connect()
                except (OSError, ValueError):
                    client = None
            for key, _ in sel.select(0.2 if not client else None):
                if key.fd == 0:
                    data = os.read(0, 65536)
                    if not data:
                        return
                    inbuf += data
                    while b"\n" in inbuf:
                        line, _, inbuf = inbuf.partition(b"\n")
                        print(answer(line.decode()), flush=True)
                elif client and key.fileobj is client.sock:
                    try:
                        client.take_events()
                    except (OSError, ValueError):
                        drop()


def main(argv):
    if len(argv) == 2 and argv[0] == "--ping":
        try:
            Client(argv[1], lambda m: None, 10)
        except (OSError, ValueError):
            return 1
        return 0
    if len(argv) == 3 and argv[0] == "--serve":
        serve(argv[1], argv[2])
        return 0
    if len(argv) < 2 or argv[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    status = 0
    client = Client(argv[0], lambda m: print(json.dumps(m)))
    client.negotiate()
    for text in argv[1:]:
        reply = client.command(text)
        print(json.dumps(reply.get("return", reply)))
        if "return" not in reply:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
