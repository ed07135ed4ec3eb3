#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A copy keeps its speed limit to 5 % over 5 seconds, and takes a new one at once.
# What is in flight at a change of speed is more on a debug kernel: figures there say nothing.
# kernels: 6.1 6.12 7.3
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
plan 7
kernel_setup 2 192
python_checks "${RAM[@]}" <<'E2'
MIB = 1 << 20
nr = 192 * MIB // 512
dest, src, junk = copy_dest(DISKS[1], nr), Disk(DISKS[0]), os.urandom(MIB)
for i in range(192):
    src.write(i * 2048, junk[i * 512:] + junk[:i * 512])
view = raw_view("kspeed", DISKS[0], nr, dest=[dest], seed=None)


class Clock(threading.Thread):
    """How long the machine has stood still at most: what it did then says nothing of a limit."""

    def __init__(self):
        super().__init__(daemon=True)
        self.worst, self.stop = 0, False
        self.start()

    def run(self):
        while not self.stop:
            t = time.monotonic()
            time.sleep(0.01)
            self.worst = max(self.worst, time.monotonic() - t)

    def end(self):
        self.stop = True
        self.join()
        return self.worst


def copied():
    """(earliest, latest) time of a figure, and the figure."""
    t0 = time.monotonic()
    n = view.job("a")["copied"]
    return t0, time.monotonic(), n


def bytes_in(seconds):
    """Copied bytes, scaled to exactly so many seconds: at least, at most."""
    a = copied()
    time.sleep(seconds)
    b = copied()
    return [(b[2] - a[2]) * seconds / t for t in (b[1] - a[0], b[0] - a[1])]


def near(begin, mib, text, later):
    """
    From begin() on so many MiB are copied in 5 s. Again if the machine stood still meanwhile, as long as
    there are as many left for later.
    """
    want = mib * MIB
    for _ in range(5):
        begin()
        clock = Clock()
        least, most = bytes_in(5)
        stood = clock.end()
        good = least <= want * 1.05 and most >= want * 0.95
        if good or stood < 0.1 or view.job("a")["copied"] + 7 * want // 5 + later * MIB > nr * 512:
            break
        print("the machine stood still for %.2f s: %.0f to %.0f bytes" % (stood, least, most))
    check(good, text, "%.0f to %.0f bytes, wanted %d; the machine stood still for %.2f s" % (
        least, most, want, stood))


def speed(rate, pause):
    def begin():
        view.dm.message("job a speed %d" % rate)
        time.sleep(pause)
    return begin


def pause_and_resume():
    view.dm.message("job a pause")
    time.sleep(1)
    view.dm.message("job a resume")


view.dm.message("copy a 9 none speed %d" % (8 * MIB))
near(lambda: None, 40, "8 MiB/s for 5 s", 56)
near(speed(MIB, 0.1), 5, "1 MiB/s for 5 s", 50)


def hours_then_4():
    speed(1, 0.2)()
    slow.append(bytes_in(1)[0])
    speed(4 * MIB, 0)()


slow = []
near(hours_then_4, 20, "a new speed counts at once, though the old one would wait for hours", 26)
check(max(slow) <= 65536, "1 byte/s: next to nothing")
near(pause_and_resume, 20, "the time of a pause is not made up for", 0)
view.dm.message("job a speed 0")
equal(view.wait_job("a")["result"], "ok", "no limit")
check(all(dest.disk.read(s, 2048) == src.read(s, 2048) for s in range(0, nr, 2048)), "everything is copied")
src.close()
view.remove()
E2
