#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A before-write copy under a guest that writes all over is the view at its start.
# timeout: 600
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
require fio
rounds=3
plan $((rounds * 4))
kernel_setup 3 128
nr=$((2 * 128 * 1024))
# frozen: what the device held when it was suspended, copied by dd, not by us
point_in_time() {
	local name=$1 options=$2 fio st
	fio --name=w --filename=/dev/mapper/kpoint --rw=randrw --rwmixread=20 --ioengine=libaio --direct=1 \
		--iodepth=8 --bsrange=4k-256k --bs_unaligned=0 --randseed="$SEED" --time_based --runtime=900 \
		--norandommap >"$T/fio" 2>&1 &
	fio=$!
	wait_for '[ "$(cut -d" " -f7 /sys/block/'"$(basename "$(readlink -f /dev/mapper/kpoint)")"'/stat 2>/dev/null || echo 1)" != 0 ]' 60
	sleep 1
	dmsetup suspend --noflush --nolockfs kpoint
	dd if="${RAM[0]}" of="$T/frozen" bs=1M iflag=direct 2>/dev/null
	msg kpoint "copy $name 9 before-write $options"
	dmsetup resume kpoint
	wait_for "status_of kpoint | grep -q '$name concluded'" 150
	like "$(status_of kpoint)" "$name concluded .* ok 9$" "$name ends well while the guest writes"
	kill -0 $fio 2>/dev/null
	ok $? "the guest has been writing all the time"
	kill $fio; wait $fio
	grep -qi "error" "$T/fio"; st=$?
	[ $st != 0 ]; ok $? "the guest has seen no error"
	dd if="${RAM[1]}" bs=1M iflag=direct 2>/dev/null | cmp - "$T/frozen"
	ok $? "$name is what the view was"
	msg kpoint "job $name dismiss"
}
dd if=/dev/urandom of="${RAM[0]}" bs=1M oflag=direct 2>/dev/null
dm_create kpoint "0 $nr livechain kpoint 128 0 2 0 ${RAM[0]} 0 9 ${RAM[1]} 0"
msg kpoint "layer 0 unit 8 raw"
for ((b = 0; b < nr / 128; b += 512)); do msg kpoint "map 1 $b 512:d:0:$((b * 128))" >/dev/null; done
point_in_time full ""
point_in_time slow "speed 33554432"
point_in_time grain "grain 2048"
