#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Grants, their numbers, reclaim; writes without space or without a home wait and go on.
# timeout: 120
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 56
kernel_setup 2 64
python_checks "${RAM[@]}" <<'E2'
nr = 65536
base, top = Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, 128)
for s in range(0, nr, 2048):
    base.disk.write(s, pattern(1, s, 2048))
view = View("kpool", [top, base], nr, 128)
view.load_all()
dm, disk = view.dm, Disk(view.dm.path)
S = top.end


def layer():
    return view.status()["layers"][1]


def requests():
    return dm.message("requests").split("\n")


# --- numbers
equal((layer()["grant"], layer()["free"], layer()["unit"]), (0, 0, "128"), "no grant yet")
equal(dm.message("grant 1 5 %d+256" % S), "granted 5", "the first grant")
equal((layer()["grant"], layer()["free"]), (5, 256), "is counted")
equal(dm.message("grant 1 5 %d+256" % S), "granted 5", "the same again")
equal(dm.message("grant 1 3 %d+256" % (S + 1024)), "granted 5", "an older one")
equal(layer()["free"], 256, "change nothing")
equal(dm.message("grant 1 9 %d+128 %d+256" % (S + 512, S + 1024)), "granted 9", "numbers may have gaps")
equal(layer()["free"], 640, "two ranges")

# --- reclaim
offer = "%d+256 %d+128 %d+256" % (S, S + 512, S + 1024)
equal(dm.message("reclaim 1"), offer, "reclaim offers all that is unused")
equal(dm.message("reclaim 1"), offer, "and the same when asked again")
equal(layer()["free"], 0, "it is out of the pool")
equal(dm.message("grant 1 10 %d+128" % (S + 2048)), "granted 10", "a grant meanwhile")
equal(layer()["free"], 128, "is free")
dm.message("reclaim 1 done")
dm.message("reclaim 1 done")
equal(dm.message("reclaim 1"), "%d+128" % (S + 2048), "done: only the new one is offered")
dm.message("reclaim 1 done")
equal(dm.message("reclaim 1").strip(), "", "nothing is left to offer")

# --- a write without a home waits, and says so
events = dm.events()
w = Background(disk.write, 1024, pattern(2, 1024, 8))
check(wait(lambda: "home 1 0" in requests()), "a write asks for its home")
check(wait(lambda: dm.events() > events), "an event is raised")
equal(view.status()["parked"], 1, "it is counted")
same(disk.read(1024, 8), pattern(1, 1024, 8), "reads of the block go on")
other = Disk(view.dm.path)
r = Background(other.write, 1030, pattern(3, 1030, 1))
time.sleep(0.2)
check(w.is_alive() and r.is_alive(), "a second write to the unit waits behind it")
dm.message("home 1 %s" % top.home(0))
check(wait(lambda: [x for x in requests() if x.startswith("pool 1 0 8192 1")]), "with the home it wants space")
check(w.is_alive(), "and waits for that")
equal(dm.message("grant 1 11 %d+128" % (S + 4096)), "granted 11", "space comes")
w.end()
r.end()
want = pattern(2, 1024, 6) + pattern(3, 1030, 1) + pattern(2, 1031, 1) + pattern(1, 1032, 120)
same(disk.read(1024, 128), want, "both are done")
disk.flush()
equal(decode(top.records()[8]), ("d", S + 4096, False), "in the granted place")
equal(layer()["free"], 0, "which is taken")

# --- a grant that does not suffice; another home
w = Background(disk.write, 2048, pattern(4, 2048, 512))
check(wait(lambda: [x for x in requests() if x.startswith("pool 1 0 8192 1")]), "a large write wants space")
dm.message("grant 1 12 %d+128" % (S + 8192))
time.sleep(0.2)
check(w.is_alive(), "a part of it does not do")
check(wait(lambda: layer()["free"] == 0), "but is used")
dm.message("grant 1 13 %d+128 %d+1024" % (S + 8192 + 256, S + 16384))
w.end()
same(disk.read(2048, 512), pattern(4, 2048, 512), "with enough it is done")
equal(layer()["free"], 1152 - 384, "the rest stays")

