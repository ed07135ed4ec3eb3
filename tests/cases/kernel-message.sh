#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A message that is refused gives its error number, and the kernel log the reason.
# timeout: 300
. "$(dirname "$0")/../lib-kernel.sh"
kernel_setup 4 16
# 1500 blocks of 8 sectors: 3 slices, the last one short
nr=12000
dm_create km "0 $nr livechain km 8 1 4 0 ${RAM[0]} 0 1 ${RAM[1]} 0 2 ${RAM[2]} 0 3 ${RAM[3]} 0"
inval="Invalid argument" noent="No such file" busy="resource busy" perm="not permitted"

mapfile -t table <<-EOF
	$inval|there is no such message|mop
	$inval|needs 3 arguments at least, not 0|map
	$inval|needs 3 arguments at least, not 2|map 1 0
	$inval|x is not a generation|map x 0 512:z
	$inval|99 is not a generation|map 99 0 512:z
	$inval|8 is not the first block of a slice|map 1 8 512:z
	$inval|1536 is not the first block of a slice|map 1 1536 512:z
	$inval|x is not the first block of a slice|map 1 x 512:z
	$inval|run 513:q is neither zero|map 1 0 513:q
	$inval|run 0:z has no count|map 1 0 0:z
	$inval|run 512:p:1:0 is packed|map 1 0 512:p:1:0
	$inval|the runs end within a slice, at block 5|map 1 0 5:z
	$inval|the runs end within a slice, at block 513|map 1 0 512:z 1:z
	$inval|run 1501:z ends beyond the view's end|map 1 0 1501:z
	$inval|run 477:z ends beyond the view's end|map 1 1024 477:z
	$noent|layer 7 is not in the live table|map 1 0 512:d:7:0
	$noent|layer 7 is not in the live table|map 1 0 512:z:7
	$inval|8 is not the first block of a slice|forget 8 512
	$inval|5 blocks are not whole slices|forget 0 5
	$inval|0 blocks are not whole slices|forget 0 0
	$inval|1536 blocks are not whole slices|forget 0 1536
	$inval|takes 2 arguments at most|forget 0 512 5
	$noent|layer 9 is not in the live table|layer 9 unit 128 raw
	$inval|x is not a layer's id|layer x unit 128 raw
	$inval|needs unit, low, zeros, nospace or error behind the layer, not size|layer 1 size 128
	$inval|needs 3 arguments at least, not 2|layer 1 unit
	$inval|power of two from 8 to 4096 sectors, not 12|layer 1 unit 12 raw
	$inval|power of two from 8 to 4096 sectors, not 4|layer 1 unit 4 raw
	$inval|a layer is raw or record|layer 1 unit 128 cooked
	$inval|a layer is raw or record|layer 1 unit 128 raw 5
	$inval|record needs a shift and three masks|layer 1 unit 128 record 9
	$inval|the shift must be 0 to 23, not 64|layer 1 unit 128 record 64 0x0 - -
	$inval|8000 is not a mask|layer 1 unit 128 record 9 8000 - -
	$inval|the data mask is missing|layer 1 unit 128 record 9 - - -
	$inval|0xg is not a mask|layer 1 unit 128 record 9 0x1 0xg -
	$inval|x is not a number of sectors|layer 1 low x
	$inval|layer 1 has not been described as one with records|home 1 0+512@64
	$inval|layer 1 has not been described as one with records|grant 1 1 64+128
	$inval|layer 1 has not been described as one with records|reclaim 1
	$inval|layer 2 has not been described as one with records|grant 2 1 64+128
	$perm|suspend the device first|activate 2
	$noent|layer 9 is not in the live table|activate 9
	$inval|needs 5 arguments at least, not 0|remap
	$inval|99 is not a generation|remap 99 0 if-layer 2 512:z
	$inval|1500 is not a block of this view|remap 1 1500 if-layer 2 1:z
	$inval|needs if-layer behind the block, not of-layer|remap 1 0 of-layer 2 512:z
	$inval|x is not a layer's id|remap 1 0 if-layer x 512:z
	$inval|layer 1 is the active one|remap 1 0 if-layer 2,1 512:z
	not supported|is reserved|bitmap add b
	$inval|needs 3 arguments at least, not 1|promote 1
	$inval|a job's name is 1 to 63|promote a/b only 2
	$inval|needs only or skip behind the job's name|promote a all 2
	$inval|option fast is unknown|promote a only 2 fast 1
	$inval|options are speed, on-source-error, on-target-error and paused|promote a only 2 grain 128
	$inval|needs an active layer that has been described with records|promote a only 2
	$inval|takes 0 arguments at most|requests 1
	$inval|takes 0 arguments at most|commit now
	$inval|needs 3 arguments at least, not 1|copy a
	$inval|a job's name is 1 to 63|copy a/b 2 none
	$inval|x is no layer's id|copy a x none
	$inval|mode is none, before-write, track or both, not all|copy a 2 all
	$perm|this mode starts only while the device is suspended|copy a 2 track
	$perm|this mode starts only while the device is suspended|copy a 2 both
	$inval|only does not go with track|copy a 2 track only 3
	$inval|new-only goes with track and both only|copy a 2 none new-only
	$inval|on-demand goes with before-write only|copy a 2 none on-demand
	$inval|only and skip are given once|copy a 2 none only 3 skip 3
	$inval|only: x is no layer's id|copy a 2 none only x
	$inval|option fast is unknown|copy a 2 none fast 1
	$inval|option speed has no value|copy a 2 none speed
	$inval|speed needs a number, not x|copy a 2 none speed x
	$inval|on-source-error is report or stop, not ignore|copy a 2 none on-source-error ignore
	$inval|on-target-error is report or stop, not enospc|copy a 2 none on-target-error enospc
	$inval|grain is a power of two from 8 to 4096 sectors, not 100|copy a 2 none grain 100
	$inval|grain is a power of two from 8 to 4096 sectors, not 4|copy a 2 none grain 4
	$inval|grain is a power of two from 8 to 4096 sectors, not 8192|copy a 2 none grain 8192
	$noent|the live table has no layer 9|copy a 9 none
	$inval|layer 1 is the active one|copy a 1 none
	$perm|this mode starts only while the device is suspended|copy a 2 before-write
	$noent|there is no job a|job a cancel
	$inval|verb finish is unknown|job a finish
	$inval|speed takes bytes per second|job a speed
	$inval|cancel takes no argument|job a cancel now
