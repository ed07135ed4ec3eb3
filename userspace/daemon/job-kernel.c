// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How jobs go on: what the kernel reports of them.
 *
 *   concluded ok       as job_succeed() has it
 *   concluded, error   BLOCK_JOB_ERROR report, then as job_fail() has it
 *   stopped            BLOCK_JOB_ERROR stop, paused until job-resume; or what the policy says
 *   ready              ready, BLOCK_JOB_READY; then as the client says: job-ready.c
 */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "../lib/ev.h"
#include "../lib/log.h"
#include "ctl.h"
#include "job.h"

#define KERNEL_WAIT_MS 30000
#define IGNORE_MS      900

struct view_job *job_in_status(struct view_status *st, const char *id)
{
	for (unsigned i = 0; i < st->nr_jobs; i++) {
		if (streq(st->jobs[i].id, id))
			return &st->jobs[i];
	}
	return NULL;
}

bool job_wait_kernel(struct view *v, const char *id)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	uint64_t until = ev_now_ms() + KERNEL_WAIT_MS;
	struct timespec nap = { 0, 2000000 };

	do {
		struct view_job *k;

		if (view_get_status(v, st, NULL))
			return false;
		k = job_in_status(st, id);
		if (!k || streq(k->state, "concluded"))
			return true;
		nanosleep(&nap, NULL);
	} while (ev_now_ms() < until);
	return false;
}

void job_take_progress(struct job *j, const struct view_job *k)
{
	core_lock();
	j->len = k->total;
	if (k->done > j->offset)
		j->offset = k->done;
	core_unlock();
}

int job_parse_result(const char *result, char side[8])
{
	int code = EIO;
	const char *p = strchr(result, ':');

	snprintf(side, 8, "read");
	if (p && sscanf(p, ":%7[a-z]:%d", side, &code) < 1)
		code = EIO;
	return code;
}

void job_post_error(struct job *j, const char *side, const char *action)
{
	event_post("BLOCK_JOB_ERROR", json_pack("{s:s, s:s, s:s}", "device", j->id, "operation",
						side, "action", action));
}

static void fail(struct job *j, const struct view_job *k)
{
	char side[8];
	int code = job_parse_result(k->result, side);

	job_post_error(j, side, "report");
	job_set_error(j, strerror(code));
	job_fail(j);
}

static void stop_for_error(struct job *j, const char *side, int code)
{
	job_post_error(j, side, "stop");
	core_lock();
	j->user_paused = true;
	j->io_status = code == ENOSPC ? "nospace" : "failed";
	core_unlock();
	job_set_status(j, j->status == JOB_READY ? JOB_STANDBY : JOB_PAUSED);
}

/* What has failed is tried again, but not at once. */
static void ignore_error(struct job *j, const char *side)
{
	if (!j->ignored_at) {
		job_post_error(j, side, "ignore");
		j->ignored_at = ev_now_ms();
	} else if (ev_now_ms() >= j->ignored_at + IGNORE_MS) {
		j->ignored_at = 0;
		(void)view_message(j->source, NULL, NULL, "job %s resume", j->id);
	}
}

static void report_stopped(struct job *j, const struct view_job *k)
{
	struct err e = ERR_INIT;

	if (job_stop_kernel(j, &e))
		log_warn("%s", e.msg);
	fail(j, k);
}

/* The kernel waits; its policy is `report` or `stop`, what ours is more, is here. */
static void stopped(struct job *j, const struct view_job *k)
{
	char side[8];
	int code = job_parse_result(k->result, side);
	enum job_policy policy = j->policy[streq(side, "write") ? JOB_WRITE : JOB_READ];

	if (j->status == JOB_PAUSED || j->status == JOB_STANDBY)
		return;
	if (policy == JOB_IGNORE)
		ignore_error(j, side);
	else if (policy == JOB_ENOSPC && code != ENOSPC)
		report_stopped(j, k);
	else
		stop_for_error(j, side, code);
}