# --- no need for space: in place goes on
dm.message("reclaim 1")
dm.message("reclaim 1 done")
disk.write(2100, pattern(5, 2100, 8))
same(disk.read(2100, 8), pattern(5, 2100, 8), "a write in place needs no pool")

# --- suspends with a write that waits
w = Background(disk.write, 30000, pattern(6, 30000, 8))
check(wait(lambda: [x for x in requests() if x.startswith("pool")]), "a write waits for space")
for _ in range(3):
    dm.suspend()
    dm.resume()
view.reload()
check(w.is_alive(), "it waits through suspends and a reload")
check(wait(lambda: [x for x in requests() if x.startswith("pool 1 0 8192 1")]), "and still says so")
dm.message("grant 1 14 %d+128" % (S + 20000 // 128 * 128))
w.end()
same(disk.read(30000, 8), pattern(6, 30000, 8), "it is done in the end")

# --- there is no space: who waits fails, who comes asks again
w = Background(disk.write, 40000, pattern(8, 40000, 8))
check(wait(lambda: [x for x in requests() if x.startswith("pool 1 0 8192 1")]), "a write waits for space")
refused(errno.EINVAL, "of a layer that is not active none can be missing", dm.message, "layer 0 nospace")
check(w.is_alive(), "it waits")
dm.message("layer 1 nospace")
refused(errno.ENOSPC, "until it is told that there is none", w.end)
w = Background(disk.write, 40000, pattern(8, 40000, 8))
check(wait(lambda: [x for x in requests() if x.startswith("pool 1 0 8192 1")]), "the next one waits")
dm.message("layer 1 error")
refused(errno.EIO, "until it is told that there is an error", w.end)
same(disk.read(40000, 8), pattern(1, 40000, 8), "nothing is changed")
w = Background(disk.write, 40000, pattern(8, 40000, 8))
check(wait(lambda: [x for x in requests() if x.startswith("pool 1 0 8192 1")]), "the next one waits")
dm.message("grant 1 15 %d+128" % (S + 24576))
w.end()
same(disk.read(40000, 8), pattern(8, 40000, 8), "and is done with space")

# --- low
dm.message("layer 1 low 0")
equal([x for x in requests() if x], [], "low 0: an empty pool is not asked for")
dm.message("layer 1 low 256")
equal([x for x in requests() if x], ["pool 1 0 256 0"], "low 256: it is")
dm.message("grant 1 16 %d+256" % (S + 40960))
equal([x for x in requests() if x], [], "until there is so much")
events = dm.events()
disk.write(50048, pattern(7, 50048, 8))
check(wait(lambda: dm.events() > events), "an event when it falls below")
equal([x for x in requests() if x], ["pool 1 128 256 0"], "and a line")
disk.flush()
same(reconstruct([top, base], nr), disk.read(0, nr), "the records say what is read")
disk.close()
other.close()
view.remove()

# --- units smaller than a block: the last block, which ends with the view, has not all of its grain
nr = 4096 + 32
base, top = Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, 32)
view = View("kpool", [top, base], nr, 128)
view.load_all()
dm, disk, S = view.dm, Disk(view.dm.path), top.end
behind = pattern(9, S, 256)
top.disk.write(S, behind)
dm.message("home 1 %s" % top.home(0))
dm.message("grant 1 1 %d+256" % S)
disk.write(4096, pattern(2, 4096, 8))
equal(sorted(dm.message("reclaim 1").split()), ["%d+96" % (S + 32), "%d+128" % (S + 128)],
      "what is behind the view's end is free again")
dm.message("reclaim 1 done")
same(top.disk.read(S + 32, 224), behind[32 * 512:], "and was not written")
disk.discard(4096, 32)
same(disk.read(4096, 32), bytes(32 * 512), "a zero that keeps its space")
disk.write(4104, pattern(3, 4104, 8))
same(top.disk.read(S + 32, 224), behind[32 * 512:], "is written no farther either")
disk.flush()
same(reconstruct([top, base], nr), disk.read(0, nr), "the records say what is read")
disk.close()
view.remove()
E2
