#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The constructor says what is wrong with a table, and a table is printed as it was given.
# timeout: 120
. "$(dirname "$0")/../lib-kernel.sh"
plan 42
kernel_setup 2 16
a=${RAM[0]} b=${RAM[1]}
none="no view is left behind"

no_table kc "The view's name is missing" 0 2048 livechain
no_table kc "The view's name must have 1 to 63 characters" 0 2048 livechain "$(printf 'n%.0s' {1..64})" 8 0 1 0 "$a" 0
no_table kc "The view's name has a character" 0 2048 livechain a/b 8 0 1 0 "$a" 0
for block in "" 0 4 7 12 8192 x -8 4294967304; do
	no_table kc "The block size must be a power of two from 8 to 4096 sectors" 0 2048 livechain kc "$block" 0 1 0 "$a" 0
done
no_table kc "The active layer must be - or an id from 0 to 1022" 0 2048 livechain kc 8
no_table kc "The active layer must be - or an id from 0 to 1022" 0 2048 livechain kc 8 1023 1 0 "$a" 0
no_table kc "The active layer must be - or an id from 0 to 1022" 0 2048 livechain kc 8 -1 1 0 "$a" 0
no_table kc "The number of layers must be 1 to 256" 0 2048 livechain kc 8 0
no_table kc "The number of layers must be 1 to 256" 0 2048 livechain kc 8 0 0
no_table kc "The number of layers must be 1 to 256" 0 2048 livechain kc 8 0 257 0 "$a" 0
no_table kc "There are fewer layers than their number says" 0 2048 livechain kc 8 0 1 0 "$a"
no_table kc "There are fewer layers than their number says" 0 2048 livechain kc 8 0 2 0 "$a" 0
no_table kc "A layer's id must be 0 to 1022" 0 2048 livechain kc 8 0 1 1023 "$a" 0
no_table kc "A layer's start must be a number of sectors" 0 2048 livechain kc 8 0 1 0 "$a" x
no_table kc "A layer's start lies beyond the end of its device" 0 2048 livechain kc 8 0 1 0 "$a" 32769
no_table kc "A layer's id is there twice" 0 2048 livechain kc 8 0 2 0 "$a" 0 0 "$b" 0
no_table kc "Cannot open a layer's device" 0 2048 livechain kc 8 0 1 0 /dev/nothing 0
no_table kc "The active layer is not among the layers" 0 2048 livechain kc 8 3 1 0 "$a" 0
no_table kc "The number of feature arguments must be a number" 0 2048 livechain kc 8 0 1 0 "$a" 0 x
no_table kc "This version has no features" 0 2048 livechain kc 8 0 1 0 "$a" 0 1 fast
no_table kc "There are arguments behind the last one" 0 2048 livechain kc 8 0 1 0 "$a" 0 0 more
log_mark
printf '0 8 zero\n8 2048 livechain kc 8 0 1 0 %s 0\n' "$a" | dmsetup create kc 2>/dev/null
ok $((! $?)) "is the only target of its table"

# a second table of a view
dm_create kc1 "0 2048 livechain kview 8 0 1 0 $a 0"
no_table kc2 "The view exists and has another length" 0 4096 livechain kview 8 0 1 0 "$a" 0
no_table kc2 "The view exists and has another block size" 0 2048 livechain kview 16 0 1 0 "$a" 0
no_table kc2 "The view has a layer of that id on another device" 0 2048 livechain kview 8 0 1 0 "$b" 0
no_table kc2 "The view has a layer of that id on another device or at another start" 0 2048 livechain kview 8 0 1 0 "$a" 8
no_table kc2 "Another layer is active in the view" 0 2048 livechain kview 8 1 2 0 "$a" 0 1 "$b" 0
no_table kc2 "The table lacks the active layer|Another layer is active" 0 2048 livechain kview 8 - 1 1 "$b" 0

# a read-only active layer
blockdev --setro "$b"
no_table kc2 "The active layer's device is read-only" 0 2048 livechain kc2 8 0 1 0 "$b" 0
blockdev --setrw "$b"

# what was refused has left nothing: other sizes are possible now
check "$none" dmsetup create kc2 --table "0 4096 livechain kc 128 - 1 0 $a 0"
dmsetup remove kc2

# what is printed is accepted, and printed again
for table in "kr 128 0 1 0 $a 0" "kr.:+-_A9 8 - 2 5 $a 8 1022 $b 16" "kr 4096 7 2 7 $a 0 3 $b 0"; do
	dmsetup create kr --table "0 2056 livechain $table"
	line=$(dmsetup table kr)
	dmsetup remove kr
	dmsetup create kr --table "$line"
	is "$(dmsetup table kr)" "$line" "round trip of $line"
	dmsetup remove kr
done
dmsetup create kr --table "0 2048 livechain kr 8 0 1 0 $a 0 0"
like "$(dmsetup table kr)" "livechain kr 8 0 1 0 1:0 0$" "no feature arguments need not be said"
dmsetup remove kr
