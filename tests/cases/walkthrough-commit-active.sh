#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The document's block-commit of the active image: cases 3 (all into [A]) and 5 ([C] and [D] into [B]).
# kernels: 6.1 debug
# timeout: 900
# mem: 3072
. "$(dirname "$0")/../lib-walk.sh"
require qemu-img qemu-io jq
plan 49
place 1400
load_module

commit() { # BASE
	check "block-commit" qmp '{
		"execute": "block-commit",
		"arguments": {
			"device": "node-D",
			"job-id": "job0",
			"top": "d.qcow2",
			"base": "'"$1"'"
		}
	}'
	wait_event BLOCK_JOB_READY 120 '"device": "job0"'
	ok $? "it gets ready while the guest writes"
	like "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" \
		'"io-status": "ok", "device": "job0".*"busy": false.*"status": "ready", "paused": false, "speed": 0, "ready": true, "type": "commit"' \
		"query-block-jobs says ready"
}
complete() { # REST OF THE CHAIN
	check "block-job-complete" qmp '{"execute": "block-job-complete", "arguments": {"device": "job0"}}'
	wait_job job0 null 60
	is "$(job_events job0)" "created running ready READY waiting pending COMPLETED concluded null" "events in QEMU's order"
	is "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" "[]" "no job is left"
	chain_is "the chain is what it was committed into" "$@"
	is "$(dmsetup ls | cut -f1)" vm1 "one device is left"
	sleep 2
	diag "$(grep -E 'held|switch' "$DAEMON_LOG")"
}

# --- case 3 --------------------------------------------------------------------------------------------
walk_chain B C D
commit a.qcow2
# A cancel leaves the chain as it is; the job can be begun anew.
check "block-job-cancel" qmp '{"execute": "block-job-cancel", "arguments": {"device": "job0"}}'
wait_job job0 null 60
is "$(job_events job0)" "created running ready READY waiting pending COMPLETED concluded null" "a cancel in ready ends it as QEMU does"
chain_is "and leaves the chain" d.qcow2 c.qcow2 b.qcow2 a.qcow2
forget_events
commit a.qcow2
complete a.qcow2
check "a snapshot of what it is now" qmp '{"execute": "blockdev-snapshot-sync", "arguments": {"node-name": "node-A", "snapshot-file": "f.qcow2", "snapshot-node-name": "node-F", "format": "qcow2"}}'
walk_end f.qcow2 a.qcow2
cd /

# --- case 5 --------------------------------------------------------------------------------------------
walk_chain B C D
commit b.qcow2
complete b.qcow2 a.qcow2
walk_end b.qcow2 a.qcow2
check "no loop device is left" wait_for no_loops 5
