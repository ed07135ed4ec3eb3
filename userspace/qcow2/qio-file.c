// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Image I/O on a file descriptor. With O_DIRECT every transfer is made of whole
 * 4 KiB units in aligned memory; what does not fit goes through a bounce buffer.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fault.h"
#include "qio.h"

#define UNIT	   4096u
#define BOUNCE_MAX (1u << 20)

struct qio_file {
	struct qio q;
	int fd;
	bool direct;
	char name[];
};

static struct qio_file *to_file(struct qio *q)
{
	return (struct qio_file *)q;
}

static uint64_t unit_down(uint64_t v)
{
	return v & ~(uint64_t)(UNIT - 1);
}

static uint64_t unit_up(uint64_t v)
{
	return unit_down(v + UNIT - 1);
}

static int io_err(struct qio_file *f, struct err *e, int code, const char *what, uint64_t len,
		  uint64_t off)
{
	if (code == ENOSPC || code == EDQUOT)
		return err_set(e, ENOSPC,
			       "cannot %s %llu bytes at offset %llu of '%s': no space left on its "
			       "file system; make room there and try again",
			       what, (unsigned long long)len, (unsigned long long)off, f->q.name);
	return err_set(e, code, "cannot %s %llu bytes at offset %llu of '%s': %s", what,
		       (unsigned long long)len, (unsigned long long)off, f->q.name,
		       strerror(code));
}

/* A range that the system calls' signed offsets can express. */
static int check_range(struct qio_file *f, const char *what, uint64_t len, uint64_t off,
		       struct err *e)
{
	uint64_t end;

	if (__builtin_add_overflow(off, len, &end) || end > INT64_MAX - BOUNCE_MAX)
		return io_err(f, e, EFBIG, what, len, off);
	return 0;
}

static int file_size(struct qio *q, uint64_t *ret_size, struct err *e)
{
	struct qio_file *f = to_file(q);
	struct stat st;

	if (q->is_bdev) {
		if (ioctl(f->fd, BLKGETSIZE64, ret_size) < 0)
			return err_set(e, errno, "cannot read the size of '%s': %s", q->name,
				       strerror(errno));
		return 0;
	}
	if (fstat(f->fd, &st) < 0)
		return err_set(e, errno, "cannot read the size of '%s': %s", q->name,
			       strerror(errno));
	*ret_size = st.st_size;
	return 0;
}

/* Whether @off is at or behind the end. */
static int at_end(struct qio_file *f, uint64_t off, struct err *e)
{
	uint64_t size;
	int r = file_size(&f->q, &size, e);

	return r < 0 ? r : off >= size;
}

/* One transfer as the descriptor takes it; zeros behind the end. */
static int read_raw(struct qio_file *f, uint8_t *buf, size_t len, uint64_t off, struct err *e)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(f->fd, buf + done, len - done, off + done);
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return io_err(f, e, errno, "read", len, off);
		done += n;
		if (n && !(f->direct && done % UNIT))
			continue;
		r = at_end(f, off + done, e);
		if (r < 0)
			return r;
		if (r) {
			memset(buf + done, 0, len - done);
			break;
		}
		done = unit_down(done); /* a direct read cut amid a unit: go on from its start */
	}
	return 0;
}

static int write_raw(struct qio_file *f, const uint8_t *buf, size_t len, uint64_t off,
		     struct err *e)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(f->fd, buf + done, len - done, off + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return io_err(f, e, n ? errno : EIO, "write", len, off);
		done += n;
	}
	FAULT_POINT("write", f->q.name);
	return 0;
}

static bool needs_bounce(struct qio_file *f, const void *buf, size_t len, uint64_t off)
{
	return f->direct && (((uintptr_t)buf | len | off) & (UNIT - 1));
}

static void *bounce_new(size_t len, struct err *e)
{
	void *p = aligned_alloc(UNIT, len);

	if (!p)
		err_set(e, ENOMEM, "out of memory (%zu bytes for image I/O)", len);
	return p;
}

