// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Byte 100 + i: "I use permission i"; byte 200 + i: "nobody else may use permission i". All
 * are read locks, so any number of users can hold the same one; whoever wants to know tests
 * for a write lock, which any reader of another description denies.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "image/lock.h"

#define PERM_BASE   100
#define SHARED_BASE 200

static const char *const perm_names[] = { "consistent read", "write", "write unchanged", "resize" };
#define NR_PERMS (int)(sizeof(perm_names) / sizeof(perm_names[0]))

static struct flock one_byte(short type, int byte)
{
	return (struct flock){
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};
}

static int set_byte(int fd, const char *path, short type, int byte, struct err *e)
{
	struct flock fl = one_byte(type, byte);
	int r;

	do {
		r = fcntl(fd, F_OFD_SETLK, &fl);
	} while (r < 0 && errno == EINTR);
	if (r == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(e, EAGAIN,
			       "Failed to lock byte %d. Is another process using the image [%s]?",
			       byte, path);
	if (errno == EINVAL || errno == ENOLCK || errno == EOPNOTSUPP)
		return err_set(
			e, EOPNOTSUPP,
			"the file system of '%s' has no file locks (%s): move the image, or mount it with locking",
			path, strerror(errno));
	return err_set(e, errno, "Failed to lock byte %d of '%s': %s", byte, path, strerror(errno));
}

/* Takes the bytes of @add that @have has not. */
static int take_bytes(int fd, const char *path, int base, unsigned have, unsigned add,
		      struct err *e)
{
	int i, r = 0;

	for (i = 0; i < NR_PERMS && !r; i++)
		if (add & ~have & (1u << i))
			r = set_byte(fd, path, F_RDLCK, base + i, e);
	return r;
}

static void drop_bytes(int fd, int base, unsigned drop)
{
	int i;

	for (i = 0; i < NR_PERMS; i++)
		if (drop & (1u << i))
			(void)set_byte(fd, "", F_UNLCK, base + i, NULL);
}

/* Does another description hold a lock on one of these bytes? */
static int test_bytes(int fd, const char *path, int base, unsigned which, const char *shared,
		      struct err *e)
{
	int i;

	for (i = 0; i < NR_PERMS; i++) {
		struct flock fl = one_byte(F_WRLCK, base + i);

		if (!(which & (1u << i)))
			continue;
		if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
			return err_set(e, errno, "cannot test the locks of '%s': %s", path,
				       strerror(errno));
		if (fl.l_type != F_UNLCK)
			return err_set(
				e, EAGAIN,
				"Failed to get %s\"%s\" lock. Is another process using the image [%s]?",
				shared, perm_names[i], path);
	}
	return 0;
}

int image_lock_test(int fd, const char *path, unsigned perm, unsigned unshared, struct err *e)
{
	int r;

	r = test_bytes(fd, path, SHARED_BASE, perm, "", e);
	if (r)
		return r;
	return test_bytes(fd, path, PERM_BASE, unshared, "shared ", e);
}

int image_lock_change(int fd, const char *path, struct image_lock *l, struct image_lock want,
		      struct err *e)
{
	int r;

	r = take_bytes(fd, path, PERM_BASE, l->perm, want.perm, e);
	if (!r)
		r = take_bytes(fd, path, SHARED_BASE, l->unshared, want.unshared, e);
	/* First taken, then tested: two that come at once see each other. */
	if (!r)
		r = image_lock_test(fd, path, want.perm, want.unshared, e);
	if (r) {
		drop_bytes(fd, PERM_BASE, want.perm & ~l->perm);
		drop_bytes(fd, SHARED_BASE, want.unshared & ~l->unshared);
		return r;
	}
	drop_bytes(fd, PERM_BASE, l->perm & ~want.perm);
	drop_bytes(fd, SHARED_BASE, l->unshared & ~want.unshared);
	*l = want;
	return 0;
}

int image_lock(int fd, const char *path, unsigned perm, unsigned unshared, struct image_lock *ret,
	       struct err *e)
{
	struct image_lock l = { 0, 0 };
	int r;

	r = image_lock_change(fd, path, &l, (struct image_lock){ perm, unshared }, e);
	if (!r)
		*ret = l;
	return r;
}

void image_unlock(int fd, struct image_lock *l)
{
	drop_bytes(fd, PERM_BASE, l->perm);
	drop_bytes(fd, SHARED_BASE, l->unshared);
	*l = (struct image_lock){ 0, 0 };
}

int image_lock_join(int own_fd, struct image_lock *own, int fd, const char *path,
		    struct image_lock want, struct image_lock *ret, struct err *e)
{
	struct image_lock was = *own;
	int r;

	r = take_bytes(fd, path, PERM_BASE, 0, want.perm, e);
	if (!r)
		r = take_bytes(fd, path, SHARED_BASE, 0, want.unshared, e);
	if (!r) { /* others are kept out by the new ones meanwhile */
		image_unlock(own_fd, own);
		r = image_lock_test(fd, path, want.perm, want.unshared, e);
		if (!take_bytes(own_fd, path, PERM_BASE, 0, was.perm, NULL) &&
		    !take_bytes(own_fd, path, SHARED_BASE, 0, was.unshared, NULL))
			*own = was;
	}
	if (r)
		image_unlock(fd, &want);
	else
		*ret = want;
	return r;
}

bool image_lock_held(int fd)
{
	return image_lock_test(fd, "", IMAGE_PERM_WRITE, 0, NULL) != 0;
}

/* How many descriptions have a lock on @byte of @fd's file; 0 also if the kernel does not tell. */
static int count_locks(int fd, int byte)
{
	unsigned maj, min;
	unsigned long long ino, first, last;
	char line[256], kind[16];
	struct stat st;
	int n = 0;
	FILE *f;

	if (fstat(fd, &st))
		return 0;
	f = fopen("/proc/locks", "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %15s %*s %*s %*s %x:%x:%llu %llu %llu", kind, &maj, &min, &ino,
			   &first, &last) != 6 || strcmp(kind, "OFDLCK"))
			continue;
		if (makedev(maj, min) == st.st_dev && ino == st.st_ino &&
		    first <= (unsigned)byte && (unsigned)byte <= last)
			n++;
	}
	if (f)
		fclose(f);
	return n;
}

/* A loop device that has just gone keeps its locks for a moment: who looks at it has it open. */
static bool one_lock(int fd, int byte)
{
	struct timespec nap = { 0, 10000000 };
	int n = count_locks(fd, byte);

	for (int i = 0; i < 100 && n > 1; i++) {
		nanosleep(&nap, NULL);
		n = count_locks(fd, byte);
	}
	return n == 1;
}

int image_lock_beside(int fd, const char *path, unsigned perm, unsigned unshared,
		      struct image_lock *ret, struct err *e)
{
	struct image_lock got = { perm, unshared };
	int i, r;

	for (i = 0; i < NR_PERMS; i++)
		if ((perm & IMAGE_LOCK_UNSHARED & (1u << i)) && !one_lock(fd, SHARED_BASE + i))
			return err_set(e, EAGAIN,
				       "Failed to get \"%s\" lock. Is another process using the image [%s]?",
				       perm_names[i], path);
	r = take_bytes(fd, path, PERM_BASE, 0, perm, e);
	if (!r)
		r = take_bytes(fd, path, SHARED_BASE, 0, unshared, e);
	if (r)
		image_unlock(fd, &got);
	else
		*ret = got;
	return r;
}
