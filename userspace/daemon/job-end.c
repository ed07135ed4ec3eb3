// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How jobs end: QEMU's states and events.
 *
 *   job_succeed()   waiting, pending, [finalize] COMPLETED, concluded, [dismiss] null
 *   job_fail()      aborting, COMPLETED + error (cancelled: CANCELLED), concluded, null
 */
#include <errno.h>

#include "../lib/log.h"
#include "ctl.h"
#include "job.h"
#include "state.h"

static struct json *block_job_data(const struct job *j)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:s, s:s?}", "device", j->id, "len", (int64_t)j->len,
			 "offset", (int64_t)j->offset, "speed", j->speed, "type", j->type->name,
			 "error", j->cancelled ? NULL : j->error);
}

void job_set_error(struct job *j, const char *text)
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
void job_keep_result(void)
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
	job_set_error(j, e->msg);
	job_set_status(j, JOB_ABORTING);
	job_keep_result();
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
		job_keep_result();
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
	job_keep_result();
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

void job_leave_pause(struct job *j)
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
int job_stop_kernel(struct job *j, struct err *e)
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
	if (!view_get_status(j->source, st, NULL) && job_in_status(st, j->id))
		job_take_progress(j, job_in_status(st, j->id));
	return 0;
}

static void mark_cancelled(struct job *j)
{
	core_lock();
	j->cancelled = true;
	core_unlock();
	job_set_error(j, "Operation canceled");
}

/* One of a group takes the others with it. */
static void cancel_others(struct job *j, struct job **members, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct err e = ERR_INIT;

		if (members[i] == j || members[i]->status >= JOB_ABORTING)
			continue;
		mark_cancelled(members[i]);
		if (job_stop_kernel(members[i], &e))
			log_warn("%s", e.msg);
		err_clear(&e);
	}
}

void job_fail(struct job *j)
{
	_cleanup_free_ struct job **members = NULL;
	size_t n = job_members(j, &members);

	job_leave_pause(j);
	job_set_status(j, JOB_ABORTING);
	cancel_others(j, members, n);
	job_keep_result();
	for (size_t i = 0; i < n; i++) {
		struct job *m = members[i];

		if (m->status >= JOB_CONCLUDED)
			continue;
		if (m != j) {
			job_leave_pause(m);
			job_set_status(m, JOB_ABORTING);
		}
		end_aborted(m);
	}
}

void job_become_ready(struct job *j)
{
	job_set_status(j, JOB_READY);
	event_post("BLOCK_JOB_READY", block_job_data(j));
}

int job_cancel(struct job *j, struct err *e)
{
	int r;

	mark_cancelled(j);
	r = job_stop_kernel(j, e);
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
	k = job_in_status(st, j->id);
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
		job_set_error(j, "its device is gone");
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
	    paused == (j->status == held))
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
		struct view_job *k = j->source == v ? job_in_status(st, j->id) : NULL;

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
	size_t n = job_ids(NULL, &ids);

	for (size_t i = 0; i < n; i++) {
		if (job_find(ids[i]))
			go_on(job_find(ids[i]));
	}
	job_ids_free(ids, n);
	for (dm = next_source(""); dm; dm = next) {
		adopt_view(dm);
		job_advance_view(dm);
		next = next_source(dm);
		free(dm);
	}
	job_keep_result();
}

/* Each alone is tried once; what concludes with it, or before, is dismissed. */
void job_quit(void)
{
	char **ids;
	size_t n = job_ids(NULL, &ids);

	for (unsigned pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < n; i++) {
			struct job *j = job_find(ids[i]);
			struct err e = ERR_INIT;

			if (j && j->type->hidden)
				continue; /* its node's end ends it */
			if (j && j->status == JOB_CONCLUDED)
				job_dismiss(j);
			else if (j && !pass && job_cancel(j, &e))
				log_warn("job '%s': %s", j->id, e.msg);
			err_clear(&e);
		}
	}
	job_ids_free(ids, n);
}
