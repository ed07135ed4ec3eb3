#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# drive-backup: formats, modes, what is refused; sync=none, of both commands.
# kernels: 6.1 debug
# timeout: 900
# mem: 2048
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 74
place 500
load_module

size=16M
qemu-img create -q -f qcow2 "$IMG/a" $size
qemu-io -f qcow2 -c 'write -q -P 1 0 4M' -c 'write -q -z 5M 1M' "$IMG/a" >/dev/null
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" $size
qemu-io -f qcow2 -c 'write -q -P 2 3M 2M' "$IMG/b" >/dev/null
raw_of "$IMG/b" "$T/want"
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk is attached"
nodes() { qdo query-named-block-nodes "'flat': true" | jq -r '.[]."node-name"' | sort | tr '\n' ' '; }
drive() { qdo drive-backup "'device': 'vm1', 'target': '$IMG/$1', 'sync': 'full'${2:+, $2}"; }
same() { qemu-img compare -q -f "${2:-qcow2}" -F raw "$IMG/$1" "$T/want"; }
before=$(nodes)

# As the guide to live block operations has it: no format, no mode.
check "drive-backup" drive e.qcow2 "'job-id': 'job0'"
wait_job job0 null 100
is "$(job_events job0)" "created running paused running waiting pending COMPLETED concluded null" "its events are QEMU's, in order"
is "$(nodes)" "$before" "its node is gone with it"
check "the target is clean" clean "$IMG/e.qcow2"
check "and holds the disk" same e.qcow2
is "$(qemu-img info --output=json "$IMG/e.qcow2" | jq -r '.format, ."backing-filename"' | tr '\n' ' ')" "qcow2 null " "it is qcow2, without a backing file"
check "the same to a raw file, without a job id" drive f "'format': 'raw'"
wait_job vm1 null 100
check "it holds the disk" same f raw
check "it has the disk's size" test "$(stat -c %s "$IMG/f")" = 16777216
: >"$IMG/g"
check "to a file that is there, and empty" drive g "'job-id': 'g'"
wait_job g null 100
check "it holds the disk" same g
for how in "c4k -o cluster_size=4k" "c2m -o cluster_size=2M" "v2 -o compat=0.10"; do
	set -- $how
	qemu-img create -q -f qcow2 "${@:2}" "$IMG/$1" $size
	drive "$1" "'mode': 'existing', 'job-id': 'x$1'" >/dev/null && wait_job "x$1" null 100
	ok $? "mode existing, ${*:3}"
	check "it holds the disk" same "$1"
done
qemu-img create -q -f raw "$IMG/r" $size
check "mode existing, raw" drive r "'mode': 'existing', 'format': 'raw', 'job-id': 'r'"
wait_job r null 100
check "it holds the disk" same r raw

# finalize, dismiss, speed, cancel: as blockdev-backup.
check "by hand and slowly" drive h "'job-id': 'h', 'speed': 65536, 'auto-finalize': false, 'auto-dismiss': false"
like "$(qdo query-block-jobs)" '"speed": 65536' "it has its speed"
qdo block-job-set-speed "'device': 'h', 'speed': 0" >/dev/null
wait_event BLOCK_JOB_PENDING 100 '"id": "h"'
kill9_daemon && start_daemon
ok $? "the daemon is killed while it is pending; a new one comes"
check "job-finalize" qdo job-finalize "'id': 'h'"
check "job-dismiss" qdo job-dismiss "'id': 'h'"
check "the target holds the disk" same h
is "$(nodes)" "$before" "its node is gone"
drive i "'job-id': 'i', 'speed': 65536" >/dev/null
check "job-cancel" qdo job-cancel "'id': 'i'"
like "$(job_events i)" "running aborting CANCELLED concluded null" "its events"
check "the unfinished target is clean" clean "$IMG/i"

# sync=top: what the disk's own image has, above the backing image that is or will be the target's.
depths() { qemu-img map --output=json "$IMG/$1" | jq -c '[.[] | select(.depth == 0) | [.start, .length]]'; }
check "sync=top" qdo drive-backup "'device': 'vm1', 'target': '$IMG/top', 'sync': 'top', 'job-id': 'top'"
wait_job top null 100
is "$(qemu-img info --output=json "$IMG/top" | jq -r '."backing-filename", ."backing-filename-format"' | tr '\n' ' ')" "$IMG/a qcow2 " "the target has the disk's backing image"
is "$(depths top)" "[[3145728,2097152]]" "and what the disk's own image has, no more"
check "together it is the disk" same top
like "$(event_lines 'COMPLETED.*"device": "top"')" '"len": 2097152, "offset": 2097152' "that is its length"
qemu-img create -q -u -f qcow2 -o cluster_size=2M -b "$IMG/a" -F qcow2 "$IMG/top2" $size
{ add t2 "$IMG/top2" && qdo blockdev-backup "'device': 'vm1', 'target': 't2', 'sync': 'top', 'job-id': 'top2'"; } >/dev/null
ok $? "blockdev-backup, sync=top, larger clusters"
check "a guest writes over it, and beside it" dd if=/dev/zero of=/dev/mapper/vm1 bs=1M count=4 seek=2 oflag=direct conv=notrunc status=none
wait_job top2 null 100
del t2 >/dev/null
check "together it is what the disk was" same top2
check "both are clean" clean "$IMG/top" "$IMG/top2"
dd if=/dev/mapper/vm1 of="$T/want" bs=1M iflag=direct status=none

