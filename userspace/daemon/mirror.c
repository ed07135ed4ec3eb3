// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blockdev-mirror, drive-mirror: the kernel's copy in mode track or both, from a disk's view into a view
 * of the target's own chain. Completed, the disk goes on as that view; cancelled when ready, the target
 * is the disk at that moment.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "../block/probe.h"
#include "ctl.h"
#include "export.h"
#include "image-create.h"
#include "job-copy.h"
#include "mirror.h"
#include "state.h"

#define GRANULARITY_MIN 512
#define GRANULARITY_MAX (64 << 20)
#define GRAIN_MIN	8    /* sectors: the kernel's */
#define GRAIN_MAX	4096

struct mirror_args {
	struct job_args job;
	const char *target, *sync, *replaces, *copy_mode;
	int64_t granularity, buf_size;
	bool unmap, force;
	/* drive-mirror */
	const char *format, *mode, *node_name;
	struct node *source, *dest;
};

static int check_granularity(const struct mirror_args *a, struct err *e)
{
	if (!a->granularity)
		return 0;
	if (a->granularity < GRANULARITY_MIN || a->granularity > GRANULARITY_MAX)
		return err_set(e, EINVAL,
			       "Parameter 'granularity' expects a value in range [512B, 64MB]");
	if (a->granularity & (a->granularity - 1))
		return err_set(e, EINVAL, "Parameter 'granularity' expects a power of 2");
	return 0;
}

static int check_busy(const struct node *n, struct err *e)
{
	if (!n->job)
		return 0;
	return err_set(e, EBUSY, "Node '%s' is busy: block device is in use by block job: %s", n->name,
		       n->job_type);
}

/* The node that the target takes the place of: the disk's own is what can be replaced. */
static int check_replaces(const struct mirror_args *a, struct err *e)
{
	struct node *n = a->replaces ? node_find(a->replaces) : NULL;
	int r;

	if (!a->replaces)
		return 0;
	if (!n)
		return err_set(e, ENOENT, "Failed to find node with node-name='%s'", a->replaces);
	if (n == node_shown(a->source))
		return 0;
	r = node_check_free(n, e);
	return r ? r : err_set(e, EPERM,
			       "Cannot replace '%s' by a node mirrored from '%s', because it cannot be guaranteed that doing so would not lead to an abrupt change of visible data",
			       n->name, a->source->name);
}

static int find_source(struct mirror_args *a, struct err *e)
{
	int r = device_find(a->job.device, &a->source, e);

	if (r)
		return r;
	if (a->source->job || a->source->parents)
		return err_set(e, EBUSY, "Need a root block node");
	return job_check_image(a->source, true, "mirror", e);
}

/* The order of QEMU's checks. */
static int check_arguments(struct mirror_args *a, struct err *e)
{
	int r = check_granularity(a, e);

	if (!r && a->dest)
		r = check_busy(a->dest, e);
	if (!r)
		r = check_replaces(a, e);
	if (!r && (streq(a->sync, "incremental") || streq(a->sync, "bitmap")))
		r = err_set(e, EINVAL, "Sync mode '%s' not supported", a->sync);
	if (!r && a->buf_size < 0)
		r = err_set(e, EINVAL, "Invalid parameter 'buf-size'");
	if (!r && a->source == a->dest)
		r = err_set(e, EINVAL, "Can't mirror node into itself");
	return r;
}

/* What QEMU does not know, or says when the job has begun. */
static int check_target(const struct mirror_args *a, struct err *e)
{
	const struct node *t = a->dest;
	int r = job_check_target(t, "mirror", e);

	if (!r && t->driver == NODE_RAW && !a->force)
		r = probe_refuse_used(t->file->fd, t->file->filename, e);
	return r;
}

