// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A new, empty image: header, refcount table, refcount blocks, L1 table, in
 * this order. The first cluster is wiped first and the header is written last,
 * so that what a crash leaves is no image; a file says in its first bytes what it is.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* At the start of a file that is to become an image. */
static const char unfinished[] = "livechain: an image whose creation did not end; it holds nothing\n";

/* All in clusters. */
struct layout {
	struct header h;
	uint64_t c; /* cluster size */
	uint64_t rt, rb, l1, total;
};

static int refcount_order(const struct qio *io, const struct qcow2_create_opts *o, uint32_t version,
			  uint32_t *ret, struct err *e)
{
	uint32_t bits = o->refcount_bits ? o->refcount_bits : 16;

	if (bits > 64 || (bits & (bits - 1)))
		return img_err(io, e, EINVAL, "refcount_bits is %u, must be 1, 2, 4, 8, 16, 32 or 64",
			       bits);
	if (version == 2 && bits != 16)
		return img_err(io, e, EINVAL, "version 2 has 16 bit refcounts only");
	*ret = __builtin_ctz(bits);
	return 0;
}

static int check_opts(const struct qio *io, const struct qcow2_create_opts *o, struct header *h,
		      struct err *e)
{
	h->version = o->version ? o->version : 3;
	h->cluster_bits = o->cluster_bits ? o->cluster_bits : 16;
	h->size = o->size;
	if (h->version != 2 && h->version != 3)
		return img_err(io, e, EINVAL, "version %u can not be made, only 2 and 3",
			       h->version);
	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return img_err(io, e, EINVAL, "cluster_bits is %u, must be %u to %u",
			       h->cluster_bits, QCOW2_MIN_CLUSTER_BITS, QCOW2_MAX_CLUSTER_BITS);
	if (h->size % 512)
		return img_err(io, e, EINVAL, "a size of %llu bytes is not a multiple of 512",
			       (unsigned long long)h->size);
	h->length = h->version == 2 ? H_V2_LENGTH : H_V3_LENGTH;
	return refcount_order(io, o, h->version, &h->refcount_order, e);
}

static int plan_layout(const struct qio *io, struct layout *l, struct err *e)
{
	struct header *h = &l->h;
	uint64_t region, entries, per_block, old;

	l->c = 1ull << h->cluster_bits;
	region = l->c * (l->c / 8);
	entries = h->size / region + !!(h->size % region);
	if (h->size > INT64_MAX || entries * 8 > MAX_L1_BYTES)
		return img_err(io, e, EFBIG,
			       "%llu bytes are too large for clusters of %llu bytes; use larger "
			       "clusters",
			       (unsigned long long)h->size, (unsigned long long)l->c);
	per_block = 1ull << (h->cluster_bits + 3 - h->refcount_order);
	l->l1 = DIV_ROUND_UP(entries * 8, l->c);
	l->rt = l->rb = 1;
	do {
		old = l->total;
		l->total = 1 + l->rt + l->rb + l->l1;
		l->rb = DIV_ROUND_UP(l->total, per_block);
		l->rt = DIV_ROUND_UP(l->rb * 8, l->c);
	} while (l->total != old);
	h->rt_off = l->c;
	h->rt_clusters = l->rt;
	h->l1_off = (1 + l->rt + l->rb) * l->c;
	h->l1_size = entries;
	if (io->capacity && l->total * l->c > io->capacity)
		return img_err(io, e, ENOSPC,
			       "its metadata need %llu bytes, the block device has %llu; enlarge it",
			       (unsigned long long)(l->total * l->c),
			       (unsigned long long)io->capacity);
	return 0;
}

/* From here on the file says of itself that it holds nothing. */
static int mark_unfinished(struct qio *io, struct err *e)
{
	int r = io->truncate(io, 0, e);

	if (r == 0)
		r = io->pwrite(io, unfinished, sizeof(unfinished), 0, e);
	return r < 0 ? r : io->flush(io, e);
}

/* No image is there any more; all of ours reads as zeros (but that) and has its space. */
static int wipe(struct qio *io, const struct layout *l, struct err *e)
{
	int r;

	if (io->capacity) {
		r = io->zero(io, 0, l->c, e);
		if (r == 0)
			r = io->flush(io, e);
		return r < 0 ? r : io->zero(io, l->c, (l->total - 1) * l->c, e);
	}
	r = mark_unfinished(io, e);
	if (r == 0)
		r = io->truncate(io, l->total * l->c, e);
	return r < 0 ? r : io->allocate(io, 0, l->total * l->c, e);
}

static int write_refcounts(struct qio *io, const struct layout *l, struct err *e)
{
	size_t bytes = (l->rt + l->rb) * l->c;
	_cleanup_free_ uint8_t *buf = buf_new(bytes, e);

	if (!buf)
		return -ENOMEM;
	for (uint64_t i = 0; i < l->rb; i++)
		put64(buf + i * 8, (1 + l->rt + i) * l->c);
	for (uint64_t i = 0; i < l->total; i++)
		rb_set(buf + l->rt * l->c, l->h.refcount_order, i, 1);
	return io->pwrite(io, buf, bytes, l->c, e);
}

bool qcow2_is_unfinished(struct qio *io)
{
	char buf[sizeof(unfinished)];

	return !io->is_bdev && io->pread(io, buf, sizeof(buf), 0, NULL) == 0 &&
	       !memcmp(buf, unfinished, sizeof(buf));
}

int qcow2_create(struct qio *io, const struct qcow2_create_opts *opts, struct err *e)
{
	struct layout l = { 0 };
	_cleanup_free_ uint8_t *head = NULL;
	int r = check_opts(io, opts, &l.h, e);

	if (r == 0)
		r = plan_layout(io, &l, e);
	if (r < 0)
		return r;
	head = buf_new(l.c, e);
	if (!head)
		return -ENOMEM;
	r = header_build(io, head, &l.h, opts->backing_file, opts->backing_format, e);
	if (r == 0)
		r = wipe(io, &l, e);
	if (r == 0)
		r = write_refcounts(io, &l, e);
	if (r == 0)
		r = io->flush(io, e);
	if (r == 0)
		r = io->pwrite(io, head, l.c, 0, e);
	return r < 0 ? r : io->flush(io, e);
}
