/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Image I/O: what the qcow2 library reads and writes an image through.
 *
 * All offsets and lengths are bytes. Every call may block. pread, pwrite,
 * zero, allocate and size may be called from several threads at once; two
 * calls that write the same 4 KiB are the caller's to order. Each returns 0 or
 * -errno with a sentence that names the image.
 */
#ifndef LIVECHAIN_QIO_H
#define LIVECHAIN_QIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../lib/cleanup.h"
#include "../lib/err.h"

struct qio {
	/* Reads all of @len; what lies behind the image's end reads as zeros. */
	int (*pread)(struct qio *q, void *buf, size_t len, uint64_t off, struct err *e);

	/* Writes all of @len (any alignment); a growable image grows as needed. */
	int (*pwrite)(struct qio *q, const void *buf, size_t len, uint64_t off, struct err *e);

	/* All writes, space and sizes of calls that have returned are durable afterwards. */
	int (*flush)(struct qio *q, struct err *e);

	/* The size now: of the file, or of the block device. */
	int (*size)(struct qio *q, uint64_t *ret_size, struct err *e);

	/*
	 * Reserves the space of a range, so that no later write to it can meet
	 * a full disk (durable after the next flush). Keeps what is there,
	 * grows a file that ends before the range does. -ENOSPC when it is
	 * not to be had; on a block device that is a bounds check only.
	 */
	int (*allocate)(struct qio *q, uint64_t off, uint64_t len, struct err *e);

	/* Makes a range read as zeros; a growable image grows as needed. */
	int (*zero)(struct qio *q, uint64_t off, uint64_t len, struct err *e);

	/*
	 * The range is not used any more: a file gives its space back. Best effort; what is
	 * read there afterwards is undefined. NULL: not offered.
	 */
	void (*discard)(struct qio *q, uint64_t off, uint64_t len);

	/* Sets the size; what is gained reads as zeros. -EINVAL on a block device. */
	int (*truncate)(struct qio *q, uint64_t size, struct err *e);

	/* Frees the handle; NULL when it is not on the heap. */
	void (*destroy)(struct qio *q);

	const char *name;  /* for sentences; lives as long as the handle */
	uint64_t capacity; /* no offset reaches behind this; 0: grows with its writes (a file) */
	bool is_bdev;	   /* a block device: grows if somebody enlarges it, holds old content */
	uint32_t align;	   /* I/O in multiples of this is not read-modify-write */
};

/*
 * A handle on @fd, an open regular file or block device, buffered or with
 * O_DIRECT (then all I/O is done in aligned 4 KiB units through bounce buffers,
 * and a write of part of a unit is read-modify-write). @fd stays the caller's
 * and must outlive the handle; @name (copied) is what sentences call the image.
 */
int qio_file_new(int fd, const char *name, struct qio **ret, struct err *e);

static inline void qio_free(struct qio *q)
{
	if (q && q->destroy)
		q->destroy(q);
}

DEFINE_CLEANUP(struct qio, qio_free)
#define _cleanup_qio_ _cleanup_(qio_freep)

#endif
