// SPDX-License-Identifier: GPL-2.0-or-later
/* Jobs: the state tables, the registry, and what is kept for a restart. */
#include <errno.h>
#include <stdio.h>

#include "../lib/log.h"
#include "ctl.h"
#include "job.h"

struct list job_list = LIST_INIT(job_list);

const struct job_type *const job_types[] = { &backup_job, &create_job, NULL };

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
		if (!j->cleaned && (j->source == v || j->target == v))
			return true;
	}
	return false;
}

static struct json *save_one(const struct job *j)
{
	return json_pack(
		"{s:s, s:s, s:s, s:b, s:b, s:b, s:i, s:b, s:b, s:b, s:b, s:b, s:s, s:I, s:I, s:I, s:s?, s:s?, s:s?, s:s?, s:s?, s:i, s:b, s:b}",
		"id", j->id, "type", j->type->name, "status",
		status_names[j->starting ? JOB_RUNNING : j->status], "starting", j->starting,
		"finalizing", j->finalizing, "on-demand", j->on_demand, "group", (int)j->group,
		"auto-finalize", j->auto_finalize, "auto-dismiss", j->auto_dismiss, "user-paused",
		j->user_paused, "cancelled", j->cancelled, "cleaned", j->cleaned, "io-status",
		j->io_status, "speed", j->speed, "len", (int64_t)j->len,
		"offset", (int64_t)j->offset, "error", j->error, "source",
		j->source ? j->source->dm : NULL, "target", j->target ? j->target->dm : NULL,
		"source-node", j->source_node ? j->source_node->name : NULL, "target-node",
		j->target_node ? j->target_node->name : NULL, "dest", j->dest, "source-internal",
		j->source_internal, "kernel-gone", j->kernel_gone);
}

struct json *job_save(void)
{
	struct json *arr = json_arr();
	struct job *j;

	list_for_each(j, &job_list, link) {
		if (j->status != JOB_CREATED || j->starting) /* else: nothing to go on with */
			json_append(arr, save_one(j));
	}
	return arr;
}

static struct view *view_named(struct json *o, const char *key)
{
	const char *s = json_str_of(json_get(o, key));

	return s ? view_find(s) : NULL;
}

static struct node *node_named(struct json *o, const char *key)
{
	const char *s = json_str_of(json_get(o, key));

	return s ? node_find(s) : NULL;
}

static void hold_node(struct job *j, struct node *n)
{
	if (!n)
		return;
	n->users++;
	n->job = j->id;
	n->job_type = j->type->name;
}

static const char *io_status_of(const char *s)
{
	return !s || streq(s, "ok") ? "ok" : streq(s, "nospace") ? "nospace" : "failed";
}

static void restore_links(struct job *j, struct json *o)
{
	j->source = view_named(o, "source");
	j->target = view_named(o, "target");
	j->source_node = node_named(o, "source-node");
	j->target_node = node_named(o, "target-node");
	j->source_internal = json_bool_of(json_get(o, "source-internal"));
	j->cleaned = json_bool_of(json_get(o, "cleaned"));
	j->kernel_gone = json_bool_of(json_get(o, "kernel-gone"));
	if (j->cleaned)
		return;
	if (j->source)
		j->source->jobs++;
	hold_node(j, j->source_node);
	hold_node(j, j->target_node);
}

static const struct job_type *type_named(const char *name)
{
	for (unsigned i = 0; job_types[i]; i++) {
		if (streq(job_types[i]->name, name))
			return job_types[i];
	}
	return NULL;
}

static void restore_flags(struct job *j, struct json *o)
{
	int64_t group = 0;

	j->user_paused = json_bool_of(json_get(o, "user-paused"));
	j->cancelled = json_bool_of(json_get(o, "cancelled"));
	j->starting = json_bool_of(json_get(o, "starting"));
	j->finalizing = json_bool_of(json_get(o, "finalizing"));
	j->on_demand = json_bool_of(json_get(o, "on-demand"));
	(void)json_int_of(json_get(o, "group"), &group);
	j->group = (unsigned)group;
}

static int restore_one(struct json *o, struct err *e)
{
	const char *id, *status, *type;
	int64_t speed, len, offset, dest;
	struct job *j;
	int r;

	if ((r = json_need_str(o, "id", &id, e)) || (r = json_need_str(o, "status", &status, e)) ||
	    (r = json_need_str(o, "type", &type, e)) ||
	    (r = json_need_int(o, "speed", &speed, e)) || (r = json_need_int(o, "len", &len, e)) ||
	    (r = json_need_int(o, "offset", &offset, e)) ||
	    (r = json_need_int(o, "dest", &dest, e)))
		return r;
	if (!type_named(type))
		return err_set(e, EINVAL, "state: job type '%s' is unknown", type);
	j = job_new(id, type_named(type), json_bool_of(json_get(o, "auto-finalize")),
		    json_bool_of(json_get(o, "auto-dismiss")), speed);
	for (unsigned s = 0; s < JOB_NR_STATUS; s++) {
		if (streq(status, status_names[s]))
			j->status = s;
	}
	restore_flags(j, o);
	j->io_status = io_status_of(json_str_of(json_get(o, "io-status")));
	j->len = len;
	j->offset = offset;
	j->dest = (int)dest;
	if (json_str_of(json_get(o, "error")))
		j->error = xstrdup(json_str_of(json_get(o, "error")));
	restore_links(j, o);
	return 0;
}

int job_restore(struct json *jobs, struct err *e)
{
	int r = 0;

	for (size_t i = json_len(jobs); i-- > 0 && !r;)
		r = restore_one(json_at(jobs, i), e);
	return r;
}

static bool in_chain(const struct view *v, const struct node *n)
{
	for (const struct node *m = v->top; m; m = m->backing) {
		if (m == n)
			return true;
	}
	return false;
}

/*
 * A destination that no job uses, an overlay that did not become active: the
 * daemon died while it set one up or took it down.
 */
static int leftover_layer(const struct view *v)
{
	struct job *j;

	for (unsigned i = 0; i < v->nr_layers; i++) {
		bool used = !v->layers[i].dest && in_chain(v, v->layers[i].node);

		list_for_each(j, &job_list, link)
			used |= !j->cleaned && j->source == v && j->dest == v->layers[i].id;
		if (!used)
			return v->layers[i].id;
	}
	return -1;
}

static void drop_kernel_orphans(struct view *v)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));

	if (view_get_status(v, st, NULL))
		return;
	for (unsigned i = 0; i < st->nr_jobs; i++) {
		struct job *j = job_find(st->jobs[i].id);

		if (j && j->source == v && !j->kernel_gone)
			continue;
		(void)view_message(v, NULL, NULL, "job %s cancel", st->jobs[i].id);
		job_wait_kernel(v, st->jobs[i].id);
		(void)view_message(v, NULL, NULL, "job %s dismiss", st->jobs[i].id);
	}
}

void job_drop_leftovers(void)
{
	struct view *v;
	int id;

	list_for_each(v, &view_list, link) {
		drop_kernel_orphans(v);
		while ((id = leftover_layer(v)) >= 0) {
			struct err e = ERR_INIT;

			if (!view_layer(v, id)->dest && view_reclaim(v, id, &e))
				log_warn("'%s': %s", v->dm, e.msg);
			err_clear(&e);
			if (view_drop_layer(v, id, &e)) {
				log_warn("'%s': leftover layer %d: %s", v->dm, id, e.msg);
				break;
			}
		}
	}
}
