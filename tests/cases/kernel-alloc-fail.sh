#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Any allocation may fail: of a constructor, a message, a suspend, an I/O, a work queue.
#
# LIVECHAIN_SECONDS=N: how long with work queues; LIVECHAIN_POINTS=N: at most so many allocations of each call (40);
# LIVECHAIN_CALL=NAME[:N]: only that call, from the N-th allocation on.
# tests/run --leaks looks for memory that has been lost meanwhile.
# kernels: debug
# timeout: 1200
. "${0%/*}/../lib-kernel.sh"
[ -e /sys/kernel/debug/failslab ] || mount -t debugfs none /sys/kernel/debug 2>/dev/null
[ -e /proc/self/fail-nth ] || skip_all "this kernel can not make allocations fail"
words=(${LIVECHAIN_CALL:+--only "$LIVECHAIN_CALL"})
plan $((${#words[@]} ? 1 : 44))
kernel_setup 6 48
cleanup_fn _remove_all
while read -r verdict text; do
	case $verdict in
	pass) pass "$text";;
	fail) fail "$text";;
	*) diag "$verdict $text";;
	esac
done < <(PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/allocfail.py" --seed "$SEED" \
	--seconds "${LIVECHAIN_SECONDS:-20}" --points "${LIVECHAIN_POINTS:-40}" "${words[@]}" "${RAM[@]}" 2>&1)
