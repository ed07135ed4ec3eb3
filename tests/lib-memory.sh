# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# For cases with little memory: lib-daemon.sh is sourced before.

# memory_cgroups: CGROUP, a folder to make memory cgroups in (version 2); empty where the kernel
# has none. It goes at the end, with what was made in it.
memory_cgroups() {
	CGROUP=
	mkdir "$T/cgroup"
	mount -t cgroup2 none "$T/cgroup" 2>/dev/null || { diag "this kernel has no cgroups"; return; }
	cleanup_fn umount "$T/cgroup"
	echo +memory >"$T/cgroup/cgroup.subtree_control" 2>/dev/null ||
		{ diag "this kernel has no memory cgroups"; return; }
	cleanup_fn _cgroup_remove
	# shellcheck disable=SC2034 # for the case
	CGROUP=$T/cgroup
}

_cgroup_remove() {
	local g
	for g in "$T"/cgroup/*/; do
		wait_for "rmdir '$g' 2>/dev/null || ! [ -d '$g' ]" 10
	done
	echo -memory >"$T/cgroup/cgroup.subtree_control"
}

# swap_on DEVICE: made and used, until the end.
swap_on() {
	{ mkswap "$1" && swapon "$1"; } >/dev/null || bail "no swap on $1"
	cleanup_fn swapoff "$1"
}
