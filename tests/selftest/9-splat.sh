#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fail: the kernel complains meanwhile.
. "${0%/*}/../lib.sh"
plan 1
echo "WARNING: CPU: 0 PID: 1 at a/file.c:1" >/dev/kmsg
pass "went well, it thinks"
