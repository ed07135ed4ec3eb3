// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block-commit: what images have over a base goes into the base, and they leave the chain.
 *
 * Active (the topmost is what the guest writes): the kernel's copy in mode track, from the disk's view
 * into a view of the base's own chain, without what comes from the base or below. When it is completed the
 * disk goes on as that view.
 *
 * Intermediate: a plain copy from a view of the topmost image's chain, which nobody writes; then the
 * image above it gets the base as its backing file, and the disk's entries are replaced.
 *
 * Order: base durable; then the header above, or which image is active; then the disk loses the layers.
 * Until then what is hidden in the base is all that changed.
 */
#include <errno.h>

#include "../lib/log.h"
#include "ctl.h"
#include "export.h"
#include "job-copy.h"
#include "state.h"

struct commit_args {
	struct job_args job;
	const char *base_path, *base_node, *top_path, *top_node, *backing_file;
	struct node *device, *top, *base, *overlay; /* @overlay: above @top; NULL: active commit */
};

static int find_device(struct commit_args *a, struct err *e)
{
	if (device_find(a->job.device, &a->device, e)) {
		err_clear(e);
		return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found",
				     a->job.device);
	}
	if (a->device->job || a->device->parents)
		return err_set(e, EBUSY, "Need a root block node");
	return 0;
}

static int in_chain_of(const struct node *top, const struct node *n, const char *name, struct err *e)
{
	if (node_chain_has(top, n))
		return 0;
	return err_set(e, EINVAL, "'%s' is not in this backing file chain", name);
}

static int find_top(struct commit_args *a, struct err *e)
{
	int r;

	a->top = a->device;
	if (a->top_node && a->top_path)
		return err_set(e, EINVAL, "'top-node' and 'top' are mutually exclusive");
	if (a->top_node) {
		r = device_lookup(NULL, a->top_node, &a->top, e);
		return r ? r : in_chain_of(a->device, a->top, a->top_node, e);
	}
	if (a->top_path && !node_is_file(a->device, a->top_path))
		a->top = node_find_backing(a->device, a->top_path);
	if (!a->top)
		return err_set(e, ENOENT, "Top image file %s not found", a->top_path);
	return 0;
}

static int find_base(struct commit_args *a, struct err *e)
{
	int r;

	if (a->base_node && a->base_path)
		return err_set(e, EINVAL, "'base-node' and 'base' are mutually exclusive");
	if (a->base_node) {
		r = device_lookup(NULL, a->base_node, &a->base, e);
		return r ? r : in_chain_of(a->top, a->base, a->base_node, e);
	}
	if (a->base_path) {
		a->base = node_find_backing(a->top, a->base_path);
		return a->base ? 0 : err_set(e, ENOENT, "Can't find '%s' in the backing chain",
					     a->base_path);
	}
	for (a->base = a->top; a->base->backing;)
		a->base = a->base->backing;
	return 0;
}

/* Nobody besides its overlay @over may be above @n: it would read something else after the commit. */
static int check_private(const struct commit_args *a, const struct node *n, const struct node *over,
			 struct err *e)
{
	const struct node *p = node_parent(n, over), *last = p, *q = p;
	int r = view_check_ended(n, e);

	if (r)
		return r;
	for (; q; q = node_parent(q, NULL))
		last = q;
	if (p)
		return err_set(
			e, EBUSY,
			"Node '%s' is busy: it is below node '%s', too, which would change: %s '%s' first",
			node_shown(n)->name, node_shown(p)->name,
			last->users ? "end the use of" : "blockdev-del", node_shown(last)->name);
	return !n->users ? 0
			 : err_set(e, EBUSY, "Node '%s' is busy: it is used by others than '%s'",
				   node_shown(n)->name, a->device->name);
}

/* Of what is to be changed nobody else may have use: it would be another disk's content, too. */
static int check_shared(const struct commit_args *a, struct err *e)
{
	const struct node *over = a->overlay, *n = a->top;
	int r;

	for (;; over = n, n = n->backing) {
		r = n != a->device ? check_private(a, n, over, e) : 0;
		if (r || n == a->base)
			return r;
	}
}

