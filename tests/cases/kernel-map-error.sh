#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Error runs of the map: I/O to their blocks fails at once, all around is served; a copy meets a read error.
# timeout: 240
. "$(dirname "$0")/../lib-kernel.sh"
plan 44
kernel_setup 3 32
python_checks "${RAM[@]}" <<'E2'
nr = 3 * 512 * 8
base, top = Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, unit=16)
dest = Image(2, DISKS[2], nr)
base.disk.write(0, pattern(1, 0, nr))
view = View("kerr", [top, base], nr, 8, extra=[dest])
dm, disk = view.dm, Disk(view.dm.path)
for page in range(2):
    dm.message("home 1 " + top.home(page))
view.grant(top)

# Blocks 101 to 104 and all of the second slice.
LOST = "101:d:0:0 4:e 407:d:0:840"
equal(dm.message("map 1 0 %s 512:e 512:d:0:8192" % LOST), "filled 3", "slices with errors are filled")
s = view.status()
equal((s["layers"][0]["entries"], s["layers"][1]["entries"]), (1024 - 4, 0), "errors are nobody's entries")
free = s["layers"][1]["free"]


def eio(text, fn, *args):
    refused(errno.EIO, text, fn, *args)


# --- reads
for block, text in ((101, "the first"), (104, "the last"), (512, "of a whole slice the first"), (1023, "and the last")):
    eio("block %d does not read (%s)" % (block, text), disk.read, block * 8, 8)
eio("nor one sector of it", disk.read, 104 * 8 + 7, 1)
same(disk.read(90 * 8, 88), pattern(1, 90 * 8, 88), "what is in front of them reads")
same(disk.read(105 * 8, 64), pattern(1, 105 * 8, 64), "and what is behind")
same(disk.read(1024 * 8, 64), pattern(1, 1024 * 8, 64), "and behind the slice")
eio("a read into them fails", disk.read, 96 * 8, 64)
eio("a read out of them too", disk.read, 1020 * 8, 64)
eio("and one over them", disk.read, 100 * 8, 48)

# --- a read that has waited
dm.message("forget 0 512")
other = Disk(dm.path)
r, good = Background(disk.read, 100 * 8, 48), Background(other.read, 60 * 8, 64)
check(wait(lambda: view.status()["parked"] == 2), "reads wait for the slice")
view.generation = view.status()["generation"]
equal(dm.message("map %d 0 %s" % (view.generation, LOST)), "filled 1", "it is filled, with an error")
eio("the one over the error fails", r.end, 10)
same(good.end(), pattern(1, 60 * 8, 64), "the other one does not")

# --- writes: units of two blocks
for first, count, text in ((101, 1, "an error"), (102, 2, "a whole unit of them"), (100, 1, "the good half of a unit"),
                           (100, 6, "around all of them"), (600, 16, "a slice of them")):
    eio("a write fails: " + text, disk.write, first * 8, pattern(2, first * 8, count * 8))
equal(view.status()["layers"][1]["free"], free, "none has taken space")
eio("so does one that begins before them", disk.write, 90 * 8, pattern(2, 90 * 8, 11 * 8 + 8))
equal(view.status()["mode"], "rw", "the view takes writes all the same")
disk.write(106 * 8, pattern(3, 106 * 8, 12))
disk.write(98 * 8, pattern(3, 98 * 8, 16))
same(disk.read(105 * 8, 40), pattern(1, 105 * 8, 8) + pattern(3, 106 * 8, 12) + pattern(1, 107 * 8 + 4, 20),
     "beside them they are written")
same(disk.read(98 * 8, 16), pattern(3, 98 * 8, 16), "in front of them too")
disk.flush()
check(wait(lambda: view.status()["unrecorded"] == 0), "and recorded")
records = top.records(49, 5)
equal([bool(r) for r in records[1:4]], [False] * 3, "units with an error are not")
check(records[0] and records[4], "the others are")

# --- zeros
eio("write-zeroes fails on them", disk.zeroout, 101 * 8, 8)
eio("also of a whole unit", disk.zeroout, 102 * 8, 16)
disk.discard(96 * 8, 128)
eio("a discard leaves them", disk.read, 101 * 8, 8)
same(disk.read(106 * 8, 32), bytes(32 * 512), "and does what is around")
disk.flush()
equal([bool(r) for r in top.records(50, 3)], [False] * 3, "nothing is recorded of them")

# --- a copy
disk.write(0, pattern(4, 0, 64))
for mode in ("none", "before-write"):
    if mode == "before-write":
        dm.suspend()
    dm.message("copy a 2 %s" % mode)
    dm.resume()
    equal(view.wait_job("a")["result"], "error:read:5", mode + ": a copy sees a read error")
    dm.message("job a dismiss")
dm.suspend()
dm.message("copy b 2 before-write on-source-error stop timeout 3000 paused")
dm.resume()
disk.write(98 * 8, pattern(5, 98 * 8, 8))
check(True, "a write beside an error waits no longer for it than the timeout")
equal(view.wait_job("b")["result"], "error:read:110", "the job ends instead")
dm.message("job b dismiss")
dm.message("copy c 2 none on-source-error stop")
equal(view.wait_job("c", "paused")["result"], "stopped:read:5", "or it stops")

# --- what was repaired is loaded again
view.commit()
dm.message("forget 0 1024")
view.generation = view.status()["generation"]
view.begin()
dm.message("job c resume")
equal(view.wait_job("c")["result"], "ok", "when the map is good it goes on")
same(disk.read(100 * 8, 48), pattern(1, 100 * 8, 48), "the blocks read again")
same(dest.disk.read(0, nr), disk.read(0, nr), "and the copy is exact")
disk.write(101 * 8, pattern(6, 101 * 8, 24))
same(disk.read(101 * 8, 24), pattern(6, 101 * 8, 24), "and are written")
view.end()
for d in (disk, other, base.disk, top.disk, dest.disk):
    d.close()
view.remove()
E2
