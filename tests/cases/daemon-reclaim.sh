#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Memory is reclaimed through the disk (dirty page cache of its file system, swap on it) with the
# daemon alive and, what is needed being loaded and granted, with it stopped and dead.
#
# LIVECHAIN_RECLAIM=all: everything (7 minutes). The short form has one of the six loads: on the file
# system or swap (SEED % 2), with the daemon alive, stopped or dead (SEED / 2 % 3).
# kernels: 6.1 debug
# timeout: 1200
# mem: 2048
. "$(dirname "$0")/../lib-daemon.sh"
. "$(dirname "$0")/../lib-memory.sh"
require qemu-img jq
parts=(files swap)
[ -n "${LIVECHAIN_RECLAIM:-}" ] || parts=("${parts[SEED % 2]}")
case ${parts[*]} in files) plan 17;; swap) plan 23;; *) plan 33;; esac
modprobe -q loop
mkram 2 320
# RAM disks take memory when they are first written: all of it now.
for part in "${parts[@]}"; do
	r=${RAM[0]}
	[ "$part" = files ] || r=${RAM[1]}
	dd if=/dev/zero of="$r" bs=1M oflag=direct status=none 2>/dev/null
done
mkfs_mount /dev/ram0 "$T/img"
IMG=$T/img
load_module
memory_cgroups
# MGLRU of 6.12 kills who has dirtied all the memory of its group, of which nothing is being written:
# it does not wake the flusher. 6.1 has it off, 7.3 wakes it.
lru_gen=/sys/kernel/mm/lru_gen/enabled
if [[ $KVER = 6.12.* ]]; then
	cleanup_fn eval "echo $(<$lru_gen) >$lru_gen"
	echo 0 >$lru_gen
fi
start_daemon

qemu-img create -q -f qcow2 "$IMG/a" 160M
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" 160M
qemu-img create -q -f qcow2 /dev/ram1 192M
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk on an image in a file"
{ qdo blockdev-add "'driver': 'qcow2', 'node-name': 's', 'file': {'driver': 'host_device', 'filename': '/dev/ram1'}" && attach s vm2; } >/dev/null
ok $? "a disk on an image on a block device"

# --- who can be swapped out -----------------------------------------------------------------
guards() { grep -lx lc-guard /proc/[0-9]*/comm 2>/dev/null | tr -dc '0-9\n'; }
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
no_huge_pages() { [ ! -e /proc/sys/vm/nr_hugepages ] || echo 0 >/proc/sys/vm/nr_hugepages; }
cleanup_fn no_huge_pages
# in_little COMMAND...: the whole machine has 192 MiB left (with less it is busy reading programs).
in_little() {
	local st pid
	rm -f "$T/lock"
	python3 -S "$TOP/tests/reclaim.py" lock 192 >"$T/lock" & pid=$!
	if wait_for "grep -qs locked '$T/lock'" 120; then "$@"; st=$?; else st=1; fi
	kill -0 $pid || { echo "the memory hog was killed"; st=1; }
	kill -9 $pid; wait $pid 2>/dev/null
	no_huge_pages
	return $st
}
starts_in_little() {
	local begin=$SECONDS how='' with=''
	[ ${#parts[@]} = 1 ] || how=in_little with=", with little memory"
	$how restart_daemon
	ok $? "$1$with"
	diag "$((SECONDS - begin)) s; the daemon: $(awk '{ print $12 " pages read, " $14 + $15 " ticks" }' "/proc/$DAEMON_PID/stat")"
}
if [ -n "$CGROUP" ]; then
	mkdir "$CGROUP/small"
	echo $((24 << 20)) >"$CGROUP/small/memory.max"
fi

# under TEXT PATH: the load on files below PATH (swap: anonymous memory) under both kinds of
# pressure, each in a few minutes at most: it does not hang.
nr=0
wanted() {
	[ -n "$CGROUP" ] || [ "$1" = little ] || return
	[ ${#parts[@]} = 2 ] || [ $((SEED / 2 % 3)) = $(((nr - 1) / 2)) ]
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
		out=$("in_$how" timeout -k 5 400 python3 -S "$TOP/tests/reclaim.py" "${words[@]}" --seed $((SEED + nr)) 2>&1)
		ok $? "$1, $how"
		diag "$out"
	done
}
all_loaded() { local s; s=$(dmsetup status "$1"); [[ $s =~ \ ([0-9]+)/([0-9]+)\  ]] && [ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ]; }
fill() { dd if=/dev/urandom of="$1" bs=1M oflag=direct status=none 2>/dev/null; blockdev --flushbufs "$1"; }
daemon_stopped() { kill -STOP "$DAEMON_PID"; }
daemon_goes_on() { kill -CONT "$DAEMON_PID"; }

# --- a file system -----------------------------------------------------------------------------------
reclaim_files() {
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
	starts_in_little "a new one starts"
	umount "$T/fs"
	check "the file system is whole" e2fsck -fn /dev/mapper/vm1
}

# --- swap ----------------------------------------------------------------------------------------------
_swapoff() { grep -q ^/dev/ /proc/swaps && swapoff -a; }
# More than there is: 24 MiB of the group, 192 of the machine.
swaps() {
	local before
	before=$(awk '$1 == "pswpin" { print $2 }' /proc/vmstat)
	under "swap: $1" swap
	wanted little || { pass "swap: $1: it was used # SKIP"; return; }
	[ "$(awk '$1 == "pswpin" { print $2 }' /proc/vmstat)" -gt $((before + 1000)) ]
	ok $? "swap: $1: it was used"
}
reclaim_swap() {
	mkswap /dev/mapper/vm2 >/dev/null && swapon /dev/mapper/vm2
	ok $? "swap on the second"
	cleanup_fn _swapoff
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
	starts_in_little "a new one starts, swap on its disk"
	check "all memory of the new one is locked" locked
	swapoff /dev/mapper/vm2
	ok $? "swapoff"
}

# --- the end ---------------------------------------------------------------------------------------------
for part in "${parts[@]}"; do "reclaim_$part"; done
check "detach" detach vm1
check "detach" detach vm2
stop_daemon
ok $? "quit"
check "the images are clean" clean "$IMG/a" "$IMG/b" /dev/ram1
