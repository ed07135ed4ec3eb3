/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads for what blocks (dm ioctls, fsync, fallocate). A piece of work is a function that
 * runs on some thread and a second that runs afterwards on the loop. The first
 * must touch nothing that the loop's thread can touch meanwhile (json objects included):
 * it gets what it needs in @arg and leaves its result there.
 */
#ifndef LIVECHAIN_WORKER_H
#define LIVECHAIN_WORKER_H

#include <stdbool.h>

#include "err.h"
#include "ev.h"

struct worker;
struct worker_queue;

typedef void (*worker_fn)(void *arg);

/* Starts @threads threads (all signals blocked in them). NULL and a sentence on failure. */
struct worker *worker_new(struct ev *ev, unsigned threads, struct err *e);
/*
 * Runs what was submitted to its end, then joins the threads and runs the remaining @done
 * functions (they may submit more: that is run too). Not from a callback.
 */
void worker_free(struct worker *w);

/* @fn(@arg) on any thread, @done(@arg) on the loop (may be NULL). Loop thread only. */
void worker_submit(struct worker *w, worker_fn fn, worker_fn done, void *arg);

/*
 * A serial queue: its work runs in the order of submission, one at a time (the next
 * starts when the @fn before has returned, perhaps before its @done ran; the @dones keep the
 * order as well). Different queues run side by side, as far as there are threads.
 * @reserved gives the queue a thread of its own, so that it never waits behind others'
 * blocking work (map and grant service). @name is copied.
 */
struct worker_queue *worker_queue_new(struct worker *w, const char *name, bool reserved);
void worker_submit_to(struct worker_queue *q, worker_fn fn, worker_fn done, void *arg);
/* Frees it as soon as its last work is done. Accepts NULL. */
void worker_queue_free(struct worker_queue *q);

/* Work submitted whose @done has not run. */
unsigned worker_pending(const struct worker *w);

#endif
