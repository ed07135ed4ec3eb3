#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A file system on the disk, exercised at random (tests/fsx.c, stress-ng), during snapshots, backups, streams, commits,
# mirrors and deaths of the daemon: every byte read is right, it ends whole, and so is each backup.
#
# LIVECHAIN_SECONDS=N: how long (30); LIVECHAIN_SEED=N: the same choices again.
# kernels: 6.1 debug
# timeout: 600
# mem: 3072
# races: processors that run at once
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img stress-ng e2fsck fsfreeze
plan 16
seconds=${LIVECHAIN_SECONDS:-30}
size=64
place 1500
load_module
fsx=$BUILD/tests/fsx
[ -x "$fsx" ] || bail "$fsx is not built: make tools"

qemu-img create -q -f raw "$IMG/i0" ${size}M
qemu-img create -q -f qcow2 -o cluster_size=$((4096 << RANDOM % 10)) -b i0 -F raw "$IMG/i1"
start_daemon
{ add i1 "$IMG/i1" && attach i1 vm1; } >/dev/null
ok $? "a disk is attached"
dev=/dev/mapper/vm1 mnt=$T/fs
mkfs.ext4 -q -F -b $((1024 << RANDOM % 3)) "$dev" && mkdir "$mnt" &&
	mount -t ext4 -o "$([ $((RANDOM % 2)) = 0 ] && echo discard || echo nodiscard)" "$dev" "$mnt"
ok $? "a file system on it is mounted: $(grep " $mnt " /proc/mounts)"
cleanup_fn umount -q "$mnt"
cleanup_fn eval "fsfreeze -u $mnt 2>/dev/null"

# --- the load -----------------------------------------------------------------------------
for i in 1 2; do
	nice -n 19 "$fsx" -s $((SEED + i)) -l $((i * 2 << 20)) -p 2000 -u "$T/stop" "$mnt/fsx$i" >"$T/fsx$i" 2>&1 &
	pids[i]=$!
done
mkdir "$mnt/ng"
# In rounds, each of which ends with an empty folder.
ng() {
	local rounds=0
	while ! [ -e "$T/stop" ]; do
		nice -n 19 stress-ng --temp-path "$mnt/ng" --seed $((SEED + rounds)) --timeout 6 --verify --fallocate 1 --fallocate-bytes 4M \
			--iomix 1 --iomix-bytes 4M --hdd 1 --hdd-bytes 4M --hdd-opts wr-rnd,fsync --dentry 1 --dentries 100 \
			--rename 1 --fpunch 1 --link 1 --seek 1 --seek-size 1M >"$T/ng" 2>&1 || return
		rounds=$((rounds + 1))
	done
	echo "# $rounds rounds"
}
ng >"$T/rounds" & pids[3]=$!

# --- operations ------------------------------------------------------------------------------
nr=0 backups=0 frozen=0 snapshots=0 jobs=0 mirrors=0 kills=0 wrong=

# backup_now ID [COMMAND...]: as soon as it has begun COMMAND is run; its image is clean then.
backup_now() {
	local id=$1 speed=$((RANDOM % 4 * (512 << 10)))
	shift
	qemu-img create -q -f qcow2 -o cluster_size=$((4096 << RANDOM % 10)) "$IMG/$id" ${size}M
	{ add "$id" "$IMG/$id" && qdo blockdev-backup "'device': 'vm1', 'target': '$id', 'sync': 'full', 'job-id': '$id', 'auto-dismiss': false, 'speed': $speed"; } >/dev/null ||
		{ "$@"; return 1; }
	"$@"
	[ $((RANDOM % 3)) != 0 ] || { kills=$((kills + 1)); kill9_daemon; restart_daemon; } || return
	# Slow at first: what the load changes then has to be copied before.
	[ $speed = 0 ] || { sleep 3; qdo block-job-set-speed "'device': '$id', 'speed': 0" >/dev/null 2>&1; }
	wait_for "qdo query-jobs | grep -q '\"status\": \"concluded\"'" 100 || return
	! qdo query-jobs | grep '"error"' || return
	{ qdo job-dismiss "'id': '$id'" && del "$id"; } >/dev/null && clean "$IMG/$id"
}

