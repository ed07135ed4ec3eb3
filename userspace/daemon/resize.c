// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block_resize: of a raw image that nobody uses. A disk's size is fixed for the life of its
 * device (the kernel's view), and a qcow2 image's tables are sized when it is made.
 */
#include <errno.h>
#include <unistd.h>

#include "../lib/fault.h"
#include "blockdev.h"
#include "ctl.h"
#include "export.h"
#include "state.h"

static int check_resize(const struct node *n, int64_t size, struct err *e)
{
	int r;

	if (size < 0)
		return err_set(e, EINVAL, "Parameter 'size' expects a >0 size");
	if (size % 512)
		return err_set(e, EINVAL, "The new size must be a multiple of 512");
	r = node_check_free(n, e);
	if (r)
		return r;
	if (n->users)
		return err_set(e, EBUSY,
			       "Node '%s' is busy: it is exported, and a disk's size can't change while it is; detach it, then resize the image",
			       n->name);
	if (n->read_only)
		return err_set(e, EACCES, "Block node '%s' is read-only", n->name);
	if (n->driver != NODE_RAW || n->file->driver != NODE_FILE)
		return err_set(e, EOPNOTSUPP,
			       "Node '%s': only raw images in files can be resized here; remove the node (blockdev-del) and use qemu-img resize",
			       n->name);
	return 0;
}

static int resize(struct json *args, struct json **ret, struct err *e)
{
	const char *device = NULL, *node = NULL;
	struct node *n;
	int64_t size;
	int r;

	(void)ret;
	if ((r = json_opt_str(args, "device", &device, e)) ||
	    (r = json_opt_str(args, "node-name", &node, e)) ||
	    (r = json_need_int(args, "size", &size, e)) || (r = device_lookup(device, node, &n, e)) ||
	    (r = check_resize(n, size, e)))
		return r;
	if (ftruncate(n->file->fd, size) || fsync(n->file->fd))
		return err_set(e, errno, "Could not resize '%s': %s", n->file->filename,
			       strerror(errno));
	FAULT_POINT("resize", n->file->filename);
	core_lock();
	n->size = n->file->size = (uint64_t)size;
	core_unlock();
	loop_detach(&n->file->loop); /* one of the new size comes with the next use */
	return state_save(e);
}

static void cmd_resize(struct qmp_call *call)
{
	ctl_command(call, resize);
}

static const struct qapi_member resize_members[] = {
	{ "device", &qapi_str, QAPI_OPT, NULL },
	{ "node-name", &qapi_str, QAPI_OPT, NULL },
	{ "size", &qapi_int, 0, NULL },
	{ 0 },
};

const struct qmp_command resize_commands[] = {
	{ .name = "block_resize", .handler = cmd_resize, .args = resize_members },
	{ 0 },
};
