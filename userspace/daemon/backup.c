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
#include "backup.h"
#include "ctl.h"
#include "export.h"
#include "job-copy.h"
#include "transaction.h"

#define DEFAULT_GRAIN (64u << 10)

static int check_source(struct backup_args *a, struct err *e)
{
	int r = device_lookup_any(a->device, a->device, &a->source, e);

	if (r)
		return r;
	if (a->source->driver == NODE_CBW)
		return err_set(
			e, EINVAL,
			"Node '%s' is a copy-before-write node: what it keeps is read through a snapshot-access node",
			a->source->name);
	r = job_check_image(a->source, true, "backup", e);
	return r ? r : node_check_free(a->source, e);
}

/* The target's own clusters are what is copied, where only parts of the disk are. */
static int check_target(const struct backup_args *a, struct err *e)
{
	const struct node *dest = a->dest;
	int r;

	if (a->source == dest)
		return err_set(e, EINVAL, "Source and target cannot be the same");
	r = job_check_target(dest, "backup", e);
	if (r)
		return r;
	if (a->source->size != dest->size)
		return err_set(e, EINVAL, "Source and target image have different sizes");
	if (dest->driver == NODE_RAW && !a->force)
		return probe_refuse_used(dest->file->fd, dest->file->filename, e);
	return 0;
}

/* Limits of QEMU's copying, which the kernel does here: they are checked and make no difference. */
static int check_perf(struct json *args, struct err *e)
{
	int64_t workers = 64, chunk = 0;
	int r;

	if ((r = json_opt_int(args, "x-perf.max-workers", &workers, e)) ||
	    (r = json_opt_int(args, "x-perf.max-chunk", &chunk, e)))
		return r;
	if (workers < 1 || workers > INT32_MAX)
		return err_set(e, EINVAL, "max-workers must be between 1 and %d", INT32_MAX);
	if (chunk < 0)
		return err_set(e, EINVAL,
			       "max-chunk must be zero (which means no limit) or positive");
	if (chunk && chunk < DEFAULT_GRAIN)
		return err_set(e, EINVAL,
			       "Required max-chunk (%lld) is less than backup cluster size (%u)",
			       (long long)chunk, DEFAULT_GRAIN);
	return 0;
}

/* There is no filter node here, but a name that QEMU would refuse is. */
static int check_filter(struct json *args, struct err *e)
{
	const char *name = NULL;
	int r = json_opt_str(args, "filter-node-name", &name, e);

	if (!r && name && (r = node_check_name(name, e)))
		err_prefix(e, "Could not create node");
	return r;
}

static int check_common(struct json *args, struct backup_args *a, struct err *e)
{
	int r;

	if (a->compress)
		return err_set(e, EOPNOTSUPP, "Compression is not supported for this drive");
	if (a->speed < 0)
		return err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
	if ((r = check_source(a, e)) || (r = check_filter(args, e)))
		return r;
	a->on_demand = streq(a->sync, "none");
	a->top_only = streq(a->sync, "top") && a->source->backing;
	return check_perf(args, e);
}

int backup_check_id(struct backup_args *a, struct err *e)
{
	struct export *x = export_find(a->device);

	return job_check_id(a->id, x ? x->view->dm : NULL, &a->id, e);
}

int backup_parse(struct json *args, struct backup_args *a, struct err *e)
{
	int r;

	a->auto_finalize = a->auto_dismiss = true;
	if ((r = json_need_str(args, "device", &a->device, e)) ||
	    (r = json_need_str(args, "target", &a->target, e)) ||
	    (r = json_need_str(args, "sync", &a->sync, e)) ||
	    (r = json_opt_str(args, "job-id", &a->id, e)) ||
	    (r = json_opt_int(args, "speed", &a->speed, e)) ||
	    (r = job_policies_parse(args, a->policy, e)) ||
	    (r = json_opt_bool(args, "auto-finalize", &a->auto_finalize, e)) ||
	    (r = json_opt_bool(args, "auto-dismiss", &a->auto_dismiss, e)) ||
	    (r = json_opt_bool(args, "compress", &a->compress, e)) ||
	    (r = json_opt_bool(args, "x-force", &a->force, e)))
		return r;
	return check_common(args, a, e);
}

/*
 * What one write makes the job save: the target writes whole clusters of its own, so that
 * where only parts of the disk are saved none of them has a part that was not.
 */
unsigned backup_grain(const struct job *j)
{
	const struct view *v = j->source;
	unsigned bytes = DEFAULT_GRAIN;

	if (v->block * 512 > bytes)
		bytes = v->block * 512;
	for (const struct node *n = j->source_node; n; n = n->backing) {
		if (n->driver == NODE_QCOW2 && n->info.cluster_size > bytes)
			bytes = n->info.cluster_size;
	}
	if (j->target_node->driver == NODE_QCOW2 && j->target_node->info.cluster_size > bytes)
		bytes = j->target_node->info.cluster_size;
	return bytes / 512;
}

