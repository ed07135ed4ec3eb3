#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Writes allocate, copy what lies around them, and are recorded; with units smaller than,
# equal to and larger than the block.
# timeout: 300
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 88
kernel_setup 3 64
python_checks "${RAM[@]}" <<'E2'
nr = 16384 + 8


def fresh(unit, block, start):
    base, top = Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, unit, start=start)
    for s in range(0, nr, 2048):
        base.disk.write(s, pattern(1, s, min(2048, nr - s)))
    # what the pool's space held before must never be seen
    for s in range(0, 65536, 2048):
        top.disk.write(top.start + top.end + s, pattern(666, s, 2048))
    view = View("kwrite", [top, base], nr, block)
    return base, top, view


for unit, block, start in ((128, 128, 0), (8, 128, 24), (64, 128, 0), (512, 128, 2048), (128, 8, 0), (8, 8, 0),
                           (4096, 8, 8), (1024, 4096, 0)):
    name = "unit %d, block %d" % (unit, block)
    base, top, view = fresh(unit, block, start)
    view.begin()
    disk = Disk(view.dm.path)
    want = bytearray(pattern(1, 0, nr))

    def write(first, count, seed):
        data = pattern(seed, first, count)
        disk.write(first, data)
        want[first * 512:(first + count) * 512] = data

    write(1003, 2, 2)                          # within a block
    write(1003, 1, 3)                          # again: now in place
    write(2048, 128, 4)
    write(4000, 700, 5)                        # over several, cut at both ends
    write(nr - 3, 3, 6)                        # the short end
    write(8192, 4096, 7)                       # large
    same(disk.read(0, nr), bytes(want), name + ": reads back")
    same(base.disk.read(0, nr), pattern(1, 0, nr), name + ": the base has not changed")
    disk.flush()
    s = view.status()
    equal(s["unrecorded"], 0, name + ": a flush leaves nothing unrecorded")
    same(reconstruct([top, base], nr), bytes(want), name + ": the records say the same")
    records = top.records()
    grain = max(unit, block)
    wanted = set()
    for first, count in ((1003, 2), (2048, 128), (4000, 700), (nr - 3, 3), (8192, 4096)):
        for g in range(first // grain * grain, first + count, grain):
            wanted |= set(range(g // unit, min(-(-(g + grain) // unit), top.units)))
    got = {u for u, r in enumerate(records) if r}
    equal(got, wanted, name + ": exactly the units of written grains are recorded")
    bad = [u for u in got if not records[u] & COPIED or records[u] & 0x1ff]
    equal(bad, [], name + ": as data of their own")
    sectors = [decode(records[u])[1] for u in sorted(got)]
    check(all(x % unit == 0 for x in sectors) and len(set(sectors)) == len(sectors),
          name + ": aligned, and no two in one place")
    equal(s["layers"][1]["entries"] >= len(wanted) * unit // grain, True, name + ": entries are counted")
    view.end()
    disk.close()
    dm = view.dm
    # another life, from the records alone
    view.remove()
    view = View("kwrite", [top, base], nr, block)
    view.begin()
    disk = Disk(view.dm.path)
    same(disk.read(0, nr), bytes(want), name + ": a new view reads the same")
    disk.write(1003, pattern(9, 1003, 1))
    equal(view.status()["unrecorded"], 0, name + ": what is its own is written in place")
    disk.close()
    view.remove()
    for image in (base, top):
        image.disk.close()

# --- shared blocks are not written in place
base, top, view = fresh(128, 128, 0)
top.put(5, pattern(8, 640, 128), shared=True)
old = decode(top.records()[5])[1]
view.begin()
disk = Disk(view.dm.path)
disk.write(650, pattern(9, 650, 4))
disk.flush()
new = decode(top.records()[5])
check(new[1] != old and not new[2], "a shared unit gets a new place", "%r" % (new,))
same(top.disk.read(old, 128), pattern(8, 640, 128), "the old one has not changed")
want = pattern(8, 640, 10) + pattern(9, 650, 4) + pattern(8, 654, 114)
same(disk.read(640, 128), want, "the new one has old and new")

# --- without a flush a commit comes by itself
disk.write(1280, pattern(10, 1280, 128))
check(wait(lambda: top.records()[10] != 0), "without a flush it is recorded within seconds")
# --- FUA
disk.write(2560, pattern(11, 2560, 8), os.RWF_DSYNC)
check(top.records()[20] != 0, "a FUA write is recorded when it is done")
disk.write(3840, pattern(12, 3840, 8))
view.commit()
check(top.records()[30] != 0, "the message commit records")
# --- a hundred writers to one unit


def one(i):
    mine = Disk(view.dm.path)
    mine.write(5120 + i, pattern(20 + i, 5120 + i, 1))
    mine.close()


jobs = [Background(one, i) for i in range(64)]
for j in jobs:
    j.end()
want = b"".join(pattern(20 + i, 5120 + i, 1) for i in range(64)) + pattern(1, 5184, 64)
same(disk.read(5120, 128), want, "many first writes to one unit at once")
entries = view.status()["layers"][1]["entries"]
equal(entries, 5, "take one place")
disk.close()
view.remove()
E2
