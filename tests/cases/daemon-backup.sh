#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# blockdev-backup: arguments, events in QEMU's order, every verb in every state, errors, data.
# timeout: 1200
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 94
place 900
load_module

size=32M
qemu-img create -q -f qcow2 "$IMG/a" $size
qemu-io -f qcow2 -c 'write -q -P 1 0 6M' -c 'write -q -z 8M 1M' "$IMG/a" >/dev/null
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" $size
qemu-io -f qcow2 -c 'write -q -P 2 5M 2M' -c 'write -q -P 3 31M 1M' "$IMG/b" >/dev/null
raw_of "$IMG/b" "$T/want"
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk is attached"

target() { # NAME [DRIVER] [OPTIONS...]: a fresh target node
	qemu-img create -q -f "${2:-qcow2}" "${@:3}" "$IMG/$1" $size && add "$1" "$IMG/$1" "${2:-qcow2}" >/dev/null
}
drop() { del "$1" >/dev/null && rm -f "$IMG/$1"; }
backup() { qdo blockdev-backup "'device': 'vm1', 'target': '$1', 'sync': 'full'${2:+, $2}"; }
same() { qemu-img compare -q -f "${2:-qcow2}" -F raw "$IMG/$1" "$T/want"; }
status() { qdo query-jobs | jq -r ".[] | select(.id == \"$1\") | .status"; }

# --- the plain one, and its events ---------------------------------------------------
target t0
check "a backup starts" backup t0 "'job-id': 'b0'"
wait_job b0 null 100
is "$(job_events b0)" "created running paused running waiting pending COMPLETED concluded null" "its events are QEMU's, in order"
like "$(event_lines BLOCK_JOB_COMPLETED)" '"device": "b0".*"len": 33554432, "offset": 33554432, "speed": 0, "type": "backup"' "what it says at the end"
is "$(qdo query-jobs)" "[]" "it is gone from query-jobs"
is "$(qdo query-block-jobs)" "[]" "and from query-block-jobs"
check "the target is the caller's again" del t0
check "it is clean" clean "$IMG/t0"
check "and holds the disk" same t0
size_t0=$(qemu-img check --output=json "$IMG/t0" | jq '."allocated-clusters"')
[ "$size_t0" -le $((9 * 16 + 16)) ]
ok $? "zeros took no space in it ($size_t0 clusters)"
is "$(dmsetup ls | cut -f1)" vm1 "no device of the job is left"

# --- targets ---------------------------------------------------------------------------
for how in "raw raw" "c4k qcow2 -o cluster_size=4k" "c2m qcow2 -o cluster_size=2M" "v2 qcow2 -o compat=0.10" "rc1 qcow2 -o refcount_bits=1"; do
	set -- $how
	target "$@"
	backup "$1" "'job-id': 'j$1'" >/dev/null && wait_job "j$1" null 100 && del "$1" >/dev/null
	ok $? "a backup to ${*:2} ends"
	check "it holds the disk" same "$1" "$2"
	[ "$2" = raw ] || clean "$IMG/$1" || diag "$1 is not clean"
done

# Into an image that has data already: it is written over.
qemu-img create -q -f qcow2 "$IMG/used" $size
qemu-io -f qcow2 -c 'write -q -P 99 0 12M' "$IMG/used" >/dev/null
add used "$IMG/used" >/dev/null
backup used "'job-id': 'used'" >/dev/null && wait_job used null 100 && del used >/dev/null
ok $? "a backup over old data ends"
check "nothing of that is left" same used
check "it is clean" clean "$IMG/used"

# Without a job id the disk's name is the job's.
target t1
check "a backup without a job id" backup t1
wait_job vm1 null 100
ok $? "has the disk's name"
drop t1

