#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Discards and write-zeroes: whole units become zeros that keep their space.
# timeout: 120
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 37
load_module
require_module loop
# loop devices: device-mapper passes write-zeroes on only where every device below has them
for i in 0 1 2; do
	truncate -s 64M "$T/disk$i"
	loop[i]=$(losetup --find --show "$T/disk$i") || bail "no loop device"
	cleanup_fn loop_free "${loop[i]}"
done
python_checks "${loop[@]}" <<'E2'
nr = 32768
base, top = Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, 128)
for s in range(0, nr, 2048):
    base.disk.write(s, pattern(1, s, 2048))
view = View("kdisc", [top, base], nr, 8)
view.begin()
view.load_all()
dm, disk = view.dm, Disk(view.dm.path)
want = bytearray(pattern(1, 0, nr))


def zero(first, count):
    want[first * 512:(first + count) * 512] = bytes(count * 512)


def write(first, count, seed):
    data = pattern(seed, first, count)
    disk.write(first, data)
    want[first * 512:(first + count) * 512] = data


def record(unit):
    disk.flush()
    return top.records()[unit]


# --- discard
disk.discard(128, 128)
zero(128, 128)
equal(record(1), 1, "a unit without space of its own becomes a plain zero")
write(256, 128, 2)
old = decode(record(2))[1]
disk.discard(256, 128)
zero(256, 128)
equal(record(2), old << 9 | COPIED | 1, "one with space keeps it")
disk.discard(400, 100)
equal(record(3), 0, "a part of a unit is left alone")
disk.discard(500, 500)
zero(512, 384)
equal([record(u) for u in (3, 4, 5, 6, 7)], [0, 1, 1, 1, 0], "only the whole units inside")
same(disk.read(0, 1024), bytes(want[:1024 * 512]), "all of it reads so")
disk.discard(512, 128)
equal(record(4), 1, "again: nothing to do")

# --- a kept space is written again
with view.serving:      # a grant that is still wanted would be counted, too
    free = view.status()["layers"][1]["free"]
    write(256, 128, 3)
    equal((decode(record(2)), view.status()["layers"][1]["free"]), (("d", old, False), free),
          "a write reuses the kept space")
disk.discard(256, 128)
zero(256, 128)
write(300, 4, 4)
equal(decode(record(2))[1], old, "a small one, too")
same(disk.read(256, 128), bytes(want[256 * 512:384 * 512]), "and reads zeros around it")
write(560, 8, 5)
equal(decode(record(4))[0], "d", "a plain zero gets a place")
same(disk.read(512, 128), bytes(want[512 * 512:640 * 512]), "with zeros around it")

# --- write-zeroes
disk.zeroout(2048, 256)
zero(2048, 256)
equal([record(16), record(17)], [1, 1], "write-zeroes of whole units: zeros")
disk.zeroout(2500, 300)
zero(2500, 300)
equal([bool(record(u)) for u in (19, 20, 21)], [True, True, True], "with parts of units")
equal((decode(record(19))[0], record(20), decode(record(21))[0]), ("d", 1, "d"), "parts are data")
same(disk.read(2400, 500), bytes(want[2400 * 512:2900 * 512]), "and read so")
disk.zeroout(2052, 4)
equal(record(16), 1, "where zeros are nothing is to be done")

# --- large ones, with everything in them
write(8192, 1000, 6)
disk.discard(4096 + 64, 16384)
zero(4096 + 128, 16384 - 128)
same(disk.read(0, nr), bytes(want), "a large discard")
same(reconstruct([top, base], nr), bytes(want), "is recorded") if not disk.flush() else None
disk.zeroout(0, nr)
zero(0, nr)
same(disk.read(0, nr), bytes(want), "the whole device is zeroed")
disk.flush()
same(reconstruct([top, base], nr), bytes(want), "and recorded so")
disk.close()
view.remove()

# --- nothing is below: zeros are known, unless it is said that something will be
alone = Image(1, DISKS[1], nr, 128)
view = View("kdisc", [alone], nr, 64)
view.begin()
view.load_all()
disk = Disk(view.dm.path)


def kinds(first, end):
    disk.flush()
    return [decode(r)[0] for r in alone.records()[first:end]]


disk.zeroout(0, 256)
equal(kinds(0, 2), [None, None], "zeros that nothing is below are not said")
refused(errno.EINVAL, "zeros that are neither known nor said", view.dm.message, "layer 1 zeros no")
view.dm.message("layer 1 zeros said")
disk.discard(0, 256)
equal(kinds(0, 2), [None, None], "a discard promises nothing")
disk.write(1024, pattern(8, 1024, 128))
disk.zeroout(128, 1100)
equal(kinds(0, 11), [None] + ["z"] * 8 + ["d", None], "said: whole units are zeros, a part is data")
disk.zeroout(128, 1024)
equal(kinds(1, 8), ["z"] * 7, "again: they stay so")
view.dm.message("layer 1 zeros known")
disk.zeroout(2048, 256)
equal(kinds(16, 18), [None, None], "known again")
same(reconstruct([alone], nr), bytes(nr * 512), "all of it is zero")
disk.close()
view.remove()

# --- a format without zeros: data, or nothing
top2 = Image(1, DISKS[1], nr, 128)
top2.describe = lambda: "layer 1 unit 128 record 9 0x8000000000000000 - -"
view = View("kdisc", [top2, base], nr, 128)
view.begin()
view.load_all()
disk = Disk(view.dm.path)
disk.discard(0, 4096)
disk.flush()
equal(top2.records()[:32], [0] * 32, "a format without zeros: a discard does nothing")
same(disk.read(0, 256), pattern(1, 0, 256), "and nothing is lost")
disk.zeroout(256, 300)
disk.flush()
equal([decode(r)[0] for r in top2.records()[:6]], [None, None, "d", "d", "d", None], "write-zeroes writes data")
same(disk.read(200, 500), pattern(1, 200, 56) + bytes(300 * 512) + pattern(1, 556, 144), "that reads as zeros")
same(reconstruct([top2, base], nr), disk.read(0, nr), "and is recorded")
disk.close()
view.remove()

# --- raw
view = raw_view("kdisc", DISKS[2], nr)
view.dm.message("layer 0 unit 8 raw")
disk = Disk(view.dm.path)
disk.discard(0, 1024)
same(disk.read(0, 1024), pattern(7, 0, 1024), "raw: a discard does nothing")
disk.zeroout(100, 1000)
same(disk.read(0, 2048), pattern(7, 0, 100) + bytes(1000 * 512) + pattern(7, 1100, 948), "raw: write-zeroes writes")
same(view.chain[0].disk.read(0, nr), disk.read(0, nr), "to the layer itself")
disk.close()
view.remove()

# --- raw with zero entries: a hole that is written
base = Image(0, DISKS[2], nr)
base.disk.write(0, pattern(66, 0, 2048))
view = View("kdisc", [base], nr, 128)
view.dm.message("map 1 0 %d:z:0" % view.blocks())
disk = Disk(view.dm.path)
disk.write(300, pattern(8, 300, 4))
same(disk.read(256, 128), bytes(44 * 512) + pattern(8, 300, 4) + bytes(80 * 512), "raw: a zero block that is written")
same(base.disk.read(256, 128), disk.read(256, 128), "lies in its own place")
disk.close()
view.remove()
E2
