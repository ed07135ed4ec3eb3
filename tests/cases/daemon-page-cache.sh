#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Images on block devices that others have open and read through the page cache: they see what the
# kernel wrote past it, once it is over; and what they wrote themselves is seen.
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img
plan 11
modprobe -q loop
mkram 3 96
mkfs_mount /dev/ram0 "$T/img"
IMG=$T/img
load_module
start_daemon

device() { # NODE DEVICE
	qdo blockdev-add "'driver': 'raw', 'node-name': '$1', 'file': {'driver': 'host_device', 'filename': '$2'}"
}
look() { cat "$1" >/dev/null; } # all of it is in the page cache
bytes() { head -c 32M /dev/zero | tr '\0' "$1"; }
fill() { bytes "$2" | dd of="$1" bs=1M iflag=fullblock status=none "${@:3}"; } # DEVICE BYTE OPTION...
holds() { cmp -s -n $((32 << 20)) "$1" <(bytes "$2"); } # DEVICE BYTE: as others see it
direct() { cmp -s <(dd if="$1" bs=1M count=32 iflag=direct status=none) <(bytes "$2"); }

# Somebody has them open all the time, so that the kernel keeps what is cached.
exec 7</dev/ram1 8</dev/ram2

fill /dev/ram1 a
{ device n1 /dev/ram1 && attach n1 vm1; } >/dev/null
ok $? "a disk is attached whose content is in the page cache alone"
check "it holds that" direct /dev/mapper/vm1 a

look /dev/ram1
fill /dev/mapper/vm1 b oflag=direct
qdo blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$IMG/o1', 'snapshot-node-name': 'o1'" >/dev/null
ok $? "a snapshot is taken"
check "others see in its backing image what the guest wrote" holds /dev/ram1 b

look /dev/ram2
device t /dev/ram2 >/dev/null
ok $? "a target that others have read"
qdo blockdev-backup "'job-id': 'j', 'device': 'vm1', 'target': 't', 'sync': 'full', 'speed': 0" >/dev/null
check "a backup" wait_event BLOCK_JOB_COMPLETED 60 '"device": "j"'
check "others see what was copied" holds /dev/ram2 b
del t >/dev/null

fill /dev/mapper/vm1 c oflag=direct
look /dev/ram1
qdo block-commit "'job-id': 'k', 'device': 'vm1', 'auto-finalize': true" >/dev/null
check "a commit of the active image" wait_event BLOCK_JOB_READY 60
qdo job-complete "'id': 'k'" >/dev/null
check "is completed" wait_event BLOCK_JOB_COMPLETED 60 '"device": "k"'
look /dev/ram1
fill /dev/mapper/vm1 d oflag=direct
detach vm1 >/dev/null
ok $? "the disk is detached"
check "others see what the guest wrote last" holds /dev/ram1 d
del n1 >/dev/null
exec 7<&- 8<&-
