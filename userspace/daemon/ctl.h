/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control thread: everything that changes nodes, views and jobs runs there,
 * one after the other, and may block (a suspend, a file creation).
 *
 * Locking (Documentation/design/locking.rst): the block core's objects are
 * changed on the control thread alone, and there only between core_lock() and
 * core_unlock(), which is held for memory accesses, never over anything that
 * blocks. The loop and the service threads read them under the same lock. So
 * the control thread itself may read without it.
 */
#ifndef LIVECHAIN_CTL_H
#define LIVECHAIN_CTL_H

#include "lib/err.h"
#include "lib/json.h"
#include "core.h"
#include "dispatch.h"

/*
 * A command's body. Runs on the control thread; @args is its own copy. Returns 0 (and
 * may set *@ret, else {} is answered) or -errno with @e set.
 */
typedef int (*ctl_fn)(struct json *args, struct json **ret, struct err *e);

/* Loop thread. Starts and ends the thread; ctl_done() after the last work. */
void ctl_init(struct daemon *d);
void ctl_done(void);

/* Loop thread. Runs @fn on the control thread and answers @call with what it returns. */
void ctl_command(struct qmp_call *call, ctl_fn fn);

/* Loop thread. @work on the control thread, then @done (may be NULL) on the loop. */
void ctl_submit(worker_fn work, worker_fn done, void *arg);

/* Loop thread. Called after each piece of work, before its answer. */
extern void (*ctl_after)(void);

void core_lock(void);
void core_unlock(void);

/*
 * Any thread. Queues an event (takes @data over); events go out in the order of
 * the calls, at the latest with the end of the work that runs now and before the answer to
 * its command.
 */
void event_post(const char *name, struct json *data);

/*
 * Loop thread. For queries that look at the control thread's objects: answers
 * @call with @ret (taken over), after the events of all that @ret may show: whoever is told
 * that a job is gone has been told before how it ended.
 */
void ctl_answer(struct qmp_call *call, struct json *ret);

/* Loop thread. Sends what is queued. Each done function of work that posts calls it. */
void event_flush(void);

#endif
