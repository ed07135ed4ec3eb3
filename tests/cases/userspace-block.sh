#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# block/'s unit tests, with the device-mapper and loop devices that a build machine may lack.
# kernels: 6.1 debug
# timeout: 200
. "${0%/*}/../lib.sh"
UNIT=$BUILD/asan/tests/unit
if ! [ -x "$UNIT/test-dm" ] || ! [ -x "$UNIT/test-loop" ]; then
	skip_all "unit tests are not built: make unit-tests"
fi
plan 2
modprobe loop
run_unit() {
	"$UNIT/$1" >"$T/$1.log" 2>&1
	local r=$?
	[ $r -eq 0 ] || diag "$(<"$T/$1.log")"
	# A skip of what this machine has would hide everything.
	! grep -q "SKIPPED.*$2" "$T/$1.log" || { diag "$2 was skipped"; r=1; }
	ok $r "$1"
}
run_unit test-dm a_blocked_suspend_blocks_nothing_else
run_unit test-loop locks_outlive_a_killed_daemon
