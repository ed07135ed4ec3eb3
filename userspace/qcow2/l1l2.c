// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reading the map. The L1 table is in memory since open; L2 tables are read
 * each time, without the lock: what L1 points to is never moved by
 * someone else, and a table that qcow2_prepare_tables() replaces by a copy has the
 * same content (and is still a snapshot's).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Entries of an L2 table that are read at once. */
#define SLICE 4096u

/* ---- L1 ---------------------------------------------------------------------- */

/* A range of host clusters becomes metadata; two uses of one cluster are damage. */
static int claim(struct qcow2 *img, const char *what, uint64_t off, uint64_t bytes, struct err *e)
{
	int r = metaset_add(&img->meta, off / img->cluster_size,
			    DIV_ROUND_UP(bytes, img->cluster_size));

	if (r == -EEXIST)
		return img_err(img->io, e, EUCLEAN,
			       "the %s at %#llx overlaps other metadata; " CHECK_HINT, what,
			       (unsigned long long)off);
	return r < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
}

static int check_l1_entry(struct qcow2 *img, uint64_t i, struct err *e)
{
	uint64_t raw = img->l1[i], off = raw & ENTRY_OFFSET;
	unsigned long long guest = i * region_size(img);
	char what[64];

	if (!raw)
		return 0;
	if (raw & L1_RESERVED)
		return img_err(img->io, e, EUCLEAN,
			       "the L1 entry of guest offset %llu is damaged (%#llx); " CHECK_HINT,
			       guest, (unsigned long long)raw);
	if (!off && (raw & ENTRY_COPIED))
		return img_err(img->io, e, EUCLEAN,
			       "the L1 entry of guest offset %llu has no table; " CHECK_HINT,
			       guest);
	if (off & (img->cluster_size - 1) || off >= img->file_size ||
	    !img_in_file(img, off, img->cluster_size))
		return img_err(img->io, e, EUCLEAN,
			       "the L2 table of guest offset %llu (at %#llx) is not on a cluster "
			       "inside the file; " CHECK_HINT,
			       guest, (unsigned long long)off);
	snprintf(what, sizeof(what), "L2 table of guest offset %llu", guest);
	return claim(img, what, off, img->cluster_size, e);
}

int l1_load(struct qcow2 *img, struct err *e)
{
	const struct header *h = &img->hdr;
	size_t bytes = h->l1_size * 8ull;
	int r = claim(img, "header", 0, img->cluster_size, e);

	if (r == 0)
		r = claim(img, "L1 table", h->l1_off, bytes, e);
	if (r == 0)
		r = claim(img, "refcount table", h->rt_off,
			  (uint64_t)h->rt_clusters << h->cluster_bits, e);
	if (r < 0)
		return r;
	img->l1 = buf_new(bytes ? bytes : 8, e);
	if (!img->l1)
		return -ENOMEM;
	r = img->io->pread(img->io, img->l1, round_up_to(bytes, 4096), h->l1_off, e);
	for (uint64_t i = 0; r == 0 && i < h->l1_size; i++) {
		img->l1[i] = be64toh(img->l1[i]);
		r = check_l1_entry(img, i, e);
	}
	return r;
}

/* ---- L2 ------------------------------------------------------------------------ */

int table_read(struct qcow2 *img, uint64_t off, uint64_t first, size_t n, uint64_t *ret,
	       struct err *e)
{
	int r = img->io->pread(img->io, ret, n * 8, off + first * 8, e);

	for (size_t i = 0; r == 0 && i < n; i++)
		ret[i] = be64toh(ret[i]);
	return r;
}

static const char *parse_compressed(const struct qcow2 *img, uint64_t raw, struct l2_entry *ret)
{
	unsigned int x = 62 - (img->hdr.cluster_bits - 8);
	uint64_t sectors;

	ret->kind = QCOW2_DATA;
	ret->compressed = true;
	ret->off = raw & ((1ull << x) - 1);
	sectors = ((raw & (L2_COMPRESSED - 1)) >> x) + 1;
	ret->len = sectors * 512 - (ret->off & 511);
	if (raw & ENTRY_COPIED)
		return "is compressed and says that it may be overwritten";
	if (!img_in_file(img, ret->off, ret->len))
		return "is compressed and not inside the file";
	return NULL;
}

const char *l2_parse(const struct qcow2 *img, uint64_t raw, struct l2_entry *ret)
{
	bool zero = (raw & L2_ZERO) && img->hdr.version >= 3;

	*ret = (struct l2_entry){ .copied = raw & ENTRY_COPIED };
	if (raw & L2_COMPRESSED)
		return parse_compressed(img, raw, ret);
	if (raw & (L2_RESERVED | (zero ? 0 : L2_ZERO)))
		return "has reserved bits set";
	ret->off = raw & ENTRY_OFFSET;
	if (!ret->off) {
		ret->kind = zero ? QCOW2_ZERO_PLAIN : QCOW2_UNALLOCATED;
		ret->copied = false;
		return NULL;
	}
	ret->kind = zero ? QCOW2_ZERO_ALLOC : QCOW2_DATA;
	ret->len = img->cluster_size;
	if (ret->off & (img->cluster_size - 1))
		return "is not on a cluster";
	if (ret->off >= img->file_size || !img_in_file(img, ret->off, ret->len))
		return "is not inside the file";
	return NULL;
}

/* ---- runs ------------------------------------------------------------------------- */

struct mapper {
	struct qcow2 *img;
	qcow2_run_fn fn;
	void *opaque;
	struct err *e;
	struct qcow2_run run; /* not yet given to @fn */
	uint64_t table;	      /* the L2 table that is being read */
};

static int emit(struct mapper *m)
{
	int r = m->run.len ? m->fn(m->opaque, &m->run) : 0;

	m->run.len = 0;
	return r;
}

static bool joins(const struct qcow2_run *a, const struct qcow2_run *b)
{
	if (a->kind != b->kind)
		return false;
	if (a->kind == QCOW2_UNALLOCATED || a->kind == QCOW2_ZERO_PLAIN)
		return true;
	return a->copied == b->copied && a->host_off + a->len == b->host_off;
}

static int add_run(struct mapper *m, const struct qcow2_run *run)
{
	int r;

	if (m->run.len && joins(&m->run, run)) {
		m->run.len += run->len;
		return 0;
	}
	r = emit(m);
	m->run = *run;
	return r;
}

static int bad_entry(struct mapper *m, uint64_t guest, uint64_t host, const char *why)
{
	return img_err(m->img->io, m->e, EUCLEAN,
		       "the cluster of guest offset %llu (at %#llx) %s; " CHECK_HINT,
		       (unsigned long long)guest, (unsigned long long)host, why);
}

/* With the words that QEMU has for it. */
static int bad_offset(struct mapper *m, uint64_t guest, const struct l2_entry *x)
{
	unsigned int bits = m->img->hdr.cluster_bits;
	char why[160];

	snprintf(why, sizeof(why),
		 "is not on a cluster: %s offset %#llx unaligned (L2 offset: %#llx, L2 index: %#x)",
		 x->kind == QCOW2_ZERO_ALLOC ? "Preallocated zero cluster" : "Cluster allocation",
		 (unsigned long long)x->off, (unsigned long long)m->table,
		 (unsigned int)((guest >> bits) & ((1ull << m->img->l2_bits) - 1)));
	return bad_entry(m, guest, x->off, why);
}

/* A cluster that holds guest data: no metadata, and refcounts agree. */
static int __check_owner(struct mapper *m, uint64_t guest, const struct l2_entry *x)
{
	struct qcow2 *img = m->img;
	uint64_t cluster = x->off >> img->hdr.cluster_bits;
	enum rc_state rc;
	int r;

	if (metaset_has(&img->meta, cluster))
		return bad_entry(m, guest, x->off, "overlaps metadata");
	if (!img->writable)
		return 0;
	r = __rc_state(img, cluster, &rc, m->e);
	if (r < 0)
		return r;
	if (rc == RC_FREE)
		return bad_entry(m, guest, x->off, "is in use but has refcount 0");
	if (x->copied && rc != RC_ONE)
		return bad_entry(m, guest, x->off, "is shared but its entry says that it is not");
	return 0;
}

static int __take_entry(struct mapper *m, uint64_t raw, uint64_t guest, struct l2_entry *x)
{
	const char *why = l2_parse(m->img, raw, x);

	if (why && !x->compressed && x->off & (m->img->cluster_size - 1))
		return bad_offset(m, guest, x);
	if (why)
		return bad_entry(m, guest, x->off, why);
	if (x->compressed)
		return img_err(m->img->io, m->e, EOPNOTSUPP,
			       "the cluster of guest offset %llu is compressed, which is not "
			       "supported; convert the image with qemu-img convert (without -c)",
			       (unsigned long long)guest);
	return x->off ? __check_owner(m, guest, x) : 0;
}

/* Entries of one slice for [pos, end), which begin at @raw. */
static int map_slice(struct mapper *m, uint64_t *raw, size_t n, uint64_t pos, uint64_t end)
{
	struct qcow2 *img = m->img;
	struct l2_entry *x = calloc(n, sizeof(*x));
	_cleanup_free_ void *to_free = x;
	size_t good;
	int r = 0, bad = 0;

	if (!x)
		return err_set(m->e, ENOMEM, "out of memory");
	pthread_mutex_lock(&img->lock);
	for (good = 0; good < n && !bad; good += !bad)
		bad = __take_entry(m, raw[good],
				   (pos & ~(img->cluster_size - 1)) + good * img->cluster_size,
				   &x[good]);
	pthread_mutex_unlock(&img->lock);
	for (size_t i = 0; i < good && r == 0; i++) {
		uint64_t skip = pos & (img->cluster_size - 1);
		uint64_t len = img->cluster_size - skip;
		struct qcow2_run run = { .guest_off = pos, .kind = x[i].kind };

		run.len = len < end - pos ? len : end - pos;
		run.copied = x[i].copied;
		run.host_off = x[i].off ? x[i].off + skip : 0;
		r = add_run(m, &run);
		pos += run.len;
	}
	return r ? r : bad;
}

/* [pos, end) inside one region whose L2 table is at @table. */
static int map_table(struct mapper *m, uint64_t table, uint64_t pos, uint64_t end)
{
	struct qcow2 *img = m->img;
	unsigned int bits = img->hdr.cluster_bits;
	_cleanup_free_ uint64_t *raw = buf_new(SLICE * 8, m->e);
	int r = 0;

	if (!raw)
		return -ENOMEM;
	m->table = table;
	while (pos < end && r == 0) {
		uint64_t i = (pos >> bits) & ((1ull << img->l2_bits) - 1);
		uint64_t base = i & ~(uint64_t)511; /* read whole 4 KiB units */
		uint64_t last = i + (((end - 1) >> bits) - (pos >> bits));
		size_t n = last - base + 1 < SLICE ? last - base + 1 : SLICE;
		uint64_t stop = ((pos >> bits) + (n - (i - base))) << bits;

		stop = stop < end ? stop : end;
		r = table_read(img, table, base, n, raw, m->e);
		if (r == 0)
			r = map_slice(m, raw + (i - base), n - (i - base), pos, stop);
		pos = stop;
	}
	return r;
}

/* The L2 table of the region at @pos, and how far L1 says the same. */
static uint64_t next_region(struct qcow2 *img, uint64_t pos, uint64_t end, uint64_t *ret_end)
{
	uint64_t region = region_size(img), i = pos / region, table;

	pthread_mutex_lock(&img->lock);
	table = img->l1[i] & ENTRY_OFFSET;
	do
		i++;
	while (!table && i < img->hdr.l1_size && i * region < end && !img->l1[i]);
	pthread_mutex_unlock(&img->lock);
	*ret_end = i * region < end ? i * region : end;
	return table;
}

int qcow2_map(struct qcow2 *img, uint64_t guest_off, uint64_t len, qcow2_run_fn fn, void *opaque,
	      struct err *e)
{
	struct mapper m = { .img = img, .fn = fn, .opaque = opaque, .e = e };
	uint64_t size = img->hdr.size, end, stop;
	int r = 0;

	if (guest_off >= size)
		return 0;
	end = len < size - guest_off ? guest_off + len : size;
	for (uint64_t pos = guest_off; pos < end && r == 0; pos = stop) {
		uint64_t table = next_region(img, pos, end, &stop);
		struct qcow2_run hole = { pos, stop - pos, QCOW2_UNALLOCATED, false, 0 };

		r = table ? map_table(&m, table, pos, stop) : add_run(&m, &hole);
	}
	if (r >= 0)
		return r ? r : emit(&m);
	return emit(&m) ? r : r; /* what lies before the damage is given out, too */
}

struct run_array {
	struct qcow2_run *v;
	size_t n, cap, max;
};

#define ARRAY_FULL 1

static int array_add(void *opaque, const struct qcow2_run *run)
{
	struct run_array *a = opaque;

	if (a->max && a->n == a->max)
		return ARRAY_FULL;
	if (a->n == a->cap) {
		size_t cap = a->cap ? a->cap * 2 : 64;
		struct qcow2_run *v = reallocarray(a->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		a->v = v;
		a->cap = cap;
	}
	a->v[a->n++] = *run;
	return 0;
}

int qcow2_map_array(struct qcow2 *img, uint64_t guest_off, uint64_t len, size_t max_runs,
		    struct qcow2_run **ret_runs, size_t *ret_n, uint64_t *ret_end, struct err *e)
{
	struct run_array a = { .max = max_runs };
	int r = qcow2_map(img, guest_off, len, array_add, &a, e);

	if (r < 0) {
		free(a.v);
		return r == -ENOMEM ? err_set(e, ENOMEM, "out of memory") : r;
	}
	*ret_end = a.n ? a.v[a.n - 1].guest_off + a.v[a.n - 1].len : guest_off;
	*ret_n = a.n;
	*ret_runs = a.v;
	return 0;
}
