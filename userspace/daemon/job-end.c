// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How jobs go on and end: what the kernel reports becomes QEMU's states and events.
 *
 *   kernel concluded ok       waiting, pending, [finalize] COMPLETED, concluded, [dismiss] null
 *   kernel concluded, error   [BLOCK_JOB_ERROR report] aborting, COMPLETED + error, concluded, null
 *   cancelled                 aborting, CANCELLED, concluded, null
 *   kernel stopped            BLOCK_JOB_ERROR stop, paused until job-resume; or what the policy says
 *   kernel ready              ready, BLOCK_JOB_READY; then as the client says: job-ready.c
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
#define IGNORE_MS      900

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

static void end_aborted(struct job *j);

/* Its result did not come to count: as QEMU's `prepare` that fails. */
static void unfinished(struct job *j, const struct err *e)
{
	log_error("job '%s': %s", j->id, e->msg);
	set_error(j, e->msg);
	job_set_status(j, JOB_ABORTING);
	keep_result();
	end_aborted(j);
}

static void complete(struct job *j)
{
	struct err e = ERR_INIT;

	if (j->type->finish && !j->soft_cancel && !j->finished && j->type->finish(j, &e)) {
		unfinished(j, &e);
		return;
	}
	j->finished = true;
	if (j->type->finish)
		keep_result();
	clean(j);
	if (j->type->block)
		event_post("BLOCK_JOB_COMPLETED", block_job_data(j));
	conclude(j);
}

int job_finalize(struct job *j, struct err *e)
{
	_cleanup_free_ struct job **members = NULL;
	size_t n = job_members(j, &members);

	(void)e;
	for (size_t i = 0; i < n; i++)
		members[i]->finalizing = true;
	keep_result();
	for (size_t i = 0; i < n; i++) {
		if (members[i]->status == JOB_PENDING)
			complete(members[i]);
	}
	return 0;
}

/* All that complete with it wait: all are pending, and if none wants a word from outside, done. */
static void group_ready(struct job *j)
{
	_cleanup_free_ struct job **members = NULL;
	size_t n = job_members(j, &members);
	bool automatic = true;

	for (size_t i = 0; i < n; i++) {
		if (members[i]->status < JOB_WAITING)
			return;
	}
	for (size_t i = 0; i < n; i++) {
		struct job *m = members[i];

		automatic &= m->auto_finalize || m->finalizing;
		if (m->status != JOB_WAITING)
			continue;
		job_set_status(m, JOB_PENDING);
		if (!m->auto_finalize && m->type->block)
			event_post("BLOCK_JOB_PENDING",
				   json_pack("{s:s, s:s}", "type", m->type->name, "id", m->id));
	}
	if (automatic)
		(void)job_finalize(j, NULL);
}

void job_succeed(struct job *j)
{
	core_lock();
	j->offset = j->len;
	core_unlock();
	job_set_status(j, JOB_WAITING);
	group_ready(j);
}

static void leave_pause(struct job *j)
{
	if (j->status != JOB_PAUSED && j->status != JOB_STANDBY)
		return;
	core_lock();
	j->user_paused = false;
	core_unlock();
	job_set_status(j, j->status == JOB_STANDBY ? JOB_READY : JOB_RUNNING);
}

static void end_aborted(struct job *j)
{
	clean(j);
	if (j->type->block)
		event_post(j->cancelled ? "BLOCK_JOB_CANCELLED" : "BLOCK_JOB_COMPLETED",
			   block_job_data(j));
	conclude(j);
}

/* Has the kernel let go of it. */
static int stop_kernel(struct job *j, struct err *e)
{
	_cleanup_free_ struct view_status *st = NULL;
	int r;

	if (j->kernel_gone || j->cleaned || !j->source ||
	    (j->status >= JOB_WAITING && !j->type->completable))
		return 0;
	r = view_message(j->source, e, NULL, "job %s cancel", j->id);
	if (r)
		return r;
	if (!job_wait_kernel(j->source, j->id))
		return err_set(e, ETIMEDOUT, "Job '%s' does not end: its target does not answer",
			       j->id);
	st = xmalloc(sizeof(*st));
	if (!view_get_status(j->source, st, NULL) && find_in(st, j->id))
		take_progress(j, find_in(st, j->id));
	return 0;
}