static size_t bounce_size(size_t len)
{
	return len > BOUNCE_MAX - 2 * UNIT ? BOUNCE_MAX : unit_up(len) + UNIT;
}

static int file_pread(struct qio *q, void *buf, size_t len, uint64_t off, struct err *e)
{
	struct qio_file *f = to_file(q);
	_cleanup_free_ uint8_t *bounce = NULL;
	size_t size = bounce_size(len);
	int r = check_range(f, "read", len, off, e);

	if (r < 0 || !len)
		return r;
	if (!needs_bounce(f, buf, len, off))
		return read_raw(f, buf, len, off, e);
	bounce = bounce_new(size, e);
	if (!bounce)
		return -ENOMEM;
	while (len) {
		size_t skip = off - unit_down(off);
		size_t n = len < size - skip ? len : size - skip;

		r = read_raw(f, bounce, unit_up(skip + n), off - skip, e);
		if (r < 0)
			return r;
		memcpy(buf, bounce + skip, n);
		buf = (uint8_t *)buf + n;
		off += n;
		len -= n;
	}
	return 0;
}

/* Writes [off, off + n) by whole units, with what is there around it. */
static int write_bounced(struct qio_file *f, uint8_t *bounce, const void *buf, size_t n,
			 uint64_t off, struct err *e)
{
	uint64_t start = unit_down(off), end = unit_up(off + n);
	int r = 0;

	if (start != off)
		r = read_raw(f, bounce, UNIT, start, e);
	if (r == 0 && end != off + n && (end - UNIT != start || start == off))
		r = read_raw(f, bounce + (end - UNIT - start), UNIT, end - UNIT, e);
	if (r < 0)
		return r;
	memcpy(bounce + (off - start), buf, n);
	if (f->q.capacity && end > f->q.capacity)
		end = f->q.capacity; /* a device that ends amid a unit */
	return write_raw(f, bounce, end - start, start, e);
}

static int file_pwrite(struct qio *q, const void *buf, size_t len, uint64_t off, struct err *e)
{
	struct qio_file *f = to_file(q);
	_cleanup_free_ uint8_t *bounce = NULL;
	size_t size = bounce_size(len);
	int r = check_range(f, "write", len, off, e);

	if (r < 0 || !len)
		return r;
	if (q->capacity && off + len > q->capacity)
		return io_err(f, e, ENOSPC, "write", len, off);
	if (!needs_bounce(f, buf, len, off))
		return write_raw(f, buf, len, off, e);
	bounce = bounce_new(size, e);
	if (!bounce)
		return -ENOMEM;
	while (len) {
		size_t skip = off - unit_down(off);
		size_t n = len < size - skip ? len : size - skip;

		r = write_bounced(f, bounce, buf, n, off, e);
		if (r < 0)
			return r;
		buf = (const uint8_t *)buf + n;
		off += n;
		len -= n;
	}
	return 0;
}

static int file_flush(struct qio *q, struct err *e)
{
	if (fdatasync(to_file(q)->fd) < 0)
		return err_set(e, errno, "cannot flush '%s': %s", q->name, strerror(errno));
	FAULT_POINT("flush", q->name);
	return 0;
}

/* Where the file system has no fallocate: write what is there once more. */
static int allocate_by_writing(struct qio_file *f, uint64_t off, uint64_t len, struct err *e)
{
	_cleanup_free_ uint8_t *buf = bounce_new(BOUNCE_MAX, e);
	int r = 0;

	if (!buf)
		return -ENOMEM;
	while (len && r == 0) {
		size_t n = len < BOUNCE_MAX ? len : BOUNCE_MAX;

		r = file_pread(&f->q, buf, n, off, e);
		if (r == 0)
			r = file_pwrite(&f->q, buf, n, off, e);
		off += n;
		len -= n;
	}
	return r;
}

