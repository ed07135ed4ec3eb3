// SPDX-License-Identifier: GPL-2.0-or-later
/* livechaind: the ladder from the command line to the loop, and back down. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/core.h"
#include "daemon/guard.h"
#include "daemon/options.h"
#include "daemon/process.h"
#include "daemon/startup.h"
#include "lib/cleanup.h"
#include "lib/ev.h"
#include "lib/log.h"
#include "lib/worker.h"

#define EXIT_WRONG_USE 2
#define WORKERS	       4

static void on_ready(void *arg)
{
	(void)arg;
	process_ready();
}

/* With the process set up: loop, workers, core. */
static int serve(const struct options *o, struct err *e)
{
	struct daemon d = { .state_dir = o->state_dir, .name = o->name };
	int r = -1;

	d.ev = ev_new(e);
	if (d.ev)
		d.worker = worker_new(d.ev, WORKERS, e);
	if (d.worker) {
		the_daemon = &d;
		r = startup_run(&d, o, on_ready, NULL, e);
	}
	worker_free(d.worker);
	ev_free(d.ev);
	the_daemon = NULL;
	return r;
}

static int run(const struct options *o, struct err *e)
{
	_cleanup_close_ int pid_fd = -1, state_fd = -1;
	int r;

	if (o->daemonize) {
		r = process_daemonize(e);
		if (r < 0)
			return r;
	}
	if (o->pidfile) {
		r = pid_fd = process_pidfile(o->pidfile, e);
		if (r < 0)
			return r;
	}
	r = state_fd = process_lock_state(o->state_dir, e);
	if (r >= 0) {
		struct err why = ERR_INIT;

		process_harden();
		if (guard_start(o->state_dir, &why))
			log_warn("%s", why.msg);
		r = serve(o, e);
		guard_stop();
	}
	if (o->pidfile)
		(void)unlink(o->pidfile);
	return r;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	struct options o;
	int r;

	log_init("livechaind");
	core_register();
	r = options_parse(&o, argc, argv, stdout, &e);
	if (r != 0) {
		if (r < 0)
			log_error("%s", e.msg);
		options_done(&o);
		return r < 0 ? EXIT_WRONG_USE : EXIT_SUCCESS;
	}
	log_set_level(o.log_level);
	r = run(&o, &e);
	if (r < 0)
		log_error("%s", e.code ? e.msg : "The daemon failed");
	options_done(&o);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
