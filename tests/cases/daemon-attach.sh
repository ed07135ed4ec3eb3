#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A chain of four images as a device: same bytes as qemu-img reads, written, detached, clean.
# timeout: 1200
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io
plan 20
place 700
load_module

# A raw, B with 4 KiB clusters, C with 2 MiB clusters, D: the top. Each of another
# size, one shorter than the image below it, one that ends within a 64 KiB block.
qemu-img create -q -f raw "$IMG/a.raw" 40M
qemu-img create -q -f qcow2 -o cluster_size=4k -b a.raw -F raw "$IMG/b.qcow2" 50M
qemu-img create -q -f qcow2 -o cluster_size=2M -b b.qcow2 -F qcow2 "$IMG/c.qcow2" 36868k
qemu-img create -q -f qcow2 -b c.qcow2 -F qcow2 "$IMG/d.qcow2" 64M
scribble() { # FILE FORMAT SIZE(KiB) PATTERN
	local i args=()
	for i in 1 2 3 4 5 6 7 8; do
		args+=(-c "write -q -P $(($4 + i)) $((RANDOM * 2 * $3 / 65536))k $((RANDOM % 600 + 1))k")
	done
	[ "$2" = raw ] || args+=(-c "write -q -z $((RANDOM % 100 * 64))k 640k" -c "write -q -z -u $((RANDOM % 300 * 64))k 192k")
	qemu-io -f "$2" "${args[@]}" "$1" >/dev/null 2>&1
	return 0
}
scribble "$IMG/a.raw" raw 40000 10
scribble "$IMG/b.qcow2" qcow2 50000 20
scribble "$IMG/c.qcow2" qcow2 36000 30
scribble "$IMG/d.qcow2" qcow2 64000 40
raw_of "$IMG/d.qcow2" "$T/model"
before=$(cd "$IMG" && sums a.raw b.qcow2 c.qcow2)
all=$(cd "$IMG" && sums ./*.*)

start_daemon
ok $? "the daemon starts"
check "the top is added, its chain follows" add d "$IMG/d.qcow2"
like "$(qdo query-named-block-nodes "'flat': true")" '"backing_file_depth": 3' "the chain has four images"
check "it is put on a device" attach d vm1
like "$(qdo query-block-exports)" '"name": "vm1"' "query-block-exports knows it"
is "$(blockdev --getsize64 /dev/mapper/vm1)" $((64 << 20)) "the device has the image's size"
check "it reads as qemu-img read the chain" cmp /dev/mapper/vm1 "$T/model"
refuses "a second export of the node is refused" "exported already" block-export-add \
	"'type': 'dm', 'id': 'vm2', 'node-name': 'd', 'name': 'vm2', 'writable': true"

out=$(oracle churn /dev/mapper/vm1 "$T/model" --seconds 20 --seed "$SEED"); st=$?
ok $st "random writes, discards and flushes read back (seed $SEED)"
diag "$out"
check "detach" detach vm1
check "no device is left" no_disks
check "the node goes" del d
check "no loop device is left" wait_for no_loops 5
check "the images are clean" clean "$IMG"/[bcd].qcow2
is "$(cd "$IMG" && sums a.raw b.qcow2 c.qcow2)" "$before" "the backing images are what they were"
check "QEMU reads what was written" qemu-img compare -f qcow2 -F raw "$IMG/d.qcow2" "$T/model"

# Again, read-only: nothing may change.
all=$(cd "$IMG" && sums ./*.*)
{ add d "$IMG/d.qcow2" qcow2 "'read-only': true" && attach d vm1 false; } >/dev/null
ok $? "it is attached read-only"
check "it reads the same again" cmp /dev/mapper/vm1 "$T/model"
fails "it can't be written" '.' dd if=/dev/zero of=/dev/mapper/vm1 bs=4k count=1 oflag=direct
stop_daemon
is "$(cd "$IMG" && sums ./*.*)" "$all" "reading changed nothing"
