#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Many clients at once, floods and garbage: each is answered or shut out, the disk runs on.
# kernels: 6.1 debug
# timeout: 1200
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img
plan 9
place 200
load_module

qemu-img create -q -f qcow2 "$IMG/a" 16M
raw_of "$IMG/a" "$T/model"
start_daemon
{ add a "$IMG/a" && attach a vm1; } >/dev/null
ok $? "a disk is attached"
load /dev/mapper/vm1 "$T/model" "$SEED"
for what in many garbage flood unread slow halves abandon; do
	out=$(PYTHONDONTWRITEBYTECODE=1 timeout 100 python3 -S "$TOP/tests/clients.py" "$QMP_SOCK" $what --seed "$SEED" 2>&1)
	ok $? "$what: $(tail -n 1 <<<"$out")"
	diag "$out"
done
end_load && like "$(qdo query-block-exports)" '"vm1"' "the disk was served all the while, the daemon is well"
detach vm1 >/dev/null
stop_daemon
