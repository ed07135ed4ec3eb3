#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What query-qmp-schema promises, against answers and against QEMU's own.

schema.py answers SOCKET                  each query's answer is as the schema says
schema.py events SOCKET FILE            so is each event of FILE (tests/qmp.py --serve wrote it)
schema.py subset SOCKET QEMUS-SOCKET      what we have in common with QEMU has QEMU's members and types
Status 0 if it is so; the last line counts.
"""
import json
import sys

import qmp

JSON = {"string": str, "int": int, "boolean": bool, "number": (int, float), "null": type(None)}
# Ours alone; and what only newer QEMUs have.
OWN = {"blockdev-backup.x-force", "drive-backup.x-force", "blockdev-mirror.x-force", "drive-mirror.x-force",
       "BLOCK_IO_ERROR.qom-path", "query-block-exports.name", "query-block-exports.writable"}
# A string once, an enum since 8.2.
CHANGED = {"query-block-jobs.type"}
# There never is a TPM.
EMPTY = {"query-tpm"}


class Schema:
    def __init__(self, path):
        self.client = qmp.Client(path, lambda event: None)
        self.client.negotiate()
        self.types = {(e["meta-type"] in ("command", "event"), e["name"]): e
                      for e in self.command("query-qmp-schema")}

    def command(self, name, arguments=""):
        reply = self.client.command("{'execute': '%s', 'arguments': {%s}}" % (name, arguments))
        if "return" not in reply:
            raise ValueError("%s: %r" % (name, reply))
        return reply["return"]

    def type(self, name):
        return self.types[False, name]

    def commands(self):
        return {n: e for (own, n), e in self.types.items() if own and e["meta-type"] == "command"}

    def events(self):
        return {n: e for (own, n), e in self.types.items() if own and e["meta-type"] == "event"}

    def members(self, t, value):
        """The members of an object, with those of its variant."""
        out = {m["name"]: m for m in t["members"]}
        if "tag" in t:
            for v in t["variants"]:
                if v["case"] == value.get(t["tag"]):
                    out.update(self.members(self.type(v["type"]), value))
        return out

    def check(self, name, value, where):
        """Yields what is wrong with a value of that type."""
        t = self.type(name)
        kind = t["meta-type"]
        if kind == "builtin":
            want = JSON.get(t["json-type"], object)
            if not isinstance(value, want) or (isinstance(value, bool) and want is int):
                yield "%s: %r is no %s" % (where, value, t["json-type"])
        elif kind == "enum":
            if value not in t["values"]:
                yield "%s: %r is none of %s" % (where, value, t["values"])
        elif kind == "array":
            for i, one in enumerate(value):
                yield from self.check(t["element-type"], one, "%s[%d]" % (where, i))
        elif kind == "alternate":
            if all(list(self.check(m["type"], value, where)) for m in t["members"]):
                yield "%s: %r is no variant" % (where, value)
        elif not isinstance(value, dict):
            yield "%s: %r is no object" % (where, value)
        else:
            members = self.members(t, value)
            yield from ("%s.%s is unknown" % (where, k) for k in value if k not in members)
            for k, m in members.items():
                if k in value:
                    yield from self.check(m["type"], value[k], where + "." + k)
                elif "default" not in m:
                    yield "%s.%s is missing" % (where, k)


def answers(path):
    s = Schema(path)
    bad, n = [], 0
    for name, e in sorted(s.commands().items()):
        if not name.startswith("query-"):
            continue
        value = s.command(name)
        if name in EMPTY:
            continue
        if e["ret-type"] == "any" or s.type(e["ret-type"]).get("element-type") == "any":
            bad.append(name + " promises anything")
        bad += s.check(e["ret-type"], value, name)
        n += 1
    return bad, "%d queries" % n


def events(path, log):
    s = Schema(path)
    bad, names = [], set()
    with open(log) as f:
        for event in map(json.loads, f):
            name = event["event"]
            names.add(name)
            if name in s.events():
                bad += s.check(s.events()[name]["arg-type"], event.get("data", {}), name)
            else:
                bad.append(name + " is unknown")
    return bad, "events " + " ".join(sorted(names))


class Subset:
    def __init__(self, ours, qemus):
        self.a, self.b, self.seen, self.bad = ours, qemus, set(), []

    def object(self, a, b, where):
        qemu = {m["name"]: m for m in b["members"]}
        for m in a["members"]:
            at = "%s.%s" % (where, m["name"])
            if m["name"] in qemu:
                self.type(m["type"], qemu[m["name"]]["type"], at)
            elif at not in OWN:
                self.bad.append(at + " is not QEMU's")
        cases = {v["case"]: v["type"] for v in b.get("variants", [])}
        for v in a.get("variants", []):
            if v["case"] in cases:
                self.type(v["type"], cases[v["case"]], where + "." + v["case"])

    def type(self, a, b, where):
        if (a, b) in self.seen:
            return
        self.seen.add((a, b))
        a, b = self.a.type(a), self.b.type(b)
        if where in CHANGED:
            return
        if a["meta-type"] != b["meta-type"]:
            self.bad.append("%s: %s, QEMU: %s" % (where, a["meta-type"], b["meta-type"]))
        elif a["meta-type"] == "builtin":
            if a["name"] != b["name"]:
                self.bad.append("%s: %s, QEMU: %s" % (where, a["name"], b["name"]))
        elif a["meta-type"] == "array":
            self.type(a["element-type"], b["element-type"], where)
        elif a["meta-type"] == "object":
            self.object(a, b, where)
        elif a["meta-type"] == "enum":
            self.bad += ["%s: the value %s is not QEMU's" % (where, v) for v in a["values"]
                         if v not in b["values"] and v != "dm"]

    def run(self):
        n = 0
        for part, keys in (("commands", ("arg-type", "ret-type")), ("events", ("arg-type",))):
            ours, qemus = getattr(self.a, part)(), getattr(self.b, part)()
            for name in sorted(set(ours) & set(qemus)):
                for key in keys:
                    self.type(ours[name][key], qemus[name][key], name)
                n += 1
        return self.bad, "%d commands and events in common" % n


def main(argv):
    if argv[0] == "answers":
        bad, what = answers(argv[1])
    elif argv[0] == "events":
        bad, what = events(argv[1], argv[2])
    else:
        bad, what = Subset(Schema(argv[1]), Schema(argv[2])).run()
    for line in bad:
        print(line)
    print("%s, %d things wrong" % (what, len(bad)))
    return bool(bad)


sys.exit(main(sys.argv[1:]))
