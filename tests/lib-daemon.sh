# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# For the cases about the daemon: lib.sh, and words for what a QMP client does.
# JSON is written with single quotes (QMP takes both).
# shellcheck source=tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export LIVECHAIN_MODULE=$BUILD/$KVER/dm-livechain.ko
ORACLE=$TOP/tests/oracle.py

# place MIB: IMG, a folder for images with direct I/O, on a RAM disk of its own.
place() {
	modprobe -q loop
	mkdirect "$1"
}

# qdo COMMAND [ARGUMENTS]: qdo job-cancel "'id': 'b0'"
qdo() {
	local args=${2:+", 'arguments': {$2}"}
	qmp "{'execute': '$1'$args}"
}

# node NAME FILE [DRIVER] [MORE]: the arguments of a blockdev-add; a file below it.
node() {
	echo "'driver': '${3:-qcow2}', 'node-name': '$1', 'file': {'driver': 'file', 'filename': '$2'}${4:+, $4}"
}
add() { qdo blockdev-add "$(node "$@")"; }
del() { qdo blockdev-del "'node-name': '$1'"; }

# attach NODE DISK [WRITABLE]: the node as /dev/mapper/DISK, export id DISK.
attach() { qdo block-export-add "'type': 'dm', 'id': '$2', 'node-name': '$1', 'name': '$2', 'writable': ${3:-true}"; }
detach() { qdo block-export-del "'id': '$1'"; }

# refuses TEXT REGEX COMMAND [ARGUMENTS] [CLASS]: the command is answered by an error
# of CLASS (GenericError) whose sentence matches.
refuses() {
	local out st cls=${5:-GenericError}
	out=$(qdo "$3" "${4:-}"); st=$?
	[ $st != 0 ] && grep -qF "\"class\": \"$cls\"" <<<"$out" && grep -qE -- "$2" <<<"$out"
	ok $? "$1"
	[ "$_failed" = "${_failed_before:-0}" ] || { diag "answer: $out"; diag "wanted: $cls ~ $2"; }
	_failed_before=$_failed
}

# event_lines [REGEX]: the events so far, one a line, without their time.
event_lines() {
	[ -e "$EVENTS" ] || return 0
	sed -E 's/"timestamp": \{[^}]*\}, //' "$EVENTS" | grep -E -- "${1:-.}"
}

# job_events ID: what was said of a job, in order: "created running ... COMPLETED".
job_events() {
	event_lines "\"(id|device)\": \"$1\"" | sed -E \
		-e 's/.*JOB_STATUS_CHANGE.*"status": "([a-z]+)".*/\1/' \
		-e 's/.*"event": "BLOCK_JOB_([A-Z]+)".*/\1/' | tr '\n' ' ' | sed 's/ $//'
}
# wait_job ID STATUS TIMEOUT
wait_job() { wait_event JOB_STATUS_CHANGE "$3" "\"status\": \"$2\".*\"id\": \"$1\""; }
forget_events() { : >"$EVENTS"; }

# sums FILE...: so that a later look can say that nothing was changed.
sums() { sha256sum "$@"; }

# clean FILE...: qemu-img check finds neither errors nor leaks.
clean() {
	local f out st=0
	for f; do
		out=$(qemu-img check "$f" 2>&1) || { echo "$f: $out"; st=1; }
	done
	return $st
}

# raw_of FILE RAW: what QEMU reads from the chain.
raw_of() { qemu-img convert -O raw "$1" "$2"; }

oracle() { PYTHONDONTWRITEBYTECODE=1 python3 -S "$ORACLE" "$@"; }

# listens SOCKET: somebody takes connections there (its file comes a moment before that).
listens() { grep -q " 00010000 .*$1\$" /proc/net/unix; }

# load DISK MODEL SEED [ARGUMENT]...: random I/O from now on until end_load, whose status tells
# whether every read of that time was right.
load() {
	rm -f "$T/stop"
	oracle churn "$1" "$2" --seed "$3" --threads 3 --seconds 900 --until "$T/stop" "${@:4}" >"$T/load" 2>&1 &
	LOAD=$!
	wait_for "grep -q 'under way' '$T/load'" 60
}
end_load() {
	touch "$T/stop"
	wait "$LOAD"; set -- $?
	diag "$(cat "$T/load")"
	return "$1"
}

no_loops() { [ -z "$(losetup -a)" ]; }
no_disks() { dmsetup ls | grep -q '^No devices' || [ -z "$(dmsetup ls)" ]; }
