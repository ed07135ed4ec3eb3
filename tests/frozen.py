#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""frozen.py BEFORE AFTER IMAGE: a disk whose file system is frozen, read before and after a backup
began, and the backup (raw all three).

ext4 discards what was freed in its own time, a freeze does not wait for that: a sector may have
become zeros in between. Each of the backup's is as before or as after.
"""
import sys

SECTOR, STEP = 512, 1 << 20


def main():
    names = sys.argv[1:]
    before, after, image = (open(n, "rb").read() for n in names)
    if not len(before) == len(after) == len(image):
        sys.exit("sizes differ: %d, %d, %d" % (len(before), len(after), len(image)))
    zeroed, wrong = 0, []
    for at in range(0, len(before), STEP):
        if before[at:at + STEP] == after[at:at + STEP] == image[at:at + STEP]:
            continue
        for p in range(at, at + STEP, SECTOR):
            a, b, c = (x[p:p + SECTOR] for x in (before, after, image))
            zeroed += a != b
            if (a != b and any(b)) or c not in (a, b):
                wrong.append(p // SECTOR)
    if wrong:
        sys.exit("%d sectors, %s..., are not those of the frozen disk; %d were discarded meanwhile" % (
            len(wrong), wrong[:20], zeroed))
    print("%d sectors discarded meanwhile" % zeroed)


main()
