#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# blockdev-create as a job, an overlay made by it, change-backing-file.
# kernels: 6.1 debug
. "$(dirname "$0")/../lib-daemon.sh"
require qemu-img qemu-io jq chattr
plan 51
place 200
load_module

start_daemon
create() { qdo blockdev-create "'job-id': '${2:-c}', 'options': {$1}"; }
dismiss() { qdo job-dismiss "'id': 'c'" >/dev/null; }
error() { qdo query-jobs | jq -r '.[0].error'; }
# cant TEXT SENTENCE OPTIONS: the job fails with it
cant() {
	create "$3" >/dev/null
	is "$(qdo query-jobs | jq -r '.[] | .status + ": " + .error')" "concluded: $2" "$1"
	dismiss
}
check "a file" create "'driver': 'file', 'filename': '$IMG/f', 'size': 0"
is "$(job_events c)" "created running waiting pending concluded" "its events are QEMU's"
is "$(qdo query-jobs)" '[{"current-progress": 1, "status": "concluded", "total-progress": 1, "type": "create", "id": "c"}]' "query-jobs has it"
is "$(qdo query-block-jobs)" "[]" "query-block-jobs has not"
refuses "its id is taken" "Job ID 'c' already in use" blockdev-create "'job-id': 'c', 'options': {'driver': 'file', 'filename': '$IMG/g', 'size': 0}"
refuses "it is no block job" "Block job 'c' not found" block-job-dismiss "'id': 'c'" DeviceNotActive
check "it is dismissed" dismiss
qdo blockdev-add "'driver': 'file', 'node-name': 'f', 'filename': '$IMG/f'" >/dev/null

Q="'driver': 'qcow2', 'file': 'f', 'size': 16777216"
cant "an odd size" "Image size must be a multiple of 512 bytes" "'driver': 'qcow2', 'file': 'f', 'size': 1000"
cant "an odd cluster" "Cluster size must be a power of two between 512 and 2048k" "$Q, 'cluster-size': 1000"
cant "odd refcounts" "Refcount width must be a power of two and may not exceed 64 bits" "$Q, 'refcount-bits': 7"
cant "refcounts of version 2" "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)" "$Q, 'refcount-bits': 8, 'version': 'v2'"
cant "a format of no backing file" "Backing format cannot be used without backing file" "$Q, 'backing-fmt': 'raw'"
cant "a node that is none" "Cannot find device='nix' nor node-name='nix'" "'driver': 'qcow2', 'file': 'nix', 'size': 512"
cant "a folder that is none" "Could not create '/none/x': No such file or directory" "'driver': 'file', 'filename': '/none/x', 'size': 0"
cant "a preallocation that is none" "Unsupported preallocation mode: metadata" "'driver': 'file', 'filename': '$IMG/m', 'size': 4096, 'preallocation': 'metadata'"
is "$(stat -c %s "$IMG/f")" 0 "the file is still empty"
refuses "a driver that makes none" "Driver does not support blockdev-create" blockdev-create "'job-id': 'c', 'options': {'driver': 'raw'}"
refuses "a job id that is none" "Invalid job ID '9c'" blockdev-create "'job-id': '9c', 'options': {'driver': 'file', 'filename': '$IMG/g', 'size': 0}"

# An overlay, as libvirt makes it: file, format, node, snapshot.
# block_resize: a raw image that nobody uses.
create "'driver': 'file', 'filename': '$IMG/raw', 'size': 1048576" >/dev/null
dismiss
{ add raw "$IMG/raw" raw && qdo block_resize "'node-name': 'raw', 'size': 2097152"; } >/dev/null
ok $? "a raw image grows"
is "$(stat -c %s "$IMG/raw") $(qdo query-named-block-nodes "'flat': true" | jq '.[] | select(."node-name" == "raw").image."virtual-size"')" "2097152 2097152" "it has its new size"
attach raw vmr >/dev/null
is "$(blockdev --getsize64 /dev/mapper/vmr)" 2097152 "so has its disk"
refuses "a disk is not resized" "size can't change while it is" block_resize "'device': 'vmr', 'size': 4194304"
detach vmr >/dev/null; del raw >/dev/null
qemu-img create -q -f qcow2 -o cluster_size=4k "$IMG/q" 2M
add q "$IMG/q" >/dev/null
check "a qcow2 image grows" qdo block_resize "'node-name': 'q', 'size': 1200000000"
refuses "it can't be made smaller" "can't be made smaller here" block_resize "'node-name': 'q', 'size': 512"
del q >/dev/null
is "$(qemu-img info --output=json "$IMG/q" | jq '."virtual-size"')" 1200000000 "it has its new size"
check "and is clean" clean "$IMG/q"

