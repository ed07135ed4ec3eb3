/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The event loop: one thread, epoll. All functions belong to the
 * loop's thread. Callbacks must not block. A callback may free any source, timer or
 * deferred call, its own included; none of a freed one's callbacks runs afterwards.
 */
#ifndef LIVECHAIN_EV_H
#define LIVECHAIN_EV_H

#include <stdint.h>

#include "err.h"

struct ev;
struct ev_source; /* a descriptor */
struct ev_timer;
struct ev_defer;

/* Bits of @events. HUP and ERR are reported even if not asked for. */
enum {
	EV_IN = 1 << 0,
	EV_OUT = 1 << 1,
	EV_HUP = 1 << 2, /* both directions are closed */
	EV_ERR = 1 << 3,
	EV_PRI = 1 << 4,
};

typedef void (*ev_fd_fn)(unsigned events, void *arg);
typedef void (*ev_fn)(void *arg);
typedef void (*ev_signal_fn)(int signo, void *arg);

/* Returns NULL and fills @e on failure. */
struct ev *ev_new(struct err *e);
/* Frees what is still registered as well; not from a callback. */
void ev_free(struct ev *ev);

/* Runs callbacks until ev_stop(); returns what ev_stop() was given. */
int ev_run(struct ev *ev);
/* Makes ev_run() return @status after the callback that runs now. */
void ev_stop(struct ev *ev, int status);
/* One turn: waits up to @timeout_ms (-1: for ever) and runs what is due. For tests. */
void ev_run_once(struct ev *ev, int timeout_ms);

/*
 * Watches @fd (borrowed: the caller closes it, after ev_source_free()). Level-triggered.
 * NULL and a sentence on failure (e.g. a regular file).
 */
struct ev_source *ev_add_fd(struct ev *ev, int fd, unsigned events, ev_fd_fn fn, void *arg,
			    struct err *e);
void ev_source_set(struct ev_source *s, unsigned events);
/* Accepts NULL. */
void ev_source_free(struct ev_source *s);

/* Monotonic milliseconds. */
uint64_t ev_now_ms(void);
uint64_t ev_now_us(void);
/*
 * A timer, not armed. ev_timer_set() arms it once, @ms from now (again: moves it);
 * ev_timer_clear() disarms. A periodic timer arms itself in its callback.
 */
struct ev_timer *ev_timer_new(struct ev *ev, ev_fn fn, void *arg);
void ev_timer_set(struct ev_timer *t, uint64_t ms);
void ev_timer_clear(struct ev_timer *t);
void ev_timer_free(struct ev_timer *t); /* accepts NULL */

/* Runs @fn(@arg) once, from the loop, after the callback that runs now. */
struct ev_defer *ev_defer(struct ev *ev, ev_fn fn, void *arg);
/* Takes it back; only before it ran. Accepts NULL. */
void ev_defer_cancel(struct ev_defer *d);

/*
 * @fn runs on the loop for each @signo, which is blocked for the process (call before any
 * thread is started, so that all inherit the mask).
 */
int ev_add_signal(struct ev *ev, int signo, ev_signal_fn fn, void *arg, struct err *e);

#endif
