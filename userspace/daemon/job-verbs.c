// SPDX-License-Identifier: GPL-2.0-or-later
/* The commands about jobs: job-*, block-job-*, query-jobs, query-block-jobs; their events. */
#include <errno.h>

#include "ctl.h"
#include "job.h"
#include "mirror.h"
#include "state.h"

static const char *const verb_names[JOB_NR_VERBS] = {
	[JOB_VERB_CANCEL] = "cancel",	  [JOB_VERB_PAUSE] = "pause",
	[JOB_VERB_RESUME] = "resume",	  [JOB_VERB_SET_SPEED] = "set-speed",
	[JOB_VERB_COMPLETE] = "complete", [JOB_VERB_FINALIZE] = "finalize",
	[JOB_VERB_DISMISS] = "dismiss",	  [JOB_VERB_CHANGE] = "change",
};

#define BIT(s) (1u << (s))
#define LIVE \
	(BIT(JOB_CREATED) | BIT(JOB_RUNNING) | BIT(JOB_PAUSED) | BIT(JOB_READY) | BIT(JOB_STANDBY))

/* States that accept a verb (QEMU's table). */
static const unsigned verb_states[JOB_NR_VERBS] = {
	[JOB_VERB_CANCEL] = LIVE | BIT(JOB_WAITING) | BIT(JOB_PENDING),
	[JOB_VERB_PAUSE] = LIVE,
	[JOB_VERB_RESUME] = LIVE,
	[JOB_VERB_SET_SPEED] = LIVE,
	[JOB_VERB_COMPLETE] = BIT(JOB_READY) | BIT(JOB_STANDBY),
	[JOB_VERB_FINALIZE] = BIT(JOB_PENDING),
	[JOB_VERB_DISMISS] = BIT(JOB_CONCLUDED),
	[JOB_VERB_CHANGE] = LIVE,
};

static int check_verb(const struct job *j, enum job_verb verb, struct err *e)
{
	if (verb_states[verb] & BIT(j->status))
		return 0;
	return err_set(e, EPERM, "Job '%s' in state '%s' cannot accept command verb '%s'", j->id,
		       job_status_name(j->status), verb_names[verb]);
}

/* block-job-* name the job by `device` (or `id`) and have a class of their own. */
static int find(struct json *args, bool block, const char *key, struct job **ret, struct err *e)
{
	const char *id;
	int r = json_need_str(args, key, &id, e);

	if (r)
		return r;
	*ret = job_find(id);
	if (*ret && !(*ret)->type->hidden && (!block || (*ret)->type->block))
		return 0;
	if (block)
		return err_set_class(e, ERR_DEVICE_NOT_ACTIVE, ENOENT, "Block job '%s' not found",
				     id);
	return err_set(e, ENOENT, "Job not found");
}

/* To the kernel's job. -ESTALE: it has concluded, and nothing here knows yet. */
static int tell_kernel(struct job *j, const char *what, struct err *e)
{
	int r;

	if (j->kernel_gone) /* it has none */
		return 0;
	r = view_message(j->source, e, NULL, "job %s %s", j->id, what);
	return r == -EPERM ? -ESTALE : r;
}

typedef int (*verb_fn)(struct job *j, struct json *args, struct err *e);

/*
 * A verb that meets a job which has just concluded in the kernel does what it would have
 * done a moment later: the job goes on to its end, then it is looked for again.
 */
static int on_job(struct json *args, bool block, const char *key, verb_fn fn, struct err *e)
{
	_cleanup_free_ char *dm = NULL;
	struct job *j;
	int r = find(args, block, key, &j, e);

	if (!r)
		r = fn(j, args, e);
	if (r != -ESTALE)
		return r;
	err_clear(e);
	dm = xstrdup(j->source->dm);
	job_advance_view(dm);
	r = find(args, block, key, &j, e);
	return r ? r : fn(j, args, e);
}

