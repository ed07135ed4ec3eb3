#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Bad images and bad requests: a sentence of QEMU's class, and nothing is changed.
# kernels: 6.1 debug
# timeout: 1200
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io setpriv readelf nm
plan 85
place 300

cd "$IMG" || bail "no $IMG"
qemu-img create -q -f raw raw 16M
qemu-img create -q -f qcow2 good 16M
qemu-io -f qcow2 -c 'write -q -P 1 0 1M' -c 'write -q -P 2 15M 1M' good >/dev/null

# broken NAME OFFSET HEX...: a copy of `good` with bytes put over it
broken() {
	cp good "$1"
	local off=$2
	printf '%b' "$(sed 's/../\\x&/g' <<<"$3")" | dd of="$1" bs=1 seek="$((off))" conv=notrunc status=none
}
u64() { od -An -j"$2" -N8 -tx8 --endian=big "$1" | tr -d ' '; }
l1=$((16#$(u64 good 40))) rt=$((16#$(u64 good 48)))
l2=$((16#$(u64 good $l1) & 0xfffffffffffe00)) rb=$((16#$(u64 good $rt)))

: >empty
head -c 50 good >short-header
head -c 70000 good >short-file
broken magic 0 00000000
broken version1 4 00000001
broken version9 4 00000009
broken bits8 20 00000008
broken bits9 20 00000009
broken bits22 20 00000016
broken bits-huge 20 ffffffff
broken size-huge 24 7fffffffffffffff
broken size-max 24 ffffffffffffffff
broken crypt 32 00000002
broken l1-zero 36 00000000
broken l1-huge 36 7fffffff
broken l1-off 40 0000000000000123
broken l1-beyond 40 0000000100000000
broken l1-header 40 0000000000000000
broken rt-off 48 0000000000000001
broken rt-beyond 48 000000ff00000000
broken rt-none 56 00000000
broken rt-huge 56 7fffffff
broken snapshots 60 7fffffff
broken incompat 72 0000000000000100
broken datafile 72 0000000000000004
broken extl2 72 0000000000000010
broken dirty 72 0000000000000001
broken corrupt 72 0000000000000002
broken refbits 96 00000007
broken hdrlen 100 000000ff
broken hdrlen-huge 100 7fffffff
broken backing-off 8 00000000000000080000ffff
broken l1-entry $l1 8000000000000123
broken l1-entry-beyond $l1 8000100000000000
broken l1-reserved $l1 "f0000000000$(printf %05x $l2)"
broken l2-misaligned $l2 8000000000050200
broken l2-beyond $l2 8000001000000000
broken l2-metadata $l2 "80000000000$(printf %05x $l1)"
broken l2-compressed $l2 4000000000050000
broken rb-misaligned $rt 0000000000000123
broken rb-beyond $rt 0000010000000000
broken rb-zero $((rb + 10)) 0000
all=$(sums ./*.* ./[a-z]* 2>/dev/null)

start_daemon
ok $? "the daemon starts"
bad() { refuses "$1: $2" "$2" blockdev-add "$(node x "$IMG/$1" "${3:-qcow2}")"; }

# --- what blockdev-add sees ------------------------------------------------------------------
refuses "a file that is missing" "Could not open '/nonexistent': No such file or directory" blockdev-add "$(node x /nonexistent)"
refuses "no driver" "Parameter 'driver' is missing" blockdev-add "'node-name': 'x'"
refuses "a driver that is none" "does not accept value 'vmdk'" blockdev-add "$(node x "$IMG/good" vmdk)"
refuses "no file" "Parameter 'file' is missing" blockdev-add "'driver': 'qcow2', 'node-name': 'x'"
bad raw "not in qcow2 format"
bad empty "not in qcow2 format|too small|short"
bad short-header "not in qcow2 format|too small|short|inside"
bad magic "not in qcow2 format"
bad version1 "version 1 is not supported"
bad version9 "version 9 is not supported"
bad bits8 "cluster_bits is 8"
bad bits9 "clusters of 512 bytes are not supported"
bad bits22 "cluster_bits is 22"
bad bits-huge "cluster_bits is 4294967295"
bad size-huge "L1 table is too small"
bad size-max "too large|too small"
bad crypt "encryption \(LUKS\) is not supported"
bad l1-zero "L1 table is too small"
bad l1-huge "L1 table is too large"
bad l1-off "L1 table's offset 0x123"
bad l1-beyond "L1 table .* not inside the file"
bad l1-header "L1 table overlaps the header"
bad rt-off "refcount table's offset 0x1"
bad rt-beyond "refcount table .* not inside the file"
bad rt-none "no refcount table"
bad rt-huge "refcount table is too large"
bad snapshots "too many internal snapshots"
bad incompat "needs a feature that is not supported"
bad datafile "external data file is not supported"
bad extl2 "extended L2 entries"
bad dirty "dirty bit is set.*qemu-img check"
bad corrupt "marked corrupt"
bad refbits "refcount_order is 7"
bad hdrlen "header's length 255"
bad hdrlen-huge "header's length"
bad backing-off "backing file's name"
is "$(qdo query-named-block-nodes)" "[]" "no node is there"

# --- what attaching sees, at the latest -----------------------------------------------------------
load_module
late() { # IMAGE REGEX: refused by blockdev-add or block-export-add
	local out
	if out=$(add x "$IMG/$1"); then
		out=$(attach x vm1)
		[ $? != 0 ] || { diag "$1 was attached"; detach vm1 >/dev/null; out=none; }
		del x >/dev/null
	fi
	like "$out" "\"GenericError\".*($2)" "$1: $2"
}
late short-file "not inside the file|outside|behind"
late l1-entry "L2 table|L1"
late l1-entry-beyond "L2 table|L1"
late l1-reserved "reserved|L1"
late l2-misaligned "cluster|offset"
late l2-beyond "file|outside"
late l2-metadata "metadata|L1 table|overlap|header"
late l2-compressed "compressed"
late rb-misaligned "refcount"
late rb-beyond "refcount"
late rb-zero "refcount"
check "no device is left of it" no_disks
check "no loop device" wait_for no_loops 5

# --- chains ------------------------------------------------------------------------------------------
qemu-img create -q -f qcow2 l1 16M
qemu-img create -q -f qcow2 -b l1 -F qcow2 l2
qemu-img rebase -q -u -b l2 -F qcow2 l1
qemu-img create -q -f qcow2 -u -b gone -F qcow2 orphan 16M
qemu-img create -q -f qcow2 -u -b raw -F raw noformat 16M
python3 -S - noformat <<'PY'
import sys
f = open(sys.argv[1], "r+b"); d = f.read(4096); i = d.index(b"\xe2\x79\x2a\xca")
f.seek(i); f.write(b"\x11\x22\x33\x44")
PY
qemu-img create -q -f qcow2 -u -b base.vmdk -F vmdk vmdk 16M
qemu-img create -q -f qcow2 -u -b nbd://h/x -F raw nbd 16M
qemu-img create -q -f qcow2 -u -b magic -F qcow2 badbase 16M
bad l2 "the chain is a loop"
bad orphan "Could not open backing file.*No such file"
bad noformat "does not say the format of its backing file 'raw'.*qemu-img rebase"
bad vmdk "backing format 'vmdk' is not supported"
bad nbd "not a plain path"
bad badbase "Could not open backing file.*not in qcow2 format"

# --- requests -------------------------------------------------------------------------------------------
{ add g "$IMG/good" && attach g vm1; } >/dev/null
ok $? "a good one is attached"
refuses "a node name that is taken" "Duplicate nodes with node-name='g'" blockdev-add "$(node g "$IMG/raw" raw)"
refuses "an unknown node" "Failed to find node with node-name='nix'" blockdev-del "'node-name': 'nix'"
refuses "a node in use" "is in use|is busy" blockdev-del "'node-name': 'g'"
refuses "an export of an unknown node" "Cannot find device='' nor node-name='nix'" block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'nix'"
refuses "an export id that is taken" "Block export id 'vm1' is already in use" block-export-add "'type': 'dm', 'id': 'vm1', 'node-name': 'g'"
refuses "a type that is none" "does not accept value 'nbd'" block-export-add "'type': 'nbd', 'id': 'n', 'node-name': 'g'"
refuses "an unknown export" "Export 'nix' is not found" block-export-del "'id': 'nix'"
add r "$IMG/raw" raw >/dev/null
refuses "a disk name with a slash" "may only have|Invalid" block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'r', 'name': 'a/b'"
refuses "a disk name that is taken" "vm1" block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'r', 'name': 'vm1'"
dmsetup create other --table "0 8 zero"
refuses "a name that another dm device has" "other" block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'r', 'name': 'other'"
dmsetup remove other
refuses "a name that is too long" "." block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'r', 'name': '$(printf 'x%.0s' {1..200})'"
add ro "$IMG/noformat" qcow2 "'read-only': true, 'backing': null" >/dev/null
refuses "a read-only node made writable" "Cannot export read-only node as writable" block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'ro', 'writable': true"
truncate -s 0 zero; add zero "$IMG/zero" raw >/dev/null
refuses "an image of size 0" "size 0" block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'zero'"
exec 9</dev/mapper/vm1
refuses "a disk that is open" "is in use \(1 open\): unmount it or stop the VM" block-export-del "'id': 'vm1'"
exec 9<&-
check "and can be detached when it is closed" detach vm1
is "$(dmsetup ls | grep -vc '^No devices')" 0 "none of it left a device"
stop_daemon
ok $? "the daemon ends"
rm -f l1 l2 orphan noformat vmdk nbd badbase zero
is "$(sums ./*.* ./[a-z]* 2>/dev/null)" "$all" "no image was changed"

# --- places, rights, the module ---------------------------------------------------------------------------
start_daemon
cp good "$T/on-tmpfs"
out=$(add x "$T/on-tmpfs" && attach x vm1)
if dd if=/dev/zero of="$T/direct" bs=4096 count=1 oflag=direct 2>/dev/null; then
	check "an image on a tmpfs, which has direct I/O since Linux 6.6" dd if=/dev/mapper/vm1 of=/dev/null bs=1M iflag=direct
	detach vm1 >/dev/null
else
	like "$out" "direct I/O" "an image on a tmpfs: no direct I/O there"
fi
del x >/dev/null
stop_daemon
unload_module
LIVECHAIN_MODULE=/nonexistent.ko start_daemon
add g "$IMG/good" >/dev/null
refuses "the module is missing" "kernel module.*(make module|not installed)" block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'g'"
stop_daemon
# A module of another version: ours with other numbers in it.
other_version() { # MAJOR MINOR PATCH
	local at ko=$BUILD/$KVER/dm-livechain.ko
	# where the section lies in the file, less its address, which is not always 0
	at=$(($(readelf -SW "$ko" | sed 's/\[ */[/' | awk '$2 == ".data" { print "0x" $5 " - 0x" $4 }') +
		0x$(nm "$ko" | awk '$3 == "lc_target" { print $1 }') + 24))
	cp "$ko" "$T/other.ko"
	printf "$(printf '\\x%02x\\0\\0\\0' "$@")" | dd of="$T/other.ko" bs=1 seek=$at conv=notrunc status=none
}
version() { sed -n "s/.*LIVECHAIN_VERSION_$1 //p" "$TOP/include/uapi/linux/dm-livechain.h"; }
for v in "0 9 5" "$(version MAJOR) $(($(version MINOR) - 1)) 0" "$(($(version MAJOR) + 1)) 0 0"; do
	# shellcheck disable=SC2086
	other_version $v
	LIVECHAIN_MODULE=$T/other.ko start_daemon
	add g "$IMG/good" >/dev/null
	refuses "a module of version ${v// /.}" "GenericError.*has version ${v// /[.]}, but .* is needed: .*rmmod dm_livechain" \
		block-export-add "'type': 'dm', 'id': 'n', 'node-name': 'g'"
	stop_daemon
	unload_module
done
chmod 711 "$T" "$IMG"; chmod 600 good; mkdir "$T/nobody"; chown nobody "$T/nobody"
setpriv --reuid nobody --regid nogroup --clear-groups --inh-caps=-all --bounding-set=-all \
	"$LIVECHAIND" --qmp "$T/nobody/sock" --state-dir "$T/nobody/state" >"$T/nobody.log" 2>&1 &
pid=$!
wait_for "listens '$T/nobody/sock'" 20
out=$(python3 -S "$TOP/tests/qmp.py" "$T/nobody/sock" "{'execute': 'blockdev-add', 'arguments': {$(node g "$IMG/good")}}")
like "$out" "GenericError.*Could not open '$IMG/good': Permission denied" "no right to the image"
chmod 666 good
out=$(python3 -S "$TOP/tests/qmp.py" "$T/nobody/sock" "{'execute': 'blockdev-add', 'arguments': {$(node g "$IMG/good")}}" \
	"{'execute': 'block-export-add', 'arguments': {'type': 'dm', 'id': 'n', 'node-name': 'g'}}")
like "$out" "GenericError.*(no permission|needs root)" "no right to make devices"
kill $pid; wait $pid
is $? 0 "that daemon ends cleanly"
is "$(sums good)" "$(grep ' ./good$' <<<"$all" | sed 's, \./, ,')" "the image is as it was"
cd /
