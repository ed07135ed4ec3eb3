#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The daemon dies at each step that counts, of every operation: nothing is lost, nothing is left.
#
# LIVECHAIN_DEATH=all: every point of every operation; OP,OP: of these; OP,OP:any: some at random; OP:A-B, OP:N, OP:N:M, OP:N:A-B, OP:A-B:slow.
# kernels: 6.1 debug
# timeout: 3600
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img
commas=${LIVECHAIN_DEATH:-}
commas=${commas//[!,]/}
case ${LIVECHAIN_DEATH:-all} in all) plan 28;; *) plan $((${#commas} + 2));; esac
place 1000
load_module
daemon=$BUILD/faults/livechaind
[ -x "$daemon" ] || bail "$daemon is not built: make tools FAULTS=1"

bad=
while read -r verdict text; do
	case $verdict in
	pass) pass "$text";;
	fail) fail "$text"; bad=1;;
	*) echo "$verdict $text";;
	esac
done < <(PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/death.py" "$IMG" "$daemon" --work "$T" \
	--seed "$SEED" --seconds "${LIVECHAIN_SECONDS:-120}" --only "${LIVECHAIN_DEATH:-}" \
	${LIVECHAIN_VERBOSE:+--verbose} 2>&1)
[ -z "$bad" ] || diag "$(tail -n 60 "$T/death.log")"
