#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The daemon is killed at random moments under load, with jobs and snapshots: nobody notices.
# timeout: 1200
# mem: 3072
# races: processors that run at once
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img
rounds=${LIVECHAIN_ROUNDS:-6}
plan $((rounds + 13))
place 1000
load_module

qemu-img create -q -f qcow2 "$IMG/a" 48M
qemu-io -f qcow2 -c 'write -q -P 7 0 20M' "$IMG/a" >/dev/null
qemu-img create -q -f qcow2 -b a -F qcow2 "$IMG/b" 48M
raw_of "$IMG/b" "$T/model"
start_daemon
{ add b "$IMG/b" && attach b vm1; } >/dev/null
ok $? "a disk is attached"

load /dev/mapper/vm1 "$T/model" "$SEED" # over all kills

# What a client sees of the disk, without what changes by itself.
view() { qdo query-block-exports; qdo query-named-block-nodes "'flat': true" | sed -E 's/"(actual|virtual)-size": [0-9]+, ?//g'; }

# round N: something is begun (nothing, a snapshot, a backup), then the daemon dies at some moment of it.
began='' nr=0
round() {
	local what=$((RANDOM % 3)) pid
	nr=$((nr + 1)) began=
	case $what in
	1)	began="snapshot s$nr"
		qmp "{'execute': 'blockdev-snapshot-sync', 'arguments': {'device': 'vm1', 'snapshot-file': '$IMG/s$nr', 'snapshot-node-name': 's$nr'}}" >/dev/null & pid=$!;;
	2)	began="backup b$nr"
		qemu-img create -q -f qcow2 "$IMG/b$nr" 48M
		add "t$nr" "$IMG/b$nr" >/dev/null
		qdo blockdev-backup "'device': 'vm1', 'target': 't$nr', 'sync': 'full', 'job-id': 'b$nr', 'auto-dismiss': false" >/dev/null & pid=$!;;
	*)	pid=;;
	esac
	sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
	kill9_daemon
	[ -z "$pid" ] || wait "$pid"
	restart_daemon || bail "the daemon does not start after ${began:-nothing}"
}

for ((i = 1; i <= rounds; i++)); do
	round; st=$?
	kill -0 "$LOAD" 2>/dev/null || st=1
	grep -q '"device": "vm1"' <<<"$(qdo query-block)" || st=1
	# A job that was started ends, and ends well.
	if [[ $began == backup* ]] && grep -q "\"id\": \"b$nr\"" <<<"$(qdo query-jobs)"; then
		wait_for "qdo query-jobs | grep -q '\"status\": \"concluded\"'" 100 || st=1
		jobs=$(qdo query-jobs)
		grep -q '"error"' <<<"$jobs" && ! grep -q 'lost the job' <<<"$jobs" && st=1
		grep -q '"error"' <<<"$jobs" && diag "$jobs"
		qdo job-dismiss "'id': 'b$nr'" >/dev/null || st=1
	fi
	[[ $began != backup* ]] || del "t$nr" >/dev/null || { diag "target: $(del "t$nr")"; st=1; }
	is "$(dmsetup ls | cut -f1 | tr '\n' ' ')" "vm1 " "round $i (${began:-idle}): the daemon is back with what it had"
	[ $st = 0 ] || { fail "round $i: something is wrong"; break; }
done

# Quiet kills: everything that a client can ask is the same before and after.
before=$(view)
kill9_daemon
restart_daemon
ok $? "it starts once more"
is "$(view)" "$before" "nodes and exports are the same as before"

# A backup over a kill is the disk of the moment at which it started.
qemu-img create -q -f qcow2 "$IMG/point" 48M
end_load
ok $? "all the while every read was right (seed $SEED)"
cp "$T/model" "$T/frozen"
add p "$IMG/point" >/dev/null
check "a slow backup starts" qdo blockdev-backup \
	"'device': 'vm1', 'target': 'p', 'sync': 'full', 'job-id': 'p', 'speed': 65536, 'auto-dismiss': false"
# What the guest writes to is copied before that: not all of the disk, or the job may be over.
load /dev/mapper/vm1 "$T/model" "$((SEED + 1))" --within 16
kill9_daemon
restart_daemon
like "$(qdo query-jobs)" '"status": "running".*"id": "p"' "the job runs on after the daemon was killed"
check "it takes commands again" qdo block-job-set-speed "'device': 'p', 'speed': 0"
end_load
ok $? "the load of that time was right"
wait_for "qdo query-jobs | grep -q concluded" 100
{ qdo job-dismiss "'id': 'p'" && del p; } >/dev/null
ok $? "it ends"
check "the backup is the disk of its start" qemu-img compare -f qcow2 -F raw "$IMG/point" "$T/frozen"

top=$(qdo query-block | jq -r '.[0].inserted.file')
check "detach" detach vm1
stop_daemon
# shellcheck disable=SC2046 # one word for each file is meant
check "all images are clean" clean $(find "$IMG" -maxdepth 1 -type f ! -name 'b?*')
check "QEMU reads what was written ($(basename "$top"))" qemu-img compare -f qcow2 -F raw "$top" "$T/model"
