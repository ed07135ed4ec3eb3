#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Image locks are QEMU's, both ways, and outlive a killed daemon.
# kernels: 6.1 debug
# timeout: 1200
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io
plan 30
place 300
load_module

qemu-img create -q -f qcow2 "$IMG/a" 16M
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" 16M
write_fails() { fails "$1" 'Failed to get (shared )?"write" lock' qemu-io -f qcow2 -c 'write -q 0 64k' "$IMG/$2"; }
reads() { check "$1" qemu-img info "$IMG/$2"; }

start_daemon
add b "$IMG/b" >/dev/null
ok $? "the chain is open"
write_fails "qemu-io can't write the top" b
fails "nor can qemu-img look into it" 'Failed to get shared "write" lock' qemu-img info "$IMG/b"
reads "it can read the backing image" a
write_fails "but not write it" a
check "it looks into the top if told to share" qemu-img info -U "$IMG/b"

# On a device the locks are the loop device's too.
attach b vm1 >/dev/null
ok $? "it is on a device"
kill9_daemon
write_fails "with the daemon killed, the top stays locked" b
write_fails "and the backing image" a
restart_daemon
ok $? "a new daemon takes it up"
write_fails "it is still locked" b
detach vm1 >/dev/null && del b >/dev/null
ok $? "detached and let go"
check "no loop device is left" wait_for no_loops 5
check "qemu-io can write the top again" qemu-io -f qcow2 -c 'write -q -P 1 0 64k' "$IMG/b"
check "and the backing image" qemu-io -f qcow2 -c 'write -q -P 1 0 64k' "$IMG/a"

# The other way: QEMU has it. A storage daemon holds the image as a guest would.
qsd() { # FILE READ-ONLY
	qemu-storage-daemon --blockdev "driver=qcow2,node-name=n,read-only=$2,file.driver=file,file.filename=$1" \
		--export "type=vhost-user-blk,id=e,node-name=n,writable=$([ "$2" = on ] && echo off || echo on),addr.type=unix,addr.path=$T/vub" \
		--pidfile "$T/qsd.pid" 2>"$T/qsd.err" &
	qsd=$!
	wait_for "[ -s '$T/qsd.pid' ]" 20 || diag "$(cat "$T/qsd.err")"
}
unqsd() { kill $qsd; wait $qsd; rm -f "$T/qsd.pid"; }
before=$(cd "$IMG" && sums a b)
qsd "$IMG/b" off
refuses "an image that QEMU writes is refused" 'Failed to get .* lock. Is another process using the image' blockdev-add "$(node b "$IMG/b")"
refuses "read-only too" 'Failed to get' blockdev-add "$(node b "$IMG/b" qcow2 "'read-only': true")"
refuses "a backing image that QEMU reads can't be written" 'Failed to get' blockdev-add "$(node a "$IMG/a")"
check "it can be read" add a "$IMG/a" qcow2 "'read-only': true"
del a >/dev/null
unqsd
qsd "$IMG/b" on
check "what QEMU reads can be read" add b "$IMG/b" qcow2 "'read-only': true"
refuses "and not be written" 'Failed to get' blockdev-add "$(node b2 "$IMG/b")"
unqsd
del b >/dev/null
is "$(cd "$IMG" && sums a b)" "$before" "none of it changed the images"

# A backup's target is locked as well, and free afterwards; a snapshot frees what it froze for readers.
qemu-img create -q -f qcow2 "$IMG/t" 16M
qemu-io -f qcow2 -c 'write -q -P 3 0 8M' "$IMG/b"
{ add b "$IMG/b" && attach b vm1 && add t "$IMG/t"; } >/dev/null
qdo blockdev-backup "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'j', 'speed': 65536" >/dev/null
write_fails "a backup's target is locked" t
kill9_daemon
write_fails "also with the daemon killed" t
restart_daemon
qdo block-job-cancel "'device': 'j'" && wait_job j null 60 && del t
ok $? "the job is cancelled, the target let go"
check "it can be written then" qemu-io -f qcow2 -c 'write -q -P 1 0 64k' "$IMG/t"

# What an earlier daemon had locked for writing is a backing image now, and stays as a node.
qdo blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$IMG/c', 'snapshot-node-name': 'c'" >/dev/null &&
	detach vm1 >/dev/null
ok $? "a snapshot of an adopted disk, then detached"
check "what is its backing image can be looked into" qemu-img info "$IMG/b"
{ add c "$IMG/c" && attach c vm1; } >/dev/null
ok $? "the disk is attached again"

# Two of our own.
LIVECHAIN_QUIET=1 "$LIVECHAIND" --qmp "$T/second.sock" --state-dir "$T/second" \
	--blockdev "driver=qcow2,node-name=x,file.driver=file,file.filename=$IMG/b" >"$T/out" 2>&1 &
second=$!
wait_for "! kill -0 $second 2>/dev/null" 30 || kill $second
wait $second
[ $? != 0 ] && grep -q 'Failed to get' "$T/out"
ok $? "a second daemon can't open it: $(tail -n 1 "$T/out")"
detach vm1 >/dev/null
stop_daemon
