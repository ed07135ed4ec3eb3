#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Wrong requests get the answers that QEMU's storage daemon gives; the schema is QEMU's.
# kernels: 6.1 debug
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-storage-daemon
plan 7
place 100
load_module

cd "$IMG" || bail "no $IMG"
qemu-img create -q -f qcow2 good 16M
cp good good2
qemu-img create -q -f qcow2 small 8M
qemu-img create -q -f qcow2 big 32M
qemu-img create -q -f raw raw 16M
qemu-img create -q -u -f qcow2 -b gone -F qcow2 orphan 16M
qemu-img create -q -f qcow2 lo 16M
qemu-img create -q -f qcow2 -b lo -F qcow2 mid
qemu-img create -q -f qcow2 -b mid -F qcow2 hi
: >empty
head -c 1M /dev/zero >magic
all=$(sums ./*)
ask() { PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/words.py" "$@"; }

qemu-storage-daemon --chardev "socket,id=c,path=$T/qsd.sock,server=on,wait=off" --monitor chardev=c 2>"$T/qsd.err" &
qsd=$!
cleanup_fn kill $qsd
wait_for "listens '$T/qsd.sock'" 20
ask ask "$T/qsd.sock" "$IMG" qemu >"$T/qemus"
ok $? "QEMU answers"
kill $qsd
wait $qsd
rm -f "$T/qsd.sock" o # QEMU makes an overlay first, and leaves it
sums ./* | diff - <(echo "$all") >/dev/null || bail "QEMU has changed the images"

start_daemon
ask ask "$QMP_SOCK" "$IMG" ours >"$T/ours"
ok $? "so does ours"
out=$(ask compare "$IMG" "$T/qemus" "$T/ours")
ok $? "with the same words: $(tail -n 1 <<<"$out")"
diag "$out"

# What the schema says is QEMU's too, and what is answered is what it says.
schema() {
	local out st
	out=$(PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/schema.py" "$@" 2>&1); st=$?
	diag "$out"
	return $st
}
qemu-storage-daemon --chardev "socket,id=c,path=$T/qsd.sock,server=on,wait=off" --monitor chardev=c 2>"$T/qsd.err" &
qsd=$!
cleanup_fn kill $qsd
wait_for "listens '$T/qsd.sock'" 20
schema subset "$QMP_SOCK" "$T/qsd.sock"
ok $? "the schema is QEMU's, where both have it"
kill $qsd
wait $qsd
schema answers "$QMP_SOCK"
ok $? "answers are as it says"
stop_daemon
ok $? "quit"
is "$(sums ./*)" "$all" "no image was changed"
cd /
