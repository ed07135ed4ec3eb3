#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A record that can't be written: the view serves reads only, and nothing pretends.
# timeout: 120
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 35
kernel_setup 3 64
require_module dm-flakey
python_checks "${RAM[@]}" <<'E2'
nr = 32768
base = Image(0, DISKS[0], nr)
for s in range(0, nr, 2048):
    base.disk.write(s, pattern(1, s, 2048))
under = Disk(DISKS[1])
size = under.sectors()
low = Dm("kflow", [(0, size, "linear", DISKS[1] + " 0")])


def switch(table):
    low.load(table)
    low.suspend()
    low.resume()


def good():
    switch([(0, size, "linear", DISKS[1] + " 0")])


def bad(first, count, kind="error", params=""):
    switch([(0, first, "linear", DISKS[1] + " 0"), (first, count, kind, params),
            (first + count, size - first - count, "linear", "%s %d" % (DISKS[1], first + count))])


for what in ("read", "write"):
    top = Image(1, low.path, nr, 128)
    following = Image(2, DISKS[2], nr, 128)
    view = View("kfail", [top, base], nr, 128, extra=[following])
    view.dm.message(following.describe())
    view.begin()
    view.load_all()
    dm, disk = view.dm, Disk(view.dm.path)
    disk.write(1024, pattern(2, 1024, 8))
    disk.flush()
    record = decode(top.records()[8])
    events = dm.events()
    first = min(top.page_sector)
    if what == "read":
        bad(first, 8)
    else:
        # dm-flakey fails writes only
        bad(first, 8, "flakey", "%s %d 0 100 1 error_writes" % (DISKS[1], first))
    disk.write(2048, pattern(3, 2048, 8))
    refused(errno.EIO, what + ": the flush fails", disk.flush)
    equal(view.status()["mode"], "fail", what + ": the view has failed")
    check(wait(lambda: dm.events() > events), what + ": an event says so")
    equal([x for x in dm.message("requests").split("\n") if x.startswith("fail")], ["fail 1 5"], what + ": requests says it")
    check(view.status()["unrecorded"] > 0, what + ": the entries stay unrecorded")
    good()
    refused(errno.EIO, what + ": later flushes fail, too", disk.flush)
    refused(errno.EIO, what + ": writes fail", disk.write, 5000, bytes(512))
    refused(errno.EIO, what + ": in place as well", disk.write, 1024, bytes(512))
    refused(errno.EIO, what + ": FUA as well", disk.write, 1024, bytes(512), os.RWF_DSYNC)
    refused(errno.EIO, what + ": discards fail", disk.discard, 0, 128)
    same(disk.read(1024, 8), pattern(2, 1024, 8), what + ": reads go on")
    same(disk.read(2048, 8), pattern(3, 2048, 8), what + ": of what is not recorded, too")
    equal(decode(top.records()[8]), record, what + ": what was recorded is there")
    dm.suspend()
    refused(errno.EROFS, what + ": no other layer takes its place", dm.message, "activate 2")
    dm.resume()
    equal(view.status()["mode"], "fail", what + ": a suspend does not heal it")
    disk.close()
    view.remove()
    top.disk.close()
    following.disk.close()

# --- data that can't be written fails its own write only
top = Image(1, low.path, nr, 128)
view = View("kfail", [top, base], nr, 128)
view.begin()
view.load_all()
disk = Disk(view.dm.path)
disk.write(0, pattern(2, 0, 8))
place = decode(top.records()[0])[1] if not disk.flush() else 0
bad(place + 128, 65536)
refused(errno.EIO, "a write into new space that fails", disk.write, 4096, pattern(3, 4096, 8))
same(disk.read(4096, 8), pattern(1, 4096, 8), "leaves the old content")
good()
equal(view.status()["mode"], "rw", "and the view goes on")
disk.write(4096, pattern(3, 4096, 8))
disk.flush()
same(disk.read(4096, 8), pattern(3, 4096, 8), "the write can be repeated")
same(reconstruct([top, base], nr), disk.read(0, nr), "the records say so")
disk.close()
view.remove()
top.disk.close()
low.remove()
E2
