// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A backing image becomes writable for a job, and read-only again.
 *
 * A descriptor that was opened for reading stays as it is, and so does the loop device made of it,
 * which tables of the kernel use, with its locks: they outlive the daemon as the loop device does.
 * Beside it there is a second one for writing, with locks of its own. Both are direct: what is
 * written through one is read through the other.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/log.h"
#include "ctl.h"
#include "journal.h"
#include "node.h"
#include "view.h"

static int open_writable(const struct node *p, int *ret, struct err *e)
{
	_cleanup_close_ int fd = open(p->filename, O_RDWR | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return err_set(e, errno, "Could not open '%s': %s", p->filename, strerror(errno));
	if (st.st_dev != p->dev || st.st_ino != p->ino)
		return err_set(e, ESTALE,
			       "Could not open '%s': it is another file than the one in use",
			       p->filename);
	*ret = fd;
	fd = -1;
	return 0;
}

/* The image read anew through @fd. What others read of @n changes hands at one instant. */
static int open_image(struct node *n, int fd, bool writable, struct qio **ret_qio,
		      struct qcow2 **ret_img, struct err *e)
{
	struct qio *qio = NULL;
	int r;

	if (n->driver != NODE_QCOW2)
		return 0;
	r = qio_file_new(fd, n->file->filename, &qio, e);
	if (!r)
		r = qcow2_open(qio, writable ? QCOW2_WRITABLE : 0, ret_img, e);
	if (!r && writable)
		r = journal_recover(n->file->filename, *ret_img, e);
	if (!r) {
		*ret_qio = qio;
		return 0;
	}
	qcow2_close(*ret_img);
	*ret_img = NULL;
	qio_free(qio);
	return r;
}

static void swap_image(struct node *n, struct qio *qio, struct qcow2 *img)
{
	struct qcow2 *old_img = n->img;
	struct qio *old_qio = n->qio;

	if (n->driver != NODE_QCOW2)
		return;
	views_lock_all();
	core_lock();
	n->img = img;
	n->qio = qio;
	qcow2_get_info(img, &n->info);
	n->size = n->info.virtual_size;
	core_unlock();
	views_unlock_all();
	qcow2_close(old_img);
	qio_free(old_qio);
}

static void set_read_only(struct node *n, bool ro)
{
	core_lock();
	n->read_only = n->file->read_only = ro;
	core_unlock();
}

/* A descriptor that can be written through is there; so is an image that was opened with it. */
static int upgrade(struct node *n, struct err *e)
{
	struct image_lock want = { IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED };
	struct node *p = n->file;
	int r = image_lock_change(p->fd, p->filename, &p->lock, want, e);

	if (!r)
		p->reopened = true;
	return r;
}

static int reopen(struct node *n, int fd, struct err *e)
{
	struct image_lock want = { IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED }, got = { 0, 0 };
	struct node *p = n->file;
	struct qcow2 *img = NULL;
	struct qio *qio = NULL;
	int r;

	r = p->lock_adopted ? image_lock_beside(fd, p->filename, want.perm, want.unshared, &got, e)
			    : image_lock_join(p->fd, &p->lock, fd, p->filename, want, &got, e);
	if (r)
		return r;
	r = open_image(n, fd, true, &qio, &img, e);
	if (r) {
		image_unlock(fd, &got);
		return r;
	}
	swap_image(n, qio, img);
	core_lock();
	p->ro_lock = p->lock;
	p->lock = got;
	p->ro_fd = p->fd;
	p->ro_loop = p->loop;
	p->loop = (struct loop_dev)LOOP_DEV_INIT;
	p->fd = fd;
	p->reopened = true;
	core_unlock();
	return 0;
}

int node_make_writable(struct node *n, struct err *e)
{
	struct node *p = n->file;
	int fd = -1, r;

	if (!n->read_only)
		return 0;
	if (!p->lock_adopted && fd_can_write(p->fd) &&
	    (n->driver == NODE_RAW || n->info.writable)) {
		r = upgrade(n, e);
	} else {
		r = open_writable(p, &fd, e);
		if (!r)
			r = reopen(n, fd, e);
		if (r)
			closep(&fd);
	}
	if (!r)
		set_read_only(n, false);
	return r;
}

static int return_reopened(struct node *n, struct err *e)
{
	struct node *p = n->file;
	struct qcow2 *img = NULL;
	struct qio *qio = NULL;
	int fd = p->fd, r;

	r = open_image(n, p->ro_fd, false, &qio, &img, e);
	if (r)
		return r;
	swap_image(n, qio, img);
	node_drop_cache(n);
	loop_detach(&p->loop);
	image_unlock(fd, &p->lock);
	core_lock();
	p->lock = p->ro_lock;
	p->ro_lock = (struct image_lock){ 0, 0 };
	p->fd = p->ro_fd;
	p->ro_fd = -1;
	p->loop = p->ro_loop;
	p->ro_loop = (struct loop_dev)LOOP_DEV_INIT;
	core_unlock();
	close(fd);
	/* It may have grown, and is read through the old loop device. */
	return node_update_capacity(n, e);
}

int node_return(struct node *n, struct err *e)
{
	struct node *p = node_protocol(n);
	int r;

	if (node_is_filter(n) || !p->reopened)
		return 0;
	if (!view_of_top(n)) /* an earlier daemon came to end that, and not to this */
		node_settle_unused(n);
	r = p->ro_fd < 0 ? node_make_read_only(n, e) : return_reopened(n, e);
	if (r)
		return r;
	p->reopened = false;
	set_read_only(n, true);
	return 0;
}

/* After a restart: what node_return() goes back to. */
int node_restore_reopened(struct node *n, bool second, dev_t loop, struct err *e)
{
	struct node *p = n->file;

	p->reopened = true;
	if (!second)
		return 0;
	p->ro_fd = open(p->filename, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
	if (p->ro_fd < 0)
		return err_set(e, errno, "Could not open '%s': %s", p->filename, strerror(errno));
	if (loop_find_number(p->dev, p->ino, 0, loop, &p->ro_loop, NULL))
		(void)loop_find_mode(p->dev, p->ino, 0, true, &p->ro_loop, NULL);
	return 0;
}

void node_stay_writable(struct node *n)
{
	struct node *p = node_protocol(n);

	p->reopened = false;
	loop_detach(&p->ro_loop);
	closep(&p->ro_fd);
	p->ro_fd = -1;
	p->ro_lock = (struct image_lock){ 0, 0 };
}

int node_write_backing(struct node *n, const struct node *backing, const char *name,
		       struct err *e)
{
	const char *file = name ? name : backing ? backing->file->filename : NULL;
	char *old = NULL;
	int r;

	if (n->driver != NODE_QCOW2)
		return err_set(e, EOPNOTSUPP, "Image '%s' is raw: it can have no backing file",
			       n->file->filename);
	/* The strings of @n->info are the image's own; queries must not meet their end. */
	core_lock();
	n->info.backing_file = n->info.backing_format = NULL;
	core_unlock();
	r = qcow2_set_backing(n->img, backing ? file : NULL,
			      backing ? node_driver_name(backing->driver) : NULL, e);
	core_lock();
	qcow2_get_info(n->img, &n->info);
	if (!r) {
		old = n->backing_name;
		n->backing_name = backing ? xstrdup(file) : NULL;
	}
	core_unlock();
	free(old);
	return r;
}

void node_mark_invalid(struct node *n, const char *why)
{
	struct err e = ERR_INIT;
	int r;

	if (n->driver != NODE_QCOW2)
		return;
	r = node_make_writable(n, &e);
	if (!r) {
		/* The strings of @n->info are the image's own; queries must not meet their end. */
		core_lock();
		n->info.invalid = NULL;
		core_unlock();
		r = qcow2_set_invalid(n->img, why, &e);
		core_lock();
		qcow2_get_info(n->img, &n->info);
		core_unlock();
	}
	if (!r)
		r = node_return(n, &e);
	if (r)
		log_warn("'%s' must not be used any more (%s), and could not be marked: %s",
			 n->file->filename, why, e.msg);
	err_clear(&e);
}