static int do_fallocate(struct qio_file *f, int mode, uint64_t off, uint64_t len)
{
	int r;

	do
		r = fallocate(f->fd, mode, off, len);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	FAULT_POINT("fallocate", f->q.name);
	return 0;
}

static int file_allocate(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	struct qio_file *f = to_file(q);
	int r = check_range(f, "allocate", len, off, e);

	if (r < 0 || !len)
		return r;
	if (q->capacity && off + len > q->capacity)
		return err_set(e, ENOSPC, "'%s' ends at %llu bytes, %llu are needed; enlarge it",
			       q->name, (unsigned long long)q->capacity,
			       (unsigned long long)(off + len));
	if (q->is_bdev)
		return 0;
	r = do_fallocate(f, 0, off, len);
	if (r == -EOPNOTSUPP)
		return allocate_by_writing(f, off, len, e);
	return r < 0 ? io_err(f, e, -r, "allocate", len, off) : 0;
}

static int file_zero(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	struct qio_file *f = to_file(q);
	_cleanup_free_ uint8_t *buf = NULL;
	int r = check_range(f, "zero", len, off, e);

	if (r < 0 || !len)
		return r;
	if (q->capacity && off + len > q->capacity)
		return io_err(f, e, ENOSPC, "zero", len, off);
	if (do_fallocate(f, q->is_bdev ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE :
					 FALLOC_FL_ZERO_RANGE, off, len) == 0)
		return 0;
	buf = bounce_new(BOUNCE_MAX, e);
	if (!buf)
		return -ENOMEM;
	memset(buf, 0, BOUNCE_MAX);
	while (len && r == 0) {
		size_t n = len < BOUNCE_MAX ? len : BOUNCE_MAX;

		r = file_pwrite(q, buf, n, off, e);
		off += n;
		len -= n;
	}
	return r;
}

static void file_discard(struct qio *q, uint64_t off, uint64_t len)
{
	if (!q->is_bdev)
		(void)do_fallocate(to_file(q), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
}

static int file_truncate(struct qio *q, uint64_t size, struct err *e)
{
	struct qio_file *f = to_file(q);
	int r = check_range(f, "resize to", 0, size, e);

	if (r < 0)
		return r;
	if (q->is_bdev)
		return err_set(e, EINVAL, "'%s' is a block device: it can not be resized",
			       q->name);
	if (ftruncate(f->fd, size) < 0)
		return err_set(e, errno, "cannot resize '%s' to %llu bytes: %s", q->name,
			       (unsigned long long)size, strerror(errno));
	FAULT_POINT("truncate", q->name);
	return 0;
}

static void file_destroy(struct qio *q)
{
	free(to_file(q));
}

static void set_ops(struct qio *q)
{
	q->pread = file_pread;
	q->pwrite = file_pwrite;
	q->flush = file_flush;
	q->size = file_size;
	q->allocate = file_allocate;
	q->zero = file_zero;
	q->discard = file_discard;
	q->truncate = file_truncate;
	q->destroy = file_destroy;
}

int qio_file_new(int fd, const char *name, struct qio **ret, struct err *e)
{
	_cleanup_free_ struct qio_file *f = NULL;
	struct stat st;
	int flags = fcntl(fd, F_GETFL), r;

	if (flags < 0 || fstat(fd, &st) < 0)
		return err_set(e, errno, "cannot use '%s': %s", name, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, EINVAL, "'%s' is neither a regular file nor a block device",
			       name);
	f = calloc(1, sizeof(*f) + strlen(name) + 1);
	if (!f)
		return err_set(e, ENOMEM, "out of memory");
	strcpy(f->name, name);
	set_ops(&f->q);
	f->fd = fd;
	f->direct = flags & O_DIRECT;
	f->q.name = f->name;
	f->q.is_bdev = S_ISBLK(st.st_mode);
	f->q.align = UNIT;
	if (f->q.is_bdev) {
		r = file_size(&f->q, &f->q.capacity, e);
		if (r < 0)
			return r;
	}
	*ret = &take_ptr(f)->q;
	return 0;
}
