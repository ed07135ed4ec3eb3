#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# With udev running: it makes the nodes, cookies complete, and guests' disks are not looked into.
# timeout: 1200
. "$(dirname "$0")/../lib-daemon.sh"
udevd=/lib/systemd/systemd-udevd
[ -x $udevd ] || skip_all "udev is not installed"
require qemu-img udevadm mkfs.ext4
plan 19
place 300
load_module

unset DM_DISABLE_UDEV
mkdir -p /run/udev
$udevd --daemon 2>"$T/udevd.log"
no_udev() { ! pgrep -x 'systemd-udevd|.udev-worker.' >/dev/null; }
end_udev() { # it removes other cases' nodes otherwise
	udevadm control --exit --timeout=20 2>/dev/null
	wait_for no_udev 20 || pkill -9 -x 'systemd-udevd|.udev-worker.'
	rm -rf /run/udev
}
cleanup_fn end_udev
udevadm settle --timeout=240

# Disks with a file system each: raw on a loop device, qcow2, and a plain one for comparison.
uuid() { printf '6b1d4a5e-0000-4000-8000-00000000000%d' "$1"; }
for i in 1 2 3; do
	qemu-img create -q -f raw "$IMG/r$i" 16M
	mkfs.ext4 -q -F -U "$(uuid $i)" "$IMG/r$i"
done
qemu-img convert -O qcow2 "$IMG/r2" "$IMG/q2"

start_daemon
ok $? "the daemon starts"
# timed COMMAND...: a udev that does not answer costs each of them 30 s.
slowest=0
timed() {
	local took=$SECONDS st
	"$@"; st=$?
	took=$((SECONDS - took))
	[ $took -le $slowest ] || slowest=$took
	return $st
}
{ add r1 "$IMG/r1" raw && timed attach r1 vm1 && add q2 "$IMG/q2" && timed attach q2 vm2; } >/dev/null
ok $? "two disks are attached"
[ $slowest -lt 29 ]
ok $? "udev answered in time ($slowest s)"
[ -L /dev/mapper/vm1 ] && [ -L /dev/mapper/vm2 ]
ok $? "udev made their nodes"
is "$(dmsetup udevcookies 2>/dev/null | grep -c 0x)" 0 "no cookie is left"
udevadm settle --timeout=240
for d in vm1 vm2; do
	info=$(udevadm info --query=property /dev/mapper/$d)
	like "$info" "DM_UDEV_DISABLE_OTHER_RULES_FLAG=1" "$d: other rules are told to leave it alone"
	like "$info" "DM_UDEV_DISABLE_DISK_RULES_FLAG=1" "$d: the disk rules too"
	is "$(grep '^ID_FS' <<<"$info")" "" "$d: nobody has looked into it"
done
is "$(find /dev/disk -lname "*dm-*" 2>/dev/null)" "" "no link below /dev/disk leads to them"
is "$(find /dev/disk -lname "*loop*" 2>/dev/null)" "" "nor to their images' loop devices"

# udev does look into what is not ours: the test would see it.
plain=$(mkloop "$IMG/r3")
udevadm trigger --action=change "/sys/block/${plain#/dev/}"
udevadm settle --timeout=240
check "a plain loop device is linked" test -e "/dev/disk/by-uuid/$(uuid 3)"
loop_free "$plain"

# The flags stay over a reload, a snapshot and a backup.
udevadm trigger --action=change /sys/block/dm-*
qdo blockdev-snapshot-sync "'device': 'vm2', 'snapshot-file': '$IMG/s2'" >/dev/null
qemu-img create -q -f qcow2 "$IMG/t" 16M
{ add t "$IMG/t" && qdo blockdev-backup "'device': 'vm2', 'target': 't', 'sync': 'full', 'job-id': 'j'"; } >/dev/null
ok $? "a snapshot and a backup"
wait_job j null 60
udevadm settle --timeout=240
is "$(find /dev/disk -lname '*dm-*' 2>/dev/null)$(find /dev/disk -lname '*loop*' 2>/dev/null)" "" "there are still no links"
{ detach vm1 && detach vm2; } >/dev/null
ok $? "detach"
nodes() { find /dev/mapper -name 'vm*' -o -name 'livechain*'; }
no_nodes() { [ -z "$(nodes)" ]; }
wait_for no_nodes 60
is "$(nodes)" "" "udev has removed the nodes"
is "$(dmsetup udevcookies 2>/dev/null | grep -c 0x)" 0 "no cookie is left"
stop_daemon
