#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Somebody has the device of a job's target open when the job ends: a scanner, a person who looks. The job ends, and
# what it was built of goes when they are done.
# timeout: 300
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io
plan 48
place 200
load_module

qemu-img create -q -f qcow2 "$IMG/a" 8M
qemu-io -f qcow2 -c 'write -q -P 1 0 3M' "$IMG/a" >/dev/null
raw_of "$IMG/a" "$T/want"
start_daemon
{ add a "$IMG/a" && attach a vm1; } >/dev/null
ok $? "a disk is attached"

inner=livechain-j--target
devices() { dmsetup ls | cut -f1 | sort | tr '\n' ' '; }
let_go() { exec 9<&-; }
hold() { exec 9<"/dev/mapper/$inner"; }

# pending COMMAND: its job has done its work, and waits for job-finalize.
pending() {
	rm -f "$IMG/t"
	qemu-img create -q -f qcow2 "$IMG/t" 8M
	forget_events
	{ add t "$IMG/t" && qdo "$1" "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'j', 'auto-finalize': false"; } >/dev/null
	if [ "$1" = blockdev-mirror ]; then
		wait_event BLOCK_JOB_READY 60 '"device": "j"'
		qdo block-job-cancel "'device': 'j'" >/dev/null
	fi
	wait_job j pending 60
}

for command in blockdev-backup blockdev-mirror; do
	pending $command
	hold
	{ sleep 1; } 9<"/dev/mapper/$inner" &
	let_go
	check "$command, held for a moment: the job is finalized" qdo job-finalize "'id': 'j'"
	wait_job j null 60
	like "$(job_events j)" "COMPLETED concluded null" "it ends well"
	is "$(devices)" "vm1 " "its target's device is gone with it"
	check "the target can go" del t
	check "the copy is right" qemu-img compare -q -f qcow2 -F raw "$IMG/t" "$T/want"
	wait "$!"
done

pending blockdev-backup
hold
check "held for long: the job is finalized" qdo job-finalize "'id': 'j'"
wait_job j null 60
like "$(job_events j)" "COMPLETED concluded null" "it ends well"
is "$(devices)" "$inner vm1 " "the device is there still"
refuses "the target can't go, and the sentence names the device" "/dev/mapper/$inner.*in use \(1 open\)" \
	blockdev-del "'node-name': 't'"
refuses "it is no other job's target" "somebody has /dev/mapper/$inner open still" \
	blockdev-backup "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'j2'"
check "others work" qdo blockdev-snapshot-sync \
	"'device': 'vm1', 'snapshot-file': '$IMG/s', 'snapshot-node-name': 's'"
is "$(cmp /dev/mapper/$inner "$T/want")" "" "who reads it goes on reading it"
kill9_daemon
restart_daemon 9<&-
ok $? "a new daemon takes up what is there"
is "$(devices)" "$inner vm1 " "with the device"
let_go
check "closed: the target can go" del t
is "$(devices)" "vm1 " "and the device is gone"
check "the copy is right" qemu-img compare -q -f qcow2 -F raw "$IMG/t" "$T/want"
check "and clean" clean "$IMG/t"

# Images of the disk's own chain. What is unused in one is its own again when the first job ends, so that another job can
# write it while the first one's device is open still.
work() { qemu-io -f raw -c "write -q -P $1 $1M 1M" /dev/mapper/vm1 >/dev/null; }
overlay() { qdo blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$IMG/$1', 'snapshot-node-name': '$1'" >/dev/null; }
stream() { qdo block-stream "'device': 's2', 'job-id': '$1', 'auto-finalize': false${2:+, $2}" >/dev/null; }
work 4; overlay s2; work 5; overlay s3; work 6
forget_events
inner=livechain-j--stream
stream j "'base-node': 'a'"
wait_job j pending 60
hold
check "a stream ends" qdo job-finalize "'id': 'j'"
wait_job j null 60
like "$(job_events j)" "COMPLETED concluded null" "it ends well"
is "$(devices)" "$inner vm1 " "its device is there still"
is "$(qemu-img info -U --output json "$IMG/s2" | jq -r '."backing-filename"')" "$IMG/a" "its image has lost what was between"
check "it is clean, and nobody writes it" clean "$IMG/s2"
check "its device is read" dd if=/dev/mapper/$inner of=/dev/null bs=1M iflag=direct status=none
dd if=/dev/zero of=/dev/mapper/$inner bs=64k seek=126 count=1 oflag=direct status=none 2>"$T/said"
like "$(cat "$T/said")" "Input/output error" "a write to it finds no space, and does not wait"
stream k
wait_job k pending 60
let_go # another job writes the same image now
check "that job ends" qdo job-finalize "'id': 'k'"
wait_job k null 60
like "$(job_events k)" "COMPLETED concluded null" "it ends well"
is "$(devices)" "vm1 " "both devices are gone"
check "the image is clean" clean "$IMG/s2"

commit() { qdo block-commit "'device': 'vm1', 'top-node': '$1', 'base-node': 's2', 'job-id': '$2', 'auto-finalize': false"; }
overlay s4; work 7
inner=livechain-l--target
commit s3 l >/dev/null
wait_job l pending 60
hold
check "a commit ends" qdo job-finalize "'id': 'l'"
wait_job l null 60
like "$(job_events l)" "COMPLETED concluded null" "it ends well"
overlay s5
like "$(commit s4 m)" "Node 's2' is busy: somebody has /dev/mapper/$inner open still" "its image is no other commit's base"
let_go
commit s4 m >/dev/null
wait_job m pending 60
check "closed, it is" qdo job-finalize "'id': 'm'"
wait_job m null 60
is "$(devices)" "vm1 " "both devices are gone"
cat /dev/mapper/vm1 >"$T/want"
for i in 4 5 6 7; do qemu-io -f raw -r -c "read -P $i ${i}M 1M" "$T/want"; done | grep -q "verification failed"
[ $? = 1 ]
ok $? "the disk holds what was written"

# A guest's disk is another matter: it stays until somebody says so while nobody has it open.
exec 9</dev/mapper/vm1
SECONDS=0
refuses "a disk that is open stays" "'/dev/mapper/vm1' is in use \(1 open\): unmount it" block-export-del "'id': 'vm1'"
check "that is said at once" [ "$SECONDS" -lt 3 ]
let_go
qemu-img create -q -f qcow2 "$IMG/u" 8M
{ add u "$IMG/u" && del u; } >/dev/null
is "$(devices)" "vm1 " "closed, it is there after other commands"
check "it can go now" detach vm1
stop_daemon
check "images are clean" clean "$IMG/a" "$IMG/s" "$IMG/s2" "$IMG/s5"
check "the chain holds it" qemu-img compare -q -f qcow2 -F raw "$IMG/s5" "$T/want"
check "no journal is left" [ -z "$(ls "$STATE_DIR/grants")" ]
