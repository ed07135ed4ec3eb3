#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# No space for an image: the guest's writes wait, an event says so, and they go on when there is some.
# timeout: 1200
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img jq fallocate
plan 47
place 400
load_module

# A small file system of its own for the images that run out of space.
truncate -s 64M "$IMG/small.fs"
loop=$(mkloop "$IMG/small.fs")
cleanup_fn loop_free "$loop"
mkfs_mount "$loop" "$T/small" >/dev/null 2>&1
S=$T/small
full() { # leaves MIB free
	local free=$(($(stat -f -c '%a * %S / 1048576' "$S")))
	fallocate -l $((free - $1))M "$S/filler"
}

# --- a disk whose image can't grow ------------------------------------------------------
qemu-img create -q -f qcow2 "$S/a" 48M
start_daemon
{ add a "$S/a" && attach a vm1; } >/dev/null
ok $? "a disk is attached"
full 4
dd if=/dev/urandom of="$T/data" bs=1M count=32 status=none
dd if="$T/data" of=/dev/mapper/vm1 bs=1M oflag=direct status=none & dd=$!
wait_event BLOCK_IO_ERROR 60 '"device": "vm1".*"operation": "write", "action": "stop", "nospace": true'
ok $? "an event tells that there is no space"
like "$(qdo query-block)" '"io-status": "nospace"' "query-block as well"
sleep 3
kill -0 $dd 2>/dev/null
ok $? "the write waits, it does not fail"
is "$(event_lines BLOCK_IO_ERROR | wc -l)" 1 "the event came once"
timeout 90 dd if=/dev/mapper/vm1 of=/dev/null bs=1M count=1 iflag=direct status=none
ok $? "reads go on"
like "$(qdo query-version)" qemu "so does the daemon"

# Killed and started again in this state: it goes on waiting.
kill9_daemon
restart_daemon
# Its event may come before anybody listens; who comes later asks.
wait_for "qdo query-block | grep -q '\"io-status\": \"nospace\"'" 60
ok $? "a new daemon tells it again"
kill -0 $dd 2>/dev/null
ok $? "the write still waits"
rm "$S/filler"
wait_for "! kill -0 $dd 2>/dev/null" 60
wait $dd
is $? 0 "with space again the write ends well"
wait_for "qdo query-block | grep -q '\"io-status\": \"ok\"'" 20
ok $? "query-block is ok again"
check "what was written is there" cmp -n $((32 << 20)) /dev/mapper/vm1 "$T/data"
detach vm1 >/dev/null && del a >/dev/null
ok $? "detach"
check "the image is clean" clean "$S/a"
check "QEMU reads it" qemu-img compare -q -f qcow2 -F raw "$S/a" "$T/data"
rm "$S/a"

# --- an image on a block device, which is enlarged ---------------------------------------------
truncate -s 24M "$IMG/volume"
volume=$(mkloop "$IMG/volume")
cleanup_fn loop_free "$volume"
qemu-img create -q -f qcow2 "$volume" 48M
forget_events
{ qdo blockdev-add "'driver': 'qcow2', 'node-name': 'a', 'file': {'driver': 'host_device', 'filename': '$volume'}" && attach a vm1; } >/dev/null
ok $? "a disk on a volume of half its size"
dd if="$T/data" of=/dev/mapper/vm1 bs=1M count=20 oflag=direct status=none
sleep 2
is "$(event_lines BLOCK_IO_ERROR)" "" "as long as no write waits there is no event"
like "$(qdo query-block)" '"io-status": "ok"' "and no status"
dd if="$T/data" of=/dev/mapper/vm1 bs=1M skip=20 seek=20 oflag=direct status=none & dd=$!
wait_event BLOCK_IO_ERROR 60 '"device": "vm1".*"operation": "write", "action": "stop", "nospace": true'
ok $? "then one waits, and an event says so"
truncate -s 64M "$IMG/volume"
losetup -c "$volume"
wait_for "! kill -0 $dd 2>/dev/null" 60
ok $? "the volume is enlarged, and the write goes on"
wait $dd
is $? 0 "it ends well"
check "what was written is there" cmp -n $((32 << 20)) /dev/mapper/vm1 "$T/data"
detach vm1 >/dev/null && del a >/dev/null
check "the image is clean" clean "$volume"
check "QEMU reads it" qemu-img compare -q -f qcow2 -F raw "$volume" "$T/data"

