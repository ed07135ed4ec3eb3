#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What a promotion has copied is durable before a record names it, at each moment of the log of all writes.
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
require_module dm-log-writes
plan 6
kernel_setup 3 64
python_checks "${RAM[@]}" <<'E2'
import struct

nr, UNIT = 16384, 64
rng = random.Random(int(os.environ["SEED"]))
size = 65536


def read_log(path):
    """Yields (sector, sectors, flags, data) of a dm-log-writes device."""
    disk = Disk(path)
    magic, version, n, block = struct.unpack("<QQQI", disk.read(0, 1)[:28])
    assert magic == 0x6a736677736872 and block == 512, (magic, block)
    at = 1
    for _ in range(n):
        sector, sectors, flags, length = struct.unpack("<QQQQ", disk.read(at, 1)[:32])
        at += 1
        data = b""
        if not flags & (DISCARD | MARK) and sectors:
            data = disk.read(at, sectors)
            at += sectors
        yield sector, sectors, flags, data
    disk.close()


FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
log = Dm("kplog", [(0, size, "log-writes", "%s %s" % (DISKS[0], DISKS[2]))])
top, base = Image(1, log.path, nr, UNIT), Image(0, DISKS[1], nr, UNIT)
base.set_records([(base.alloc(UNIT) << 9) | COPIED if rng.random() < 0.7 else rng.choice([0, 1])
                  for _ in range(base.units)])
for s in range(max(base.page_sector) + 8, base.end, 1024):
    base.disk.write(s, pattern(3, s, min(1024, base.end - s)))
want = bytearray(reconstruct([top, base], nr))
view = View("kporder", [top, base], nr, UNIT)
view.grant_sectors = 512
view.begin()
disk = Disk(view.dm.path)
view.dm.message("promote a only 0 speed %d" % (4 << 20))
n = 0
while view.job("a")["state"] != "concluded":
    s = rng.randrange(nr // 8) * 8
    disk.write(s, pattern(50 + n, s, 8))
    want[s * 512:s * 512 + 4096] = pattern(50 + n, s, 8)
    n += 1
    time.sleep(0.002)   # the log has room for so many
    if not n % 20:
        view.dm.message("commit")
equal(view.job("a")["result"], "ok", "promoted, and %d writes meanwhile" % n)
same(disk.read(0, nr), bytes(want), "the device holds what it should")
view.commit()
disk.close()
view.remove()
same(reconstruct([top], nr), bytes(want), "and so does the image alone")
top.disk.close()
log.remove()

records, durable, written = {}, set(), set()
early, named, flushes, space = 0, 0, 0, set()
for sector, sectors, flags, data in read_log(DISKS[2]):
    if flags & FLUSH:
        durable |= written
        written = set()
        flushes += 1
    for page, at in enumerate(top.page_sector):
        if not data or not sector <= at < sector + sectors:
            continue
        cut = data[(at - sector) * 512:(at - sector) * 512 + 4096]
        for i, record in enumerate(struct.unpack(">512Q", cut)):
            unit = page * 512 + i
            kind, where, _ = decode(record)
            if record == records.get(unit, 0):
                continue
            records[unit] = record
            if kind != "d":
                continue
            named += 1
            space.add(where)
            early += not durable.issuperset(range(where, where + UNIT))
    if data:
        (durable if flags & FUA else written).update(range(sector, sector + sectors))
check(flushes > 3 and named > 100, "the log has seen it (%d flushes, %d records)" % (flushes, named))
equal(early, 0, "no record names what is not durable")
equal(len(space), named, "no space is named twice")
E2
