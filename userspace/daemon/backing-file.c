// SPDX-License-Identifier: GPL-2.0-or-later
/* change-backing-file: what an image's header says of its backing file; the chain stays. */
#include <errno.h>

#include "blockdev.h"
#include "ctl.h"
#include "export.h"
#include "state.h"

static bool has_below(const struct node *top, const struct node *n)
{
	for (; top; top = top->backing) {
		if (top == n)
			return true;
	}
	return false;
}

static int check_image(struct node *top, struct node *n, struct err *e)
{
	if (!n->backing_name && !n->backing)
		return err_set(e, EINVAL,
			       "not allowing backing file change on an image without a backing file");
	if (!has_below(top, n))
		return err_set(e, EINVAL, "'%s' and image file are not in the same chain", top->name);
	if (n->job)
		return err_set(e, EBUSY,
			       "Node '%s' is busy: block device is in use by block job: %s", n->name,
			       n->job_type);
	if (n->read_only)
		return err_set(e, EACCES, "Block node '%s' is read-only", n->name);
	return 0;
}

/* The strings of @n->info are the image's own and go with the change; queries must not meet that. */
static int write_name(struct node *n, const char *file, struct err *e)
{
	_cleanup_free_ char *format = n->info.backing_format ? xstrdup(n->info.backing_format) : NULL;
	char *old = NULL;
	int r;

	core_lock();
	n->info.backing_file = n->info.backing_format = NULL;
	core_unlock();
	r = qcow2_set_backing(n->img, file, format, e);
	core_lock();
	qcow2_get_info(n->img, &n->info);
	if (!r) {
		old = n->backing_name;
		n->backing_name = xstrdup(file);
	}
	core_unlock();
	free(old);
	return r;
}

static int change(struct json *args, struct json **ret, struct err *e)
{
	const char *device, *image, *file;
	struct node *top, *n;
	int r;

	(void)ret;
	if ((r = json_need_str(args, "device", &device, e)) ||
	    (r = json_need_str(args, "image-node-name", &image, e)) ||
	    (r = json_need_str(args, "backing-file", &file, e)) ||
	    (r = device_find(device, &top, e)) || (r = device_lookup(NULL, image, &n, e)) ||
	    (r = check_image(top, n, e)))
		return r;
	r = write_name(n, file, e);
	return r ? r : state_save(e);
}

static void cmd_change(struct qmp_call *call)
{
	ctl_command(call, change);
}

static const struct qapi_member change_members[] = {
	{ "device", &qapi_str, 0, NULL },
	{ "image-node-name", &qapi_str, 0, NULL },
	{ "backing-file", &qapi_str, 0, NULL },
	{ 0 },
};

const struct qmp_command backing_file_commands[] = {
	{ .name = "change-backing-file", .handler = cmd_change, .args = change_members },
	{ 0 },
};
