#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong requests, asked of QEMU's storage daemon and of ours.

words.py ask SOCKET DIR qemu|ours       prints one answer a line
words.py compare DIR QEMUS OURS         status 0 if they are the same but for OTHERWISE
"""
import json
import re
import sys
import time

import qmp

EXPORT = {"qemu": "'type': 'vhost-user-blk', 'addr': {'type': 'unix', 'path': '%s/vub'}", "ours": "'type': 'dm'"}


NIX = "'driver': 'qcow2', 'file': 'nix', 'size': 1024"
CREATE = [NIX, "'driver': 'file', 'filename': '/none/i', 'size': 5"]


def execute(command, arguments=""):
    return "{'execute': '%s'%s}" % (command, ", 'arguments': {%s}" % arguments if arguments else "")


def requests(folder, export):
    def file(name):
        return "{'driver': 'file', 'filename': '%s/%s'}" % (folder, name)

    def add(node, name, driver="qcow2", more=""):
        return execute("blockdev-add", "'driver': '%s', 'node-name': '%s', 'file': %s%s" % (
            driver, node, file(name), more))

    def backup(more):
        return execute("blockdev-backup", "'device': 'g', " + more)

    def drive(more):
        return execute("drive-backup", "'device': 'g', " + more)

    def actions(text, mode=None):
        return execute("transaction", "'actions': [%s]%s" % (
            text, ", 'properties': {'completion-mode': '%s'}" % mode if mode else ""))

    def overlay(more):
        return execute("blockdev-snapshot-sync", "'snapshot-file': '%s/o'%s" % (folder, more))

    def job(command, more, device="hi"):
        return execute(command, "'device': '%s', 'job-id': 'j'%s" % (device, ", " + more if more else ""))

    def mirror(more):
        return job("blockdev-mirror", "'sync': 'full', " + more)

    def keep(more, driver="copy-before-write"):
        return execute("blockdev-add", "'driver': '%s', %s" % (driver, more))

    def reopen(more, name="good"):
        return execute("blockdev-reopen", "'options': [{'driver': 'qcow2', 'file': %s%s}]" % (file(name), more))

    full = "'sync': 'full', 'job-id': 'j'"
    chain = ", 'backing': {'driver': 'qcow2', 'node-name': 'mid', 'file': %s, 'backing': " \
        "{'driver': 'qcow2', 'node-name': 'lo', 'file': %s}}" % (file("mid"), file("lo"))
    return [
        # what the rest needs
        add("g", "good"), add("ro", "raw", "raw", ", 'read-only': true"), add("small", "small"), add("big", "big"),
        # blockdev-add
        add("x", "nix"), add("x", "nix", "raw"), add("x", "good2", "nix"), add("x", "orphan"), add("x", "empty"),
        add("x", "magic"),
        execute("blockdev-add"), execute("blockdev-add", "'node-name': 'x'"),
        execute("blockdev-add", "'driver': 'qcow2', 'node-name': 'x'"),
        execute("blockdev-add", "'driver': 'raw', 'file': %s" % file("good2")),
        execute("blockdev-add", "'driver': 'file', 'node-name': 'x'"),
        execute("blockdev-add", "'driver': 'file', 'node-name': 'x', 'filename': '%s'" % folder),
        execute("blockdev-add", "'driver': 'host_device', 'node-name': 'x', 'filename': '%s/good2'" % folder),
        execute("blockdev-add", "'driver': 'raw', 'node-name': 'x', 'file': 'nix'"),
        execute("blockdev-add", "'driver': 'raw', 'node-name': 'x', 'file': 5"),
        add("x", "good2", more=", 'backing': 'nix'"), add("g", "good2"), add("9x", "good2"), add("a b", "good2"),
        add("x" * 40, "good2"), add("x", "good2", more=", 'read-only': 'no'"),
        add("x", "good2", more=", 'read-only': 1"), add("x", "good2", more=", 'bogus': 1"),
        # filters
        keep("'node-name': 'x', 'file': 'g'"), keep("'node-name': 'x', 'target': 'g'"),
        keep("'node-name': 'x', 'file': 'nix', 'target': 'g'"), keep("'node-name': 'x', 'file': 'g', 'target': 'nix'"),
        keep("'file': 'g', 'target': 'big'"), keep("'node-name': 'g', 'file': 'g', 'target': 'big'"),
        keep("'node-name': '9x', 'file': 'g', 'target': 'big'"),
        keep("'node-name': 'x', 'file': 'g', 'target': 'big', 'on-cbw-error': 'xx'"),
        keep("'node-name': 'x', 'file': 'g', 'target': 'big', 'cbw-timeout': -1"),
        keep("'node-name': 'x', 'file': 'g', 'target': 'big', 'cbw-timeout': 4294967296"),
        keep("'node-name': 'x', 'file': 'g', 'target': 'big', 'zzz': 1"),
        keep("'node-name': 'x'", "snapshot-access"), keep("'node-name': 'x', 'file': 'nix'", "snapshot-access"),
        keep("'file': 'g'", "snapshot-access"),
        # blockdev-del, exports
        execute("blockdev-del"), execute("blockdev-del", "'node-name': 'nix'"),
        execute("blockdev-del", "'node-name': ['g']"),
        execute("block-export-add", export + ", 'id': 'n', 'node-name': 'nix'"),
        execute("block-export-add", "'type': 'xx', 'id': 'n', 'node-name': 'g'"),
        execute("block-export-add", "'id': 'n', 'node-name': 'g'"),
        execute("block-export-add", export + ", 'node-name': 'g'"),
        execute("block-export-add", export + ", 'id': '9 x', 'node-name': 'g'"),
        execute("block-export-add", export + ", 'id': 'n', 'node-name': 'ro', 'writable': true"),
        execute("block-export-del"), execute("block-export-del", "'id': 'nix'"),
        execute("block-export-del", "'id': 'nix', 'mode': 'x'"),
        # the protocol itself
        execute("nixx"), execute("qmp_capabilities"), execute("query-version", "'a': 1"), "{'exec': 1}",
        "{'execute': 5}", "{'execute': 'query-version', 'arguments': []}",
        "{'execute': 'query-version', 'bogus': 1}", "[]", "5",
    ] + [execute("job-" + verb, "'id': 'nix'") for verb in
         ("cancel", "pause", "resume", "complete", "dismiss", "finalize")
    ] + [execute("block-job-" + verb, "'device': 'nix'") for verb in ("cancel", "pause", "resume", "complete")
    ] + [execute("block-job-" + verb, "'id': 'nix'") for verb in ("dismiss", "finalize")
    ] + [
        execute("block-job-set-speed", "'device': 'nix', 'speed': 5"),
        execute("block-job-set-speed", "'device': 'nix'"),
        # snapshots
        overlay(", 'device': 'nix'"), overlay(", 'node-name': 'nix'"), overlay(""),
        overlay(", 'node-name': 'g', 'mode': 'x'"), overlay(", 'node-name': 'g'"),
        overlay(", 'node-name': 'g', 'snapshot-node-name': 'ro'"),
        overlay(", 'node-name': 'g', 'snapshot-node-name': '9'"),
        execute("blockdev-snapshot-sync", "'node-name': 'g'"),
        execute("blockdev-snapshot", "'node': 'nix', 'overlay': 'g'"),
        execute("blockdev-snapshot", "'node': 'g', 'overlay': 'nix'"), execute("blockdev-snapshot", "'node': 'g'"),
        # backups
        execute("blockdev-backup", "'device': 'nix', 'target': 'big', " + full),
        backup("'target': 'nix', " + full), backup("'target': 'g', " + full), backup("'target': 'small', " + full),
        backup("'target': 'big', " + full), backup("'target': 'ro', " + full), backup("'target': 'small', 'job-id': 'j'"),
        backup("'target': 'small', 'sync': 'x', 'job-id': 'j'"),
        backup("'target': 'small', 'sync': 'full', 'job-id': '9x'"), backup("'target': 'small', 'sync': 'full'"),
        backup("'target': 'small', 'speed': -1, " + full), backup("'target': 'small', 'on-target-error': 'x', " + full),
        # drive-backup; g is its source, h a file that is not there
        drive("'target': '%s/h'" % folder), drive("'sync': 'full'"),
        drive("'target': '/none/h', " + full), drive("'target': '%s/h', 'mode': 'x', %s" % (folder, full)),
        drive("'target': '%s/h', 'mode': 'existing', 'format': 'qcow2', %s" % (folder, full)),
        execute("drive-backup", "'device': 'nix', 'target': '%s/h', %s" % (folder, full)),
        # transactions
        execute("transaction"), execute("transaction", "'actions': {}"), actions(""),
        actions("{'type': 'abort', 'data': {}}"), actions("{'type': 'abort'}"), actions("{'data': {}}"),
        actions("5"), actions("{'type': 'abort', 'data': {'x': 1}}"),
        actions("{'type': 'blockdev-backup', 'data': {'device': 'g', 'target': 'small', %s}}" % full),
        actions("{'type': 'blockdev-backup', 'data': {'device': 'g', 'target': 'small', 'zzz': 1, %s}}" % full),
        actions("{'type': 'blockdev-backup', 'data': {'device': 'g', %s}}" % full),
        actions("{'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'nix', 'snapshot-file': 'h'}}"),
        actions("{'type': 'blockdev-snapshot-sync', 'data': {'node-name': 'g', 'snapshot-file': 'h'}}", "grouped"),
        actions("{'type': 'blockdev-snapshot', 'data': {'node': 'g', 'overlay': 'nix'}}"),
        actions("{'type': 'abort', 'data': {}}", "grouped"),
        # hi on mid on lo: block-stream, block-commit, mirrors
        add("hi", "hi", more=chain), add("x", "hi"),
        job("block-stream", "", "nix"), job("block-stream", "'base': 'nix'"), job("block-stream", "'base-node': 'nix'"),
        job("block-stream", "'base-node': 'hi'"), job("block-stream", "'base-node': 'g'"),
        job("block-stream", "'base-node': 'hi'", "mid"), job("block-stream", "'base': 'x', 'base-node': 'lo'"),
        job("block-stream", "'base': 'x', 'bottom': 'mid'"), job("block-stream", "'base-node': 'lo', 'bottom': 'mid'"),
        job("block-stream", "'bottom': 'nix'"), job("block-stream", "'bottom': 'g'"),
        job("block-stream", "'backing-file': 'x'"), job("block-stream", "'speed': -1"),
        job("block-stream", "'on-error': 'x'"), job("block-stream", "'filter-node-name': 'g'"),
        execute("block-stream", "'device': 'hi'"), execute("block-stream"),
        job("block-commit", "", "nix"), job("block-commit", "'top': 'nix'"), job("block-commit", "'top-node': 'nix'"),
        job("block-commit", "'top-node': 'g'"), job("block-commit", "'base': 'nix'"),
        job("block-commit", "'base-node': 'nix'"), job("block-commit", "'base-node': 'g'"),
        job("block-commit", "'top-node': 'lo', 'base-node': 'mid'"),
        job("block-commit", "'top-node': 'mid', 'base-node': 'mid'"), job("block-commit", "'base-node': 'hi'"),
        job("block-commit", "'top-node': 'lo'"), job("block-commit", "'base': 'x', 'base-node': 'lo'"),
        job("block-commit", "'top': 'x', 'top-node': 'mid'"), job("block-commit", "", "mid"),
        job("block-commit", "'backing-file': 'x'"), job("block-commit", "'top-node': 'mid', 'speed': -1"),
        job("block-commit", "'top-node': 'mid', 'on-error': 'x'"), execute("block-commit", "'device': 'hi'"),
        mirror("'target': 'nix'"), mirror("'target': 'hi'"), mirror("'target': 'ro'"), mirror("'target': 'mid'"),
        job("blockdev-mirror", "'target': 'big', 'sync': 'incremental'"),
        job("blockdev-mirror", "'target': 'big', 'sync': 'bitmap'"), job("blockdev-mirror", "'target': 'big'"),
        job("blockdev-mirror", "'target': 'big', 'sync': 'full'", "nix"),
        mirror("'target': 'g', 'granularity': 100"), mirror("'target': 'g', 'granularity': 5000"),
        mirror("'target': 'g', 'granularity': 134217728"), mirror("'target': 'g', 'buf-size': -1"),
        mirror("'target': 'g', 'replaces': 'nix'"), mirror("'target': 'g', 'copy-mode': 'x'"),
        mirror("'target': 'g', 'speed': -1"),
        execute("blockdev-mirror", "'device': 'hi', 'target': 'g', 'sync': 'full'"),
        execute("drive-mirror", "'device': 'nix', 'target': '%s/h', %s" % (folder, full)),
        job("drive-mirror", "'sync': 'full', 'target': '/none/h'"),
        job("drive-mirror", "'sync': 'full', 'target': '%s/h', 'mode': 'existing', 'format': 'qcow2'" % folder),
        job("drive-mirror", "'sync': 'full', 'target': '%s/h', 'replaces': 'hi'" % folder),
        job("drive-mirror", "'sync': 'full', 'target': '%s/h', 'mode': 'x'" % folder),
        job("drive-mirror", "'sync': 'x', 'target': '%s/h'" % folder),
        # blockdev-reopen
        execute("blockdev-reopen"), execute("blockdev-reopen", "'options': {}"), execute("blockdev-reopen", "'options': [5]"),
        reopen(""), reopen(", 'node-name': 'nix'"), reopen(", 'node-name': 'g'", "good2"), reopen(", 'node-name': 'hi'", "hi"),
        reopen(", 'node-name': 'hi', 'backing': 'nix'", "hi"), reopen(", 'node-name': 'g', 'force-share': true"),
        reopen(", 'node-name': 'g', 'backing': 'g'"), reopen(", 'node-name': 'ro'"),
        execute("blockdev-reopen", "'options': [{'driver': 'qcow2', 'node-name': 'g', 'file': 'nix'}]"),
        execute("blockdev-reopen", "'options': [{'driver': 'qcow2', 'node-name': 'g', 'file': 5}]"),
        # images; what is wrong with their options is the job's error
        execute("blockdev-create", "'job-id': '9x', 'options': {'driver': 'file', 'filename': '/none/h', 'size': 0}"),
        execute("blockdev-create", "'job-id': 'c', 'options': {'driver': 'raw'}"),
        execute("blockdev-create", "'job-id': 'c', 'options': {'driver': 'qcow2', 'size': 512}"),
        execute("blockdev-create", "'job-id': 'c', 'options': {'driver': 'file', 'filename': '/none/h', 'size': 0}"),
    ] + [words for options in CREATE for words in (
        execute("query-jobs"), execute("job-dismiss", "'id': 'c'"),
        execute("blockdev-create", "'job-id': 'c', 'options': {%s}" % options))
    ] + [
        execute("query-jobs"), execute("query-block-jobs"), execute("block-job-dismiss", "'id': 'c'"),
        execute("job-dismiss", "'id': 'c'"), execute("job-dismiss", "'id': 'c'"),
        execute("change-backing-file", "'device': 'nix', 'image-node-name': 'g', 'backing-file': 'x'"),
        execute("change-backing-file", "'device': 'g', 'image-node-name': 'nix', 'backing-file': 'x'"),
        execute("change-backing-file", "'device': 'g', 'image-node-name': 'g', 'backing-file': 'x'"),
        execute("change-backing-file", "'device': 'g', 'image-node-name': 'g'"),
        execute("block_resize", "'node-name': 'g', 'size': -1"), execute("block_resize", "'size': 512"),
        execute("blockdev-mirror", "'device': 'g', 'target': 'g', 'sync': 'full', 'granularity': '1'"),
        execute("blockdev-mirror", "'device': 'g', 'target': 'g', 'sync': 'full', 'granularity': -1"),
        execute("blockdev-create", "'job-id': 'c', 'options': {'driver': 'file', 'filename': 'o', 'size': true}"),
        execute("block_resize", "'node-name': 'g', 'size': 5"), execute("block_resize", "'node-name': 'nix', 'size': 512"),
    ]


# Where ours says more: what QEMU says, and what ours has to be like.
OTHERWISE = [
    ("Image is not in qcow2 format", "qcow2 image '.*': not in qcow2 format"),
    ("to be either a character or block device", "to be a block device: use 'file'"),
    ("Invalid block export id", "Invalid block export id '9 x'"),
    ("Block node is read-only", "Block node 'ro' is read-only"),
    ("Could not create node: Duplicate nodes", "Duplicate nodes with node-name='g'"),
    ("Failed to get \"write\" lock", "Failed to get \"write\" lock. Is another process using the image"),
    # Not one and the same mistake: two were made, another one is found first.
    ("Source and target image have different sizes", "Parameter 'speed' expects a non-negative value"),
]


def otherwise(theirs, ours):
    a, b = json.loads(theirs).get("error"), json.loads(ours).get("error")
    if not a or not b or a["class"] != b["class"]:
        return False
    return any(q in a["desc"] and re.search(o, b["desc"]) for q, o in OTHERWISE)


def ask(path, folder, whose):
    client = qmp.Client(path, lambda event: None)
    client.negotiate()
    export = EXPORT[whose].replace("%s", folder)
    for text in requests(folder, export):
        reply = client.command(text)
        print(json.dumps(reply))
        if "blockdev-create" in text and "return" in reply:
            ended(client)
    return 0


def ended(client):
    """The job that makes an image has: what comes next asks for it."""
    end = time.monotonic() + 60
    while any(j["type"] == "create" and j["status"] != "concluded" for j in client.command('{"execute": "query-jobs"}')["return"]):
        if time.monotonic() > end:
            sys.exit("a job does not end")
        time.sleep(0.02)


def compare(folder, qemus, ours):
    status = 0
    with open(qemus) as a, open(ours) as b:
        a, b = a.read().splitlines(), b.read().splitlines()
    texts = requests(folder, "...")
    if not len(texts) == len(a) == len(b):
        print("%d requests, %d answers of QEMU, %d of ours" % (len(texts), len(a), len(b)))
        return 1
    same = 0
    for text, theirs, mine in zip(texts, a, b):
        same += theirs == mine
        if theirs != mine and not otherwise(theirs, mine):
            print(text, "QEMU: " + theirs, "ours: " + mine, sep="\n")
            status = 1
    print("%d of %d answers are the same, letter by letter" % (same, len(texts)))
    return status


def main(argv):
    if argv[0] == "ask":
        return ask(*argv[1:])
    return compare(*argv[1:])


sys.exit(main(sys.argv[1:]))
