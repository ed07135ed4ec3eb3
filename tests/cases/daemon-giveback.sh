#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The target of a job that failed gets back what it was given and has not used: when the job ends, or, if it
# could not be written then, when its node goes.
# timeout: 300
# mem: 2048
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 10
place 200
load_module

truncate -s 64M "$IMG/disk"
loop=$(mkloop "$IMG/disk")
cleanup_fn loop_free "$loop"
TGT=/dev/mapper/tgt
dmsetup create tgt --table "0 131072 linear $loop 0"
cleanup_fn dmsetup remove --retry tgt
turn() { # TABLE
	dmsetup suspend --noflush --nolockfs tgt
	dmsetup load tgt --table "0 131072 $1" && dmsetup resume tgt
}
# fails NAME: the storage begins to fail when something of the target is written and not recorded. Once a
# second all is recorded; but not while the storage stands still.
unrecorded() { dmsetup status "livechain-$1--target" | awk '{ print $12 }'; }
fails() {
	for _ in {1..50}; do
		dmsetup suspend --noflush --nolockfs tgt
		[ "$(unrecorded "$1")" = 0 ] || break
		dmsetup resume tgt
		sleep 0.2
	done
	turn error
}
image() { qemu-img check -U "$TGT" 2>&1; }

qemu-img create -q -f qcow2 "$IMG/a" 48M
qemu-io -f qcow2 -c 'write -q -P 1 0 40M' "$IMG/a" >/dev/null
start_daemon
{ add a "$IMG/a" && attach a vm1; } >/dev/null
ok $? "a disk is attached"

# breaks NAME POLICY: a slow backup, amid which the target's storage begins to fail
breaks() {
	qemu-img create -q -f qcow2 "$TGT" 48M
	qdo blockdev-add "'driver': 'qcow2', 'node-name': '$1', 'file': {'driver': 'host_device', 'filename': '$TGT'}" >/dev/null
	qdo blockdev-backup "'device': 'vm1', 'target': '$1', 'sync': 'full', 'job-id': '$1', 'speed': 4194304, 'on-target-error': '$2'"
	ok $? "a backup, on-target-error $2"
	wait_for "[ \"\$(qdo query-jobs | jq '.[0].\"current-progress\"')\" -ge 6291456 ]" 60
	fails "$1"
}
breaks stop stop
wait_job stop paused 60
check "a record of the target can't be written" wait_for "dmsetup status livechain-stop--target | grep -q ' fail '" 60
turn "linear $loop 0"
check "cancelled when the storage is well again" qdo job-cancel "'id': 'stop'"
check "the target has no unused space" image
del stop >/dev/null

breaks report report
wait_job report null 100
turn "linear $loop 0"
like "$(event_lines COMPLETED)" '"error": "Input/output error"' "the job has failed"
del report >/dev/null
check "the target has no unused space when its node is gone" image
journals=("$STATE_DIR"/grants/*)
is "${#journals[@]}" 1 "no journal is left but the disk's"
{ detach vm1 && del a && stop_daemon; } >/dev/null
ok $? "quit"
