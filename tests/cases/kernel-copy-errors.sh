#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Errors of a copy's source and destination: reported or stopped at, never the guest's.
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
plan 32
kernel_setup 3 64
python_checks "${RAM[@]}" <<'E2'
nr = 65536


def linear(first, count, disk):
    return (first, count, "linear", "%s %d" % (disk, first))


def good(disk):
    return [linear(0, nr, disk)]


def bad(disk, at, count=8):
    return [linear(0, at, disk), (at, count, "error", ""), linear(at + count, nr - at - count, disk)]


def switch(dm, table):
    dm.load(table)
    dm.suspend()
    dm.resume()


src, dst = Dm("kesrc", good(DISKS[0])), Dm("kedst", good(DISKS[1]))
dest = copy_dest(dst.path, nr)
view = raw_view("kerr", src.path, nr, dest=[dest])
disk = Disk(view.dm.path)


def run(name, options, mode="before-write"):
    start_copy(view, name, mode, options)


def finish(name):
    job = view.wait_job(name)
    view.dm.message("job %s dismiss" % name)
    return job


for mode in ("none", "before-write"):
    # --- report
    switch(dst, bad(DISKS[1], 30000))
    run("a", "", mode)
    equal(finish("a")["result"], "error:write:5", mode + ": a failing write is reported")
    switch(dst, good(DISKS[1]))
    switch(src, bad(DISKS[0], 30000))
    run("a", "", mode)
    equal(finish("a")["result"], "error:read:5", mode + ": a failing read is reported")

    # --- stop, and again after resume
    switch(src, good(DISKS[0]))
    switch(dst, bad(DISKS[1], 30000))
    run("a", "on-target-error stop", mode)
    job = view.wait_job("a", "paused")
    equal(job["result"], "stopped:write:5", mode + ": a failing write stops the job")
    view.dm.message("job a resume")
    check(wait(lambda: view.job("a")["result"] == "stopped:write:5"), mode + ": and stops it again")
    switch(dst, good(DISKS[1]))
    view.dm.message("job a resume")
    job = finish("a")
    equal((job["result"], job["copied"]), ("ok", nr * 512), mode + ": resume retries it")
    same(dest.disk.read(0, nr), disk.read(0, nr), mode + ": nothing is left out")

    switch(src, bad(DISKS[0], 30000))
    run("a", "on-source-error stop", mode)
    equal(view.wait_job("a", "paused")["result"], "stopped:read:5", mode + ": a failing read stops the job")
    switch(src, good(DISKS[0]))
    view.dm.message("job a resume")
    job = finish("a")
    equal((job["result"], job["copied"]), ("ok", nr * 512), mode + ": resume retries it")
    same(dest.disk.read(0, nr), disk.read(0, nr), mode + ": nothing is left out")

    # --- the policy of one side is not the other's
    switch(dst, bad(DISKS[1], 30000))
    run("a", "on-source-error stop", mode)
    equal(finish("a")["result"], "error:write:5", mode + ": the source's policy is not the target's")
    switch(dst, good(DISKS[1]))

# --- a guest's write meets the broken side
run("b", "paused")
switch(dst, bad(DISKS[1], 30000, 512))
disk.write(30080, pattern(70, 30080, 8))
equal(finish("b")["result"], "error:write:5", "the destination fails under a guest's write: the job's end")
same(disk.read(30080, 8), pattern(70, 30080, 8), "but the guest's write is done", 30080)
switch(dst, good(DISKS[1]))

run("b", "paused")
switch(src, bad(DISKS[0], 40000))
disk.write(40008, pattern(71, 40008, 8))
equal(finish("b")["result"], "error:read:5", "the source fails under a guest's write: the job's end")
switch(src, good(DISKS[0]))
same(disk.read(40008, 8), pattern(71, 40008, 8), "but the guest's write is done", 40008)

# --- stop: a guest's write waits for the retry, within the timeout
before = disk.read(0, nr)
run("c", "paused on-source-error stop timeout 20000")
switch(src, bad(DISKS[0], 50000))
w = Background(disk.write, 50040, pattern(72, 50040, 8))
check(wait(lambda: view.job("c")["result"] == "stopped:read:5"), "a guest's write stops the job")
time.sleep(0.2)
check(w.is_alive(), "and waits")
disk2 = Disk(view.dm.path)
disk2.write(60000, pattern(73, 60000, 8))
check(True, "another write does not wait")
for _ in range(3):
    view.dm.suspend()
    view.dm.resume()
check(True, "a noflush suspend does not wait for it")
time.sleep(0.1)
check(w.is_alive(), "afterwards it waits again")
switch(src, good(DISKS[0]))
view.dm.message("job c resume")
w.end()
job = finish("c")
equal(job["result"], "ok", "after the retry both go on")
same(dest.disk.read(0, nr), before, "and the copy is exact")

# --- a flush of the destination that fails is an error of the job: here its records can't be written
small = 2048
low = Dm("kelow", [(0, nr, "linear", DISKS[2] + " 0")])
image = Image(5, low.path, small, 128)
target = View("ketgt", [image], small, 128)
target.load_all()
target.dm.message("home 5 " + image.home(0))
target.grant(image, nr=2048)
page = image.page_sector[0]
switch(low, [(0, page, "linear", DISKS[2] + " 0"), (page, 8, "error", ""),
             (page + 8, nr - page - 8, "linear", "%s %d" % (DISKS[2], page + 8))])
sbase = Image(0, DISKS[2], small, start=nr)
sview = View("kesml", [sbase], small, 128, active=False, extra=[Image(9, target.dm.path, small)])
sview.load_all()
sview.dm.message("copy f 9 none")
equal(sview.wait_job("f")["result"], "error:write:5", "a destination that can't be flushed is an error")
sview.extra[0].disk.close()
sview.remove()
target.remove()
image.disk.close()
low.remove()
for d in (disk, disk2):
    d.close()
view.remove()
dest.disk.close()
view.chain[0].disk.close()
src.remove()
dst.remove()
E2
