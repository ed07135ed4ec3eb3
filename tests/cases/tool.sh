#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The tool with the real daemon: attach, chain, snapshot, backup, jobs, Ctrl-C, detach.
# kernels: 6.1 debug
# timeout: 400
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io
plan 53
place 500
load_module
lc() { "$LIVECHAIN" -s "$QMP_SOCK" "$@"; }
status() { # STATUS TEXT COMMAND...: the command ends with that status
	local want=$1 text=$2 r=0
	shift 2
	"$@" >"$T/out" 2>"$T/err" || r=$?
	[ "$r" = "$want" ] || diag "status $r: $(<"$T/out") $(<"$T/err")"
	[ "$r" = "$want" ]
	ok $? "$text"
}

qemu-img create -q -f qcow2 "$IMG/a.qcow2" 64M
qemu-io -f qcow2 -c 'write -q -P 7 0 24M' "$IMG/a.qcow2"
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 "$IMG/vm1.qcow2"

status 5 "without a daemon: status 5" lc list
like "$(<"$T/err")" "is livechaind running" "and why"
start_daemon
ok $? "the daemon starts"
cd "$IMG" || exit
status 0 "attach by a relative path" lc attach vm1.qcow2
is "$(<"$T/out")" /dev/mapper/vm1 "it prints the device"
check "which is there" [ -b /dev/mapper/vm1 ]
status 1 "attached twice: status 1" lc attach vm1.qcow2
like "$(<"$T/err")" "GenericError: " "with the class"
check "written through the device" dd if=/dev/urandom of=/dev/mapper/vm1 bs=1M count=4 seek=20 oflag=direct status=none
status 0 "chain" lc chain
like "$(<"$T/out")" "└─ $IMG/vm1.qcow2 .*active.*└─ $IMG/a.qcow2" "it is a tree of both images"

status 0 "snapshot" lc snapshot vm1 e.qcow2
like "$(lc --json list)" '"size": 67108864, "depth": 3, "image": "'"$IMG/e.qcow2"'"' "the disk has three images"
check "written again" dd if=/dev/urandom of=/dev/mapper/vm1 bs=1M count=2 seek=40 oflag=direct status=none
cp --sparse=always /dev/mapper/vm1 "$T/now.raw"

status 0 "backup to a new qcow2 file" lc backup vm1 b.qcow2
like "$(<"$T/err")" "backup-vm1: 100.0%  64.00 MiB of 64.00 MiB" "its end is on stderr"
check "it is the disk" qemu-img compare -f qcow2 -F raw b.qcow2 "$T/now.raw"
check "and clean" qemu-img check -q b.qcow2
is "$(lc --json jobs)" "[]" "no job is left"
status 1 "not over a file that is there" lc backup vm1 b.qcow2

# A slow one to a raw file, not waited for.
status 0 "backup --no-wait" lc backup vm1 c.raw -f raw --speed 1M --job-id slow --no-wait
like "$(lc jobs)" "slow +backup +running" "the job runs"
{ lc job pause slow && lc jobs | grep -q paused && lc job resume slow && lc job speed slow 0; } >/dev/null
ok $? "pause, resume, speed"
check "it ends" wait_for "'$LIVECHAIN' -s '$QMP_SOCK' jobs | grep -q concluded" 30
check "and is dismissed" lc job dismiss slow
check "the raw copy is the disk, too" cmp c.raw "$T/now.raw"

# Ctrl-C: the job is cancelled, status 3.
set -m # a background job gets SIGINT
"$LIVECHAIN" -s "$QMP_SOCK" backup vm1 d.qcow2 --speed 1M >"$T/out" 2>"$T/err" &
pid=$!
set +m
wait_for "'$LIVECHAIN' -s '$QMP_SOCK' jobs | grep -q running" 30
kill -INT $pid
wait $pid
is $? 3 "Ctrl-C ends a waiting backup with status 3"
like "$(<"$T/err")" "cancelling job 'backup-vm1'" "and says what it does"

# The chain becomes shorter; the disk moves.
status 0 "commit --dry-run" lc commit vm1 --top vm1.qcow2 --dry-run
like "$(<"$T/out")" "may be deleted then.*$IMG/vm1.qcow2" "says what leaves"
status 0 "commit of the image in the middle" lc commit vm1 --top vm1.qcow2
like "$(lc --json chain)" '"filename": "'"$IMG"'/e.qcow2".*"filename": "'"$IMG"'/a.qcow2"' "it has left"
check "nobody has it open" qemu-img check -q vm1.qcow2
like "$(lc chain)" "may be deleted: $IMG/vm1.qcow2  \(it was committed into '$IMG/a.qcow2'\)" "chain shows what may be deleted"
status 1 "attach of what was committed" lc attach vm1.qcow2 --name bad
like "$(<"$T/err")" "not valid any more: it was committed into '$IMG/a.qcow2'" "is refused with the reason"
check "qemu-img does not mind the mark" qemu-img info vm1.qcow2
status 0 "mirror --finish" lc mirror vm1 m.qcow2 --finish
check "the copy is the disk" qemu-img compare -q -f qcow2 -F raw m.qcow2 "$T/now.raw"
status 0 "stream" lc stream vm1
like "$(lc --json list)" '"depth": 1, "image": "'"$IMG"'/e.qcow2"' "the disk has one image"
status 0 "mirror --pivot" lc mirror vm1 p.qcow2 --pivot
like "$(lc --json list)" '"depth": 1, "image": "'"$IMG"'/p.qcow2"' "the disk has moved"
check "it reads the same" cmp /dev/mapper/vm1 "$T/now.raw"
check "nobody has the old image open" qemu-img compare -q -f qcow2 -F raw e.qcow2 "$T/now.raw"
status 0 "another snapshot" lc snapshot vm1 z.qcow2
status 0 "commit of the active image" lc commit vm1
like "$(lc --json chain)" '"deletable": \[.*"filename": "'"$IMG"'/z.qcow2", "reason"' "it may be deleted"
check "the disk still reads the same" cmp /dev/mapper/vm1 "$T/now.raw"
is "$(lc --json jobs)" "[]" "no job is left"
status 4 "an unknown disk: status 4" lc detach vm2
cd "$T" || exit
status 0 "detach" lc detach vm1
is "$(qmp '{"execute": "query-named-block-nodes"}')" "[]" "no node is left"