# Above a longer image, which is not seen behind the old end.
qemu-img create -q -f raw "$IMG/long" 3M
qemu-io -f raw -c 'write -q -P 1 0 3M' "$IMG/long" >/dev/null
qemu-img create -q -u -f qcow2 -b "$IMG/long" -F raw "$IMG/q" 1M
add q "$IMG/q" >/dev/null
check "an image above a longer one grows" qdo block_resize "'node-name': 'q', 'size': 4194304"
del q >/dev/null
check "and has zeros there" qemu-io -f qcow2 -c 'read -q -P 1 0 1M' -c 'read -q -P 0 1M 3M' "$IMG/q"
check "and is clean" clean "$IMG/q"

# A file that is allocated; one that can't be written.
create "'driver': 'file', 'filename': '$IMG/full', 'size': 1048576, 'preallocation': 'full'" >/dev/null
dismiss
is "$(stat -c %s "$IMG/full") $(($(stat -c %b "$IMG/full") >= 2048))" "1048576 1" "preallocation full"
chattr +i "$IMG/full"
refuses "what can't be written" "Operation not permitted" blockdev-add "'driver': 'file', 'node-name': 'ro', 'filename': '$IMG/full'"
check "auto-read-only opens it" qdo blockdev-add "'driver': 'file', 'node-name': 'ro', 'filename': '$IMG/full', 'auto-read-only': true"
is "$(qdo query-named-block-nodes | jq '.[] | select(."node-name" == "ro").ro')" true "read-only"
chattr -i "$IMG/full"
del ro >/dev/null

# A file node is an image without a raw node above it.
qdo blockdev-add "'driver': 'file', 'node-name': 'fn', 'filename': '$IMG/full'" >/dev/null
check "it is exported" attach fn vmf
is "$(qdo query-block | jq -r '.[].inserted | ."node-name", .drv' | tr '\n' ' ')$(qdo query-named-block-nodes | jq -c '[.[]."node-name"] - ["f", "fn"]')" "fn file []" "as itself"
detach vmf >/dev/null
check "and lets the node go" del fn

qemu-img create -q -f qcow2 "$IMG/base" 16M
qemu-io -f qcow2 -c 'write -q -P 5 0 1M' "$IMG/base" >/dev/null
{ add base "$IMG/base" && attach base vm1; } >/dev/null
ok $? "a disk is attached"
check "an overlay is made" create "$Q, 'cluster-size': 16384, 'backing-file': '$IMG/base', 'backing-fmt': 'qcow2'"
is "$(error)" null "without an error"
dismiss
is "$(qemu-img info -U --output=json "$IMG/f" | jq -r '."virtual-size", ."cluster-size", ."backing-filename", ."backing-filename-format"' | tr '\n' ' ')" \
	"16777216 16384 $IMG/base qcow2 " "it is as asked"
qdo blockdev-add "'driver': 'qcow2', 'node-name': 'ov', 'file': 'f', 'backing': null" >/dev/null
check "blockdev-snapshot takes it" qdo blockdev-snapshot "'node': 'base', 'overlay': 'ov'"
cant "a file in use" "Node 'f' is busy: node is used as file of 'ov'" "$Q"
create "'driver': 'qcow2', 'file': {'driver': 'file', 'filename': '$IMG/base'}, 'size': 512" >/dev/null
like "$(error)" "lock" "an image in use"
dismiss
cant "a file with content" "Could not create '$IMG/base': it exists and is not empty; remove it first" "'driver': 'file', 'filename': '$IMG/base', 'size': 0"

# The header's words only.
ln -s base "$IMG/link"
check "change-backing-file" qdo change-backing-file "'device': 'vm1', 'image-node-name': 'ov', 'backing-file': '$IMG/link'"
is "$(qemu-img info -U --output=json "$IMG/f" | jq -r '."backing-filename", ."backing-filename-format"' | tr '\n' ' ')" "$IMG/link qcow2 " "the header says so"
refuses "of an image without one" "not allowing backing file change on an image without a backing file" change-backing-file \
	"'device': 'vm1', 'image-node-name': 'base', 'backing-file': 'x'"
dd if=/dev/zero of=/dev/mapper/vm1 bs=64k count=1 conv=fsync status=none
{ detach vm1 && del ov; } >/dev/null; stop_daemon
ok $? "detach and quit"
check "both are clean" clean "$IMG/f" "$IMG/base"
check "the overlay opens with its chain" qemu-io -r -f qcow2 -c 'read -P 0 0 64k' -c 'read -P 5 64k 64k' "$IMG/f"
is "$(ls "$IMG/g" "$IMG/m" 2>/dev/null)" "$IMG/m" "no file but what was asked for"
