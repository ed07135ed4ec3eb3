# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU at work for soak.py: one qemu-storage-daemon makes images, fills them and reads chains.

A process of qemu-img for each step would be most of the time of a soak in an emulated guest. What is
read here is read by QEMU's block layer from the files, as qemu-img would.
"""
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import time

import qmp

PR_SET_PDEATHSIG = 1
READ, WRITE, FLUSH, TRIM, ZEROES = 0, 1, 3, 4, 6
NO_HOLE = 2             # a flag of ZEROES: the space is kept
PIECE = 1 << 20


class QemuError(Exception):
    pass


class Nbd:
    """An export of it, in bytes."""

    def __init__(self, path, name):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(400)
        self.sock.connect(path)
        if self.take(16) != b"NBDMAGICIHAVEOPT":
            raise QemuError("not an NBD server")
        self.take(2)
        # fixed newstyle, no zeroes; then the option that names the export and ends the talk
        self.sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name)) + name.encode())
        self.size, self.flags = struct.unpack(">QH", self.take(10))

    def take(self, n):
        out = bytearray()
        while len(out) < n:
            data = self.sock.recv(n - len(out))
            if not data:
                raise QemuError("the NBD connection ended")
            out += data
        return bytes(out)

    def call(self, kind, at=0, length=0, data=b"", flags=0):
        self.sock.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, 0, at, length) + data)
        magic, error, _ = struct.unpack(">IIQ", self.take(16))
        if magic != 0x67446698 or error:
            raise QemuError("request %d at %d+%d: error %d" % (kind, at, length, error))
        return self.take(length) if kind == READ else b""

    def close(self):
        self.sock.close()


class Qemu:
    def __init__(self, folder):
        self.control, self.nbd = os.path.join(folder, "qsd.qmp"), os.path.join(folder, "qsd.nbd")
        for last in (False, False, True):
            try:
                self.start()
                return
            except TimeoutError:
                self.end()
                if last:
                    raise QemuError("qemu-storage-daemon does not answer")

    def start(self):
        """A client that comes while its monitor moves to a thread of its own may never be answered."""
        for path in (self.control, self.nbd):
            if os.path.exists(path):
                os.unlink(path)
        libc = ctypes.CDLL(None)
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--chardev", "socket,id=c,server=on,wait=off,path=" + self.control,
             "--monitor", "c", "--nbd-server", "addr.type=unix,addr.path=" + self.nbd],
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        limit = time.monotonic() + 240
        while not os.path.exists(self.nbd):     # its last option
            if self.process.poll() is not None or time.monotonic() > limit:
                raise QemuError("qemu-storage-daemon does not start")
            time.sleep(0.02)
        time.sleep(0.2)
        self.client = qmp.Client(self.control, lambda e: None, 60)
        self.client.negotiate()
        self.client.sock.settimeout(qmp.TIMEOUT)

    def end(self):
        self.process.kill()
        self.process.wait()

    def command(self, verb, /, **arguments):
        arguments = {k.replace("_", "-"): v for k, v in arguments.items() if v is not None}
        reply = self.client.command(json.dumps({"execute": verb, "arguments": arguments}))
        if "return" not in reply:
            raise QemuError("%s %s: %s" % (verb, arguments, reply["error"]["desc"]))
        return reply["return"]

    def create(self, path, fmt, size, **options):
        """@options: those of blockdev-create, but "file" and "size"."""
        with open(path, "wb") as f:
            f.truncate(size if fmt == "raw" else 0)
        if fmt == "raw":
            return
        self.command("blockdev-add", driver="file", node_name="new", filename=path)
        self.command("blockdev-create", job_id="create",
                     options={"driver": fmt, "file": "new", "size": size, **options})
        while True:
            job = self.command("query-jobs")[0]
            if job["status"] == "concluded":
                break
            time.sleep(0.002)
        self.command("job-dismiss", id="create")
        self.command("blockdev-del", node_name="new")
        if "error" in job:
            raise QemuError("%s can't be made: %s" % (path, job["error"]))

    def open(self, path, fmt, **options):
        self.command("blockdev-add", driver=fmt, node_name="it",
                     file={"driver": "file", "filename": path}, **options)
        self.command("block-export-add", type="nbd", id="it", node_name="it", name="it",
                     writable=not options.get("read_only"))
        return Nbd(self.nbd, "it")

    def close(self, nbd):
        nbd.close()
        self.command("block-export-del", id="it", mode="hard")
        limit = time.monotonic() + 240
        while self.command("query-block-exports"):
            if time.monotonic() > limit:
                raise QemuError("an export stays")
            time.sleep(0.002)
        self.command("blockdev-del", node_name="it")

    def fill(self, path, fmt, work):
        """@work: a list of (kind, byte offset, length, data or b"", flags) for Nbd.call()."""
        nbd = self.open(path, fmt, discard="unmap")
        try:
            for step in work:
                nbd.call(*step)
            nbd.call(FLUSH)
        finally:
            self.close(nbd)

    def read(self, path, fmt):
        """Of an image that others may write: (what query-named-block-nodes says of it, content in pieces)."""
        nbd = self.open(path, fmt, read_only=True, force_share=True)
        try:
            info = next(n for n in self.command("query-named-block-nodes") if n["node-name"] == "it")
            yield info["image"]
            for at in range(0, nbd.size, PIECE):
                yield nbd.call(READ, at, min(PIECE, nbd.size - at))
        finally:
            self.close(nbd)
