/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Image locks, the same bytes as QEMU's, so that QEMU's tools refuse an
 * image that we use and we refuse one that they use.
 *
 * They are open-file-description locks: they belong to the description that
 * @fd refers to, are shared by its duplicates (and by a loop device set up from it), and
 * end with the last of these. For each permission one byte says "I use it" and one "others must
 * not". Take them before reading the image's header and keep the same descriptor.
 */
#ifndef LIVECHAIN_IMAGE_LOCK_H
#define LIVECHAIN_IMAGE_LOCK_H

#include <stdbool.h>

#include "../lib/err.h"

/* QEMU's permissions; a set of them is an unsigned. */
enum image_perm {
	IMAGE_PERM_READ = 1 << 0,	     /* "consistent read" */
	IMAGE_PERM_WRITE = 1 << 1,	     /* "write" */
	IMAGE_PERM_WRITE_UNCHANGED = 1 << 2, /* "write unchanged" */
	IMAGE_PERM_RESIZE = 1 << 3,	     /* "resize" */
};

/* The sets that QEMU itself takes (seen on running ones). */
#define IMAGE_LOCK_ACTIVE_PERM	(IMAGE_PERM_READ | IMAGE_PERM_WRITE | IMAGE_PERM_RESIZE)
#define IMAGE_LOCK_BACKING_PERM IMAGE_PERM_READ
#define IMAGE_LOCK_UNSHARED	(IMAGE_PERM_WRITE | IMAGE_PERM_RESIZE)

/* What a descriptor holds. Starts as { 0, 0 }. */
struct image_lock {
	unsigned perm;	   /* used by us */
	unsigned unshared; /* forbidden to others */
};

/*
 * Makes the locks on @fd those of @want: @l says what it holds now and is
 * updated. What is no longer wanted is dropped only after what is new was got; on failure @fd holds
 * what it held before. -EAGAIN with QEMU's sentence when somebody else
 * is in the way: 'Failed to get "write" lock. Is another process using the image [path]?'.
 * -EOPNOTSUPP: the file system has no such locks.
 */
int image_lock_change(int fd, const char *path, struct image_lock *l, struct image_lock want,
		      struct err *e);

/* image_lock_change() from nothing to @perm and @unshared. */
int image_lock(int fd, const char *path, unsigned perm, unsigned unshared, struct image_lock *ret,
	       struct err *e);

/*
 * Takes @want on the description @fd as image_lock_change() does, beside @own, which the
 * description @own_fd of the same user holds and keeps. Others find the image locked all the time.
 */
int image_lock_join(int own_fd, struct image_lock *own, int fd, const char *path,
		    struct image_lock want, struct image_lock *ret, struct err *e);

/* Does another description keep writers out? */
bool image_lock_held(int fd);

/*
 * Takes @perm and @unshared on @fd, beside another description that is known to hold locks of ours
 * (an adopted loop device's): that one must be the only one to forbid what @perm asks. -EAGAIN with
 * QEMU's sentence if it is not, or if that can't be told.
 */
int image_lock_beside(int fd, const char *path, unsigned perm, unsigned unshared,
		      struct image_lock *ret, struct err *e);

/* Drops all. Closing the last descriptor does so too. */
void image_unlock(int fd, struct image_lock *l);

/*
 * Whether @perm and @unshared could be taken now, without taking them: 0 or as
 * image_lock_change(). Locks of @fd's own description don't count.
 */
int image_lock_test(int fd, const char *path, unsigned perm, unsigned unshared, struct err *e);

#endif
