#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Metadata that is damaged under an attached image: its clusters fail, in QEMU's words, the rest goes on.
# timeout: 1200
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 50
place 300
load_module
K64=65536

u64() { od -An -j"$(($2))" -N8 -tx8 --endian=big "$1" | tr -d ' '; }
# poke FILE OFFSET HEX: past everybody's cache
poke() {
	printf '%b' "$(sed 's/../\\x&/g' <<<"$3")" | dd of="$1" bs=1 seek="$(($2))" conv=notrunc,fsync status=none
}
l2_of() { echo $((16#$(u64 "$1" $((16#$(u64 "$1" 40)))) & 0xfffffffffffe00)); }
forget_map() { sync /dev/mapper/vm1 && dmsetup message vm1 0 forget 0 512; }
# cluster N: reads it, within time
cluster() { timeout 90 dd if=/dev/mapper/vm1 bs=64k skip="$1" count=1 iflag=direct status=none; }
put() { timeout 90 dd if="$T/data" of=/dev/mapper/vm1 bs=64k skip="$1" seek="$1" count=1 oflag=direct status=none; }
eio() { # TEXT COMMAND...: fails with EIO, not by the time limit
	local text=$1 st
	shift
	"$@" >/dev/null 2>"$T/err"; st=$?
	[ $st = 1 ] && grep -q 'Input/output error' "$T/err"
	ok $? "$text"
}
same_cluster() { cluster "$1" | cmp - <(dd if="$2" bs=64k skip="$1" count=1 status=none); }
qemu_says() { # FILE CLUSTER: QEMU's sentence about it
	qemu-io -r -f qcow2 -c "read $(($2 * K64)) $K64" "$1" 2>&1 | sed -n 's/.*Image is corrupt: \(.*\); further.*/\1/p'
}

qemu-img create -q -f qcow2 "$IMG/a" 32M
dd if=/dev/urandom of="$T/data" bs=1M count=32 status=none
qemu-img convert -n -f raw -O qcow2 "$T/data" "$IMG/a"
cp --sparse=always "$T/data" "$T/model"
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" 32M
qemu-io -f qcow2 -c 'write -q -P 9 2M 1M' "$IMG/b" >/dev/null
raw_of "$IMG/b" "$T/model"

# --- the backing image -------------------------------------------------------------------
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a chain is attached"
check "it reads" same_cluster 5 "$T/model"
l2=$(l2_of "$IMG/a")
was5=$(u64 "$IMG/a" $((l2 + 5 * 8))) was7=$(u64 "$IMG/a" $((l2 + 7 * 8)))
poke "$IMG/a" $((l2 + 5 * 8)) 8000000000050200
poke "$IMG/a" $((l2 + 7 * 8)) 8000001000000000
sum=$(sums "$IMG/a")
said=$(qemu_says "$IMG/a" 5)
like "$said" "Cluster allocation offset 0x50200 unaligned" "QEMU complains"
same_cluster 5 "$T/model"
ok $? "what is loaded already still reads"
check "the map is forgotten" forget_map
eio "a damaged cluster reads as EIO, at once" cluster 5
eio "the other one too" cluster 7
for n in 4 6 8 33 200; do check "cluster $n reads" same_cluster $n "$T/model"; done
wait_event BLOCK_IMAGE_CORRUPTED 20
event=$(event_lines BLOCK_IMAGE_CORRUPTED)
is "$(wc -l <<<"$event")" 1 "one event for the image"
like "$event" '"device": "vm1", "node-name": "#block[0-9]+", "msg": ".*", "fatal": false' "with QEMU's members"
grep -qF "$said" <<<"$event"
ok $? "and words"
eio "a write to it fails" put 5
{ put 6 && put 40; } && dd if="$T/data" of="$T/model" bs=64k skip=6 seek=6 count=1 conv=notrunc status=none &&
	dd if="$T/data" of="$T/model" bs=64k skip=40 seek=40 count=1 conv=notrunc status=none
ok $? "writes beside it do not"
sync /dev/mapper/vm1
check "and read" same_cluster 6 "$T/model"

# A backup meets it as a read error.
qemu-img create -q -f qcow2 "$IMG/t" 32M
add t "$IMG/t" >/dev/null
qdo blockdev-backup "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'j', 'auto-dismiss': false" >/dev/null
wait_for "qdo query-jobs | grep -q concluded" 60
is "$(qdo query-jobs | jq -r '.[0].error')" "Input/output error" "a backup fails"
like "$(event_lines BLOCK_JOB_ERROR)" '"device": "j", "operation": "read", "action": "report"' "with QEMU's event"
{ qdo job-dismiss "'id': 'j'" && del t; } >/dev/null

# A new daemon finds it as it was. Its event may come before the client does: the log has its words.
kill9_daemon
forget_events
told=$(grep -cF "$said" "$DAEMON_LOG")
restart_daemon
ok $? "a new daemon takes it up"
eio "the cluster still fails" cluster 5
tells_again() { [ "$(grep -cF "$said" "$DAEMON_LOG")" -gt "$told" ]; }
wait_for tells_again 20
ok $? "it tells so"
check "the rest reads" same_cluster 8 "$T/model"
{ detach vm1 && del b; } >/dev/null
ok $? "detach"
is "$(sums "$IMG/a")" "$sum" "the damaged image is as it was"
check "the overlay is clean" clean "$IMG/b"

# --- damage that is there before is refused at once
add b "$IMG/b" >/dev/null
refuses "a new attach is refused" "qcow2 image '$IMG/a'.*unaligned.*qemu-img check" block-export-add "'type': 'dm', 'id': 'vm1', 'node-name': 'b', 'writable': true"
del b >/dev/null
poke "$IMG/a" $((l2 + 5 * 8)) "$was5"
poke "$IMG/a" $((l2 + 7 * 8)) "$was7"
check "repaired, the chain reads as it should" qemu-img compare -q -f qcow2 -F raw "$IMG/b" "$T/model"

# --- the active image: writes elsewhere in the same table ------------------------------------------
forget_events
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "it is attached again"
l2=$(l2_of "$IMG/b")
was=$(u64 "$IMG/b" $((l2 + 35 * 8)))
poke "$IMG/b" $((l2 + 35 * 8)) 8000000000050200
forget_map
eio "a damaged cluster of the active image" cluster 35
wait_event BLOCK_IMAGE_CORRUPTED 20
like "$(event_lines BLOCK_IMAGE_CORRUPTED)" '"node-name": "b"' "its node is named"
put 50 && put 36 && sync /dev/mapper/vm1
ok $? "writes to others are done"
for n in 36 50; do dd if="$T/data" of="$T/model" bs=64k skip=$n seek=$n count=1 conv=notrunc status=none; done
{ detach vm1 && del b; } >/dev/null
ok $? "detach"
is "$(u64 "$IMG/b" $((l2 + 35 * 8)))" 8000000000050200 "the damaged entry is as it was"
poke "$IMG/b" $((l2 + 35 * 8)) "$was"
check "the others are right" qemu-img compare -q -f qcow2 -F raw "$IMG/b" "$T/model"
check "and the image is clean" clean "$IMG/b"

# --- a table that can't be read, for a while --------------------------------------------------------
truncate -s 64M "$IMG/low"
loop=$(mkloop "$IMG/low")
cleanup_fn loop_free "$loop"
dm_create low 0 131072 linear "$loop" 0
qemu-img create -q -f qcow2 /dev/mapper/low 32M
qemu-img convert -n -f raw -O qcow2 "$T/data" /dev/mapper/low
l2=$(($(l2_of /dev/mapper/low) / 512))
switch_low() { dmsetup reload low --table "$1" && dmsetup suspend --noflush --nolockfs low && dmsetup resume low; }
forget_events
{ qdo blockdev-add "'driver': 'qcow2', 'node-name': 'l', 'file': {'driver': 'host_device', 'filename': '/dev/mapper/low'}" && attach l vm1; } >/dev/null
ok $? "an image on a device"
switch_low "0 $l2 linear $loop 0
$l2 128 error
$((l2 + 128)) $((131072 - l2 - 128)) linear $loop $((l2 + 128))"
forget_map
eio "its table can't be read: its clusters fail" cluster 3
wait_event BLOCK_IO_ERROR 20
like "$(event_lines BLOCK_IO_ERROR)" '"device": "vm1", "node-name": "l", "operation": "read", "action": "report", "nospace": false' "an event tells it"
switch_low "0 131072 linear $loop 0"
wait_for "cluster 3 >/dev/null 2>&1" 40
check "they read again, by themselves, when it can" same_cluster 3 "$T/data"
put 3 && { detach vm1 && del l; } >/dev/null
ok $? "and are written"
check "the image is clean" clean /dev/mapper/low

# --- refcounts that can't be written: a write that needs space fails as in QEMU ---------------------------
qemu-img create -q -f qcow2 /dev/mapper/low 40M
rb=$(($((16#$(u64 /dev/mapper/low $((16#$(u64 /dev/mapper/low 48)))))) / 512))
forget_events
{ qdo blockdev-add "'driver': 'qcow2', 'node-name': 'l', 'file': {'driver': 'host_device', 'filename': '/dev/mapper/low'}" && attach l vm1; } >/dev/null
ok $? "an empty image on a device"
switch_low "0 $rb linear $loop 0
$rb 128 error
$((rb + 128)) $((131072 - rb - 128)) linear $loop $((rb + 128))"
eio "writes fail when no more space can be had" timeout 240 dd if="$T/data" of=/dev/mapper/vm1 bs=1M count=30 oflag=direct
wait_event BLOCK_IO_ERROR 20
like "$(event_lines BLOCK_IO_ERROR)" '"device": "vm1", "node-name": "l", "operation": "write", "action": "report", "nospace": false' "an event tells it"
check "what was written before is there" cmp -n $((2 << 20)) /dev/mapper/vm1 "$T/data"
switch_low "0 131072 linear $loop 0"
{ detach vm1 && del l; } >/dev/null
ok $? "detach"
out=$(qemu-img check /dev/mapper/low 2>&1); st=$?
[ $st = 0 ] || [ $st = 3 ]
ok $? "leaks at most are left"
diag "$out"
stop_daemon
ok $? "quit"
