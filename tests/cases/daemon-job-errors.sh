#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Mirror, commit and stream: verbs in the wrong state, nodes that are busy, cancels at every state, targets that are
# too small or have no space. Each time the chain is what it was, the guest's data is right, nothing is left.
# kernels: 6.1 debug
# timeout: 400
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq fallocate
plan 65
place 900
load_module

truncate -s 80M "$IMG/small.fs"
loop=$(mkloop "$IMG/small.fs")
cleanup_fn loop_free "$loop"
mkfs_mount "$loop" "$T/small" >/dev/null 2>&1
S=$T/small
room() { # MIB: is left for what is written there
	rm -f "$S/filler"
	fallocate -l $(($(stat -f -c '%a * %S / 1048576' "$S") - $1))M "$S/filler"
}

size=48M
qemu-img create -q -f qcow2 "$IMG/lo" $size
qemu-io -f qcow2 -c 'write -q -P 0x11 0 24M' "$IMG/lo" >/dev/null
qemu-img create -q -f qcow2 -b "$IMG/lo" -F qcow2 "$IMG/mid"
qemu-io -f qcow2 -c 'write -q -P 0x22 4M 16M' "$IMG/mid" >/dev/null
qemu-img create -q -f qcow2 -b "$IMG/mid" -F qcow2 "$IMG/hi"
qemu-io -f qcow2 -c 'write -q -P 0x33 8M 4M' "$IMG/hi" >/dev/null
raw_of "$IMG/hi" "$T/model"
start_daemon
below="'backing': {'driver': 'qcow2', 'node-name': 'mid', 'file': {'driver': 'file', 'filename': '$IMG/mid'},
	'backing': {'driver': 'qcow2', 'node-name': 'lo', 'file': {'driver': 'file', 'filename': '$IMG/lo'}}}"
{ add hi "$IMG/hi" qcow2 "$below" && attach hi vm1; } >/dev/null
ok $? "a disk on a chain of three"
load /dev/mapper/vm1 "$T/model" "$SEED"
ok $? "the guest works"

target() { rm -f "${2:-$IMG/t}"; qemu-img create -q -f qcow2 "${2:-$IMG/t}" "${1:-$size}" && add t "${2:-$IMG/t}" >/dev/null; }
mirror() { qdo blockdev-mirror "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'j'${1:+, $1}"; }
drop() { del t >/dev/null && clean "$1"; }
chain() { qdo query-block | jq -r '[.[0].inserted.image | recurse(."backing-image" // empty) | .filename | split("/")[-1]] | join(" ")'; }
shape() { chain; qdo query-named-block-nodes "'flat': true" | jq -r '.[] | ."node-name" + " " + (.ro | tostring)' | sort; dmsetup ls; losetup -n -O BACK-FILE | sort; }
# Loop devices go a moment after the last one has closed them.
as_before() { wait_for '[ "$(shape)" = "$before" ]' 10; is "$(shape)" "$before" "$1"; }
in_state() { refuses "$1 in $2" "^.*Job 'j' in state '$2' cannot accept command verb '$1'" "job-$1" "'id': 'j'"; }
before=$(shape)
target

qemu-img create -q -f raw "$IMG/f" $size
qdo blockdev-add "'driver': 'raw', 'node-name': 'r', 'file': {'driver': 'file', 'node-name': 'f', 'filename': '$IMG/f'}" >/dev/null
for verb in backup mirror; do
	refuses "$verb into a file's node" "Node 'f' is a file node: $verb needs raw or qcow2 nodes" "blockdev-$verb" "'device': 'hi', 'target': 'f', 'sync': 'full', 'job-id': 'k'"
done
del r >/dev/null

# --- verbs in the wrong state, busy nodes ------------------------------------------------
check "a slow mirror" mirror "'speed': 65536"
in_state complete running
in_state finalize running
in_state dismiss running
refuses "resume of what is not paused" "Can't resume a job that was not paused" job-resume "'id': 'j'"
qdo job-pause "'id': 'j'" >/dev/null
refuses "a second pause" "Job is already paused" job-pause "'id': 'j'"
refuses "a soft cancel while paused" "currently paused" block-job-cancel "'device': 'j'"
in_state complete paused
qdo job-resume "'id': 'j'" >/dev/null
busy="is busy: block device is in use by block job: mirror"
refuses "a stream into the same image" "$busy|Need a root" block-stream "'device': 'hi', 'job-id': 'k'"
refuses "a commit of it" "$busy|Need a root" block-commit "'device': 'hi', 'job-id': 'k'"
refuses "a backup to the target" "$busy" blockdev-backup "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'k'"
refuses "a job of the same name" "Job ID 'j' already in use" blockdev-create "'job-id': 'j', 'options': {'driver': 'file', 'filename': '/none/h', 'size': 0}"
refuses "blockdev-del of the target" "busy|in use" blockdev-del "'node-name': 't'"
refuses "the disk's end" "busy|in use|job" block-export-del "'id': 'vm1'"
forget_events
check "job-cancel before ready" qdo job-cancel "'id': 'j'"
is "$(job_events j)" "aborting CANCELLED concluded null" "ends it as QEMU does"
check "the target is free and clean" drop "$IMG/t"
as_before "nothing has changed"

