#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The document's block-commit below the active image: case 1 ([B] into [A]), 2 ([B] and [C] into [A]),
# 4 ([C] into [B]).
# kernels: 6.1 debug
# timeout: 900
# mem: 3072
. "$(dirname "$0")/../lib-walk.sh"
require qemu-img qemu-io jq
plan 51
place 1400
load_module

commit() { # TOP BASE
	check "block-commit" qmp '{
		"execute": "block-commit",
		"arguments": {
			"device": "node-D",
			"job-id": "job0",
			"top": "'"$1"'",
			"base": "'"$2"'"
		}
	}'
	wait_job job0 null 120
	is "$(job_events job0)" "created running waiting pending COMPLETED concluded null" "events in QEMU's order"
	is "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" "[]" "no job is left"
	is "$(dmsetup ls | cut -f1)" vm1 "one device is left"
}

walk_chain B C D
commit b.qcow2 a.qcow2
chain_is "case 1: [A] <-- [C] <-- [D]" d.qcow2 c.qcow2 a.qcow2
walk_end d.qcow2 c.qcow2 a.qcow2
cd /

walk_chain B C D
commit c.qcow2 a.qcow2
chain_is "case 2: [A] <-- [D]" d.qcow2 a.qcow2
walk_end d.qcow2 a.qcow2
cd /

walk_chain B C D
commit c.qcow2 b.qcow2
chain_is "case 4: [A] <-- [B] <-- [D]" d.qcow2 b.qcow2 a.qcow2
walk_end d.qcow2 b.qcow2 a.qcow2
