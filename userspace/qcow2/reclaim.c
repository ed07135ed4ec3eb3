// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Takes back what a crash leaked: of the clusters that had been granted, those
 * that nothing references. The walk marks what is referenced among the
 * candidates only, so memory follows their number and not the image's size.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* How far a file may have grown without its size being durable: more than all that is granted at once. */
#define LOST_MAX (1ull << 30)

struct reclaim {
	struct qcow2 *img;
	struct ranges list; /* candidates: sorted, apart, whole clusters */
	uint64_t *first;    /* of each range: the number of its first cluster */
	uint8_t *used;	    /* a bit for each candidate cluster */
};

/*
 * Refcounts may have become durable before the size of the file that grew for them. What
 * they say is in use behind the end would be leaked for good, and be seen once the file
 * grows again: the file is made as long as they say, so that it can be freed.
 */
static int __restore_end(struct qcow2 *img, struct err *e)
{
	uint64_t limit = img->end + (LOST_MAX >> img->hdr.cluster_bits), end = img->end;
	int r = 0;

	if (img->io->capacity)
		return 0;
	for (uint64_t c = img->end; c < limit && r == 0; c++) {
		enum rc_state state;

		r = __rc_state(img, c, &state, e);
		if (r == 0 && state != RC_FREE)
			end = c + 1;
	}
	if (r < 0 || end == img->end)
		return r;
	r = img->io->truncate(img->io, end * img->cluster_size, e);
	if (r < 0)
		return r;
	img->end = end;
	img->file_size = end * img->cluster_size;
	return 0;
}

/* The whole clusters of the candidates that the file has. */
static int take_candidates(struct reclaim *c, const struct qcow2_range *v, size_t n, struct err *e)
{
	uint64_t size = c->img->cluster_size;
	uint64_t file_end = round_up_to(c->img->file_size, size), total = 0;
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		uint64_t start, end;

		if (v[i].off >= file_end)
			continue;
		end = v[i].len < file_end - v[i].off ? v[i].off + v[i].len : file_end;
		start = round_up_to(v[i].off, size);
		end &= ~(size - 1);
		if (start < end)
			r = ranges_add(&c->list, start, end - start, e);
	}
	if (r < 0)
		return r;
	ranges_sort(&c->list, true);
	c->first = calloc(c->list.n + 1, sizeof(*c->first));
	for (size_t i = 0; c->first && i < c->list.n; i++) {
		c->first[i] = total;
		total += c->list.v[i].len / size;
	}
	c->used = calloc(1, total / 8 + 1);
	return c->first && c->used ? 0 : err_set(e, ENOMEM, "out of memory");
}

/* The first range that ends behind @off. */
static size_t find_range(const struct reclaim *c, uint64_t off)
{
	size_t lo = 0, hi = c->list.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (c->list.v[mid].off + c->list.v[mid].len <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int mark(void *opaque, const struct ref *ref, struct err *e)
{
	struct reclaim *c = opaque;
	uint64_t size = c->img->cluster_size;
	uint64_t start = ref->off & ~(size - 1), end = round_up_to(ref->off + ref->len, size);

	(void)e;
	for (size_t i = find_range(c, start); i < c->list.n && c->list.v[i].off < end; i++) {
		const struct qcow2_range *r = &c->list.v[i];
		uint64_t a = start > r->off ? start : r->off;
		uint64_t b = end < r->off + r->len ? end : r->off + r->len;

		for (; a < b; a += size) {
			uint64_t bit = c->first[i] + (a - r->off) / size;

			c->used[bit / 8] |= 1u << bit % 8;
		}
	}
	return 0;
}

static int give_up(void *opaque, const char *sentence, struct err *e)
{
	struct reclaim *c = opaque;

	return img_err(c->img->io, e, EUCLEAN, "%s; nothing was reclaimed; " CHECK_HINT, sentence);
}

/* Unreferenced candidates with refcount 1. */
static int __collect(struct reclaim *c, struct ranges *ret, struct err *e)
{
	struct qcow2 *img = c->img;
	int r = 0;

	for (size_t i = 0; i < c->list.n; i++) {
		uint64_t n = c->list.v[i].len / img->cluster_size;

		for (uint64_t k = 0; k < n && r == 0; k++) {
			uint64_t off = c->list.v[i].off + k * img->cluster_size;
			uint64_t bit = c->first[i] + k;
			enum rc_state state;

			if (c->used[bit / 8] >> bit % 8 & 1)
				continue;
			r = __rc_state(img, off >> img->hdr.cluster_bits, &state, e);
			if (r == 0 && state == RC_ONE)
				r = ranges_add(ret, off, img->cluster_size, e);
		}
	}
	return r;
}

static int __reclaim(struct reclaim *c, unsigned int flags, uint64_t *ret_freed, struct err *e)
{
	const struct ref_walk w = { .opaque = c, .ref = mark, .bad = give_up };
	_cleanup_ranges_ struct ranges list = { 0 };
	int r = c->list.n ? refs_walk(c->img, &w, e) : 0;

	if (r == 0)
		r = __collect(c, &list, e);
	if (r == 0)
		r = __free_clusters(c->img, list.v, list.n, flags, e);
	if (r == 0 && ret_freed)
		*ret_freed = list.bytes;
	return r;
}

int qcow2_reclaim(struct qcow2 *img, const struct qcow2_range *candidates, size_t n,
		  unsigned int flags, uint64_t *ret_freed, struct err *e)
{
	struct reclaim c = { .img = img };
	int r;

	pthread_mutex_lock(&img->lock);
	r = __change_begin(img, e);
	if (r == 0 && img->hdr.has_unknown_ext)
		n = 0;
	if (r == 0 && n)
		r = __restore_end(img, e);
	if (r == 0)
		r = take_candidates(&c, candidates, n, e);
	if (r == 0)
		r = __reclaim(&c, flags, ret_freed, e);
	pthread_mutex_unlock(&img->lock);
	ranges_done(&c.list);
	free(c.first);
	free(c.used);
	return r;
}
