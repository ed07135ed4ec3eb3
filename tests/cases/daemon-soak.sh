#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Every job and snapshot, at random, on random chains under a random guest; QEMU's tools judge each.
#
# LIVECHAIN_SECONDS=N: how long (300 on 6.1, 45 on others), and to the end of the round;
# LIVECHAIN_SEED=N: the same choices again; LIVECHAIN_VERBOSE=1: tell each operation:
#	LIVECHAIN_SEED=N LIVECHAIN_SECONDS=3600 tests/run daemon-soak
# timeout: 1200
# mem: 3072
# races: processors that run at once
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-storage-daemon
plan 3
place 1500
load_module
case $(uname -r) in 6.1.*) seconds=300;; *) seconds=45;; esac
seconds=${LIVECHAIN_SECONDS:-$seconds}
start_daemon
ok $? "the daemon starts"
PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/soak.py" --dir "$IMG" --socket "$QMP_SOCK" --seed "$SEED" \
	--seconds "$seconds" ${LIVECHAIN_VERBOSE:+--verbose} 2>&1
ok $? "all of it (LIVECHAIN_SEED=$SEED LIVECHAIN_SECONDS=$seconds)"
stop_daemon
ok $? "the daemon ends"