static int check_chain(struct commit_args *a, struct err *e)
{
	for (const struct node *n = a->top; n; n = n->backing) {
		if (n->job)
			return err_set(e, EBUSY,
				       "Node '%s' is busy: block device is in use by block job: %s",
				       n->name, n->job_type);
		if (n == a->base)
			break;
	}
	if (a->top == a->base)
		return err_set(e, EINVAL, "cannot commit an image into itself");
	if (a->top == a->device && a->backing_file)
		return err_set(e, EINVAL, "'backing-file' specified, but 'top' is the active layer");
	if (a->top != a->device)
		for (a->overlay = a->device; a->overlay->backing != a->top;)
			a->overlay = a->overlay->backing;
	if (a->overlay && a->overlay->job)
		return err_set(e, EBUSY,
			       "Node '%s' is busy: block device is in use by block job: %s",
			       a->overlay->name, a->overlay->job_type);
	return check_shared(a, e);
}

/* A smaller base grows. Of a larger one the end would be seen again, by the image above or by the guest. */
static int check_sizes(const struct commit_args *a, struct err *e)
{
	uint64_t seen = a->overlay ? a->overlay->size : a->base->size;

	seen = seen < a->base->size ? seen : a->base->size;
	if (seen > a->top->size)
		return err_set(e, EINVAL,
			       "Image '%s' is larger than what is committed into it: its end would be seen again",
			       a->base->file->filename);
	return node_check_grow(a->base, a->top->size, e);
}

static int parse(struct json *args, struct commit_args *a, struct err *e)
{
	int r;

	if ((r = job_args_parse(args, &a->job, e)) ||
	    (r = json_opt_str(args, "base", &a->base_path, e)) ||
	    (r = json_opt_str(args, "base-node", &a->base_node, e)) ||
	    (r = json_opt_str(args, "top", &a->top_path, e)) ||
	    (r = json_opt_str(args, "top-node", &a->top_node, e)) ||
	    (r = json_opt_str(args, "backing-file", &a->backing_file, e)) ||
	    (r = find_device(a, e)) || (r = find_top(a, e)) || (r = find_base(a, e)) ||
	    (r = check_chain(a, e)) || (r = check_sizes(a, e)))
		return r;
	return job_args_check(args, &a->job, e);
}

static void hold(struct job *j, struct commit_args *a)
{
	core_lock();
	j->source_node = a->top;
	j->target_node = a->base;
	core_unlock();
	job_hold(j);
	for (struct node *n = a->top->backing; n != a->base; n = n->backing)
		job_hold_node(j, n);
	if (a->overlay) { /* as in QEMU neither it nor the disk can have another job */
		job_hold_node(j, a->overlay);
		if (a->overlay != a->device)
			job_hold_node(j, a->device);
	}
}

/* What it is copied from, and into. */
static int build(struct job *j, struct commit_args *a, struct err *e)
{
	dev_t dev;
	int r;

	j->disk = view_of_chain(a->device);
	if (j->disk && !j->disk->writable)
		return err_set(e, EACCES, "The disk '%s' is read-only: its chain can't be changed",
			       j->disk->dm);
	r = job_source_view(j, a->top, e);
	if (r)
		return r;
	hold(j, a);
	r = node_make_writable(a->base, e);
	if (!r)
		r = node_grow(a->base, a->top->size, e);
	if (!r)
		r = job_target_view(j, a->base, &dev, e);
	if (r)
		return r;
	j->dest = view_add_layer(j->source, NULL, dev, true, e);
	return j->dest < 0 ? j->dest : 0;
}

static int commit(struct json *args, struct json **ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;
	struct commit_args a = { 0 };
	struct job *j;
	int r = parse(args, &a, e);

	(void)ret;
	if (r)
		return r;
	j = job_begin(&a.job, a.overlay ? &commit_job : &active_commit_job, a.top->size);
	j->backing_file = a.backing_file ? xstrdup(a.backing_file) : NULL;
	j->base = xstrdup(a.base->name);
	j->top = a.overlay ? xstrdup(a.overlay->name) : NULL;
	r = build(j, &a, e);
	if (r)
		return job_begin_failed(j, r);
	strbuf_addf(&text, "copy %s %d %s skip ", j->id, j->dest, a.overlay ? "none" : "track");
	job_print_layers(j, a.base, NULL, &text);
	return job_start_kernel(j, strbuf_str(&text), !a.overlay, e);
}

