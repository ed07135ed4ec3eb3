# SPDX-License-Identifier: GPL-2.0-or-later
"""Allocations that fail, by the kernel's fault injection (failslab, fail_page_alloc)."""
import os
import threading
import time

DEBUG = "/sys/kernel/debug/"


def put(path, text):
    with open(path, "w") as f:
        f.write(str(text))


def setup():
    for kind in "failslab", "fail_page_alloc":
        put(DEBUG + kind + "/ignore-gfp-wait", "N")
        put(DEBUG + kind + "/verbose", 0)
        put(DEBUG + kind + "/probability", 0)
    put(DEBUG + "fail_page_alloc/ignore-gfp-highmem", "N")
    put(DEBUG + "fail_page_alloc/min-order", 0)


class Nth:
    """The calling thread's n-th allocation from now on fails."""

    def __init__(self):
        self.fd = os.open("/proc/thread-self/fail-nth", os.O_RDWR)

    def arm(self, n):
        os.pwrite(self.fd, b"%d" % n, 0)

    def left(self):
        """0: it has failed. Nothing fails any more."""
        left = int(os.pread(self.fd, 32, 0))
        os.pwrite(self.fd, b"0", 0)
        return left


class Queues(threading.Thread):
    """Work queues' allocations that the module asks for fail, a part of them."""

    def __init__(self, percent):
        super().__init__(daemon=True)
        with open("/sys/module/dm_livechain/sections/.text") as f:
            start = int(f.read(), 16)
        with open("/sys/module/dm_livechain/coresize") as f:
            end = start + int(f.read())
        self.stop, self.percent, self.hits = False, percent, 0
        for kind in "failslab", "fail_page_alloc":
            d = DEBUG + kind + "/"
            put(d + "require-start", "0x%x" % start)
            put(d + "require-end", "0x%x" % end)
            put(d + "stacktrace-depth", 32)
            put(d + "task-filter", "Y")
            put(d + "times", 1 << 30)
            put(d + "probability", percent)

    def run(self):
        while not self.stop:
            for pid in os.listdir("/proc"):
                try:
                    with open("/proc/%s/comm" % pid) as f:
                        if f.read().startswith("kworker"):
                            put("/proc/%s/make-it-fail" % pid, 1)
                except OSError:
                    pass
            time.sleep(1)

    def end(self):
        """Returns how many have failed."""
        self.stop, hits = True, 0
        for kind in "failslab", "fail_page_alloc":
            with open(DEBUG + kind + "/times") as f:
                hits += (1 << 30) - int(f.read())
            put(DEBUG + kind + "/probability", 0)
            put(DEBUG + kind + "/task-filter", "N")
            put(DEBUG + kind + "/stacktrace-depth", 0)
        self.join()
        return hits
