#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The document's blockdev-mirror: a target that is made and attached before.
# kernels: 6.1 debug
# timeout: 600
# mem: 3072
. "$(dirname "$0")/../lib-walk.sh"
require qemu-img qemu-io jq
plan 21
place 1400
load_module

walk_chain B C D
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
check "blockdev-mirror" qmp '{
	"execute": "blockdev-mirror",
	"arguments": {
		"device": "node-D",
		"job-id": "job0",
		"target": "node-E",
		"sync": "full"
	}
}'
wait_event BLOCK_JOB_READY 120 '"device": "job0"'
ok $? "it gets ready while the guest writes"
like "$(qmp '{"execute": "query-block-jobs", "arguments": {}}')" \
	'"device": "job0".*"busy": false.*"status": "ready", "paused": false, "speed": 0, "ready": true, "type": "mirror"' \
	"query-block-jobs says ready"
check "block-job-complete" qmp '{"execute": "block-job-complete", "arguments": {"device": "job0"}}'
wait_event BLOCK_JOB_COMPLETED 60 '"device": "job0"'
ok $? "and notice the event BLOCK_JOB_COMPLETED"
chain_is "the disk is the target" e.qcow2
sleep 1
walk_end e.qcow2
check "no loop device is left" wait_for no_loops 5
