# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# For the cases that walk through QEMU's document "Live Block Device Operations" (docs/interop): its chain
#
#	[A] <-- [B] <-- [C] <-- [D]
#
# of a running guest's disk, made with its commands, and a guest that writes all the time. The JSON
# in the cases is the document's, names included; so the daemon runs in the images' folder.
# shellcheck source=tests/lib-daemon.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib-daemon.sh"

DISK=/dev/mapper/vm1
WALK_SIZE=39M

# walk_chain LETTER...: the chain up to the last letter, under load. Three checks and one for each overlay.
walk_chain() {
	local at=$IMG/$SECONDS
	rm -rf "$at"; mkdir "$at"; cd "$at" || bail "no $at"
	cleanup_fn cd /
	forget_events
	qemu-img create -q -f qcow2 a.qcow2 $WALK_SIZE
	qemu-io -f qcow2 -c 'write -q -P 1 0 5M' -c 'write -q -P 2 20M 3M' -c 'write -q -z 1M 1M' a.qcow2 >/dev/null
	raw_of a.qcow2 "$T/model"
	STATE_DIR=$at/state
	start_daemon --log-level info --blockdev node-name=node-A,driver=qcow2,file.driver=file,file.node-name=file,file.filename=./a.qcow2
	ok $? "the daemon starts with [A]"
	check "[A] is a running guest's disk" attach node-A vm1
	load "$DISK" "$T/model" "$SEED"
	ok $? "the guest writes"
	walk_snapshots "$@"
}

walk_snapshots() {
	local below=A x
	for x; do
		sleep 1
		check "[$below] <-- [$x]" qmp '{
			"execute": "blockdev-snapshot-sync",
			"arguments": {
				"node-name": "node-'$below'",
				"snapshot-file": "'${x,}'.qcow2",
				"snapshot-node-name": "node-'$x'",
				"format": "qcow2"
			}
		}'
		below=$x
	done
	sleep 1
}

# chain_is TEXT FILE...: the disk's chain, top first, to the daemon, and to QEMU by the headers.
chain_is() {
	local text=$1 got
	shift
	got=$(qdo query-block | jq -r '[.[] | select(.device == "vm1").inserted.image | recurse(."backing-image" // empty) | .filename | split("/")[-1]] | join(" ")')
	is "$got" "$*" "$text: to the daemon"
	got=$(qemu-img info -U --backing-chain --output=json "$1" | jq -r '[.[].filename | split("/")[-1]] | join(" ")')
	is "$got" "$*" "$text: by the headers"
}

# walk_end TOP [CLEAN...]: the guest ends, then quit; all that was written is there, images are clean. Five checks.
walk_end() {
	local top=$1
	end_load
	ok $? "all that the guest read was right"
	check "the disk holds what the guest wrote" oracle same "$DISK" "$T/model"
	stop_daemon
	ok $? "quit"
	check "the image holds it" qemu-img compare -q -f qcow2 -F raw "$top" "$T/model"
	check "images are clean" clean "$@"
}
