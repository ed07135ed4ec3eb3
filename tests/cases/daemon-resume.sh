#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A disk that others suspend and resume by hand all the time, while jobs come and go: of two resumes at once
# one may throw a new table away, and what is to begin while the disk stands still may find that it does not. Jobs
# begin all the same, and what they were built of goes with them.
#
# LIVECHAIN_ROUNDS=N: so many jobs (20; of 100 four left their target's device before that was mended).
# kernels: 6.1
# timeout: 600
# mem: 2048
# races: two processors
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io
plan 8
place 400
load_module

rounds=${LIVECHAIN_ROUNDS:-20}
qemu-img create -q -f qcow2 "$IMG/a" 4M
qemu-io -f qcow2 -c 'write -q -P 1 0 1M' "$IMG/a" >/dev/null
raw_of "$IMG/a" "$T/want"
start_daemon
{ add a "$IMG/a" && attach a vm1; } >/dev/null
ok $? "a disk is attached"
touch "$T/go"
by_hand() { while [ -e "$T/go" ]; do dmsetup suspend --noflush --nolockfs vm1; dmsetup resume vm1; done 2>/dev/null; }
by_hand & one=$!
by_hand & two=$!

# target N: an empty image.
target() {
	rm -f "$IMG/t"
	qemu-img create -q -f qcow2 "$IMG/t" 4M
	forget_events
	add "t$1" "$IMG/t" >/dev/null
}

# begin N COMMAND: a job of vm1 into the target.
begin() {
	local out
	out=$(qdo "$2" "'device': 'vm1', 'target': 't$1', 'sync': 'full', 'job-id': 'j$1'") && return
	diag "job $1: $out"
	refused="$refused $1"
	return 1
}

# backup N: 0 when what it was built of is gone.
backup() {
	begin "$1" blockdev-backup || return 0
	wait_job "j$1" null 240 || return 1
	case $(job_events "j$1") in
	*" waiting pending COMPLETED concluded null") ;;
	*) diag "job $1: $(job_events "j$1")"; return 0;;
	esac
	full=$((full + 1))
	qemu-img compare -q -U -f qcow2 -F raw "$IMG/t" "$T/want" || wrong="$wrong $1"
}

mirror() {
	begin "$1" blockdev-mirror || return 0
	wait_event BLOCK_JOB_READY 240 "\"device\": \"j$1\""
	qdo job-cancel "'id': 'j$1'" >/dev/null
	wait_job "j$1" null 240
}

full=0 left='' wrong='' refused=''
for i in $(seq "$rounds"); do
	for how in backup mirror; do
		target "$i"
		$how "$i" || left="$left $how-$i"
		del "t$i" >/dev/null || left="$left t$i"
	done
done
is "$left" "" "each target is free after its job"
is "$wrong" "" "each backup that ended well is right"
is "$refused" "" "no job was refused"
check "half of them did ($full)" [ $((2 * full)) -ge "$rounds" ]
i=0 failed=''
while [ $((i += 1)) -le "$rounds" ]; do
	qdo blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$IMG/s$i', 'snapshot-node-name': 's$i'" >/dev/null || failed="$failed $i"
done
is "$failed" "" "no snapshot was refused"
rm "$T/go"
wait "$one" "$two"
dmsetup resume vm1
is "$(dmsetup ls | cut -f1)" vm1 "no other device is left"
{ detach vm1 && del a; } >/dev/null
ok $? "the disk goes"
stop_daemon
