// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An image grows whose backing file is longer than it was: what that has behind the old end was not
 * seen before, and is not to be seen now. Entries that say zeros are durable before the header has the
 * new size: those of the table that the old end lies in, which nobody looks at until then, and whole new
 * tables behind it.
 */
#include <errno.h>

#include "internal.h"

static uint64_t l2_index(const struct qcow2 *img, uint64_t off)
{
	return off / img->cluster_size & ((1ull << img->l2_bits) - 1);
}

/* The cluster in which the old end lies has to be the image's own: its rest is made zeros with it. */
static int check_end(struct qcow2 *img, struct err *e)
{
	uint64_t end = img->hdr.size, table, raw = 0;
	int r = 0;

	if (!(end & (img->cluster_size - 1)))
		return 0;
	table = img->l1[end / region_size(img)] & ENTRY_OFFSET;
	if (table)
		r = table_read(img, table, l2_index(img, end), 1, &raw, e);
	return r < 0 || raw ? r :
			      img_err(img->io, e, EOPNOTSUPP,
				      "it can't grow over a longer backing file: its end lies amid a cluster that comes from there");
}

int hide_begin(struct qcow2 *img, struct hide *h, uint64_t size, struct err *e)
{
	_cleanup_free_ struct qcow2_table *tables = NULL;
	uint64_t start = round_up_to(img->hdr.size, img->cluster_size);
	size_t n;
	int r;

	if (h->end > size)
		h->end = size;
	if (h->end <= img->hdr.size)
		return 0;
	h->end = round_up_to(h->end, img->cluster_size);
	if (img->hdr.version < 3)
		return img_err(img->io, e, EOPNOTSUPP,
			       "it can't grow over a longer backing file: version 2 can't say that there are zeros");
	r = check_end(img, e);
	if (r < 0 || start >= h->end || !(start & (region_size(img) - 1)))
		return r;
	return qcow2_prepare_tables(img, img->hdr.size - 1, 1, &tables, &n, e);
}

/*
 * Entries for [@start, @end), all of one region, into @raw; behind the old end there was nothing,
 * or zeros of a growth that failed.
 */
static int say_zeros(struct qcow2 *img, uint64_t *raw, uint64_t start, uint64_t end, struct err *e)
{
	for (uint64_t off = start; off < end; off += img->cluster_size) {
		if (raw[l2_index(img, off)] & ~htobe64(L2_ZERO))
			return img_err(img->io, e, EUCLEAN, "it has data behind its end; " CHECK_HINT);
		raw[l2_index(img, off)] = htobe64(L2_ZERO);
	}
	return 0;
}

static int __old_table(struct qcow2 *img, uint64_t start, uint64_t end, struct err *e)
{
	uint64_t table = img->l1[start / region_size(img)] & ENTRY_OFFSET;
	_cleanup_free_ uint64_t *raw = buf_new(img->cluster_size, e);
	int r;

	if (!raw)
		return -ENOMEM;
	r = img->io->pread(img->io, raw, img->cluster_size, table, e);
	if (r == 0)
		r = say_zeros(img, raw, start, end, e);
	if (r == 0)
		r = img->io->pwrite(img->io, raw, img->cluster_size, table, e);
	return r;
}

static int write_tables(struct qcow2 *img, const struct hide *h, struct err *e)
{
	uint64_t guest = h->first * region_size(img), end;
	int r = 0;

	for (size_t i = 0; i < h->tables.data.n; i++) {
		const struct qcow2_range *v = &h->tables.data.v[i];

		for (uint64_t at = 0; at < v->len && r == 0; at += img->cluster_size) {
			_cleanup_free_ uint64_t *raw = buf_new(img->cluster_size, e);

			if (!raw)
				return -ENOMEM;
			end = guest + region_size(img);
			r = say_zeros(img, raw, guest, end < h->end ? end : h->end, e);
			if (r == 0)
				r = img->io->pwrite(img->io, raw, img->cluster_size, v->off + at, e);
			guest = end;
		}
	}
	return r;
}

static int __new_tables(struct qcow2 *img, struct hide *h, uint64_t n, struct err *e)
{
	int r;

	for (uint64_t i = h->first; i < img->hdr.l1_size; i++)
		if (img->l1[i])
			return img_err(img->io, e, EUCLEAN, "it has data behind its end; " CHECK_HINT);
	r = __plan_make(img, n, 0, 0, &h->tables, e);
	if (r == 0)
		r = __plan_reserve(img, &h->tables, false, e);
	if (r < 0) {
		plan_done(&h->tables);
		return r;
	}
	r = write_tables(img, h, e);
	if (r == 0)
		r = __plan_commit(img, &h->tables, e);
	if (r < 0)
		img->failed = true;
	return r;
}

int __hide(struct qcow2 *img, struct hide *h, struct err *e)
{
	uint64_t start = round_up_to(img->hdr.size, img->cluster_size);
	uint64_t whole = round_up_to(start, region_size(img));
	int r = 0;

	if (start >= h->end)
		return 0;
	if (start < whole)
		r = __old_table(img, start, whole < h->end ? whole : h->end, e);
	h->first = whole / region_size(img);
	if (r == 0 && whole < h->end)
		r = __new_tables(img, h, DIV_ROUND_UP(h->end - whole, region_size(img)), e);
	return r;
}

void __hide_undo(struct qcow2 *img, struct hide *h)
{
	(void)__free_clusters(img, h->tables.data.v, h->tables.data.n, 0, NULL);
}

void hide_fill_l1(const struct qcow2 *img, const struct hide *h, uint64_t *l1)
{
	uint64_t i = h->first;

	for (size_t k = 0; k < h->tables.data.n; k++) {
		const struct qcow2_range *v = &h->tables.data.v[k];

		for (uint64_t at = 0; at < v->len; at += img->cluster_size)
			l1[i++] = (v->off + at) | ENTRY_COPIED;
	}
}

int __hide_end(struct qcow2 *img, const struct hide *h)
{
	unsigned int bits = img->hdr.cluster_bits;
	int r = 0;

	for (size_t k = 0; k < h->tables.data.n && r == 0; k++)
		r = metaset_add(&img->meta, h->tables.data.v[k].off >> bits,
				h->tables.data.v[k].len >> bits);
	return r;
}
