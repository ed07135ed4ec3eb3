// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Walks every reference that an image's metadata makes to its clusters. What
 * reclaim and check know about the image they know from here.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct walk {
	struct qcow2 *img;
	const struct ref_walk *w;
	struct err *e;
};

static __attribute__((format(printf, 2, 3))) int bad(struct walk *w, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return w->w->bad(w->w->opaque, text, w->e);
}

static int refer(struct walk *w, enum ref_kind kind, uint64_t off, uint64_t len)
{
	struct ref ref = { .kind = kind, .off = off, .len = len };

	return len ? w->w->ref(w->w->opaque, &ref, w->e) : 0;
}

/* A metadata cluster or table named by an entry: aligned, inside the file. */
static bool sane(struct walk *w, uint64_t off, uint64_t len)
{
	return off && !(off & (w->img->cluster_size - 1)) && off < w->img->file_size &&
	       img_in_file(w->img, off, len);
}

/* ---- L1 and L2 --------------------------------------------------------------------- */

static int walk_entry(struct walk *w, uint64_t raw, uint64_t guest, bool active)
{
	struct l2_entry x;
	const char *why = l2_parse(w->img, raw, &x);
	struct ref ref = { .kind = REF_DATA, .has_copied = active, .copied = x.copied };

	if (why)
		return bad(w, "the cluster of guest offset %llu %s", (unsigned long long)guest, why);
	if (!x.off)
		return 0;
	ref.off = x.off;
	ref.len = x.len;
	if (x.compressed) {
		ref.kind = REF_COMPRESSED;
		ref.has_copied = false;
	}
	return w->w->ref(w->w->opaque, &ref, w->e);
}

static int walk_l2(struct walk *w, uint64_t table, uint64_t guest, bool active)
{
	struct qcow2 *img = w->img;
	size_t n = 1ull << img->l2_bits;
	_cleanup_free_ uint64_t *raw = buf_new(img->cluster_size, w->e);
	int r;

	if (!raw)
		return -ENOMEM;
	r = table_read(img, table, 0, n, raw, w->e);
	for (size_t i = 0; i < n && r == 0; i++)
		if (raw[i])
			r = walk_entry(w, raw[i], guest + i * img->cluster_size, active);
	return r;
}

static int walk_l1(struct walk *w, const uint64_t *l1, uint64_t n, bool active)
{
	struct qcow2 *img = w->img;
	int r = 0;

	for (uint64_t i = 0; i < n && r == 0; i++) {
		struct ref ref = {
			.kind = REF_L2,
			.off = l1[i] & ENTRY_OFFSET,
			.len = img->cluster_size,
			.has_copied = active,
			.copied = l1[i] & ENTRY_COPIED,
		};

		if (!l1[i])
			continue;
		if (l1[i] & L1_RESERVED || !sane(w, ref.off, ref.len)) {
			r = bad(w, "L1 entry %llu (%#llx) is damaged", (unsigned long long)i,
				(unsigned long long)l1[i]);
			continue;
		}
		r = w->w->ref(w->w->opaque, &ref, w->e);
		if (r == 0)
			r = walk_l2(w, ref.off, i * region_size(img), active);
	}
	return r;
}

/* ---- internal snapshots ---------------------------------------------------------------- */

static int walk_snapshot_l1(struct walk *w, unsigned int nr, uint64_t off, uint32_t entries)
{
	_cleanup_free_ uint64_t *l1 = NULL;
	uint64_t bytes = entries * 8ull;
	int r;

	if (!entries)
		return 0;
	if (bytes > MAX_L1_BYTES || !sane(w, off, bytes))
		return bad(w, "the L1 table of snapshot %u is damaged", nr);
	r = refer(w, REF_L1, off, bytes);
	if (r < 0)
		return r;
	l1 = buf_new(bytes, w->e);
	if (!l1)
		return -ENOMEM;
	r = table_read(w->img, off, 0, entries, l1, w->e);
	return r < 0 ? r : walk_l1(w, l1, entries, false);
}

