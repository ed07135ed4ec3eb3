// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * drive-backup: as blockdev-backup, to a file or device that is opened here, and with mode
 * `absolute-paths` made. The target's node has no name and goes with the job.
 */
#include <errno.h>
#include <stdio.h>

#include "backup.h"
#include "ctl.h"
#include "image-create.h"
#include "job-copy.h"

static int format_of(struct json *args, const struct backup_args *a, enum node_driver *ret,
		     struct err *e)
{
	const char *format = node_driver_name(a->source->driver);
	int r = json_opt_str(args, "format", &format, e);

	if (r)
		return r;
	if (!streq(format, "qcow2") && !streq(format, "raw"))
		return err_set(e, EINVAL, "Unknown file format '%s': qcow2 and raw are known",
			       format);
	*ret = streq(format, "raw") ? NODE_RAW : NODE_QCOW2;
	return 0;
}

/* The image that a new target's header names as its backing file; NULL: none. */
static struct node *backing_of(const struct backup_args *a)
{
	return a->on_demand ? a->source : a->top_only ? a->source->backing : NULL;
}

static int create_target(const struct backup_args *a, enum node_driver driver, struct err *e)
{
	struct qcow2_create_opts opts = { .size = a->source->size };

	if (a->on_demand && node_is_filter(a->source))
		return err_set(
			e, EINVAL,
			"sync mode 'none' with mode 'absolute-paths' needs an image as device: '%s' is a %s node",
			a->source->name, node_driver_name(a->source->driver));
	if (backing_of(a) && driver == NODE_RAW)
		return err_set(e, EINVAL, "Backing file not supported for file format 'raw'");
	if (backing_of(a)) {
		opts.backing_file = backing_of(a)->file->filename;
		opts.backing_format = node_driver_name(backing_of(a)->driver);
	}
	return image_create(a->target, driver, &opts, e);
}

/*
 * What of the disk is not copied is in the source's own backing image for a new target; else in
 * the header's. With sync=none it is in the source, which changes and is nothing to read from:
 * whole clusters are copied, zeros included, with no image below.
 */
static int open_target(struct backup_args *a, enum node_driver driver, bool created, struct err *e)
{
	int r = node_open_image(driver, a->target, NULL, false, &a->dest, e);

	if (r || driver != NODE_QCOW2 || !a->top_only)
		return r;
	if (created)
		node_set_backing(a->dest, backing_of(a));
	else
		r = node_open_header_chain(a->dest, e);
	if (r)
		node_put(a->dest);
	return r;
}

static int drive_prepare(struct txn_action *t, struct json *args, struct err *e)
{
	struct backup_args *a = xcalloc(1, sizeof(*a));
	const char *mode = "absolute-paths";
	enum node_driver driver = NODE_RAW;
	char name[NODE_NAME_MAX + 1];
	int r;

	t->state = a;
	if ((r = backup_parse(args, a, e)) || (r = json_opt_str(args, "mode", &mode, e)) ||
	    (r = format_of(args, a, &driver, e)) || (r = backup_check_id(a, e)))
		return r; /* before a file is made */
	if (streq(mode, "absolute-paths"))
		r = create_target(a, driver, e);
	if (!r)
		r = open_target(a, driver, streq(mode, "absolute-paths"), e);
	if (r)
		return r;
	snprintf(name, sizeof(name), "%s", a->dest->name);
	r = backup_start(t, a, e);
	if (r) /* unless it went with the job */
		node_put(node_find(name));
	return r;
}

const struct txn_type txn_drive_backup = {
	.name = "drive-backup",
	.prepare = drive_prepare,
	BACKUP_HOOKS,
};

static int drive_backup(struct json *args, struct json **ret, struct err *e)
{
	(void)ret;
	return txn_single(&txn_drive_backup, args, e);
}

static void cmd_drive_backup(struct qmp_call *call)
{
	ctl_command(call, drive_backup);
}

static const char *const mode_values[] = { "existing", "absolute-paths", NULL };
static const struct qapi_type image_mode = QAPI_ENUM("NewImageMode", mode_values);
static const char *const deprecated[] = { "deprecated", NULL };
static const char *const unstable[] = { "unstable", NULL };

static const struct qapi_member drive_members[] = {
	{ "job-id", &qapi_str, QAPI_OPT, NULL },
	{ "device", &qapi_str, 0, NULL },
	{ "target", &qapi_str, 0, NULL },
	{ "format", &qapi_str, QAPI_OPT, NULL },
	{ "sync", &backup_sync_mode, 0, NULL },
	{ "mode", &image_mode, QAPI_OPT, NULL },
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
const struct qapi_type drive_backup_type = QAPI_STRUCT("DriveBackup", drive_members);

const struct qmp_command drive_backup_commands[] = {
	{ .name = "drive-backup",
	  .handler = cmd_drive_backup,
	  .args = drive_members,
	  .features = deprecated },
	{ 0 },
};
