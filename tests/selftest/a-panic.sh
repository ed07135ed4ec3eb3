#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fail: ends the guest.
. "${0%/*}/../lib.sh"
plan 1
echo 1 >/proc/sys/kernel/sysrq
echo c >/proc/sysrq-trigger
pass "never reached"
