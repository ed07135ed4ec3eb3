#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A copy job copies a chain, and goes through its states as the verbs say.
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
plan 48
kernel_setup 4 64
python_checks "${RAM[@]}" <<'E2'
nr = 65536 + 24
base, top = Image(0, DISKS[0], nr), Image(1, DISKS[1], nr, 128)
for s in range(0, nr, 2048):
    if s % 6144:
        base.disk.write(s, pattern(1, s, min(2048, nr - s)))
    else:
        base.disk.write(s, bytes(min(2048, nr - s) * 512))
for unit in range(0, top.units, 3):
    top.put(unit, pattern(2, unit * 128, 128))
for unit in range(1, top.units, 7):
    top.set_record(unit, 1)
dest = copy_dest(DISKS[2], nr)
view = View("kcopy", [top, base], nr, 128, extra=[dest])
view.begin()
want = reconstruct([top, base], nr)

# --- mode none: the whole chain, slices asked for as it goes
events = view.dm.events()
view.dm.message("copy a 9 none")
job = view.wait_job("a")
equal(job, dict(state="concluded", copied=nr * 512, total=nr * 512, speed=0, result="ok", layer=9),
      "the status of a job that is done")
same(dest.disk.read(0, nr), want, "the destination holds the chain, zeros too")
check(wait(lambda: view.dm.events() > events), "events were raised")
refused(errno.EPERM, "a concluded job can't be paused", view.dm.message, "job a pause")
refused(errno.EPERM, "... nor resumed", view.dm.message, "job a resume")
refused(errno.EPERM, "... nor given a speed", view.dm.message, "job a speed 5")
view.dm.message("job a cancel")
equal(view.job("a")["result"], "ok", "cancelling it changes nothing")
view.dm.message("job a dismiss")
equal(view.job("a"), None, "a dismissed job is gone")
refused(errno.ENOENT, "... and can't be dismissed again", view.dm.message, "job a dismiss")

# --- paused from the start, speed, resume
dest.disk.write(0, pattern(666, 0, 2048))
view.dm.message("copy b 9 none paused speed 1048576")
job = view.job("b")
equal((job["state"], job["speed"], job["result"]), ("paused", 1 << 20, "-"), "a job that starts paused")
refused(errno.EEXIST, "a second job of that name is refused", view.dm.message, "copy b 9 none")
refused(errno.EBUSY, "... and one that writes to the same layer", view.dm.message, "copy c 9 none")
generation = view.status()["generation"]
refused(errno.EBUSY, "... and a map that names it", view.dm.message, "map %d 0 512:d:9:0" % generation)
refused(errno.EBUSY, "... and a remap", view.dm.message, "remap %d 0 if-layer 0 512:d:9:0" % generation)
refused(errno.EPERM, "a living job can't be dismissed", view.dm.message, "job b dismiss")
time.sleep(0.3)
equal(view.job("b")["copied"], 0, "while it is paused nothing is copied")
view.dm.message("job b resume")
check(wait(lambda: view.job("b")["copied"] > 0), "it goes on when resumed")
view.dm.message("job b pause")
view.dm.message("job b pause")
equal(view.job("b")["state"], "paused", "paused again, and again is no error")
copied = settled(lambda: view.job("b")["copied"])
time.sleep(0.3)
equal(view.job("b")["copied"], copied, "what was copied stays as it is")
view.dm.message("job b speed 0")
view.dm.message("job b resume")
job = view.wait_job("b")
equal((job["result"], job["speed"], job["copied"]), ("ok", 0, nr * 512), "without a limit it ends soon")
same(dest.disk.read(0, nr), want, "and has copied everything")
view.dm.message("job b dismiss")

# --- cancel
view.dm.message("copy d 9 none paused")
view.dm.message("job d cancel")
job = view.wait_job("d")
equal((job["state"], job["result"], job["copied"]), ("concluded", "cancelled", 0), "a paused job is cancelled")
view.dm.message("job d dismiss")
view.dm.message("copy d 9 none speed 65536")
view.dm.message("job d cancel")
equal(view.wait_job("d")["result"], "cancelled", "a running job is cancelled")
view.dm.message("job d dismiss")

