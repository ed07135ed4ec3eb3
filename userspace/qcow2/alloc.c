// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Allocation, in three steps: a plan (which clusters; nothing is changed, so
 * running out of space is harmless), the space itself, the refcounts.
 *
 * Behind the end of the image lie, when they are needed, first a larger refcount
 * table, then the missing refcount blocks, then all the clusters asked for
 * in one piece. The blocks count for themselves.
 *
 * Not used: free clusters amid the image whose refcount block does not exist.
 * (Only a block device's image that grew by leaps has such.)
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* What one search reads and looks at before it takes the image's end instead. */
#define SEARCH_BLOCKS	4
#define SEARCH_CLUSTERS (1u << 20)

void plan_done(struct alloc_plan *p)
{
	ranges_done(&p->data);
}

/* ---- looking for free clusters ----------------------------------------------------- */

struct search {
	uint64_t want;	  /* clusters */
	uint64_t min_run; /* shorter runs are passed by, but for the last piece ... */
	bool multiples;	  /* ... or: runs are multiples of min_run */
	uint64_t from, to;
	unsigned int blocks; /* that may be read */
	uint64_t clusters;   /* that may be looked at */
	struct ranges *out;
	uint64_t got;
	uint64_t run;	 /* free clusters right before the position */
	uint64_t resume; /* behind what was taken last */
};

/* Takes the run that ends before @pos, or as much of it as is wanted. */
static int __take_run(struct qcow2 *img, struct search *s, uint64_t pos, struct err *e)
{
	uint64_t first = pos - s->run, n = s->run;

	s->run = 0;
	if (s->multiples)
		n -= n % s->min_run;
	else if (n < s->min_run && s->got + n < s->want)
		n = 0;
	s->resume = first + n;
	for (uint64_t i = 0; i < n; i++)
		if (metaset_has(&img->meta, first + i))
			return img_err(img->io, e, EUCLEAN,
				       "the cluster at %#llx has refcount 0 but holds metadata; "
				       CHECK_HINT,
				       (unsigned long long)((first + i) * img->cluster_size));
	s->got += n;
	return ranges_add(s->out, first * img->cluster_size, n * img->cluster_size, e);
}

/* Searches [from, to) until it has enough; @from is then where to go on. */
static int __search(struct qcow2 *img, struct search *s, struct err *e)
{
	uint64_t pos = s->from;
	enum rc_state state;
	int r = 0;

	while (pos < s->to && s->got + s->run < s->want && r == 0 && s->clusters--) {
		if (!rc_has_block(img, pos)) {
			r = __take_run(img, s, pos, e);
			pos = ((pos >> img->rc.block_bits) + 1) << img->rc.block_bits;
			continue;
		}
		if (!__rc_cached(img, pos) && !s->blocks--)
			break;
		r = __rc_state(img, pos, &state, e);
		if (r == 0 && state == RC_FREE)
			s->run++;
		else if (r == 0)
			r = __take_run(img, s, pos, e);
		pos++;
	}
	if (pos > s->to)
		pos = s->to;
	if (r == 0)
		r = __take_run(img, s, pos, e);
	s->from = s->resume;
	return r;
}

/* The first cluster in use at or behind @first, below @first + @n; -ENOENT: none. */
static int __find_used(struct qcow2 *img, uint64_t first, uint64_t n, uint64_t *ret,
		       struct err *e)
{
	enum rc_state state;
	int r;

	for (uint64_t c = first; c < first + n; c++) {
		if (!rc_has_block(img, c)) {
			c |= (1ull << img->rc.block_bits) - 1;
			continue;
		}
		r = __rc_state(img, c, &state, e);
		if (r < 0)
			return r;
		if (state != RC_FREE) {
			*ret = c;
			return 0;
		}
	}
	return -ENOENT;
}

/* A block device has no end of file: the image ends behind the last refcount. */
static int __find_end(struct qcow2 *img, struct err *e)
{
	uint64_t idx = img->rc.entries, last;
	int r = -ENOENT;

	if (img->end)
		return 0;
	while (r == -ENOENT && idx-- > 0)
		r = img->rc.table[idx] ? __rc_last(img, idx, &last, e) : -ENOENT;
	if (r < 0 && r != -ENOENT)
		return r;
	if (r == 0 && last >= img->io->capacity >> img->hdr.cluster_bits)
		return img_err(img->io, e, EUCLEAN,
			       "it uses clusters behind the end of its block device; " CHECK_HINT);
	if (r == 0) {
		img->end = last + 1;
		return 0;
	}
	return img_err(img->io, e, EUCLEAN, "all its refcounts are 0; " CHECK_HINT);
}

/* ---- the plan --------------------------------------------------------------------------- */

static uint64_t missing_blocks(const struct qcow2 *img, uint64_t first, uint64_t n)
{
	uint64_t count = 0;

	for (uint64_t i = first >> img->rc.block_bits;
	     i <= (first + n - 1) >> img->rc.block_bits; i++)
		count += i >= img->rc.entries || !img->rc.table[i];
	return count;
}

/* Clusters of the refcount table that counts for all below @end; 0: the one there is. */
static uint64_t larger_table(const struct qcow2 *img, uint64_t end)
{
	uint64_t need = ((end - 1) >> img->rc.block_bits) + 1, clusters, max;

	if (need <= img->rc.entries)
		return 0;
	clusters = DIV_ROUND_UP(need * 8, img->cluster_size);
	max = MAX_REFTABLE_BYTES >> img->hdr.cluster_bits;
	/* Twice the old size, so that it does not move often. */
	if (clusters < 2ull * img->hdr.rt_clusters && 2ull * img->hdr.rt_clusters <= max)
		clusters = 2ull * img->hdr.rt_clusters;
	return clusters;
}

static int no_room(struct qcow2 *img, uint64_t n, struct err *e)
{
	return img_err(img->io, e, ENOSPC,
		       "no room for %llu more clusters of %llu bytes: its block device ends at "
		       "%llu bytes; enlarge it",
		       (unsigned long long)n, (unsigned long long)img->cluster_size,
		       (unsigned long long)img->io->capacity);
}

/* Whether the image may end at cluster @end. A volume may have been enlarged since the last look. */
static bool __fits(struct qcow2 *img, uint64_t end)
{
	struct qio *io = img->io;
	uint64_t size;

	if (!io->capacity || end <= io->capacity >> img->hdr.cluster_bits)
		return true;
	if (io->size(io, &size, NULL) == 0 && size > io->capacity)
		img->file_size = io->capacity = size;
	return end <= io->capacity >> img->hdr.cluster_bits;
}

/* Whether [@first, +@total) can be counted for and has its place. */
static int check_limits(struct qcow2 *img, uint64_t first, uint64_t total, uint64_t rt, uint64_t n,
			struct err *e)
{
	unsigned int bits = img->hdr.cluster_bits;

	if (total > MAX_HOST_OFFSET >> bits || first > (MAX_HOST_OFFSET >> bits) - total)
		return img_err(img->io, e, EFBIG, "it would become larger than the format allows");
	if (!__fits(img, first + total))
		return no_room(img, n, e);
	if (rt << bits > MAX_REFTABLE_BYTES)
		return img_err(img->io, e, EFBIG,
			       "its refcount table can not grow any more; convert it to larger "
			       "clusters with qemu-img convert");
	return 0;
}

/* @n clusters behind the end, and what counts for them. */
static int __plan_append(struct qcow2 *img, uint64_t n, struct alloc_plan *p, struct err *e)
{
	uint64_t first = img->end, rt = 0, rb = 0, used;
	int r;

	for (;;) {
		uint64_t total = n + rt + rb, new_rt, new_rb;

		r = check_limits(img, first, total, rt, n, e);
		if (r < 0)
			return r;
		new_rb = missing_blocks(img, first, total);
		new_rt = larger_table(img, first + total);
		if (new_rb != rb || new_rt != rt) {
			rb = new_rb;
			rt = new_rt;
			continue;
		}
		r = __find_used(img, first, total, &used, e);
		if (r == -ENOENT)
			break;
		if (r < 0)
			return r;
		first = used + 1;
		rt = rb = 0;
	}
	p->meta_first = first;
	p->rt_n = rt;
	p->rb_n = rb;
	p->new_end = first + rt + rb + n;
	return ranges_add(&p->data, (first + rt + rb) * img->cluster_size,
			  n * img->cluster_size, e);
}

/* Free clusters amid the image, then the end. */
static int __plan_try(struct qcow2 *img, struct search *s, struct alloc_plan *p, struct err *e)
{
	int r;

	s->out = &p->data;
	r = __search(img, s, e);
	if (r < 0 || s->got == s->want)
		return r;
	return __plan_append(img, s->want - s->got, p, e);
}

/* A full device is not searched each time that somebody asks. */
static bool __known_scarce(struct qcow2 *img, uint64_t n, uint64_t min_run)
{
	return img->scarce.n && n >= img->scarce.n && min_run == img->scarce.min_run &&
	       !__fits(img, (img->scarce.capacity >> img->hdr.cluster_bits) + 1);
}

/* The device is full at its end: whatever is free, however small. */
static int __plan_scarce(struct qcow2 *img, uint64_t n, uint64_t min_run, struct alloc_plan *p,
			 struct err *e)
{
	struct search s = {
		.want = n,
		.min_run = min_run ? min_run : 1,
		.multiples = min_run,
		.to = img->end,
		.blocks = UINT32_MAX,
		.clusters = UINT64_MAX,
	};
	int r = __plan_try(img, &s, p, e);

	if (r == -ENOSPC) {
		img->scarce.n = n;
		img->scarce.min_run = min_run;
		img->scarce.capacity = img->io->capacity;
	}
	return r;
}

static int __plan_amid(struct qcow2 *img, uint64_t n, uint64_t min_run, struct alloc_plan *p,
		       struct err *e)
{
	uint64_t like = (1u << 20) / img->cluster_size;
	struct search s = {
		.want = n,
		.min_run = min_run ? min_run : like ? like : 1,
		.multiples = min_run,
		.from = img->cursor,
		.to = img->end,
		.blocks = SEARCH_BLOCKS,
		.clusters = SEARCH_CLUSTERS,
	};
	struct err first = ERR_INIT;
	int r;

	if (__known_scarce(img, n, min_run))
		return no_room(img, n, e);
	r = __plan_try(img, &s, p, &first);
	if (r == -ENOSPC) {
		ranges_done(&p->data);
		return __plan_scarce(img, n, min_run, p, e);
	}
	if (r == 0)
		img->cursor = s.from;
	else if (e && !e->code)
		*e = first;
	return r;
}

int __plan_make(struct qcow2 *img, uint64_t n, uint64_t min_run, unsigned int flags,
		struct alloc_plan *ret, struct err *e)
{
	int r;

	if (!n || n > MAX_HOST_OFFSET >> img->hdr.cluster_bits)
		return img_err(img->io, e, EINVAL, "can not allocate %llu clusters",
			       (unsigned long long)n);
	r = __find_end(img, e);
	if (r < 0)
		return r;
	*ret = (struct alloc_plan){ .new_end = img->end, .old_size = img->file_size };
	if (flags & PLAN_FRESH)
		return __plan_append(img, n, ret, e);
	return __plan_amid(img, n, min_run, ret, e);
}

/* ---- space and refcounts ------------------------------------------------------------------- */

/*
 * The space of the refcount blocks that there are (in a sparse file they may be
 * holes): a full disk is found before anything has changed.
 */
static int reserve_blocks(struct qcow2 *img, uint64_t off, uint64_t len, struct err *e)
{
	unsigned int bits = img->hdr.cluster_bits + img->rc.block_bits;
	int r = 0;

	for (uint64_t i = off >> bits; len && i <= (off + len - 1) >> bits && r == 0; i++)
		if (i < img->rc.entries && img->rc.table[i])
			r = img->io->allocate(img->io, img->rc.table[i], img->cluster_size, e);
	return r;
}

static int reserve_refcounts(struct qcow2 *img, const struct alloc_plan *p, struct err *e)
{
	uint64_t c = img->cluster_size;
	int r = 0;

	if (p->rt_n + p->rb_n) {
		r = img->io->allocate(img->io, p->meta_first * c, (p->rt_n + p->rb_n) * c, e);
		if (r == 0)
			r = img->io->allocate(img->io, img->hdr.rt_off, img->hdr.rt_clusters * c, e);
		if (r == 0)
			r = reserve_blocks(img, p->meta_first * c, (p->rt_n + p->rb_n) * c, e);
	}
	for (size_t i = 0; i < p->data.n && r == 0; i++)
		r = reserve_blocks(img, p->data.v[i].off, p->data.v[i].len, e);
	return r;
}

static int reserve(struct qcow2 *img, const struct alloc_plan *p, bool holes, struct err *e)
{
	struct qio *io = img->io;
	uint64_t c = img->cluster_size;
	int r = 0;

	if (holes && !io->capacity)
		r = io->truncate(io, p->new_end * c, e);
	if (r == 0)
		r = reserve_refcounts(img, p, e);
	for (size_t i = 0; i < p->data.n && r == 0 && !holes; i++)
		r = io->allocate(io, p->data.v[i].off, p->data.v[i].len, e);
	return r;
}

int __plan_reserve(struct qcow2 *img, struct alloc_plan *p, bool holes, struct err *e)
{
	bool grows = p->new_end > img->end && !img->io->capacity;
	int r = reserve(img, p, holes, e);

	if (r < 0) {
		/* Give back what a half-done one took; the first cause is kept. */
		if (grows)
			(void)img->io->truncate(img->io, p->old_size, NULL);
		if (p->data.n && p->data.v[0].off / img->cluster_size < img->cursor)
			img->cursor = p->data.v[0].off / img->cluster_size;
		return r;
	}
	if (grows)
		img->file_size = p->new_end * img->cluster_size;
	return 0;
}

/* New table and blocks of the plan come to be, in memory. */
static int __add_refcount_metadata(struct qcow2 *img, const struct alloc_plan *p, struct err *e)
{
	uint64_t block = p->meta_first + p->rt_n;
	int r = 0;

	if (metaset_add(&img->meta, p->meta_first, p->rt_n + p->rb_n) < 0)
		return err_set(e, ENOMEM, "out of memory");
	if (p->rt_n)
		r = __rc_move_table(img, p->meta_first * img->cluster_size, p->rt_n, e);
	for (uint64_t i = p->meta_first >> img->rc.block_bits;
	     r == 0 && p->rb_n && i <= (p->new_end - 1) >> img->rc.block_bits; i++)
		if (!img->rc.table[i])
			r = __rc_new_block(img, i, block++ * img->cluster_size, e);
	return r;
}

static int __set_used(struct qcow2 *img, const struct alloc_plan *p, struct err *e)
{
	unsigned int bits = img->hdr.cluster_bits;
	int r = __rc_set(img, p->meta_first, p->rt_n + p->rb_n, 1, e);

	for (size_t i = 0; i < p->data.n && r == 0; i++)
		r = __rc_set(img, p->data.v[i].off >> bits, p->data.v[i].len >> bits, 1, e);
	return r;
}

int __plan_commit(struct qcow2 *img, struct alloc_plan *p, struct err *e)
{
	int r = __add_refcount_metadata(img, p, e);

	if (r == 0)
		r = __set_used(img, p, e);
	if (r == 0)
		r = __rc_commit(img, e);
	if (r < 0) {
		img->failed = true;
		return r;
	}
	if (p->new_end > img->end)
		img->end = p->new_end;
	return 0;
}

static int __alloc(struct qcow2 *img, uint64_t n, uint64_t min_run, struct alloc_plan *p,
		   struct err *e)
{
	int r = __change_begin(img, e);

	if (r == 0)
		r = __plan_make(img, n, min_run, 0, p, e);
	if (r == 0)
		r = __plan_reserve(img, p, false, e);
	if (r == 0)
		r = __plan_commit(img, p, e);
	return r;
}

int qcow2_alloc_clusters(struct qcow2 *img, uint64_t n, uint64_t min_run,
			 struct qcow2_range **ret, size_t *ret_n, struct err *e)
{
	_cleanup_plan_ struct alloc_plan p = { 0 };
	int r;

	pthread_mutex_lock(&img->lock);
	r = __alloc(img, n, min_run, &p, e);
	pthread_mutex_unlock(&img->lock);
	if (r < 0)
		return r;
	*ret_n = p.data.n;
	*ret = take_ptr(p.data.v);
	return 0;
}
