#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The module loads by itself, offers its target, and unloads, again and again.
. "${0%/*}/../lib.sh"
plan 7

require_module dm-mod
load_module
check "the module is loaded" test -d /sys/module/dm_livechain
like "$(dmsetup targets)" 'livechain +v[0-9]+\.[0-9]+\.[0-9]+' "its target is registered with a version"
is "$(</sys/module/dm_livechain/refcnt)" 0 "nothing uses it yet"
check "it unloads" unload_module
[[ $(dmsetup targets) != *livechain* ]]
ok $? "its target is gone"
for _ in 1 2 3; do
	insmod "$BUILD/$KVER/dm-livechain.ko" && rmmod dm_livechain || break
done
ok $? "three more rounds"
[ ! -d /sys/module/dm_livechain ]
ok $? "nothing stays"
