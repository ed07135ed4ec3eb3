// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/chardev.h"
#include "daemon/dispatch.h"
#include "daemon/monitor.h"
#include "daemon/notify.h"
#include "daemon/startup.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/util.h"

/* How long clients may take to read their last answers. */
#define DRAIN_MS 2000

struct waiter {
	struct waiter *next;
	core_done_fn done;
	void *arg;
};

enum phase {
	PHASE_STARTING,
	PHASE_UP,
	PHASE_QUITTING, /* core_quit() runs */
	PHASE_DRAINING, /* answers go out, then the loop stops */
};

/* The one daemon's course; loop thread. */
static struct {
	struct daemon *d;
	const struct options *o;
	enum phase phase;
	size_t next_blockdev, next_export;
	bool core_called;  /* core_start() was called */
	bool core_started; /* and ended well */
	bool quit_wanted;  /* while still starting */
	struct chardev **chardevs;
	size_t nr_chardevs;
	void (*ready)(void *arg);
	void *ready_arg;
	struct waiter *waiters;
	struct err error; /* the first failure */
} s;

static void next_step(void *arg);

/* --- the end --- */

static void stop_loop(void *arg)
{
	(void)arg;
	ev_stop(s.d->ev, 0);
}

static void on_core_quit(const struct err *e, void *arg)
{
	(void)arg;
	if (e) {
		log_error("%s", e->msg);
		err_set(&s.error, e->code, "%s", e->msg);
	}
	s.phase = PHASE_DRAINING;
	while (s.waiters) {
		struct waiter *w = s.waiters;

		s.waiters = w->next;
		w->done(e, w->arg);
		free(w);
	}
	monitor_drain(DRAIN_MS, stop_loop, NULL);
}

void daemon_quit(core_done_fn done, void *arg)
{
	struct waiter *w;

	if (s.phase == PHASE_DRAINING) {
		if (done)
			done(NULL, arg);
		return;
	}
	if (done) {
		w = xcalloc(1, sizeof(*w));
		w->done = done;
		w->arg = arg;
		w->next = s.waiters;
		s.waiters = w;
	}
	s.quit_wanted = true;
	qmp_set_quitting(true);
	if (s.phase != PHASE_UP)
		return; /* starting: at the next step; quitting: under way */
	s.phase = PHASE_QUITTING;
	notify("STOPPING=1");
	core_quit(s.d, on_core_quit, NULL);
}

static void fail(const struct err *e, const char *what, const char *text)
{
	err_set(&s.error, e->code, "%s", e->msg);
	if (what)
		err_prefix(&s.error, "%s %s", what, text);
	/* What the core had begun is ended cleanly as well. */
	s.phase = PHASE_UP;
	if (s.core_started)
		daemon_quit(NULL, NULL);
	else
		stop_loop(NULL);
}

/* --- the start --- */

static int add_chardev(const char *id, const char *path, bool server, unsigned reconnect_s,
		       struct err *e)
{
	struct chardev *c = chardev_open(s.d->ev, id, path, server, reconnect_s, e);

	if (!c)
		return -EIO;
	s.chardevs = xreallocarray(s.chardevs, s.nr_chardevs + 1, sizeof(*s.chardevs));
	s.chardevs[s.nr_chardevs++] = c;
	return 0;
}

static int open_sockets(struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < s.o->nr_chardevs && r == 0; i++) {
		const struct option_chardev *c = &s.o->chardevs[i];

		for (size_t k = 0; k < s.o->nr_monitors && r == 0; k++)
			if (streq(s.o->monitors[k], c->id))
				r = add_chardev(c->id, c->path, c->server, c->reconnect_s, e);
	}
	if (r == 0 && s.o->qmp) {
		_cleanup_free_ char *dir = path_dir(s.o->qmp);

		r = path_mkdirs(dir, 0755, e);
		if (r == 0)
			r = add_chardev("qmp", s.o->qmp, true, 0, e);
	}
	return r;
}

static void close_sockets(void)
{
	while (s.nr_chardevs)
		chardev_close(s.chardevs[--s.nr_chardevs]);
	free(s.chardevs);
	s.chardevs = NULL;
}

static void up(void)
{
	struct err e = ERR_INIT;

	for (size_t i = 0; i < s.nr_chardevs; i++) {
		if (chardev_start(s.chardevs[i], &e) < 0) {
			fail(&e, NULL, NULL);
			return;
		}
	}
	s.phase = PHASE_UP;
	notify("READY=1");
	log_info("Ready");
	if (s.ready)
		s.ready(s.ready_arg);
	if (s.quit_wanted)
		daemon_quit(NULL, NULL);
}

static void on_blockdev(const struct err *e, void *arg)
{
	struct option_item *item = arg;

	if (e)
		fail(e, "--blockdev", item->text);
	else
		ev_defer(s.d->ev, next_step, NULL);
}

static void on_export(const struct err *e, void *arg)
{
	struct option_item *item = arg;

	if (e)
		fail(e, "--export", item->text);
	else
		ev_defer(s.d->ev, next_step, NULL);
}

static void next_step(void *arg)
{
	struct option_item *item;

	(void)arg;
	if (s.quit_wanted) {
		s.phase = PHASE_UP;
		daemon_quit(NULL, NULL);
	} else if (s.next_blockdev < s.o->nr_blockdevs) {
		item = &s.o->blockdevs[s.next_blockdev++];
		core_apply_blockdev(item->opts, item->keyval, on_blockdev, item);
	} else if (s.next_export < s.o->nr_exports) {
		item = &s.o->exports[s.next_export++];
		core_apply_export(item->opts, item->keyval, on_export, item);
	} else {
		up();
	}
}

static void on_core_start(const struct err *e, void *arg)
{
	(void)arg;
	if (e) {
		fail(e, NULL, NULL);
		return;
	}
	s.core_started = true;
	ev_defer(s.d->ev, next_step, NULL);
}

static void start_core(void *arg)
{
	(void)arg;
	s.core_called = true;
	core_start(s.d, on_core_start, NULL);
}

static void on_signal(int signo, void *arg)
{
	(void)arg;
	log_notice("Ending because of signal %d", signo);
	daemon_quit(NULL, NULL);
}

static int add_signals(struct err *e)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(signals) && r == 0; i++)
		r = ev_add_signal(s.d->ev, signals[i], on_signal, NULL, e);
	return r;
}

int startup_run(struct daemon *d, const struct options *o, void (*ready)(void *arg), void *arg,
		struct err *e)
{
	int r;

	memset(&s, 0, sizeof(s));
	s.d = d;
	s.o = o;
	s.ready = ready;
	s.ready_arg = arg;
	monitor_init(d->ev);
	r = add_signals(e);
	if (r == 0)
		r = open_sockets(e);
	if (r == 0) {
		ev_defer(d->ev, start_core, NULL);
		ev_run(d->ev);
		if (s.error.code)
			r = err_set(e, s.error.code, "%s", s.error.msg);
	}
	/* Clients first: closing their connections must not find a chardev gone. */
	monitor_done();
	close_sockets();
	while (worker_pending(d->worker))
		ev_run_once(d->ev, -1);
	if (s.core_called)
		core_done(d);
	return r;
}
