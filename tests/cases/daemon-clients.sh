#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Many clients at once, floods and garbage: each is answered or shut out, the disk runs on.
# All kinds of clients, and more of each, without a disk: tests/clients.py --native, in make check.
# kernels: 6.1 debug
# timeout: 2400
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img
plan 9
place 300
load_module

qemu-img create -q -f qcow2 "$IMG/a" 96M
raw_of "$IMG/a" "$T/model"
start_daemon
{ add a "$IMG/a" && attach a vm1; } >/dev/null
ok $? "a disk is attached"
load /dev/mapper/vm1 "$T/model" "$SEED"
for what in many garbage flood deaf halves abandon; do
	out=$(PYTHONDONTWRITEBYTECODE=1 timeout 800 python3 -S "$TOP/tests/clients.py" "$QMP_SOCK" $what --seed "$SEED" 2>&1)
	ok $? "$what: $(tail -n 1 <<<"$out")"
	diag "$out"
done
end_load && like "$(qdo query-block-exports)" '"vm1"' "the disk was served all the while, the daemon is well"
stall=$(sed -n 's/^# longest operation: \([0-9]*\) ms$/\1/p' "$T/load")
[ "${stall:-99999}" -lt 30000 ]
ok $? "no operation of the guest took long: $stall ms at most"
detach vm1 >/dev/null
stop_daemon
