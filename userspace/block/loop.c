// SPDX-License-Identifier: GPL-2.0-or-later
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>

#include "block/loop.h"
#include "block/udev.h"
#include "lib/cleanup.h"
#include "lib/fault.h"

#define LOOP_MAJOR   7
#define ATTACH_TRIES 64
#define LOOP_TAG     "livechain" /* lo_file_name of ours: shown by losetup */

static void describe(struct loop_dev *dev, const struct loop_info64 *info)
{
	dev->direct_io = info->lo_flags & LO_FLAGS_DIRECT_IO;
	dev->read_only = info->lo_flags & LO_FLAGS_READ_ONLY;
	dev->offset = info->lo_offset;
}

/* Opens /dev/loop<number>; the name is remembered. -errno without a sentence. */
static int open_number(int number, bool read_only, struct loop_dev *dev)
{
	struct stat st;

	dev->number = number;
	snprintf(dev->path, sizeof(dev->path), "/dev/loop%d", number);
	dev->fd = open(dev->path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (dev->fd < 0)
		return -errno;
	if (fstat(dev->fd, &st) < 0 || !S_ISBLK(st.st_mode) || major(st.st_rdev) != LOOP_MAJOR) {
		closep(&dev->fd);
		dev->fd = -1;
		return -ENODEV;
	}
	dev->devno = st.st_rdev;
	return 0;
}

static int no_direct_io(int fd, const struct loop_options *opt, unsigned block, struct err *e)
{
	struct statfs fs;
	struct stat st;

	if (!fstat(fd, &st) && !fstatfs(fd, &fs) && fs.f_type == 0x01021994 /* TMPFS_MAGIC */)
		return err_set(
			e, EOPNOTSUPP,
			"'%s' is on a tmpfs, which has no direct I/O: move it to a disk file system",
			opt->path);
	return err_set(
		e, EOPNOTSUPP,
		"no direct I/O on '%s' with %u-byte blocks: its file system has none, or its disk has larger sectors; move the image to a file system that supports O_DIRECT (ext4, xfs, btrfs, nfs)",
		opt->path, block);
}

/* After set-up: is the device what was asked for? */
static int verify(int fd, const struct loop_options *opt, unsigned block, struct loop_dev *dev,
		  struct err *e)
{
	struct loop_info64 info;
	struct stat st;

	if (ioctl(dev->fd, LOOP_GET_STATUS64, &info) < 0 || fstat(fd, &st) < 0)
		return err_set(e, errno, "cannot read back the set-up of %s for '%s': %s",
			       dev->path, opt->path, strerror(errno));
	describe(dev, &info);
	if (S_ISREG(st.st_mode) && info.lo_inode != st.st_ino)
		return err_set(e, EIO, "%s shows another file than '%s'", dev->path, opt->path);
	if (!dev->direct_io && !opt->allow_buffered)
		return no_direct_io(fd, opt, block, e);
	if (dev->read_only && !opt->read_only)
		return err_set(e, EROFS,
			       "%s over '%s' is read-only: was the file opened for writing?",
			       dev->path, opt->path);
	return 0;
}

/* 0, or -EBUSY when somebody else took the device in between. */
static int configure(int fd, const struct loop_options *opt, struct loop_dev *dev, struct err *e)
{
	struct loop_config cfg = { .fd = (unsigned)fd };

	cfg.block_size = opt->block_size ? opt->block_size : 512;
	cfg.info.lo_offset = opt->offset;
	cfg.info.lo_sizelimit = opt->size;
	cfg.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
	if (opt->read_only)
		cfg.info.lo_flags |= LO_FLAGS_READ_ONLY;
	snprintf((char *)cfg.info.lo_file_name, LO_NAME_SIZE, LOOP_TAG);
	udev_hide_loop(dev->number, opt->path);
	if (ioctl(dev->fd, LOOP_CONFIGURE, &cfg) < 0) {
		if (errno == EBUSY)
			return -EBUSY;
		if (errno == EINVAL && !opt->allow_buffered)
			return no_direct_io(fd, opt, cfg.block_size, e);
		return err_set(e, errno, "cannot put '%s' behind %s: %s", opt->path, dev->path,
			       strerror(errno));
	}
	FAULT_POINT("put behind a loop device", opt->path);
	return verify(fd, opt, cfg.block_size, dev, e);
}

static int control_error(const char *doing, struct err *e)
{
	int code = errno;

	if (code == ENOENT)
		return err_set(
			e, ENOENT,
			"cannot %s: the kernel has no loop devices: load them with 'modprobe loop'",
			doing);
	return err_set(e, code, "cannot %s: %s", doing, strerror(code));
}

int loop_attach(int fd, const struct loop_options *opt, struct loop_dev *ret, struct err *e)
{
	_cleanup_close_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int number, r, try;

	if (control < 0)
		return control_error("open /dev/loop-control", e);
	for (try = 0; try < ATTACH_TRIES; try++) {
		struct loop_dev dev = LOOP_DEV_INIT;
		struct timespec pause = { 0, (try % 8) * 5000000L };

		nanosleep(&pause, NULL);
		number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return control_error("get a free loop device", e);
		r = open_number(number, opt->read_only, &dev);
		/* A new device's node may need a moment where udev makes it. */
		if (r == -ENOENT || r == -ENXIO || r == -ENODEV)
			continue;
		if (r)
			return err_set(e, -r, "cannot open %s: %s", dev.path, strerror(-r));
		r = configure(fd, opt, &dev, e);
		if (!r) {
			*ret = dev;
			return 0;
		}
		loop_detach(&dev);
		if (r != -EBUSY)
			return r;
	}
	return err_set(e, EBUSY, "cannot get a loop device for '%s': others took %d in a row",
		       opt->path, ATTACH_TRIES);
}

int loop_set_capacity(const struct loop_dev *dev, struct err *e)
{
	if (ioctl(dev->fd, LOOP_SET_CAPACITY, 0) < 0)
		return err_set(e, errno, "cannot tell %s that its file grew: %s", dev->path,
			       strerror(errno));
	return 0;
}

/* It was only looked at. */
static void let_be(struct loop_dev *dev)
{
	closep(&dev->fd);
	*dev = (struct loop_dev)LOOP_DEV_INIT;
}

/* Opens the device if it is in use; for writing if it can be. -ENOENT if it is free. */
static int open_used(int number, struct loop_dev *dev, struct loop_info64 *info)
{
	int r = open_number(number, true, dev);

	if (r)
		return r == -ENXIO || r == -ENODEV ? -ENOENT : r;
	if (ioctl(dev->fd, LOOP_GET_STATUS64, info) < 0) {
		r = errno == ENXIO ? -ENOENT : -errno;
		let_be(dev);
		return r;
	}
	describe(dev, info);
	if (!dev->read_only) {
		int fd = open(dev->path, O_RDWR | O_CLOEXEC);

		if (fd >= 0) {
			close(dev->fd);
			dev->fd = fd;
		}
	}
	return 0;
}

/* @modes: bit 0, one that can be written; bit 1, one that is read-only. @only: 0, or its number. */
static int find(dev_t devno, ino_t ino, uint64_t offset, unsigned modes, dev_t only,
		struct loop_dev *ret, struct err *e)
{
	_cleanup_(closedirp) DIR *d = opendir("/sys/block");
	struct dirent *de;

	if (!d)
		return err_set(e, errno, "cannot read /sys/block: %s", strerror(errno));
	while ((de = readdir(d))) {
		struct loop_dev dev = LOOP_DEV_INIT;
		struct loop_info64 info;
		char backing[300];
		int number;

		if (sscanf(de->d_name, "loop%d", &number) != 1)
			continue;
		/* Without opening those that are free: an open can make udev busy. */
		snprintf(backing, sizeof(backing), "/sys/block/%s/loop/backing_file", de->d_name);
		if (access(backing, F_OK) || open_used(number, &dev, &info))
			continue;
		if (info.lo_device == devno && info.lo_inode == ino && info.lo_offset == offset &&
		    (modes & (dev.read_only ? 2 : 1)) && (!only || dev.devno == only)) {
			*ret = dev;
			return 0;
		}
		let_be(&dev);
	}
	return -ENOENT;
}

int loop_find(dev_t devno, ino_t ino, uint64_t offset, struct loop_dev *ret, struct err *e)
{
	return find(devno, ino, offset, 3, 0, ret, e);
}

int loop_find_mode(dev_t devno, ino_t ino, uint64_t offset, bool read_only, struct loop_dev *ret,
		   struct err *e)
{
	return find(devno, ino, offset, read_only ? 2 : 1, 0, ret, e);
}

int loop_find_number(dev_t devno, ino_t ino, uint64_t offset, dev_t only, struct loop_dev *ret,
		     struct err *e)
{
	return only ? find(devno, ino, offset, 3, only, ret, e) : -ENOENT;
}

int loop_open(dev_t devno, struct loop_dev *ret, struct err *e)
{
	char path[64], target[256];
	struct loop_dev dev = LOOP_DEV_INIT;
	struct loop_info64 info;
	ssize_t n;
	int number, r;

	if (major(devno) != LOOP_MAJOR)
		return -ENOENT;
	/* The minor is the number only without partitions: sysfs knows the name. */
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(devno), minor(devno));
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -ENOENT;
	target[n] = '\0';
	if (!strrchr(target, '/') || sscanf(strrchr(target, '/'), "/loop%d", &number) != 1)
		return -ENOENT;
	r = open_used(number, &dev, &info);
	if (r == -ENOENT)
		return r;
	if (r)
		return err_set(e, -r, "cannot open %s: %s", dev.path, strerror(-r));
	*ret = dev;
	return 0;
}

void loop_detach(struct loop_dev *dev)
{
	if (dev->fd < 0)
		return;
	closep(&dev->fd);
	FAULT_POINT("release", dev->path);
	udev_loop_gone(dev->number);
	/* Its number is another file's from here on: who kept it would write there. */
	*dev = (struct loop_dev)LOOP_DEV_INIT;
}
