// SPDX-License-Identifier: GPL-2.0-or-later
/* How a ready job catches up with its disk: what is left is copied while the disk stands still. */
#include <errno.h>
#include <time.h>

#include "../lib/ev.h"
#include "../lib/log.h"
#include "ctl.h"
#include "job-copy.h"
#include "journal.h"

#define HOLD_MS	  2000 /* how long the guest may wait for the last dirty blocks ... */
#define DRAIN_MS  1000 /* how long it may take before, while the guest works */
#define TRIES_MAX 5    /* ... so many times; then the job has failed */

/* 0, or how it ended otherwise: "error:write:5". */
static int concluded(struct job *j, const struct view_job *k, struct err *e)
{
	char side[8];
	int code;

	if (streq(k->result, "ok"))
		return 0;
	code = job_parse_result(k->result, side);
	job_post_error(j, side, "report");
	return err_set(e, code, "%s", strerror(code));
}

static int wait_concluded(struct job *j, struct err *e)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	uint64_t until = ev_now_ms() + HOLD_MS;
	struct timespec nap = { 0, 500000 };

	do {
		const struct view_job *k;
		int r = view_get_status(j->source, st, e);

		if (r)
			return r;
		k = job_in_status(st, j->id);
		if (!k)
			return err_set(e, ENOENT, "the kernel has lost the job");
		job_take_progress(j, k);
		if (streq(k->state, "concluded"))
			return concluded(j, k, e);
		nanosleep(&nap, NULL);
	} while (ev_now_ms() < until);
	return -EAGAIN;
}

static int not_yet(struct job *j, struct err *e)
{
	if (++j->tries < TRIES_MAX) {
		log_notice("job '%s': has not caught up within %d ms, the guest goes on", j->id, HOLD_MS);
		return -EAGAIN;
	}
	return err_set(e, ETIMEDOUT, "the target is too slow: %d times not equal within %d ms", TRIES_MAX,
		       HOLD_MS);
}

/* Live still: from now on guests' writes go to both sides, so what is left dwindles. */
static void drain(struct job *j)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	uint64_t until = ev_now_ms() + DRAIN_MS;
	struct timespec nap = { 0, 1000000 };

	(void)view_message(j->source, NULL, NULL, "job %s complete", j->id);
	while (ev_now_ms() < until && !view_get_status(j->source, st, NULL)) {
		const struct view_job *k = job_in_status(st, j->id);

		if (!k || k->done == k->total)
			break;
		nanosleep(&nap, NULL);
	}
}

int job_catch_up(struct job *j, bool hold, struct err *e)
{
	int r;

	drain(j);
	r = hold ? view_pivot_prepare(j->disk, j->target, e) : 0;
	if (r)
		return r;
	r = view_suspend(j->source, e);
	if (r) {
		if (hold)
			view_pivot_cancel(j->disk);
		return r;
	}
	r = view_message(j->source, e, NULL, "job %s complete", j->id);
	if (!r)
		r = wait_concluded(j, e);
	if (r && hold)
		view_pivot_cancel(j->disk);
	if ((r || !hold) && view_resume(j->source, r ? NULL : e) && !r)
		r = -EIO;
	return r == -EAGAIN ? not_yet(j, e) : r;
}

/* The kernel's job ended with its view, which is returned; NULL: it was gone already. */
static struct view *forget_source(struct job *j)
{
	struct view *old = j->source;

	core_lock();
	if (old)
		old->jobs--;
	j->source = j->disk = j->target = NULL;
	j->dest = -1;
	j->kernel_gone = true;
	core_unlock();
	return old;
}

/* Jobs in images below: their disk is @disk now, if that has the image still; otherwise none. */
static void move_others(struct view *old, struct view *disk)
{
	struct job *j;

	core_lock();
	list_for_each(j, &job_list, link) {
		if (!old || j->disk != old || j->source == old)
			continue;
		old->jobs--;
		j->disk = view_has_node(disk, j->source_node) ? disk : NULL;
		if (j->disk)
			disk->jobs++;
	}
	core_unlock();
}

/*
 * The disk's old device, and the space that its image was given and has not used. An earlier
 * daemon may have come to remove the device, and not to give back the space.
 */
static void end_old(struct job *j)
{
	struct node *n = j->source_node;
	struct view *old, *disk = j->target;
	struct err e = ERR_INIT;
	int r = 0;

	old = forget_source(j);
	move_others(old, disk);
	if (old)
		r = view_end(old, &e);
	else if (n && n->driver == NODE_QCOW2 && !n->read_only && n->users == 1) /* the job alone */
		r = journal_recover(n->file->filename, n->img, &e);
	if (r)
		log_warn("job '%s': %s", j->id, e.msg);
	err_clear(&e);
}

static int catch_up(struct job *j, struct err *e)
{
	int r;

	do
		r = job_catch_up(j, j->disk, e);
	while (r == -EAGAIN);
	return r;
}

/* After a restart it may have ended with the disk as it was. */
static int check_ready(struct job *j, struct err *e)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	const struct view_job *k;
	int r;

	if (!j->source || !j->target)
		return err_set(e, ENXIO, "its devices are gone");
	r = view_get_status(j->source, st, e);
	if (r)
		return r;
	k = job_in_status(st, j->id);
	if (!k)
		return err_set(e, ENOENT, "the kernel has lost the job");
	if (!streq(k->state, "concluded"))
		return 0;
	r = concluded(j, k, e);
	return r ? r : err_set(e, EINTR,
			       "the daemon ended while it switched the disk, which goes on as before");
}

int job_become_target(struct job *j, struct err *e)
{
	int r;

	if (j->target && !j->target->internal) { /* done by a daemon that did not come to say so */
		end_old(j);
		return 0;
	}
	r = check_ready(j, e);
	if (!r)
		r = catch_up(j, e);
	if (r || !j->disk)
		return r;
	r = view_pivot(j->disk, j->target, e);
	if (r)
		return r;
	end_old(j);
	return 0;
}
