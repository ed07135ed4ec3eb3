// SPDX-License-Identifier: GPL-2.0-or-later
/* Jobs: the state tables, the registry, and what is kept for a restart. */
#include <errno.h>
#include <stdio.h>

#include "../lib/log.h"
#include "ctl.h"
#include "job.h"

struct list job_list = LIST_INIT(job_list);

const struct job_type *const job_types[] = {
	&backup_job, &create_job,	  &stream_job, &commit_job, &active_commit_job,
	&mirror_job, &overlay_mirror_job, &fleece_job, NULL,
};

static const char *const status_names[JOB_NR_STATUS] = {
	[JOB_CREATED] = "created",   [JOB_RUNNING] = "running",	    [JOB_PAUSED] = "paused",
	[JOB_READY] = "ready",	     [JOB_STANDBY] = "standby",	    [JOB_WAITING] = "waiting",
	[JOB_PENDING] = "pending",   [JOB_ABORTING] = "aborting",   [JOB_CONCLUDED] = "concluded",
	[JOB_NULL] = "null",
};

/* QEMU's transitions (job.c there). */
static const bool next[JOB_NR_STATUS][JOB_NR_STATUS] = {
	[JOB_CREATED] = { [JOB_RUNNING] = true, [JOB_ABORTING] = true, [JOB_NULL] = true },
	[JOB_RUNNING] = { [JOB_PAUSED] = true, [JOB_READY] = true, [JOB_WAITING] = true,
			  [JOB_ABORTING] = true },
	[JOB_PAUSED] = { [JOB_RUNNING] = true },
	[JOB_READY] = { [JOB_STANDBY] = true, [JOB_WAITING] = true, [JOB_ABORTING] = true },
	[JOB_STANDBY] = { [JOB_READY] = true },
	[JOB_WAITING] = { [JOB_PENDING] = true, [JOB_ABORTING] = true },
	[JOB_PENDING] = { [JOB_ABORTING] = true, [JOB_CONCLUDED] = true },
	[JOB_ABORTING] = { [JOB_ABORTING] = true, [JOB_CONCLUDED] = true },
	[JOB_CONCLUDED] = { [JOB_NULL] = true },
};

const char *job_status_name(enum job_status s)
{
	return status_names[s];
}

struct job *job_find(const char *id)
{
	struct job *j;

	list_for_each(j, &job_list, link) {
		if (streq(j->id, id))
			return j;
	}
	return NULL;
}

int job_check_id(const char *id, const char *fallback, const char **ret, struct err *e)
{
	if (!id)
		id = fallback ? fallback : "";
	if (!id_wellformed(id, LIVECHAIN_JOB_ID_MAX))
		return err_set(e, EINVAL, "Invalid job ID '%s'", id);
	if (job_find(id))
		return err_set(e, EEXIST, "Job ID '%s' already in use", id);
	*ret = id;
	return 0;
}

static void announce(const struct job *j)
{
	if (j->type->hidden)
		return;
	event_post("JOB_STATUS_CHANGE",
		   json_pack("{s:s, s:s}", "status", status_names[j->status], "id", j->id));
}

void job_set_status(struct job *j, enum job_status status)
{
	if (!next[j->status][status])
		log_error("job '%s': from %s to %s is no transition", j->id,
			  status_names[j->status], status_names[status]);
	core_lock();
	j->status = status;
	core_unlock();
	announce(j);
}

struct job *job_new(const char *id, const struct job_type *type, bool auto_finalize,
		    bool auto_dismiss, int64_t speed)
{
	struct job *j = xcalloc(1, sizeof(*j));

	j->id = xstrdup(id);
	j->type = type;
	j->auto_finalize = auto_finalize;
	j->auto_dismiss = auto_dismiss;
	j->speed = speed;
	j->io_status = "ok";
	j->status = JOB_CREATED;
	core_lock();
	list_add_tail(job_list.next, &j->link); /* the newest first, as QEMU lists them */
	core_unlock();
	return j;
}

/* The ids of the jobs that copy from @v (NULL: of all): each may end others when it is looked at. */
size_t job_ids(const struct view *v, char ***ret)
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

void job_ids_free(char **ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(ids[i]);
	free(ids);
}

unsigned job_new_group(void)
{
	unsigned group = 1;
	struct job *j;

	list_for_each(j, &job_list, link) {
		if (j->group >= group)
			group = j->group + 1;
	}
	return group;
}

size_t job_members(struct job *j, struct job ***ret)
{
	struct job *m;
	size_t n = 0;

	*ret = NULL;
	list_for_each(m, &job_list, link) {
		if (m != j && (!j->group || m->group != j->group))
			continue;
		*ret = xreallocarray(*ret, n + 1, sizeof(**ret));
		(*ret)[n++] = m;
	}
	return n;
}

void job_forget(struct job *j)
{
	core_lock();
	list_del(&j->link);
	core_unlock();
	free(j->chain);
	free(j->backing_file);
	free(j->base);
	free(j->top);
	free(j->id);
	free(j->error);
	free(j);
}

void job_abort_start(struct job *j)
{
	if (j->status == JOB_PAUSED)
		job_set_status(j, JOB_RUNNING);
	job_set_status(j, JOB_ABORTING);
	job_set_status(j, JOB_CONCLUDED);
	job_set_status(j, JOB_NULL);
	job_forget(j);
}

bool job_uses_view(const struct view *v)
{
	struct job *j;

	list_for_each(j, &job_list, link) {
		if (!j->cleaned && (j->source == v || j->target == v || j->disk == v))
			return true;
	}
	return false;
}
