# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# For cases that drive the target by hand, without the daemon. Sources lib.sh.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export DM_DISABLE_UDEV=1

# kernel_setup N MIB: the module, and N RAM disks.
kernel_setup() {
	load_module
	mkram "$1" "$2"
}

# msg NAME WORD...: a message; prints the reply.
msg() {
	local name=$1
	shift
	dmsetup message "$name" 0 "$*"
}

# status_of NAME: the status line without the target's "0 length livechain ".
status_of() { dmsetup status "$1" | cut -d' ' -f4-; }

# log_mark, log_since: the kernel log since the mark.
log_mark() { _mark="mark $RANDOM $SECONDS $_count"; echo "$_mark" >/dev/kmsg; }
log_since() { dmesg | sed "0,/$_mark/d"; }

# no_table NAME REGEX TABLE-LINE...: the constructor refuses, and says why.
no_table() {
	local name=$1 re=$2
	shift 2
	log_mark
	if dmsetup create "$name" --table "$*" 2>/dev/null; then
		fail "refuses: $*"
		dmsetup remove "$name"
		return
	fi
	like "$(log_since)" "livechain: $re" "refuses: $* ($re)"
}

# refused NAME ERRNO REGEX WORD...: the message is refused with that error, and the log says
# why. Sentences are rate-limited: if there is none, ask again when the limit has passed.
refused() {
	local name=$1 err=$2 re=$3 out log
	shift 3
	log_mark
	out=$(dmsetup message "$name" 0 "$*" 2>&1) && { fail "refuses: $*"; return; }
	log=$(log_since | grep livechain)
	if [ -z "$log" ]; then
		sleep 5.1
		log_mark
		out=$(dmsetup message "$name" 0 "$*" 2>&1)
		log=$(log_since | grep livechain)
	fi
	like "$log" "$re" "refuses: $* ($re)"
	like "$out" "$err" "... with $err"
}

# zero_map NAME BLOCKS: says that so many blocks are zero.
zero_map() { msg "$1" "map 1 0 $2:z"; }

# python_checks [ARGUMENT]...: runs the Python on stdin, which has tests/ktest.py's names, and
# takes over its checks.
python_checks() {
	local line
	cleanup_fn _remove_all
	cat "$TOP/tests/ktest.py" - >"$T/checks.py"
	while IFS= read -r line; do
		case $line in
		"ok - "*) pass "${line#ok - }";;
		"not ok - "*) fail "${line#not ok - }";;
		"status 0") ;;
		"status "*) fail "the Python part ended with $line";;
		*) diag "$line";;
		esac
	done < <(PYTHONPATH=$TOP/tests PYTHONDONTWRITEBYTECODE=1 python3 -u "$T/checks.py" "$@" 2>&1; echo "status $?")
}

# What a Python part that failed has left: top first, whatever the order of making was.
_remove_all() {
	local name left
	for _ in 1 2 3; do
		left=$(dmsetup ls 2>/dev/null | grep -v '^No devices' | cut -f1)
		[ -n "$left" ] || return 0
		for name in $left; do
			dmsetup clear "$name" 2>/dev/null
			dmsetup resume "$name" 2>/dev/null
			dmsetup remove "$name" 2>/dev/null
		done
	done
}