/* In ready: goes on once somebody has said how it shall end. */
static void end_ready(struct job *j)
{
	struct err e = ERR_INIT;
	int r = 0;

	/* Until finish(), which may be later, the target is kept equal. */
	if (j->soft_cancel)
		r = job_catch_up(j, false, &e);
	if (r == -EAGAIN) /* again, when the service looks next */
		return;
	if (!r) {
		job_succeed(j);
		return;
	}
	job_set_error(j, e.msg);
	(void)job_stop_kernel(j, NULL);
	job_fail(j);
}

static void go_on_copying(struct job *j, const struct view_job *k)
{
	bool ready = streq(k->state, "ready") || streq(k->state, "standby");

	if (str_has_prefix(k->result, "stopped"))
		stopped(j, k);
	else if (ready && j->status == JOB_RUNNING)
		job_become_ready(j);
	if (ready && j->status == JOB_READY && j->should_complete)
		end_ready(j);
}

/*
 * The last daemon died while a disk was to be switched: its guard let the old chain go on, and the
 * kernel's job has ended. The target is the disk as it was then.
 */
static bool lost_switch(struct job *j)
{
	if (!j->type->completable || j->soft_cancel)
		return false;
	job_set_error(j, "the daemon ended while it was about to switch the disk, which goes on as before");
	job_fail(j);
	return true;
}

/* A node's job goes on until the node goes; one that has failed keeps nothing any more. */
static void advance_hidden(struct job *j, const struct view_job *k)
{
	char side[8];
	int code;

	if (!streq(k->state, "concluded") || j->error)
		return;
	code = job_parse_result(k->result, side);
	job_set_error(j, strerror(code));
	log_error(
		"'%s': what the disk held could not be kept (%s, %s): reads of it fail from now on; the disk goes on",
		j->id, side, strerror(code));
}

static void advance(struct job *j, struct view_status *st)
{
	struct view_job *k = job_in_status(st, j->id);

	if (j->cleaned || j->kernel_gone || j->status >= JOB_WAITING)
		return;
	if (!k) {
		job_set_error(j, "the kernel has lost the job");
		job_fail(j);
		return;
	}
	job_take_progress(j, k);
	if (j->type->hidden) {
		advance_hidden(j, k);
		return;
	}
	if (!streq(k->state, "concluded")) {
		go_on_copying(j, k);
		return;
	}
	if (streq(k->result, "ok")) {
		job_leave_pause(j);
		if (!lost_switch(j))
			job_succeed(j);
	} else if (streq(k->result, "cancelled")) {
		core_lock();
		j->cancelled = true;
		core_unlock();
		job_set_error(j, "Operation canceled");
		job_fail(j);
	} else {
		fail(j, k);
	}
}

void job_advance_view(const char *dm)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	struct view *v = view_find(dm);
	char **ids;
	size_t n;

	if (!v || view_get_status(v, st, NULL))
		return;
	n = job_ids(v, &ids);
	for (size_t i = 0; i < n; i++) {
		struct job *j = job_find(ids[i]);

		if (j && j->source == v)
			advance(j, st);
	}
	job_ids_free(ids, n);
	job_keep_result();
}

struct news {
	char *dm;
};

static void news_work(void *arg)
{
	job_advance_view(((struct news *)arg)->dm);
}

static void news_done(void *arg)
{
	struct news *n = arg;

	free(n->dm);
	free(n);
}

static bool is_news(const struct view_job *k)
{
	struct job *j = job_find(k->id);

	if (!j || j->cleaned || j->starting || j->status >= JOB_WAITING)
		return false;
	if (j->type->hidden)
		return streq(k->state, "concluded") && !j->error;
	if (streq(k->state, "ready"))
		return j->status == JOB_RUNNING || (j->status == JOB_READY && j->should_complete);
	return streq(k->state, "concluded") ||
	       (str_has_prefix(k->result, "stopped") && j->status != JOB_PAUSED &&
		j->status != JOB_STANDBY);
}

void job_kernel_news(struct view *v)
{
	bool any = false;
	struct news *n;

	core_lock();
	for (unsigned i = 0; i < v->nr_seen; i++)
		any |= is_news(&v->seen[i]);
	core_unlock();
	if (!any)
		return;
	n = xcalloc(1, sizeof(*n));
	n->dm = xstrdup(v->dm);
	ctl_submit(news_work, news_done, n);
}