static int walk_snapshots(struct walk *w)
{
	const struct header *h = &w->img->hdr;
	uint64_t pos = h->snapshots_off, len;
	uint8_t head[40];
	int r = 0;

	for (uint32_t i = 0; i < h->nb_snapshots && r == 0; i++) {
		if (!img_in_file(w->img, pos, sizeof(head)))
			return bad(w, "the snapshot table is not inside the file");
		r = w->img->io->pread(w->img->io, head, sizeof(head), pos, w->e);
		if (r < 0)
			return r;
		len = sizeof(head) + (uint64_t)get32(head + 36) + get16(head + 12) + get16(head + 14);
		if (get32(head + 36) > MAX_SNAPSHOT_EXTRA)
			return bad(w, "snapshot %u is damaged", i);
		pos += round_up_to(len, 8);
		if (pos - h->snapshots_off > MAX_SNAPSHOT_TABLE || !img_in_file(w->img, pos, 0))
			return bad(w, "the snapshot table is too large");
		r = walk_snapshot_l1(w, i, get64(head), get32(head + 8));
	}
	return r ? r : refer(w, REF_SNAPSHOTS, h->snapshots_off, pos - h->snapshots_off);
}

/* ---- bitmaps ------------------------------------------------------------------------------- */

static int walk_bitmap_table(struct walk *w, uint64_t off, uint32_t entries)
{
	uint64_t slice[512];
	int r = 0;

	if (!entries)
		return 0;
	if (entries > MAX_BITMAP_TABLE || !sane(w, off, entries * 8ull))
		return bad(w, "a bitmap's table is damaged");
	r = refer(w, REF_BITMAPS, off, entries * 8ull);
	for (uint32_t i = 0; i < entries && r == 0; i += 512) {
		size_t n = entries - i < 512 ? entries - i : 512;

		r = table_read(w->img, off, i, n, slice, w->e);
		for (size_t k = 0; k < n && r == 0; k++) {
			uint64_t data = slice[k] & ENTRY_OFFSET;

			if (slice[k] & BITMAP_RESERVED || (data && !sane(w, data, 1)))
				r = bad(w, "a bitmap's table has a damaged entry");
			else if (data)
				r = refer(w, REF_BITMAPS, data, w->img->cluster_size);
		}
	}
	return r;
}

static int walk_bitmaps(struct walk *w)
{
	const struct header *h = &w->img->hdr;
	_cleanup_free_ uint8_t *dir = NULL;
	uint64_t pos = 0, len;
	int r;

	if (!h->has_bitmaps || !(h->autoclear & AUTOCLEAR_BITMAPS))
		return 0;
	if (!sane(w, h->bitmap_dir_off, h->bitmap_dir_len))
		return bad(w, "the bitmap directory is damaged");
	r = refer(w, REF_BITMAPS, h->bitmap_dir_off, h->bitmap_dir_len);
	if (r < 0)
		return r;
	dir = buf_new(h->bitmap_dir_len, w->e);
	if (!dir)
		return -ENOMEM;
	r = w->img->io->pread(w->img->io, dir, h->bitmap_dir_len, h->bitmap_dir_off, w->e);
	for (uint32_t i = 0; i < h->nb_bitmaps && r == 0; i++) {
		const uint8_t *p = dir + pos;

		if (h->bitmap_dir_len - pos < 24)
			return bad(w, "the bitmap directory is too short");
		len = round_up_to(24ull + get16(p + 18) + get32(p + 20), 8);
		if (len > h->bitmap_dir_len - pos)
			return bad(w, "the bitmap directory is too short");
		r = walk_bitmap_table(w, get64(p), get32(p + 8));
		pos += len;
	}
	return r;
}

/* ---- all ------------------------------------------------------------------------------------- */

static int walk_refcounts(struct walk *w)
{
	struct qcow2 *img = w->img;
	int r = refer(w, REF_REFTABLE, img->hdr.rt_off,
		      (uint64_t)img->hdr.rt_clusters << img->hdr.cluster_bits);

	for (uint64_t i = 0; i < img->rc.entries && r == 0; i++)
		if (img->rc.table[i])
			r = refer(w, REF_REFBLOCK, img->rc.table[i], img->cluster_size);
	return r;
}

int refs_walk(struct qcow2 *img, const struct ref_walk *rw, struct err *e)
{
	struct walk w = { .img = img, .w = rw, .e = e };
	int r = refer(&w, REF_HEADER, 0, img->cluster_size);

	if (r == 0)
		r = refer(&w, REF_L1, img->hdr.l1_off, img->hdr.l1_size * 8ull);
	if (r == 0)
		r = walk_refcounts(&w);
	if (r == 0)
		r = walk_l1(&w, img->l1, img->hdr.l1_size, true);
	if (r == 0)
		r = walk_snapshots(&w);
	if (r == 0)
		r = walk_bitmaps(&w);
	return r;
}
