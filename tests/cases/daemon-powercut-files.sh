#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Power cuts, images in a file system on dm-log-writes: what a guest and each operation write
# is recorded for tests/crash/replay.py; after some cuts a daemon takes up the disk for real.
# kernels: 6.1 debug
# timeout: 1200
# mem: 3072
# shellcheck source=tests/crash/record.sh
. "$(dirname "$0")/../crash/record.sh"
mkram 2 1024
require_module dm-log-writes
modprobe -q loop
record files
