#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# quit and SIGTERM: what is idle is released and clean, what is in use stays and is adopted.
# kernels: 6.1 debug
# timeout: 1200
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io fio jq
plan 34
place 500
load_module

qemu-img create -q -f qcow2 "$IMG/a" 32M
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" 32M
qemu-img create -q -f qcow2 "$IMG/t" 32M
raw_of "$IMG/b" "$T/model"
nothing_left() {
	wait_for no_loops 5 && no_disks && qemu-io -f qcow2 -c 'read -q 0 64k' "$IMG/b" && qemu-img info "$IMG/a" >/dev/null
}

# --- idle -------------------------------------------------------------------------------
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk is attached"
out=$(oracle churn /dev/mapper/vm1 "$T/model" --seconds 3 --seed "$SEED" --threads 2)
ok $? "and written"
diag "$out"
forget_events
stop_daemon
is $? 0 "quit ends the daemon with status 0"
wait_event BLOCK_EXPORT_DELETED 20
like "$(event_lines)" 'BLOCK_EXPORT_DELETED.*"id": "vm1"' "the export's end was told"
check "no device, no loop device, no lock is left" nothing_left
[ ! -e "$QMP_SOCK" ]
ok $? "the socket is gone"
is "$(find "$STATE_DIR/grants" -type f 2>/dev/null)" "" "no journal is left"
check "the images are clean" clean "$IMG/a" "$IMG/b"
check "QEMU reads what was written" qemu-img compare -q -f qcow2 -F raw "$IMG/b" "$T/model"

# --- a new daemon starts with nothing ---------------------------------------------------
restart_daemon
ok $? "a new one starts"
is "$(qdo query-named-block-nodes)" "[]" "without nodes"
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "the disk is attached again"

# --- SIGTERM with a job -------------------------------------------------------------------
add t "$IMG/t" >/dev/null
qdo blockdev-backup "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'j', 'speed': 65536" >/dev/null
ok $? "a slow backup runs"
kill -TERM "$DAEMON_PID"
pid=$DAEMON_PID
wait_for "! kill -0 $pid 2>/dev/null" 60
wait "$pid"
is $? 0 "SIGTERM ends it cleanly"
DAEMON_PID=
wait_job j null 20
like "$(job_events j)" "running aborting CANCELLED concluded null$" "the job was cancelled"
check "nothing is left" nothing_left
check "the target is clean as well" clean "$IMG/a" "$IMG/b" "$IMG/t"

# --- in use ----------------------------------------------------------------------------------
restart_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
mkfs.ext4 -q -F -E lazy_itable_init=0 /dev/mapper/vm1 && mkdir "$T/mnt" && mount /dev/mapper/vm1 "$T/mnt"
ok $? "a file system on the disk is mounted"
cleanup_fn umount -q "$T/mnt"
refuses "it can't be detached" "/dev/mapper/vm1' is in use \([0-9]+ open\)" block-export-del "'id': 'vm1'"
echo before >"$T/mnt/file"
stop_daemon
ok $? "quit ends the daemon all the same"
is "$(dmsetup ls | cut -f1)" vm1 "the disk is still there"
echo without >>"$T/mnt/file" && sync && [ "$(cat "$T/mnt/file" | wc -l)" = 2 ]
ok $? "it is written and synced with no daemon there"
dmsetup status vm1 | grep -q ' rw '
ok $? "it is healthy"
restart_daemon
ok $? "a new daemon starts"
like "$(qdo query-block-exports)" '"id": "vm1".*"node-name": "b".*"writable": true' "it knows the disk again"
like "$(qdo query-named-block-nodes "'flat': true")" '"node-name": "b"' "and the node"
fio --name=x --filename="$T/mnt/data" --size=12M --bs=64k --rw=randwrite --ioengine=psync --verify=crc32c \
	--do_verify=1 --verify_state_save=0 --randseed="$SEED" >"$T/fio" 2>&1
ok $? "space is granted again: fio writes and verifies"
umount "$T/mnt"
check "the file system is whole" e2fsck -fn /dev/mapper/vm1
check "it can be detached now" detach vm1
stop_daemon
is $? 0 "quit"
check "nothing is left" nothing_left
check "the images are clean" clean "$IMG/a" "$IMG/b"
is "$(find "$STATE_DIR/grants" -type f 2>/dev/null)" "" "no journal is left"

# The device goes away by hand while nobody looks: the next daemon says so, and starts.
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
kill9_daemon
dmsetup remove vm1
restart_daemon && [ "$(qdo query-block-exports)" = "[]" ] && del b >/dev/null
ok $? "a disk that was removed by hand is forgotten"
stop_daemon
