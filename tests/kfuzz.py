#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random messages to a view under I/O.

kfuzz.py --seed N --seconds S DISK...

The view's first half is the safe one: writers there own stripes, and every read must be what was
written last, whatever messages come. The other half is the messages' own: its slices are
forgotten and filled with anything on a layer of its own. A service answers requests all the while.

Messages follow the grammar, with numbers at limits, words left out, doubled, reordered or replaced,
garbage, and lines of 200 KB; to a view that is live, suspended, loading, with and without jobs. Not
sent is only what a daemon that lies could destroy data with: a forget of the safe half, space or
data of the safe layers that are in use.

Every refusal is one of a few errors and has a sentence in the kernel log (as far as its rate
limit lets be seen: some of each kind are said again when all is quiet).
"""
import argparse
import errno
import os
import random
import re
import subprocess
import sys
import threading
import time
import traceback

from dmio import Disk, compare, pattern
from kview import Image, View

BLOCK, NR, SAFE = 8, 16384, 8192          # sectors; a slice is 4096
BASE, MIDDLE, TOP, NEXT, DEST, VICTIM = 0, 1, 2, 3, 90, 77
NUMBERS = ["0", "1", "7", "8", "9", "77", "127", "128", "129", "511", "512", "513", "1022", "1023", "1024",
           "2047", "2048", "4095", "4096", "4097", "65535", "65536", str(2**31 - 1), str(2**31), str(2**32 - 1),
           str(2**32), str(2**39), str(2**48), str(2**55), str(2**63 - 1), str(2**63), str(2**64 - 1),
           str(2**64), str(10**30), "-1", "-0", "+5", "0x10", "010", "1e3", "", "x"]
ERRORS = (errno.EINVAL, errno.ENOENT, errno.EBUSY, errno.EPERM, errno.EOPNOTSUPP, errno.EEXIST,
          errno.ENOSPC, errno.EROFS)


class Writer(threading.Thread):
    """Owns the sectors of the safe half whose number divided by 24 leaves `part` of `parts`."""

    def __init__(self, path, part, parts, seed):
        super().__init__(daemon=True)
        self.rng, self.part, self.parts = random.Random(seed), part, parts
        self.disk, self.stop, self.error = Disk(path), False, None
        self.have = {}          # stripe: version
        self.ops = self.refused = 0

    def run(self):
        try:
            while not self.stop:
                self.one()
                time.sleep(0.01)        # the messages are to have their time
        except Exception:
            self.error = traceback.format_exc()

    def one(self):
        stripe = self.rng.randrange(self.part, SAFE // 24, self.parts)
        what = self.rng.random()
        if what < 0.45:
            self.check(stripe)
        elif what < 0.97:
            self.write(stripe, self.have.get(stripe, 0) + 1)
        else:
            self.disk.flush()
        self.ops += 1

    def data(self, stripe, version):
        return pattern((self.part << 32) + version, stripe * 24, 24)

    def write(self, stripe, version):
        """A write that waits for space may be refused by a message: it is made again."""
        flags = os.RWF_DSYNC if self.rng.random() < 0.03 else 0
        for _ in range(1000):
            try:
                self.disk.write(stripe * 24, self.data(stripe, version), flags)
                self.have[stripe] = version
                return
            except OSError as e:
                if e.errno not in (errno.ENOSPC, errno.EIO):
                    raise
                self.refused += 1
        raise AssertionError("a write is always refused")

    def check(self, stripe):
        if stripe in self.have:
            compare(self.disk.read(stripe * 24, 24), self.data(stripe, self.have[stripe]), stripe * 24)

    def check_all(self):
        for stripe in self.have:
            self.check(stripe)


class Stray(threading.Thread):
    """I/O on the other half, where anything may lie: it must only end."""

    def __init__(self, path, seed):
        super().__init__(daemon=True)
        self.rng, self.disk, self.stop, self.ops = random.Random(seed), Disk(path), False, 0

    def run(self):
        while not self.stop:
            nr = self.rng.choice((1, 8, 16, 128))
            at = self.rng.randrange(SAFE, NR - nr)
            try:
                self.rng.choice((lambda: self.disk.read(at, nr),
                                 lambda: self.disk.write(at, bytes(nr * 512)),
                                 lambda: self.disk.discard(at, nr),
                                 lambda: self.disk.zeroout(at, nr)))()
            except OSError:
                pass
            self.ops += 1
            time.sleep(0.01)


class Target(View):
    """The service: the other half is filled with what comes to mind."""

    def load(self, block):
        if block < SAFE // BLOCK:
            return super().load(block)
        first = block // 512 * 512
        run = self.rng.choice(("512:z", "512:d:%d:%d" % (VICTIM, 8192), "100:e 412:z:%d" % VICTIM,
                               "512:d:%d:0:s" % VICTIM, "256:z:%d:4096 256:d:%d:0" % (VICTIM, VICTIM)))
        try:
            reply = self.dm.message("map %d %d %s" % (self.generation, first, run))
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            # a message has made the victim a job's destination
            reply = self.dm.message("map %d %d 512:z" % (self.generation, first))
        if reply.startswith("stale"):
            self.generation = int(reply.split()[1])
            return self.load(block)
        return reply

    def grant(self, image, nr=None, ranges=2, gap=0):
        if self.status()["layers"][image.id]["free"] >= 8192:
            time.sleep(0.005)           # a message has said that it wants more than that
            return ""
        try:
            return super().grant(image, nr, ranges, gap)
        except OSError as e:
            if e.errno:
                raise
            return self.dm.message("layer %d nospace" % image.id)   # the disk is full


class Grammar:
    """Messages, most of them nearly right."""

    def __init__(self, rng, view):
        self.rng, self.view, self.jobs = rng, view, ["a", "b", "c"]

    def number(self):
        return self.rng.choice(NUMBERS) if self.rng.random() < 0.7 else str(self.rng.getrandbits(
            self.rng.choice((3, 9, 16, 40, 64))))

    def layer(self):
        return str(self.rng.choice((BASE, MIDDLE, TOP, NEXT, DEST, VICTIM))) \
            if self.rng.random() < 0.9 else self.number()

    def block(self):
        return str(512 * self.rng.randrange(0, 5)) if self.rng.random() < 0.8 else self.number()

    def run(self):
        r = self.rng
        count = r.choice(("512", "512", "1", "256", "1024", "511"))
        if r.random() < 0.2:
            count = self.number()
        kind = r.choice(("z", "d", "e", "z:%d" % VICTIM, "d:%d" % VICTIM, "p", "q", "dd", "d:"))
        text = "%s:%s" % (count, kind)
        if kind[0] in "dz" and r.random() < 0.8:
            text += ":" + r.choice(("0", "8", "4096", "8192", "3", self.number()))
        return text + r.choice(("", "", "", ":s", ":x", ":s:s"))

    def m_map(self):
        generation = str(self.view.generation) if self.rng.random() < 0.8 else self.number()
        if self.rng.random() < 0.3:     # whole slices, perhaps more than there are
            return ["map", generation, str(512 * self.rng.randrange(2, 5)), "%d:%s" % (
                512 * self.rng.randrange(1, 4), self.rng.choice(("z", "e", "d:%d:8192" % VICTIM)))]
        return ["map", generation, self.block()] + [self.run() for _ in range(self.rng.randrange(4))]

    def m_forget(self):
        return ["forget", str(512 * self.rng.randrange(2, 4)) if self.rng.random() < 0.8 else self.number(),
                self.rng.choice(("512", "1024", self.number()))]

    def m_home(self):
        word = "%s+%s@%s" % (self.block(), self.rng.choice(("512", "128", self.number())),
                             self.rng.choice(("64", "72", self.number())))
        return ["home", self.layer(), word] * self.rng.choice((1, 1, 2))

    def m_grant(self):
        """Sectors that are units of no layer, or that no device has."""
        words = ["%s+%s" % (self.rng.choice(("3", "x", "12", "-8", str(2**40))), self.number())
                 for _ in range(self.rng.randrange(4))]
        return ["grant", self.layer(), self.number()] + words

    def m_reclaim(self):
        return ["reclaim", self.layer()] + self.rng.choice(([], [], ["done"], ["now"]))

    def m_layer(self):
        r, layer = self.rng, self.layer()
        unit = r.choice(("8", "128", "4096", self.number()))
        return ["layer", layer] + r.choice((
            ["unit", unit, "raw"], ["low", self.number()], ["nospace"], ["error"], ["error", "5"],
            ["zeros", r.choice(("known", "said", "5"))],
            ["unit", unit, "record", "9", "0x8000000000000000", "0x8000000000000001", "0x1"],
            ["unit", unit, "record", self.number(), "0x" + self.number(), "-", "-"],
            ["unit", unit, "record", "9", "-", self.number()]))

    def m_activate(self):
        return ["activate", self.layer()]

    def m_commit(self):
        return ["commit"]

    def m_requests(self):
        return ["requests"]

    def m_copy(self):
        r = self.rng
        out = ["copy", r.choice(self.jobs), str(DEST) if r.random() < 0.6 else self.layer(),
               r.choice(("none", "before-write", "before-write", "track", "all"))]
        for _ in range(r.randrange(4)):
            out += r.choice((["speed", self.number()], ["grain", r.choice(("128", "4096", self.number()))],
                             ["timeout", self.number()], ["paused"], ["paused"],
                             ["on-source-error", r.choice(("stop", "report", "ignore"))],
                             ["on-target-error", r.choice(("stop", "report", "x"))], ["fast"]))
        return out

    def m_job(self):
        verb = self.rng.choice(("pause", "resume", "cancel", "dismiss", "dismiss", "speed", "finish"))
        return ["job", self.rng.choice(self.jobs), verb] + ([self.number()] if verb == "speed" else [])

    def m_reserved(self):
        return [self.rng.choice(("remap", "bitmap", "promote")), self.number()]

    def m_garbage(self):
        r = self.rng
        return ["".join(chr(r.choice((r.randrange(33, 127), r.randrange(0xa0, 0x3000))))
                        for _ in range(r.choice((1, 5, 50, 3000)))) for _ in range(r.randrange(1, 5))]

    def m_long(self):
        return self.rng.choice((["map", "1", "1024"] + ["1:z"] * 40000, ["x" * 200000], ["home", "2"] + ["0+8@8"] * 9000,
                                ["job", "j" * 100000, "pause"], ["copy", "a", "90", "none"] + ["paused"] * 9000,
                                ["requests"] * 20000, ["grant", "2", "9"] + ["x"] * 50000))

    def mutate(self, words):
        r = self.rng
        how = r.randrange(8)
        i = r.randrange(len(words))
        if how == 0:
            del words[i]
        elif how == 1:
            words.insert(i, words[i])
        elif how == 2:
            r.shuffle(words)
        elif how == 3:
            words[i] = self.number()
        elif how == 4:
            words.append(self.number())
        elif how == 5:
            words[i] = re.sub(r"\d+", lambda m: self.number(), words[i], count=1)
        elif how == 6:
            words[i] = words[i][:r.randrange(len(words[i]) + 1)]
        else:
            words[i] += r.choice((":", "+", "@", "%s%n", "\t", "\\", "/../"))
        return words or ["requests"]

    def message(self):
        kinds = {"map": 20, "forget": 10, "home": 6, "grant": 6, "reclaim": 3, "layer": 12, "activate": 8,
                 "commit": 4, "requests": 3, "copy": 10, "job": 14, "reserved": 1, "garbage": 3, "long": 0.3}
        kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
        words = getattr(self, "m_" + kind)()
        if self.rng.random() < 0.35:
            words = self.mutate(words)
        return " ".join(words)


def number(word):
    return int(word) if re.fullmatch(r"\+?[0-9]{1,20}", word) else None


def lies(text):
    """Whether only a daemon that lies about the safe half would say so."""
    w = text.split()
    if not w or w[0].startswith("@"):
        return True             # dm's own messages
    if w[0] == "forget" and len(w) > 1:
        first = number(w[1])
        return first is not None and first < SAFE // BLOCK
    if w[0] == "activate" and len(w) > 1:
        return number(w[1]) in (BASE, DEST, VICTIM)
    if w[0] == "grant":
        if len(w) == 3:
            return True             # so that later numbers would be ignored
        for word in w[3:]:
            m = re.fullmatch(r"([0-9]+)\+([0-9]+)", word)
            if m and not (int(m[1]) | int(m[2])) & 7 and int(m[1]) + int(m[2]) < 2**30:
                return True
    if w[0] == "map":
        for word in w[3:]:
            parts = word.split(":")
            if len(parts) > 2 and parts[1] in ("d", "z") and number(parts[2]) not in (None, VICTIM):
                return True
    return False


class Fuzz:
    def __init__(self, args):
        self.args, self.rng = args, random.Random(args.seed)
        unit = self.rng.choice((8, 16, 128))
        paths = args.disks
        base = Image(BASE, paths[0], NR)
        base.disk.write(0, pattern(1, 0, NR))
        middle, top, following, victim = [Image(i, paths[n], NR, unit, seed=args.seed + n) for n, i in
                                          ((1, MIDDLE), (2, TOP), (3, NEXT), (5, VICTIM))]
        dest = Image(DEST, paths[4], NR)
        for i in range(0, middle.units, middle.units // 40):
            middle.put(i, pattern(2, i * unit, unit))
        self.images = [middle, top, following, victim]
        self.view = Target("kfuzz", [top, middle, base], NR, BLOCK, extra=[following, dest, victim])
        self.view.rng = random.Random(args.seed)
        self.view.grant_sectors = 256
        self.dm = self.view.dm
        self.counts, self.refusals, self.suspended = {}, {}, 0
        self.prepare()

    def prepare(self):
        """Everything that is safe is known: a message can change none of it."""
        for image in self.images:
            if image.id != TOP:
                self.dm.message(image.describe())
            self.dm.message("home %d %s" % (image.id, " ".join(
                image.home(p) for p in range(len(image.page_sector)))))
        for block in range(0, SAFE // BLOCK, 512):
            self.view.load(block)

    def send(self, text):
        try:
            self.dm.message(text)
            self.did("taken")
            return True
        except OSError as e:
            self.did(errno.errorcode.get(e.errno, str(e.errno)))
            if e.errno not in ERRORS:
                raise AssertionError("%.200s: %s" % (text, e))
            if len(text) < 500:
                self.refusals.setdefault((text.split()[0][:10], e.errno), text)
            return False

    def did(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def burst(self, grammar):
        """Some messages, perhaps to a suspended view."""
        suspended = self.rng.random() < 0.25
        if suspended:
            if self.rng.random() < 0.5:
                self.dm.message("commit")
            self.dm.suspend()
            self.suspended += 1
        try:
            for _ in range(self.rng.randrange(1, 30)):
                text = grammar.message()
                if lies(text):
                    continue
                with self.view.serving:
                    if self.send(text) and text.split()[0] == "activate":
                        self.activated()
        finally:
            if suspended:
                self.dm.resume()

    def activated(self):
        self.view.active = self.view.image(int(self.view.status()["active"]))

    def end_jobs(self):
        for name in self.view.status()["jobs"]:
            self.dm.message("job %s cancel" % name)
            self.view.wait_job(name)
            self.dm.message("job %s dismiss" % name)

    def sentences(self):
        """Some refusals again, where the rate limit (10 lines in 5 s) lets them be seen."""
        todo = list(self.refusals.values())
        self.rng.shuffle(todo)
        silent = []
        for i in range(0, min(len(todo), self.args.sentences), 8):
            time.sleep(5.2)
            for text in todo[i:i + 8]:
                mark = "kfuzz %d %f" % (i, time.monotonic())
                with open("/dev/kmsg", "w") as f:
                    f.write(mark + "\n")
                try:
                    self.dm.message(text)
                    continue            # it is not refused any more
                except OSError:
                    pass
                log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace").stdout
                if "livechain" not in log.split(mark)[-1]:
                    silent.append(text)
        if silent:
            raise AssertionError("refused without a sentence: %s" % silent)

    def run(self):
        path = self.dm.path
        writers = [Writer(path, i, 3, self.args.seed * 10 + i) for i in range(3)]
        stray = Stray(path, self.args.seed)
        self.view.begin()
        for t in writers + [stray]:
            t.start()
        grammar = Grammar(self.rng, self.view)
        end = time.monotonic() + self.args.seconds
        while time.monotonic() < end:
            self.burst(grammar)
            if self.rng.random() < 0.05:
                self.view.reload()
            if self.rng.random() < 0.1:
                self.end_jobs()
            for w in writers:
                if w.error:
                    raise AssertionError("a writer failed:\n" + w.error)
            if self.view.error:
                raise self.view.error
        for t in writers + [stray]:
            t.stop = True
        self.end_jobs()     # one that has stopped may keep a write waiting for as long as a message has said
        for t in writers + [stray]:
            t.join(240)
            if t.is_alive():
                raise AssertionError("I/O hangs: " + self.dm.status())
        self.end_jobs()
        for w in writers:
            if w.error:
                raise AssertionError("a writer failed:\n" + w.error)
            w.check_all()
        self.sentences()
        if self.view.status()["mode"] != "rw":
            raise AssertionError("the view has failed: " + self.dm.status())
        for t in writers + [stray]:
            t.disk.close()
        self.view.remove()
        print("%d writes and reads, %d made again, %d stray; %d times suspended; %s" % (
            sum(w.ops for w in writers), sum(w.refused for w in writers), stray.ops, self.suspended,
            ", ".join("%s %d" % k for k in sorted(self.counts.items()))))
        if not self.counts.get("taken") or len(self.counts) < 4:
            raise AssertionError("too few kinds of answers")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--sentences", type=int, default=16)
    p.add_argument("disks", nargs="+")
    args = p.parse_args()
    fuzz = None
    try:
        fuzz = Fuzz(args)
        fuzz.run()
    except Exception:
        for line in traceback.format_exc().splitlines():
            print(line)
        if fuzz:
            print(fuzz.counts)
            print("status: " + fuzz.dm.status())
        sys.stdout.flush()
        os._exit(1)



main()
