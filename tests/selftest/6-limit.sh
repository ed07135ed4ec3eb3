#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fail: runs into its time limit.
# timeout: 3
. "${0%/*}/../lib.sh"
plan 1
sleep 60
pass "too late"