static int do_pause(struct job *j, struct json *args, struct err *e)
{
	int r = check_verb(j, JOB_VERB_PAUSE, e);

	(void)args;
	if (r)
		return r;
	if (j->user_paused)
		return err_set(e, EBUSY, "Job is already paused");
	r = tell_kernel(j, "pause", e);
	if (r)
		return r;
	core_lock();
	j->user_paused = true;
	core_unlock();
	job_set_status(j, j->status == JOB_READY ? JOB_STANDBY : JOB_PAUSED);
	return state_save(e);
}

/* What copies nothing has nobody else to end it. */
static void end_at_once(struct job *j)
{
	if (j->kernel_gone && j->should_complete && j->status == JOB_READY)
		job_succeed(j);
}

static int do_resume(struct job *j, struct json *args, struct err *e)
{
	int r;

	(void)args;
	if (!j->user_paused)
		return err_set(e, EPERM, "Can't resume a job that was not paused");
	r = check_verb(j, JOB_VERB_RESUME, e);
	if (!r)
		r = tell_kernel(j, "resume", e);
	if (r)
		return r;
	core_lock();
	j->user_paused = false;
	j->io_status = "ok";
	core_unlock();
	job_set_status(j, j->status == JOB_STANDBY ? JOB_READY : JOB_RUNNING);
	end_at_once(j);
	return state_save(e);
}

static int do_cancel(struct job *j, struct json *args, struct err *e)
{
	int r = check_verb(j, JOB_VERB_CANCEL, e);

	(void)args;
	if (!r)
		r = job_cancel(j, e);
	return r ? r : state_save(e);
}

static int do_finalize(struct job *j, struct json *args, struct err *e)
{
	int r = check_verb(j, JOB_VERB_FINALIZE, e);

	(void)args;
	if (!r)
		r = job_finalize(j, e);
	return r ? r : state_save(e);
}

static int do_dismiss(struct job *j, struct json *args, struct err *e)
{
	int r = check_verb(j, JOB_VERB_DISMISS, e);

	(void)args;
	if (r)
		return r;
	job_dismiss(j);
	return state_save(e);
}

/* The answer comes first, as in QEMU: the service's next look at the job ends it (job-end.c). */
static int end_soon(struct job *j, bool soft_cancel, struct err *e)
{
	core_lock();
	j->soft_cancel = soft_cancel;
	j->should_complete = true;
	core_unlock();
	end_at_once(j);
	return state_save(e);
}

static int do_complete(struct job *j, struct json *args, struct err *e)
{
	int r = check_verb(j, JOB_VERB_COMPLETE, e);

	(void)args;
	if (!r && (!j->type->completable || j->soft_cancel))
		r = err_set(e, EPERM, "The active block job '%s' cannot be completed", j->id);
	return r ? r : end_soon(j, false, e);
}

static int do_block_cancel(struct job *j, struct json *args, struct err *e)
{
	bool force = false;
	int r = json_opt_bool(args, "force", &force, e);

	if (r)
		return r;
	if (j->user_paused && !force)
		return err_set(e, EBUSY, "The block job for device '%s' is currently paused",
			       j->id);
	if (!force && j->type->completable && j->status == JOB_READY)
		return end_soon(j, true, e);
	return do_cancel(j, args, e);
}

static int do_set_speed(struct job *j, struct json *args, struct err *e)
{
	_cleanup_free_ char *what = NULL;
	int64_t speed;
	int r = json_need_int(args, "speed", &speed, e);

	if (!r)
		r = check_verb(j, JOB_VERB_SET_SPEED, e);
	if (r)
		return r;
	if (speed < 0)
		return err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
	what = xasprintf("speed %lld", (long long)speed);
	r = tell_kernel(j, what, e);
	if (r)
		return r;
	core_lock();
	j->speed = speed;
	core_unlock();
	return state_save(e);
}