static int parse(struct json *args, struct mirror_args *a, struct err *e)
{
	int r;

	a->unmap = true;
	a->copy_mode = "background";
	a->mode = "absolute-paths";
	if ((r = job_args_parse(args, &a->job, e)) ||
	    (r = json_need_str(args, "target", &a->target, e)) ||
	    (r = json_need_str(args, "sync", &a->sync, e)) ||
	    (r = json_opt_str(args, "replaces", &a->replaces, e)) ||
	    (r = json_opt_int(args, "granularity", &a->granularity, e)) ||
	    (r = json_opt_int(args, "buf-size", &a->buf_size, e)) ||
	    (r = json_opt_str(args, "copy-mode", &a->copy_mode, e)) ||
	    (r = json_opt_bool(args, "unmap", &a->unmap, e)) ||
	    (r = json_opt_bool(args, "x-force", &a->force, e)) ||
	    (r = json_opt_str(args, "format", &a->format, e)) ||
	    (r = json_opt_str(args, "mode", &a->mode, e)) ||
	    (r = json_opt_str(args, "node-name", &a->node_name, e)))
		return r;
	return find_source(a, e);
}

/* ---- the job -------------------------------------------------------------------------------- */

static int build(struct job *j, struct mirror_args *a, struct err *e)
{
	dev_t dev;
	int r;

	r = job_source_view(j, a->source, e);
	if (r)
		return r;
	if (!j->source_internal)
		j->disk = j->source;
	core_lock();
	j->source_node = a->source;
	j->target_node = a->dest;
	core_unlock();
	job_hold(j);
	r = job_target_view(j, a->dest, &dev, e);
	if (!r && !streq(a->sync, "full"))
		r = job_copies_part(j, e);
	if (r)
		return r;
	j->dest = view_add_layer(j->source, NULL, dev, true, e);
	return j->dest < 0 ? j->dest : 0;
}

static uint64_t grain_of(const struct mirror_args *a)
{
	uint64_t grain = (uint64_t)a->granularity / 512;

	return grain < GRAIN_MIN ? GRAIN_MIN : grain > GRAIN_MAX ? GRAIN_MAX : grain;
}

static void print_copy(struct job *j, const struct mirror_args *a, bool zeroed, struct strbuf *out)
{
	strbuf_addf(out, "copy %s %d %s", j->id, j->dest, j->write_blocking ? "both" : "track");
	if (a->granularity)
		strbuf_addf(out, " grain %llu", (unsigned long long)grain_of(a));
	if (streq(a->sync, "none"))
		strbuf_adds(out, " new-only");
	if (streq(a->sync, "top") && a->source->backing) {
		strbuf_adds(out, " skip ");
		job_print_layers(j, a->source->backing, NULL, out);
	} else if (zeroed && !streq(a->sync, "none")) { /* a part is given a backing file */
		strbuf_adds(out, " zeroed");
	}
	if (!a->unmap)
		strbuf_adds(out, " nounmap");
}

/* As in QEMU the job begins and fails: the command has succeeded. */
static int wrong_size(struct job *j, struct mirror_args *a, struct err *e)
{
	core_lock();
	j->len = 0;
	j->kernel_gone = true;
	core_unlock();
	job_hold_node(j, a->dest);
	job_set_status(j, JOB_RUNNING);
	j->error = xstrdup("Source and target image have different sizes");
	job_fail(j);
	return state_save(e);
}

static int start(struct mirror_args *a, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;
	bool zeroed = job_target_is_zero(a->dest);
	struct job *j = job_begin(&a->job, &mirror_job, a->source->size);
	int r;

	j->write_blocking = streq(a->copy_mode, "write-blocking");
	if (a->source->size != a->dest->size)
		return wrong_size(j, a, e);
	r = build(j, a, e);
	if (r)
		return job_begin_failed(j, r);
	print_copy(j, a, zeroed, &text);
	return job_start_kernel(j, strbuf_str(&text), true, e);
}

static int mirror_finish(struct job *j, struct err *e)
{
	return job_become_target(j, e);
}

