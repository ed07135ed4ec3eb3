#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What a view was at a before-write job's start is read through `livechain-point` while guests
# write; and what happens when the old content can't be saved.
# timeout: 240
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 47
kernel_setup 3 64
seconds=${LIVECHAIN_FLEECE_SECONDS:-6}
python_checks "${RAM[@]}" "$SEED" "$seconds" <<'E2'
SEED, SECONDS = int(DISKS.pop(3)), int(DISKS.pop(3))
nr = 65536
rnd = random.Random(SEED)


def linear(first, count, disk):
    return (first, count, "linear", "%s %d" % (disk, first))


def bad(disk, at, count=128):
    return [linear(0, at, disk), (at, count, "error", ""), linear(at + count, nr - at - count, disk)]


def good(disk):
    return [linear(0, nr, disk)]


def switch(dm, table):
    dm.load(table)
    dm.suspend()
    dm.resume()


src, dst = Dm("kfsrc", good(DISKS[0])), Dm("kfdst", good(DISKS[1]))
dest = copy_dest(dst.path, nr)
view = raw_view("kfl", src.path, nr, dest=[dest])
disk = Disk(view.dm.path)


def begin(options="access break-snapshot"):
    """A job, its access device, and what that must show."""
    frozen = disk.read(0, nr)
    start_copy(view, "f", "before-write", options)
    dm = Dm("kfacc", [(0, nr, "livechain-point", "kfl f %s 0" % dst.path)])
    return frozen, dm, Disk(dm.path)


def end(dm, reader):
    reader.close()
    dm.remove()
    view.dm.message("job f cancel")
    job = view.wait_job("f")
    view.dm.message("job f dismiss")
    return job


# --- guests write and discard all over, tools read in every order
class Guest(threading.Thread):
    def __init__(self, seed):
        super().__init__(daemon=True)
        self.rnd, self.stop, self.count, self.error = random.Random(seed), False, 0, None
        self.disk = Disk(view.dm.path)
        self.start()

    def run(self):
        try:
            while not self.stop:
                n = self.rnd.choice((8, 8, 16, 120, 128, 136, 512))
                at = self.rnd.randrange(0, nr - n) & ~7
                if self.rnd.random() < 0.1:
                    self.disk.discard(at, n)
                else:
                    self.disk.write(at, pattern(self.rnd.randrange(1000, 2000), at, n))
                self.count += 1
        except Exception as e:
            self.error = e
        self.disk.close()


class Tool(threading.Thread):
    def __init__(self, path, frozen, seed):
        super().__init__(daemon=True)
        self.rnd, self.path, self.frozen = random.Random(seed), path, frozen
        self.stop, self.count, self.error = False, 0, None
        self.start()

    def run(self):
        d = Disk(self.path)
        try:
            while not self.stop:
                n = self.rnd.choice((8, 8, 64, 128, 1024))
                at = self.rnd.randrange(0, nr - n) & ~7
                compare(d.read(at, n), self.frozen[at * 512:(at + n) * 512], at)
                self.count += 1
        except Exception as e:
            self.error = e
        d.close()


for round in range(2):
    frozen, dm, reader = begin("access " + ("break-snapshot", "break-guest-write grain 512")[round])
    guests = [Guest(SEED + 10 * round + i) for i in range(3)]
    tools = [Tool(dm.path, frozen, SEED + 100 + 10 * round + i) for i in range(3)]
    until = time.monotonic() + SECONDS

    def enough():
        return sum(g.count for g in guests) > 50 and sum(t.count for t in tools) > 50

    suspends = 0
    while time.monotonic() < until or (not enough() and time.monotonic() < until + 60):
        same_now = reader.read(0, nr)
        if same_now != frozen:
            break
        view.dm.suspend()
        time.sleep(0.02)
        view.dm.resume()
        suspends += 1
    for t in tools + guests:
        t.stop = True
    for t in tools + guests:
        t.join(240)
    print("round %d: %d writes, %d reads, %d suspends, copied %s" % (
        round, sum(g.count for g in guests), sum(t.count for t in tools), suspends,
        view.job("f")["copied"]))
    same(same_now, frozen, "the whole is what it was, read again and again")
    check(not any(t.error or t.is_alive() for t in tools), "so is each piece",
          *[str(t.error) for t in tools])
    check(not any(g.error or g.is_alive() for g in guests), "guests see no error",
          *[str(g.error) for g in guests])
    check(enough(), "both were at it")
    same(reader.read(0, nr), frozen, "afterwards, too")
    equal(view.job("f")["state"], "running", "the job runs on")
    equal(end(dm, reader)["result"], "cancelled", "and is cancelled")

