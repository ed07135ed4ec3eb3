#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# skip: a tool that no machine has.
. "${0%/*}/../lib.sh"
plan 1
require no-such-tool-anywhere
pass "never reached"
