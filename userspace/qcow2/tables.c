// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * L2 tables, before the kernel gets them: each region has one, of its own.
 *
 * Steps, each durable before the next; a crash in between leaks clusters:
 *   1. space and refcounts of all the new tables; zeros or the copied content
 *   2. the L1 entries
 *   3. the refcounts of tables that have been replaced by a copy go down
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct prepare {
	struct qcow2 *img;
	struct err *e;
	uint64_t first, n;	  /* L1 entries */
	struct qcow2_table *tables; /* n */
	struct alloc_plan plan;
	uint64_t missing, shared;
};

/* What each region has now. */
static int __look(struct prepare *p)
{
	struct qcow2 *img = p->img;
	enum rc_state rc;
	int r;

	for (uint64_t i = 0; i < p->n; i++) {
		uint64_t off = img->l1[p->first + i] & ENTRY_OFFSET;

		p->tables[i].guest_off = (p->first + i) * region_size(img);
		p->tables[i].host_off = off;
		if (!off) {
			p->tables[i].fresh = true;
			p->missing++;
			continue;
		}
		r = __rc_state(img, off >> img->hdr.cluster_bits, &rc, p->e);
		if (r < 0)
			return r;
		if (rc == RC_FREE)
			return img_err(img->io, p->e, EUCLEAN,
				       "the L2 table at %#llx has refcount 0; " CHECK_HINT,
				       (unsigned long long)off);
		if (rc == RC_ONE)
			continue;
		p->tables[i].host_off = 0; /* a new one, too */
		p->shared++;
	}
	return 0;
}

/* Gives the new tables their places, in order. */
static void __place(struct prepare *p)
{
	const struct ranges *data = &p->plan.data;
	uint64_t used = 0;
	size_t k = 0;

	for (uint64_t i = 0; i < p->n; i++) {
		if (p->tables[i].host_off)
			continue;
		if (used == data->v[k].len) {
			k++;
			used = 0;
		}
		p->tables[i].host_off = data->v[k].off + used;
		used += p->img->cluster_size;
	}
}

/* The content of a shared table; what it points to is shared as well. */
static int copy_table(struct prepare *p, uint64_t from, uint64_t to)
{
	struct qcow2 *img = p->img;
	size_t n = 1ull << img->l2_bits;
	_cleanup_free_ uint64_t *raw = buf_new(img->cluster_size, p->e);
	int r;

	if (!raw)
		return -ENOMEM;
	r = table_read(img, from, 0, n, raw, p->e);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		raw[i] = htobe64(raw[i] & ~ENTRY_COPIED);
	return img->io->pwrite(img->io, raw, img->cluster_size, to, p->e);
}

/* Zeros (a file's fresh end has them) and copies, into clusters that nothing uses yet. */
static int __fill(struct prepare *p)
{
	struct qcow2 *img = p->img;
	int r = 0;

	for (size_t i = 0; i < p->plan.data.n && r == 0 && img->io->capacity; i++)
		r = img->io->zero(img->io, p->plan.data.v[i].off, p->plan.data.v[i].len, p->e);
	for (uint64_t i = 0; i < p->n && r == 0; i++) {
		uint64_t old = img->l1[p->first + i] & ENTRY_OFFSET;

		if (old && old != p->tables[i].host_off)
			r = copy_table(p, old, p->tables[i].host_off);
	}
	return r;
}

/* Writes the entries from the first to the last that is new, then flushes. */
static int __write_l1(struct prepare *p)
{
	struct qcow2 *img = p->img;
	uint64_t lo = (p->first) & ~511ull, hi = round_up_to(p->first + p->n, 512);
	_cleanup_free_ uint64_t *buf = buf_new((hi - lo) * 8, p->e);
	int r;

	if (!buf)
		return -ENOMEM;
	/* Whole 4 KiB units; behind the table's end its last cluster is zeros. */
	for (uint64_t i = lo; i < hi && i < img->hdr.l1_size; i++)
		buf[i - lo] = htobe64(img->l1[i]);
	for (uint64_t i = 0; i < p->n; i++)
		if ((img->l1[p->first + i] & ENTRY_OFFSET) != p->tables[i].host_off)
			buf[p->first + i - lo] = htobe64(p->tables[i].host_off | ENTRY_COPIED);
	r = img->io->pwrite(img->io, buf, (hi - lo) * 8, img->hdr.l1_off + lo * 8, p->e);
	return r < 0 ? r : img->io->flush(img->io, p->e);
}

