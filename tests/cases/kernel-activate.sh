#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Activate: a snapshot in a suspend, undone or not; refused where something would be lost.
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
plan 28
kernel_setup 4 64
python_checks "${RAM[@]}" <<'E2'
nr = 32768
base, a, b, c = (Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, 128), Image(2, DISKS[2], nr, 256),
                 Image(3, DISKS[3], nr, 8))
for s in range(0, nr, 2048):
    base.disk.write(s, pattern(1, s, 2048))
view = View("kact", [a, base], nr, 64, extra=[b, c])
view.begin()
view.load_all()
dm, disk = view.dm, Disk(view.dm.path)
disk.write(1000, pattern(2, 1000, 8))
refused(errno.EPERM, "activate needs a suspended device", dm.message, "activate 2")
disk.flush()

# --- not described
dm.suspend()
refused(errno.EINVAL, "a layer that is not described can't be active", dm.message, "activate 2")
equal(view.status()["active"], "1", "nothing has changed")
dm.resume()
dm.message(b.describe())
dm.message(c.describe())

# --- dirty: the suspend's own commit cleans it
disk.write(5000, pattern(3, 5000, 8))
disk.write(1000, pattern(4, 1000, 8))
dm.suspend()
equal(view.status()["unrecorded"], 0, "a suspend ends with a commit")
equal(view.status()["layers"][1]["clean"], True, "and a flush")
generation = view.status()["generation"]
dm.message("activate 2")
equal((view.status()["active"], view.status()["generation"]), ("2", generation + 1), "activate raises the generation")
dm.message("activate 1")
equal(view.status()["active"], "1", "until the resume it can be undone")
dm.resume()
before = disk.read(0, nr)
disk.write(5000, pattern(5, 5000, 8))
disk.flush()
equal([u for u, r in enumerate(b.records()) if r], [], "after an undo the old layer takes the writes")

# --- for real
at = disk.read(0, nr)
dm.suspend()
view.activate(b)
equal(dm.table().split()[2], "2", "the table says so")
dm.resume()
same(disk.read(0, nr), at, "the snapshot changes nothing that is read")
disk.write(1002, pattern(6, 1002, 2))
disk.write(5000, pattern(7, 5000, 8))
disk.flush()
want = bytearray(at)
want[1002 * 512:1004 * 512] = pattern(6, 1002, 2)
want[5000 * 512:5008 * 512] = pattern(7, 5000, 8)
same(disk.read(0, nr), bytes(want), "writes are read")
same(reconstruct([a, base], nr), at, "the old image is frozen")
same(reconstruct([b, a, base], nr), bytes(want), "the new one has the writes")
equal([u for u, r in enumerate(b.records()) if r], [1002 // 256, 5000 // 256], "in its own units")

# --- a failed resume or a reload with the old active layer is refused
table = view.table()[0][3].split()
table[2] = "1"
refused(errno.EINVAL, "a table with the former active layer is refused", dm.load, [(0, nr, "livechain", " ".join(table))])

# --- in a reload with a running guest
stop, written = False, 0


def guest():
    global written
    mine = Disk(dm.path)
    while not stop:
        s = (written % (nr // 16) * 7919) % (nr // 8) * 8 # half of them: the rest is for later
        mine.write(s, pattern(50, s, 8))
        written += 1
    mine.close()


w = Background(guest)
for _ in range(1000):
    try:
        view.snapshot(c)
        break
    except OSError as e:
        time.sleep(0.01)
equal(view.status()["active"], "3", "a snapshot while the guest writes")
frozen = reconstruct([b, a, base], nr)
was = written
check(wait(lambda: written > was + 10), "which goes on")
stop = True
w.end()
disk.flush()
same(reconstruct([b, a, base], nr), frozen, "the old chain does not change any more")
same(reconstruct([c, b, a, base], nr), disk.read(0, nr), "the new one is what is read")

# --- raw, alone: no
dm.suspend()
refused(errno.EINVAL, "layer 0 is not described", dm.message, "activate 0")
dm.resume()
dm.message("layer 0 unit 8 raw")
dm.suspend()
refused(errno.EINVAL, "a raw layer can't be active above others' blocks", dm.message, "activate 0")
dm.resume()

# --- the destination of a job: no
dest = Image(9, DISKS[0], nr, 128, start=65536)
view.extra.append(dest)
view.reload()
dm.message(dest.describe())
dm.message("copy j 9 none paused")
dm.suspend()
refused(errno.EBUSY, "the destination of a job can't be active", dm.message, "activate 9")
dm.resume()
dm.message("job j cancel")
view.wait_job("j")
dm.message("job j dismiss")

# --- writes that wait for the old layer's space are asked anew of the new one
view.withhold.add("pool")
dm.message("reclaim 3")
dm.message("reclaim 3 done")
disk.flush()
free = [u for u, r in enumerate(c.records()) if not r]
first = free[100] * 8
w = Background(disk.write, first, pattern(60, first, 8))
check(wait(lambda: "pool 3" in dm.message("requests")), "a write waits for space of layer 3")
dm.suspend()
check(w.is_alive(), "suspended with a write that waits")
dm.message("activate 2")
dm.resume()
view.active = b
check(wait(lambda: "pool 2" in dm.message("requests") or not w.is_alive()), "then for space of layer 2, or has it")
view.withhold.clear()
w.end()
same(disk.read(first, 8), pattern(60, first, 8), "and is done")
equal(view.status()["mode"], "rw", "the view is well")
check(view.status()["layers"][2]["entries"] > 0, "layer 2 holds it")
disk.close()
view.remove()
E2