/* block-job-change: a mirror may become write-blocking, and stays so. */
static int do_change(struct job *j, struct json *args, struct err *e)
{
	const char *mode = "background";
	int r = check_verb(j, JOB_VERB_CHANGE, e);

	if (!r && j->type != &mirror_job)
		r = err_set(e, EOPNOTSUPP, "Job type does not support change");
	if (!r)
		r = json_need_str(args, "copy-mode", &mode, e);
	if (r || streq(mode, j->write_blocking ? "write-blocking" : "background"))
		return r;
	if (!streq(mode, "write-blocking")) /* QEMU's answer, in its words: it goes one way only */
		return err_set(e, EOPNOTSUPP, "Change to copy mode '%s' is not implemented", mode);
	r = tell_kernel(j, "mode both", e);
	if (r)
		return r;
	core_lock();
	j->write_blocking = true;
	core_unlock();
	return state_save(e);
}

#define VERB(fn, block, key)                                                         \
	static int fn##_##block(struct json *args, struct json **ret, struct err *e) \
	{                                                                            \
		(void)ret;                                                           \
		return on_job(args, block, key, fn, e);                              \
	}
VERB(do_pause, 0, "id")
VERB(do_pause, 1, "device")
VERB(do_resume, 0, "id")
VERB(do_resume, 1, "device")
VERB(do_cancel, 0, "id")
VERB(do_finalize, 0, "id")
VERB(do_finalize, 1, "id")
VERB(do_dismiss, 0, "id")
VERB(do_dismiss, 1, "id")
VERB(do_complete, 0, "id")
VERB(do_complete, 1, "device")
VERB(do_block_cancel, 1, "device")
VERB(do_set_speed, 1, "device")
VERB(do_change, 1, "id")

#define HANDLER(name, fn)                       \
	static void name(struct qmp_call *call) \
	{                                       \
		ctl_command(call, fn);          \
	}
HANDLER(cmd_job_pause, do_pause_0)
HANDLER(cmd_block_job_pause, do_pause_1)
HANDLER(cmd_job_resume, do_resume_0)
HANDLER(cmd_block_job_resume, do_resume_1)
HANDLER(cmd_job_cancel, do_cancel_0)
HANDLER(cmd_block_job_cancel, do_block_cancel_1)
HANDLER(cmd_job_finalize, do_finalize_0)
HANDLER(cmd_block_job_finalize, do_finalize_1)
HANDLER(cmd_job_dismiss, do_dismiss_0)
HANDLER(cmd_block_job_dismiss, do_dismiss_1)
HANDLER(cmd_job_complete, do_complete_0)
HANDLER(cmd_block_job_complete, do_complete_1)
HANDLER(cmd_set_speed, do_set_speed_1)
HANDLER(cmd_change, do_change_1)

/* How far it is, asked of the kernel now: status there never waits. */
static void refresh(struct job *j)
{
	_cleanup_free_ struct view_status *st = NULL;

	if (j->cleaned || j->status >= JOB_WAITING || !j->source)
		return;
	st = xmalloc(sizeof(*st));
	if (view_get_status(j->source, st, NULL))
		return;
	for (unsigned i = 0; i < st->nr_jobs; i++) {
		if (!streq(st->jobs[i].id, j->id))
			continue;
		j->len = st->jobs[i].total;
		if (st->jobs[i].done > j->offset)
			j->offset = st->jobs[i].done;
	}
}

static void cmd_query_jobs(struct qmp_call *call)
{
	struct json *arr = json_arr();
	struct job *j;

	core_lock();
	list_for_each(j, &job_list, link) {
		if (j->type->hidden)
			continue;
		refresh(j);
		json_append(arr, json_pack("{s:I, s:s, s:I, s:s, s:s, s:s?}", "current-progress",
					   (int64_t)j->offset, "status", job_status_name(j->status),
					   "total-progress", (int64_t)j->len, "type", j->type->name,
					   "id", j->id, "error", j->error));
	}
	core_unlock();
	ctl_answer(call, arr);
}

