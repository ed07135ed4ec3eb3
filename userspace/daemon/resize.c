// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Images of another size: block_resize of one that nobody uses, and the base of a commit. A disk's size is
 * fixed for the life of its device (the kernel's view).
 */
#include <errno.h>
#include <unistd.h>

#include "../lib/fault.h"
#include "blockdev.h"
#include "ctl.h"
#include "export.h"
#include "node.h"
#include "state.h"
#include "view.h"

/* Loop devices show what the file has from then on. */
static int update_loops(struct node *p, struct err *e)
{
	int r = p->loop.number < 0 ? 0 : loop_set_capacity(&p->loop, e);

	return r || p->ro_loop.number < 0 ? r : loop_set_capacity(&p->ro_loop, e);
}

static int resize_file(struct node *p, uint64_t size, struct err *e)
{
	if (ftruncate(p->fd, (off_t)size) || fsync(p->fd))
		return err_set(e, errno, "Could not resize '%s': %s", p->filename, strerror(errno));
	FAULT_POINT("resize", p->filename);
	return 0;
}

static void set_size(struct node *n, uint64_t size)
{
	views_lock_all();
	core_lock();
	n->size = size;
	if (n->driver == NODE_RAW)
		n->file->size = size;
	else
		qcow2_get_info(n->img, &n->info);
	core_unlock();
	views_unlock_all();
}

int node_check_grow(const struct node *n, uint64_t size, struct err *e)
{
	if (size <= n->size)
		return 0;
	if (n->driver == NODE_RAW && n->file->driver != NODE_FILE)
		return err_set(e, EINVAL, "Cannot grow device files: '%s' has %llu bytes, %llu are needed",
			       n->file->filename, (unsigned long long)n->size,
			       (unsigned long long)size);
	if (n->backing && n->backing->size > n->size && !n->info.has_zero)
		return err_set(e, EOPNOTSUPP,
			       "Image '%s' has %llu bytes and can't grow: its backing image is longer, and would be seen there; qcow2 version 2 can't hide it",
			       n->file->filename, (unsigned long long)n->size);
	return 0;
}

int node_grow(struct node *n, uint64_t size, struct err *e)
{
	int r = node_check_grow(n, size, e);

	if (r || size <= n->size)
		return r;
	if (n->driver == NODE_QCOW2)
		r = qcow2_grow(n->img, size, n->backing ? n->backing->size : 0, e);
	else
		r = resize_file(n->file, size, e);
	if (r)
		return r;
	set_size(n, size);
	return update_loops(n->file, e);
}

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
		return err_set(e, EACCES, "Block node '%s' is read-only", node_shown(n)->name);
	if (node_is_protocol(n) || node_is_filter(n))
		return err_set(e, EOPNOTSUPP, "Node '%s': only raw and qcow2 nodes can be resized",
			       n->name);
	if (n->driver == NODE_QCOW2 && (uint64_t)size < n->size)
		return err_set(e, EOPNOTSUPP,
			       "Node '%s': qcow2 images can't be made smaller here; remove the node (blockdev-del) and use qemu-img resize",
			       n->name);
	if (n->driver == NODE_RAW && n->file->driver != NODE_FILE && (uint64_t)size != n->size)
		return err_set(e, EOPNOTSUPP, "Cannot resize device files");
	return node_check_grow(n, (uint64_t)size, e);
}

static int set_file_size(struct node *n, uint64_t size, struct err *e)
{
	int r;

	if (size >= n->size)
		return node_grow(n, size, e);
	r = resize_file(n->file, size, e);
	if (!r)
		set_size(n, size);
	return r;
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
	r = set_file_size(n, (uint64_t)size, e);
	if (r)
		return r;
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