# --- nothing is copied but what is overwritten; a reader needs no copy
frozen, dm, reader = begin()
reader.read(0, nr)
equal(view.job("f")["copied"], 0, "reading copies nothing")
disk.write(1280, pattern(5, 1280, 8))
wait(lambda: view.job("f")["copied"])
equal(view.job("f")["copied"], 65536, "a write copies its grain")
same(reader.read(1280, 128), frozen[1280 * 512:1408 * 512], "which is read as it was", 1280)
same(disk.read(1280, 8), pattern(5, 1280, 8), "and the disk has what was written", 1280)
try:
    reader.write(0, bytes(4096))
    check(False, "the device takes no writes")
except OSError:
    check(True, "the device takes no writes")

# --- reads while the disk is suspended wait, and are right
view.dm.suspend()
r = Background(reader.read, 0, 128)
time.sleep(0.5)
check(r.is_alive(), "a read of what is not copied waits while the disk is suspended")
same(reader.read(1280, 8), frozen[1280 * 512:1288 * 512], "one of what is copied does not", 1280)
view.dm.resume()
same(r.end(), frozen[:65536], "it is right in the end")

# --- cancel: reads fail, guests do not
view.dm.suspend()
r = Background(reader.read, 0, 128)
time.sleep(0.3)
view.dm.message("job f cancel")
try:
    r.end()
    check(False, "a read that waits fails when the job is cancelled")
except OSError as e:
    equal(e.errno, errno.EIO, "a read that waits fails when the job is cancelled")
view.dm.resume()
refused(errno.EIO, "and so does one that comes later", reader.read, 1280, 8)
check("ended" in str(dm.status()), "the device's status says it")
disk.write(2560, pattern(6, 2560, 8))
same(disk.read(2560, 8), pattern(6, 2560, 8), "guests go on", 2560)
end(dm, reader)

# --- the destination fails: break-snapshot
frozen, dm, reader = begin("access break-snapshot")
switch(dst, bad(DISKS[1], 3840))
disk.write(0, pattern(7, 0, 8))
same(reader.read(0, 128), frozen[:65536], "until the destination fails all is right")
disk.write(3840, pattern(7, 3840, 8))
same(disk.read(3840, 8), pattern(7, 3840, 8), "break-snapshot: the guest's write is done", 3840)
equal(view.wait_job("f")["result"], "error:write:5", "the job has failed")
refused(errno.EIO, "reads of what was copied fail", reader.read, 0, 8)
refused(errno.EIO, "reads of what was not copied fail", reader.read, 6400, 8)
end(dm, reader)

# --- the same with break-guest-write
frozen, dm, reader = begin("access break-guest-write")
refused(errno.EIO, "break-guest-write: the guest's write fails", disk.write, 3840, pattern(8, 3840, 8))
same(disk.read(3840, 128), frozen[3840 * 512:3968 * 512], "and has changed nothing", 3840)
same(reader.read(0, nr), frozen, "reads go on and are right")
disk.write(6400, pattern(8, 6400, 8))
check(True, "writes elsewhere are done")
switch(dst, good(DISKS[1]))
disk.write(3840, pattern(9, 3840, 8))
same(disk.read(3840, 8), pattern(9, 3840, 8), "the destination is well again: the write is done", 3840)
same(reader.read(0, nr), frozen, "reads are right")
end(dm, reader)

# --- the source can't be read: break-guest-write
frozen, dm, reader = begin("access break-guest-write")
switch(src, bad(DISKS[0], 12800))
refused(errno.EIO, "no old content, no write", disk.write, 12808, pattern(8, 12808, 8))
refused(errno.EIO, "a read of it fails as well", reader.read, 12800, 8)
switch(src, good(DISKS[0]))
same(reader.read(0, nr), frozen, "and is right when the source can be read again")
end(dm, reader)

# --- the destination hangs: timeout
frozen, dm, reader = begin("access break-guest-write timeout 6000")
dst.suspend()
refused(errno.EIO, "a write that waits too long fails", disk.write, 0, pattern(11, 0, 8))
again = Background(disk.write, 8, pattern(12, 8, 8))
time.sleep(0.5)
dst.resume()
again.end()
same(disk.read(8, 8), pattern(12, 8, 8), "the next one to the same grain is done when it is back", 8)
same(disk.read(0, 8), frozen[:4096], "the failed one never")
same(reader.read(0, nr), frozen, "what is read is right")
end(dm, reader)
frozen, dm, reader = begin("access break-snapshot timeout 1500")
dst.suspend()
t0 = time.monotonic()
disk.write(0, pattern(13, 0, 8))
check(1 < time.monotonic() - t0 < 20, "break-snapshot: it waits so long and is done")
dst.resume()
like = view.wait_job("f")["result"]
check(like.endswith(":110"), "the job has failed with ETIMEDOUT", like)
refused(errno.EIO, "and reads fail", reader.read, 6400, 8)
end(dm, reader)
disk.close()
view.image(0).disk.close()
view.remove()
dest.disk.close()
dst.remove()
src.remove()
E2
