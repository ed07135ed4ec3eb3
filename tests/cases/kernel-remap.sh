#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# remap gives blocks of some layers other entries, and nothing else, while the guest reads and writes.
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
plan 30
kernel_setup 4 48
python_checks "${RAM[@]}" <<'E2'
nr, BLOCK = 32768 + 24, 64
rng = random.Random(int(os.environ["SEED"]))
top, mid, base = Image(2, DISKS[0], nr, 128), Image(1, DISKS[1], nr, 64), Image(0, DISKS[2], nr)
twin = Image(3, DISKS[3], nr)
for s in range(0, nr, 2048):
    base.disk.write(s, pattern(1, s, min(2048, nr - s)))
records = [rng.choice([0, 0, 1, 2, 2]) for _ in range(mid.units)]
for unit, kind in enumerate(records):
    if kind == 2:
        records[unit] = (mid.alloc(64) << 9) | COPIED
        mid.disk.write(records[unit] >> 9 & (1 << 40) - 1, pattern(2, unit * 64, 64))
mid.set_records(records)
for unit in range(0, top.units, 3):
    top.put(unit, pattern(3, unit * 128, 128))
want = reconstruct([top, mid, base], nr)
lower = reconstruct([mid, base], nr)
for s in range(0, nr, 2048):
    twin.disk.write(s, lower[s * 512:min(s + 2048, nr) * 512])
view = View("kremap", [top, mid, base], nr, BLOCK, extra=[twin])
view.begin()
disk = Disk(view.dm.path)
same(disk.read(0, nr), want, "the chain")


def entries():
    return {i: layer["entries"] for i, layer in view.status()["layers"].items()}


def remap(block, ids, *runs, generation=None):
    """Return blocks remapped, or None if the generation was an old one."""
    if generation is None:
        generation = view.status()["generation"]
    reply = view.dm.message("remap %d %d if-layer %s %s" % (generation, block, ids, " ".join(runs)))
    view.generation = int(reply.split()[-1])
    return int(reply.split()[1]) if reply.startswith("remapped") else None


# --- what is refused changes nothing
before, generation = entries(), view.status()["generation"]
blocks = view.blocks()
for number, text in ((errno.EINVAL, "%d 0 if-layer 1 1:z" % (generation + 1)),
                     (errno.EINVAL, "x 0 if-layer 1 1:z"),
                     (errno.EINVAL, "%d %d if-layer 1 1:z" % (generation, blocks)),
                     (errno.EINVAL, "%d 0 layer 1 1:z" % generation),
                     (errno.EINVAL, "%d 0 if-layer 2 1:z" % generation),
                     (errno.EINVAL, "%d 0 if-layer 1,2 1:z" % generation),
                     (errno.EINVAL, "%d 0 if-layer 1,x 1:z" % generation),
                     (errno.EINVAL, "%d 0 if-layer 1023 1:z" % generation),
                     (errno.EINVAL, "%d 0 if-layer 1 1:d:2:4096" % generation),
                     (errno.EINVAL, "%d 0 if-layer 1 1:d" % generation),
                     (errno.EINVAL, "%d 0 if-layer 1 %d:z" % (generation, blocks + 1)),
                     (errno.EINVAL, "%d 1 if-layer 1 1:z %d:z" % (generation, blocks - 1)),
                     (errno.ENOENT, "%d 0 if-layer 1 1:d:77:0" % generation),
                     (errno.EINVAL, "%d 0 if-layer 1" % generation)):
    refused(number, "refused: " + text, view.dm.message, "remap " + text)
equal((entries(), view.status()["generation"]), (before, generation), "nothing has changed")

# --- only blocks that name the layer, only in the range
equal(remap(7, "1", "500:d:3:%d" % (7 * BLOCK)) + entries()[1], before[1], "so many blocks, so many entries less")
equal(view.status()["generation"], generation + 1, "the generation has risen")
equal((entries()[2], entries()[0]), (before[2], before[0]), "other layers' blocks keep their entries")
equal(remap(0, "1", "10:z", generation=generation), None, "an old generation changes nothing")
equal(remap(7, "1", "500:d:3:%d" % (7 * BLOCK)), 0, "again: nothing is left to be changed there")
same(disk.read(0, nr), want, "the device holds what it held")

# --- slices that are absent stay so
view.commit()
with view.serving:
    view.dm.message("forget 0 512")
    loaded = view.status()["loaded"]
    equal(remap(0, "1", "512:d:3:0"), 0, "of what is absent nothing is changed")
    equal(view.status()["loaded"], loaded, "nor is it loaded")
same(disk.read(0, nr), want, "loaded anew the device holds what it held")

# --- to and fro while the guest reads and writes
model = bytearray(want)
errors = []
halt = threading.Event()


def guest(first, end, seed):
    """Has sectors [first, end) for itself."""
    mine, r = Disk(view.dm.path), random.Random(seed)
    while not halt.is_set():
        n = r.choice([1, 8, 64, 200])
        s = r.randrange(first, end - n)
        if r.random() < 0.4:
            data = pattern(r.randrange(1 << 30), s, n)
            mine.write(s, data)
            model[s * 512:(s + n) * 512] = data
        elif mine.read(s, n) != model[s * 512:(s + n) * 512]:
            errors.append(s)
    mine.close()


threads = [Background(guest, i * nr // 3, (i + 1) * nr // 3, rng.randrange(1 << 30)) for i in range(3)]
moved = 0
for i in range(60):
    n = rng.randrange(1, 200)
    block = rng.randrange(blocks - n)
    moved += remap(block, "1,0", "%d:d:3:%d" % (n, block * BLOCK))
    time.sleep(0.01)
while remap(0, "0,1", "%d:d:3:0" % blocks):
    pass
equal((entries()[0], entries()[1]), (0, 0), "in the end no entry names the two (%d moved before)" % moved)
time.sleep(2)
# --- and nobody reads there any more
for image in (mid, base):
    for s in range(0, 40960, 2048):
        image.disk.write(s, b"\xee" * (2048 * 512))
time.sleep(0.3)
halt.set()
for t in threads:
    t.end()
equal(errors, [], "each read has seen what was written")
view.chain = [top, twin]
view.extra = []
view.reload()
equal(sorted(view.status()["layers"]), [2, 3], "a table without them is taken")
same(disk.read(0, nr), bytes(model), "the device holds what it should")
view.commit()
same(reconstruct([top, twin], nr), bytes(model), "and so does the chain")
disk.close()
view.remove()
E2