static void mark_cancelled(struct job *j)
{
	core_lock();
	j->cancelled = true;
	core_unlock();
	set_error(j, "Operation canceled");
}

/* One of a group takes the others with it. */
static void cancel_others(struct job *j, struct job **members, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct err e = ERR_INIT;

		if (members[i] == j || members[i]->status >= JOB_ABORTING)
			continue;
		mark_cancelled(members[i]);
		if (stop_kernel(members[i], &e))
			log_warn("%s", e.msg);
		err_clear(&e);
	}
}

void job_fail(struct job *j)
{
	_cleanup_free_ struct job **members = NULL;
	size_t n = job_members(j, &members);

	leave_pause(j);
	job_set_status(j, JOB_ABORTING);
	cancel_others(j, members, n);
	keep_result();
	for (size_t i = 0; i < n; i++) {
		struct job *m = members[i];

		if (m->status >= JOB_CONCLUDED)
			continue;
		if (m != j) {
			leave_pause(m);
			job_set_status(m, JOB_ABORTING);
		}
		end_aborted(m);
	}
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
	job_fail(j);
}

static void stop_for_error(struct job *j, const char *side, int code)
{
	post_error(j, side, "stop");
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
		post_error(j, side, "ignore");
		j->ignored_at = ev_now_ms();
	} else if (ev_now_ms() >= j->ignored_at + IGNORE_MS) {
		j->ignored_at = 0;
		(void)view_message(j->source, NULL, NULL, "job %s resume", j->id);
	}
}

static void report_stopped(struct job *j, const struct view_job *k)
{
	struct err e = ERR_INIT;

	if (stop_kernel(j, &e))
		log_warn("%s", e.msg);
	fail(j, k);
}

