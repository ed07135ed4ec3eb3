#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# pass: one check that holds.
. "${0%/*}/../lib.sh"
plan 1
is 1 1 "one is one"