/* The instant that the backup shows. */
int backup_act(struct txn_action *t, struct err *e)
{
	_cleanup_strbuf_ struct strbuf more = STRBUF_INIT;
	struct backup_args *a = t->state;
	struct job *j = t->job;

	if (a->on_demand || a->top_only)
		strbuf_addf(&more, " grain %u", backup_grain(j));
	if (a->on_demand)
		strbuf_adds(&more, " on-demand");
	if (a->zeroed)
		strbuf_adds(&more, " zeroed");
	if (a->top_only) {
		strbuf_adds(&more, " skip ");
		job_print_layers(j, a->source->backing, NULL, &more);
	}
	return view_message(j->source, e, NULL,
			    "copy %s %d before-write speed %lld on-source-error %s on-target-error %s%s",
			    j->id, j->dest, (long long)j->speed, job_kernel_policy(j, JOB_READ),
			    job_kernel_policy(j, JOB_WRITE), strbuf_str(&more));
}

void backup_revert(struct txn_action *t)
{
	struct job *j = t->job;
	struct err e = ERR_INIT;

	if (view_message(j->source, &e, NULL, "job %s cancel", j->id) ||
	    view_message(j->source, &e, NULL, "job %s dismiss", j->id))
		log_error("job '%s': %s", j->id, e.msg);
}

const struct job_type backup_job = { .name = "backup", .block = true, .clean = job_copy_clean };

void backup_abort(struct txn_action *t)
{
	job_take_down(t->job);
}

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
	if (!r && (a->on_demand || a->top_only))
		r = job_copies_part(j, e);
	if (r)
		return r;
	j->dest = view_add_layer(j->source, j->target ? NULL : a->dest, dev, true, e);
	return j->dest < 0 ? j->dest : 0;
}

int backup_start(struct txn_action *t, struct backup_args *a, struct err *e)
{
	struct job *j;
	int r = check_target(a, e);

	if (!r)
		r = backup_check_id(a, e);
	if (!r)
		r = kmod_ensure_livechain(NULL, e);
	if (!r)
		r = kmod_ensure_loop(e);
	if (r)
		return r;
	j = job_new(a->id, &backup_job, a->auto_finalize, a->auto_dismiss, a->speed);
	j->len = a->source->size;
	memcpy(j->policy, a->policy, sizeof(j->policy));
	/* A part of a disk may be given a backing file later: its zeros have to be there. */
	a->zeroed = !a->on_demand && !a->top_only && job_target_is_zero(a->dest);
	event_post("JOB_STATUS_CHANGE", json_pack("{s:s, s:s}", "status", "created", "id", j->id));
	r = build(j, a, e);
	if (r) {
		job_undo_start(j);
		return r;
	}
	t->job = j;
	t->view = j->source;
	snprintf(t->undo, sizeof(t->undo), "job %s cancel", j->id);
	return 0;
}

static int backup_prepare(struct txn_action *t, struct json *args, struct err *e)
{
	struct backup_args *a = xcalloc(1, sizeof(*a));
	int r;

	t->state = a;
	r = backup_parse(args, a, e);
	if (!r)
		r = device_find(a->target, &a->dest, e);
	return r ? r : backup_start(t, a, e);
}

const struct txn_type txn_backup = {
	.name = "blockdev-backup",
	.prepare = backup_prepare,
	BACKUP_HOOKS,
};

static int backup(struct json *args, struct json **ret, struct err *e)
{
	(void)ret;
	return txn_single(&txn_backup, args, e);
}

static void cmd_backup(struct qmp_call *call)
{
	ctl_command(call, backup);
}

static const char *const sync_values[] = { "top", "full", "none", NULL };
const struct qapi_type backup_sync_mode = QAPI_ENUM("MirrorSyncMode", sync_values);

static const struct qapi_member perf_members[] = {
	{ "use-copy-range", &qapi_bool, QAPI_OPT, NULL },
	{ "max-workers", &qapi_int, QAPI_OPT, NULL },
	{ "max-chunk", &qapi_int, QAPI_OPT, NULL },
	{ 0 },
};
static const char *const unstable[] = { "unstable", NULL };
const struct qapi_type backup_perf = QAPI_STRUCT("BackupPerf", perf_members);

static const struct qapi_member backup_members[] = {
	{ "job-id", &qapi_str, QAPI_OPT, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "target", &qapi_str, 0, NULL },
	{ "sync", &backup_sync_mode, 0, NULL },
	{ "speed", &qapi_int, QAPI_OPT, NULL },
	{ "compress", &qapi_bool, QAPI_OPT, NULL },
	{ "on-source-error", &job_on_error, QAPI_OPT, NULL },
	{ "on-target-error", &job_on_error, QAPI_OPT, NULL },
	{ "auto-finalize", &qapi_bool, QAPI_OPT, NULL },
	{ "auto-dismiss", &qapi_bool, QAPI_OPT, NULL },
	{ "filter-node-name", &qapi_str, QAPI_OPT, NULL },
	{ "x-perf", &backup_perf, QAPI_OPT, unstable },
	{ "x-force", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};
const struct qapi_type blockdev_backup_type = QAPI_STRUCT("BlockdevBackup", backup_members);

const struct qmp_command backup_commands[] = {
	{ .name = "blockdev-backup", .handler = cmd_backup, .args = backup_members },
	{ 0 },
};