# --- finalize and dismiss by hand ---------------------------------------------------------
target t2
check "with auto-finalize and auto-dismiss off" backup t2 "'job-id': 'b2', 'auto-finalize': false, 'auto-dismiss': false"
wait_event BLOCK_JOB_PENDING 100 '"id": "b2"'
ok $? "it waits in pending and says so"
is "$(job_events b2)" "created running paused running waiting pending PENDING" "events so far"
like "$(qdo query-block-jobs)" '"auto-finalize": false.*"auto-dismiss": false.*"status": "pending"' "query-block-jobs tells it"
refuses "pause is too late" "Job 'b2' in state 'pending' cannot accept command verb 'pause'" job-pause "'id': 'b2'"
refuses "dismiss too early" "Job 'b2' in state 'pending' cannot accept command verb 'dismiss'" job-dismiss "'id': 'b2'"
refuses "the target is still the job's" "Node 't2' is busy: block device is in use by block job: backup" blockdev-del "'node-name': 't2'"
check "job-finalize" qdo job-finalize "'id': 'b2'"
like "$(qdo query-jobs)" '"current-progress": 33554432, "status": "concluded", "total-progress": 33554432, "type": "backup", "id": "b2"' "it is concluded"
refuses "finalize comes once" "Job 'b2' in state 'concluded' cannot accept command verb 'finalize'" job-finalize "'id': 'b2'"
refuses "its id is still taken" "Job ID 'b2' already in use" blockdev-backup "'device': 'vm1', 'target': 't2', 'sync': 'full', 'job-id': 'b2'"
check "job-dismiss" qdo job-dismiss "'id': 'b2'"
is "$(job_events b2)" "created running paused running waiting pending PENDING COMPLETED concluded null" "all its events"
drop t2

# --- speed, pause, resume ------------------------------------------------------------------
target t3
start=$(date +%s%N)
check "a slow one" backup t3 "'job-id': 'b3', 'speed': 65536"
like "$(qdo query-block-jobs)" '"busy": true.*"status": "running", "paused": false, "speed": 65536, "ready": false, "type": "backup"' "query-block-jobs tells its speed"
check "block-job-pause" qdo block-job-pause "'device': 'b3'"
is "$(status b3)" paused "it is paused"
refuses "twice" "Job is already paused" job-pause "'id': 'b3'"
at=
settled() { local was=$at; at=$(qdo query-jobs | jq '.[0]."current-progress"'); [ "$at" = "$was" ]; }
wait_for settled 20 # what was in flight ends
sleep 1
is "$(qdo query-jobs | jq '.[0]."current-progress"')" "$at" "it copies nothing more"
refuses "block-job-cancel without force" "is currently paused" block-job-cancel "'device': 'b3'"
check "block-job-resume" qdo block-job-resume "'device': 'b3'"
refuses "resume without a pause" "Can't resume a job that was not paused" job-resume "'id': 'b3'"
refuses "complete is not for backups" "Job 'b3' in state 'running' cannot accept command verb 'complete'" block-job-complete "'device': 'b3'"
refuses "a negative speed" "speed" block-job-set-speed "'device': 'b3', 'speed': -1"
check "block-job-set-speed" qdo block-job-set-speed "'device': 'b3', 'speed': 2097152"
wait_job b3 null 100
took=$((($(date +%s%N) - start) / 1000000))
[ $took -gt 3000 ]
ok $? "it took its time: 8 MiB of data in $took ms"
del t3 >/dev/null; same t3
ok $? "it holds the disk"

# --- cancel -----------------------------------------------------------------------------------
target t4
backup t4 "'job-id': 'b4', 'speed': 65536" >/dev/null
check "job-cancel" qdo job-cancel "'id': 'b4'"
is "$(job_events b4)" "created running paused running aborting CANCELLED concluded null" "its events"
like "$(event_lines BLOCK_JOB_CANCELLED)" '"device": "b4", "len": 33554432, "offset": [0-9]+, "speed": 65536, "type": "backup"' "and what the last says"
backup t4 "'job-id': 'b5', 'auto-dismiss': false, 'speed': 65536" >/dev/null
qdo job-pause "'id': 'b5'" >/dev/null
check "block-job-cancel with force ends a paused one" qdo block-job-cancel "'device': 'b5', 'force': true"
like "$(qdo query-jobs)" '"status": "concluded".*"error": "Operation canceled"' "query-jobs says how it ended"
check "dismiss" qdo block-job-dismiss "'id': 'b5'"
target t5
backup t5 "'job-id': 'b6', 'auto-finalize': false" >/dev/null
wait_event BLOCK_JOB_PENDING 100 '"id": "b6"'
check "cancel in pending" qdo job-cancel "'id': 'b6'"
like "$(job_events b6)" "pending PENDING aborting CANCELLED concluded null" "its events"
drop t5

