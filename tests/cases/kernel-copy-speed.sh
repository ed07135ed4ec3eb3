#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A copy keeps its speed limit to 5 % over 5 seconds, and takes a new one at once.
# What is in flight at a change of speed is more on a debug kernel: figures there say nothing.
# kernels: 6.1 6.12 7.3
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
plan 7
kernel_setup 2 128
python_checks "${RAM[@]}" <<'E2'
nr = 2 * 128 * 1024
dest = copy_dest(DISKS[1], nr)
view = raw_view("kspeed", DISKS[0], nr, dest=[dest])


def bytes_in(seconds):
    """Copied bytes, scaled to exactly so many seconds."""
    t0, c0 = time.monotonic(), view.job("a")["copied"]
    time.sleep(seconds)
    t1, c1 = time.monotonic(), view.job("a")["copied"]
    return (c1 - c0) * seconds / (t1 - t0)


def near(got, want, text):
    check(abs(got - want) <= want * 0.05, text, "%.0f bytes, wanted %.0f" % (got, want))


view.dm.message("copy a 9 none speed %d" % (8 << 20))
near(bytes_in(5), 40 << 20, "8 MiB/s for 5 s")
view.dm.message("job a speed %d" % (1 << 20))
time.sleep(0.1)
near(bytes_in(5), 5 << 20, "1 MiB/s for 5 s")
view.dm.message("job a speed 1")
time.sleep(0.2)
check(bytes_in(1) <= 65536, "1 byte/s: next to nothing")
view.dm.message("job a speed %d" % (4 << 20))
near(bytes_in(5), 20 << 20, "a new speed counts at once, though the old one would wait for hours")
view.dm.message("job a pause")
time.sleep(1)
view.dm.message("job a resume")
near(bytes_in(5), 20 << 20, "the time of a pause is not made up for")
view.dm.message("job a speed 0")
equal(view.wait_job("a")["result"], "ok", "no limit")
same(dest.disk.read(0, nr), pattern(7, 0, nr), "everything is copied")
view.remove()
E2
