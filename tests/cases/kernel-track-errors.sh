#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A tracking copy whose destination or source fails or hangs: the guest does not suffer, the sides get equal.
# timeout: 180
. "$(dirname "$0")/../lib-kernel.sh"
plan 28
kernel_setup 2 48
python_checks "${RAM[@]}" <<'E2'
nr = 32768
rng = random.Random(int(os.environ["SEED"]))


def good(path):
    return [(0, nr, "linear", path + " 0")]


def bad(path, sector, n=64):
    return [(0, sector, "linear", path + " 0"), (sector, n, "error", ""),
            (sector + n, nr - sector - n, "linear", "%s %d" % (path, sector + n))]


def switch(dm, table):
    dm.load(table)
    dm.suspend()
    dm.resume()


src, dst = Dm("ktsrc", good(DISKS[0])), Dm("ktdst", good(DISKS[1]))
dest = Image(9, dst.path, nr)
view = raw_view("kterr", src.path, nr, dest=[dest])
view.dm.message("layer 0 unit 8 raw")
disk = Disk(view.dm.path)
errors = [0]


class Guest:
    def __init__(self):
        self.stop, self.n = False, 0
        self.thread = Background(self.run)

    def run(self):
        mine = Disk(view.dm.path)
        while not self.stop:
            s = rng.randrange(nr // 8 - 16) * 8
            mine.write(s, pattern(rng.randrange(1 << 30), s, rng.choice([8, 8, 64, 128])))
            self.n += 1
        mine.close()

    def end(self):
        self.stop = True
        self.thread.end()


def run(name, mode, options=""):
    start_copy(view, name, mode, options)


def complete(name):
    view.dm.suspend()
    view.dm.message("job %s complete" % name)
    job = view.wait_job(name)
    got, want = Disk(DISKS[1]).read(0, nr), Disk(DISKS[0]).read(0, nr)
    view.dm.resume()
    view.dm.message("job %s dismiss" % name)
    return job["result"], got, want


for mode in ("track", "both"):
    # --- report: the end of the job, not of the guest
    switch(dst, bad(DISKS[1], 20000))
    guest = Guest()
    run("a", mode)
    equal(view.wait_job("a")["result"], "error:write:5", mode + ": a failing write ends the job")
    wait(lambda: guest.n)
    guest.end()
    check(guest.n > 0, mode + ": the guest sees nothing")
    view.dm.message("job a dismiss")
    # --- stop: paused, resumed, equal
    guest = Guest()
    run("a", mode, "on-target-error stop grain 8")
    equal(view.wait_job("a", "paused")["result"], "stopped:write:5", mode + ": or stops it")
    time.sleep(0.2)
    switch(dst, good(DISKS[1]))
    view.dm.message("job a resume")
    view.wait_job("a", "ready")
    check(True, mode + ": resumed it gets ready")
    # --- ready: an error makes it standby
    switch(dst, bad(DISKS[1], 1000, 8000))
    check(wait(lambda: view.job("a")["state"] == "standby"), mode + ": ready and stopped is standby")
    equal(view.job("a")["result"], "stopped:write:5", mode + ": with the error")
    check(wait(lambda: view.job("a")["copied"] < view.job("a")["total"]), mode + ": something is dirty")
    switch(dst, good(DISKS[1]))
    view.dm.message("job a resume")
    result, got, want = complete("a")
    equal(result, "ok", mode + ": resumed it is completed")
    same(got, want, mode + ": both sides are equal")
    guest.end()

# --- an error in complete: it is not ok, a resume goes on
run("b", "track", "on-target-error stop")
view.wait_job("b", "ready")
view.dm.message("job b pause")
for s in range(0, nr, 500):
    disk.write(s, pattern(44, s, 8))
switch(dst, bad(DISKS[1], 15000, 512))
view.dm.suspend()
view.dm.message("job b resume")
view.dm.message("job b complete")
check(wait(lambda: view.job("b")["state"] == "standby"), "an error while it completes stops it")
view.dm.resume()
switch(dst, good(DISKS[1]))
view.dm.message("job b resume")
check(wait(lambda: view.job("b")["copied"] == view.job("b")["total"]), "it goes on as if nothing had been said")
equal(view.job("b")["state"], "ready", "... ready")
result, got, want = complete("b")
equal(result, "ok", "and is completed later")
same(got, want, "equal")

# --- source errors
run("c", "track", "on-source-error stop paused")
switch(src, bad(DISKS[0], 3000))
view.dm.message("job c resume")
equal(view.wait_job("c", "paused")["result"], "stopped:read:5", "a failing read stops it")
switch(src, good(DISKS[0]))
view.dm.message("job c resume")
view.wait_job("c", "ready")
view.dm.message("job c cancel")
view.wait_job("c")
view.dm.message("job c dismiss")

# --- a destination that hangs holds a write of both up no longer than the timeout
run("d", "both", "timeout 6000")
view.wait_job("d", "ready")
dst.suspend()
t = time.monotonic()
disk.write(5000, pattern(60, 5000, 8))
took = time.monotonic() - t
check(5.5 < took < 20, "a write waits for the timeout (%.1f s)" % took)
w = Background(disk.write, 6000, pattern(61, 6000, 8))
time.sleep(0.1)
view.dm.message("job d cancel")
t = time.monotonic()
w.end()
check(time.monotonic() - t < 4, "a cancel lets it go at once")
dst.resume()
equal(view.wait_job("d")["result"], "cancelled", "and the job ends when the I/O is back")
view.dm.message("job d dismiss")

# --- the device is removed while a job completes
run("e", "track", "speed 1048576")
view.dm.suspend()
view.dm.resume()
view.wait_job("e", "ready")
view.dm.message("job e pause")
for s in range(0, nr, 128):
    disk.write(s, pattern(45, s, 1))
view.dm.message("job e resume")
view.dm.suspend()
view.dm.message("job e complete")
disk.close()
view.end()
view.dm.remove()
check(True, "a device may be removed while its job completes")
dest.disk.close()
view.chain[0].disk.close()
src.remove()
dst.remove()
E2
