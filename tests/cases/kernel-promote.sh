#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# promote takes blocks of lower layers up while the guest writes; with copy and remap layers are committed down.
# timeout: 240
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 50
kernel_setup 4 64
python_checks "${RAM[@]}" <<'E2'
nr = 32768 + 24
rng = random.Random(int(os.environ["SEED"]))


class Guest:
    """Writes and zeroes the sectors up to @end; the model is what it wrote last, sector by sector."""

    def __init__(self, view, data, end=nr):
        self.view, self.data, self.last, self.stop, self.n = view, bytearray(data), end, False, 0
        self.thread = Background(self.run)

    def run(self):
        mine = Disk(self.view.dm.path)
        while not self.stop:
            n = rng.choice([1, 8, 8, 16, 128, 300])
            s = rng.randrange(self.last - n)
            new = pattern(rng.randrange(1 << 30), s, n) if rng.random() < 0.9 else bytes(n * 512)
            if any(new):
                mine.write(s, new)
            else:
                mine.zeroout(s, n)
            self.data[s * 512:(s + n) * 512] = new
            self.n += 1
        mine.close()

    def end(self):
        self.stop = True
        self.thread.end()
        return bytes(self.data)


def chain(units=(128, 64, 32)):
    """top, middle, base: data, zeros, and nothing in each, all in different places."""
    top, mid, base = (Image(2 - i, DISKS[i], nr, unit, seed=rng.randrange(99)) for i, unit in enumerate(units))
    for image, part in ((base, 0.6), (mid, 0.4), (top, 0.2)):
        records = []
        for unit in range(image.units):
            kind = rng.random() / part
            if kind < 0.8:
                sector = image.alloc(image.unit)
                image.disk.write(image.start + sector, pattern(image.id, unit * image.unit, image.unit))
                records.append((sector << 9) | (COPIED if kind < 0.7 else 0))
            else:
                records.append(1 if kind < 1 else 0)
        image.set_records(records)
    return top, mid, base


def entries(view, image):
    return view.status()["layers"][image.id]["entries"]


# --- one layer, no guest
for units, block in (((128, 64, 32), 32), ((64, 128, 128), 64), ((8, 8, 64), 8)):
    top, mid, base = chain(units)
    want = reconstruct([top, mid, base], nr)
    view = View("kprom", [top, mid, base], nr, block)
    view.begin()
    view.dm.message("promote a only 1")
    job = view.wait_job("a")
    text = "units %s" % (units,)
    equal((job["result"], job["copied"], job["layer"]), ("ok", nr * 512, 2), text + ": promoted")
    equal(entries(view, mid), 0, text + ": no entry names the layer any more")
    equal(view.status()["unrecorded"], 0, text + ": all is recorded")
    same(reconstruct([top, base], nr), want, text + ": the chain without it holds the same")
    view.dm.message("job a dismiss")
    view.chain.remove(mid)
    view.reload()
    disk = Disk(view.dm.path)
    same(disk.read(0, nr), want, text + ": and so does the device")
    disk.close()
    view.remove()

