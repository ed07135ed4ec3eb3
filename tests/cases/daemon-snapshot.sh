#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Live snapshots: every form of the two commands, what they refuse, and the data of each layer.
# timeout: 1200
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 41
place 700
load_module

qemu-img create -q -f raw "$IMG/a" 32M
qemu-io -f raw -c 'write -q -P 1 0 4M' "$IMG/a" >/dev/null
qemu-img create -q -f qcow2 -b a -F raw "$IMG/b" 32M
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk is attached"
disk=/dev/mapper/vm1
# put PLACE BYTE COUNT: units of 64 KiB; BYTE is octal
put() {
	dd if=/dev/zero bs=64k count="$3" status=none | tr '\0' "\\$2" |
		dd of="${4:-$disk}" bs=64k seek="$1" iflag=fullblock conv=fsync,notrunc status=none
}
top() { qdo query-block | jq -r '.[0].inserted.file'; }

put 0 101 16			# 'A' in the first MiB of b
cp --sparse=always $disk "$T/at-b"

# By device, without a node name; the overlay takes what is written, b stays what it was.
check "blockdev-snapshot-sync by device" qdo blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$IMG/s1'"
is "$(top)" "$IMG/s1" "the overlay is the disk's image now"
put 0 102 16
put 16 102 16
cp --sparse=always $disk "$T/at-s1"
check "the old image can be read by others" qemu-img compare -q -f qcow2 -F raw "$IMG/b" "$T/at-b"
fails "but not written" "lock" qemu-io -f qcow2 -c 'write 0 64k' "$IMG/b"
like "$(qemu-img info -U "$IMG/s1")" "backing file: $IMG/b" "the overlay names its backing file"
like "$(qemu-img info -U "$IMG/s1")" "backing file format: qcow2" "and its format"

# By node name: needs a name for the overlay.
refuses "by node, the overlay needs a name" "New overlay node-name missing" blockdev-snapshot-sync \
	"'node-name': 'b', 'snapshot-file': '$IMG/x'"
check "blockdev-snapshot-sync by the disk's export and with a name" qdo blockdev-snapshot-sync \
	"'device': 'vm1', 'snapshot-file': '$IMG/s2', 'snapshot-node-name': 's2'"
put 32 103 16
cp --sparse=always $disk "$T/at-s2"
check "blockdev-snapshot-sync by node" qdo blockdev-snapshot-sync \
	"'node-name': 's2', 'snapshot-file': '$IMG/s3', 'snapshot-node-name': 's3'"
is "$(top)" "$IMG/s3" "it is the disk's image"

# mode existing: other cluster sizes, version 2.
qemu-img create -q -u -f qcow2 -o cluster_size=4k -b "$IMG/s3" -F qcow2 "$IMG/s4" 32M
check "an existing overlay with small clusters" qdo blockdev-snapshot-sync \
	"'device': 'vm1', 'snapshot-file': '$IMG/s4', 'snapshot-node-name': 's4', 'mode': 'existing'"
put 48 104 16
qemu-img create -q -u -f qcow2 -o cluster_size=2M,compat=0.10 -b "$IMG/s4" -F qcow2 "$IMG/s5" 32M
check "one with large clusters, version 2" qdo blockdev-snapshot-sync \
	"'device': 'vm1', 'snapshot-file': '$IMG/s5', 'snapshot-node-name': 's5', 'mode': 'existing'"
blkdiscard -z -o 0 -l $((3 << 19)) $disk
put 9 105 3

# blockdev-snapshot: an overlay that is a node already; it has data of its own, which hides what is below.
qemu-img create -q -u -f qcow2 -b "$IMG/s5" -F qcow2 "$IMG/s6" 32M
cp --sparse=always $disk "$T/want"
check "an overlay node without backing is added" add s6 "$IMG/s6" qcow2 "'backing': null"
check "blockdev-snapshot" qdo blockdev-snapshot "'node': 's5', 'overlay': 's6'"
check "nothing changed on the disk" cmp $disk "$T/want"
is "$(qdo query-block | jq -r '.[0].inserted.backing_file_depth')" 7 "the chain has grown"
qemu-img create -q -f qcow2 "$IMG/s7" 32M
qemu-io -f qcow2 -c 'write -q -P 0x77 20M 64k' -c 'write -q -z 1M 64k' "$IMG/s7" >/dev/null
qemu-img rebase -q -u -f qcow2 -b "$IMG/s6" -F qcow2 "$IMG/s7"
put 320 167 1 "$T/want"
put 16 000 1 "$T/want"
check "an overlay with data of its own" qdo blockdev-snapshot-sync \
	"'device': 'vm1', 'snapshot-file': '$IMG/s7', 'snapshot-node-name': 's7', 'mode': 'existing'"
