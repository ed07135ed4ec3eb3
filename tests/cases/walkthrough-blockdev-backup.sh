#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The document's blockdev-backup of [A] <-- [B] to [E], and what `qemu-img compare` says before and after quit.
# kernels: 6.1 debug
# timeout: 600
# mem: 3072
. "$(dirname "$0")/../lib-walk.sh"
require qemu-img qemu-io jq
plan 17
place 1400
load_module

walk_chain B
end_load
ok $? "the guest rests: the chain stays what is copied"
check "the target is made" qemu-img create -f qcow2 e.qcow2 39M
check "blockdev-add" qmp '{
	"execute": "blockdev-add",
	"arguments": {
		"node-name": "node-E",
		"driver": "qcow2",
		"file": {
			"driver": "file",
			"filename": "e.qcow2"
		}
	}
}'
check "blockdev-backup" qmp '{
	"execute": "blockdev-backup",
	"arguments": {
		"device": "node-B",
		"job-id": "job0",
		"target": "node-E",
		"sync": "full"
	}
}'
wait_event BLOCK_JOB_COMPLETED 120 '"device": "job0"'
ok $? "and notice the event BLOCK_JOB_COMPLETED"
wait_job job0 null 20
is "$(job_events job0)" "created running paused running waiting pending COMPLETED concluded null" "events in QEMU's order"
is "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" "[]" "no job is left"
qemu-img compare b.qcow2 e.qcow2 >"$T/out" 2>&1
is $? 2 "compare before quit fails"
like "$(<"$T/out")" 'Failed to get shared "write" lock' "on the write lock"
stop_daemon
ok $? "quit"
is "$(qemu-img compare b.qcow2 e.qcow2)" "Images are identical." "Images are identical"
check "images are clean" clean a.qcow2 b.qcow2 e.qcow2
check "no loop device is left" wait_for no_loops 5
