#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The machine that cases run in is what scripts/vm promises.
. "${0%/*}/../lib.sh"
plan 12

is "$(id -u)" 0 "the command runs as root"
is "$DM_DISABLE_UDEV" 1 "dm needs no udev here"
is "$(findmnt -n -o FSTYPE -T "$TOP")" 9p "the checkout is the host's"
is "$(stat -f -c %T /tmp)" tmpfs "/tmp is the guest's own"
touch "$TOP/build/tests/.written" && rm "$TOP/build/tests/.written"
ok $? "the checkout is writable"
touch /usr/.written && rm /usr/.written
ok $? "the root takes changes, which die with the guest"

mkram 2 16
is "$(sectors "${RAM[1]}")" 32768 "a RAM disk has the size that was asked for"
require_module dm-mod
dm_create "$CASE" "0 1024 linear ${RAM[0]} 0"
ok $? "device-mapper makes a device"
check "its node appears without udev" test -b "/dev/mapper/$CASE"
dd if=/dev/urandom of="/dev/mapper/$CASE" bs=64k count=8 oflag=direct status=none
check "what it was given lies below" cmp -n 524288 "/dev/mapper/$CASE" "${RAM[0]}"

wait_for false 1 >/dev/null
is $? 1 "wait_for gives up"
start=$(date +%s%N)
sleep 1
took=$((($(date +%s%N) - start) / 1000000))
[ $took -ge 950 ] && [ $took -lt 15000 ]
ok $? "a second lasts about a second ($took ms)"
