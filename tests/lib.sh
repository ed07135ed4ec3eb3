# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What a case of tests/cases is written with. A case sources this file first,
# then says plan N, requires what it needs, and reports N checks as TAP:
#
#	#!/bin/bash
#	# SPDX-License-Identifier: GPL-2.0-or-later
#	# A sentence that says what holds.
#	# timeout: 120		(seconds in the guest of a fast machine, twice as many are given; 300 when absent)
#	# mem: 3072		(MiB of the guest; 2048 when absent)
#	# kernels: 6.1 debug	(only on these, what is user space's matter alone; all when absent)
#	. "${0%/*}/../lib.sh"
#	plan 2
#	mkram 1 64
#	check "a device is written" dd if=/dev/zero of=/dev/ram0 bs=1M count=1
#	is "$(blockdev --getsize64 /dev/ram0)" 67108864 "its size"
#
# Every helper that makes something registers its own undoing at once
# (cleanup_fn); undoing runs last to first, whatever ends the case. Nothing
# sleeps for a fixed time: wait_for CONDITION TIMEOUT.
#
# Cases run as root in the VM (tests/run NAME). T is the case's own folder in
# a tmpfs, TOP the checkout. $RANDOM is seeded: the seed is printed, SEED=... repeats it.

# A process costs 0.05 to 0.2 s in an emulated guest: helpers use builtins.
set -u
TOP=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
CASE=${0##*/}
CASE=${CASE%.sh}
BUILD=${LIVECHAIN_BUILD:-$TOP/build}
LIVECHAIND=${LIVECHAIND:-$BUILD/${LIVECHAIN_SLOW:+faults/}livechaind}
LIVECHAIN=${LIVECHAIN:-$BUILD/livechain}
KVER=$(</proc/sys/kernel/osrelease)
SEED=${LIVECHAIN_SEED:-$((SRANDOM & 0xffff))}
RANDOM=$SEED
export SEED

_planned='' _count=0 _failed=0 _skipped='' _cleanups=()
_bashpid=$BASHPID

# --- reporting ------------------------------------------------------------------

plan() { _planned=$1; echo "1..$1"; echo "# seed $SEED"; }
diag() { local text="$*"; printf '# %s\n' "${text//$'\n'/$'\n# '}"; }

# ok STATUS TEXT: one check; STATUS 0 is a pass (usually: ok $? "...").
ok() {
	_count=$((_count + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $_count - $2"
	else
		_failed=$((_failed + 1))
		echo "not ok $_count - $2"
		diag "from line ${BASH_LINENO[*]} of $CASE"
	fi
	return 0
}

pass() { ok 0 "$1"; }
fail() { ok 1 "$1"; }

# is GOT WANTED TEXT / like GOT REGEX TEXT (extended, unanchored)
is() {
	[ "$1" = "$2" ]; ok $? "$3"
	[ "$1" = "$2" ] || { diag "got:    $1"; diag "wanted: $2"; }
}

like() {
	local st
	[[ $1 =~ $2 ]]; st=$?
	ok $st "$3"
	[ $st = 0 ] || { diag "got:       $1"; diag "wanted: ~  $2"; }
}

# check TEXT COMMAND...: passes when COMMAND does; its output is shown if not.
check() {
	local text=$1 out st
	shift
	out=$("$@" 2>&1); st=$?
	ok $st "$text"
	[ $st = 0 ] || { diag "command: $*"; diag "status $st: $out"; }
}

# fails TEXT REGEX COMMAND...: passes when COMMAND fails and its output matches.
fails() {
	local text=$1 re=$2 out st
	shift 2
	out=$("$@" 2>&1); st=$?
	[[ $st != 0 && $out =~ $re ]]
	ok $? "$text"
	[[ $st != 0 && $out =~ $re ]] || { diag "command: $*"; diag "status $st, wanted ~ $re: $out"; }
}

# skip_all REASON: ends the case as skipped. bail TEXT: ends it as failed.
skip_all() { _skipped=1; echo "1..0 # SKIP $*"; exit 0; }
bail() { echo "Bail out! $*"; _failed=$((_failed + 1)); exit 1; }

# --- undoing, waiting, needing ---------------------------------------------------

# cleanup_fn COMMAND...: run at the end, last registered first.
cleanup_fn() { _cleanups+=("$(printf '%q ' "$@")"); }

_finish() {
	local st=$? i
	trap - EXIT
	[ "$BASHPID" = "$_bashpid" ] || return
	for ((i = ${#_cleanups[@]} - 1; i >= 0; i--)); do
		eval "${_cleanups[i]}" 2>&1
	done
	[ -n "$_skipped" ] && exit 0
	if [ -z "$_planned" ]; then
		diag "no plan was made"; st=1
	elif [ "$_planned" != "$_count" ]; then
		diag "$_planned checks were planned, $_count were made"; st=1
	fi
	[ "$_failed" = 0 ] || st=1
	exit "$st"
}
trap _finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

T=${TMPDIR:-/tmp}/$CASE.$$.$SRANDOM
mkdir -m 700 "$T" || exit 1
cleanup_fn rm -rf "$T"

# wait_for CONDITION TIMEOUT: evaluates CONDITION until it holds; 1 after TIMEOUT s on a fast
# machine: a slow one has four times as much, a debug kernel eight times.
wait_for() {
	local end=$((SECONDS + 4 * $2))
	[[ $KVER != *-livechain-* ]] || end=$((SECONDS + 8 * $2))
	until eval "$1"; do
		[ $SECONDS -lt $end ] || { diag "not within $2 s: $1"; return 1; }
		sleep 0.1
	done
}

# require TOOL...: skips the case when one is missing.
require() {
	local t
	for t; do command -v "$t" >/dev/null || skip_all "$t is not installed"; done
}

# require_module NAME [PARAMETER]...: loads a module of the kernel, unloads it at the
# end; skips when this kernel does not have it. One that an earlier case could not unload
# has that case's parameters.
require_module() {
	local name=$1 sys=/sys/module/${1//-/_}
	if [ -d "$sys" ]; then
		[ $# -gt 1 ] && [ -e "$sys/refcnt" ] || return 0
		_unload "$name" || bail "module $name is in use, and has to be loaded anew: $*"
	fi
	modprobe -q "$@" || skip_all "this kernel has no module $name"
	[ -e "$sys/refcnt" ] && cleanup_fn _unload "$name"
}
_unload() { wait_for "rmmod $1 2>/dev/null || ! [ -d /sys/module/${1//-/_} ]" 10; }

# --- devices ----------------------------------------------------------------------

# mkram N MIB: N RAM disks, /dev/ram0 and on (RAM[0]...). Bios reach them directly.
mkram() {
	require_module brd rd_nr="$1" rd_size=$(($2 * 1024)) max_part=1
	local i
	RAM=()
	for ((i = 0; i < $1; i++)); do RAM+=("/dev/ram$i"); done
	[ -b "${RAM[-1]}" ] || bail "brd made no ${RAM[-1]}"
}

# mkdirect MIB: an ext4 file system on a RAM disk of its own, mounted at
# $T/img (IMG): a place for images that allows direct I/O, which a tmpfs does not before Linux 6.6.
mkdirect() {
	[ -d /sys/module/brd ] && bail "mkdirect and mkram exclude each other: make ${RAM[-1]} a file system by hand"
	mkram 1 "$1"
	mkfs_mount /dev/ram0 "$T/img"
	# shellcheck disable=SC2034 # for the case
	IMG=$T/img
}

# mkfs_mount DEVICE DIR: ext4, mounted; unmounted at the end.
mkfs_mount() {
	mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=1 "$1" || bail "mkfs of $1"
	mkdir -p "$2"
	modprobe -q ext4
	mount -t ext4 "$1" "$2" || bail "mount of $1"
	cleanup_fn umount "$2"
}

# mkloop FILE: a loop device with direct I/O on both sides; prints its name.
# Not in a subshell's cleanup: register loop_free yourself when you use $(...).
mkloop() { losetup --find --show --direct-io=on "$@"; }
loop_free() { losetup -d "$1"; }

# load_module: our module, with what it depends on.
load_module() {
	local ko=$BUILD/$KVER/dm-livechain.ko d
	[ -d /sys/module/dm_livechain ] && return
	[ -e "$ko" ] || bail "$ko is not built: make module KERNEL=$KVER"
	modprobe -q dm-mod || :
	for d in $(modinfo -F depends "$ko" | tr , ' '); do modprobe "$d" || bail "modprobe $d"; done
	insmod "$ko" "$@" || bail "insmod $ko: $(dmesg | tail -n 3)"
	cleanup_fn unload_module
}

# The module must go when nothing uses it: a leaked reference fails the case.
unload_module() {
	[ -d /sys/module/dm_livechain ] || return 0
	_unload dm_livechain || { diag "dm-livechain does not unload: refcnt $(cat /sys/module/dm_livechain/refcnt)"; return 1; }
}

# dm_create NAME TABLE...: dmsetup create with TABLE (one string, or on stdin
# when absent), removed at the end. DM_DISABLE_UDEV is set in the VM.
dm_create() {
	local name=$1
	shift
	if [ $# -gt 0 ]; then dmsetup create "$name" --table "$*"; else dmsetup create "$name"; fi || return
	cleanup_fn dm_remove "$name"
}
dm_remove() {
	dmsetup info "$1" >/dev/null 2>&1 || return 0
	wait_for "dmsetup remove --deferred $1 2>/dev/null || dmsetup remove $1; ! dmsetup info $1 >/dev/null 2>&1" 10
}

# sectors DEVICE
sectors() { blockdev --getsz "$1"; }

# --- daemon and QMP ----------------------------------------------------------------

DAEMON_PID='' QMP_SOCK=$T/qmp.sock STATE_DIR=$T/state DAEMON_LOG=$T/daemon.log EVENTS=$T/events

# start_daemon [ARGUMENT]...: livechaind on $QMP_SOCK with $STATE_DIR; returns when it answers
# and its events are listened to: those from before are lost, who wants them asks for the state.
# Its arguments are kept for restart_daemon. One at a time.
start_daemon() {
	DAEMON_ARGS=("$@")
	_qmp_client # in this shell: one that a $(...) starts would hold its output open
	[ -x "$LIVECHAIND" ] || bail "$LIVECHAIND is not built: make"
	mkdir -p "$STATE_DIR"
	"$LIVECHAIND" --qmp "$QMP_SOCK" --state-dir "$STATE_DIR" "$@" >>"$DAEMON_LOG" 2>&1 &
	DAEMON_PID=$!
	[ -n "${_daemon_cleanup:-}" ] || { _daemon_cleanup=1; cleanup_fn _end_daemon; }
	wait_for "! kill -0 $DAEMON_PID 2>/dev/null || python3 -S '$TOP/tests/qmp.py' --ping '$QMP_SOCK'" 30 ||
		{ diag "$(_daemon_stacks; tail -n 20 "$DAEMON_LOG")"; return 1; }
	qmp '{"execute": "query-version"}' >/dev/null
	kill -0 "$DAEMON_PID" 2>/dev/null && return
	wait "$DAEMON_PID"; diag "livechaind ended with status $?: $(tail -n 20 "$DAEMON_LOG")"
	DAEMON_PID=
	return 1
}

# Where the daemon's threads are, for one that does not answer.
_daemon_stacks() {
	local t
	for t in /proc/"$DAEMON_PID"/task/*; do
		printf '%s: ' "${t##*/}"; awk '{ printf "%s ", $2 }' "$t/stack"; echo
	done 2>/dev/null
}

restart_daemon() { start_daemon ${DAEMON_ARGS[@]+"${DAEMON_ARGS[@]}"}; }

# stop_daemon: the clean way (quit); the daemon's own exit status.
stop_daemon() {
	local pid=$DAEMON_PID
	[ -n "$pid" ] || return 0
	qmp '{"execute": "quit"}' >/dev/null || kill "$pid" 2>/dev/null
	wait_for "! kill -0 $pid 2>/dev/null" 60 || { kill -9 "$pid"; DAEMON_PID=; return 1; }
	DAEMON_PID=
	wait "$pid"
}

kill9_daemon() {
	[ -n "$DAEMON_PID" ] || return 0
	kill -9 "$DAEMON_PID"
	wait "$DAEMON_PID" 2>/dev/null
	DAEMON_PID=
}

_end_daemon() {
	[ -n "$DAEMON_PID" ] && kill -0 "$DAEMON_PID" 2>/dev/null && { stop_daemon || kill9_daemon; }
	[ "$_failed" = 0 ] || { diag "the daemon's log:"; diag "$(tail -n 40 "$DAEMON_LOG")"; }
}

# qmp JSON: one command; prints what it returned (compact JSON), or the error
# object and status 1. One client lives through the case, so that events are
# kept: they lie in $EVENTS, one a line, in order. It connects again by itself.
qmp() {
	local line
	_qmp_client || return
	printf '%s\n' "${1//$'\n'/ }" >&61
	read -r -u 62 line || { echo "no answer from the QMP client"; return 1; }
	printf '%s\n' "${line#* }"
	[ "${line%% *}" = ok ]
}

_qmp_client() {
	[ -p "$T/qmp.in" ] && return
	mkfifo "$T/qmp.in" "$T/qmp.out"
	exec 61<>"$T/qmp.in" 62<>"$T/qmp.out"
	python3 -S "$TOP/tests/qmp.py" --serve "$EVENTS" "$QMP_SOCK" <&61 >&62 2>"$T/qmp.err" 61>&- 62>&- &
	cleanup_fn kill $!
}

# wait_event NAME TIMEOUT [REGEX]: an event NAME (whose line matches REGEX) has come.
wait_event() {
	_qmp_client
	wait_for "_has_event '$1' '${3:-.}'" "$2"
}
_has_event() {
	local line
	[ -e "$EVENTS" ] || return 1
	while IFS= read -r line; do
		[[ $line == *'"event": "'"$1"'"'* && $line =~ $2 ]] && return 0
	done <"$EVENTS"
	return 1
}
