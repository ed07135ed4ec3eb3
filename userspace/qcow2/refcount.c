// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Refcounts. The table is in memory; blocks go through a small cache; of every
 * block that was met a summary (free, one, many: 2 bits a cluster) stays, so that
 * looking for free clusters and checking a map never thrash the cache.
 *
 * Order of a commit, each step durable before the next:
 *   1. blocks (a new block counts itself)
 *   2. the table's new entries; or, when the table moved, the whole new table
 *      with step 1, and then the header that points to it
 *   3. the old table's clusters become free
 * A crash after any step leaves refcounts that are too high, never too low.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define CACHE_BYTES (4u << 20)
#define CACHE_MIN   8u
#define CACHE_MAX   64u

/* ---- one block ------------------------------------------------------------------ */

uint64_t rb_get(const uint8_t *data, unsigned int order, uint64_t i)
{
	unsigned int bits = 1u << order;

	switch (order) {
	case 0:
	case 1:
	case 2:
		return data[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
	case 3:
		return data[i];
	case 4:
		return get16(data + i * 2);
	case 5:
		return get32(data + i * 4);
	default:
		return get64(data + i * 8);
	}
}

void rb_set(uint8_t *data, unsigned int order, uint64_t i, uint64_t v)
{
	unsigned int bits = 1u << order, shift;

	switch (order) {
	case 0:
	case 1:
	case 2:
		shift = i * bits % 8;
		data[i * bits / 8] &= ~(((1u << bits) - 1) << shift);
		data[i * bits / 8] |= v << shift;
		return;
	case 3:
		data[i] = v;
		return;
	case 4:
		put16(data + i * 2, v);
		return;
	case 5:
		put32(data + i * 4, v);
		return;
	default:
		put64(data + i * 8, v);
	}
}

static uint64_t block_entries(const struct qcow2 *img)
{
	return 1ull << img->rc.block_bits;
}

static enum rc_state sum_get(const uint8_t *sum, uint64_t i)
{
	return sum[i / 4] >> (i % 4 * 2) & 3;
}

static void sum_set(uint8_t *sum, uint64_t i, uint64_t value)
{
	unsigned int shift = i % 4 * 2;
	unsigned int v = value > 1 ? RC_MANY : value;

	sum[i / 4] = (sum[i / 4] & ~(3u << shift)) | v << shift;
}

static uint8_t *sum_new(const struct qcow2 *img, struct err *e)
{
	uint8_t *sum = calloc(1, DIV_ROUND_UP(block_entries(img), 4));

	if (!sum)
		err_set(e, ENOMEM, "out of memory (refcounts)");
	return sum;
}

/* ---- cache -------------------------------------------------------------------------- */

static int slot_write(struct qcow2 *img, struct refblock *s, struct err *e)
{
	/* Whole 4 KiB units, so that no read comes before the write. */
	uint32_t lo = s->dirty_lo & ~4095u;
	uint32_t hi = round_up_to(s->dirty_hi, 4096);
	int r;

	if (!s->dirty_hi)
		return 0;
	r = img->io->pwrite(img->io, s->data + lo, hi - lo, img->rc.table[s->idx] + lo, e);
	if (r == 0)
		s->dirty_lo = s->dirty_hi = 0;
	return r;
}

/* A slot for block @idx, its old content written out; data is undefined. */
static int slot_take(struct qcow2 *img, uint64_t idx, struct refblock **ret, struct err *e)
{
	struct refcounts *rc = &img->rc;
	struct refblock *s = &rc->slots[0];
	int r;

	for (unsigned int i = 0; i < rc->nslots; i++) {
		if (!rc->slots[i].data) {
			s = &rc->slots[i];
			break;
		}
		if (rc->slots[i].used < s->used)
			s = &rc->slots[i];
	}
	if (!s->data) {
		s->data = buf_new(img->cluster_size, e);
		if (!s->data)
			return -ENOMEM;
	} else {
		r = slot_write(img, s, e);
		if (r < 0)
			return r;
	}
	s->idx = idx;
	s->used = ++rc->tick;
	*ret = s;
	return 0;
}

static bool all_free(const uint8_t *eight)
{
	uint64_t v;

	memcpy(&v, eight, 8);
	return !v;
}

static int build_summary(struct qcow2 *img, struct refblock *s, struct err *e)
{
	const uint64_t step = 64u >> img->rc.order; /* entries in eight bytes */
	uint8_t *sum;

	if (img->rc.summary[s->idx])
		return 0;
	sum = sum_new(img, e);
	if (!sum)
		return -ENOMEM;
	for (uint64_t i = 0; i < block_entries(img); i += step) {
		if (all_free(s->data + i / step * 8))
			continue;
		for (uint64_t n = i; n < i + step; n++)
			sum_set(sum, n, rb_get(s->data, img->rc.order, n));
	}
	img->rc.summary[s->idx] = sum;
	return 0;
}

/* The cached block @idx, which the table has. */
static int slot_get(struct qcow2 *img, uint64_t idx, struct refblock **ret, struct err *e)
{
	struct refcounts *rc = &img->rc;
	struct refblock *s;
	int r;

	for (unsigned int i = 0; i < rc->nslots; i++) {
		s = &rc->slots[i];
		if (s->data && s->idx == idx) {
			s->used = ++rc->tick;
			*ret = s;
			return 0;
		}
	}
	r = slot_take(img, idx, &s, e);
	if (r < 0)
		return r;
	r = img->io->pread(img->io, s->data, img->cluster_size, rc->table[idx], e);
	if (r == 0)
		r = build_summary(img, s, e);
	if (r < 0) {
		free(take_ptr(s->data));
		s->used = 0;
		return r;
	}
	*ret = s;
	return 0;
}

/* ---- single refcounts ------------------------------------------------------------------ */

int __rc_get(struct qcow2 *img, uint64_t cluster, uint64_t *ret, struct err *e)
{
	struct refblock *s;
	int r;

	*ret = 0;
	if (!rc_has_block(img, cluster))
		return 0;
	r = slot_get(img, cluster >> img->rc.block_bits, &s, e);
	if (r == 0)
		*ret = rb_get(s->data, img->rc.order, cluster & (block_entries(img) - 1));
	return r;
}

bool __rc_cached(struct qcow2 *img, uint64_t cluster)
{
	return !rc_has_block(img, cluster) || img->rc.summary[cluster >> img->rc.block_bits];
}

int __rc_state(struct qcow2 *img, uint64_t cluster, enum rc_state *ret, struct err *e)
{
	uint64_t idx = cluster >> img->rc.block_bits;
	struct refblock *s;
	int r = 0;

	*ret = RC_FREE;
	if (!rc_has_block(img, cluster))
		return 0;
	if (!img->rc.summary[idx])
		r = slot_get(img, idx, &s, e);
	if (r == 0)
		*ret = sum_get(img->rc.summary[idx], cluster & (block_entries(img) - 1));
	return r;
}

int __rc_last(struct qcow2 *img, uint64_t idx, uint64_t *ret, struct err *e)
{
	uint64_t first = idx << img->rc.block_bits;
	struct refblock *s;
	int r;

	r = img->rc.summary[idx] ? 0 : slot_get(img, idx, &s, e);
	if (r < 0)
		return r;
	for (uint64_t i = block_entries(img); i-- > 0;) {
		if (i % 4 == 3 && !img->rc.summary[idx][i / 4])
			i -= 3;
		else if (sum_get(img->rc.summary[idx], i) != RC_FREE) {
			*ret = first + i;
			return 0;
		}
	}
	return -ENOENT;
}

static void dirty(struct refblock *s, unsigned int order, uint64_t first, uint64_t n)
{
	uint32_t lo = first << order >> 3;
	uint32_t hi = (((first + n) << order) + 7) >> 3;

	if (!s->dirty_hi || lo < s->dirty_lo)
		s->dirty_lo = lo;
	if (hi > s->dirty_hi)
		s->dirty_hi = hi;
}

int __rc_set(struct qcow2 *img, uint64_t cluster, uint64_t n, uint64_t value, struct err *e)
{
	while (n) {
		uint64_t idx = cluster >> img->rc.block_bits;
		uint64_t first = cluster & (block_entries(img) - 1);
		uint64_t here = block_entries(img) - first;
		struct refblock *s;
		int r;

		if (here > n)
			here = n;
		if (!rc_has_block(img, cluster))
			return img_err(img->io, e, EUCLEAN, "cluster %llu has no refcount block",
				       (unsigned long long)cluster);
		r = slot_get(img, idx, &s, e);
		if (r < 0)
			return r;
		for (uint64_t i = first; i < first + here; i++) {
			rb_set(s->data, img->rc.order, i, value);
			sum_set(img->rc.summary[idx], i, value);
		}
		dirty(s, img->rc.order, first, here);
		cluster += here;
		n -= here;
	}
	return 0;
}

/* ---- the table ----------------------------------------------------------------------------- */

static int check_table_entry(struct qcow2 *img, uint64_t i, struct err *e)
{
	uint64_t off = img->rc.table[i];
	int r;

	if (!off)
		return 0;
	if (off & (img->cluster_size - 1) || off >= img->file_size ||
	    !img_in_file(img, off, img->cluster_size))
		return img_err(img->io, e, EUCLEAN,
			       "refcount block %llu (at %#llx) is not on a cluster inside the "
			       "file; " CHECK_HINT,
			       (unsigned long long)i, (unsigned long long)off);
	r = metaset_add(&img->meta, off / img->cluster_size, 1);
	if (r == -EEXIST)
		return img_err(img->io, e, EUCLEAN,
			       "refcount block %llu at %#llx overlaps other metadata; " CHECK_HINT,
			       (unsigned long long)i, (unsigned long long)off);
	return r < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
}

static int cache_init(struct qcow2 *img, struct err *e)
{
	struct refcounts *rc = &img->rc;
	unsigned int n = CACHE_BYTES >> img->hdr.cluster_bits;

	rc->order = img->hdr.refcount_order;
	rc->block_bits = img->hdr.cluster_bits + 3 - rc->order;
	rc->nslots = n < CACHE_MIN ? CACHE_MIN : n > CACHE_MAX ? CACHE_MAX : n;
	rc->slots = calloc(rc->nslots, sizeof(*rc->slots));
	return rc->slots ? 0 : err_set(e, ENOMEM, "out of memory");
}

int __rc_load(struct qcow2 *img, struct err *e)
{
	struct refcounts *rc = &img->rc;
	size_t bytes = (size_t)img->hdr.rt_clusters << img->hdr.cluster_bits;
	int r;

	if (rc->loaded)
		return 0;
	rc_done(rc); /* what an earlier attempt that failed left */
	r = cache_init(img, e);
	if (r < 0)
		return r;
	rc->entries = bytes / 8;
	rc->table = buf_new(bytes, e);
	rc->summary = calloc(rc->entries, sizeof(*rc->summary));
	if (!rc->table || !rc->summary)
		return err_set(e, ENOMEM, "out of memory");
	r = img->io->pread(img->io, rc->table, bytes, img->hdr.rt_off, e);
	for (uint64_t i = 0; r == 0 && i < rc->entries; i++) {
		rc->table[i] = be64toh(rc->table[i]);
		r = check_table_entry(img, i, e);
	}
	rc->loaded = r == 0;
	return r;
}

void rc_done(struct refcounts *rc)
{
	for (unsigned int i = 0; rc->slots && i < rc->nslots; i++)
		free(rc->slots[i].data);
	for (uint64_t i = 0; rc->summary && i < rc->entries; i++)
		free(rc->summary[i]);
	free(rc->slots);
	free(rc->summary);
	free(rc->table);
	*rc = (struct refcounts){ 0 };
}

static void dirty_table(struct refcounts *rc, uint64_t first, uint64_t n)
{
	if (!rc->dirty_hi || first < rc->dirty_lo)
		rc->dirty_lo = first;
	if (first + n > rc->dirty_hi)
		rc->dirty_hi = first + n;
}

int __rc_move_table(struct qcow2 *img, uint64_t off, uint32_t clusters, struct err *e)
{
	struct refcounts *rc = &img->rc;
	uint64_t entries = (uint64_t)clusters << img->hdr.cluster_bits >> 3;
	uint64_t *table = buf_new(entries * 8, e);
	uint8_t **summary = calloc(entries, sizeof(*summary));

	if (!table || !summary) {
		free(table);
		free(summary);
		return err_set(e, ENOMEM, "out of memory");
	}
	memcpy(table, rc->table, rc->entries * 8);
	memcpy(summary, rc->summary, rc->entries * sizeof(*summary));
	free(rc->table);
	free(rc->summary);
	rc->table = table;
	rc->summary = summary;
	rc->entries = entries;
	rc->old_off = img->hdr.rt_off;
	rc->old_clusters = img->hdr.rt_clusters;
	img->hdr.rt_off = off;
	img->hdr.rt_clusters = clusters;
	dirty_table(rc, 0, entries);
	return 0;
}

int __rc_new_block(struct qcow2 *img, uint64_t idx, uint64_t off, struct err *e)
{
	struct refblock *s;
	uint8_t *sum = sum_new(img, e);
	int r;

	if (!sum)
		return -ENOMEM;
	r = slot_take(img, idx, &s, e);
	if (r < 0) {
		free(sum);
		return r;
	}
	memset(s->data, 0, img->cluster_size);
	s->dirty_lo = 0;
	s->dirty_hi = img->cluster_size;
	img->rc.summary[idx] = sum;
	img->rc.table[idx] = off;
	dirty_table(&img->rc, idx, 1);
	return 0;
}

static int write_table(struct qcow2 *img, struct err *e)
{
	struct refcounts *rc = &img->rc;
	uint64_t first = rc->dirty_lo & ~511ull;
	uint64_t last = round_up_to(rc->dirty_hi, 512);
	_cleanup_free_ uint64_t *buf = NULL;
	int r;

	if (!rc->dirty_hi)
		return 0;
	buf = buf_new((last - first) * 8, e);
	if (!buf)
		return -ENOMEM;
	for (uint64_t i = first; i < last; i++)
		buf[i - first] = htobe64(rc->table[i]);
	r = img->io->pwrite(img->io, buf, (last - first) * 8, img->hdr.rt_off + first * 8, e);
	if (r == 0)
		rc->dirty_lo = rc->dirty_hi = 0;
	return r;
}

static int write_blocks(struct qcow2 *img, struct err *e)
{
	int r = 0;

	for (unsigned int i = 0; i < img->rc.nslots && r == 0; i++)
		if (img->rc.slots[i].data)
			r = slot_write(img, &img->rc.slots[i], e);
	return r;
}

static int flush(struct qcow2 *img, int r, struct err *e)
{
	return r < 0 ? r : img->io->flush(img->io, e);
}

/* Steps 2 and 3 when the table moved; it is durable, the header is not. */
static int commit_moved(struct qcow2 *img, struct err *e)
{
	struct refcounts *rc = &img->rc;
	uint64_t old = rc->old_off >> img->hdr.cluster_bits;
	uint32_t n = rc->old_clusters;
	int r;

	r = __header_set_reftable(img, img->hdr.rt_off, img->hdr.rt_clusters, e);
	r = flush(img, r, e);
	if (r < 0)
		return r;
	rc->old_clusters = 0;
	metaset_del(&img->meta, old, n);
	for (uint32_t i = 0; i < n && r == 0; i++) {
		enum rc_state state;

		r = __rc_state(img, old + i, &state, e);
		if (r == 0 && state == RC_ONE)
			r = __rc_set(img, old + i, 1, 0, e);
	}
	if (r == 0)
		r = write_blocks(img, e);
	__freed(img, old);
	return flush(img, r, e);
}

int __rc_commit(struct qcow2 *img, struct err *e)
{
	bool table = img->rc.dirty_hi;
	int r = write_blocks(img, e);

	if (r == 0 && img->rc.old_clusters)
		r = write_table(img, e);
	r = flush(img, r, e);
	if (r == 0 && img->rc.old_clusters)
		return commit_moved(img, e);
	if (r == 0 && table) {
		r = write_table(img, e);
		r = flush(img, r, e);
	}
	return r;
}
