#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon dies after each step that counts, while a guest does I/O.

death.py DIR DAEMON [--seed N] [--seconds S] [--only WHAT]

For each operation: once undisturbed, which counts its points (userspace/lib/fault.h); then
again and again with SIGKILL at point N. After each death
  - the guest's I/O goes on although nobody is there, and sees no error;
  - a new daemon takes up every device and job; the operation was done or not done;
  - nothing is left of it that neither the daemon nor a client knows;
  - what is not done is done when the client sends its command again;
  - the end is that of the undisturbed run: nodes, disks, jobs, data, clean images.
Some of the new daemons die as well, while they start (N:M).

WHAT: all (every N of every operation), OP,OP (every N of these), OP:A-B (a part of them), OP:N or
OP:N:M (that one), OP:N:A-B (the new daemon at a part of its points), OP:A-B:slow (the guard of the one that
died is slow, and the new one is there before it). OP,OP:any or without it N are picked at random, at least one
for each operation, until S seconds are over.

Images go to DIR. Prints "pass TEXT", "fail TEXT" and "# notes".
"""
import argparse
import os
import random
import signal
import sys
import threading
import time

import death_chain
import death_ops
from death_world import CHAIN_MAX, FAILURES, Died, World, Wrong, devices

OPS = {op.name: op for op in death_ops.OPS + death_chain.OPS}
FAILURES_MAX = 5
SLOW, SLOW_SECONDS = "slow", 15


class Runner:
    def __init__(self, args):
        self.args = args
        self.world = World(args)
        self.rng = random.Random(args.seed)
        self.counts, self.finals, self.between = {}, {}, {}
        self.deaths, self.second, self.late, self.failed = {}, 0, 0, []
        self.end_at = time.monotonic() + args.seconds
        self.stalls, self.recovery, self.where = {}, 40, "undisturbed"

    def note(self, text):
        print("# " + text, flush=True)

    # --- one round ---

    def dead(self, text):
        """Nobody is there; the guest does not notice. Then a new daemon, maybe a second."""
        held = [n for n, s in devices().items() if s]
        self.world.guest.progress(5, 80, "while no daemon is there (%s)%s" % (
            text, ", suspended: %s" % held if held else ""))
        self.world.guest.check()

    def recover(self, second):
        w = self.world
        if second == SLOW:
            awake = threading.Timer(SLOW_SECONDS, w.let_guards, [signal.SIGCONT])
            awake.start()
            w.start()
            awake.join()
        elif second:
            w.faults.arm(second)
            try:
                w.start()
                w.disarm()
            except Died:
                self.second += 1
                text = "second death after '%s'" % w.faults.name(second)
                self.where += ", " + text
                w.faults.disarm()
                self.dead(text)
                w.start()
        else:
            w.faults.arm(0)
            w.start()
            self.recovery = max(self.recovery, w.faults.count())

    def steps(self, op, number, second):
        """Does the operation with a death at point @number; returns the points, and if it died."""
        w, died, acked = self.world, False, 0
        shapes = [w.shape(op.names())]
        if second == SLOW:
            w.let_guards(signal.SIGSTOP)
        w.faults.arm(number)
        try:
            for step in op.steps():
                step.send()
                acked += 1
                step.wait()
                shapes.append(w.shape(op.names()))
            w.disarm()
        except Died:
            died = True
        w.faults.disarm()
        points = w.faults.count()
        if not number:
            self.between[op.name] = shapes
        if died:
            self.where = "died after '%s'" % w.faults.name(number)
            self.after_death(op, acked, second)
        return points, died

    def after_death(self, op, acked, second):
        w, steps = self.world, op.steps()
        if second != SLOW:  # what the daemon held is held still
            self.dead(self.where)
        self.recover(second)
        w.check_explained()
        w.check_journals()
        now = w.shape(op.names())
        if now not in self.between[op.name]:
            raise Wrong("neither done nor not done: %s" % self.differences(op, now))
        w.check_jobs()
        first = max([i for i, step in enumerate(steps[:acked + 1]) if step.voids] + [0])
        for i, step in enumerate(steps[first:], first):
            done = step.done()
            if not done and i < acked and not step.again:
                raise Wrong("'%s' had been answered, and is not done" % step.name)
            if not done:
                step.send()
            step.wait()

    def differences(self, op, now):
        nearest = min(self.between[op.name], key=lambda s: len(set(s) ^ set(now)))
        return "more: %s, less: %s" % ([x for x in now if x not in nearest],
                                       [x for x in nearest if x not in now])

    def round(self, name, number=0, second=0):
        """One operation; number 0: undisturbed. Returns its points."""
        w = self.world
        w.serial += 1
        if w.depth >= CHAIN_MAX:
            w.end()
            w.build()
        w.below = []
        op = OPS[name](w)
        for s in (w.guest.pulse, w.guest.wide):
            s.longest = 0.0
        self.where = "undisturbed"
        w.below = [os.path.basename(n["file"]) for n in w.nodes()]
        w.below = [f for f in w.below if f not in op.names() or f in op.left_out()]
        self.what = "%s:%d%s" % (name, number, ":%s" % second if second else "")
        times = [time.monotonic()]
        op.prepare()
        times.append(time.monotonic())
        points, died = self.steps(op, number, second)
        times.append(time.monotonic())
        op.finish()
        times.append(time.monotonic())
        w.check_explained()
        w.check_journals()
        w.guest.check()
        if w.command("query-jobs"):
            raise Wrong("jobs are left: %s" % w.command("query-jobs"))
        final = w.shape(op.names())
        if self.finals.setdefault(name, final) != final:
            raise Wrong("the end is not that of an undisturbed run: %s instead of %s" % (
                [x for x in final if x not in self.finals[name]],
                [x for x in self.finals[name] if x not in final]))
        since = w.guest.pulse.since     # its thread goes on
        stall = max(w.guest.pulse.longest, time.monotonic() - since if since else 0)
        if stall > self.stalls.get((name, died), (0, ""))[0]:
            self.stalls[name, died] = (stall, self.where)
        if died:
            self.deaths[name] = self.deaths.get(name, 0) + 1
        elif number:
            self.late += 1
        if self.args.verbose:
            self.note("%s %s: %d points, stall %.0f ms; %s s" % (
                self.what, self.where, points, stall * 1000,
                " ".join("%.1f" % (b - a) for a, b in zip(times, times[1:]))))
        return points

    # --- all of them ---

    def second_point(self, chance):
        return self.rng.randrange(1, self.recovery + 1) if self.rng.random() < chance else 0

    @staticmethod
    def numbers(text):
        """N or A-B."""
        if text == SLOW:
            return [SLOW]
        first, _, last = text.partition("-")
        return list(range(int(first), int(last or first) + 1))

    def plan(self, names):
        """(name, N, M) without end, or as many as are wanted."""
        only = self.args.only
        if only.endswith(":any"):
            only = ""
        if only and ":" in only:
            words = only.split(":") + ["0"]
            first, second = self.numbers(words[1]), self.numbers(words[2])
            for number in first * (1 if len(first) > 1 or len(second) > 1 else 3):
                yield from ((words[0], number, m) for m in second)
        elif only:
            for name in names:
                for number in range(1, self.counts[name] + 1):
                    yield name, number, 0
                    if number % 3 == 0:
                        yield name, number, self.second_point(1)
        else:
            order = {n: self.rng.sample(range(1, self.counts[n] + 1), self.counts[n])
                     for n in names}

            def wanted(name):   # a point may not have been reached: each is to die once at least
                return order[name] and (name not in self.deaths or time.monotonic() < self.end_at)

            while any(map(wanted, names)):
                for name in self.rng.sample(names, len(names)):
                    if wanted(name):
                        yield name, order[name].pop(), self.second_point(0.25)

    def run(self):
        only = (self.args.only or "all").split(":")[0]
        names = list(OPS) if only == "all" else only.split(",")
        for name in names:
            self.attempt(name, 0, 0)
        for name, number, second in self.plan([n for n in names if n in self.counts]):
            self.attempt(name, number, second)
            if len(self.failed) >= FAILURES_MAX:
                break
        self.what = "the end"
        try:
            if self.world.guest:
                self.world.end()
        except FAILURES as e:
            self.failure(e)
        self.report(names)
        return bool(self.failed)

    def attempt(self, name, number, second):
        """A round; after a failure the next one begins with a new world."""
        try:
            if not self.world.guest:
                self.what = "start"
                self.world.build()
            points = self.round(name, number, second)
            self.counts.setdefault(name, points)
        except FAILURES as e:
            self.failure(e)

    def failure(self, e):
        text = "%s (%s): %s: %s" % (self.what, self.where, type(e).__name__, e)
        self.note(text)
        self.note("repeat it with LIVECHAIN_DEATH=%s LIVECHAIN_SEED=%d" % (self.what,
                                                                          self.args.seed))
        self.failed.append((self.what.split(":")[0], text))
        self.world.log.write((text + "\n").encode())
        self.world.log.flush()
        self.world.abandon()

    def report(self, names):
        failed = [name for name, _ in self.failed]
        for name in names:
            stall, where = self.stalls.get((name, True), (0, "-"))
            quiet = self.stalls.get((name, False), (0, ""))[0]
            line = "%s: %d deaths at %d points; longest stall %.0f ms (%s), undisturbed %.0f ms" % (
                name, self.deaths.get(name, 0), self.counts.get(name, 0), stall * 1000, where,
                quiet * 1000)
            ok = name not in failed and (name in self.deaths or self.args.only) \
                and name in self.counts
            print("%s %s" % ("pass" if ok else "fail", line))
        others = [n for n in failed if n not in names]
        print("%s %d deaths, %d of a daemon that had just been started, %d points not reached; "
              "longest start %.1f s" % ("fail" if others else "pass", sum(self.deaths.values()),
                                        self.second, self.late, self.world.longest_start))


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir")
    p.add_argument("daemon")
    p.add_argument("--work", required=True, help="folder for everything but images")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seconds", type=float, default=100)
    p.add_argument("--only", default="")
    p.add_argument("--verbose", action="store_true")
    args = p.parse_args()
    return Runner(args).run()


if __name__ == "__main__":
    sys.exit(main())
