// SPDX-License-Identifier: GPL-2.0-or-later
/* Format nodes: what a qcow2 or raw image means, above its protocol node. */
#include <errno.h>

#include "../lib/log.h"
#include "ctl.h"
#include "journal.h"
#include "node.h"

/* The locks of a format node's file, before anything is read from it. */
static int format_lock(struct node *file, bool read_only, struct err *e)
{
	struct image_lock want = { read_only ? IMAGE_LOCK_BACKING_PERM : IMAGE_LOCK_ACTIVE_PERM,
				   IMAGE_LOCK_UNSHARED };

	if (file->lock_adopted)
		return 0;
	return image_lock_change(file->fd, file->filename, &file->lock, want, e);
}

static void format_unlock(struct node *file)
{
	if (!file->lock_adopted)
		image_unlock(file->fd, &file->lock);
}

static int open_qcow2(struct node *n, struct node_open_flags flags, struct err *e)
{
	struct node *p = n->file;
	int r;

	r = qio_file_new(p->fd, p->filename, &n->qio, e);
	if (!r)
		r = qcow2_open(n->qio, n->read_only ? 0 : QCOW2_WRITABLE, &n->img, e);
	if (r)
		return r;
	qcow2_get_info(n->img, &n->info);
	if (n->info.invalid && !flags.adopt)
		return node_check_valid(n, e);
	n->size = n->info.virtual_size;
	if (n->info.backing_file)
		n->backing_name = xstrdup(n->info.backing_file);
	/* What a crash leaked is taken back before the image is used again (I9). */
	if (!n->read_only && !flags.adopt)
		r = journal_recover(p->filename, n->img, e);
	return r;
}

static int open_raw(struct node *n, struct err *e)
{
	n->size = n->file->size & ~(uint64_t)511;
	if (n->size != n->file->size)
		return err_set(e, EINVAL,
			       "Could not open '%s': its size, %llu bytes, is no multiple of 512; make it one (truncate -s %llu)",
			       n->file->filename, (unsigned long long)n->file->size,
			       (unsigned long long)(n->size + 512));
	return 0;
}

static int check_format(enum node_driver driver, struct node *file, bool read_only, struct err *e)
{
	if (!node_is_protocol(file))
		return err_set(e, EINVAL,
			       "Node '%s' is a %s node: 'file' of a %s node must be a file or host_device node",
			       file->name, node_driver_name(file->driver), node_driver_name(driver));
	if (file->parents)
		return err_set(e, EBUSY, "Node '%s' is busy: it is the file of another node",
			       file->name);
	if (file->read_only && !read_only)
		return err_set(e, EACCES, "Block node '%s' is read-only", file->name);
	return 0;
}

int node_format_open(enum node_driver driver, struct node *file, const char *name, bool read_only,
		     struct node_open_flags flags, struct node **ret, struct err *e)
{
	struct node *n;
	int r;

	r = check_format(driver, file, read_only, e);
	if (!r)
		r = format_lock(file, read_only, e);
	if (r)
		return r;
	n = node_new(driver, name);
	n->read_only = read_only;
	n->file = file;
	r = driver == NODE_QCOW2 ? open_qcow2(n, flags, e) : open_raw(n, e);
	if (r) {
		qcow2_close(n->img);
		qio_free(n->qio);
		free(n->backing_name);
		free(n);
		format_unlock(file);
		return r;
	}
	core_lock();
	file->parents++;
	core_unlock();
	node_link(n);
	*ret = n;
	return 0;
}

int node_as_image(struct node **n, struct err *e)
{
	struct node_open_flags flags = { 0 };
	struct node *p = *n, *raw;
	int r;

	if (!node_is_protocol(p))
		return 0;
	list_for_each(raw, &node_list, link) {
		if (raw->implicit && raw->file == p) {
			*n = raw;
			return 0;
		}
	}
	if (p->parents)
		return 0;
	r = node_format_open(NODE_RAW, p, NULL, p->read_only, flags, n, e);
	if (!r)
		(*n)->implicit = true;
	return r;
}

static struct node *unused(void)
{
	struct node *n;

	list_for_each(n, &node_list, link) {
		if (n->implicit && !n->parents && !n->users)
			return n;
	}
	return NULL;
}

void node_drop_unused(void)
{
	struct node *n;

	while ((n = unused()))
		node_put(n);
}

int node_open_image(enum node_driver driver, const char *filename, const char *name, bool read_only,
		    struct node **ret, struct err *e)
{
	struct node_open_flags flags = { 0 };
	struct node *file;
	int r;

	r = node_file_open(str_has_prefix(filename, "/dev/") ? NODE_HOST_DEVICE : NODE_FILE, filename,
			   NULL, read_only, flags, &file, e);
	if (r)
		return r;
	r = node_format_open(driver, file, name, read_only, flags, ret, e);
	if (r)
		node_put(file);
	return r;
}
