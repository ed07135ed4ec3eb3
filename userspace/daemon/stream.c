// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block-stream: an image gets copies of its own of what it has from images below it, which then
 * leave its chain.
 *
 * Into the active image of a disk it is the kernel's promote in the disk's own view. Into another
 * image it is the same in a view made for the job, which writes that image; the disk's entries are then
 * replaced by what the image says of itself.
 *
 * Order: what was promoted is durable; the header names the base; then the disk loses the layers. A
 * crash before the header leaves the old chain, with the image's copies equal to what they hide.
 */
#include <errno.h>

#include "ctl.h"
#include "export.h"
#include "job-copy.h"
#include "state.h"

struct stream_args {
	struct job_args job;
	const char *base_path, *base_node, *bottom_node, *backing_file;
	struct node *top, *base; /* @base NULL: none, all is streamed */
};

static int exclusive(const char *a, const char *name_a, const char *b, const char *name_b,
		     struct err *e)
{
	if (a && b)
		return err_set(e, EINVAL, "'%s' and '%s' cannot be specified at the same time",
			       name_a, name_b);
	return 0;
}

static int find_base(struct stream_args *a, struct err *e)
{
	struct node *n;
	int r;

	if (a->base_path) {
		a->base = node_find_backing(a->top, a->base_path);
		return a->base ? 0 : err_set(e, ENOENT, "Can't find '%s' in the backing chain",
					     a->base_path);
	}
	if (a->base_node) {
		r = device_lookup(NULL, a->base_node, &a->base, e);
		if (!r && (a->base == a->top || !node_chain_has(a->top, a->base)))
			r = err_set(e, EINVAL, "Node '%s' is not a backing image of '%s'",
				    a->base_node, a->top->name);
		return r;
	}
	if (!a->bottom_node)
		return 0;
	r = device_lookup(NULL, a->bottom_node, &n, e);
	if (!r && !node_chain_has(a->top, n))
		r = err_set(e, EINVAL, "Node '%s' is not in a chain starting from '%s'",
			    a->bottom_node, a->top->name);
	if (!r)
		a->base = n->backing;
	return r;
}

/* As QEMU: each image from the top to above the base must be no other job's. */
static int check_chain(const struct stream_args *a, struct err *e)
{
	for (const struct node *n = a->top; n && n != a->base; n = n->backing) {
		if (n->job)
			return err_set(e, EBUSY,
				       "Node '%s' is busy: block device is in use by block job: %s",
				       n->name, n->job_type);
	}
	if (a->backing_file && !a->base)
		return err_set(e, EINVAL, "backing file specified, but streaming the entire chain");
	if (node_is_protocol(a->top))
		return err_set(e, EINVAL,
			       "Node '%s' is a protocol node: streaming needs a format node",
			       a->top->name);
	return 0;
}

static int parse(struct json *args, struct stream_args *a, struct err *e)
{
	int r;

	if ((r = job_args_parse(args, &a->job, e)) ||
	    (r = json_opt_str(args, "base", &a->base_path, e)) ||
	    (r = json_opt_str(args, "base-node", &a->base_node, e)) ||
	    (r = json_opt_str(args, "bottom", &a->bottom_node, e)) ||
	    (r = json_opt_str(args, "backing-file", &a->backing_file, e)) ||
	    (r = exclusive(a->base_path, "base", a->base_node, "base-node", e)) ||
	    (r = exclusive(a->base_path, "base", a->bottom_node, "bottom", e)) ||
	    (r = exclusive(a->bottom_node, "bottom", a->base_node, "base-node", e)) ||
	    (r = device_find(a->job.device, &a->top, e)) || (r = find_base(a, e)) ||
	    (r = check_chain(a, e)))
		return r;
	return job_args_check(args, &a->job, e);
}