check "its data hides what is below" cmp $disk "$T/want"

# What is refused, and leaves everything as it is.
before=$(qdo query-named-block-nodes "'flat': true" | sed -E 's/"(actual|virtual)-size": [0-9]+, ?//g')
qemu-img create -q -f qcow2 "$IMG/small" 16M
echo content >"$IMG/full"
snap() { echo "'device': 'vm1', 'snapshot-file': '$1', 'snapshot-node-name': '${2:-n}'${3:+, $3}"; }
refuses "an unknown disk" "Cannot find device='nix'" blockdev-snapshot-sync "'device': 'nix', 'snapshot-file': '$IMG/x'"
refuses "a name that is taken" "New overlay node-name already in use" blockdev-snapshot-sync "$(snap "$IMG/x" s2)"
refuses "a name that is none" "Invalid node-name" blockdev-snapshot-sync "$(snap "$IMG/x" 9x)"
refuses "a format that is none" "use qcow2" blockdev-snapshot-sync "$(snap "$IMG/x" n "'format': 'raw'")"
refuses "a file with content" "not empty" blockdev-snapshot-sync "$(snap "$IMG/full")"
refuses "a folder that is missing" "No such file" blockdev-snapshot-sync "$(snap "$IMG/none/x")"
refuses "a file that is missing" "No such file" blockdev-snapshot-sync "$(snap "$IMG/y" n "'mode': 'existing'")"
refuses "an overlay of another size" "size can't change" blockdev-snapshot-sync "$(snap "$IMG/small" n "'mode': 'existing'")"
refuses "an image of the chain itself" "lock|in use" blockdev-snapshot-sync "$(snap "$IMG/s3" n "'mode': 'existing'")"
refuses "a snapshot below the top" "is busy: node is used as backing hd of" blockdev-snapshot-sync \
	"'node-name': 's2', 'snapshot-file': '$IMG/x', 'snapshot-node-name': 'n'"
refuses "itself" "own overlay" blockdev-snapshot "'node': 's7', 'overlay': 's7'"
refuses "an overlay in use" "already in use" blockdev-snapshot "'node': 's7', 'overlay': 's3'"
is "$(qdo query-named-block-nodes "'flat': true" | sed -E 's/"(actual|virtual)-size": [0-9]+, ?//g')" "$before" "all of it left the nodes as they were"
is "$(ls "$IMG/x" "$IMG/y" 2>/dev/null)" "" "and no file behind"

# Snapshots under load.
cp --sparse=always $disk "$T/model"
load $disk "$T/model" "$SEED"; st=$?
for i in 1 2 3 4; do
	qdo blockdev-snapshot-sync "$(snap "$IMG/l$i" "l$i")" >/dev/null || st=1
	sleep 0.5
done
ok $st "four snapshots under load"
end_load
ok $? "every read of that time was right (seed $SEED)"

detach vm1 >/dev/null && stop_daemon
ok $? "detach and quit"
check "all images are clean" clean "$IMG"/b "$IMG"/s[1-7] "$IMG"/l[1-4]
check "b is what it was when it was frozen" qemu-img compare -q -f qcow2 -F raw "$IMG/b" "$T/at-b"
check "so is the first overlay" qemu-img compare -q -f qcow2 -F raw "$IMG/s1" "$T/at-s1"
check "and the second" qemu-img compare -q -f qcow2 -F raw "$IMG/s2" "$T/at-s2"
check "QEMU reads the top as it was written" qemu-img compare -q -f qcow2 -F raw "$IMG/l4" "$T/model"
