#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# block-commit into a base of another size: a smaller one grows as QEMU's does, under a guest that writes;
# where the end of a longer one would be seen, the command is refused.
# kernels: 6.1 debug
# timeout: 400
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 59
place 500
load_module
start_daemon
ok $? "the daemon starts"

size_of() { qemu-img info -U --output=json -f "${2:-qcow2}" "$1" | jq '."virtual-size"'; }
overlay() { # FILE BASE FORMAT SIZE [OPTIONS]
	qemu-img create -q -u -f qcow2 ${5:+-o "$5"} -b "$2" -F "$3" "$1" "$4"
}
names() { qdo query-block | jq -r '[.[0].inserted.image | recurse(."backing-image" // empty) | .filename | split("/")[-1]] | join(" ")'; }
commit() { qdo block-commit "'device': 'vm1', 'job-id': 'j'${1:+, $1}"; }

# disk TOP-SIZE: [lo] <-- [mid] <-- [hi], attached, a guest writes.
disk() {
	qemu-io -f qcow2 -c "write -q -P 3 $(($1 - 65536)) 64k" -c 'write -q -P 4 1M 300k' "$IMG/hi" >/dev/null
	raw_of "$IMG/hi" "$IMG/model"
	{ add hi "$IMG/hi" && attach hi vm1; } >/dev/null && load /dev/mapper/vm1 "$IMG/model" "$SEED" --threads 2
	ok $? "a disk of $1 bytes, under load"
}

# over FILE FORMAT: the guest ends; the image holds what the disk did.
over() {
	end_load
	ok $? "all that the guest read was right"
	{ detach vm1 && del hi; } >/dev/null
	is "$(qdo query-named-block-nodes)" "[]" "all is closed"
	check "the image holds it" qemu-img compare -q -f "$2" -F raw "$IMG/$1" "$IMG/model"
	is "$(qemu-img info --output=json -f "$2" "$IMG/$1" | jq '."virtual-size"')" "$(stat -c %s "$IMG/model")" "and is as large"
	[ "$2" = raw ] || check "it is clean" clean "$IMG/$1"
	rm -f "$IMG"/lo "$IMG"/mid "$IMG"/mid2 "$IMG"/hi
	forget_events
}

done_active() {
	wait_event BLOCK_JOB_READY 60 && qdo job-complete "'id': 'j'" >/dev/null && wait_job j null 60
	ok $? "it is done"
}

# --- active ----------------------------------------------------------------------------------
qemu-img create -q -f qcow2 -o cluster_size=4k "$IMG/lo" 3M
qemu-io -f qcow2 -c 'write -q -P 1 0 3M' "$IMG/lo" >/dev/null
overlay "$IMG/mid" "$IMG/lo" qcow2 8M
overlay "$IMG/hi" "$IMG/mid" qcow2 20M
disk $((20 << 20))
check "an active commit into a smaller qcow2 image" commit
done_active
is "$(names) $(size_of "$IMG/lo")" "lo 20971520" "it has grown"
over lo qcow2

truncate -s 3M "$IMG/lo"
overlay "$IMG/hi" "$IMG/lo" raw 9437696
disk 9437696
check "into a smaller raw image" commit
done_active
is "$(names) $(size_of "$IMG/lo" raw)" "lo 9437696" "it has grown"
over lo raw

# --- below the active image -----------------------------------------------------------------------
qemu-img create -q -f qcow2 -o cluster_size=64k,compat=0.10 "$IMG/lo" 2M
qemu-io -f qcow2 -c 'write -q -P 1 0 2M' "$IMG/lo" >/dev/null
overlay "$IMG/mid" "$IMG/lo" qcow2 12M
qemu-io -f qcow2 -c 'write -q -P 2 11M 1M' -c 'write -q -z 512k 64k' "$IMG/mid" >/dev/null
overlay "$IMG/hi" "$IMG/mid" qcow2 20M
disk $((20 << 20))
check "of the image between, that is larger than the base and smaller than the disk" commit "'top': '$IMG/mid', 'base': '$IMG/lo'"
wait_job j null 60
is "$(names) $(size_of "$IMG/lo")" "hi lo 12582912" "the base has grown to its size"
over hi qcow2

