// SPDX-License-Identifier: GPL-2.0-or-later
/* Jobs in the state folder, and what a daemon's death leaves of them. */
#include <errno.h>

#include "../lib/log.h"
#include "ctl.h"
#include "job.h"

static const char *kind_of(const struct job_type *t)
{
	return t->kind ? t->kind : t->name;
}

/* The kernel's name of a view: the device's may change hands. */
static const char *view_name(const struct view *v)
{
	return v ? v->kname : NULL;
}

static const char *node_name(const struct node *n)
{
	return n ? n->name : NULL;
}

static void save_state(const struct job *j, struct json *o)
{
	json_add(o, "starting", json_bool(j->starting));
	json_add(o, "finalizing", json_bool(j->finalizing));
	json_add(o, "finished", json_bool(j->finished));
	json_add(o, "auto-finalize", json_bool(j->auto_finalize));
	json_add(o, "auto-dismiss", json_bool(j->auto_dismiss));
	json_add(o, "user-paused", json_bool(j->user_paused));
	json_add(o, "cancelled", json_bool(j->cancelled));
	json_add(o, "should-complete", json_bool(j->should_complete));
	json_add(o, "soft-cancel", json_bool(j->soft_cancel));
	json_add(o, "cleaned", json_bool(j->cleaned));
	json_add(o, "kernel-gone", json_bool(j->kernel_gone));
	json_add(o, "source-internal", json_bool(j->source_internal));
	json_add(o, "write-blocking", json_bool(j->write_blocking));
}

static struct json *save_one(const struct job *j)
{
	enum job_status status = j->starting ? JOB_RUNNING : j->status;
	struct json *chain = json_arr();
	struct json *o = json_pack(
		"{s:s, s:s, s:s, s:i, s:s, s:I, s:I, s:I, s:s?, s:s?, s:s?, s:s?, s:s?, s:s?, s:i}",
		"id", j->id, "type", kind_of(j->type), "status", job_status_name(status), "group",
		(int)j->group, "io-status", j->io_status, "speed", j->speed, "len", (int64_t)j->len,
		"offset", (int64_t)j->offset, "error", j->error, "source", view_name(j->source),
		"target", view_name(j->target), "disk", view_name(j->disk), "source-node",
		node_name(j->source_node), "target-node", node_name(j->target_node), "dest", j->dest);

	save_state(j, o);
	for (unsigned i = 0; i < j->nr_chain; i++)
		json_append(chain, json_str(j->chain[i]->name));
	json_add(o, "chain", chain);
	json_add(o, "backing-file", j->backing_file ? json_str(j->backing_file) : NULL);
	json_add(o, "base", j->base ? json_str(j->base) : NULL);
	json_add(o, "top", j->top ? json_str(j->top) : NULL);
	json_add(o, "on-read-error", json_int(j->policy[JOB_READ]));
	json_add(o, "on-write-error", json_int(j->policy[JOB_WRITE]));
	return o;
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
	struct view *v;

	list_for_each(v, &view_list, link) {
		if (s && streq(v->kname, s))
			return v;
	}
	return s ? view_find(s) : NULL; /* as it was saved before views had to be told apart */
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
	if (j->type->hidden) /* the node that it is behind is a parent of @n */
		return;
	n->job = j->id;
	n->job_type = j->type->name;
}

static void restore_chain(struct job *j, struct json *names)
{
	for (size_t i = 0; i < json_len(names); i++) {
		const char *name = json_str_of(json_at(names, i));

		if (name && node_find(name))
			job_hold_node(j, node_find(name));
	}
}

static const char *io_status_of(const char *s)
{
	return !s || streq(s, "ok") ? "ok" : streq(s, "nospace") ? "nospace" : "failed";
}

static void restore_links(struct job *j, struct json *o)
{
	j->source = view_named(o, "source");
	j->target = view_named(o, "target");
	j->disk = view_named(o, "disk");
	j->source_node = node_named(o, "source-node");
	j->target_node = node_named(o, "target-node");
	j->source_internal = json_bool_of(json_get(o, "source-internal"));
	j->cleaned = json_bool_of(json_get(o, "cleaned"));
	j->kernel_gone = json_bool_of(json_get(o, "kernel-gone"));
	if (j->cleaned)
		return;
	j->held = true;
	if (j->source)
		j->source->jobs++;
	if (j->disk && j->disk != j->source)
		j->disk->jobs++;
	hold_node(j, j->source_node);
	hold_node(j, j->target_node);
	restore_chain(j, json_get(o, "chain"));
}

static const struct job_type *type_named(const char *name)
{
	for (unsigned i = 0; job_types[i]; i++) {
		if (streq(kind_of(job_types[i]), name))
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
	j->finished = json_bool_of(json_get(o, "finished"));
	j->should_complete = json_bool_of(json_get(o, "should-complete"));
	j->soft_cancel = json_bool_of(json_get(o, "soft-cancel"));
	j->write_blocking = json_bool_of(json_get(o, "write-blocking"));
	(void)json_int_of(json_get(o, "group"), &group);
	j->group = (unsigned)group;
}

static char *string_in(struct json *o, const char *key)
{
	const char *s = json_str_of(json_get(o, key));

	return s ? xstrdup(s) : NULL;
}

static void restore_arguments(struct job *j, struct json *o)
{
	int64_t on[JOB_NR_SIDES] = { JOB_REPORT, JOB_REPORT };

	j->backing_file = string_in(o, "backing-file");
	j->base = string_in(o, "base");
	j->top = string_in(o, "top");
	(void)json_int_of(json_get(o, "on-read-error"), &on[JOB_READ]);
	(void)json_int_of(json_get(o, "on-write-error"), &on[JOB_WRITE]);
	for (unsigned i = 0; i < JOB_NR_SIDES; i++)
		j->policy[i] = (enum job_policy)on[i];
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
		if (streq(status, job_status_name(s)))
			j->status = s;
	}
	restore_flags(j, o);
	j->io_status = io_status_of(json_str_of(json_get(o, "io-status")));
	j->len = len;
	j->offset = offset;
	j->dest = (int)dest;
	j->error = string_in(o, "error");
	restore_arguments(j, o);
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