/* The kernel waits; its policy is `report` or `stop`, what ours is more, is here. */
static void stopped(struct job *j, const struct view_job *k)
{
	char side[8];
	int code = parse_result(k->result, side);
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

static void become_ready(struct job *j)
{
	job_set_status(j, JOB_READY);
	event_post("BLOCK_JOB_READY", block_job_data(j));
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
	set_error(j, e.msg);
	(void)stop_kernel(j, NULL);
	job_fail(j);
}

static void go_on_copying(struct job *j, const struct view_job *k)
{
	bool ready = streq(k->state, "ready") || streq(k->state, "standby");

	if (str_has_prefix(k->result, "stopped"))
		stopped(j, k);
	else if (ready && j->status == JOB_RUNNING)
		become_ready(j);
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
	set_error(j, "the daemon ended while it was about to switch the disk, which goes on as before");
	job_fail(j);
	return true;
}

static void advance(struct job *j, struct view_status *st)
{
	struct view_job *k = find_in(st, j->id);

	if (j->cleaned || j->status >= JOB_WAITING)
		return;
	if (!k) {
		set_error(j, "the kernel has lost the job");
		job_fail(j);
		return;
	}
	take_progress(j, k);
	if (!streq(k->state, "concluded")) {
		go_on_copying(j, k);
		return;
	}
	if (streq(k->result, "ok") && j->on_demand)
		return; /* all is saved; QEMU's goes on until it is cancelled */
	if (streq(k->result, "ok")) {
		leave_pause(j);
		if (!lost_switch(j))
			job_succeed(j);
	} else if (streq(k->result, "cancelled")) {
		core_lock();
		j->cancelled = true;
		core_unlock();
		set_error(j, "Operation canceled");
		job_fail(j);
	} else {
		fail(j, k);
	}
}

/* The ids of the jobs that copy from @v (NULL: of all): each may end others when it is looked at. */
static size_t ids_of(const struct view *v, char ***ret)
{
	struct job *j;
	size_t n = 0;

	*ret = NULL;
	list_for_each(j, &job_list, link) {
		if (v && j->source != v)
			continue;
		*ret = xreallocarray(*ret, n + 1, sizeof(**ret));
		(*ret)[n++] = xstrdup(j->id);
	}
	return n;
}

static void free_ids(char **ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(ids[i]);
	free(ids);
}

void job_advance_view(const char *dm)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	struct view *v = view_find(dm);
	char **ids;
	size_t n;

	if (!v || view_get_status(v, st, NULL))
		return;
	n = ids_of(v, &ids);
	for (size_t i = 0; i < n; i++) {
		struct job *j = job_find(ids[i]);

		if (j && j->source == v)
			advance(j, st);
	}
	free_ids(ids, n);
	keep_result();
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
	if (j->on_demand && streq(k->result, "ok"))
		return false;
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

int job_cancel(struct job *j, struct err *e)
{
	int r;

	mark_cancelled(j);
	r = stop_kernel(j, e);
	if (!r)
		job_fail(j);
	return r;
}

/* The daemon died while a transaction began: it did not, or it did and the guard undid it. */
static bool never_began(const struct job *j)
{
	_cleanup_free_ struct view_status *st = NULL;
	struct view_job *k;

	if (!j->starting)
		return false;
	if (!j->source)
		return true;
	st = xmalloc(sizeof(*st));
	if (view_get_status(j->source, st, NULL))
		return true;
	k = find_in(st, j->id);
	return !k || streq(k->result, "cancelled");
}

static void go_on(struct job *j)
{
	if (never_began(j)) {
		log_notice("job '%s' was about to begin when the last daemon ended", j->id);
		clean(j);
		job_abort_start(j);
		return;
	}
	j->starting = false;
	if (j->cancelled && j->status < JOB_ABORTING) {
		mark_cancelled(j);
		job_fail(j);
		return;
	}
	switch (j->status) {
	case JOB_WAITING:
	case JOB_PENDING:
		group_ready(j);
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
		job_fail(j);
	}
}

/* pause, resume, set-speed: the daemon died between the kernel's answer and the file. */
static void adopt_verbs(struct job *j, const struct view_job *k)
{
	bool ready = j->status == JOB_READY || j->status == JOB_STANDBY;
	bool paused = streq(k->state, ready ? "standby" : "paused");
	enum job_status held = ready ? JOB_STANDBY : JOB_PAUSED;

	core_lock();
	j->speed = (int64_t)k->speed;
	core_unlock();
	if (streq(k->state, "concluded") || str_has_prefix(k->result, "stopped") ||
	    j->on_demand || paused == (j->status == held))
		return;
	core_lock();
	j->user_paused = paused;
	j->io_status = "ok";
	core_unlock();
	job_set_status(j, paused ? held : ready ? JOB_READY : JOB_RUNNING);
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

		if (k && j->status >= JOB_RUNNING && j->status <= JOB_STANDBY)
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
	char *dm, *next, **ids;
	size_t n = ids_of(NULL, &ids);

	for (size_t i = 0; i < n; i++) {
		if (job_find(ids[i]))
			go_on(job_find(ids[i]));
	}
	free_ids(ids, n);
	for (dm = next_source(""); dm; dm = next) {
		adopt_view(dm);
		job_advance_view(dm);
		next = next_source(dm);
		free(dm);
	}
	keep_result();
}

/* Each alone is tried once; what concludes with it, or before, is dismissed. */
void job_quit(void)
{
	char **ids;
	size_t n = ids_of(NULL, &ids);

	for (unsigned pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < n; i++) {
			struct job *j = job_find(ids[i]);
			struct err e = ERR_INIT;

			if (j && j->status == JOB_CONCLUDED)
				job_dismiss(j);
			else if (j && !pass && job_cancel(j, &e))
				log_warn("job '%s': %s", j->id, e.msg);
			err_clear(&e);
		}
	}
	free_ids(ids, n);
}
