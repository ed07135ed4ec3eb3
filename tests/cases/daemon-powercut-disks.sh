#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Power cuts, images on disks of their own: what a guest and each operation write is recorded
# for tests/crash/replay.py; after some cuts a daemon takes up the disk for real.
# kernels: 6.1 debug
# timeout: 1200
# mem: 3072
# shellcheck source=tests/crash/record.sh
. "$(dirname "$0")/../crash/record.sh"
require_module nbd nbds_max=16 max_part=0
record disks
