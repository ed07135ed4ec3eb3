#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What QEMU's own tests of block jobs look at. LIVECHAIN_ONLY=REGEX: only scenarios with such names.
# kernels: by-name
# timeout: 600
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io python3 jq
iotests() { PYTHONDONTWRITEBYTECODE=1 python3 "$TOP/tests/iotests.py" --only "${LIVECHAIN_ONLY:-}" "$@"; }
names=$(iotests --list) || bail "$names"
plan $(($(wc -l <<<"$names") + 12))
place 400
load_module
start_daemon
ok $? "the daemon"
while IFS= read -r line; do
	case $line in
	1..*) ;;
	"ok "*) pass "${line#*- }" ;;
	"not ok "*) fail "${line#*- }" ;;
	*) diag "${line#\# }" ;;
	esac
done < <(iotests "$QMP_SOCK" "$IMG" 2>&1)

# So does a disk of a file node, which no raw node is above.
qemu-img create -q -f raw "$IMG/f" 4M
{ qdo blockdev-add "'driver': 'file', 'node-name': 'f', 'filename': '$IMG/f'" && attach f vm2; } >/dev/null
kill9_daemon; start_daemon
is "$(qdo query-block-exports | jq -r '.[]."node-name"') $(qdo query-named-block-nodes | jq -r '.[].drv')" "f file" "the next daemon has the disk of a file node"
{ detach vm2 && del f; } >/dev/null
is "$(qdo query-named-block-nodes)" "[]" "and lets it go"

# A mirror that makes an overlay outlives the daemon: ready, and pending.
qemu-img create -q -f qcow2 "$IMG/a" 4M
{ add a "$IMG/a" && attach a vm1; } >/dev/null
overlay() { qdo drive-mirror "'device': 'vm1', 'target': '$IMG/$1', 'sync': 'none', 'format': 'qcow2', 'job-id': 'j'${2:+, $2}"; }
chain() { qdo query-block | jq -r '[.[0].inserted.image | recurse(."backing-image" // empty) | .filename | split("/")[-1]] | join(" ")'; }
status() { qdo query-jobs | jq -r '.[].status'; }
check "drive-mirror to an overlay of the disk" overlay b
kill9_daemon; start_daemon
is "$(status)" ready "the next daemon has the job"
check "job-complete" qdo job-complete "'id': 'j'"
is "$(chain)" "b a" "the disk is on the overlay"
check "once more, with auto-finalize off" overlay c "'auto-finalize': false"
qdo job-complete "'id': 'j'" >/dev/null
kill9_daemon; start_daemon
is "$(status)" pending "the next daemon has the job that waits for the last word"
check "job-finalize" qdo job-finalize "'id': 'j'"
is "$(chain)" "c b a" "the disk is on the overlay"
{ detach vm1 && stop_daemon; } >/dev/null
ok $? "quit"
