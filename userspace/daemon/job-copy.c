// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>

#include "ctl.h"
#include "job-copy.h"

#define TARGET_GRANT (256ULL << 20)

void job_hold(struct job *j)
{
	core_lock();
	j->source_node->users++;
	j->target_node->users++;
	j->source_node->job = j->target_node->job = j->id;
	j->source_node->job_type = j->target_node->job_type = j->type->name;
	j->source->jobs++;
	core_unlock();
}

static void release_node(struct node *n)
{
	if (!n) /* gone with an earlier daemon */
		return;
	core_lock();
	n->users--;
	n->job = n->job_type = NULL;
	core_unlock();
	node_put(n);
}

void job_release(struct job *j)
{
	struct node *s = j->source_node, *t = j->target_node;

	core_lock();
	if (j->source)
		j->source->jobs--;
	j->source_node = j->target_node = NULL;
	core_unlock();
	release_node(s);
	release_node(t);
}

int job_source_view(struct job *j, struct node *n, struct err *e)
{
	_cleanup_free_ char *dm = NULL;
	int r;

	j->source = view_of_top(n);
	if (j->source)
		return 0;
	dm = xasprintf("livechain-%s--source", j->id);
	r = view_start(n, dm, false, true, &j->source, e);
	j->source_internal = !r;
	return r;
}

/*
 * Gives the target's view space for what may come at once. A larger target's rest
 * follows as it is asked for, well before it is needed.
 */
static int target_space(struct view *v, struct err *e)
{
	uint64_t bytes = v->sectors * 512;
	uint64_t low = bytes <= TARGET_GRANT ? 4096 : TARGET_GRANT / 4;
	int r;

	pthread_mutex_lock(&v->lock);
	r = service_grant(v, v->active, bytes < TARGET_GRANT ? bytes : TARGET_GRANT, e);
	pthread_mutex_unlock(&v->lock);
	if (r == -ENOSPC) {
		err_clear(e);
		r = 0;
	}
	return r ? r : view_message(v, e, NULL, "layer %d low %llu", v->active,
				    (unsigned long long)low / 512);
}

int job_target_device(struct job *j, struct node *n, dev_t *ret, struct err *e)
{
	_cleanup_free_ char *dm = NULL;
	struct dm_dev_info info = { 0 };
	int r;

	if (n->driver == NODE_RAW)
		return node_layer_device(n, ret, e);
	dm = xasprintf("livechain-%s--target", j->id);
	r = view_start(n, dm, true, true, &j->target, e);
	if (!r)
		r = view_wait_loaded(j->target, e);
	if (!r)
		r = target_space(j->target, e);
	if (!r)
		r = dm_get_info(dm, &info, e);
	if (!r)
		*ret = info.devno;
	return r;
}

void job_drop_kernel(struct job *j)
{
	if (j->kernel_gone)
		return;
	(void)view_message(j->source, NULL, NULL, "job %s dismiss", j->id);
	j->kernel_gone = true;
}

int job_copy_clean(struct job *j, struct err *e)
{
	int r = 0, one;

	if (j->source && j->dest >= 0) {
		job_drop_kernel(j);
		r = view_drop_layer(j->source, j->dest, e);
		j->dest = -1;
	}
	if (j->target) {
		one = view_stop(j->target, e);
		r = r ? r : one;
		j->target = NULL;
	} else if (j->target_node && j->target_node->driver == NODE_RAW) {
		loop_detach(&j->target_node->file->loop);
	}
	job_release(j);
	if (j->source && j->source_internal) {
		one = view_stop(j->source, e);
		r = r ? r : one;
		core_lock();
		j->source = NULL;
		core_unlock();
	}
	return r;
}

void job_take_down(struct job *j)
{
	if (j->source && j->dest >= 0)
		(void)view_drop_layer(j->source, j->dest, NULL);
	if (j->target)
		(void)view_stop(j->target, NULL);
	if (j->source_node)
		job_release(j);
	if (j->source_internal)
		(void)view_stop(j->source, NULL);
	core_lock();
	j->source = j->target = NULL;
	j->cleaned = true;
	core_unlock();
}

void job_undo_start(struct job *j)
{
	job_take_down(j);
	job_set_status(j, JOB_NULL);
	job_forget(j);
}