EOF
more=16
plan $((2 * (${#table[@]} + more) + 4))
before=$(status_of km)
for line in "${table[@]}"; do
	IFS='|' read -r err why words <<<"$line"
	# shellcheck disable=SC2086
	refused km "$err" "$why" $words
done
is "$(status_of km)" "$before" "what is refused changes nothing"

# with a described active layer
q="record 9 0x8000000000000000 0x8000000000000001 0x1"
msg km "layer 1 unit 128 $q"
msg km "layer 1 unit 128 $q"
ok $? "the same description again is no error"
msg km "layer 3 unit 8 raw"
refused km "$busy" "layer 1 has been described differently" "layer 1 unit 64 $q"
refused km "$busy" "layer 1 has been described differently" "layer 1 unit 128 raw"
refused km "$inval" "layer 3 is raw: its blocks lie at their own sectors" "map 1 0 512:d:3:8"
refused km "$inval" "is not <first unit>\+<units>@<sector>" "home 1 0"
refused km "$inval" "its first unit is not a multiple of 512" "home 1 8+86@64"
refused km "$inval" "there are not so many units" "home 1 0+512@64"
refused km "$inval" "the number of units is not a multiple of 512" "home 1 0+64@64"
refused km "$inval" "the sector is not a multiple of 8" "home 1 0+94@63"
refused km "$inval" "lies beyond the device's end" "home 1 0+94@32768"
msg km "home 1 0+94@64"
msg km "home 1 0+94@64"
ok $? "the same home again is no error"
refused km "File exists" "a home of these units is known, elsewhere" "home 1 0+94@72"
refused km "$inval" "x is not the number of a grant" "grant 1 x 128+128"
refused km "$inval" "128\+64 does not consist of whole units" "grant 1 1 128+64"
refused km "$inval" "64\+128 does not consist of whole units" "grant 1 1 64+128"
refused km "$inval" "32768\+128 ends beyond the device's end" "grant 1 1 32768+128"
refused km "$inval" "done or nothing behind the layer, not now" "reclaim 1 now"
msg km "map 1 0 1500:z:2" >/dev/null
refused km "$busy" "layer 2 holds 1500 blocks of the view itself" "copy a 2 none"
like "$(msg km requests)" "^pool 1 0 8192 0$" "requests says that the pool is low"
