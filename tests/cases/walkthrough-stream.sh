#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The document's block-stream: case 1 (all into [D]), 2 ([B] and [C] into [D]), 3 ([B] into [C]).
# kernels: 6.1 debug
# timeout: 900
# mem: 3072
. "$(dirname "$0")/../lib-walk.sh"
require qemu-img qemu-io jq
plan 60
place 1400
load_module

# stream DEVICE BASE-NODE: base "" for none
stream() {
	check "block-stream" qmp '{
		"execute": "block-stream",
		"arguments": {
			"device": "'"$1"'",
			'"${2:+\"base-node\": \"$2\",}"'
			"job-id": "job0"
		}
	}'
	like "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" '^\[\]$|"type": "stream"' "query-block-jobs"
	wait_job job0 null 120
	is "$(job_events job0)" "created running waiting pending COMPLETED concluded null" "events in QEMU's order"
	is "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" "[]" "no job is left"
	is "$(dmsetup ls | cut -f1)" vm1 "one device is left"
}

# The images that are not needed any more stay what they were.
unchanged() { # SUMS
	is "$(sums b.qcow2)" "$1" "[B] has not been changed"
}

walk_chain B C D
was=$(sums b.qcow2)
stream node-D ""
chain_is "case 1: [D] alone" d.qcow2
unchanged "$was"
walk_end d.qcow2 b.qcow2 c.qcow2
cd /

walk_chain B C D
was=$(sums b.qcow2)
stream node-D node-A
chain_is "case 2: [A] <-- [D]" d.qcow2 a.qcow2
unchanged "$was"
walk_end d.qcow2 a.qcow2 b.qcow2 c.qcow2
cd /

walk_chain B C D
was=$(sums b.qcow2)
stream node-C node-A
chain_is "case 3: [A] <-- [C] <-- [D]" d.qcow2 c.qcow2 a.qcow2
unchanged "$was"
check "[C] is no job's and can be streamed away" qmp '{"execute": "block-stream", "arguments": {"device": "node-D", "base-node": "node-A", "job-id": "job1"}}'
wait_job job1 null 120
chain_is "[A] <-- [D]" d.qcow2 a.qcow2
walk_end d.qcow2 a.qcow2 c.qcow2
