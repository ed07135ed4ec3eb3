#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Random messages to a view at work change no guest's byte, and each refusal has its sentence.
#
# LIVECHAIN_SECONDS=N: how long (15); LIVECHAIN_SEED=N: the same messages again.
# kernels: 6.1
# timeout: 300
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
plan 1
kernel_setup 6 48
cleanup_fn _remove_all
PYTHONDONTWRITEBYTECODE=1 python3 "$TOP/tests/kfuzz.py" --seed "$SEED" \
	--seconds "${LIVECHAIN_SECONDS:-15}" "${RAM[@]}" 2>&1 | sed 's/^/# /'
ok "${PIPESTATUS[0]}" "random messages, seed $SEED"
