# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# For the cases that record power cuts: the disks of a layout are the case's to make. The
# recording lies in build/crash/<kernel>-<layout>; `make check` and `make crash` replay it
# outside the VM.
# shellcheck source=tests/lib-daemon.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib-daemon.sh"
require qemu-img mkfs.ext4
modprobe -q ext4
load_module

crash_py() { PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/crash/$1.py" "${@:2}"; }

# record LAYOUT
record() {
	local out=$BUILD/crash/${KVER%%-*}-$1${LIVECHAIN_CRASH_NAME:+-$LIVECHAIN_CRASH_NAME}
	plan 2
	rm -rf "$out"
	mkdir -p "$T/work"
	crash_py record --seconds "${LIVECHAIN_CRASH_SECONDS:-15}" --seed "$SEED" "$1" "$out" "$T/work" \
		>"$T/out" 2>&1
	ok $? "a recording of a guest and all operations (seed $SEED)"
	diag "$(tail -n 20 "$T/out")"
	[ "$_failed" = 0 ] || { what_is_left; end_record; fail "no recording: $(tail -n 1 "$T/out")"; return; }
	crash_py record --attach "${LIVECHAIN_CRASH_ATTACHES:-1}" --seed "$SEED" "$1" "$out" "$T/work" \
		>"$T/out" 2>&1
	ok $? "after a cut the disk is attached again, with what was flushed, and detached clean"
	diag "$(tail -n 20 "$T/out")"
	[ "$_failed" = 0 ] || { what_is_left; end_record; }
}

what_is_left() {
	diag "$(tail -n 40 "$T/work/daemon.log")"
	diag "$(dmesg | tail -n 30)"
	diag "$(losetup -l; dmsetup table; dmsetup info -c; cat /proc/locks; ls -li /mnt/crash/d/img)"
}

# What a recording that broke has left.
end_record() {
	local p
	for p in /proc/[0-9]*; do
		case $(<"$p/comm") in livechaind | python3) [ "${p#/proc/}" = $$ ] || kill -9 "${p#/proc/}";; esac
	done 2>/dev/null
	dmsetup remove --retry vm1
	umount /mnt/crash
	dmsetup remove --retry log
	for p in /proc/[0-9]*; do
		case $(<"$p/comm") in disks) kill "${p#/proc/}";; esac
	done 2>/dev/null
	losetup -D
	sleep 1
} >/dev/null 2>&1
