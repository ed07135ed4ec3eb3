#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The map is loaded on demand, filled where it is absent only, and forgotten.
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
plan 35
kernel_setup 3 32
python_checks "${RAM[@]}" <<'E2'
nr = 3 * 512 * 8 - 32          # two slices and a short one
base, mid = Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, start=16)
for image, seed in ((base, 1), (mid, 2)):
    image.disk.write(image.start, pattern(seed, 0, nr))
view = View("kmap", [mid, base], nr, 8, active=False)
dm, disk = view.dm, Disk(view.dm.path)


def status():
    return view.status()


s = status()
equal((s["generation"], s["mode"], s["loaded"], s["slices"]), (1, "ro", 0, 3), "a new view's status")
equal(dm.message("requests").strip(), "", "nothing is wanted")

# --- a read parks, says so, goes on
events = dm.events()
r = Background(disk.read, 4096, 8)
check(wait(lambda: dm.message("requests").strip() == "slice 512"), "a read of an absent slice asks for it")
check(wait(lambda: dm.events() > events), "and raises an event")
equal(status()["parked"], 1, "it is counted")
r2 = Background(disk.read, 0, 16)
check(wait(lambda: dm.message("requests").strip() in ("slice 512 0", "slice 0 512")), "two slices are wanted")
equal(dm.message("map 1 512 512:d:0:4096"), "filled 1", "one is filled")
same(r.end(), pattern(1, 4096, 8), "its read goes on")
equal(dm.message("requests").strip(), "slice 0", "the other is still wanted")
check(r2.is_alive(), "and its read waits")
equal(dm.message("map 1 0 1024:d:1:0"), "filled 1", "a slice that is loaded is left as it is")
same(r2.end(), pattern(2, 0, 16), "the other read goes on")
same(disk.read(4096, 8), pattern(1, 4096, 8), "the first slice has not changed")
s = status()
equal((s["loaded"], s["parked"]), (2, 0), "two are loaded, nobody waits")
equal((s["layers"][0]["entries"], s["layers"][1]["entries"]), (512, 512), "entries are counted by layer")

# --- kinds of runs, in the short slice: 508 blocks
equal(dm.message("map 1 1024 1:z 1:z:0 1:z:1:s 2:z:0:0 3:d:0:8192:s 100:d:1:16 400:d:1:1600"), "filled 1",
      "a slice of many runs")
want = bytes(5 * 8 * 512) + pattern(1, 8192, 24) + pattern(2, 16, 800) + pattern(2, 1600, 3200)
same(disk.read(8192, 4064), want, "each reads as it says")
same(disk.read(8192 + 39, 2), bytes(512) + pattern(1, 8192, 1), "over an edge")
refused(errno.EIO, "without an active layer a write fails", disk.write, 0, bytes(512))

# --- stale
before = disk.read(0, nr)
dm.message("forget 0 512")
s = status()
equal((s["generation"], s["loaded"]), (2, 2), "forget drops a slice and raises the generation")
equal(s["layers"][1]["entries"], 500 + 1, "its entries are not counted any more")
equal(dm.message("map 1 0 512:z"), "stale 2", "an old generation changes nothing")
equal(status()["loaded"], 2, "nothing was filled")
equal(dm.message("map 2 0 512:d:0:0"), "filled 1", "the new one does")
same(disk.read(0, 16), pattern(1, 0, 16), "and that is read")
dm.message("forget 0 1532")
equal(status()["loaded"], 0, "everything is forgotten")
equal([l["entries"] for l in status()["layers"].values()], [0, 0], "and counted out")
equal(dm.message("map 3 0 1024:z 508:d:0:8192"), "filled 3", "three slices in one message")
same(disk.read(8192, 8), pattern(1, 8192, 8), "the last one")

# --- beyond a layer's end there is zero
size = mid.disk.sectors() - 16
dm.message("forget 0 1532")
dm.message("map 4 0 1532:d:1:%d" % (size - 40))
same(disk.read(0, 64), mid.disk.read(16 + size - 40, 40) + bytes(24 * 512), "beyond a layer's end there are zeros")

# --- a layer may be left out when no entry names it
view.chain = [base]
refused(errno.EINVAL, "a table without a layer that entries name is refused", dm.load, view.table())
dm.message("forget 0 1532")
view.reload()
equal(list(status()["layers"]), [0], "when they are forgotten it is not")

# --- parked reads survive suspends and reloads
r = Background(disk.read, 4096, 8)
check(wait(lambda: status()["parked"] == 1), "a read waits")
view.chain = [mid, base]
view.reload()
for noflush in (True, True):
    dm.suspend(noflush)
    dm.resume()
check(wait(lambda: "slice 512" in dm.message("requests")), "after a reload it asks again")
dm.message("map %d 0 1532:d:0:0" % status()["generation"])
same(r.end(), pattern(1, 4096, 8), "and is served")
disk.close()
view.remove()
E2