static struct json *block_job_info_of(const struct job *j)
{
	bool paused = j->status == JOB_PAUSED || j->status == JOB_STANDBY;
	bool ready = j->status == JOB_READY || j->status == JOB_STANDBY;
	struct json *o =
		json_pack("{s:b, s:s, s:s, s:b, s:b, s:I, s:I, s:s, s:b, s:I, s:b, s:s, s:s?}",
			  "auto-finalize", j->auto_finalize, "io-status", j->io_status, "device",
			  j->id, "auto-dismiss", j->auto_dismiss, "busy", j->status == JOB_RUNNING,
			  "len", (int64_t)j->len, "offset", (int64_t)j->offset, "status",
			  job_status_name(j->status), "paused", paused, "speed", j->speed, "ready",
			  ready, "type", j->type->name, "error", j->error);

	if (streq(j->type->name, "mirror"))
		json_add(o, "actively-synced",
			 json_bool(j->write_blocking && ready && j->offset >= j->len));
	return o;
}

static void cmd_query_block_jobs(struct qmp_call *call)
{
	struct json *arr = json_arr();
	struct job *j;

	core_lock();
	list_for_each(j, &job_list, link) {
		if (!j->type->block)
			continue;
		refresh(j);
		json_append(arr, block_job_info_of(j));
	}
	core_unlock();
	ctl_answer(call, arr);
}

