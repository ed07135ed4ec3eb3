#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# query-qmp-schema: answers and events are what it says, and it says what QEMU's does.
# kernels: 6.1 debug
# timeout: 400
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io qemu-storage-daemon
plan 11
place 200
load_module
schema() { PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/schema.py" "$@"; }
as_promised() { # TEXT ARGUMENT...
	local text=$1 out st
	shift
	out=$(schema "$@" 2>&1); st=$?
	ok $st "$text: $(tail -n 1 <<<"$out")"
	[ $st = 0 ] || diag "$out"
}

qemu-img create -q -f raw "$IMG/r" 16M
qemu-img create -q -f qcow2 -b r -F raw "$IMG/a" 16M
qemu-img create -q -f qcow2 -o compat=0.10 -b a -F qcow2 "$IMG/b" 16M
qemu-io -f qcow2 -c 'write -q -P 1 0 8M' "$IMG/b"
qemu-img create -q -f qcow2 "$IMG/t" 16M
start_daemon
as_promised "with nothing there" answers "$QMP_SOCK"
{ add b "$IMG/b" && attach b vm1 && add t "$IMG/t"; } >/dev/null
ok $? "a disk"
qdo blockdev-backup "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'j', 'speed': 65536, 'auto-dismiss': false" >/dev/null
ok $? "and a job"
as_promised "while it runs" answers "$QMP_SOCK"
qdo job-pause "'id': 'j'" >/dev/null
wait_job j paused 20
as_promised "while it is paused" answers "$QMP_SOCK"
qdo job-cancel "'id': 'j'" >/dev/null
wait_job j concluded 20
qdo blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$IMG/c'" >/dev/null
ok $? "a snapshot"
as_promised "when it has ended" answers "$QMP_SOCK"
{ qdo job-dismiss "'id': 'j'" && detach vm1; } >/dev/null
ok $? "all that is ended"
wait_event BLOCK_EXPORT_DELETED 20
as_promised "what came meanwhile" events "$QMP_SOCK" "$EVENTS"

qemu-storage-daemon --chardev "socket,id=c,path=$T/qsd.sock,server=on,wait=off" --monitor chardev=c 2>"$T/qsd.err" &
qsd=$!
cleanup_fn kill $qsd
wait_for "listens '$T/qsd.sock'" 20
as_promised "it is QEMU's, where both have it" subset "$QMP_SOCK" "$T/qsd.sock"
kill $qsd
wait $qsd
stop_daemon
ok $? "quit"
