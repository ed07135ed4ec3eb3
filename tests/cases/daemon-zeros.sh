#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A target that gets its backing file only when the job is done: what is zero in the disk is zero in it, and
# does not show what lies below. So it is with a disk whose image has one that was not opened.
# timeout: 300
# mem: 2048
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 35
place 400
load_module

size=16M
qemu-img create -q -f qcow2 "$IMG/a" $size
qemu-io -f qcow2 -c 'write -q -P 1 0 16M' "$IMG/a" >/dev/null
qemu-img create -q -f qcow2 -b "$IMG/a" -F qcow2 "$IMG/b" $size
qemu-io -f qcow2 -c 'write -q -P 2 3M 2M' -c 'write -q -z 8M 1M' "$IMG/b" >/dev/null
raw_of "$IMG/b" "$T/want"
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk is attached"

# reads FILE PATTERN-OFFSET-LENGTH...: that is there, to QEMU.
reads() {
	local f=$1 x out
	shift
	for x; do
		out=$(qemu-io -r -f qcow2 -c "read -q -P ${x//-/ }" "$f" 2>&1)
		[ -z "$out" ] || { echo "$out"; return 1; }
	done
}

# image NAME [OPTIONS]: its header names a backing file; OPTIONS "late": it will.
image() {
	if [ "${2:-}" = late ]; then
		qemu-img create -q -f qcow2 "$IMG/$1" $size
	else
		qemu-img create -q -u -f qcow2 ${2:+-o "$2"} -b "$IMG/a" -F qcow2 "$IMG/$1" $size
	fi
}
late() { qemu-img rebase -q -u -f qcow2 -b "$IMG/a" -F qcow2 "$IMG/$1"; }

# into HOW SYNC NAME OPTIONS: a job into an image that is opened without its backing file
into() {
	image "$3" "$4"
	add "$3" "$IMG/$3" qcow2 "'backing': null" >/dev/null
	check "$1, sync=$2, $4" qdo "blockdev-$1" "'device': 'vm1', 'target': '$3', 'sync': '$2', 'job-id': '$3'"
	if [ "$1" = mirror ]; then
		wait_event BLOCK_JOB_READY 100 "\"device\": \"$3\""
		qdo block-job-cancel "'device': '$3'" >/dev/null
	fi
	wait_job "$3" null 100
	del "$3" >/dev/null
	[ "$4" != late ] || late "$3"
	check "it holds the disk" qemu-img compare -q -U -f qcow2 -F raw "$IMG/$3" "$T/want"
}
into backup top t1 compat=1.1
into backup top t2 compat=0.10
into backup top t3 cluster_size=2M
into backup full t4 compat=1.1
into backup top t8 late
into mirror top t5 compat=1.1
into mirror full t6 compat=1.1
into mirror full t7 compat=0.10

# What the guest zeroes while only new writes are copied: it stays a hole.
hole() { qemu-img map --output=json "$1" | jq -e "any(.[]; .start <= $2 and .start + .length >= $2 + $3 and .zero and (.data | not))"; }
for mode in background write-blocking; do
	for how in "" late; do
		n=n$how$mode
		image $n $how
		add $n "$IMG/$n" qcow2 "'backing': null" >/dev/null
		qdo blockdev-mirror "'device': 'vm1', 'target': '$n', 'sync': 'none', 'job-id': '$n', 'copy-mode': '$mode'" >/dev/null
		wait_event BLOCK_JOB_READY 100 "\"device\": \"$n\""
		check "mirror, sync=none, $mode: the guest zeroes" blkdiscard -z -o 10M -l 1M /dev/mapper/vm1
		qdo block-job-cancel "'device': '$n'" >/dev/null
		wait_job $n null 100
		del $n >/dev/null
		[ -z "$how" ] || late $n
		check "the target has zeros there" reads "$IMG/$n" 0-10M-1M 1-11M-1M
		check "and a hole" hole "$IMG/$n" $((10 << 20)) $((1 << 20))
	done
done

# A disk, and one with a snapshot.
image d
{ add d "$IMG/d" qcow2 "'backing': null" && attach d vm2; } >/dev/null
ok $? "a disk whose backing file is not opened"
check "it is zeroed" blkdiscard -z -o 1M -l 1M /dev/mapper/vm2
check "a snapshot" qdo blockdev-snapshot-sync "'device': 'vm2', 'snapshot-file': '$IMG/e'"
check "it is zeroed elsewhere" blkdiscard -z -o 4M -l 1M /dev/mapper/vm2
{ detach vm2 && del d; detach vm1 && del b && stop_daemon; } >/dev/null
ok $? "quit"
check "with the backing file both are zeros" reads "$IMG/e" 0-1M-1M 0-4M-1M 1-2M-2M
