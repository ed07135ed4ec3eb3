#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fail: leaves a device behind.
. "${0%/*}/../lib.sh"
plan 1
modprobe dm-mod
dmsetup create leftover --table "0 8 zero"
ok $? "made"