const struct job_type mirror_job = {
	.name = "mirror", .block = true,
	.completable = true,
	.clean = job_copy_clean,
	.finish = mirror_finish,
};

static int blockdev_mirror(struct json *args, struct json **ret, struct err *e)
{
	struct mirror_args a = { 0 };
	int r;

	(void)ret;
	if ((r = parse(args, &a, e)) || (r = device_find(a.target, &a.dest, e)) ||
	    (r = check_arguments(&a, e)) || (r = check_target(&a, e)) ||
	    (r = job_args_check(args, &a.job, e)))
		return r;
	return start(&a, e);
}

/* ---- drive-mirror ---------------------------------------------------------------------------- */

static int format_of(const struct mirror_args *a, enum node_driver *ret, struct err *e)
{
	const char *format = a->format ? a->format : node_driver_name(a->source->driver);

	if (!streq(format, "qcow2") && !streq(format, "raw"))
		return err_set(e, EINVAL, "Unknown file format '%s'", format);
	*ret = streq(format, "raw") ? NODE_RAW : NODE_QCOW2;
	return 0;
}

/* The image that the target's header names as its backing file; NULL: none. */
static struct node *backing_of(const struct mirror_args *a)
{
	return streq(a->sync, "top") ? a->source->backing : NULL;
}

static int create(const struct mirror_args *a, enum node_driver driver, struct err *e)
{
	struct qcow2_create_opts opts = { .size = a->source->size };
	const struct node *backing = streq(a->sync, "none") ? a->source : backing_of(a);

	if (backing && driver == NODE_RAW)
		return err_set(e, EINVAL, "Backing file not supported for file format 'raw'");
	if (backing == a->source && !view_of_top(a->source))
		return err_set(
			e, EOPNOTSUPP,
			"sync mode 'none' with mode 'absolute-paths' is for disks, and '%s' is the image of none: use blockdev-snapshot-sync",
			a->source->name);
	if (backing) {
		opts.backing_file = backing->file->filename;
		opts.backing_format = node_driver_name(backing->driver);
	}
	return image_create(a->target, driver, &opts, e);
}

/* What is created has the source's own backing image below it; what exists, what its header says. */
static int open_target(struct mirror_args *a, enum node_driver driver, bool created, struct err *e)
{
	int r = node_open_image(driver, a->target, a->node_name, false, &a->dest, e);

	if (r || driver != NODE_QCOW2)
		return r;
	if (created && backing_of(a))
		node_set_backing(a->dest, backing_of(a));
	else if (!created)
		r = node_open_header_chain(a->dest, e);
	if (r)
		node_put(a->dest);
	return r;
}

static int check_names(const struct mirror_args *a, struct err *e)
{
	if (a->replaces && !a->node_name)
		return err_set(e, EINVAL,
			       "a node-name must be provided when replacing a named node of the graph");
	return a->node_name ? node_check_name(a->node_name, e) : 0;
}

/* Before anything is created: what exists must be there, a name free, the kernel's module loaded. */
static int check_drive(struct json *args, struct mirror_args *a, enum node_driver *driver,
		       struct err *e)
{
	int r;

	if ((r = check_granularity(a, e)) || (r = format_of(a, driver, e)) ||
	    (r = check_names(a, e)))
		return r;
	if (streq(a->mode, "existing") && access(a->target, F_OK))
		return err_set(e, errno, "Could not open '%s': %s", a->target, strerror(errno));
	r = check_arguments(a, e);
	return r ? r : job_args_check(args, &a->job, e);
}

