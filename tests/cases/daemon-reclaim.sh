#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Memory is reclaimed through the disk (dirty page cache of its file system, swap on it) with the
# daemon alive and, what is needed being loaded and granted, with it stopped and dead.
#
# LIVECHAIN_RECLAIM=all: every load with little memory, not only one of the six (SEED % 6).
# kernels: by-name (not in make check yet: tests/run daemon-...; it then runs on any kernel)
# timeout: 1200
# mem: 2048
. "$(dirname "$0")/../lib-daemon.sh"
. "$(dirname "$0")/../lib-memory.sh"
require qemu-img jq
plan 33
modprobe -q loop
mkram 2 320
# RAM disks take memory when they are first written: all of it now.
for r in "${RAM[@]}"; do dd if=/dev/zero of="$r" bs=1M oflag=direct status=none 2>/dev/null; done
mkfs_mount /dev/ram0 "$T/img"
IMG=$T/img
load_module
memory_cgroups
start_daemon

qemu-img create -q -f qcow2 "$IMG/a" 160M
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" 160M
qemu-img create -q -f qcow2 /dev/ram1 192M
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk on an image in a file"
{ qdo blockdev-add "'driver': 'qcow2', 'node-name': 's', 'file': {'driver': 'host_device', 'filename': '/dev/ram1'}" && attach s vm2; } >/dev/null
ok $? "a disk on an image on a block device"

# --- who can be swapped out -----------------------------------------------------------------
guards() { local f; for f in /proc/[0-9]*/comm; do [ "$(cat "$f" 2>/dev/null)" = lc-guard ] && echo "${f//[^0-9]/}"; done; }
# Nothing of the daemon and its guard is swapped, nor could it be.
locked() {
	local pid swap
	for pid in $DAEMON_PID $(guards); do
		swap=$(sed -n 's/^VmSwap:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$pid/status")
		[ "$swap" = 0 ] || { echo "$pid: $swap KiB of $(cat "/proc/$pid/comm") are swapped"; return 1; }
		awk '/^[0-9a-f]+-/ { name = $6 } /^Anonymous:/ { anon = $2 }
			/^VmFlags:/ { if (anon > 0 && !/ lo /) { print "not locked: " anon " KiB of " name; bad = 1 } }
			END { exit bad }' "/proc/$pid/smaps" || return 1
	done
}
check "all memory of the daemon and its guard is locked" locked

# --- pressure ------------------------------------------------------------------------------------
# in_group COMMAND...: with 24 MiB.
in_group() { (echo "$BASHPID" >"$CGROUP/small/cgroup.procs" && exec "$@"); }
# in_little COMMAND...: the whole machine has 192 MiB left (with less it is busy reading programs).
in_little() {
	local st pid
	rm -f "$T/lock"
	python3 -S "$TOP/tests/reclaim.py" lock 192 >"$T/lock" & pid=$!
	wait_for "grep -qs locked '$T/lock'" 60 || { kill -9 $pid; return 1; }
	"$@"; st=$?
	kill -0 $pid || { echo "the memory hog was killed"; st=1; }
	kill -9 $pid; wait $pid 2>/dev/null
	return $st
}
starts_in_little() {
	local begin=$SECONDS
	in_little restart_daemon
	ok $? "$1"
	diag "$((SECONDS - begin)) s; the daemon: $(awk '{ print $12 " pages read, " $14 + $15 " ticks" }' "/proc/$DAEMON_PID/stat")"
}
if [ -n "$CGROUP" ]; then
	mkdir "$CGROUP/small"
	echo $((24 << 20)) >"$CGROUP/small/memory.max"
fi

# under TEXT PATH: the load on files below PATH (swap: anonymous memory) under both kinds of
# pressure, each within two minutes. In the short form one of the six loads, as the seed has it, gets the second kind.
nr=0
wanted() {
	[ -n "$CGROUP" ] || { [ "$1" = little ]; return; }
	[ "$1" = group ] || [ -n "${LIVECHAIN_RECLAIM:-}" ] || [ $((SEED % 6)) = $(((nr - 1) / 2)) ]
}
under() {
	local how words
	for how in group little; do
		case $how:$2 in
		group:swap) words=(anon 40);;
		little:swap) words=(anon 250);;
		group:*) words=(files "$2" 32);;
		little:*) words=(files "$2" 100);;
		esac
		nr=$((nr + 1))
		wanted $how || { pass "$1, $how # SKIP"; continue; }
		out=$("in_$how" timeout -k 5 120 python3 -S "$TOP/tests/reclaim.py" "${words[@]}" --seed $((SEED + nr)) 2>&1)
		ok $? "$1, $how"
		diag "$out"
	done
}
all_loaded() { local s; s=$(dmsetup status "$1"); [[ $s =~ \ ([0-9]+)/([0-9]+)\  ]] && [ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ]; }
fill() { dd if=/dev/urandom of="$1" bs=1M oflag=direct status=none 2>/dev/null; blockdev --flushbufs "$1"; }
daemon_stopped() { kill -STOP "$DAEMON_PID"; }
daemon_goes_on() { kill -CONT "$DAEMON_PID"; }

# --- a file system -----------------------------------------------------------------------------------
mkfs.ext4 -q -F -E nodiscard /dev/mapper/vm1 && mkdir "$T/fs" && mount -t ext4 /dev/mapper/vm1 "$T/fs"
ok $? "a file system on the first"
cleanup_fn umount -q "$T/fs"
under "first writes, daemon alive" "$T/fs"
umount "$T/fs"

# Every block is the active image's own now, and loaded: no write needs the daemon.
fill /dev/mapper/vm1
mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0 /dev/mapper/vm1 && mount -t ext4 /dev/mapper/vm1 "$T/fs"
check "all of it is loaded" all_loaded vm1
daemon_stopped
under "daemon stopped" "$T/fs"
daemon_goes_on
kill9_daemon
under "daemon dead" "$T/fs"
starts_in_little "a new one starts with little memory"
umount "$T/fs"
check "the file system is whole" e2fsck -fn /dev/mapper/vm1

# --- swap ----------------------------------------------------------------------------------------------
mkswap /dev/mapper/vm2 >/dev/null && swapon /dev/mapper/vm2
ok $? "swap on the second"
cleanup_fn _swapoff
_swapoff() { grep -q ^/dev/ /proc/swaps && swapoff -a; }
# More than there is: 24 MiB of the group, 192 of the machine.
swaps() {
	local before
	before=$(awk '$1 == "pswpin" { print $2 }' /proc/vmstat)
	under "swap: $1" swap
	[ "$(awk '$1 == "pswpin" { print $2 }' /proc/vmstat)" -gt $((before + 1000)) ]
	ok $? "swap: $1: it was used"
}
swaps "first writes, daemon alive"
check "nothing of the daemon is in it" locked
swapoff /dev/mapper/vm2
fill /dev/mapper/vm2
mkswap /dev/mapper/vm2 >/dev/null && swapon /dev/mapper/vm2
check "all of it is loaded" all_loaded vm2
daemon_stopped
swaps "daemon stopped"
daemon_goes_on
check "nothing of the daemon is in it, still" locked
kill9_daemon
swaps "daemon dead"
starts_in_little "a new one starts with little memory, swap on its disk"
check "all memory of the new one is locked" locked

# --- the end ---------------------------------------------------------------------------------------------
swapoff /dev/mapper/vm2
ok $? "swapoff"
check "detach" detach vm1
check "detach" detach vm2
stop_daemon
ok $? "quit"
check "the images are clean" clean "$IMG/a" "$IMG/b" /dev/ram1
