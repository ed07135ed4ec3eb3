#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Power is cut while a guest writes, a snapshot is taken and a backup runs: every image
# opens with no error, nothing that was flushed is lost, no block shows another's data.
# timeout: 420
# mem: 3072
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img mkfs.ext4
POINTS=${LIVECHAIN_POINTS:-24} SECONDS_OF_WORK=${LIVECHAIN_SECONDS:-10}
MIB=16
plan 9
mkram 4 320
require_module dm-log-writes
require_module dm-snapshot
modprobe -q ext4
modprobe -q loop
load_module
powercut() { PYTHONDONTWRITEBYTECODE=1 python3 -S "$TOP/tests/powercut.py" "$@"; }
mark() { dmsetup message log 0 mark "$1"; }

# RAM[0] holds the images, RAM[1] the log, RAM[2] is replayed to, RAM[3] takes what a check writes.
size=$((160 * 2048))
dm_create log "0 $size log-writes ${RAM[0]} ${RAM[1]}"
IMG=$T/img
mkfs_mount /dev/mapper/log "$IMG"
powercut base "$T/base" $((MIB * 256))
qemu-img convert -O qcow2 "$T/base" "$IMG/a.qcow2"
qemu-img create -q -f qcow2 -o cluster_size="${CLUSTER:-64k}" -b a.qcow2 -F qcow2 "$IMG/b.qcow2"
sync
start_daemon
ok $? "the daemon starts"
{ add b "$IMG/b.qcow2" && attach b vm1; } >/dev/null
ok $? "the disk is attached"
sync
mark start
powercut work /dev/mapper/vm1 log "$SEED" "$SECONDS_OF_WORK" "$T/model" >"$T/work.out" 2>&1 &
worker=$!
wait_for "[ -e '$T/model' ]" 30
mark snapshot-start
check "a snapshot" qdo blockdev-snapshot-sync \
	"'device': 'vm1', 'snapshot-file': '$IMG/c.qcow2', 'snapshot-node-name': 'c'"
mark snapshot-done
qemu-img create -q -f qcow2 "$IMG/bak.qcow2" ${MIB}M
add t "$IMG/bak.qcow2" >/dev/null
check "a backup starts" qdo blockdev-backup "'device': 'vm1', 'target': 't', 'sync': 'full', 'job-id': 'j'"
wait_job j null 60
ok $? "the backup ends"
mark backup-done
wait "$worker"
ok $? "the guest's work: $(cat "$T/work.out")"
detach vm1 >/dev/null
stop_daemon
ok $? "clean end"
umount "$IMG" # the cuts are looked at here: overlays name their backing files by full path
dmsetup remove log

# One point: what is there after the cut, looked at on a snapshot of the replayed device.
cat >"$T/point" <<POINT
#!/bin/bash
mark=\$1 step=\$2 st=0
fail() { echo "mark \$mark, after '\$step': \$*"; st=1; }
dd if=/dev/zero of=${RAM[3]} bs=64k count=1 conv=notrunc status=none
dmsetup create cut --table "0 $size snapshot ${RAM[2]} ${RAM[3]} P 8" || exit 2

mount -t ext4 /dev/mapper/cut $IMG || { dmsetup remove cut; exit 3; }
cd $IMG
for f in *.qcow2; do
	case \$step,\$f in
	*,a.qcow2) continue ;; # nobody writes it
	snapshot-start,c.qcow2 | snapshot-done,bak.qcow2) continue ;; # may be half made
	esac
	out=\$(qemu-img check "\$f" 2>&1)
	case \$? in 0 | 3) ;; *) fail "\$f: \$out" ;; esac
done
top=b.qcow2
case \$step in
snapshot-done | backup-done) top=c.qcow2 ;;
snapshot-start) qemu-img check c.qcow2 >/dev/null 2>&1 && top=c.qcow2 ;;
esac
qemu-img convert -O raw \$top $T/now.raw 2>&1 || fail "\$top does not open"
python3 -S $TOP/tests/powercut.py verify $T/now.raw $T/model \$mark || fail "\$top: content"
cd /
umount $IMG
dmsetup remove cut
exit \$st
POINT
chmod +x "$T/point"
dd if=/dev/zero of="${RAM[2]}" bs=1M count=$((size / 2048)) status=none
powercut replay "${RAM[1]}" "${RAM[2]}" "$POINTS" "$SEED" "$T/point" >"$T/replay.out" 2>&1
st=$?
diag "$(tail -n 30 "$T/replay.out")"
ok $st "after each of the cuts all is well (seed $SEED)"
fails "and the check would see lost writes" "flushed is" powercut verify "$T/base" "$T/model" 2
