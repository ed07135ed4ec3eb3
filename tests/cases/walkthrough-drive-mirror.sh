#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The document's drive-mirror: ready; then cancelled, a point in time; or completed, a pivot.
# kernels: 6.1 debug
# timeout: 900
# mem: 3072
. "$(dirname "$0")/../lib-walk.sh"
require qemu-img qemu-io jq
plan 46
place 1400
load_module

mirror() {
	check "drive-mirror" qmp '{
		"execute": "drive-mirror",
		"arguments": {
			"device": "node-D",
			"job-id": "job0",
			"target": "e.qcow2",
			"sync": "full"
		}
	}'
	wait_event BLOCK_JOB_READY 120 '"device": "job0"'
	ok $? "it gets ready while the guest writes"
	like "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" \
		'"io-status": "ok", "device": "job0".*"busy": false.*"status": "ready", "paused": false, "speed": 0, "ready": true, "type": "mirror"' \
		"query-block-jobs says ready"
}

# --- cancelled: the target is the disk as it was then ------------------------------------------------
walk_chain B C D
mirror
qemu-img compare -q d.qcow2 e.qcow2 2>"$T/out"
like "$(<"$T/out")" 'Failed to get shared "write" lock' "compare before the end meets the lock"
end_load
ok $? "all that the guest read was right"
cp "$T/model" "$T/then"
check "block-job-cancel" qmp '{"execute": "block-job-cancel", "arguments": {"device": "job0"}}'
wait_job job0 null 60
is "$(job_events job0)" "created running ready READY waiting pending COMPLETED concluded null" "events in QEMU's order"
is "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" "[]" "no job is left"
chain_is "the chain is as before" d.qcow2 c.qcow2 b.qcow2 a.qcow2
load "$DISK" "$T/model" $((SEED + 1))
ok $? "the guest goes on"
sleep 1
check "the target is the disk at that moment" qemu-img compare -q -f qcow2 -F raw e.qcow2 "$T/then"
check "and clean" clean e.qcow2
walk_end d.qcow2 c.qcow2 b.qcow2 a.qcow2
cd /

# --- completed: the disk goes on as the target ----------------------------------------------------------
walk_chain B C D
mirror
check "block-job-complete" qmp '{"execute": "block-job-complete", "arguments": {"device": "job0"}}'
wait_job job0 null 60
is "$(job_events job0)" "created running ready READY waiting pending COMPLETED concluded null" "events in QEMU's order"
is "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" "[]" "no job is left"
chain_is "the chain is the target alone" e.qcow2
check "the old chain is nobody's" clean d.qcow2 c.qcow2 b.qcow2 a.qcow2
sleep 2
diag "$(grep -E 'held|switch' "$DAEMON_LOG")"
is "$(dmsetup ls | cut -f1)" vm1 "one device is left"
walk_end e.qcow2
check "no loop device is left" wait_for no_loops 5
