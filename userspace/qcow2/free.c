// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Giving clusters back. Everything is checked before anything is changed; the
 * file is cut only when the refcounts are durable.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static int bad_free(struct qcow2 *img, uint64_t cluster, const char *why, struct err *e)
{
	return img_err(img->io, e, EUCLEAN, "can not free the cluster at %#llx: it %s",
		       (unsigned long long)(cluster * img->cluster_size), why);
}

static int __check_free(struct qcow2 *img, const struct ranges *list, struct err *e)
{
	unsigned int bits = img->hdr.cluster_bits;
	enum rc_state state;
	int r;

	for (size_t i = 0; i < list->n; i++) {
		uint64_t first = list->v[i].off >> bits;

		for (uint64_t c = first; c < first + (list->v[i].len >> bits); c++) {
			if (metaset_has(&img->meta, c))
				return bad_free(img, c, "holds metadata", e);
			r = __rc_state(img, c, &state, e);
			if (r < 0)
				return r;
			if (state == RC_FREE)
				return bad_free(img, c, "is free already", e);
			if (state == RC_MANY)
				return bad_free(img, c, "is referenced more than once", e);
		}
	}
	return 0;
}

/* A sorted copy of what the caller gave, checked as far as numbers go. */
static int copy_list(struct qcow2 *img, const struct qcow2_range *v, size_t n,
		     struct ranges *ret, struct err *e)
{
	uint64_t mask = img->cluster_size - 1;
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		if ((v[i].off | v[i].len) & mask || !img_in_file(img, v[i].off, v[i].len))
			return img_err(img->io, e, EINVAL,
				       "can not free %llu bytes at %#llx: not whole clusters of it",
				       (unsigned long long)v[i].len,
				       (unsigned long long)v[i].off);
		r = ranges_add(ret, v[i].off, v[i].len, e);
	}
	if (r == 0 && ranges_sort(ret, false) < 0)
		return img_err(img->io, e, EINVAL, "can not free: two of the ranges overlap");
	return r;
}

/*
 * Cuts a file whose end is what has just been freed (@list, sorted), and no
 * further: what lies before may be in use, whatever a damaged refcount says.
 */
static int __cut_end(struct qcow2 *img, const struct ranges *list, struct err *e)
{
	uint64_t end = img->end * img->cluster_size;
	int r;

	if (img->io->capacity)
		return 0;
	for (size_t i = list->n; i-- > 0 && list->v[i].off + list->v[i].len == end;)
		end = list->v[i].off;
	if (end == img->end * img->cluster_size)
		return 0;
	r = img->io->truncate(img->io, end, e);
	if (r < 0)
		return r;
	img->end = end / img->cluster_size;
	img->file_size = end;
	if (img->cursor > img->end)
		img->cursor = img->end;
	return 0;
}

/* Space that was allocated ahead of its use does not stay with the file. */
static void __discard(struct qcow2 *img, const struct ranges *list)
{
	for (size_t i = 0; i < list->n && img->io->discard; i++)
		img->io->discard(img->io, list->v[i].off, list->v[i].len);
}

static int __set_free(struct qcow2 *img, const struct ranges *list, struct err *e)
{
	unsigned int bits = img->hdr.cluster_bits;
	int r = 0;

	for (size_t i = 0; i < list->n && r == 0; i++)
		r = __rc_set(img, list->v[i].off >> bits, list->v[i].len >> bits, 0, e);
	if (r == 0)
		r = __rc_commit(img, e);
	if (r < 0)
		img->failed = true;
	return r;
}

int __free_clusters(struct qcow2 *img, const struct qcow2_range *v, size_t n, unsigned int flags,
		    struct err *e)
{
	_cleanup_ranges_ struct ranges list = { 0 };
	int r = copy_list(img, v, n, &list, e);

	if (r < 0 || !list.n)
		return r;
	r = __check_free(img, &list, e);
	if (r == 0)
		r = __set_free(img, &list, e);
	if (r < 0)
		return r;
	__discard(img, &list);
	__freed(img, list.v[0].off >> img->hdr.cluster_bits);
	return flags & QCOW2_KEEP_SIZE ? 0 : __cut_end(img, &list, e);
}

int qcow2_free_clusters(struct qcow2 *img, const struct qcow2_range *ranges, size_t n,
			unsigned int flags, struct err *e)
{
	int r;

	pthread_mutex_lock(&img->lock);
	r = __change_begin(img, e);
	if (r == 0)
		r = __free_clusters(img, ranges, n, flags, e);
	pthread_mutex_unlock(&img->lock);
	return r;
}