# What is refused.
why() { refuses "$1" "$2" drive-backup "'device': '${5:-vm1}', 'target': '$3', 'sync': '${6:-full}', 'job-id': 'e'${4:+, $4}"; }
sums_before=$(sums "$IMG/e.qcow2" "$IMG/r")
qemu-img create -q -f qcow2 "$IMG/small" 8M
why "an unknown disk" "Cannot find device='nix' nor node-name='nix'" "$IMG/n" "" nix
why "a file that is not empty" "exists and is not empty" "$IMG/e.qcow2"
why "a raw file that is not empty" "exists and is not empty" "$IMG/r" "'format': 'raw'"
why "a folder that is none" "Could not create '/none/x': No such file or directory" /none/x
why "a file that is missing" "Could not open '$IMG/n': No such file or directory" "$IMG/n" "'mode': 'existing'"
why "a format that is none" "Unknown file format 'nope'" "$IMG/n" "'format': 'nope'"
why "a mode that is none" "Parameter 'mode' does not accept value 'x'" "$IMG/n" "'mode': 'x'"
why "another size" "Source and target image have different sizes" "$IMG/small" "'mode': 'existing'"
why "the disk's own image" "lock|in use" "$IMG/b" "'mode': 'existing'"
why "sync=top over a chain, raw" "Backing file not supported for file format 'raw'" "$IMG/n" "'format': 'raw'" vm1 top
why "a filter's name that is none" "Could not create node: Invalid node-name: '9x'" "$IMG/n" "'filter-node-name': '9x'"
why "too few workers" "max-workers must be between 1 and 2147483647" "$IMG/n" "'x-perf': {'max-workers': 0}"
why "a chunk below the cluster" "Required max-chunk \(1000\) is less than backup cluster size \(65536\)" "$IMG/n" "'x-perf': {'max-chunk': 1000}"
is "$(nodes) $(qdo query-jobs) $(ls "$IMG/n" 2>/dev/null)" "$before [] " "nothing is left of them"
is "$(sums "$IMG/e.qcow2" "$IMG/r")" "$sums_before" "no file was touched"

# sync=none: what the guest is about to write over, and nothing else.
forget_events
qemu-img create -q -f qcow2 -o cluster_size=2M "$IMG/o" $size
check "sync=none" qdo drive-backup "'device': 'vm1', 'target': '$IMG/o', 'sync': 'none', 'job-id': 'o', 'mode': 'existing', 'x-perf': {'max-workers': 4}"
is "$(qdo query-jobs | jq -c '.[] | [."current-progress", .status]')" '[0,"running"]' "it waits for the guest"
dd if=/dev/zero bs=64k count=1 status=none | tr '\0' x | dd of=/dev/mapper/vm1 bs=64k seek=50 conv=fsync,notrunc status=none
wait_for "[ \"\$(qdo query-jobs | jq '.[0].\"current-progress\"')\" -ge 2097152 ]" 20
{ qdo job-pause "'id': 'o'" && qdo job-resume "'id': 'o'"; } >/dev/null
ok $? "pause and resume"
is "$(qdo query-jobs | jq -c '.[] | [."current-progress", .status]')" '[2097152,"running"]' "a target's cluster was saved, no more"
kill9_daemon && start_daemon
is "$(qdo query-jobs | jq -r '.[].status')" running "it outlives the daemon"
check "it is cancelled" qdo job-cancel "'id': 'o'"
is "$(qemu-img map --output=json "$IMG/o" | jq -c '[.[] | select(.data) | [.start, .length]]')" "[[2097152,2097152]]" "the target has that cluster alone"
check "with the old content" cmp -n 2097152 -i 2097152 <(qemu-img convert -O raw "$IMG/o" "$T/o.raw"; cat "$T/o.raw") "$T/want"

# Above the disk's own image, which changes: the two together are what the disk was, zeros too.
qemu-img create -q -u -f qcow2 -b "$IMG/b" -F qcow2 "$IMG/p" $size
none() { # NAME MODE
	dd if=/dev/mapper/vm1 of="$T/was" bs=1M iflag=direct status=none
	cp "$T/was" "$T/model"
	check "sync=none above the disk's image, $2" qdo drive-backup \
		"'device': 'vm1', 'target': '$IMG/$1', 'sync': 'none', 'job-id': '$1', 'mode': '$2'"
	is "$(qemu-img info -U --output=json "$IMG/$1" | jq -r '."backing-filename", ."backing-filename-format"' | tr '\n' ' ')" "$IMG/b qcow2 " "its backing file"
	load /dev/mapper/vm1 "$T/model" "$SEED"
	wait_for "[ \"\$(qdo query-jobs | jq '.[0].\"current-progress\"')\" -ge 4194304 ]" 60
	end_load
	ok $? "the guest writes all over it"
	qdo job-cancel "'id': '$1'" >/dev/null
	qemu-img convert -U -f qcow2 -O raw "$IMG/$1" "$T/$1.raw"
	check "together they are what the disk was" cmp "$T/$1.raw" "$T/was"
}
none p existing
none s absolute-paths
refuses "sync=none to a new raw image" "Backing file not supported for file format 'raw'" drive-backup \
	"'device': 'vm1', 'target': '$IMG/n', 'sync': 'none', 'job-id': 'e', 'format': 'raw'"

detach vm1 >/dev/null && stop_daemon
ok $? "detach and quit"
check "no loop device is left" wait_for no_loops 5
check "all is clean" clean "$IMG"/a "$IMG"/b "$IMG"/c4k "$IMG"/o "$IMG"/p "$IMG"/s
