#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Several busy disks, operations at random, a daemon that is killed and restarted, little memory.
#
# LIVECHAIN_SECONDS=N: how long (300; 3600 and more for a thorough one); repeat a failure with
#	LIVECHAIN_SEED=N LIVECHAIN_SECONDS=S tests/run daemon-stress
# LIVECHAIN_VERBOSE=1: tell each operation.
# kernels: 6.1 debug
# timeout: 1500
# mem: 3072
# races: processors that run at once
. "$(dirname "$0")/../lib-daemon.sh"
. "$(dirname "$0")/../lib-memory.sh"
require qemu-img fio
plan 6
seconds=${LIVECHAIN_SECONDS:-300}
modprobe -q loop
mkram 3 1000
mkfs_mount /dev/ram0 "$T/img"
load_module
swap_on /dev/ram2
memory_cgroups

status=1
while read -r verdict text; do
	case $verdict in
	pass) pass "$text";;
	fail) fail "$text";;
	status) status=$text;;
	*) echo "$verdict $text";;
	esac
done < <(PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/stress.py" "$T/img" /dev/ram1 --work "$T" \
	--daemon "$LIVECHAIND" ${CGROUP:+--cgroup "$CGROUP"} --seed "$SEED" --seconds "$seconds" \
	${LIVECHAIN_VERBOSE:+--verbose} 2>&1; echo "status $?")
ok "$status" "all of it (LIVECHAIN_SEED=$SEED LIVECHAIN_SECONDS=$seconds)"
[ "$status" = 0 ] || diag "$(tail -n 40 "$T/stress-daemon.log")"