# Of a mounted file system at any moment: as after a power cut, its journal makes it whole.
op_backup() {
	nr=$((nr + 1)) backups=$((backups + 1))
	backup_now "b$nr" : && raw_of "$IMG/b$nr" "$T/raw" && whole "$T/raw" && rm "$IMG/b$nr" "$T/raw"
}

# Frozen: each byte is known, but for what is discarded late.
op_frozen() {
	nr=$((nr + 1)) frozen=$((frozen + 1))
	echo "mark $nr" >"$mnt/mark$nr"
	fsfreeze -f "$mnt" || return
	disk_now "$T/before"
	backup_now "b$nr" thaw || return
	raw_of "$IMG/b$nr" "$T/raw"
	out=$(python3 -S "$TOP/tests/frozen.py" "$T/before" "$T/after" "$T/raw" 2>&1) ||
		{ diag "the backup b$nr: $out"; return 1; }
	[ "$out" = "0 sectors discarded meanwhile" ] || diag "b$nr: $out"
	whole "$T/raw" "mark$nr" && rm "$IMG/b$nr" "$T/raw" "$T/before" "$T/after"
}
disk_now() { dd if="$dev" of="$1" bs=1M iflag=direct status=none; }
thaw() { disk_now "$T/after"; fsfreeze -u "$mnt"; }

# whole RAW [FILE]: it can be mounted (which removes files that were open and deleted), FILE is
# there, and then e2fsck has nothing to say.
whole() {
	local st=0
	mkdir -p "$T/copy"
	mount -t ext4 -o loop "$1" "$T/copy" || return
	[ -z "${2:-}" ] || [ "$(cat "$T/copy/$2")" = "mark $nr" ] || { diag "no $2 in the backup"; st=1; }
	umount "$T/copy" || return
	e2fsck -fn "$1" >"$T/fsck" 2>&1 || { diag "$(cat "$T/fsck")"; st=1; }
	return $st
}

op_snapshot() {
	[ $snapshots -lt 12 ] || return 0
	nr=$((nr + 1)) snapshots=$((snapshots + 1))
	qdo blockdev-snapshot-sync "'device': 'vm1', 'snapshot-file': '$IMG/s$nr', 'snapshot-node-name': 's$nr'" >/dev/null
}

# --- jobs that change the chain; one that is lost with a daemon that died may have changed it already

own=i1 # our nodes, newest first, called as their files are

# The files of the disk's images, top first.
chain() { qdo query-block | jq -r '.[0].inserted.image | recurse(."backing-image" // empty) | .filename'; }

# Whether the job has concluded; who is ready is told to complete.
job_over() {
	case $(qdo query-jobs | jq -r ".[] | select(.id == \"$1\").status") in
	ready) qdo job-complete "'id': '$1'" >/dev/null 2>&1; return 1;;
	concluded) return 0;;
	*) return 1;;
	esac
}

# A node of an image that has left the chain keeps what is below it from commits.
drop_left() {
	local n left='' files
	files=$(chain)
	for n in $own; do
		case $files$'\n' in
		*"/$n"$'\n'*) left="$left $n";;
		*) del "$n" >/dev/null || return;;
		esac
	done
	own=$left
}

# chain_job WANTED VERB ARGUMENTS: to its end; @WANTED is the chain then. Now and then the daemon dies meanwhile.
chain_job() {
	local want=$1 before now error deaths=$kills
	nr=$((nr + 1)) jobs=$((jobs + 1))
	before=$(chain)
	qdo "$2" "'device': 'vm1', 'job-id': 'j$nr', 'auto-dismiss': false, $3" >/dev/null || return
	[ $((RANDOM % 3)) != 0 ] || op_kill || return
	wait_for "job_over j$nr" 200 || return
	error=$(qdo query-jobs | jq -r ".[] | select(.id == \"j$nr\").error // empty") now=$(chain)
	case $error in
	"") ;;
	*"lost the job"* | *"the daemon ended while it"*)
		[ "$kills" -gt "$deaths" ] || { diag "$2, but no daemon died: $error"; return 1; }
		[ "$now" != "$before" ] || want=$before;;
	*) diag "$2: $error"; return 1;;
	esac
	[ "$now" = "$want" ] || { diag "after $2 the chain is ${now//$'\n'/ }"; return 1; }
	qdo job-dismiss "'id': 'j$nr'" >/dev/null && drop_left
}

