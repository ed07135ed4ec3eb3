// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "../block/kmod.h"
#include "../lib/log.h"
#include "ctl.h"
#include "export.h"
#include "job-copy.h"
#include "state.h"

#define TARGET_GRANT (256ULL << 20)

static void take_node(struct job *j, struct node *n)
{
	n->users++;
	if (j->type->hidden) /* the node that it is behind is a parent of @n */
		return;
	n->job = j->id;
	n->job_type = j->type->name;
}

void job_hold(struct job *j)
{
	core_lock();
	j->held = true;
	if (j->source_node)
		take_node(j, j->source_node);
	if (j->target_node)
		take_node(j, j->target_node);
	if (j->source)
		j->source->jobs++;
	if (j->disk && j->disk != j->source)
		j->disk->jobs++;
	core_unlock();
}

void job_hold_node(struct job *j, struct node *n)
{
	core_lock();
	take_node(j, n);
	j->chain = xreallocarray(j->chain, j->nr_chain + 1, sizeof(*j->chain));
	j->chain[j->nr_chain++] = n;
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
	node_drop_cache(n);
	node_put(n);
}

void job_release(struct job *j)
{
	struct node *s = j->source_node, *t = j->target_node;

	core_lock();
	j->held = false;
	if (j->source)
		j->source->jobs--;
	if (j->disk && j->disk != j->source)
		j->disk->jobs--;
	j->disk = NULL;
	j->source_node = j->target_node = NULL;
	core_unlock();
	release_node(s);
	release_node(t);
	while (j->nr_chain) {
		core_lock();
		j->nr_chain--;
		core_unlock();
		release_node(j->chain[j->nr_chain]);
	}
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

int job_target_view(struct job *j, struct node *n, dev_t *ret, struct err *e)
{
	_cleanup_free_ char *dm = xasprintf("livechain-%s--target", j->id);
	struct dm_dev_info info = { 0 };
	int r;

	r = view_start(n, dm, true, true, &j->target, e);
	if (!r)
		r = view_wait_loaded(j->target, e);
	if (!r && n->driver == NODE_QCOW2)
		r = target_space(j->target, e);
	if (!r)
		r = dm_get_info(dm, &info, e);
	if (!r)
		*ret = info.devno;
	return r;
}

int job_target_device(struct job *j, struct node *n, dev_t *ret, struct err *e)
{
	return n->driver == NODE_RAW ? node_layer_device(n, ret, e) : job_target_view(j, n, ret, e);
}

int job_copies_part(struct job *j, struct err *e)
{
	if (!j->target || j->target_node->backing)
		return 0;
	return view_say_zeros(j->target, j->target->active, e);
}

void job_drop_kernel(struct job *j)
{
	if (j->kernel_gone)
		return;
	(void)view_message(j->source, NULL, NULL, "job %s dismiss", j->id);
	j->kernel_gone = true;
}

/* One that somebody has open still goes by itself; its image is free. */
static int stop_view(struct view **v, struct err *e)
{
	int r = *v ? view_stop(*v, e) : 0;

	if (r && (*v)->ending) {
		log_notice("%s", e->msg);
		err_clear(e);
		r = 0;
	}
	core_lock();
	if (!r)
		*v = NULL;
	core_unlock();
	return r;
}

int job_stop_views(struct job *j, struct err *e)
{
	int r = 0, one;

	if (j->source && j->dest >= 0) {
		r = view_drop_layer(j->source, j->dest, e);
		j->dest = -1;
	}
	if (j->target) {
		one = stop_view(&j->target, e);
		r = r ? r : one;
	} else if (!j->type->finish && j->target_node && j->target_node->driver == NODE_RAW) {
		loop_detach(&j->target_node->file->loop);
	}
	if (j->source && j->source_internal) {
		one = stop_view(&j->source, e);
		r = r ? r : one;
	}
	return r;
}

/* Images that were made writable for it are backing images again. */
static int return_nodes(struct job *j, struct err *e)
{
	int r = j->source_node ? node_return(j->source_node, e) : 0, one;

	one = j->target_node ? node_return(j->target_node, e) : 0;
	r = r ? r : one;
	for (unsigned i = 0; i < j->nr_chain; i++) {
		one = node_return(j->chain[i], e);
		r = r ? r : one;
	}
	return r;
}

int job_copy_clean(struct job *j, struct err *e)
{
	int r, one;

	if (j->source)
		job_drop_kernel(j);
	r = job_stop_views(j, e);
	one = return_nodes(j, e);
	job_release(j);
	return r ? r : one;
}

void job_take_down(struct job *j)
{
	struct err e = ERR_INIT;

	if (job_stop_views(j, &e) || return_nodes(j, &e))
		log_warn("job '%s': %s", j->id, e.msg);
	err_clear(&e);
	if (j->held)
		job_release(j);
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

/* --- arguments and starts of jobs that are no backups --- */

static const char *const on_error_values[] = { "report", "ignore", "enospc", "stop", "auto", NULL };
const struct qapi_type job_on_error = QAPI_ENUM("BlockdevOnError", on_error_values);

static enum job_policy policy_of(const char *name)
{
	static const struct {
		const char *name;
		enum job_policy policy;
	} names[] = {
		{ "report", JOB_REPORT }, { "ignore", JOB_IGNORE }, { "enospc", JOB_ENOSPC },
		{ "stop", JOB_STOP },	  { "auto", JOB_ENOSPC },
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (streq(names[i].name, name))
			return names[i].policy;
	}
	return JOB_REPORT;
}

int job_policies_parse(struct json *args, enum job_policy policy[JOB_NR_SIDES], struct err *e)
{
	const char *both = "report", *on_read, *on_write;
	int r = json_opt_str(args, "on-error", &both, e);

	if (r)
		return r;
	on_read = on_write = both;
	if ((r = json_opt_str(args, "on-source-error", &on_read, e)) ||
	    (r = json_opt_str(args, "on-target-error", &on_write, e)))
		return r;
	policy[JOB_READ] = policy_of(on_read);
	policy[JOB_WRITE] = policy_of(on_write);
	return 0;
}

/* There is no filter node here, but a name that QEMU would refuse is. */
static int check_filter(struct json *args, struct err *e)
{
	const char *name = NULL;
	int r = json_opt_str(args, "filter-node-name", &name, e);

	return !r && name ? node_check_name(name, e) : r;
}

int job_args_parse(struct json *args, struct job_args *a, struct err *e)
{
	int r;

	a->auto_finalize = a->auto_dismiss = true;
	if ((r = json_need_str(args, "device", &a->device, e)) ||
	    (r = json_opt_str(args, "job-id", &a->id, e)) ||
	    (r = json_opt_int(args, "speed", &a->speed, e)) ||
	    (r = json_opt_bool(args, "auto-finalize", &a->auto_finalize, e)) ||
	    (r = json_opt_bool(args, "auto-dismiss", &a->auto_dismiss, e)))
		return r;
	return job_policies_parse(args, a->policy, e);
}

int job_args_check(struct json *args, struct job_args *a, struct err *e)
{
	struct export *x = export_find(a->device);
	int r = job_check_id(a->id, x ? x->view->dm : NULL, &a->id, e);

	if (!r)
		r = check_filter(args, e);
	if (!r && a->speed < 0)
		r = err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
	if (!r)
		r = kmod_ensure_livechain(NULL, e);
	return r ? r : kmod_ensure_loop(e);
}

int job_check_image(const struct node *n, bool filter, const char *what, struct err *e)
{
	if (!node_is_protocol(n) && (filter || !node_is_filter(n)))
		return 0;
	return err_set(e, EINVAL, "Node '%s' is a %s node: %s needs raw or qcow2 nodes", n->name,
		       node_driver_name(n->driver), what);
}

int job_check_target(const struct node *n, const char *what, struct err *e)
{
	int r = job_check_image(n, false, what, e);

	if (!r)
		r = node_check_free(n, e);
	if (!r)
		r = view_check_ended(n, e);
	if (r)
		return r;
	if (n->users)
		return err_set(e, EBUSY, "Node '%s' is busy: it is exported", n->name);
	if (n->read_only)
		return err_set(e, EACCES, "Block node '%s' is read-only", n->name);
	return 0;
}

struct job *job_begin(const struct job_args *a, const struct job_type *type, uint64_t len)
{
	struct job *j = job_new(a->id, type, a->auto_finalize, a->auto_dismiss, a->speed);

	j->len = len;
	j->dest = -1;
	memcpy(j->policy, a->policy, sizeof(j->policy));
	event_post("JOB_STATUS_CHANGE", json_pack("{s:s, s:s}", "status", "created", "id", j->id));
	return j;
}

int job_begin_failed(struct job *j, int r)
{
	job_take_down(j);
	if (j->status == JOB_CREATED) {
		job_set_status(j, JOB_NULL);
		job_forget(j);
	} else {
		job_abort_start(j);
	}
	(void)state_save(NULL);
	return r;
}

const char *job_kernel_policy(const struct job *j, enum job_side side)
{
	return j->policy[side] == JOB_REPORT ? "report" : "stop";
}

static int tell_suspended(struct job *j, const char *text, struct err *e)
{
	int r = view_suspend(j->source, e);

	if (r)
		return r;
	r = view_message(j->source, e, NULL, "%s", text);
	if (view_resume(j->source, r ? NULL : e) && !r)
		r = -EIO;
	return r;
}

/* Only where guests' writes matter does the device stand still for the start. */
static int tell_start(struct job *j, const char *text, bool suspended, struct err *e)
{
	unsigned tries = 0;
	int r;

	if (!suspended)
		return view_message(j->source, e, NULL, "%s", text);
	do {
		err_clear(e);
		r = tell_suspended(j, text, e);
	} while (view_try_again(r, &tries));
	return r;
}

int job_start_kernel(struct job *j, const char *text, bool suspended, struct err *e)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	int r;

	strbuf_addf(&s, "%s speed %lld on-source-error %s on-target-error %s", text,
		    (long long)j->speed, job_kernel_policy(j, JOB_READ),
		    job_kernel_policy(j, JOB_WRITE));
	j->starting = true; /* what a daemon finds that did not get farther is taken down */
	r = state_save(e);
	if (!r)
		r = tell_start(j, strbuf_str(&s), suspended, e);
	j->starting = false;
	if (r)
		return job_begin_failed(j, r);
	job_set_status(j, JOB_RUNNING);
	return state_save(e);
}

void job_print_layers(struct job *j, struct node *from, const struct node *to, struct strbuf *out)
{
	const char *comma = "";

	for (struct node *n = from; n && n != to; n = n->backing) {
		struct view_layer *l = view_layer_of(j->source, n);

		if (!l)
			continue;
		strbuf_addf(out, "%s%d", comma, l->id);
		comma = ",";
	}
}

static int any_run(void *arg, const struct qcow2_run *run)
{
	(void)arg;
	return run->kind != QCOW2_UNALLOCATED;
}

bool job_target_is_zero(const struct node *n)
{
	const struct node *p = n->file;

	if (n->driver == NODE_QCOW2)
		return !n->backing && !n->backing_name &&
		       !qcow2_map(n->img, 0, n->size, any_run, NULL, NULL);
	return p->driver == NODE_FILE && lseek(p->fd, 0, SEEK_DATA) < 0 && errno == ENXIO;
}
