// SPDX-License-Identifier: GPL-2.0-or-later
/* The handle: open, close, and what an image says about itself. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static struct qcow2 *img_new(struct qio *io, unsigned int flags)
{
	struct qcow2 *img = calloc(1, sizeof(*img));

	if (!img)
		return NULL;
	pthread_mutex_init(&img->lock, NULL);
	img->io = io;
	img->writable = flags & QCOW2_WRITABLE;
	return img;
}

void qcow2_close(struct qcow2 *img)
{
	if (!img)
		return;
	rc_done(&img->rc);
	metaset_done(&img->meta);
	free(img->l1);
	free(img->backing_file);
	free(img->backing_format);
	free(img->invalid);
	pthread_mutex_destroy(&img->lock);
	free(img);
}

/* The behind-the-end mark of a file; a block device's is looked for when needed. */
static void init_end(struct qcow2 *img)
{
	if (!img->io->capacity)
		img->end = DIV_ROUND_UP(img->file_size, img->cluster_size);
}

int qcow2_open(struct qio *io, unsigned int flags, struct qcow2 **ret, struct err *e)
{
	_cleanup_qcow2_ struct qcow2 *img = img_new(io, flags);
	int r;

	if (!img)
		return err_set(e, ENOMEM, "out of memory");
	r = header_load(img, e);
	if (r < 0)
		return r;
	if (img->writable) {
		r = header_check_writable(img, flags, e);
		if (r < 0)
			return r;
	}
	r = l1_load(img, e);
	if (r < 0)
		return r;
	if (img->writable) {
		r = __rc_load(img, e);
		if (r < 0)
			return r;
		init_end(img);
	}
	*ret = take_ptr(img);
	return 0;
}

void qcow2_get_info(struct qcow2 *img, struct qcow2_info *ret)
{
	const struct header *h = &img->hdr;

	pthread_mutex_lock(&img->lock);
	*ret = (struct qcow2_info){
		.version = h->version,
		.cluster_bits = h->cluster_bits,
		.cluster_size = img->cluster_size,
		.virtual_size = h->size,
		.region_size = region_size(img),
		.backing_file = img->backing_file,
		.backing_format = img->backing_format,
		.invalid = img->invalid,
		.refcount_bits = 1u << h->refcount_order,
		.snapshots = h->nb_snapshots,
		.has_bitmaps = h->has_bitmaps && (h->autoclear & AUTOCLEAR_BITMAPS),
		.lazy_refcounts = h->compatible & COMPAT_LAZY_REFCOUNTS,
		.dirty = h->incompatible & INCOMPAT_DIRTY,
		.corrupt = h->incompatible & INCOMPAT_CORRUPT,
		.has_zero = h->version >= 3,
		.writable = img->writable,
		.host_size = img->file_size,
	};
	pthread_mutex_unlock(&img->lock);
}

void qcow2_get_record(struct qcow2 *img, struct qcow2_record *ret)
{
	bool v3 = img->hdr.version >= 3;

	*ret = (struct qcow2_record){
		.bytes = 8,
		.data_or = ENTRY_COPIED,
		.has_zero = v3,
		.zero_plain = v3 ? L2_ZERO : 0,
		.zero_alloc_or = v3 ? ENTRY_COPIED | L2_ZERO : 0,
	};
}

int __change_begin(struct qcow2 *img, struct err *e)
{
	if (!img->writable)
		return img_err(img->io, e, EROFS, "it is open for reading only");
	if (img->failed)
		return img_err(img->io, e, EIO,
			       "an earlier write of its metadata failed; close it and open it again");
	return __begin_write(img, e);
}

bool qcow2_has_failed(struct qcow2 *img)
{
	bool failed;

	pthread_mutex_lock(&img->lock);
	failed = img->failed;
	pthread_mutex_unlock(&img->lock);
	return failed;
}

int qcow2_begin_write(struct qcow2 *img, struct err *e)
{
	int r;

	pthread_mutex_lock(&img->lock);
	r = __change_begin(img, e);
	pthread_mutex_unlock(&img->lock);
	return r;
}
