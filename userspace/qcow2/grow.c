// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A larger disk in an image: more L1 entries, where their clusters have no room a new table, and the
 * size; the last two change with one sector of the header.
 *
 * Steps, each durable before the next; a crash in between leaks clusters at most:
 *   1. what lies behind the old end in its cluster becomes zeros
 *   2. where a longer backing file would be seen, L2 entries that say zeros (hide.c)
 *   3. the new entries, or the new table, with its refcounts
 *   4. the header
 *   5. the old table is given back
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct grow {
	struct qcow2 *img;
	struct err *e;
	uint64_t size;
	struct hide hide; /* of a backing file */
	uint32_t entries;
	uint64_t l1_off;	/* of the table from then on */
	struct alloc_plan plan; /* empty: it stays where it is */
};

static uint64_t l1_clusters(const struct qcow2 *img, uint64_t entries)
{
	return DIV_ROUND_UP(entries * 8, img->cluster_size);
}

static int check_size(struct grow *g)
{
	struct qcow2 *img = g->img;
	uint64_t entries = DIV_ROUND_UP(g->size, region_size(img));

	if (g->size % 512)
		return img_err(img->io, g->e, EINVAL, "a size of %llu bytes is not a multiple of 512",
			       (unsigned long long)g->size);
	if (g->size < img->hdr.size)
		return img_err(img->io, g->e, EINVAL, "it can't be made smaller");
	if (g->size > INT64_MAX || entries * 8 > MAX_L1_BYTES)
		return img_err(img->io, g->e, EFBIG,
			       "%llu bytes are too large for its clusters of %llu bytes",
			       (unsigned long long)g->size, (unsigned long long)img->cluster_size);
	g->entries = entries > img->hdr.l1_size ? entries : img->hdr.l1_size;
	return 0;
}

/* Where the old end lies amid a cluster: what is behind it was never anybody's. */
static int __zero_tail(struct grow *g)
{
	struct qcow2 *img = g->img;
	uint64_t end = img->hdr.size, in = end & (img->cluster_size - 1);
	uint64_t table = in ? img->l1[end / region_size(img)] & ENTRY_OFFSET : 0, raw;
	struct l2_entry entry;
	int r;

	if (!table)
		return 0;
	r = table_read(img, table, end / img->cluster_size & ((1ull << img->l2_bits) - 1), 1, &raw,
		       g->e);
	if (r < 0)
		return r;
	if (l2_parse(img, raw, &entry))
		return img_err(img->io, g->e, EUCLEAN, "its last cluster can't be read; " CHECK_HINT);
	if (entry.compressed)
		return img_err(img->io, g->e, EOPNOTSUPP,
			       "its last cluster is compressed, and the new size begins amid it");
	if (entry.kind != QCOW2_DATA)
		return 0;
	return img->io->zero(img->io, entry.off + in, img->cluster_size - in, g->e);
}

/* The whole table, in memory and as the image has it. */
static int __new_table(struct grow *g, uint64_t **ret)
{
	struct qcow2 *img = g->img;
	size_t bytes = l1_clusters(img, g->entries) * img->cluster_size;
	_cleanup_free_ uint64_t *disk = buf_new(bytes ? bytes : 8, g->e);
	uint64_t *mem = buf_new(bytes ? bytes : 8, g->e);
	int r;

	if (!disk || !mem) {
		free(mem);
		return -ENOMEM;
	}
	memcpy(mem, img->l1, img->hdr.l1_size * 8ull);
	hide_fill_l1(img, &g->hide, mem);
	for (uint32_t i = 0; i < g->entries; i++)
		disk[i] = htobe64(mem[i]);
	r = img->io->pwrite(img->io, disk, bytes, g->l1_off, g->e);
	if (r < 0)
		free(mem);
	else
		*ret = mem;
	return r;
}

static int __place(struct grow *g)
{
	struct qcow2 *img = g->img;
	uint64_t n = l1_clusters(img, g->entries);
	int r;

	g->l1_off = img->hdr.l1_off;
	if (n == l1_clusters(img, img->hdr.l1_size))
		return img->io->allocate(img->io, g->l1_off, n * img->cluster_size, g->e);
	r = __plan_make(img, n, n, 0, &g->plan, g->e);
	if (r == 0)
		r = __plan_reserve(img, &g->plan, false, g->e);
	if (r == 0)
		r = __plan_commit(img, &g->plan, g->e);
	if (r == 0)
		g->l1_off = g->plan.data.v[0].off;
	return r;
}

static int write_header(struct grow *g)
{
	uint8_t buf[H_REFTABLE_OFFSET - H_SIZE] = { 0 }; /* with "not encrypted" */
	struct qio *io = g->img->io;
	int r;

	put64(buf, g->size);
	put32(buf + (H_L1_SIZE - H_SIZE), g->entries);
	put64(buf + (H_L1_OFFSET - H_SIZE), g->l1_off);
	r = io->flush(io, g->e);
	if (r == 0)
		r = io->pwrite(io, buf, sizeof(buf), H_SIZE, g->e);
	return r < 0 ? r : io->flush(io, g->e);
}

/* Memory follows the image; the old table's clusters are free. */
static int __switch_over(struct grow *g, uint64_t *l1)
{
	struct qcow2 *img = g->img;
	struct qcow2_range old = {
		img->hdr.l1_off, l1_clusters(img, img->hdr.l1_size) * img->cluster_size,
	};
	unsigned int bits = img->hdr.cluster_bits;

	free(img->l1);
	img->l1 = l1;
	img->hdr.size = g->size;
	img->hdr.l1_size = g->entries;
	img->hdr.l1_off = g->l1_off;
	if (__hide_end(img, &g->hide) < 0)
		return err_set(g->e, ENOMEM, "out of memory");
	if (g->l1_off == old.off)
		return 0;
	if (metaset_add(&img->meta, g->l1_off >> bits, l1_clusters(img, g->entries)) < 0)
		return err_set(g->e, ENOMEM, "out of memory");
	metaset_del(&img->meta, old.off >> bits, old.len >> bits);
	return old.len ? __free_clusters(img, &old, 1, 0, g->e) : 0;
}

static int __grow(struct grow *g)
{
	struct qcow2 *img = g->img;
	uint64_t *l1 = NULL;
	int r = check_size(g);

	if (r < 0 || g->size == img->hdr.size)
		return r;
	r = __zero_tail(g);
	if (r == 0)
		r = __hide(img, &g->hide, g->e);
	if (r < 0)
		return r;
	r = __place(g);
	if (r < 0) {
		__hide_undo(img, &g->hide);
		return r;
	}
	r = __new_table(g, &l1);
	if (r == 0)
		r = write_header(g);
	if (r == 0)
		r = __switch_over(g, l1);
	else
		free(l1);
	if (r < 0)
		img->failed = true;
	return r;
}

int qcow2_grow(struct qcow2 *img, uint64_t size, uint64_t backing_size, struct err *e)
{
	struct grow g = { .img = img, .e = e, .size = size, .hide.end = backing_size };
	int r = size > img->hdr.size ? hide_begin(img, &g.hide, size, e) : 0;

	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	r = __change_begin(img, e);
	if (r == 0)
		r = __grow(&g);
	pthread_mutex_unlock(&img->lock);
	plan_done(&g.plan);
	plan_done(&g.hide.tables);
	return r;
}
