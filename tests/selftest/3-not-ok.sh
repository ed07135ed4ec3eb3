#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fail: a check that does not hold.
. "${0%/*}/../lib.sh"
plan 2
pass "holds"
fail "does not"