# --- errors ---------------------------------------------------------------------------------------
why() { refuses "$1" "$2" blockdev-backup "$3" "${4:-}"; }
B="'sync': 'full', 'job-id': 'e'"
qemu-img create -q -f qcow2 "$IMG/small" 16M; add small "$IMG/small" >/dev/null
qemu-img create -q -f qcow2 "$IMG/ro" $size; add ro "$IMG/ro" qcow2 "'read-only': true" >/dev/null
qemu-img create -q -f raw "$IMG/fs" $size; mkfs.ext4 -q -F "$IMG/fs"; add fs "$IMG/fs" raw >/dev/null
fs=$(sums "$IMG/fs" "$IMG/small" "$IMG/ro")
nodes() { qdo query-named-block-nodes "'flat': true" | sed -E 's/"actual-size": [0-9]+, ?//g'; } # changed by a write-back
nodes=$(nodes)
why "an unknown disk" "Cannot find device='nix' nor node-name='nix'" "'device': 'nix', 'target': 't4', $B"
why "an unknown target" "Cannot find device='nix' nor node-name='nix'" "'device': 'vm1', 'target': 'nix', $B"
why "the disk itself" "Source and target cannot be the same" "'device': 'vm1', 'target': 'b', $B"
why "a smaller target" "Source and target image have different sizes" "'device': 'vm1', 'target': 'small', $B"
why "a read-only target" "Block node 'ro' is read-only" "'device': 'vm1', 'target': 'ro', $B"
why "a file system on a raw target" "a file system \(ext4" "'device': 'vm1', 'target': 'fs', $B"
why "a bad job id" "Invalid job ID '9x'" "'device': 'vm1', 'target': 't4', 'sync': 'full', 'job-id': '9x'"
why "a negative speed" "speed" "'device': 'vm1', 'target': 't4', 'speed': -1, $B"
why "no sync" "Parameter 'sync' is missing" "'device': 'vm1', 'target': 't4'"
why "another sync" "Parameter 'sync' does not accept value 'incremental'" "'device': 'vm1', 'target': 't4', 'sync': 'incremental'"
why "another policy" "does not accept value" "'device': 'vm1', 'target': 't4', $B, 'on-source-error': 'x'"
why "compression" "not supported" "'device': 'vm1', 'target': 't4', $B, 'compress': true"
why "an argument that is none" "Parameter 'zzz' is unexpected" "'device': 'vm1', 'target': 't4', $B, 'zzz': 1"
refuses "a job that is none" "Job not found" job-pause "'id': 'nix'"
refuses "by the old name" "Block job 'nix' not found" block-job-pause "'device': 'nix'" DeviceNotActive
is "$(sums "$IMG/fs" "$IMG/small" "$IMG/ro")" "$fs" "nothing was written to what was refused"
is "$(nodes)" "$nodes" "no node changed"
is "$(dmsetup ls | cut -f1)" vm1 "no device is left"
check "with x-force the file system is written over" backup fs "'job-id': 'force', 'x-force': true"
wait_job force null 100; del fs >/dev/null
check "and the backup is right" same fs raw

# --- from a node without a disk, and while the disk is read-only --------------------------------
qemu-img create -q -f qcow2 "$IMG/c" $size
qemu-io -f qcow2 -c 'write -q -P 9 1M 3M' "$IMG/c" >/dev/null
raw_of "$IMG/c" "$T/want"
{ add c "$IMG/c" && target t7; } >/dev/null
check "a backup of a node that is no disk" qdo blockdev-backup "'device': 'c', 'target': 't7', 'sync': 'full', 'job-id': 'n'"
wait_job n null 100
{ del t7 && del c; } >/dev/null
ok $? "both nodes are free again"
check "it is right" same t7
# --- a raw target once more: its loop device may be another image's by then -------------------
dd if=/dev/urandom of="$IMG/s" bs=256k count=1 status=none; qemu-img create -q -f raw "$IMG/st" 256k
{ add s "$IMG/s" raw && add st "$IMG/st" raw; } >/dev/null
once() { qdo blockdev-backup "'device': 's', 'target': 'st', 'sync': 'full', 'job-id': '$1'" >/dev/null && wait_job "$1" null 60; }
check "a backup to a raw image" once r1
{ add c "$IMG/c" && attach c vm2; } >/dev/null
ok $? "another image is attached"
: >"$IMG/st"; truncate -s 256k "$IMG/st"
check "the backup is made again" once r2
check "it is where it should be" cmp "$IMG/s" "$IMG/st"
{ detach vm2 && del c; } >/dev/null
check "the other image is as it was" same c

# --- verbs while jobs end ----------------------------------------------------------------------
out=$(oracle pester "$QMP_SOCK" s st 2>&1)
ok $? "no verb meets a job that has half ended"
diag "$out"
{ del s && del st; } >/dev/null
ok $? "the nodes of these jobs are free again"

detach vm1 >/dev/null && stop_daemon
ok $? "detach and quit"
check "no loop device is left" wait_for no_loops 5
check "all is clean" clean "$IMG"/a "$IMG"/b "$IMG"/t4 "$IMG"/t7