# --- cancels in ready, standby and pending --------------------------------------------------
ready() { forget_events; target; mirror "${1:-}" >/dev/null && wait_event BLOCK_JOB_READY 120 '"device": "j"'; }
ready; ok $? "ready"
in_state finalize ready
check "a forced cancel in ready" qdo block-job-cancel "'device': 'j', 'force': true"
like "$(job_events j)" "READY aborting CANCELLED concluded null$" "ends it"
drop "$IMG/t" >/dev/null
ready; qdo job-pause "'id': 'j'" >/dev/null
wait_job j standby 20
ok $? "standby"
check "job-cancel in standby" qdo job-cancel "'id': 'j'"
like "$(job_events j)" "standby (ready )?aborting CANCELLED concluded null$" "ends it"
drop "$IMG/t" >/dev/null
ready "'auto-finalize': false"; qdo job-complete "'id': 'j'" >/dev/null
wait_event BLOCK_JOB_PENDING 60 '"id": "j"'
ok $? "pending"
in_state complete pending
in_state pause pending
check "job-cancel in pending" qdo job-cancel "'id': 'j'"
like "$(job_events j)" "PENDING aborting CANCELLED concluded null$" "ends it without a switch"
check "the target is clean" drop "$IMG/t"
is "$(chain)" "hi mid lo" "the chain is what it was"

# --- a target that does not fit ---------------------------------------------------------------
forget_events; target 32M
check "a smaller target: the command succeeds" mirror
wait_job j null 20
like "$(event_lines BLOCK_JOB_COMPLETED)" '"error": "Source and target image have different sizes"' "the job fails, as in QEMU"
drop "$IMG/t" >/dev/null
full_mirror() { # POLICY
	rm -f "$S/filler"; forget_events
	target $size "$S/t"; room 8
	mirror "'auto-dismiss': false, 'on-target-error': '$1'"
}
check "no space for the target, report" full_mirror report
wait_job j concluded 60
like "$(event_lines BLOCK_JOB_ERROR)" '"device": "j", "operation": "write", "action": "report"' "an error"
is "$(qdo query-jobs | jq -r '.[0].error')" "No space left on device" "it fails"
qdo job-dismiss "'id': 'j'" >/dev/null
check "the target is clean" drop "$S/t"
check "no space, enospc" full_mirror enospc
wait_job j paused 60
like "$(qdo query-block-jobs)" '"io-status": "nospace"' "it stops"
rm "$S/filler"
qdo job-resume "'id': 'j'" >/dev/null
wait_job j ready 60
ok $? "with space and job-resume it gets ready"
check "job-complete" qdo job-complete "'id': 'j'"
wait_job j concluded 60
is "$(qdo query-jobs | jq -r '.[0].error') $(chain)" "null t" "it ends well"
qdo job-dismiss "'id': 'j'" >/dev/null

# --- commit and stream: cancelled, and without space ------------------------------------------
end_load
ok $? "all that the guest read was right"
check "the disk holds what it wrote" oracle same /dev/mapper/vm1 "$T/model"
{ detach vm1 && del t && del hi; } >/dev/null
ok $? "the old chain and the disk can go"
rm "$S/t"
qemu-img create -q -f qcow2 "$S/lo" $size # what mid has needs space in it
qemu-io -f qcow2 -c 'write -q -P 0x44 0 4M' "$S/lo" >/dev/null
cp "$IMG/mid" "$S/" && qemu-img rebase -q -u -f qcow2 -b "$S/lo" -F qcow2 "$S/mid"
raw_of "$S/mid" "$T/model"
below="'backing': {'driver': 'qcow2', 'node-name': 'lo', 'file': {'driver': 'file', 'filename': '$S/lo'}}"
{ add mid "$S/mid" qcow2 "$below" && attach mid vm1; } >/dev/null
before=$(shape)
room 4; forget_events
check "a commit without space in the base" qdo block-commit "'device': 'mid', 'job-id': 'j', 'auto-dismiss': false"
wait_job j concluded 60
is "$(qdo query-jobs | jq -r '.[0].error')" "No space left on device" "fails"
qdo job-dismiss "'id': 'j'" >/dev/null
as_before "and changes nothing of the chain"
room 3; forget_events
check "the same, enospc" qdo block-commit "'device': 'mid', 'job-id': 'j', 'on-error': 'enospc'"
wait_job j paused 60
like "$(qdo query-block-jobs)" '"io-status": "nospace"' "it stops"
rm "$S/filler"
qdo job-resume "'id': 'j'" >/dev/null
wait_job j ready 60
ok $? "with space and job-resume it gets ready"
qdo block-job-cancel "'device': 'j', 'force': true" >/dev/null
wait_job j null 20
as_before "cancelled, the chain is what it was"
forget_events
check "a slow stream" qdo block-stream "'device': 'mid', 'job-id': 'j', 'speed': 65536"
check "cancelled" qdo job-cancel "'id': 'j'"
is "$(job_events j)" "created running aborting CANCELLED concluded null" "as QEMU does"
as_before "leaves the chain"
check "the disk holds what it held" cmp /dev/mapper/vm1 "$T/model"
{ detach vm1 && stop_daemon; } >/dev/null
ok $? "detach and quit"
check "images are clean" clean "$S/mid" "$S/lo" "$IMG/hi" "$IMG/mid" "$IMG/lo"
check "the chain holds it" qemu-img compare -q -f qcow2 -F raw "$S/mid" "$T/model"
