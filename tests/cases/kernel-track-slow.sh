#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Writes to both sides that never cease, around a grain that is dirty, do not keep it from being copied.
# timeout: 300
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
require_module dm-delay
plan 6
kernel_setup 2 32
python_checks "${RAM[@]}" <<'E2'
nr, GRAIN = 32768, 128
rng = random.Random(int(os.environ["SEED"]))
# Two speeds, so that writes to the two sides of the grain do not end at the same moment.
spot = 10 * GRAIN + 64
slow = Dm("ktslow", [(0, spot, "delay", "%s 0 0 %s 0 200" % (DISKS[1], DISKS[1])),
                     (spot, nr - spot, "delay", "%s %d 0 %s %d 330" % (DISKS[1], spot, DISKS[1], spot))])
dest = Image(9, slow.path, nr)
below = Disk(DISKS[1])
view = raw_view("ktview", DISKS[0], nr, dest=[dest])
view.dm.message("layer 0 unit 8 raw")
disk = Disk(view.dm.path)
start_copy(view, "a", "both", "grain %d" % GRAIN)
view.wait_job("a", "ready")
view.dm.message("job a pause")
view.dm.message("job a mode track")
disk.write(spot, pattern(5, spot, 8))
check(below.read(spot, 8) != pattern(5, spot, 8), "the grain is dirty")
view.dm.message("job a mode both")


class Guest:
    """Writes across a boundary of grains for ever."""

    def __init__(self, at):
        self.at, self.stop, self.n = at, False, 0
        self.thread = Background(self.run)

    def run(self):
        mine = Disk(view.dm.path)
        while not self.stop:
            mine.write(self.at, pattern(rng.randrange(1 << 30), self.at, 8))
            self.n += 1
        mine.close()

    def end(self):
        self.stop = True
        self.thread.end()


guests = [Guest(boundary * GRAIN - 4) for boundary in (10, 11) for _ in range(4)]
check(wait(lambda: all(g.n for g in guests)), "the guest writes to both sides of it")
view.dm.message("job a resume")
t = time.monotonic()
check(wait(lambda: below.read(spot, 8) == pattern(5, spot, 8), 12),
      "the background gets its turn (%.1f s)" % (time.monotonic() - t))
before = [g.n for g in guests]
check(wait(lambda: all(g.n > b for g, b in zip(guests, before))), "and the guest goes on")
view.dm.suspend()
view.dm.message("job a complete")
equal(view.wait_job("a")["result"], "ok", "complete ends it well")
same(below.read(0, nr), Disk(DISKS[0]).read(0, nr), "both sides are equal")
view.dm.message("job a dismiss")
view.dm.resume()
for g in guests:
    g.end()
disk.close()
view.remove()
dest.disk.close()
slow.remove()
E2
