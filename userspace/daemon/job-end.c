// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How jobs go on and end: what the kernel reports becomes QEMU's states and events.
 *
 *   kernel concluded ok       waiting, pending, [finalize] COMPLETED, concluded, [dismiss] null
 *   kernel concluded, error   [BLOCK_JOB_ERROR report] aborting, COMPLETED + error, concluded, null
 *   cancelled                 aborting, CANCELLED, concluded, null
 *   kernel stopped            BLOCK_JOB_ERROR stop, paused until job-resume
 */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "../lib/ev.h"
#include "../lib/log.h"
#include "ctl.h"
#include "job.h"
#include "state.h"

#define KERNEL_WAIT_MS 30000

static struct view_job *find_in(struct view_status *st, const char *id)
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
		k = find_in(st, id);
		if (!k || streq(k->state, "concluded"))
			return true;
		nanosleep(&nap, NULL);
	} while (ev_now_ms() < until);
	return false;
}

static void take_progress(struct job *j, const struct view_job *k)
{
	core_lock();
	j->len = k->total;
	if (k->done > j->offset)
		j->offset = k->done;
	core_unlock();
}

static struct json *block_job_data(const struct job *j)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:s, s:s?}", "device", j->id, "len", (int64_t)j->len,
			 "offset", (int64_t)j->offset, "speed", j->speed, "type", j->type->name,
			 "error", j->cancelled ? NULL : j->error);
}

static void set_error(struct job *j, const char *text)
{
	core_lock();
	if (!j->error)
		j->error = xstrdup(text);
	core_unlock();
}

/* Takes down what the start built. A failure is logged: the job's end does not hang on it. */
static void clean(struct job *j)
{
	struct err e = ERR_INIT;

	if (j->cleaned)
		return;
	if (j->type->clean(j, &e))
		log_warn("job '%s': %s", j->id, e.msg);
	core_lock();
	j->cleaned = true;
	j->source = j->target = NULL; /* they may end before the job is dismissed */
	core_unlock();
}

void job_dismiss(struct job *j)
{
	job_set_status(j, JOB_NULL);
	job_forget(j);
}

static void conclude(struct job *j)
{
	job_set_status(j, JOB_CONCLUDED);
	if (j->auto_dismiss)
		job_dismiss(j);
}

int job_finalize(struct job *j, struct err *e)
{
	(void)e;
	clean(j);
	event_post("BLOCK_JOB_COMPLETED", block_job_data(j));
	conclude(j);
	return 0;
}

/*
 * How a job ended is durable before what it was built of is taken down: a daemon that
 * starts in between finds nothing in the kernel that could tell.
 */
static void keep_result(void)
{
	struct err e = ERR_INIT;

	if (state_save(&e))
		log_error("%s", e.msg);
}

static void succeed(struct job *j)
{
	core_lock();
	j->offset = j->len;
	core_unlock();
	job_set_status(j, JOB_WAITING);
	job_set_status(j, JOB_PENDING);
	if (!j->auto_finalize) {
		event_post("BLOCK_JOB_PENDING",
			   json_pack("{s:s, s:s}", "type", j->type->name, "id", j->id));
		return;
	}
	keep_result();
	(void)job_finalize(j, NULL);
}

static void leave_pause(struct job *j)
{
	if (j->status != JOB_PAUSED)
		return;
	core_lock();
	j->user_paused = false;
	core_unlock();
	job_set_status(j, JOB_RUNNING);
}

static void end_aborted(struct job *j)
{
	clean(j);
	if (j->cancelled)
		event_post("BLOCK_JOB_CANCELLED", block_job_data(j));
	else
		event_post("BLOCK_JOB_COMPLETED", block_job_data(j));
	conclude(j);
}

static void abort_job(struct job *j)
{
	leave_pause(j);
	job_set_status(j, JOB_ABORTING);
	keep_result();
	end_aborted(j);
}

/* "error:write:5" or "stopped:read:28": side and errno. */
static int parse_result(const char *result, char side[8])
{
	int code = EIO;
	const char *p = strchr(result, ':');

	snprintf(side, 8, "read");
	if (p && sscanf(p, ":%7[a-z]:%d", side, &code) < 1)
		code = EIO;
	return code;
}

static void post_error(struct job *j, const char *side, const char *action)
{
	event_post("BLOCK_JOB_ERROR", json_pack("{s:s, s:s, s:s}", "device", j->id, "operation",
						side, "action", action));
}

static void fail(struct job *j, const struct view_job *k)
{
	char side[8];
	int code = parse_result(k->result, side);

	post_error(j, side, "report");
	set_error(j, strerror(code));
	abort_job(j);
}

static void stopped(struct job *j, const struct view_job *k)
{
	char side[8];
	int code = parse_result(k->result, side);

	if (j->status == JOB_PAUSED)
		return;
	post_error(j, side, "stop");
	core_lock();
	j->user_paused = true;
	j->io_status = code == ENOSPC ? "nospace" : "failed";
	core_unlock();
	job_set_status(j, JOB_PAUSED);
}