static const struct qapi_member id_args[] = { { "id", &qapi_str, 0, NULL }, { 0 } };
static const struct qapi_member device_args[] = { { "device", &qapi_str, 0, NULL }, { 0 } };
static const struct qapi_member cancel_args[] = {
	{ "device", &qapi_str, 0, NULL },
	{ "force", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member speed_args[] = {
	{ "device", &qapi_str, 0, NULL },
	{ "speed", &qapi_int, 0, NULL },
	{ 0 },
};

static const char *const type_values[] = { "backup", "commit", "create", "mirror", "stream", NULL };
static const char *const status_values[] = { "created",	  "running", "paused",	"ready",
					     "standby",	  "waiting", "pending", "aborting",
					     "concluded", "null",    NULL };
static const char *const io_status_values[] = { "ok", "failed", "nospace", NULL };
static const char *const operation_values[] = { "read", "write", NULL };
static const char *const action_values[] = { "ignore", "report", "stop", NULL };
static const struct qapi_type job_type_enum = QAPI_ENUM("JobType", type_values);
static const struct qapi_type job_status_enum = QAPI_ENUM("JobStatus", status_values);
static const struct qapi_type io_status_enum = QAPI_ENUM("BlockDeviceIoStatus", io_status_values);
static const struct qapi_type operation_enum = QAPI_ENUM("IoOperationType", operation_values);
static const struct qapi_type action_enum = QAPI_ENUM("BlockErrorAction", action_values);

static const struct qapi_member change_common[] = {
	{ "id", &qapi_str, 0, NULL },
	{ "type", &job_type_enum, 0, NULL },
	{ 0 },
};
static const struct qapi_member change_mirror[] = { { "copy-mode", &mirror_copy_mode, 0, NULL }, { 0 } };
static const struct qapi_type change_mirror_type =
	QAPI_STRUCT("BlockJobChangeOptionsMirror", change_mirror);
static const struct qapi_branch change_branches[] = { { "mirror", &change_mirror_type }, { 0 } };
static const struct qapi_type change_options =
	QAPI_UNION("BlockJobChangeOptions", change_common, "type", change_branches);

static const struct qapi_member job_info_members[] = {
	{ "id", &qapi_str, 0, NULL },
	{ "type", &job_type_enum, 0, NULL },
	{ "status", &job_status_enum, 0, NULL },
	{ "current-progress", &qapi_int, 0, NULL },
	{ "total-progress", &qapi_int, 0, NULL },
	{ "error", &qapi_str, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type job_info = QAPI_STRUCT("JobInfo", job_info_members);
static const struct qapi_type job_infos = QAPI_ARRAY(&job_info);

static const struct qapi_member block_job_info_members[] = {
	{ "type", &job_type_enum, 0, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "len", &qapi_int, 0, NULL },
	{ "offset", &qapi_int, 0, NULL },
	{ "busy", &qapi_bool, 0, NULL },
	{ "paused", &qapi_bool, 0, NULL },
	{ "speed", &qapi_int, 0, NULL },
	{ "io-status", &io_status_enum, 0, NULL },
	{ "ready", &qapi_bool, 0, NULL },
	{ "status", &job_status_enum, 0, NULL },
	{ "auto-finalize", &qapi_bool, 0, NULL },
	{ "auto-dismiss", &qapi_bool, 0, NULL },
	{ "error", &qapi_str, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member info_mirror_members[] = {
	{ "actively-synced", &qapi_bool, 0, NULL },
	{ 0 },
};
static const struct qapi_type info_mirror = QAPI_STRUCT("BlockJobInfoMirror", info_mirror_members);
static const struct qapi_branch info_branches[] = { { "mirror", &info_mirror }, { 0 } };
static const struct qapi_type block_job_info =
	QAPI_UNION("BlockJobInfo", block_job_info_members, "type", info_branches);
static const struct qapi_type block_job_infos = QAPI_ARRAY(&block_job_info);

const struct qmp_command job_commands[] = {
	{ .name = "query-jobs", .handler = cmd_query_jobs, .ret = &job_infos },
	{ .name = "query-block-jobs", .handler = cmd_query_block_jobs, .ret = &block_job_infos },
	{ .name = "job-pause", .handler = cmd_job_pause, .args = id_args },
	{ .name = "job-resume", .handler = cmd_job_resume, .args = id_args },
	{ .name = "job-cancel", .handler = cmd_job_cancel, .args = id_args },
	{ .name = "job-complete", .handler = cmd_job_complete, .args = id_args },
	{ .name = "job-finalize", .handler = cmd_job_finalize, .args = id_args },
	{ .name = "job-dismiss", .handler = cmd_job_dismiss, .args = id_args },
	{ .name = "block-job-pause", .handler = cmd_block_job_pause, .args = device_args },
	{ .name = "block-job-resume", .handler = cmd_block_job_resume, .args = device_args },
	{ .name = "block-job-cancel", .handler = cmd_block_job_cancel, .args = cancel_args },
	{ .name = "block-job-complete", .handler = cmd_block_job_complete, .args = device_args },
	{ .name = "block-job-set-speed", .handler = cmd_set_speed, .args = speed_args },
	{ .name = "block-job-finalize", .handler = cmd_block_job_finalize, .args = id_args },
	{ .name = "block-job-dismiss", .handler = cmd_block_job_dismiss, .args = id_args },
	{ .name = "block-job-change", .handler = cmd_change, .arg_type = &change_options },
	{ 0 },
};

static const struct qapi_member status_data[] = {
	{ "id", &qapi_str, 0, NULL },
	{ "status", &job_status_enum, 0, NULL },
	{ 0 },
};
static const struct qapi_member end_data[] = {
	{ "type", &job_type_enum, 0, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "len", &qapi_int, 0, NULL },
	{ "offset", &qapi_int, 0, NULL },
	{ "speed", &qapi_int, 0, NULL },
	{ "error", &qapi_str, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member cancelled_data[] = {
	{ "type", &job_type_enum, 0, NULL }, { "device", &qapi_str, 0, NULL },
	{ "len", &qapi_int, 0, NULL },	     { "offset", &qapi_int, 0, NULL },
	{ "speed", &qapi_int, 0, NULL },     { 0 },
};
static const struct qapi_member pending_data[] = {
	{ "type", &job_type_enum, 0, NULL },
	{ "id", &qapi_str, 0, NULL },
	{ 0 },
};
static const struct qapi_member error_data[] = {
	{ "device", &qapi_str, 0, NULL },
	{ "operation", &operation_enum, 0, NULL },
	{ "action", &action_enum, 0, NULL },
	{ 0 },
};

const struct qmp_event_def job_events[] = {
	{ "JOB_STATUS_CHANGE", status_data },
	{ "BLOCK_JOB_COMPLETED", end_data },
	{ "BLOCK_JOB_CANCELLED", cancelled_data },
	{ "BLOCK_JOB_PENDING", pending_data },
	{ "BLOCK_JOB_ERROR", error_data },
	{ "BLOCK_JOB_READY", cancelled_data },
	{ 0 },
};
