// SPDX-License-Identifier: GPL-2.0-or-later
/* Growing lists of byte ranges. */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

void ranges_done(struct ranges *r)
{
	free(r->v);
	*r = (struct ranges){ 0 };
}

int ranges_add(struct ranges *r, uint64_t off, uint64_t len, struct err *e)
{
	if (!len)
		return 0;
	if (r->n && r->v[r->n - 1].off + r->v[r->n - 1].len == off) {
		r->v[r->n - 1].len += len;
		r->bytes += len;
		return 0;
	}
	if (r->n == r->cap) {
		size_t cap = r->cap ? r->cap * 2 : 16;
		struct qcow2_range *v = reallocarray(r->v, cap, sizeof(*v));

		if (!v)
			return err_set(e, ENOMEM, "out of memory (list of %zu ranges)", cap);
		r->v = v;
		r->cap = cap;
	}
	r->v[r->n++] = (struct qcow2_range){ off, len };
	r->bytes += len;
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct qcow2_range *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

int ranges_sort(struct ranges *r, bool join)
{
	size_t out = 0;

	if (r->n < 2)
		return 0;
	qsort(r->v, r->n, sizeof(*r->v), by_offset);
	r->bytes = 0;
	for (size_t i = 1; i < r->n; i++) {
		struct qcow2_range *last = &r->v[out], *cur = &r->v[i];
		uint64_t last_end = last->off + last->len, cur_end = cur->off + cur->len;

		if (cur->off < last_end && !join)
			return -EEXIST;
		if (join && cur->off <= last_end) {
			if (cur_end > last_end)
				last->len = cur_end - last->off;
			continue;
		}
		r->v[++out] = *cur;
	}
	r->n = out + 1;
	for (size_t i = 0; i < r->n; i++)
		r->bytes += r->v[i].len;
	return 0;
}
