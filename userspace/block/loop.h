/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loop devices: an image file as a block device that a dm table can name.
 *
 * How long one lives: it is set up with autoclear, so the kernel takes it down when
 * its last opener goes. loop_attach() hands out an open descriptor of
 * it: keep that until a dm table holds the device, then close it or not. So
 * a daemon that dies before the table leaves nothing, one that dies
 * after leaves what the guest needs, and removing the last table removes
 * the loop device with no one's help.
 *
 * Locks: the loop device keeps the file description of @fd itself, not
 * a new one. OFD locks taken on @fd (image/lock.h) therefore last as long
 * as the loop device does, also after the daemon was killed. A daemon that
 * finds such a device again (loop_find()) has another file description: it can not take
 * these locks a second time, nor change them, and needs not: they are held.
 *
 * Direct I/O is checked after set-up, not only asked for: with buffered
 * I/O a flush that the guest waits for would go through the host's page cache,
 * and our own direct reads of metadata would not be coherent with it.
 */
#ifndef LIVECHAIN_BLOCK_LOOP_H
#define LIVECHAIN_BLOCK_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../lib/err.h"

struct loop_options {
	const char *path; /* the file's name, for sentences only */
	uint64_t offset;  /* bytes into the file */
	uint64_t size;	  /* bytes; 0: to the end of the file */
	bool read_only;
	unsigned block_size; /* logical block; 0: 512 */
	bool allow_buffered; /* go on where the file system has no direct I/O */
};

struct loop_dev {
	int number;    /* N of /dev/loopN */
	char path[32]; /* "/dev/loopN" */
	dev_t devno;
	int fd;		/* open descriptor that keeps it alive; the caller's. -1: none */
	bool direct_io; /* false only with allow_buffered */
	bool read_only;
	uint64_t offset;
};

#define LOOP_DEV_INIT                  \
	{                              \
		.number = -1, .fd = -1 \
	}

/*
 * Puts the file behind a free loop device. @fd must be open for writing
 * unless read_only; it may be closed afterwards. Fills *@ret only on success.
 * -EOPNOTSUPP: no direct I/O on this file system, or not with this block size (the
 * sentence says which). A device taken by someone else meanwhile is retried.
 */
int loop_attach(int fd, const struct loop_options *opt, struct loop_dev *ret, struct err *e);

/* Tells the device that its file grew. */
int loop_set_capacity(const struct loop_dev *dev, struct err *e);

/*
 * The loop device over the file (@dev, @ino) at @offset, opened and described
 * as loop_attach() does. -ENOENT (no sentence set) when there is none. The first wins: there
 * may be several.
 */
int loop_find(dev_t dev, ino_t ino, uint64_t offset, struct loop_dev *ret, struct err *e);

/* As loop_find(), only one that is read-only, or only one that is not. */
int loop_find_mode(dev_t dev, ino_t ino, uint64_t offset, bool read_only, struct loop_dev *ret,
		   struct err *e);

/* As loop_find() over the file (@devno, @ino), only the device @only. */
int loop_find_number(dev_t devno, ino_t ino, uint64_t offset, dev_t only, struct loop_dev *ret,
		     struct err *e);

/* As loop_find(), by device number (what a dm table names). -ENOENT: not a loop device in use. */
int loop_open(dev_t devno, struct loop_dev *ret, struct err *e);

/*
 * Gives up the caller's hold: closes dev->fd, and leaves LOOP_DEV_INIT in @dev. The device goes
 * now if nobody else has it open, else with its last user. Does nothing on LOOP_DEV_INIT.
 */
void loop_detach(struct loop_dev *dev);

#endif