truncate -s 2M "$IMG/lo"
overlay "$IMG/mid" "$IMG/lo" raw 12M
qemu-io -f qcow2 -c 'write -q -P 2 1M 11M' "$IMG/mid" >/dev/null
overlay "$IMG/hi" "$IMG/mid" qcow2 12M
disk $((12 << 20))
check "the same with a raw base" commit "'top': '$IMG/mid', 'base': '$IMG/lo'"
wait_job j null 60
is "$(names) $(size_of "$IMG/lo" raw)" "hi lo 12582912" "the base has grown"
over hi qcow2

# --- a base whose L1 table has to move ----------------------------------------------------------------
qemu-img create -q -f qcow2 -o cluster_size=4k "$IMG/lo" 2M
overlay "$IMG/hi" "$IMG/lo" qcow2 1100M
qemu-io -f qcow2 -c 'write -q -P 3 1099M 1M' "$IMG/hi" >/dev/null
raw_of "$IMG/hi" "$IMG/model"
{ add hi "$IMG/hi" && attach hi vm1; } >/dev/null
check "a base that has to have a new L1 table" commit
done_active
{ detach vm1 && del hi; } >/dev/null
check "it holds the disk" qemu-img compare -q -f qcow2 -F raw "$IMG/lo" "$IMG/model"
check "it is clean" clean "$IMG/lo"
rm -f "$IMG"/lo "$IMG"/hi
forget_events

# --- a base above a longer image: what that has behind the base's end stays hidden ------------------------
qemu-img create -q -f qcow2 "$IMG/lo" 20M
qemu-io -f qcow2 -c 'write -q -P 1 0 20M' "$IMG/lo" >/dev/null
overlay "$IMG/mid" "$IMG/lo" qcow2 4M
overlay "$IMG/hi" "$IMG/mid" qcow2 20M
disk $((20 << 20))
check "an active commit into a smaller image above a longer one" commit "'base': '$IMG/mid'"
done_active
is "$(names) $(size_of "$IMG/mid")" "mid lo 20971520" "it has grown"
over mid qcow2

qemu-img create -q -f qcow2 "$IMG/lo" 20M
qemu-io -f qcow2 -c 'write -q -P 1 0 20M' "$IMG/lo" >/dev/null
overlay "$IMG/mid" "$IMG/lo" qcow2 4M cluster_size=4k
overlay "$IMG/mid2" "$IMG/mid" qcow2 12M
overlay "$IMG/hi" "$IMG/mid2" qcow2 20M
disk $((20 << 20))
check "the same of an image in between" commit "'top': '$IMG/mid2', 'base': '$IMG/mid'"
wait_job j null 60
is "$(names) $(size_of "$IMG/mid")" "hi mid lo 12582912" "the base has grown to its size"
over hi qcow2

# --- refused ----------------------------------------------------------------------------------------------
qemu-img create -q -f qcow2 "$IMG/lo" 12M
overlay "$IMG/mid" "$IMG/lo" qcow2 4M compat=0.10
overlay "$IMG/hi" "$IMG/mid" qcow2 12M
{ add hi "$IMG/hi" && attach hi vm1; } >/dev/null
was=$(sums "$IMG"/*)
refuses "a base without zeros above a longer image can't grow" "its backing image is longer, and would be seen there" block-commit "'device': 'vm1', 'base': '$IMG/mid'"
refuses "a base with an end that would be seen" "larger than what is committed into it: its end would be seen again" \
	block-commit "'device': 'vm1', 'top': '$IMG/mid', 'base': '$IMG/lo'"
is "$(sums "$IMG"/*) $(qdo query-jobs)" "$was []" "nothing was changed"
{ detach vm1 && del hi; } >/dev/null
stop_daemon
ok $? "quit"
