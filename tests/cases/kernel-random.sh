#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Random I/O with suspends, reloads, snapshots and copies reads back as a model says.
# timeout: 600
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
rounds=${LIVECHAIN_ROUNDS:-4}
seconds=${LIVECHAIN_SECONDS:-15}
plan "$rounds"
kernel_setup 6 96
cleanup_fn _remove_all
for i in $(seq "$rounds"); do
	seed=$((SEED * 10 + i))
	PYTHONDONTWRITEBYTECODE=1 python3 "$TOP/tests/krandom.py" --seed "$seed" --seconds "$seconds" \
		"${RAM[@]}" >"$T/out" 2>&1
	ok $? "random I/O, seed $seed"
	diag "$(cat "$T/out")"
	_remove_all
done
