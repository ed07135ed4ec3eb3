# SPDX-License-Identifier: GPL-2.0-or-later
# The head of every Python part of a kernel case (lib-kernel.sh, python_checks).
import errno
import mmap
import os
import random
import subprocess
import sys
import threading
import time

from dmio import Disk, Dm, compare, control, explain, pattern
from kview import COPIED, SLICE, Image, View, decode, parse_status, reconstruct

DISKS = sys.argv[1:]


def check(good, text, *why):
    print(("ok - " if good else "not ok - ") + text, flush=True)
    if not good:
        for w in why:
            print(w, flush=True)


def equal(got, want, text):
    check(got == want, text, "got %r" % (got,), "wanted %r" % (want,))


def same(got, want, text, first=0):
    """Compare bytes sector by sector."""
    try:
        compare(got, want, first)
        check(True, text)
    except AssertionError as e:
        check(False, text, str(e))


def refused(number, text, fn, *args):
    """The call fails with that errno."""
    try:
        fn(*args)
        check(False, text, "it was taken")
    except OSError as e:
        check(e.errno == number, text, "got %s" % e)


def wait(condition, seconds=60):
    """Return whether condition() came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def settled(value, seconds=0.3):
    """What value() is when it has not changed for so long: what was in flight has ended."""
    last, since = value(), time.monotonic()
    while time.monotonic() < since + seconds:
        time.sleep(0.02)
        now = value()
        if now != last:
            last, since = now, time.monotonic()
    return last


class Background(threading.Thread):
    """Runs fn(*args); .end() waits for it and raises what it raised."""

    def __init__(self, fn, *args):
        super().__init__(daemon=True)
        self.fn, self.args, self.result, self.error = fn, args, None, None
        self.start()

    def run(self):
        try:
            self.result = self.fn(*self.args)
        except Exception as e:
            self.error = e

    def end(self, seconds=60):
        self.join(seconds)
        if self.is_alive():
            raise TimeoutError("still waits")
        if self.error:
            raise self.error
        return self.result


def raw_view(name, disk, nr, block=128, dest=(), seed=7):
    """A view of one raw layer, filled with a pattern and loaded."""
    base = Image(0, disk, nr)
    if seed is not None:
        for s in range(0, nr, 2048):
            base.disk.write(s, pattern(seed, s, min(2048, nr - s)))
    view = View(name, [base], nr, block, extra=dest)
    view.load_all()
    return view


def copy_dest(disk, nr, ident=9):
    """A destination that is not zero to begin with."""
    dest = Image(ident, disk, nr)
    junk = pattern(666, 0, 2048)
    for s in range(0, nr, 2048):
        dest.disk.write(s, junk[:min(2048, nr - s) * 512])
    return dest


def start_copy(view, name, mode, options="", dest=9):
    """Start a copy; a before-write one with the device suspended for it."""
    text = "copy %s %d %s %s" % (name, dest, mode, options)
    if mode == "none":
        view.dm.message(text)
        return
    view.dm.suspend()
    try:
        view.dm.message(text)
    finally:
        view.dm.resume()
