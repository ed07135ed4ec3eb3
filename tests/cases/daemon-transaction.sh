#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# transaction: several disks at one point in time, all or none; jobs that complete as one.
# kernels: 6.1 debug
# timeout: 1200
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq python3
plan 53
place 700
load_module

size=16M
for d in a b; do
	qemu-img create -q -f qcow2 "$IMG/$d" $size
	qemu-io -f qcow2 -c "write -q -P 0x$d$d 0 4M" "$IMG/$d" >/dev/null
done
start_daemon
{ add a "$IMG/a" && attach a vma && add b "$IMG/b" && attach b vmb; } >/dev/null
ok $? "two disks are attached"

sync_of() { echo "{'type': 'blockdev-snapshot-sync', 'data': {'device': '$1', 'snapshot-file': '$IMG/$2', 'snapshot-node-name': '$2'}}"; }
backup_of() { echo "{'type': 'blockdev-backup', 'data': {'device': '$1', 'target': '$2', 'sync': 'full', 'job-id': 'j$1'${3:+, $3}}}"; }
# txn ACTIONS [MODE]
mode() { [ -z "${1:-}" ] || echo ", 'properties': {'completion-mode': '$1'}"; }
txn() { qdo transaction "'actions': [$1]$(mode "${2:-}")"; }
txn_fails() { refuses "$1" "$2" transaction "'actions': [$3]$(mode "${4:-}")"; }
tops() { qdo query-block | jq -r '[.[].inserted."node-name"] | sort | join(" ")'; }
target() { qemu-img create -q -f "${2:-qcow2}" "$IMG/$1" "${3:-$size}" && add "$1" "$IMG/$1" "${2:-qcow2}" >/dev/null; }
shape() { qdo query-named-block-nodes "'flat': true" | jq -r '.[]."node-name"' | sort; dmsetup table | sed 's/ livechain [^ ]*//'; ls "$IMG"; }

# --- one point in time ---------------------------------------------------------------
# A writer puts ever larger numbers on the first disk, then the same on the second: at each moment
# the first disk's number is the second's or one more.
cat >"$T/pairs.py" <<'EOF'
import mmap, os, sys
buf = mmap.mmap(-1, 4096)
fds = [os.open(p, os.O_RDWR | os.O_DIRECT) for p in sys.argv[2:4]]
n = 0
while not os.path.exists(sys.argv[1]):
    n += 1
    buf[:8] = n.to_bytes(8, "little")
    for fd in fds:
        os.pwritev(fd, [buf], 8 << 20)
    if n == 20:
        print("under way", flush=True)
