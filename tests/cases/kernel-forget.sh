#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Slices are forgotten and filled again while a guest reads and writes over many places: no byte comes from,
# or goes to, what only looked like the next one.
# timeout: 300
# races: a slice that is emptied within a look-up
. "$(dirname "$0")/../lib-kernel.sh"
plan 5
kernel_setup 1 64
# A forget waits for a grace period: many, not long ones.
cleanup_fn eval "echo $(cat /sys/kernel/rcu_expedited) >/sys/kernel/rcu_expedited"
echo 1 >/sys/kernel/rcu_expedited
python_checks "${LIVECHAIN_SECONDS:-10}" "$SEED" "${RAM[@]}" <<'E2'
SECONDS, SEED, DISKS = float(DISKS[0]), int(DISKS[1]), DISKS[2:]
SLICES, LARGE = 4, 1 << 20
nr = SLICES * SLICE * 8
rng = random.Random(SEED)
view = View("kforget", [Image(1, DISKS[0], nr, unit=8)], nr, 8)
view.begin()

want = mmap.mmap(-1, nr * 512)
want[:] = pattern(SEED, 0, nr)


def user(step):
    """A process that calls step(file, memory, first, end) with byte ranges until its time is over."""
    mine = random.Random(rng.random())
    pid = os.fork()
    if pid:
        return pid
    try:
        fd = os.open(view.dm.path, os.O_RDWR | os.O_DIRECT)
        memory, end = mmap.mmap(-1, LARGE), time.monotonic() + SECONDS
        while time.monotonic() < end:
            first = mine.randrange(nr // 8) * 4096
            step(fd, memory, first, min(first + LARGE, nr * 512))
        os._exit(0)
    except Exception as e:
        print("%s: %s" % (step.__name__, e), flush=True)
        os._exit(1)


def reader(fd, memory, first, end):
    os.preadv(fd, [memoryview(memory)[:end - first]], first)
    if memory[:end - first] != want[first:end]:
        compare(memory[:end - first], want[first:end], first // 512)


def writer(fd, memory, first, end):
    os.pwritev(fd, [memoryview(want)[first:end]], first)


# In an order of chance: hardly a block lies behind its neighbour.
disk = Disk(view.dm.path)
for block in rng.sample(range(nr // 8), nr // 8):
    disk.write(block * 8, want[block * 4096:block * 4096 + 4096])
view.commit()
view.end()

# From here on all is in place: what is forgotten comes back as it was.
slices = {first: " ".join(view.runs(first, SLICE)) for first in range(0, nr // 8, SLICE)}
check(all(len(runs.split()) > SLICE // 2 for runs in slices.values()), "blocks lie one here, one there")
view.generation, times = view.status()["generation"], 0
users = [user(reader), user(writer)]
end = time.monotonic() + SECONDS
while time.monotonic() < end:
    for first, runs in slices.items():
        try:
            view.dm.message("forget %d %d" % (first, SLICE))
        except OSError as e:
            if e.errno != errno.EBUSY:  # a write that has waited for a slice holds its blocks
                raise
            continue
        view.generation += 1
        view.dm.message("map %d %d %s" % (view.generation, first, runs))
        times += 1
ends = [os.waitpid(pid, 0)[1] for pid in users]
check(times > SECONDS, "slices are forgotten and filled (%d times, LIVECHAIN_SEED=%d)" % (times, SEED))
equal(ends[0], 0, "every read finds its own meanwhile")
equal(ends[1], 0, "writes are done meanwhile")
same(disk.read(0, nr), want[:], "and go to their own place")
disk.close()
view.dm.remove()
E2
