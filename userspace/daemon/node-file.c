// SPDX-License-Identifier: GPL-2.0-or-later
/* Protocol nodes: descriptor, image locks, and the device that the kernel is given. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/log.h"
#include "ctl.h"
#include "fleece.h"
#include "node.h"

/* The sentence for an open(2) that failed; QEMU's words. */
static int open_error(const char *filename, int code, bool read_only, struct err *e)
{
	if (code == EINVAL)
		return err_set(e, EOPNOTSUPP,
			       "Could not open '%s': its file system has no direct I/O; move the image to one that has (ext4, xfs) or to a block device",
			       filename);
	if (code == EROFS && !read_only)
		return err_set(e, code,
			       "Could not open '%s': %s; open it with read-only=true",
			       filename, strerror(code));
	return err_set(e, code, "Could not open '%s': %s", filename, strerror(code));
}

static int check_type(const char *filename, enum node_driver driver, mode_t mode, struct err *e)
{
	if (driver == NODE_FILE && !S_ISREG(mode))
		return err_set(e, EINVAL, "'file' driver requires '%s' to be a regular file%s",
			       filename, S_ISBLK(mode) ? ": use 'host_device'" : "");
	if (driver == NODE_HOST_DEVICE && !S_ISBLK(mode))
		return err_set(e, EINVAL, "'host_device' driver requires '%s' to be a block device%s",
			       filename, S_ISREG(mode) ? ": use 'file'" : "");
	return 0;
}

static int file_size(int fd, mode_t mode, uint64_t *ret)
{
	struct stat st;

	if (S_ISBLK(mode))
		return ioctl(fd, BLKGETSIZE64, ret) ? -errno : 0;
	if (fstat(fd, &st))
		return -errno;
	*ret = st.st_size;
	return 0;
}

/* Checks what was opened and fills what is known of it into @n. */
static int file_identify(struct node *n, struct err *e)
{
	struct stat st;
	int r;

	if (fstat(n->fd, &st))
		return open_error(n->filename, errno, n->read_only, e);
	r = check_type(n->filename, n->driver, st.st_mode, e);
	if (r)
		return r;
	r = file_size(n->fd, st.st_mode, &n->size);
	if (r)
		return open_error(n->filename, -r, n->read_only, e);
	n->dev = st.st_dev;
	n->ino = st.st_ino;
	n->rdev = S_ISBLK(st.st_mode) ? st.st_rdev : 0;
	return 0;
}

/* O_NONBLOCK: a FIFO must not hang us; it means nothing for files and devices. */
static int file_descriptor(struct node *n, struct err *e)
{
	int flags = (n->read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC | O_NONBLOCK;

	n->fd = open(n->filename, flags);
	if (n->fd < 0)
		return open_error(n->filename, errno, n->read_only, e);
	return file_identify(n, e);
}

/* After a restart: the loop device that the kernel's tables still hold, with its locks. */
static void file_adopt_loop(struct node *n, dev_t known)
{
	struct image_lock want = { n->read_only ? IMAGE_LOCK_BACKING_PERM : IMAGE_LOCK_ACTIVE_PERM,
				   IMAGE_LOCK_UNSHARED };
	struct loop_dev loop = LOOP_DEV_INIT;
	struct err e = ERR_INIT;

	/* There are two while a job writes a backing image: the state knows which. */
	if (n->driver != NODE_FILE ||
	    (loop_find_number(n->dev, n->ino, 0, known, &loop, NULL) &&
	     loop_find_mode(n->dev, n->ino, 0, n->read_only, &loop, NULL) &&
	     loop_find(n->dev, n->ino, 0, &loop, NULL)))
		return;
	n->loop = loop;
	n->lock_adopted = true;
	if (image_lock_held(n->fd))
		return;
	log_notice("'%s': its loop device has no locks, they are taken anew", n->filename);
	if (image_lock_change(n->fd, n->filename, &n->lock, want, &e))
		log_warn("Others may use an image that is open here: %s", e.msg);
	err_clear(&e);
}

static void file_discard(struct node *n)
{
	loop_detach(&n->loop);
	closep(&n->fd);
	free(n->filename);
	free(n);
}

int node_file_open(enum node_driver driver, const char *filename, const char *name, bool read_only,
		   struct node_open_flags flags, struct node **ret, struct err *e)
{
	_cleanup_free_ char *real = realpath(filename, NULL);
	struct node *n;
	int r;

	if (!real)
		return open_error(filename, errno, read_only, e);
	n = node_new(driver, name);
	n->read_only = read_only;
	n->filename = xstrdup(real);
	r = file_descriptor(n, e);
	if (r) {
		file_discard(n);
		return r;
	}
	if (flags.adopt)
		file_adopt_loop(n, flags.loop);
	node_link(n);
	*ret = n;
	return 0;
}

/* How QEMU's host_device node is given to the kernel: the device itself. */
int node_layer_device(struct node *n, dev_t *ret, struct err *e)
{
	struct node *p = node_protocol(n);
	struct loop_options opt = {
		.path = p->filename,
		/* also for a backing image: a commit may be going to write it */
		.read_only = !fd_can_write(p->fd),
	};
	int r;

	if (n->driver == NODE_ACCESS)
		return fleece_device(n, ret, e);
	if (p->driver == NODE_HOST_DEVICE) {
		node_drop_cache(n);
		*ret = p->rdev;
		return 0;
	}
	if (p->loop.number < 0) {
		r = loop_attach(p->fd, &opt, &p->loop, e);
		if (r)
			return r;
	}
	*ret = p->loop.devno;
	return 0;
}

void node_drop_cache(struct node *n)
{
	struct node *p = node_protocol(n);

	if (p->driver == NODE_HOST_DEVICE && ioctl(p->fd, BLKFLSBUF, 0))
		log_warn("'%s': what is in the page cache may not be what is on it: %s",
			 p->filename, strerror(errno));
}

int node_update_capacity(struct node *n, struct err *e)
{
	struct node *p = node_protocol(n);

	return p->loop.number < 0 ? 0 : loop_set_capacity(&p->loop, e);
}

static void retake_lock(struct node *p)
{
	struct image_lock want = { p->read_only ? IMAGE_LOCK_BACKING_PERM : IMAGE_LOCK_ACTIVE_PERM,
				   IMAGE_LOCK_UNSHARED };
	struct err e = ERR_INIT;

	loop_detach(&p->loop);
	p->lock_adopted = false;
	if (image_lock_change(p->fd, p->filename, &p->lock, want, &e))
		log_warn("Others may use an image that is open here: %s", e.msg);
}

void node_retake_locks(struct node *top)
{
	if (node_is_filter(top)) /* the image under it is the disk's */
		return;
	for (struct node *n = top; n && !n->users && n->parents <= (n != top); n = n->backing) {
		if (node_protocol(n)->lock_adopted)
			retake_lock(node_protocol(n));
	}
}

int node_make_read_only(struct node *n, struct err *e)
{
	struct image_lock want = { IMAGE_LOCK_BACKING_PERM, IMAGE_LOCK_UNSHARED };
	struct node *p = node_protocol(n);
	int r = 0;

	if (!p->lock_adopted && p->lock.perm)
		r = image_lock_change(p->fd, p->filename, &p->lock, want, e);
	node_drop_cache(n);
	core_lock();
	n->read_only = true;
	p->read_only = true;
	core_unlock();
	return r;
}