# --- everything, while the guest writes, the device is suspended, reloaded, the pool runs dry
top, mid, base = chain()
want = reconstruct([top, mid, base], nr)
view = View("kprom", [top, mid, base], nr, 32)
view.grant_sectors = 512
view.begin()
guest = Guest(view, want, nr // 2)      # what it writes is promoted by that: the job is to be there still
view.dm.message("promote b skip 77 speed %d" % (256 << 10))
refused(errno.EEXIST, "a second job of that name is refused", view.dm.message, "promote b only 0")
refused(errno.EBUSY, "a second promotion is refused", view.dm.message, "promote c only 0")
refused(errno.EINVAL, "promoting the active layer is refused", view.dm.message, "promote c only 2")
for i in range(8):
    view.dm.suspend()
    if i % 2:
        view.dm.load(view.table())
    at = view.job("b")["copied"]
    time.sleep(0.05)
    check(view.job("b")["copied"] == at or i > 0, "suspended: no progress") if i == 0 else None
    view.dm.resume()
    time.sleep(0.05)
view.dm.message("job b pause")
at = settled(lambda: view.job("b")["copied"])
time.sleep(0.2)
equal(view.job("b")["copied"], at, "paused: no progress")
view.withhold.add("pool")
view.dm.message("job b speed 0")
view.dm.message("job b resume")
time.sleep(0.5)
view.dm.suspend()
view.dm.resume()
view.withhold.clear()
job = view.wait_job("b")
equal(job["result"], "ok", "it ends well while the guest writes")
data = guest.end()
check(guest.n > 10, "the guest has written (%d)" % guest.n)
equal((entries(view, mid), entries(view, base)), (0, 0), "no entry names the lower layers")
disk = Disk(view.dm.path)
same(disk.read(0, nr), data, "the guest's writes have won")
view.commit()
same(reconstruct([top], nr), data, "and the image alone holds them")
view.dm.message("job b dismiss")
disk.close()
view.remove()

# --- cancelled anywhere: nothing is lost
top, mid, base = chain()
want = reconstruct([top, mid, base], nr)
view = View("kprom", [top, mid, base], nr, 32)
view.begin()
guest = Guest(view, want)
good = True
for i in range(5):
    view.dm.message("promote c only 0,1 speed %d" % (8 << 20))
    time.sleep(rng.random() * 0.2)
    if i % 2:
        view.withhold.add("pool")
        time.sleep(0.05)
    view.dm.message("job c cancel")
    good = good and view.wait_job("c")["result"] in ("cancelled", "ok")
    view.withhold.clear()
    view.dm.message("job c dismiss")
check(good, "cancelled at once, also while it waits for space")
data = guest.end()
disk = Disk(view.dm.path)
same(disk.read(0, nr), data, "after cancels the device holds what was written")
view.commit()
same(reconstruct([top, mid, base], nr), data, "and the chain does")
disk.close()
view.remove()

# --- no space: a suspend does not wait for it, report, stop
top, mid, base = chain()
want = reconstruct([top, mid, base], nr)
view = View("kprom", [top, mid, base], nr, 32)
view.begin()
view.load_all()
view.withhold.add("pool")


def hungry():
    """Does anybody wait for space?"""
    lines = view.dm.message("requests").split("\n")
    return any(line.startswith("pool 2 ") and not line.endswith(" 0") for line in lines)


def starve(options):
    view.dm.message("promote f only 0,1 " + options)
    check(wait(hungry), "space has run out")


starve("")
Background(view.dm.suspend, False).end()
check(True, "a suspend that waits for guests does not wait for the space")
view.dm.resume()
check(wait(hungry), "resumed the job waits again")
view.dm.message("layer 2 nospace")
equal(view.wait_job("f")["result"], "error:write:28", "no space ends it")
view.dm.message("job f dismiss")
starve("on-target-error stop")
view.dm.message("layer 2 nospace")
equal(view.wait_job("f", "paused")["result"], "stopped:write:28", "or stops it")
view.withhold.clear()
# at once: the errors of the other grains that had waited may come later, and must not stop it again
view.dm.message("job f resume")
equal(view.wait_job("f")["result"], "ok", "with space it goes on")
view.dm.message("job f dismiss")
same(reconstruct([top], nr), want, "and the image alone holds all")
view.remove()

# --- no space for the guest: a job that waits behind its writes can be cancelled
top, mid, base = chain()
want = reconstruct([top, mid, base], nr)
view = View("kprom", [top, mid, base], nr, 32)
view.begin()
view.load_all()
view.withhold.add("pool")
disk = Disk(view.dm.path)
written = pattern(77, 0, nr)
guest = Background(disk.write, 0, written)
check(wait(hungry), "the guest's write waits for space")
view.dm.message("promote g only 0,1")
time.sleep(0.5)
view.dm.message("job g cancel")
equal(view.wait_job("g", timeout=20)["result"], "cancelled", "a cancel does not wait for it")
view.withhold.clear()
guest.end()
view.dm.message("job g dismiss")
same(disk.read(0, nr), written, "with space the write ends")
view.commit()
same(reconstruct([top, mid, base], nr), written, "and is recorded")
disk.close()
view.remove()

# --- a read error: report, stop
top, mid, base = chain()
want = reconstruct([top, mid, base], nr)
tops = top.records()
sector = next(decode(r)[1] for unit, r in enumerate(mid.records())
              if decode(r)[0] == "d" and not tops[unit * mid.unit // top.unit])
size = mid.disk.sectors()
low = Dm("kplow", [(0, size, "linear", DISKS[1] + " 0")])
mid.path = low.path
view = View("kprom", [top, mid, base], nr, 32)
view.begin()
view.load_all()


def broken(bad):
    low.load([(0, sector, "linear", DISKS[1] + " 0"), (sector, 64, "error", ""),
              (sector + 64, size - sector - 64, "linear", "%s %d" % (DISKS[1], sector + 64))] if bad else
             [(0, size, "linear", DISKS[1] + " 0")])
    low.suspend()
    low.resume()


broken(True)
view.dm.message("promote d only 1")
equal(view.wait_job("d")["result"], "error:read:5", "a read error ends it")
view.dm.message("job d dismiss")
broken(False)
view.dm.message("promote d only 1 on-source-error stop paused")
broken(True)
view.dm.message("job d resume")
equal(view.wait_job("d", "paused")["result"], "stopped:read:5", "or stops it")
broken(False)
view.dm.message("job d resume")
equal(view.wait_job("d")["result"], "ok", "resume retries it")
view.commit()
same(reconstruct([top, base], nr), want, "and nothing is lost")
view.dm.message("job d dismiss")
view.remove()
mid.path = DISKS[1]
low.remove()

# --- commit the middle into the base: copy from a view of the middle into the base's own, remap
top, mid, base = chain((128, 64, 64))
want = reconstruct([top, mid, base], nr)
lower = reconstruct([mid, base], nr)
view = View("kguest", [top, mid, base], nr, 64)
view.begin()
view.load_all()
target = View("ktarget", [base], nr, 64)
target.begin()
source = View("ksource", [mid, base], nr, 64, active=False, extra=[Image(9, target.dm.path, nr)])
source.begin()
guest = Guest(view, want)
source.dm.message("copy e 9 none skip 0")
equal(source.wait_job("e")["result"], "ok", "commit: the middle is copied into the base")
target.commit()
same(reconstruct([base], nr), lower, "commit: the base alone holds what both held")
view.chain.remove(mid)
view.extra.append(mid)
refused(errno.EINVAL, "remap of the active layer is refused", view.dm.message,
        "remap %d 0 if-layer 2 1:z" % view.status()["generation"])
with view.serving:
    for block in range(0, view.blocks(), SLICE):
        n = min(SLICE, view.blocks() - block)
        saved, view.chain = view.chain, [base]
        runs = view.runs(block, n)
        view.chain = saved
        while True:
            reply = view.dm.message("remap %d %d if-layer 1 %s" % (view.generation, block, " ".join(runs)))
            view.generation = int(reply.split()[-1])
            if reply.startswith("remapped"):
                break
equal(entries(view, mid), 0, "remap: no entry names the middle any more")
view.extra.remove(mid)
view.reload()
data = guest.end()
disk = Disk(view.dm.path)
same(disk.read(0, nr), data, "the device holds what the guest wrote")
view.commit()
same(reconstruct([top, base], nr), data, "and so does the chain without the middle")
disk.close()
source.extra[-1].disk.close()
source.remove()
target.remove()
view.remove()
E2
