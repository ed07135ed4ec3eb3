#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A guest's write that comes while the old content of its block is being promoted wins.
# timeout: 300
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 6
kernel_setup 2 32
python_checks "${RAM[@]}" <<'E2'
nr, UNIT = 8192, 64
slow = Dm("kpslow", [(0, nr, "linear", "%s 0" % DISKS[1])])
base = Image(0, slow.path, nr, disk=Disk(DISKS[1]))
top = Image(1, DISKS[0], nr, UNIT)
base.disk.write(0, pattern(1, 0, nr))
want = bytearray(pattern(1, 0, nr))
view = View("kpview", [top, base], nr, UNIT)
view.begin()
view.load_all()
disk = Disk(view.dm.path)
disk.write(nr - UNIT, pattern(2, nr - UNIT, UNIT))
want[-UNIT * 512:] = pattern(2, nr - UNIT, UNIT)
# reads of the lower layer wait until it is resumed
slow.suspend()
view.dm.message("promote a only 0")
time.sleep(1)
check(view.job("a")["copied"] == 0, "the first blocks are being read")
guests = []
for unit in (0, 3, 7, 10):
    guests.append(Background(disk.write, unit * UNIT, pattern(3, unit * UNIT, UNIT)))
    want[unit * UNIT * 512:(unit + 1) * UNIT * 512] = pattern(3, unit * UNIT, UNIT)
time.sleep(1)
check(view.job("a")["copied"] == 0, "they still are")
slow.resume()
for g in guests:
    g.end()
equal(view.wait_job("a")["result"], "ok", "promoted")
same(disk.read(0, nr), bytes(want), "the guest's writes have won")
equal(view.status()["layers"][0]["entries"], 0, "nothing is left below")
view.commit()
same(reconstruct([top], nr), bytes(want), "and the image alone holds them")
disk.close()
view.remove()
slow.remove()
E2
