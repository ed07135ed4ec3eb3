#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The document's drive-backup of [A] <-- [B] <-- [C] <-- [D] to [E], which is made.
# kernels: 6.1 debug
# timeout: 600
# mem: 3072
. "$(dirname "$0")/../lib-walk.sh"
require qemu-img qemu-io jq
plan 24
place 1400
load_module

backup() { # ID TARGET
	check "drive-backup" qmp '{
		"execute": "drive-backup",
		"arguments": {
			"device": "node-D",
			"job-id": "'"$1"'",
			"sync": "full",
			"target": "'"$2"'"
		}
	}'
}

walk_chain B C D
# With the guest at rest the point in time is known to the byte; with it at work images must be whole.
backup job0 load.qcow2
like "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" '^\[\]$|"device": "job0".*"type": "backup"' "query-block-jobs"
wait_job job0 null 120
is "$(job_events job0)" "created running paused running waiting pending COMPLETED concluded null" "events in QEMU's order, under load"
check "the target is clean" clean load.qcow2
end_load
ok $? "all that the guest read was right"
cp "$T/model" "$T/then"
backup job1 e.qcow2
load "$DISK" "$T/model" $((SEED + 1))
ok $? "the guest goes on at once"
wait_event BLOCK_JOB_COMPLETED 120 '"device": "job1"'
ok $? "BLOCK_JOB_COMPLETED"
wait_job job1 null 20
is "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" "[]" "no job is left"
chain_is "the chain is as before" d.qcow2 c.qcow2 b.qcow2 a.qcow2
check "[E] is the disk of the moment of the command" qemu-img compare -q -f qcow2 -F raw e.qcow2 "$T/then"
walk_end d.qcow2 c.qcow2 b.qcow2 a.qcow2 e.qcow2
check "no loop device is left" wait_for no_loops 5
