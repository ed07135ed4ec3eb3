// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/fault.h"
#include "image-create.h"

static bool same_str(const char *a, const char *b)
{
	return a == b || (a && b && streq(a, b));
}

static int has_data_cb(void *arg, const struct qcow2_run *run)
{
	(void)arg;
	return run->kind != QCOW2_UNALLOCATED;
}

bool image_is_same(struct qio *io, const struct qcow2_create_opts *o)
{
	struct qcow2_info info;
	struct qcow2 *img = NULL;
	bool same;

	if (qcow2_open(io, 0, &img, NULL))
		return false;
	qcow2_get_info(img, &info);
	same = info.virtual_size == o->size && !info.snapshots && !info.has_bitmaps &&
	       same_str(info.backing_file, o->backing_file) &&
	       same_str(info.backing_format, o->backing_format) &&
	       !qcow2_map(img, 0, o->size, has_data_cb, NULL, NULL);
	qcow2_close(img);
	return same;
}

static int not_empty(const char *path, struct err *e)
{
	return err_set(e, EEXIST,
		       "Could not create '%s': it exists and is not empty; remove it, or use mode 'existing' if it is the image",
		       path);
}

/*
 * An image is never written over. A file that is there is taken if it is empty, or what
 * a command leaves when the daemon dies in it: so that it can be given again.
 */
static int check_free_file(struct qio *io, const struct qcow2_create_opts *o, struct err *e)
{
	uint64_t size;
	int r = io->is_bdev ? 0 : io->size(io, &size, e);

	if (r || io->is_bdev || !size || qcow2_is_unfinished(io) || image_is_same(io, o))
		return r;
	return not_empty(io->name, e);
}

static int create_file(const char *path, struct stat *st, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);

	if (fd < 0 || fstat(fd, st))
		return err_set(e, errno, "Could not create '%s': %s", path, strerror(errno));
	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
		return err_set(e, EINVAL, "Could not create '%s': it is no file or block device", path);
	return 0;
}

static int open_locked(const char *path, int *ret, struct err *e)
{
	struct image_lock lock = { 0, 0 };
	_cleanup_close_ int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	int r;

	if (fd < 0)
		return err_set(e, errno == EINVAL ? EOPNOTSUPP : errno,
			       "Could not open '%s': %s", path,
			       errno == EINVAL ? "its file system has no direct I/O" : strerror(errno));
	r = image_lock(fd, path, IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED, &lock, e);
	if (r)
		return r;
	*ret = fd;
	fd = -1;
	return 0;
}

static int create_qcow2(const char *path, int fd, const struct qcow2_create_opts *opts,
			struct err *e)
{
	_cleanup_qio_ struct qio *io = NULL;
	int r = qio_file_new(fd, path, &io, e);

	if (!r)
		r = check_free_file(io, opts, e);
	return r ? r : qcow2_create(io, opts, e);
}

static int create_raw(const char *path, int fd, const struct stat *st, uint64_t size, struct err *e)
{
	if (S_ISBLK(st->st_mode))
		return 0;
	/* of the right size, and a hole from end to end: made by us */
	if (st->st_size && ((uint64_t)st->st_size != size || st->st_blocks))
		return not_empty(path, e);
	if (ftruncate(fd, (off_t)size) || fsync(fd))
		return err_set(e, errno, "Could not create '%s': %s", path, strerror(errno));
	FAULT_POINT("create", path);
	return 0;
}

int image_create(const char *path, enum node_driver driver, const struct qcow2_create_opts *opts,
		 struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r;

	r = create_file(path, &st, e);
	if (!r)
		r = open_locked(path, &fd, e);
	if (r)
		return r;
	return driver == NODE_RAW ? create_raw(path, fd, &st, opts->size, e) :
				    create_qcow2(path, fd, opts, e);
}