print(n)
EOF
pairs() {
	rm -f "$T/pstop"
	python3 -S "$T/pairs.py" "$T/pstop" /dev/mapper/vma /dev/mapper/vmb >"$T/pairs" 2>&1 &
	PAIRS=$!
	wait_for "grep -q 'under way' '$T/pairs'" 60
}
end_pairs() { touch "$T/pstop"; wait "$PAIRS"; }
number() { # FILE: little endian, at 8 MiB
	local b
	read -r _ b < <(qemu-io -r -f qcow2 -c "read -v 8M 8" "$1" | head -n 1)
	set -- $b
	echo $((16#$4$3$2$1))
}
together() { # FILE FILE: one moment of both
	local x y
	x=$(number "$1") y=$(number "$2")
	diag "$1: $x, $2: $y"
	[ "$x" -gt 0 ] && { [ "$x" = "$y" ] || [ "$x" = $((y + 1)) ]; }
}
pairs
check "two snapshots in one transaction, under load" txn "$(sync_of vma a1), $(sync_of vmb b1)"
check "again" txn "$(sync_of vmb b2), $(sync_of vma a2)"
target ta; target tb
check "two backups in one transaction, under load" txn "$(backup_of vma ta), $(backup_of vmb tb)"
is "$(event_lines JOB_STATUS_CHANGE | head -8 | sed -E 's/.*"status": "([a-z]+)", "id": "(j[a-z]+)".*/\1 \2/' | tr '\n' ,)" \
	"created jvma,created jvmb,running jvma,paused jvma,running jvmb,paused jvmb,running jvma,running jvmb," \
	"their first events are QEMU's, in order"
wait_job jvma null 100
wait_job jvmb null 100
is "$(job_events jvma)" "created running paused running waiting pending COMPLETED concluded null" "each completes by itself"
forget_events
check "a snapshot of one and a backup of the other" txn "$(sync_of vma a3), $(backup_of vmb tb)"
wait_job jvmb null 100
end_pairs
ok $? "no write failed"
is "$(tops)" "a3 b2" "the disks have their overlays"
check "the first snapshots are one moment" together "$IMG/a" "$IMG/b"
check "so are the second" together "$IMG/a1" "$IMG/b1"
{ del ta && del tb; } >/dev/null
ok $? "the targets are free again"
check "a snapshot and a backup are one moment" together "$IMG/a2" "$IMG/tb"
check "all that is at rest is clean" clean "$IMG"/a "$IMG"/b "$IMG"/a1 "$IMG"/b1 "$IMG"/a2 "$IMG"/ta "$IMG"/tb

# Snapshot and backup of one disk: the backup is what the old image holds.
rm -f "$IMG/ta"; target ta
pairs
forget_events
check "a snapshot and a backup of the same disk, under load" txn "$(sync_of vma a4), $(backup_of vma ta)"
wait_job jvma null 100
end_pairs
del ta >/dev/null
check "both are the same moment" qemu-img compare -q -U "$IMG/a3" "$IMG/ta"

# blockdev-snapshot, an overlay with data of its own.
qemu-img create -q -f qcow2 "$IMG/b3" $size
qemu-io -f qcow2 -c 'write -q -P 0x77 1M 64k' "$IMG/b3" >/dev/null
qemu-img rebase -q -u -f qcow2 -b "$IMG/b2" -F qcow2 "$IMG/b3"
add b3 "$IMG/b3" qcow2 "'backing': null" >/dev/null
check "blockdev-snapshot with data of its own, and another" \
	txn "{'type': 'blockdev-snapshot', 'data': {'node': 'b2', 'overlay': 'b3'}}, $(sync_of vma a5)"
is "$(dd if=/dev/mapper/vmb bs=64k skip=16 count=1 status=none | tr -d '\167' | wc -c)" 0 "it shows its data"
is "$(tops)" "a5 b3" "both are on top"

# --- all or none -----------------------------------------------------------------------
target small qcow2 8M
target ta2; target tb2
before=$(shape)
forget_events
txn_fails "an abort at the end" "Transaction aborted using Abort action" \
	"$(backup_of vma ta2), {'type': 'abort', 'data': {}}"
is "$(job_events jvma)" "created aborting concluded null" "the job that was prepared ends as QEMU's does"
txn_fails "a second action that can't be" "Source and target image have different sizes" \
	"$(backup_of vma ta2), $(backup_of vmb small)"
txn_fails "an unknown disk" "Cannot find device='nix' nor node-name='nix'" "$(backup_of vma ta2), $(backup_of nix tb2)"
txn_fails "a job id twice" "Job ID 'jvma' already in use" \
	"$(backup_of vma ta2), {'type': 'blockdev-backup', 'data': {'device': 'vmb', 'target': 'tb2', 'sync': 'full', 'job-id': 'jvma'}}"
is "$(shape)" "$before" "nothing is left of them"
is "$(qdo query-jobs)" "[]" "no job is"
txn_fails "a snapshot, then an abort" "Abort action" "$(sync_of vma u1), $(sync_of vmb u2), {'type': 'abort', 'data': {}}"
is "$(tops)" "a5 b3" "the disks have their old images"
rm -f "$IMG/u1" "$IMG/u2"
is "$(shape)" "$before" "nothing but the files was left"
txn_fails "two snapshots of one disk" "has a snapshot in this transaction already" "$(sync_of vma u1), $(sync_of vma u2)"
txn_fails "a backup and a snapshot of one disk" "is busy: block device is in use by block job: backup" "$(backup_of vma ta2), $(sync_of vma u3)"
rm -f "$IMG"/u[123]
pairs
for i in 1 2 3; do
	txn "$(sync_of vma f$i), $(sync_of vmb g$i), {'type': 'abort', 'data': {}}" >/dev/null && fail "an abort was done"
	rm -f "$IMG/f$i" "$IMG/g$i"
done
end_pairs
ok $? "aborts under load: no write fails"
is "$(shape)" "$before" "and nothing changed"

# --- what is refused before anything is done -------------------------------------------------
txn_fails "a snapshot in a group" "Action 'blockdev-snapshot-sync' does not support Transaction property completion-mode = grouped" "$(sync_of vma u1)" grouped
txn_fails "an action that is none" "does not accept value 'nope'" "{'type': 'nope', 'data': {}}"
txn_fails "a mode that is none" "does not accept value 'both'" "" both
txn_fails "no data" "Parameter 'actions\[0\].data' is missing" "{'type': 'blockdev-backup'}"
txn_fails "a member too many" "Parameter 'actions\[0\].data.zzz' is unexpected" "$(backup_of vma ta2 "'zzz': 1")"
check "no actions" txn ""

# --- grouped completion ----------------------------------------------------------------------
forget_events
slow="'speed': 65536, 'auto-dismiss': false"
check "a group, one of it slow" txn "$(backup_of vma ta2 "'auto-dismiss': false"), $(backup_of vmb tb2 "$slow")" grouped
wait_job jvma waiting 100
ok $? "the quick one waits for the other"
check "the slow one is cancelled" qdo job-cancel "'id': 'jvmb'"
is "$(job_events jvmb | sed 's/.*running //') $(job_events jvma | sed 's/.*running //')" \
	"aborting CANCELLED concluded waiting aborting CANCELLED concluded" "the other one with it"
is "$(qdo query-jobs | jq -r '.[].error' | sort -u)" "Operation canceled" "both say why"
{ qdo job-dismiss "'id': 'jvma'" && qdo job-dismiss "'id': 'jvmb'"; } >/dev/null
forget_events
by_hand="'auto-finalize': false, 'auto-dismiss': false"
check "a group that is finalized by hand" txn "$(backup_of vma ta2), $(backup_of vmb tb2 "$by_hand")" grouped
wait_event BLOCK_JOB_PENDING 100 '"id": "jvmb"'
states() { qdo query-jobs | jq -r '[.[] | .id + " " + .status] | join(",")'; }
wait_for "! states | grep -q waiting" 20
is "$(states)" "jvmb pending,jvma pending" "all are pending"
kill9_daemon && start_daemon
ok $? "the daemon is killed; a new one comes"
check "job-finalize of one" qdo job-finalize "'id': 'jvma'"
is "$(qdo query-jobs | jq -r '[.[] | .id + " " + .status] | join(",")')" "jvmb concluded" "finalizes all"
qdo job-dismiss "'id': 'jvmb'" >/dev/null

for n in ta2 tb2 small; do del $n >/dev/null; done
{ detach vma && detach vmb; } >/dev/null && stop_daemon
ok $? "detach and quit"
check "all images are clean" clean "$IMG"/a5 "$IMG"/b3 "$IMG"/ta2 "$IMG"/tb2
check "the group's backups are the disks" qemu-img compare -q "$IMG/a5" "$IMG/ta2"
check "both" qemu-img compare -q "$IMG/b3" "$IMG/tb2"