# --- a backup's target -------------------------------------------------------------------------
qemu-img create -q -f qcow2 "$IMG/d" 48M
{ add d "$IMG/d" && attach d vm1; } >/dev/null
dd if="$T/data" of=/dev/mapper/vm1 bs=1M oflag=direct status=none
cp --sparse=always /dev/mapper/vm1 "$T/model"
cp "$T/model" "$T/frozen"
backup() { # ID POLICY: to a new target that has room for 8 MiB
	rm -f "$S/t" "$S/filler"
	qemu-img create -q -f qcow2 "$S/t" 48M
	add t "$S/t" >/dev/null
	full 8
	forget_events
	qdo blockdev-backup "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': '$1', 'auto-dismiss': false, 'on-target-error': '$2'"
}
guest_writes() {
	local start=$SECONDS out st
	out=$(oracle churn /dev/mapper/vm1 "$T/model" --seconds 2 --seed "$((SEED + $1))" --threads 2); st=$?
	diag "$out"
	diag "after $((SECONDS - start)) s"
	return $st
}

check "a backup starts to a target that is too small" backup j report
wait_for "qdo query-jobs | grep -q concluded" 60
is "$(qdo query-jobs | jq -r '.[0].error')" "No space left on device" "it fails"
like "$(job_events j)" "ERROR aborting COMPLETED concluded$" "with QEMU's events"
like "$(event_lines BLOCK_JOB_ERROR)" '"device": "j", "operation": "write", "action": "report"' "and the error"
is "$(event_lines BLOCK_IO_ERROR)" "" "the disk has none"
guest_writes 1
ok $? "and works"
{ qdo job-dismiss "'id': 'j'" && del t; } >/dev/null
ok $? "the target can be let go"
check "it is clean" clean "$S/t"

cp "$T/model" "$T/frozen"
check "another one is to stop at an error" backup k stop
# Not for "paused": each job is that for a moment when it starts.
wait_event BLOCK_JOB_ERROR 60 '"device": "k"'
wait_for "qdo query-block-jobs | grep -q nospace" 20
like "$(event_lines BLOCK_JOB_ERROR)" '"device": "k", "operation": "write", "action": "stop"' "it stops"
like "$(qdo query-block-jobs)" '"io-status": "nospace"' "for want of space"
rm "$S/filler"
qdo block-job-resume "'device': 'k'" >/dev/null
wait_for "qdo query-jobs | grep -q concluded" 60
is "$(qdo query-jobs | jq -r '.[0].error')" null "with space and block-job-resume it ends well"
{ qdo job-dismiss "'id': 'k'" && del t; } >/dev/null
check "the backup is right" qemu-img compare -q -f qcow2 -F raw "$S/t" "$T/frozen"
check "and clean" clean "$S/t"

# The guest is not held up for longer than the time limit by a job that has stopped.
backup l stop >/dev/null
wait_event BLOCK_JOB_ERROR 60 '"device": "l"'
dd if="$T/data" of=/dev/mapper/vm1 bs=1M oflag=direct status=none && cp --sparse=always /dev/mapper/vm1 "$T/model"
ok $? "writes to all that is not copied end"
wait_for "qdo query-jobs | grep -q concluded" 60
is "$(qdo query-jobs | jq -r '.[0].error')" "Connection timed out" "the job does not outlive its time limit"
{ qdo job-dismiss "'id': 'l'" && del t; } >/dev/null
check "the target is clean" clean "$S/t"

# --- a snapshot's overlay --------------------------------------------------------------------------
rm -f "$S/t" "$S/filler"
before=$(qdo query-block | jq -r '.[0].inserted.file')
# Twice: what was set aside for a file's metadata is free when it has been written.
for bs in 64k 1k; do dd if=/dev/zero of="$S/filler" bs=$bs oflag=append conv=notrunc,fsync status=none 2>/dev/null; sync "$S"; done
refuses "no space for an overlay" "[Nn]o space left" blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$S/o'"
is "$(qdo query-block | jq -r '.[0].inserted.file')" "$before" "the disk is as it was"
guest_writes 2
ok $? "and works"
detach vm1 >/dev/null && stop_daemon
ok $? "detach and quit"
check "the image is clean" clean "$IMG/d"
check "QEMU reads what was written" qemu-img compare -q -f qcow2 -F raw "$IMG/d" "$T/model"