static int drive_mirror(struct json *args, struct json **ret, struct err *e)
{
	enum node_driver driver = NODE_RAW;
	struct mirror_args a = { 0 };
	char name[NODE_NAME_MAX + 1];
	bool created;
	int r;

	(void)ret;
	if ((r = parse(args, &a, e)) || (r = check_drive(args, &a, &driver, e)))
		return r;
	created = streq(a.mode, "absolute-paths");
	if (created)
		r = create(&a, driver, e);
	if (!r)
		r = open_target(&a, driver, created, e);
	if (r)
		return r;
	snprintf(name, sizeof(name), "%s", a.dest->name);
	r = check_target(&a, e);
	if (!r && created && streq(a.sync, "none"))
		r = mirror_overlay_start(&a.job, a.source, a.dest, e);
	else if (!r)
		r = start(&a, e);
	if (r && node_find(name)) /* it may have gone with the job */
		node_put(node_find(name));
	return r;
}

/* ---- tables ----------------------------------------------------------------------------------- */

static void cmd_blockdev_mirror(struct qmp_call *call)
{
	ctl_command(call, blockdev_mirror);
}

static void cmd_drive_mirror(struct qmp_call *call)
{
	ctl_command(call, drive_mirror);
}

static const char *const sync_values[] = { "top", "full", "none", "incremental", "bitmap", NULL };
static const char *const copy_values[] = { "background", "write-blocking", NULL };
static const char *const mode_values[] = { "existing", "absolute-paths", NULL };
static const struct qapi_type sync_mode = QAPI_ENUM("MirrorSyncMode", sync_values);
const struct qapi_type mirror_copy_mode = QAPI_ENUM("MirrorCopyMode", copy_values);
static const struct qapi_type image_mode = QAPI_ENUM("NewImageMode", mode_values);

static const struct qapi_member blockdev_members[] = {
	{ "job-id", &qapi_str, QAPI_OPT, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "target", &qapi_str, 0, NULL },
	{ "replaces", &qapi_str, QAPI_OPT, NULL },
	{ "sync", &sync_mode, 0, NULL },
	{ "speed", &qapi_int, QAPI_OPT, NULL },
	{ "granularity", &qapi_uint32, QAPI_OPT, NULL },
	{ "buf-size", &qapi_int, QAPI_OPT, NULL },
	{ "on-source-error", &job_on_error, QAPI_OPT, NULL },
	{ "on-target-error", &job_on_error, QAPI_OPT, NULL },
	{ "filter-node-name", &qapi_str, QAPI_OPT, NULL },
	{ "copy-mode", &mirror_copy_mode, QAPI_OPT, NULL },
	{ "auto-finalize", &qapi_bool, QAPI_OPT, NULL },
	{ "auto-dismiss", &qapi_bool, QAPI_OPT, NULL },
	{ "x-force", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};

static const struct qapi_member drive_members[] = {
	{ "job-id", &qapi_str, QAPI_OPT, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "target", &qapi_str, 0, NULL },
	{ "format", &qapi_str, QAPI_OPT, NULL },
	{ "node-name", &qapi_str, QAPI_OPT, NULL },
	{ "replaces", &qapi_str, QAPI_OPT, NULL },
	{ "sync", &sync_mode, 0, NULL },
	{ "mode", &image_mode, QAPI_OPT, NULL },
	{ "speed", &qapi_int, QAPI_OPT, NULL },
	{ "granularity", &qapi_uint32, QAPI_OPT, NULL },
	{ "buf-size", &qapi_int, QAPI_OPT, NULL },
	{ "on-source-error", &job_on_error, QAPI_OPT, NULL },
	{ "on-target-error", &job_on_error, QAPI_OPT, NULL },
	{ "unmap", &qapi_bool, QAPI_OPT, NULL },
	{ "copy-mode", &mirror_copy_mode, QAPI_OPT, NULL },
	{ "auto-finalize", &qapi_bool, QAPI_OPT, NULL },
	{ "auto-dismiss", &qapi_bool, QAPI_OPT, NULL },
	{ "x-force", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};

const struct qmp_command mirror_commands[] = {
	{ .name = "blockdev-mirror", .handler = cmd_blockdev_mirror, .args = blockdev_members },
	{ .name = "drive-mirror", .handler = cmd_drive_mirror, .args = drive_members },
	{ 0 },
};