/* The view whose active layer the image is: the disk's, or one made for the job. */
static int writer(struct job *j, struct node *top, struct err *e)
{
	_cleanup_free_ char *dm = NULL;
	int r;

	j->disk = view_of_chain(top);
	if (j->disk && j->disk->top == top) {
		if (!j->disk->writable)
			return err_set(e, EACCES, "The disk '%s' is read-only: its image can't be written",
				       j->disk->dm);
		j->source = j->disk;
		return 0;
	}
	r = node_make_writable(top, e);
	if (r)
		return r;
	dm = xasprintf("livechain-%s--stream", j->id);
	r = view_start(top, dm, true, true, &j->source, e);
	j->source_internal = !r;
	if (r)
		(void)node_return(top, NULL);
	return r;
}

/* Nothing is below, or nothing between: no data is copied, and the header may get another name. */
static int copy_nothing(struct job *j, struct stream_args *a, struct err *e)
{
	int r = a->base ? node_make_writable(a->top, e) : 0;

	if (r)
		return job_begin_failed(j, r);
	core_lock();
	j->disk = view_of_chain(a->top);
	j->source_node = a->top;
	j->len = 0;
	j->kernel_gone = true;
	core_unlock();
	job_hold(j);
	job_set_status(j, JOB_RUNNING);
	job_succeed(j);
	return state_save(e);
}

static int start(struct job *j, struct stream_args *a, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;
	int r;

	r = writer(j, a->top, e);
	if (r)
		return job_begin_failed(j, r);
	core_lock();
	j->source_node = a->top;
	core_unlock();
	job_hold(j);
	for (struct node *n = a->top->backing; n != a->base; n = n->backing)
		job_hold_node(j, n);
	r = view_wait_loaded(j->source, e);
	if (r)
		return job_begin_failed(j, r);
	strbuf_addf(&text, "promote %s only ", j->id);
	job_print_layers(j, a->top->backing, a->base, &text);
	return job_start_kernel(j, strbuf_str(&text), false, e);
}

static int stream(struct json *args, struct json **ret, struct err *e)
{
	struct stream_args a = { 0 };
	struct job *j;
	int r = parse(args, &a, e);

	(void)ret;
	if (r)
		return r;
	j = job_begin(&a.job, &stream_job, a.top->size);
	j->base = a.base ? xstrdup(a.base->name) : NULL;
	j->backing_file = a.backing_file ? xstrdup(a.backing_file) : NULL;
	return a.top->backing == a.base ? copy_nothing(j, &a, e) : start(j, &a, e);
}

static int stream_finish(struct job *j, struct err *e)
{
	struct node *top = j->source_node, *base = j->base ? node_find(j->base) : NULL;
	int r = 0;

	if (j->base && !base)
		return err_set(e, ENOENT, "the base node '%s' is gone", j->base);
	if (j->source)
		job_drop_kernel(j);
	if (j->source && j->source_internal)
		r = job_stop_views(j, e);
	if (!r && top->backing) /* else there was none, or its name is gone already */
		r = node_write_backing(top, base, j->backing_file, e);
	if (r)
		return r;
	if (top->backing != base)
		views_set_backing(top, base);
	if (top->file->reopened)
		r = node_return(top, e);
	return r ? r : views_forget_nodes(top, j->chain, j->nr_chain, e);
}

const struct job_type stream_job = {
	.name = "stream", .block = true,
	.clean = job_copy_clean,
	.finish = stream_finish,
};

static void cmd_stream(struct qmp_call *call)
{
	ctl_command(call, stream);
}

static const struct qapi_member stream_members[] = {
	{ "job-id", &qapi_str, QAPI_OPT, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "base", &qapi_str, QAPI_OPT, NULL },
	{ "base-node", &qapi_str, QAPI_OPT, NULL },
	{ "backing-file", &qapi_str, QAPI_OPT, NULL },
	{ "bottom", &qapi_str, QAPI_OPT, NULL },
	{ "speed", &qapi_int, QAPI_OPT, NULL },
	{ "on-error", &job_on_error, QAPI_OPT, NULL },
	{ "filter-node-name", &qapi_str, QAPI_OPT, NULL },
	{ "auto-finalize", &qapi_bool, QAPI_OPT, NULL },
	{ "auto-dismiss", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};

const struct qmp_command stream_commands[] = {
	{ .name = "block-stream", .handler = cmd_stream, .args = stream_members },
	{ 0 },
};
