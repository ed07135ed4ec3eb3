#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The guide's examples, run as they stand, print what the guide says.
# kernels: 6.1 debug
. "$(dirname "$0")/../lib-kernel.sh"
kernel_setup 3 64
dd if=/dev/urandom of=/dev/ram0 bs=1M count=64 status=none

# Pairs of a command and what follows it, from the indented blocks of the section.
mapfile -t lines < <(sed -n '/^Examples$/,/^Known issues$/p' "$TOP/Documentation/admin-guide/dm-livechain.rst" |
	sed -n 's/^    //p')
plan "$(printf '%s\n' "${lines[@]}" | grep -c '^# ')"
cleanup_fn dm_remove d0

command='' wanted=''
run_example() {
	[ -n "$command" ] || return
	eval "$command" >"$T/out" 2>&1
	is "$(cat "$T/out")" "${wanted%$'\n'}" "$command"
}
for line in "${lines[@]}" '# '; do
	case $line in
	'# '*) run_example; command=${line#'# '} wanted='';;
	*) wanted+=$line$'\n';;
	esac
done
wait
