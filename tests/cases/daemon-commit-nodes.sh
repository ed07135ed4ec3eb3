#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# block-commit among nodes that a client has named and keeps: what was committed is not below anything any more, and
# what another node reads is not changed.
# kernels: 6.1 debug
# timeout: 200
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq
plan 24
place 200
load_module
start_daemon
ok $? "the daemon starts"

image() { # NAME SIZE [BACKING]
	qemu-img create -q -f qcow2 ${3:+-b "$IMG/$3" -F qcow2} "$IMG/$1" "$2"
}
node() { # NAME [BACKING-NODE]
	qdo blockdev-add "'node-name': '$1', 'driver': 'qcow2', 'file': {'driver': 'file', 'filename': '$IMG/$1'}${2:+, 'backing': '$2'}"
}
below() { qdo query-named-block-nodes | jq -r ".[] | select(.\"node-name\" == \"$1\") | .image.\"backing-image\".filename // \"nothing\""; }
commit() {
	forget_events
	qdo block-commit "'device': 'd', 'job-id': 'j', $1"
}

image a 4M && image b 4M a && image c 4M b && image d 4M c && image sibling 4M a && image cousin 4M sibling
for i in a b c d; do
	qemu-io -f qcow2 -c "write -q -P $((16#$i)) 64k 1M" -c "write -q -P $((16#$i)) $((16#$i % 4))M 200k" "$IMG/$i" >/dev/null
done
raw_of "$IMG/d" "$IMG/model"
check "nodes" eval 'node a && node b a && node c b && node d c && node sibling a && node cousin sibling'
check "a disk" attach d vm1
load /dev/mapper/vm1 "$IMG/model" "$SEED" --threads 2
ok $? "under load"

refuses "a commit would change what another node reads" \
	"Node 'a' is busy: it is below node 'sibling', too, which would change: blockdev-del 'cousin' first" \
	block-commit "'device': 'd', 'top-node': 'b', 'base-node': 'a'"
refuses "so would one of the active image" "it is below node 'sibling'" \
	block-commit "'device': 'd', 'base-node': 'a'"
check "into another one it is no matter" commit "'top-node': 'c', 'base-node': 'b'"
check "which is done" wait_job j null 60
is "$(below d) $(below c)" "$IMG/b nothing" "what was committed is above nothing"
kill9_daemon
restart_daemon
ok $? "the daemon dies, and another comes"
check "without what is above the other" del cousin
refuses "and without that" "which would change: blockdev-del 'sibling' first" \
	block-commit "'device': 'd', 'top-node': 'b', 'base-node': 'a'"
check "node" del sibling
check "b is committed" commit "'top-node': 'b', 'base-node': 'a'"
check "and done" wait_job j null 60
is "$(below d) $(below b) $(below c)" "$IMG/a nothing nothing" "nor is b"
check "then the active image" commit "'base-node': 'a'"
wait_event BLOCK_JOB_READY 60 && qdo job-complete "'id': 'j'" >/dev/null && wait_job j null 60
ok $? "it is done"
qemu-img create -q -f qcow2 "$IMG/t" 4M
forget_events
check "the base is a disk as any other: a mirror of it" eval "node t && qdo blockdev-mirror \"'device': 'a', 'target': 't', 'sync': 'full', 'job-id': 'j'\""
wait_event BLOCK_JOB_READY 60 && qdo job-complete "'id': 'j'" >/dev/null && wait_job j null 60
ok $? "ends"
end_load
ok $? "all that the guest read was right"
check "it ends" eval 'detach vm1 && del t && del a && del b && del c && del d'
is "$(qdo query-named-block-nodes)" "[]" "no node is left"
check "the last image holds the disk" qemu-img compare -q -f qcow2 -F raw "$IMG/t" "$IMG/model"
