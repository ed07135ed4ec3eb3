#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Fleecing: copy-before-write and snapshot-access, while a guest writes.
# timeout: 600
# mem: 3072
# races: processors that run at once
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 76
place 700
load_module

size=64M
qemu-img create -q -f qcow2 "$IMG/a" $size
qemu-io -f qcow2 -c 'write -q -P 1 0 40M' -c 'write -q -z 8M 1M' "$IMG/a" >/dev/null
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" $size
qemu-io -f qcow2 -c 'write -q -P 2 5M 2M' -c 'write -q -P 3 63M 1M' "$IMG/b" >/dev/null
raw_of "$IMG/b" "$T/model"
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk is attached"
load /dev/mapper/vm1 "$T/model" "$SEED"
ok $? "a guest writes"
guest=$(pgrep -P "$LOAD" python3) || guest=$LOAD # $LOAD may be a shell that waits for it

target() { qemu-img create -q -f "${2:-qcow2}" "$IMG/$1" "${3:-$size}" && add "$1" "$IMG/$1" "${2:-qcow2}" >/dev/null; }
drop() { del "$1" >/dev/null && rm -f "$IMG/$1"; }
cbw() { # NAME FILE TARGET [MORE]
	qdo blockdev-add "'driver': 'copy-before-write', 'node-name': '$1', 'file': '$2', 'target': '$3'${4:+, $4}"
}
access() { qdo blockdev-add "'driver': 'snapshot-access', 'node-name': '$1', 'file': '$2'"; }
show() { attach "$1" "$2" false; }
alive() { kill -0 "$LOAD" 2>/dev/null && ! grep -qiE 'wrong|error' "$T/load"; }
# All threads, none of them in the midst of I/O.
stopped() { ! grep -h '^State:' /proc/"$guest"/task/*/status | grep -qv 'T (stopped)'; }
# What the disk holds at an instant at which the guest writes nothing; it goes on with guest_on.
guest_off() {
	kill -STOP "$guest"
	wait_for stopped 30
	dd if=/dev/mapper/vm1 of="$T/want" bs=4M iflag=direct status=none
}
guest_on() { kill -CONT "$guest"; }
same() { qemu-img compare -q -f raw -F raw "/dev/mapper/$1" "$T/want"; }
changed() { ! cmp -s /dev/mapper/vm1 "$T/want"; }
fleece() { # NUMBER TARGET-DRIVER [CBW-OPTIONS]: nodes tN cN sN, device flN, of this instant
	guest_off
	{ target "t$1" "$2" && cbw "c$1" b "t$1" "${3:-}" && access "s$1" "c$1" && show "s$1" "fl$1"; } >/dev/null
	local st=$?
	guest_on
	return $st
}
unfleece() { { detach "fl$1" && del "s$1" && del "c$1"; } >/dev/null && drop "t$1"; }

# --- the plain one ---------------------------------------------------------------------
check "what the disk holds is kept" fleece 0 qcow2
is "$(qdo query-jobs)" "[]" "there is no job to be seen"
like "$(qdo query-named-block-nodes "'flat': true" | jq -c '.[] | select(."node-name" == "c0")')" \
	'"drv":"copy-before-write".*"format":"copy-before-write"' "the filter is a node"
like "$(qdo query-named-block-nodes "'flat': true" | jq -c '.[] | select(."node-name" == "s0") | [.drv, .file, .image."virtual-size"]')" \
	"\\[\"snapshot-access\",\"$IMG/b\",67108864\\]" "and what shows it"
same fl0; ok $? "the device holds what the disk held"
check "the guest has written since" wait_for changed 60
same fl0; ok $? "the device still holds what the disk held"
cp /dev/mapper/fl0 "$T/copy"
cmp "$T/copy" "$T/want"; ok $? "read by another tool, too"
check "the guest writes on, all right" alive
refuses "it is for reading" "Cannot export read-only node as writable" block-export-add "'type': 'dm', 'id': 'w', 'node-name': 's0', 'name': 'w', 'writable': true"

# --- a backup of it --------------------------------------------------------------------
target full
check "a backup of what was kept" qdo blockdev-backup "'device': 's0', 'target': 'full', 'sync': 'full', 'job-id': 'full'"
wait_job full null 200; ok $? "ends"
del full >/dev/null
qemu-img compare -q -f qcow2 -F raw "$IMG/full" "$T/want"; ok $? "it is what the disk held"
check "and clean" clean "$IMG/full"

# --- what is in use is not taken away --------------------------------------------------
refuses "the exported one" "Block device s0 is in use" blockdev-del "'node-name': 's0'"
refuses "the filter under it" "Block device c0 is in use" blockdev-del "'node-name': 'c0'"
refuses "the target" "Block device t0 is in use" blockdev-del "'node-name': 't0'"
refuses "the disk's node" "Block device b is in use" blockdev-del "'node-name': 'b'"
refuses "the disk" "Export 'vm1' is in use by node 'c0'; delete that first" block-export-del "'id': 'vm1'"
refuses "a second filter" "Node 'b' is busy: node is used as file of 'c0'" blockdev-add "'driver': 'copy-before-write', 'node-name': 'c1', 'file': 'b', 'target': 't0'"
refuses "a snapshot under it" "Node 'b' is busy: node is used as file of 'c0'" blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$IMG/snap'"
refuses "a job of its hidden name" "Job not found" job-cancel "'id': 'cbw:c0'"
refuses "a command that needs an image" "Node 'c0' is a copy-before-write node" blockdev-snapshot-sync "'node-name': 'c0', 'snapshot-file': '$IMG/snap', 'snapshot-node-name': 'x'"
refuses "a backup of the filter" "read through a snapshot-access node" blockdev-backup "'device': 'c0', 'target': 't0', 'sync': 'full', 'job-id': 'e'"
refuses "a mirror of what was kept" "Node 's0' is a snapshot-access node" blockdev-mirror "'device': 's0', 'target': 't0', 'sync': 'full', 'job-id': 'e'"

# --- a killed daemon -------------------------------------------------------------------
kill9_daemon
same fl0; ok $? "without a daemon it is read on"
restart_daemon
ok $? "a new daemon starts"
like "$(qdo query-named-block-nodes "'flat': true")" '"drv": "copy-before-write"' "and has the nodes"
same fl0; ok $? "the device holds what the disk held"
check "the guest writes on" alive
check "all is taken down in order" unfleece 0
is "$(dmsetup ls | cut -f1)" vm1 "nothing of it is left"

# --- a raw target, twice, the second time killed before anything was shown ---------------
fleece 1 raw "'on-cbw-error': 'break-snapshot', 'cbw-timeout': 200"
ok $? "a raw target"
sleep 1
same fl1; ok $? "it holds what the disk held"
check "and goes" unfleece 1
target t2
guest_off
{ cbw c2 b t2 && access s2 c2; } >/dev/null
ok $? "kept, and not shown yet"
guest_on
kill9_daemon
restart_daemon
show s2 fl2 >/dev/null
ok $? "shown by the next daemon"
same fl2; ok $? "it holds what the disk held"
unfleece 2

# --- wrong words -----------------------------------------------------------------------
target t3
target small qcow2 16M
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/over"
# node_names: of all; a running guest changes what else is said of them
node_names() { qdo query-named-block-nodes "'flat': true" | grep -o '"node-name": "[^"]*"' | sort; }
nodes=$(node_names)
like "$nodes" '"node-name": "t3"' "the nodes of before"
no() { refuses "$1" "$2" blockdev-add "'driver': 'copy-before-write', $3"; }
no "no target" "Parameter 'target' is missing" "'node-name': 'c', 'file': 'b'"
no "no file" "Parameter 'file' is missing" "'node-name': 'c', 'target': 't3'"
no "a file that is none" "Cannot find device='nix' nor node-name='nix'" "'node-name': 'c', 'file': 'nix', 'target': 't3'"
no "a target that is none" "Cannot find device='nix' nor node-name='nix'" "'node-name': 'c', 'file': 'b', 'target': 'nix'"
no "another policy" "Parameter 'on-cbw-error' does not accept value 'xx'" "'node-name': 'c', 'file': 'b', 'target': 't3', 'on-cbw-error': 'xx'"
no "a negative time" "Parameter 'cbw-timeout' expects uint32_t" "'node-name': 'c', 'file': 'b', 'target': 't3', 'cbw-timeout': -1"
no "no name" "'node-name' must be specified for the root node" "'file': 'b', 'target': 't3'"
no "a name that is taken" "Duplicate nodes with node-name='b'" "'node-name': 'b', 'file': 'b', 'target': 't3'"
no "the same twice" "Source and target cannot be the same" "'node-name': 'c', 'file': 'b', 'target': 'b'"
no "a smaller target" "Source and target image have different sizes" "'node-name': 'c', 'file': 'b', 'target': 'small'"
no "a target of its own with a backing file" "needs a target without a backing file" "'node-name': 'c', 'file': 'b', 'target': $(node o "$IMG/over" | sed 's/^/{/; s/$/}/')"
refuses "access without a filter" "must be a copy-before-write node" blockdev-add "'driver': 'snapshot-access', 'node-name': 's', 'file': 'b'"
is "$(node_names)" "$nodes" "no node is left of what was refused"
is "$(dmsetup ls | cut -f1)" vm1 "no device either"
drop t3; drop small

# --- the target is full, or fails --------------------------------------------------------
# errno_of: a write of the guest to what was not copied yet
poke() { dd if=/dev/zero of=/dev/mapper/vm1 bs=64k count=1 seek="$1" oflag=direct conv=notrunc status=none 2>&1; }
end_load; ok $? "every read of the guest was right"
truncate -s 64M "$IMG/bad.img"; loop=$(mkloop "$IMG/bad.img")
cleanup_fn loop_free "$loop"
printf '0 65536 linear %s 0\n65536 128 error\n65664 65408 linear %s 65664\n' "$loop" "$loop" >"$T/table"
dm_create bad <"$T/table"
bad() { qdo blockdev-add "'driver': 'raw', 'node-name': 'bad', 'file': {'driver': 'host_device', 'filename': '/dev/mapper/bad'}"; }
dd if=/dev/mapper/vm1 of="$T/want" bs=4M iflag=direct status=none
{ bad && cbw c4 b bad && access s4 c4 && show s4 fl4; } >/dev/null
ok $? "a target that fails somewhere"
like "$(poke 512)" "Input/output error" "break-guest-write is the default: the guest's write fails there"
check "elsewhere it is done" poke 3
same fl4; ok $? "what was kept is whole"
{ detach fl4 && del s4 && del c4; } >/dev/null
ok $? "all is taken down"
dd if=/dev/mapper/vm1 of="$T/want" bs=4M iflag=direct status=none
{ cbw c5 b bad "'on-cbw-error': 'break-snapshot'" && access s5 c5 && show s5 fl5; } >/dev/null
ok $? "the same with break-snapshot"
check "the guest's write is done" poke 512
fails "what was kept is lost" "Input/output error" dd if=/dev/mapper/fl5 of=/dev/null bs=64k iflag=direct
like "$(qdo query-version)" qemu "the daemon is well"
{ detach fl5 && del s5 && del c5 && del bad; } >/dev/null
ok $? "all is taken down"
dmsetup remove bad

truncate -s 40M "$IMG/small.fs"
loop=$(mkloop "$IMG/small.fs")
cleanup_fn loop_free "$loop"
mkfs_mount "$loop" "$T/small" >/dev/null 2>&1
qemu-img create -q -f qcow2 "$T/small/t" $size
fallocate -l $(($(stat -f -c '%a * %S / 1048576' "$T/small") - 10))M "$T/small/filler"
{ add t "$T/small/t" && cbw c7 b t "'on-cbw-error': 'break-snapshot', 'cbw-timeout': 20" && access s7 c7 && show s7 fl7; } >/dev/null
ok $? "a target without much space"
check "the guest writes more than fits there" dd if=/dev/urandom of=/dev/mapper/vm1 bs=1M count=40 oflag=direct conv=notrunc status=none
fails "what was kept is lost" "Input/output error" dd if=/dev/mapper/fl7 of=/dev/null bs=64k iflag=direct
{ detach fl7 && del s7 && del c7 && del t; } >/dev/null
ok $? "all is taken down"
check "the target is a clean image" clean "$T/small/t"
umount "$T/small"

# --- quit --------------------------------------------------------------------------------
target t6
{ cbw c6 b t6 && access s6 c6 && show s6 fl6; } >/dev/null
ok $? "kept once more"
stop_daemon; ok $? "quit ends it all"
check "no device is left" wait_for no_disks 5
check "no loop device either" wait_for "! losetup -a | grep -v 'bad.img\|small.fs'" 5
check "all is clean" clean "$IMG"/a "$IMG"/b "$IMG"/t6