/* The images that were committed: those of the job but the base and what is above. */
static unsigned committed(struct job *j, const struct node *overlay, struct node **ret)
{
	unsigned n = 0;

	ret[n++] = j->source_node;
	for (unsigned i = 0; i < j->nr_chain && j->chain[i] != overlay; i++)
		ret[n++] = j->chain[i];
	return n;
}

/*
 * The chain has left the images @nodes, durably: they show part of what has been committed, and the
 * lowest has no use for the base any more, which may become a disk's active image.
 */
static void retire(struct job *j, struct node **nodes, unsigned nr)
{
	struct node *base = j->target_node;
	_cleanup_free_ char *why = xasprintf("it was committed into '%s'", base->file->filename);

	for (unsigned i = 0; i < nr; i++) {
		if (nodes[i]->backing == base)
			views_set_backing(nodes[i], NULL);
		node_mark_invalid(nodes[i], why);
	}
}

/* ---- the end of an intermediate one ------------------------------------------------------ */

static int write_overlay(struct job *j, struct node *overlay, struct node *base, struct err *e)
{
	int r = node_make_writable(overlay, e);

	if (!r)
		r = node_write_backing(overlay, base, j->backing_file, e);
	return r;
}

static int commit_finish(struct job *j, struct err *e)
{
	_cleanup_free_ struct node **gone = xcalloc(j->nr_chain + 1, sizeof(*gone));
	struct node *overlay = j->top ? node_find(j->top) : NULL, *base = j->target_node;
	unsigned n;
	int r;

	if (!overlay)
		return err_set(e, ENOENT, "the image above is gone");
	n = committed(j, overlay, gone);
	if (j->source)
		job_drop_kernel(j);
	r = job_stop_views(j, e);
	if (!r)
		r = write_overlay(j, overlay, base, e);
	if (r)
		return r;
	if (overlay->backing != base)
		views_set_backing(overlay, base);
	r = node_return(overlay, e);
	if (!r)
		r = node_return(base, e);
	if (!r)
		r = views_forget_nodes(overlay, gone, n, e);
	if (!r)
		retire(j, gone, n);
	return r;
}

const struct job_type commit_job = {
	.name = "commit", .block = true,
	.clean = job_copy_clean,
	.finish = commit_finish,
};

/* ---- the end of an active one ------------------------------------------------------------- */

static int active_commit_finish(struct job *j, struct err *e)
{
	_cleanup_free_ struct node **gone = xcalloc(j->nr_chain + 1, sizeof(*gone));
	struct node *base = j->target_node;
	int r = job_become_target(j, e);

	if (r)
		return r;
	node_stay_writable(base);
	retire(j, gone, committed(j, NULL, gone));
	return 0;
}

const struct job_type active_commit_job = {
	.kind = "active-commit",
	.name = "commit", .block = true,
	.completable = true,
	.clean = job_copy_clean,
	.finish = active_commit_finish,
};

static void cmd_commit(struct qmp_call *call)
{
	ctl_command(call, commit);
}

static const char *const deprecated[] = { "deprecated", NULL };

static const struct qapi_member commit_members[] = {
	{ "job-id", &qapi_str, QAPI_OPT, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "base-node", &qapi_str, QAPI_OPT, NULL },
	{ "base", &qapi_str, QAPI_OPT, deprecated },
	{ "top-node", &qapi_str, QAPI_OPT, NULL },
	{ "top", &qapi_str, QAPI_OPT, deprecated },
	{ "backing-file", &qapi_str, QAPI_OPT, NULL },
	{ "speed", &qapi_int, QAPI_OPT, NULL },
	{ "on-error", &job_on_error, QAPI_OPT, NULL },
	{ "filter-node-name", &qapi_str, QAPI_OPT, NULL },
	{ "auto-finalize", &qapi_bool, QAPI_OPT, NULL },
	{ "auto-dismiss", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};

const struct qmp_command commit_commands[] = {
	{ .name = "block-commit", .handler = cmd_commit, .args = commit_members },
	{ 0 },
};
