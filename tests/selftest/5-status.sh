#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fail: ends early with a status of its own.
. "${0%/*}/../lib.sh"
plan 1
pass "holds"
exit 3