/* Memory follows the image; replaced tables lose one reference. */
static int __switch_over(struct prepare *p)
{
	struct qcow2 *img = p->img;
	unsigned int bits = img->hdr.cluster_bits;
	int r = 0;

	for (uint64_t i = 0; i < p->n && r == 0; i++) {
		uint64_t *l1 = &img->l1[p->first + i], old = *l1 & ENTRY_OFFSET, rc;

		if (old == p->tables[i].host_off)
			continue;
		*l1 = p->tables[i].host_off | ENTRY_COPIED;
		if (metaset_add(&img->meta, p->tables[i].host_off >> bits, 1) < 0)
			return err_set(p->e, ENOMEM, "out of memory");
		if (!old)
			continue;
		r = __rc_get(img, old >> bits, &rc, p->e);
		if (r == 0)
			r = __rc_set(img, old >> bits, 1, rc - 1, p->e);
	}
	if (r == 0 && p->shared)
		r = __rc_commit(img, p->e);
	return r;
}

static int __prepare(struct prepare *p)
{
	struct qcow2 *img = p->img;
	bool fresh = !img->io->capacity;
	uint64_t n;
	int r = __look(p);

	n = p->missing + p->shared;
	if (r < 0 || !n)
		return r;
	r = __plan_make(img, n, 0, fresh ? PLAN_FRESH : 0, &p->plan, p->e);
	if (r == 0)
		r = img->io->allocate(img->io, img->hdr.l1_off + p->first * 8, p->n * 8, p->e);
	if (r == 0)
		r = __plan_reserve(img, &p->plan, fresh, p->e);
	if (r < 0)
		return r;
	__place(p);
	r = __fill(p);
	if (r < 0) {
		/* What lies behind the end must read as zeros again. */
		if (fresh && img->io->truncate(img->io, p->plan.old_size, NULL) < 0)
			img->failed = true;
		if (fresh)
			img->file_size = p->plan.old_size;
		return r;
	}
	r = __plan_commit(img, &p->plan, p->e);
	if (r < 0)
		return r;
	r = __write_l1(p);
	if (r == 0)
		r = __switch_over(p);
	if (r < 0)
		img->failed = true;
	return r;
}

int qcow2_prepare_tables(struct qcow2 *img, uint64_t guest_off, uint64_t len,
			 struct qcow2_table **ret, size_t *ret_n, struct err *e)
{
	uint64_t size = img->hdr.size, end;
	struct prepare p = { .img = img, .e = e, .first = guest_off / region_size(img) };
	int r;

	if (!len || guest_off >= size)
		return img_err(img->io, e, EINVAL,
			       "there is nothing at guest offset %llu: its size is %llu",
			       (unsigned long long)guest_off, (unsigned long long)size);
	end = len < size - guest_off ? guest_off + len : size;
	p.n = (end - 1) / region_size(img) - p.first + 1;
	p.tables = calloc(p.n, sizeof(*p.tables));
	if (!p.tables)
		return err_set(e, ENOMEM, "out of memory");
	pthread_mutex_lock(&img->lock);
	r = __change_begin(img, e);
	if (r == 0)
		r = __prepare(&p);
	pthread_mutex_unlock(&img->lock);
	plan_done(&p.plan);
	if (r < 0) {
		free(p.tables);
		return r;
	}
	*ret = p.tables;
	*ret_n = p.n;
	return 0;
}
