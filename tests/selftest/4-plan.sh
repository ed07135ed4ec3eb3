#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# fail: fewer checks than planned.
. "${0%/*}/../lib.sh"
plan 2
pass "the only one"
