#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Random writes, discards, flushes, snapshots and backups on a running disk, against a model.
#
# LIVECHAIN_SECONDS=N: how long; LIVECHAIN_SEED=N: the same choices again:
#	LIVECHAIN_SEED=N LIVECHAIN_SECONDS=120 tests/run -v daemon-random
# timeout: 1800
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img
plan 8
place 1500
load_module
seconds=${LIVECHAIN_SECONDS:-120}

# A chain of three with random clusters, the lowest raw or qcow2, with content.
size=$((24 + RANDOM % 40))M
dd if=/dev/urandom of="$T/seed" bs=1M count=8 status=none
base=$((RANDOM % 2))
if [ $base = 0 ]; then
	qemu-img create -q -f raw "$IMG/i0" "$size"
	dd if="$T/seed" of="$IMG/i0" bs=64k seek=$((RANDOM % 200)) conv=notrunc status=none
	fmt=raw
else
	qemu-img create -q -f qcow2 -o cluster_size=$((4096 << RANDOM % 10)) "$IMG/i0" "$size"
	fmt=qcow2
fi
for i in 1 2; do
	qemu-img create -q -f qcow2 -o cluster_size=$((4096 << RANDOM % 10)) \
		-b "$IMG/i$((i - 1))" -F $fmt "$IMG/i$i" "$size"
	qemu-io -f qcow2 -c "write -q -s $T/seed $((RANDOM % 200))k 3M" -c "write -q -z $((RANDOM % 90 * 64))k 1M" \
		"$IMG/i$i" >/dev/null
	fmt=qcow2
done
diag "chain: $(for i in 0 1 2; do qemu-img info "$IMG/i$i" | sed -n 's/^\(file format\|cluster_size\): //p'; done | tr '\n' ' ')of $size"
raw_of "$IMG/i2" "$T/model"

start_daemon
ok $? "the daemon starts"
check "the chain is added" add n0 "$IMG/i2"
check "and attached" attach n0 vm1
out=$(oracle random "$IMG" "$QMP_SOCK" vm1 "$T/model" --seconds "$seconds" --seed "$SEED" 2>&1); st=$?
ok $st "all reads, snapshots and backups are right (LIVECHAIN_SEED=$SEED LIVECHAIN_SECONDS=$seconds)"
diag "$out"
check "detach" detach vm1
top=$(find "$IMG" -name 's*' -printf '%f\n' | sort -V | tail -n 1)
stop_daemon
ok $? "the daemon ends"
# shellcheck disable=SC2046 # one word for each file is meant
check "all images are clean" clean $(find "$IMG" -maxdepth 1 -type f ! -name 'i0' ! -name 'b*')
check "QEMU reads what was written (top: ${top:-i2})" qemu-img compare -f qcow2 -F raw "$IMG/${top:-i2}" "$T/model"