op_stream() {
	local files
	mapfile -t files < <(chain)
	[ ${#files[@]} -gt 1 ] || return 0
	chain_job "${files[0]}" block-stream "'on-error': 'report'"
}

# The image below the active one goes into the next.
op_commit() {
	local files
	mapfile -t files < <(chain)
	[ ${#files[@]} -gt 2 ] || return 0
	chain_job "$(printf '%s\n' "${files[0]}" "${files[@]:2}")" block-commit "'top': '${files[1]}', 'base': '${files[2]}'"
}

# The active image goes into the one below, unless that is raw: it would be the top.
op_commit_active() {
	local files
	mapfile -t files < <(chain)
	[ ${#files[@]} -gt 2 ] || return 0
	chain_job "$(printf '%s\n' "${files[@]:1}")" block-commit "'base': '${files[1]}'"
}

op_mirror() {
	local m=m$((nr + 1))
	[ $mirrors -lt 4 ] || return 0
	mirrors=$((mirrors + 1)) own="$m $own"
	qemu-img create -q -f qcow2 -o cluster_size=$((4096 << RANDOM % 10)) "$IMG/$m" ${size}M
	add "$m" "$IMG/$m" >/dev/null && chain_job "$IMG/$m" blockdev-mirror "'target': '$m', 'sync': 'full'"
}

op_trim() { fstrim "$mnt"; }

op_kill() {
	kills=$((kills + 1))
	kill9_daemon
	sleep "0.$((RANDOM % 10))"
	restart_daemon
}

OPS=(op_backup op_frozen op_frozen op_snapshot op_snapshot op_trim op_kill op_stream op_commit op_commit_active op_mirror)
end=$((SECONDS + seconds))
# Each at least once; for each commit there is something to commit.
todo=(op_backup op_snapshot op_frozen op_snapshot op_commit op_trim op_commit_active op_mirror op_kill op_snapshot op_stream)
while [ $SECONDS -lt $end ] || [ ${#todo[@]} -gt 0 ]; do
	if [ ${#todo[@]} -gt 0 ]; then op=${todo[0]}; todo=("${todo[@]:1}"); else op=${OPS[RANDOM % ${#OPS[@]}]}; fi
	"$op" || { wrong="$op ($nr)"; break; }
	sleep "0.$((RANDOM % 10))"
done
is "$wrong" "" "operations: $snapshots snapshots, $backups backups, $frozen of a frozen disk, $jobs jobs on the chain, $kills deaths (LIVECHAIN_SEED=$SEED)"
kill -0 "${pids[1]}" && kill -0 "${pids[2]}" && kill -0 "${pids[3]}"
ok $? "the load ran all the while"

# --- the end ---------------------------------------------------------------------------------------
touch "$T/stop"
for i in 1 2; do
	wait "${pids[i]}"
	ok $? "fsx $i: every byte was right"
	diag "$(cat "$T/fsx$i")"
done
wait "${pids[3]}"; st=$?
ok $st "stress-ng has nothing to say ($(cat "$T/rounds"))"
[ $st = 0 ] || diag "$(cat "$T/ng")"
(cd "$mnt" && sha256sum fsx1 fsx2) >"$T/sums"
umount "$mnt"
ok $? "unmounted"
check "the file system is whole" e2fsck -fn "$dev"
mount -t ext4 -o ro "$dev" "$mnt" && (cd "$mnt" && sha256sum --quiet -c "$T/sums")
ok $? "files read from the device are those that were written"
umount "$mnt"
top=$(qdo query-block | jq -r '.[0].inserted.file')
disk_now "$T/disk"
check "detach" detach vm1
stop_daemon
ok $? "quit"
# shellcheck disable=SC2046 # one word for each file is meant
check "all images are clean" clean $(find "$IMG" -maxdepth 1 -type f ! -name 'i0')
check "QEMU reads what the disk held" qemu-img compare -q -f qcow2 -F raw "$top" "$T/disk"
raw_of "$top" "$T/raw" && check "its file system is whole" e2fsck -fn "$T/raw"
is "$(find "$STATE_DIR/grants" -type f 2>/dev/null)" "" "no journal is left"
