#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A destination that hangs breaks the job after its timeout, and never the guest.
# timeout: 180
. "$(dirname "$0")/../lib-kernel.sh"
plan 15
kernel_setup 2 64
python_checks "${RAM[@]}" <<'E2'
nr = 131072
slow = Dm("kslow", [(0, nr, "linear", DISKS[1] + " 0")])
dest = copy_dest(slow.path, nr)
view = raw_view("ktime", DISKS[0], nr, dest=[dest])
disk = Disk(view.dm.path)


def writes(first, count):
    """Write to one grain after the other. Return how many were done within 3 s each."""
    for i in range(count):
        w = Background(disk.write, first + i * 128, pattern(80, first + i * 128, 8))
        try:
            w.end(3)
        except TimeoutError:
            return i, w
    return count, None


# --- a suspended destination holds its writes: it hangs
start_copy(view, "a", "before-write", "timeout 12000 speed 65536")
slow.suspend()
t0 = time.monotonic()
done, waiting = writes(0, 200)
check(done >= 48, "writes go on while the job has memory", "%d writes" % done)
check(waiting is not None, "then one waits")
equal(view.job("a")["result"], "-", "the job is not over yet")
waiting.end()
waited = time.monotonic() - t0
check(11.5 < waited, "it waits as long as the timeout says", "%.1f s" % waited)
done, _ = writes(128 * 300, 100)
equal(done, 100, "after that no write waits")
slow.resume()
job = view.wait_job("a")
equal(job["result"], "error:write:110", "the job has failed with ETIMEDOUT")
for i in (0, 10, 60):
    same(disk.read(i * 128, 8), pattern(80, i * 128, 8), "write %d is there" % i, i * 128)
view.dm.message("job a dismiss")

# --- no timeout: the write waits until the destination is back
now = disk.read(0, nr)
start_copy(view, "b", "before-write", "timeout 0 paused")
slow.suspend()
done, waiting = writes(0, 200)
check(waiting is not None, "timeout 0: a write waits")
time.sleep(5)
check(waiting.is_alive(), "and waits")
slow.resume()
waiting.end()
view.dm.message("job b resume")
equal(view.wait_job("b")["result"], "ok", "the destination is back, the job ends well")
same(dest.disk.read(0, nr), now, "the copy is exact")
view.dm.message("job b dismiss")

# --- cancel lets writes go at once
start_copy(view, "c", "before-write", "timeout 0 paused")
slow.suspend()
done, waiting = writes(0, 200)
view.dm.message("job c cancel")
waiting.end()
check(True, "cancel lets a waiting write go")
slow.resume()
equal(view.wait_job("c")["result"], "cancelled", "the job is cancelled when its I/O is back")
disk.close()
view.remove()
dest.disk.close()
slow.remove()
E2
