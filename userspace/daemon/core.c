// SPDX-License-Identifier: GPL-2.0-or-later
/* The hooks of core.h: where the frame and the block core meet. */
#include "block/dmevent.h"
#include "daemon/blockdev.h"
#include "daemon/control.h"
#include "daemon/core.h"
#include "daemon/ctl.h"
#include "daemon/dispatch.h"
#include "daemon/export.h"
#include "daemon/fleece.h"
#include "daemon/job.h"
#include "daemon/journal.h"
#include "daemon/snapshot.h"
#include "daemon/state.h"
#include "daemon/transaction.h"
#include "daemon/view.h"
#include "lib/log.h"
#include "lib/util.h"

struct daemon *the_daemon;

static struct dmevent *dmevent;
static struct ev_source *dmevent_source;

void core_register(void)
{
	control_register();
	qmp_register(blockdev_commands);
	qmp_register(reopen_commands);
	qmp_register(query_commands);
	qmp_register(create_commands);
	qmp_register(backing_file_commands);
	qmp_register(resize_commands);
	qmp_register(export_commands);
	qmp_register(snapshot_commands);
	qmp_register(job_commands);
	qmp_register(backup_commands);
	qmp_register(stream_commands);
	qmp_register(commit_commands);
	qmp_register(mirror_commands);
	qmp_register(drive_backup_commands);
	qmp_register(transaction_commands);
	qmp_register_events(blockdev_events);
	qmp_register_events(export_events);
	qmp_register_events(job_events);
}

static void on_device(void *ctx, enum dmevent_what what, const struct dm_dev_entry *dev)
{
	struct view *v;

	(void)ctx;
	log_debug("device '%s': event %u", dev->name, dev->event_nr);
	if (what == DMEVENT_GONE)
		return;
	core_lock();
	v = view_find(dev->name);
	if (v)
		service_kick(v);
	core_unlock();
}

static void on_dmevent(unsigned events, void *arg)
{
	struct err e = ERR_INIT;

	(void)events;
	(void)arg;
	if (dmevent_scan(dmevent, on_device, NULL, &e) < 0)
		log_warn("device-mapper events: %s", e.msg);
}

/* From the first device on: before, there may be no device-mapper. */
static void watch_devices(void)
{
	struct err e = ERR_INIT;

	if (dmevent || list_empty(&view_list))
		return;
	dmevent = dmevent_new(DM_DEV_UUID_PREFIX, &e);
	if (dmevent)
		dmevent_source = ev_add_fd(the_daemon->ev, dmevent_fd(dmevent), EV_IN, on_dmevent,
					   NULL, &e);
	if (!dmevent_source)
		log_error("device-mapper events: %s", e.msg);
	else
		on_dmevent(0, NULL);
}

/* After each piece of work on the control thread. */
static void after_control(void)
{
	view_reap();
	watch_devices();
	service_kick_all();
}

struct restart {
	core_done_fn done;
	void *arg;
	struct err err;
};

static void restart_work(void *arg)
{
	struct restart *s = arg;

	(void)state_restore(&s->err);
}

static void restart_done(void *arg)
{
	struct restart *s = arg;

	s->done(s->err.code ? &s->err : NULL, s->arg);
	free(s);
}

void core_start(struct daemon *d, core_done_fn done, void *arg)
{
	struct restart *s = xcalloc(1, sizeof(*s));

	s->done = done;
	s->arg = arg;
	journal_init(d->state_dir);
	ctl_init(d);
	ctl_after = after_control;
	service_jobs_changed = job_kernel_news;
	ctl_submit(restart_work, restart_done, s);
}

struct apply {
	core_done_fn done;
	void *arg;
};

static void applied(struct json *ret, const struct err *e, void *arg)
{
	struct apply *a = arg;

	(void)ret;
	a->done(e, a->arg);
	free(a);
}

static void apply(const char *command, struct json *opts, bool keyval, core_done_fn done, void *arg)
{
	struct apply *a = xcalloc(1, sizeof(*a));

	a->done = done;
	a->arg = arg;
	qmp_invoke(command, opts, keyval, applied, a);
}

void core_apply_blockdev(struct json *opts, bool keyval, core_done_fn done, void *arg)
{
	apply("blockdev-add", opts, keyval, done, arg);
}

void core_apply_export(struct json *opts, bool keyval, core_done_fn done, void *arg)
{
	apply("block-export-add", opts, keyval, done, arg);
}

/* Nodes that no device needs any more: the program's end is theirs. */
static void drop_unused_nodes(void)
{
	struct node *n;
	bool again;

	list_for_each(n, &node_list, link) {
		if (list_empty(&view_list))
			n->monitor = false;
	}
	do {
		again = false;
		list_for_each(n, &node_list, link) {
			if (n->monitor || n->parents || n->users)
				continue;
			node_put(n);
			again = true;
			break;
		}
	} while (again);
}

static void quit_work(void *arg)
{
	struct restart *s = arg;

	job_quit();
	export_quit(true);
	fleece_quit();
	export_quit(false);
	drop_unused_nodes();
	(void)state_save(&s->err);
}

void core_quit(struct daemon *d, core_done_fn done, void *arg)
{
	struct restart *s = xcalloc(1, sizeof(*s));

	(void)d;
	s->done = done;
	s->arg = arg;
	ctl_submit(quit_work, restart_done, s);
}

void core_done(struct daemon *d)
{
	(void)d;
	ctl_after = NULL;
	service_jobs_changed = NULL;
	ev_source_free(dmevent_source);
	dmevent_free(dmevent);
	dmevent = NULL;
	dmevent_source = NULL;
	ctl_done();
}
