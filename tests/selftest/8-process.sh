#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fail: leaves a mount behind.
. "${0%/*}/../lib.sh"
plan 1
mkdir -p /mnt/left
mount -t tmpfs left /mnt/left
ok $? "mounted"