static void advance(struct job *j, struct view_status *st)
{
	struct view_job *k = find_in(st, j->id);

	if (j->cleaned || j->status >= JOB_WAITING)
		return;
	if (!k) {
		set_error(j, "the kernel has lost the job");
		abort_job(j);
		return;
	}
	take_progress(j, k);
	if (!streq(k->state, "concluded")) {
		if (str_has_prefix(k->result, "stopped"))
			stopped(j, k);
		return;
	}
	if (streq(k->result, "ok")) {
		leave_pause(j);
		succeed(j);
	} else if (streq(k->result, "cancelled")) {
		core_lock();
		j->cancelled = true;
		core_unlock();
		set_error(j, "Operation canceled");
		abort_job(j);
	} else {
		fail(j, k);
	}
}

void job_advance_view(const char *dm)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	struct view *v = view_find(dm);
	struct job *j;
	struct err e = ERR_INIT;

	if (!v || view_get_status(v, st, NULL))
		return;
	list_for_each(j, &job_list, link) {
		if (j->source == v)
			advance(j, st);
	}
	if (state_save(&e))
		log_error("%s", e.msg);
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

	if (!j || j->cleaned || j->status >= JOB_WAITING)
		return false;
	return streq(k->state, "concluded") ||
	       (str_has_prefix(k->result, "stopped") && j->status != JOB_PAUSED);
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

int job_cancel(struct job *j, struct err *e)
{
	core_lock();
	j->cancelled = true;
	core_unlock();
	set_error(j, "Operation canceled");
	if (!j->kernel_gone && j->source && j->status < JOB_WAITING) {
		_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
		int r = view_message(j->source, e, NULL, "job %s cancel", j->id);

		if (r)
			return r;
		if (!job_wait_kernel(j->source, j->id))
			return err_set(e, ETIMEDOUT,
				       "Job '%s' does not end: its target does not answer", j->id);
		if (!view_get_status(j->source, st, NULL) && find_in(st, j->id))
			take_progress(j, find_in(st, j->id));
	}
	abort_job(j);
	return 0;
}

static void go_on(struct job *j)
{
	switch (j->status) {
	case JOB_WAITING:
		succeed(j);
		break;
	case JOB_PENDING:
		if (j->auto_finalize)
			(void)job_finalize(j, NULL);
		break;
	case JOB_ABORTING:
		end_aborted(j);
		break;
	case JOB_CONCLUDED:
		if (j->auto_dismiss)
			job_dismiss(j);
		break;
	default:
		if (j->source)
			return; /* job_advance_view() asks the kernel */
		set_error(j, "its device is gone");
		abort_job(j);
	}
}

/* pause, resume, set-speed: the daemon died between the kernel's answer and the file. */
static void adopt_verbs(struct job *j, const struct view_job *k)
{
	bool paused = streq(k->state, "paused");

	core_lock();
	j->speed = (int64_t)k->speed;
	core_unlock();
	if (streq(k->state, "concluded") || str_has_prefix(k->result, "stopped") ||
	    paused == (j->status == JOB_PAUSED))
		return;
	core_lock();
	j->user_paused = paused;
	j->io_status = "ok";
	core_unlock();
	job_set_status(j, paused ? JOB_PAUSED : JOB_RUNNING);
}

static void adopt_view(const char *dm)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	struct view *v = view_find(dm);
	struct job *j;

	if (!v || view_get_status(v, st, NULL))
		return;
	list_for_each(j, &job_list, link) {
		struct view_job *k = j->source == v ? find_in(st, j->id) : NULL;

		if (k && (j->status == JOB_RUNNING || j->status == JOB_PAUSED))
			adopt_verbs(j, k);
	}
}

/* A disk with a job; the end of a job takes its other views away, so each is looked for anew. */
static char *next_source(const char *after)
{
	struct job *j;
	const char *found = NULL;

	list_for_each(j, &job_list, link) {
		if (j->source && !j->cleaned && strcmp(j->source->dm, after) > 0 &&
		    (!found || strcmp(j->source->dm, found) < 0))
			found = j->source->dm;
	}
	return found ? xstrdup(found) : NULL;
}

void job_go_on(void)
{
	struct job *j;
	char *dm, *next;

	list_for_each(j, &job_list, link)
		go_on(j);
	for (dm = next_source(""); dm; dm = next) {
		adopt_view(dm);
		job_advance_view(dm);
		next = next_source(dm);
		free(dm);
	}
	keep_result();
}

void job_quit(void)
{
	struct job *j;

	list_for_each(j, &job_list, link) {
		struct err e = ERR_INIT;

		if (j->status == JOB_CONCLUDED)
			job_dismiss(j);
		else if (job_cancel(j, &e))
			log_warn("job '%s': %s", j->id, e.msg);
	}
	/* quit leaves none concluded either */
	list_for_each(j, &job_list, link) {
		if (j->status == JOB_CONCLUDED)
			job_dismiss(j);
	}
}