# --- before-write: only while suspended; created until the resume
refused(errno.EPERM, "before-write needs a suspended device", view.dm.message, "copy e 9 before-write")
view.dm.suspend()
view.dm.message("copy e 9 before-write")
equal(view.job("e")["state"], "created", "made while suspended it is created")
view.dm.message("job e cancel")
equal(view.job("e")["state"], "concluded", "cancelled while suspended it concludes at once")
view.dm.message("job e dismiss")
view.dm.message("copy e 9 before-write paused")
time.sleep(0.1)
equal(view.job("e")["copied"], 0, "nothing is copied while suspended")
view.dm.resume()
equal(view.job("e")["state"], "paused", "a paused one is paused after the resume")

# --- what guests' writes need is copied though it is paused
disk = Disk(view.dm.path)
disk.write(1024, pattern(50, 1024, 8))
check(wait(lambda: view.job("e")["copied"] == 65536), "a write has its grain copied first",
      view.dm.status())
same(dest.disk.read(1024, 128), want[1024 * 512:1152 * 512], "the old content")
disk.write(1032, pattern(51, 1032, 8))
disk.zeroout(1040, 8)
equal(view.job("e")["copied"], 65536, "a second write to the grain needs no copy")
disk.write(128 * 31 + 40, pattern(52, 128 * 31 + 40, 200))
check(wait(lambda: view.job("e")["copied"] == 3 * 65536), "a write over two grains copies both")
try:
    disk.discard(128 * 64, 128)
    check(wait(lambda: view.job("e")["copied"] == 4 * 65536), "a discard does, too")
except OSError as e:
    check(False, "a discard does, too", str(e))
disk.write(nr - 8, pattern(53, nr - 8, 8))
check(wait(lambda: view.job("e")["copied"] == 4 * 65536 + 24 * 512), "the short grain at the end")
view.dm.message("job e resume")
job = view.wait_job("e")
equal((job["result"], job["copied"]), ("ok", nr * 512), "the job ends well")
same(dest.disk.read(0, nr), want, "the copy is the view at the job's start")
same(disk.read(1024, 24), pattern(50, 1024, 8) + pattern(51, 1032, 8) + bytes(8 * 512), "the writes are there")
view.dm.message("job e dismiss")

# --- a larger grain
view.dm.suspend()
view.dm.message("copy f 9 before-write grain 1024 paused")
view.dm.resume()
now = disk.read(0, nr)
disk.write(5000, pattern(54, 5000, 8))
check(wait(lambda: view.job("f")["copied"] == 1024 * 512), "grain 1024 copies so much for a write")
view.dm.message("job f resume")
equal(view.wait_job("f")["result"], "ok", "and ends well")
same(dest.disk.read(0, nr), now, "and is the view at its start")
view.dm.message("job f dismiss")

# --- on-demand: what a guest writes over and no more, whatever the verbs
view.dm.suspend()
view.dm.message("copy i 9 before-write on-demand grain 256")
view.dm.resume()
now = disk.read(0, nr)
disk.write(5000, pattern(56, 5000, 8))
check(wait(lambda: view.job("i")["copied"] == 256 * 512), "on-demand copies a grain for a write")
view.dm.message("job i pause")
equal(view.job("i")["state"], "paused", "it can be paused")
view.dm.message("job i resume")
time.sleep(1)
equal((view.job("i")["state"], view.job("i")["copied"]), ("running", 256 * 512), "resumed it copies no more")
for s in range(0, nr, 256):
    disk.write(s, pattern(57, s, 8))
wait(lambda: view.job("i")["copied"] == nr * 512)
job = view.job("i")
equal((job["state"], job["copied"]), ("running", nr * 512), "all is saved, and it goes on")
same(dest.disk.read(0, nr), now, "the copy is the view at its start")
view.dm.message("job i cancel")
view.wait_job("i")
view.dm.message("job i dismiss")

# --- two before-write jobs, different grains
dest2 = copy_dest(DISKS[3], nr, 8)
view.extra.append(dest2)
view.reload()
now = disk.read(0, nr)
view.dm.suspend()
view.dm.message("copy g 9 before-write paused")
view.dm.message("copy h 8 before-write paused grain 512")
view.dm.resume()
for s in range(0, 30000, 777):
    disk.write(s, pattern(55, s, 8))
view.dm.message("job h resume")
view.dm.message("job g resume")
equal((view.wait_job("g")["result"], view.wait_job("h")["result"]), ("ok", "ok"), "two jobs end well")
same(dest.disk.read(0, nr), now, "the first is the view at its start")
same(dest2.disk.read(0, nr), now, "the second, too")
disk.close()
view.remove()
E2
