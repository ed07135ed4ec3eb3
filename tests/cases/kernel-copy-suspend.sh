#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Suspends, reloads, a snapshot and a full destination pool during a copy.
# timeout: 180
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 22
kernel_setup 5 96
python_checks "${RAM[@]}" <<'E2'
nr = 131072
base, top, over = Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, 128), Image(2, DISKS[2], nr, 256)
for s in range(0, nr, 2048):
    base.disk.write(s, pattern(1, s, 2048))
dest = copy_dest(DISKS[3], nr)
view = View("ksusp", [top, base], nr, 64, extra=[dest, over])
view.begin()
view.load_all()
disk = Disk(view.dm.path)
rng = random.Random(int(os.environ["SEED"]))
stop, written = False, [0]


def guest():
    mine = Disk(view.dm.path)
    n = 0
    while not stop:
        s = rng.randrange(nr // 32) * 8     # a quarter: its grains are copied before, the others slowly
        mine.write(s, pattern(90, s, 8))
        written[0] = n = n + 1
        time.sleep(0.05)
    mine.close()
    return n


def copied():
    return view.job("a")["copied"]


# --- suspended: nothing moves; then it goes on
now = disk.read(0, nr)
start_copy(view, "a", "before-write", "speed %d" % (256 << 10))
writer = Background(guest)
for noflush in (True, False):
    check(wait(lambda: copied() > 0), "the copy is under way")
    view.dm.suspend(noflush=noflush)
    at, t0 = copied(), dest.disk.read(0, nr)
    time.sleep(0.3)
    equal(copied(), at, "suspended (noflush %s): no progress" % noflush)
    same(dest.disk.read(0, nr), t0, "suspended: the destination does not change")
    equal(view.job("a")["state"], "running", "suspended: the job is still running")
    view.dm.resume()
    check(wait(lambda: copied() > at), "resumed: it goes on")
for _ in range(5):
    view.dm.suspend()
    view.dm.resume()
    view.reload()
check(view.job("a")["state"] == "running", "reloads leave it running")

# --- a table without the destination is refused while the job needs it
view.extra.remove(dest)
refused(errno.EINVAL, "a table without the destination is refused", view.dm.load, view.table())
view.extra.append(dest)

# --- a snapshot meanwhile: another active layer with a larger unit
view.dm.message(over.describe())
for _ in range(500):
    try:
        view.snapshot(over)
        break
    except OSError:
        time.sleep(0.05)
equal(view.status()["active"], "2", "a snapshot during the copy")
check(wait(lambda: written[0] > 20), "the guest writes meanwhile")
view.dm.message("job a speed 0")
job = view.wait_job("a")
equal((job["result"], job["copied"]), ("ok", nr * 512), "the job ends well")
stop = True
writer.end()
same(dest.disk.read(0, nr), now, "the copy is the view at the job's start")
view.dm.message("job a dismiss")

# --- the destination is another view, which allocates from grants
image = Image(5, DISKS[4], nr, 128)
target = View("kdest", [image], nr, 128)
target.begin()
view.extra.append(Image(6, target.dm.path, nr))
view.reload()
now = disk.read(0, nr)
stop = False
start_copy(view, "b", "before-write", "", 6)
writer = Background(guest)
job = view.wait_job("b")
equal((job["result"], job["copied"]), ("ok", nr * 512), "a copy into another view ends well")
stop = True
equal(target.status()["unrecorded"], 0, "it is flushed when it ends")
writer.end()
same(reconstruct([image], nr), now, "and its image is the view at the job's start")
view.dm.message("job b dismiss")

# --- its pool runs dry: the copy waits, the guest does not, suspend does not hang for ever
target.withhold.add("pool")
target.commit()
image.clear()
target.dm.suspend()
target.dm.resume()
fresh = pattern(99, 0, 8)
start_copy(view, "c", "before-write", "speed 65536", 6)
w = Background(disk.write, 8000, pattern(99, 8000, 8))
w.end(15)     # its time limit is 30 s
check(True, "a guest's write does not wait for the destination's pool")
target.withhold.clear()
view.dm.message("job c speed 0")
equal(view.wait_job("c")["result"], "ok", "with grants the job ends well")
view.dm.message("job c dismiss")
check(target.status()["layers"][5]["entries"] > 0, "the target has entries")
disk.close()
view.remove()
view.extra[-1].disk.close()
target.remove()
E2
