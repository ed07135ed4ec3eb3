#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A tracking copy gets ready, stays so under a guest that writes, and is equal when it completes.
# timeout: 420
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 57
kernel_setup 3 48
python_checks "${RAM[@]}" <<'E2'
nr = 32768 + 24
rng = random.Random(int(os.environ["SEED"]))
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
view = View("ktrack", [top, base], nr, 128, extra=[dest])
view.begin()
disk = Disk(view.dm.path)
written = [0]


class Guest:
    """Writes, zeroes and discards all over, some of it in a hot spot, from several threads."""

    def __init__(self, threads=3, pause=0, hot=0.3, zeros=0.1):
        self.stop, self.pause, self.hot, self.zeros = False, pause, hot, zeros
        self.threads = [Background(self.run, rng.randrange(1 << 30)) for _ in range(threads)]

    def run(self, seed):
        mine, r = Disk(view.dm.path), random.Random(seed)
        while not self.stop:
            n = r.choice([1, 8, 8, 8, 16, 128, 300])
            s = r.randrange(256) if r.random() < self.hot else r.randrange(nr // 2)
            kind = r.random()
            if kind < self.zeros / 2:
                mine.zeroout(s, n)
            elif kind < self.zeros:
                mine.discard(s, n)
            else:
                mine.write(s, pattern(r.randrange(1 << 30), s, n))
            written[0] += 1
            time.sleep(self.pause)
        mine.close()

    def end(self):
        self.stop = True
        for t in self.threads:
            t.end()


def begin(name, mode, options=""):
    start_copy(view, name, mode, options)


def ready(name, seconds=240):
    return view.wait_job(name, "ready", seconds)


# --- no guest: ready, everything is there
want = reconstruct([top, base], nr)
refused(errno.EPERM, "track needs a suspended device", view.dm.message, "copy a 9 track")
events = view.dm.events()
begin("a", "track")
job = ready("a")
equal((job["copied"], job["total"], job["result"]), (nr * 512, nr * 512, "-"), "ready, all is copied")
check(wait(lambda: view.dm.events() > events), "an event was raised")
same(dest.disk.read(0, nr), want, "ready: the destination holds the chain")
refused(errno.EBUSY, "a second tracking job is refused", lambda: start_copy(view, "b", "both", "", 9))

# --- a write is copied again, progress grows as QEMU's
disk.write(1000, pattern(5, 1000, 8))
check(wait(lambda: view.job("a")["total"] > nr * 512), "a write makes the total grow")
check(wait(lambda: view.job("a")["copied"] == view.job("a")["total"]), "and is copied")
same(dest.disk.read(896, 256), disk.read(896, 256), "... to the destination", 896)
equal(view.job("a")["state"], "ready", "it stays ready")
view.dm.message("job a pause")
equal(view.job("a")["state"], "standby", "ready and paused is standby")
refused(errno.EPERM, "which can't be completed", view.dm.message, "job a complete")
copied = view.job("a")["copied"]
for s in (0, 30000, nr - 1):
    disk.write(s, pattern(6, s, 1))
time.sleep(0.3)
job = view.job("a")
equal((job["copied"], job["total"]), (copied, copied + 2 * 65536 + 24 * 512),
      "paused: three grains are dirty, the last one short")
view.dm.message("job a resume")
check(wait(lambda: view.job("a")["copied"] == view.job("a")["total"]), "resumed they are copied")
guest = Guest()
wait(lambda: written[0] > 20)
refused(errno.EPERM, "a living job can't be dismissed", view.dm.message, "job a dismiss")
view.dm.suspend()
view.dm.message("job a complete")
job = view.wait_job("a")
equal(job["result"], "ok", "complete ends it well")
equal(job["copied"], job["total"], "nothing is left")
view.dm.resume()
guest.end()
check(written[0] > 20, "the guest has written (%d)" % written[0])
view.dm.message("job a dismiss")

# --- a guest all the time, each mode, grains; at the end the view as it was while suspended
for mode, options in (("track", "grain 8"), ("both", ""), ("both", "grain 8"), ("track", "grain 2048")):
    text = mode + " " + options
    guest = Guest()
    begin("b", mode, options)
    ready("b")
    time.sleep(0.5)
    if mode == "track":
        view.dm.message("job b complete")
    view.dm.suspend()
    view.dm.message("job b complete")
    job = view.wait_job("b")
    equal(job["result"], "ok", text + ": complete ends it well")
    got = dest.disk.read(0, nr)
    guest.stop = True
    # what the source holds is recorded: the suspend has ended with a commit
    view.dm.message("job b dismiss")
    same(got, reconstruct([top, base], nr), text + ": both sides are equal while suspended")
    view.dm.resume()
    guest.end()

# --- both: what a guest's write has been acknowledged for is there
begin("c", "both", "grain 128")
ready("c")
good = True
for i in range(40):
    n = rng.choice([1, 8, 100, 4000])
    s = rng.randrange(nr - n)
    disk.write(s, pattern(100 + i, s, n))
    good = good and dest.disk.read(s, n) == pattern(100 + i, s, n)
check(good, "both: an acknowledged write is on the destination")
view.dm.message("job c pause")
good = True
for i in range(40):
    n = rng.choice([1, 8, 100, 128, 1000, 4000])
    s = rng.randrange(nr - n)
    s -= rng.choice([0, s % 128])
    rng.choice([disk.zeroout, disk.discard])(s, n)
    good = good and dest.disk.read(s, n) == disk.read(s, n)
check(good, "... paused, too: zeros and discards")
disk.write(777, pattern(99, 777, 8))
check(dest.disk.read(777, 8) == pattern(99, 777, 8), "... and writes")
view.dm.message("job c resume")
job = view.job("c")
equal(job["copied"], job["total"], "nothing gets dirty")
view.dm.message("job c mode track")
view.dm.message("job c pause")
disk.write(777, pattern(98, 777, 8))
check(dest.disk.read(777, 8) == pattern(99, 777, 8), "mode track: no longer")
view.dm.message("job c mode both")
disk.write(20000, pattern(97, 20000, 8))
check(dest.disk.read(20000, 8) == pattern(97, 20000, 8), "mode both: again")
check(dest.disk.read(777, 8) == pattern(99, 777, 8), "what is dirty is left to the background")
view.dm.message("job c resume")
check(wait(lambda: dest.disk.read(777, 8) == pattern(98, 777, 8)), "which copies it")
view.dm.message("job c cancel")
equal(view.wait_job("c")["result"], "cancelled", "a ready job is cancelled")
view.dm.message("job c dismiss")

# --- while live complete makes it converge; a resume takes complete back
begin("d", "track", "grain 8")
ready("d")
view.dm.message("job d complete")
disk.write(2000, pattern(96, 2000, 8))
check(dest.disk.read(2000, 8) == pattern(96, 2000, 8), "complete, live: writes go to both sides")
view.dm.suspend()
view.dm.resume()
equal(view.job("d")["state"], "ready", "a resume takes it back")
view.dm.message("job d pause")
disk.write(2000, pattern(95, 2000, 8))
check(dest.disk.read(2000, 8) == pattern(96, 2000, 8), "... and writes to both sides, too")
view.dm.message("job d cancel")
view.wait_job("d")
view.dm.message("job d dismiss")

# --- it gets ready though the guest is faster than the copy
guest = Guest(pause=0.002)
begin("e", "track", "speed %d" % (8 << 20))
t = time.monotonic()
job = ready("e")
check(guest.threads[0].is_alive(), "ready under a constant load, after %.1f s, %d MiB copied" % (
    time.monotonic() - t, job["copied"] >> 20))
guest.end()
view.dm.message("job e cancel")
view.wait_job("e")
view.dm.message("job e dismiss")
guest = Guest(zeros=1)
begin("e", "both", "grain 2048 speed %d" % (8 << 20))
t = time.monotonic()
job = ready("e", 30)
took = time.monotonic() - t
check(took < 30 and guest.threads[0].is_alive(), "and under constant zeros and discards, after %.1f s, %d MiB copied" % (
    took, job["copied"] >> 20))
check(wait(lambda: view.job("e")["copied"] == view.job("e")["total"], 10), "... and stays so")
guest.end()
view.dm.message("job e cancel")
view.wait_job("e")
view.dm.message("job e dismiss")

# --- new-only: ready at once, copies what is written
dest.disk.write(0, pattern(666, 0, 2048))
begin("f", "track", "new-only grain 8")
job = ready("f")
equal((job["copied"], job["total"]), (0, 0), "new-only: ready at once")
disk.write(800, pattern(94, 800, 8))
check(wait(lambda: dest.disk.read(800, 8) == pattern(94, 800, 8)), "what is written is copied")
same(dest.disk.read(0, 800), pattern(666, 0, 800), "and nothing else")
view.dm.message("job f cancel")
view.wait_job("f")
view.dm.message("job f dismiss")

# --- zeroed, skip, only
for s in range(0, nr, 2048):
    dest.disk.write(s, bytes(min(2048, nr - s) * 512))
begin("g", "track", "zeroed")
ready("g")
same(dest.disk.read(0, nr), disk.read(0, nr), "zeroed: equal on a destination that was zero")
disk.write(1152, pattern(93, 1152, 128))
check(wait(lambda: dest.disk.read(1152, 128) == pattern(93, 1152, 128)), "zeroed: data is written")
disk.zeroout(1152, 128)
check(wait(lambda: dest.disk.read(1152, 128) == bytes(65536)), "zeroed: zeros over our data, too")
view.dm.message("job g mode both")
disk.write(5000, pattern(92, 5000, 8))
disk.zeroout(5000, 8)
check(dest.disk.read(5000, 8) == bytes(4096), "... in mode both, too")
view.dm.message("job g cancel")
view.wait_job("g")
view.dm.message("job g dismiss")


def of_layer():
    """What a filtered copy leaves on a destination that held junk."""
    view.commit()
    junk = b"\xee" * (nr * 512)
    for s in range(0, nr, 2048):
        dest.disk.write(s, junk[s * 512:min(s + 2048, nr) * 512])
    now = disk.read(0, nr)
    want = bytearray(junk)
    for unit, record in enumerate(top.records()):
        if record:
            cut = slice(unit * 65536, min(unit * 65536 + 65536, nr * 512))
            want[cut] = now[cut]
    return bytes(want)


want = of_layer()
view.dm.message("copy h 9 none only 1")
job = view.wait_job("h")
equal((job["result"], job["copied"]), ("ok", nr * 512), "only: what is left out counts as copied")
same(dest.disk.read(0, nr), want, "only: the blocks of that layer")
view.dm.message("job h dismiss")
want = of_layer()
begin("i", "before-write", "skip 0")
job = view.wait_job("i")
equal(job["copied"], job["total"], "before-write, skip: nothing is left")
equal(job["total"], sum(min(128, nr - u * 128) * 512 for u, r in enumerate(top.records()) if r),
      "... and the total is what is not left out")
same(dest.disk.read(0, nr), want, "skip: the blocks of the others")
view.dm.message("job i dismiss")
want = of_layer()
begin("j", "track", "skip 0")
ready("j")
same(dest.disk.read(0, nr), want, "track, skip: the blocks of the others")
refused(errno.EINVAL, "only and track are refused", view.dm.message, "copy k 9 track only 1")
view.dm.message("job j cancel")
view.wait_job("j")
view.dm.message("job j dismiss")
disk.close()
view.remove()

# --- runs of data and of zeros that end at and around a word of the map of what is to be done
nr = 16384
top, dest = Image(1, DISKS[1], nr, 8), copy_dest(DISKS[2], nr)
records, unit = [], 0
while unit < top.units:
    run = min(rng.choice([1, 30, 62, 63, 64, 65, 66, 127, 128, 129]), top.units - unit)
    if rng.random() < 0.5:
        records += [1] * run
    else:
        sector = top.alloc(run * 8)
        top.disk.write(sector, pattern(unit + 1, 0, run * 8))
        records += [(1 << 63) | (sector + i * 8) << 9 for i in range(run)]
    unit += run
top.set_records(records)
want = reconstruct([top], nr)
view = View("kruns", [top], nr, 8, extra=[dest])
view.begin()
for mode, end in ("none", "concluded"), ("before-write", "concluded"), ("track", "ready"):
    copy_dest(DISKS[2], nr)
    start_copy(view, "k", mode, "grain %d" % (128 if mode == "before-write" else 8))
    view.wait_job("k", end)
    same(dest.disk.read(0, nr), want, "runs of any length, " + mode)
    if end == "ready":
        view.dm.message("job k cancel")
        view.wait_job("k")
    view.dm.message("job k dismiss")
view.remove()
E2
