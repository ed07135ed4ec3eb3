#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Suspend, resume, reload, rename and failed reloads under load: the guest sees nothing.
# timeout: 240
# races: processors that run at once
. "$(dirname "$0")/../lib-kernel.sh"
require fio
plan 16
kernel_setup 2 64
nr=$((2 * 64 * 1024))
table="0 $nr livechain kre 128 0 1 0 ${RAM[0]} 0"
with="0 $nr livechain kre 128 0 2 0 ${RAM[0]} 0 1 ${RAM[1]} 0"
dm_create kre0 "$table"
cleanup_fn dm_remove kre
msg kre0 "layer 0 unit 8 raw"
for ((b = 0; b < nr / 128; b += 512)); do msg kre0 "map 1 $b 512:d:0:$((b * 128))" >/dev/null; done
# fio opens its file again and again: give it a name that stays
read -r major minor < <(dmsetup info -c --noheadings -o major,minor --separator ' ' kre0)
mknod "$T/disk" b "$major" "$minor"
fio --name=v --filename="$T/disk" --rw=randwrite --bsrange=4k-64k --ioengine=libaio --direct=1 --iodepth=8 \
	--randseed="$SEED" --time_based --runtime=900 --verify=crc32c --verify_backlog=64 --verify_state_save=0 --fsync=64 >"$T/fio" 2>&1 &
fio=$!
wait_for '[ "$(awk "{print \$5}" /sys/dev/block/'"$major:$minor"'/stat)" -gt 100 ]' 30
ok $? "the guest writes"
# Early: Debian's 6.1 frees memory twice when a device is renamed after a reload, whatever its target.
dmsetup rename kre0 kre && dmsetup suspend --noflush --nolockfs kre && dmsetup resume kre
ok $? "renamed"
like "$(status_of kre)" "^1 kre [0-9]+ rw 128 0 2/2" "the view has its own name"
for noflush in --noflush ""; do
	for _ in 1 2 3 4 5; do
		# shellcheck disable=SC2086
		dmsetup suspend $noflush --nolockfs kre && dmsetup resume kre || break
	done
	ok $? "suspend ${noflush:-with flush} and resume"
done
for t in "$with" "$table" "$with"; do
	dmsetup load kre --table "$t" && dmsetup suspend --noflush --nolockfs kre && dmsetup resume kre
	ok $? "reload to $t"
done
is "$(dmsetup table kre | cut -d' ' -f7)" 2 "the new table is live"
fails "a bad table is refused" "failed" dmsetup load kre --table "0 $nr livechain kre 128 0 1 0 /dev/nothing 0"
fails "a table without the active layer is refused" "failed" dmsetup load kre --table "0 $nr livechain kre 128 1 1 1 ${RAM[1]} 0"
dmsetup suspend --noflush --nolockfs kre && dmsetup resume kre
ok $? "the old one goes on"
dmsetup load kre --table "$table" && dmsetup clear kre
ok $? "a table that never became live goes"
is "$(dmsetup table kre | cut -d' ' -f7)" 2 "and has changed nothing"
log_mark
dmsetup create kre2 --table "$with" 2>/dev/null && dmsetup remove kre2
like "$(log_since)" "Another device is live on the view" "a second live device of the view is refused"
kill -0 $fio 2>/dev/null; st=$?
kill $fio; wait $fio
grep -qE "verify: bad|io_u error|err= *[1-9]" "$T/fio" && st=1
ok $st "the guest has seen nothing of it"
[ $st = 0 ] || diag "$(cat "$T/fio")"
