// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blockdev-backup: the kernel's copy with before-write, from a disk's view to the target.
 *
 * The target is the destination layer of the source's view: a raw image is that by itself, a
 * qcow2 image through a view of its own, so that jobs and guests write images in one
 * way. The point in time is the suspend in which the copy starts.
 */
#include <errno.h>
#include <stdio.h>

#include "../block/kmod.h"
#include "../block/probe.h"
#include "../lib/log.h"
#include "ctl.h"
#include "export.h"
#include "job-copy.h"
#include "state.h"

struct backup_args {
	const char *id, *device, *target, *sync;
	const char *on_source_error, *on_target_error;
	int64_t speed;
	bool auto_finalize, auto_dismiss, force, compress;
	struct node *source, *dest;
};

static int check_nodes(struct backup_args *a, struct err *e)
{
	int r;

	r = device_find(a->device, &a->source, e);
	if (!r)
		r = device_find(a->target, &a->dest, e);
	if (r)
		return r;
	if (a->source == a->dest)
		return err_set(e, EINVAL, "Source and target cannot be the same");
	if (node_is_protocol(a->source) || node_is_protocol(a->dest))
		return err_set(e, EINVAL,
			       "Node '%s' is a protocol node: backup needs raw or qcow2 nodes",
			       node_is_protocol(a->source) ? a->source->name : a->dest->name);
	r = node_check_free(a->source, e);
	if (!r)
		r = node_check_free(a->dest, e);
	if (r)
		return r;
	if (a->dest->users)
		return err_set(e, EBUSY, "Node '%s' is busy: it is exported", a->dest->name);
	if (a->dest->read_only)
		return err_set(e, EACCES, "Block node '%s' is read-only", a->dest->name);
	if (a->source->size != a->dest->size)
		return err_set(e, EINVAL, "Source and target image have different sizes");
	if (a->dest->driver == NODE_RAW && !a->force)
		return probe_refuse_used(a->dest->file->fd, a->dest->file->filename, e);
	return 0;
}

static int parse(struct json *args, struct backup_args *a, struct err *e)
{
	struct export *x;
	int r;

	a->on_source_error = a->on_target_error = "report";
	a->auto_finalize = a->auto_dismiss = true;
	if ((r = json_need_str(args, "device", &a->device, e)) ||
	    (r = json_need_str(args, "target", &a->target, e)) ||
	    (r = json_need_str(args, "sync", &a->sync, e)) ||
	    (r = json_opt_str(args, "job-id", &a->id, e)) ||
	    (r = json_opt_int(args, "speed", &a->speed, e)) ||
	    (r = json_opt_str(args, "on-source-error", &a->on_source_error, e)) ||
	    (r = json_opt_str(args, "on-target-error", &a->on_target_error, e)) ||
	    (r = json_opt_bool(args, "auto-finalize", &a->auto_finalize, e)) ||
	    (r = json_opt_bool(args, "auto-dismiss", &a->auto_dismiss, e)) ||
	    (r = json_opt_bool(args, "compress", &a->compress, e)) ||
	    (r = json_opt_bool(args, "x-force", &a->force, e)))
		return r;
	if (a->compress)
		return err_set(e, EOPNOTSUPP, "Compression is not supported for this drive");
	if (a->speed < 0)
		return err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
	r = check_nodes(a, e);
	if (r)
		return r;
	x = export_find(a->device);
	return job_check_id(a->id, x ? x->view->dm : NULL, &a->id, e);
}

/* The instant that the backup shows. */
static int start_copy(struct job *j, const struct backup_args *a, struct err *e)
{
	uint64_t t0;
	int r;

	job_set_status(j, JOB_PAUSED);
	r = view_suspend(j->source, e);
	if (r)
		return r;
	t0 = ev_now_ms();
	r = view_message(j->source, e, NULL,
			 "copy %s %d before-write speed %lld on-source-error %s on-target-error %s",
			 j->id, j->dest, (long long)j->speed, a->on_source_error,
			 a->on_target_error);
	if (view_resume(j->source, r ? NULL : e) && !r)
		r = -EIO;
	log_info("'%s': backup starts: held for %llu ms", j->source->dm,
		 (unsigned long long)(ev_now_ms() - t0));
	if (!r)
		job_set_status(j, JOB_RUNNING);
	return r;
}

const struct job_type backup_job = { "backup", job_copy_clean };

static int build(struct job *j, const struct backup_args *a, struct err *e)
{
	dev_t dev;
	int r;

	j->dest = -1;
	r = job_source_view(j, a->source, e);
	if (r)
		return r;
	core_lock();
	j->source_node = a->source;
	j->target_node = a->dest;
	core_unlock();
	job_hold(j);
	r = job_target_device(j, a->dest, &dev, e);
	if (r)
		return r;
	j->dest = view_add_layer(j->source, j->target ? NULL : a->dest, dev, true, e);
	return j->dest < 0 ? j->dest : 0;
}

static int backup(struct json *args, struct json **ret, struct err *e)
{
	struct backup_args a = { 0 };
	struct job *j;
	int r;

	(void)ret;
	r = parse(args, &a, e);
	if (!r)
		r = kmod_ensure_livechain(NULL, e);
	if (!r)
		r = kmod_ensure_loop(e);
	if (r)
		return r;
	j = job_new(a.id, &backup_job, a.auto_finalize, a.auto_dismiss, a.speed);
	j->len = a.source->size;
	event_post("JOB_STATUS_CHANGE", json_pack("{s:s, s:s}", "status", "created", "id", j->id));
	r = build(j, &a, e);
	if (!r) {
		job_set_status(j, JOB_RUNNING);
		r = state_save(e);
	}
	if (!r)
		r = start_copy(j, &a, e);
	if (!r)
		return state_save(e);
	job_undo_start(j);
	(void)state_save(NULL);
	return r;
}

static void cmd_backup(struct qmp_call *call)
{
	ctl_command(call, backup);
}

static const char *const sync_values[] = { "full", NULL };
static const char *const on_error_values[] = { "report", "stop", NULL };
static const struct qapi_type sync_mode = QAPI_ENUM("MirrorSyncMode", sync_values);
static const struct qapi_type on_error = QAPI_ENUM("BlockdevOnError", on_error_values);

static const struct qapi_member backup_members[] = {
	{ "job-id", &qapi_str, QAPI_OPT, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "target", &qapi_str, 0, NULL },
	{ "sync", &sync_mode, 0, NULL },
	{ "speed", &qapi_int, QAPI_OPT, NULL },
	{ "compress", &qapi_bool, QAPI_OPT, NULL },
	{ "on-source-error", &on_error, QAPI_OPT, NULL },
	{ "on-target-error", &on_error, QAPI_OPT, NULL },
	{ "auto-finalize", &qapi_bool, QAPI_OPT, NULL },
	{ "auto-dismiss", &qapi_bool, QAPI_OPT, NULL },
	{ "x-force", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};

const struct qmp_command backup_commands[] = {
	{ .name = "blockdev-backup", .handler = cmd_backup, .args = backup_members },
	{ 0 },
};
