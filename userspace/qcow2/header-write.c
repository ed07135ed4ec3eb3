// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writing the header. It is in the first cluster, and so are all its extensions
 * and the backing file's name. Another backing file comes with one sector (I17), where the header
 * has room for that; else one write replaces it all. What we do not know
 * (fields behind ours, extensions) is kept as it is.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

int __header_set_reftable(struct qcow2 *img, uint64_t off, uint32_t clusters, struct err *e)
{
	uint8_t buf[12];
	int r;

	put64(buf, off);
	put32(buf + 8, clusters);
	r = img->io->pwrite(img->io, buf, sizeof(buf), H_REFTABLE_OFFSET, e);
	if (r < 0)
		return r;
	img->hdr.rt_off = off;
	img->hdr.rt_clusters = clusters;
	return 0;
}

/* The size of a file up to a whole cluster, so that the last one is all there. */
static int fill_last_cluster(struct qcow2 *img, struct err *e)
{
	uint64_t size = round_up_to(img->file_size, img->cluster_size);
	int r;

	if (img->io->capacity || size == img->file_size)
		return 0;
	r = img->io->truncate(img->io, size, e);
	if (r < 0)
		return r;
	img->file_size = size;
	return 0;
}

int __begin_write(struct qcow2 *img, struct err *e)
{
	uint8_t buf[8] = { 0 };
	int r;

	if (img->begun)
		return 0;
	r = fill_last_cluster(img, e);
	if (r < 0)
		return r;
	if (img->hdr.autoclear) {
		r = img->io->pwrite(img->io, buf, sizeof(buf), H_AUTOCLEAR, e);
		if (r == 0)
			r = img->io->flush(img->io, e);
		if (r < 0)
			return r;
		img->hdr.autoclear = 0;
	}
	img->begun = true;
	return 0;
}

struct writer {
	uint8_t *buf;
	size_t pos, size;
	bool full;
};

static void put_bytes(struct writer *w, const void *p, size_t len)
{
	if (w->full || len > w->size - w->pos) {
		w->full = true;
		return;
	}
	if (len)
		memcpy(w->buf + w->pos, p, len);
	w->pos += len;
}

static void put_ext(struct writer *w, uint32_t magic, const void *p, uint32_t len)
{
	static const uint8_t pad[8];
	uint8_t head[8];

	put32(head, magic);
	put32(head + 4, len);
	put_bytes(w, head, sizeof(head));
	put_bytes(w, p, len);
	put_bytes(w, pad, round_up_to(len, 8) - len);
}

/* End of extensions, then the name; sets the fields that point to it. */
static void put_backing(struct writer *w, const char *file)
{
	size_t len = file ? strlen(file) : 0;

	put_ext(w, EXT_END, "", 0);
	put64(w->buf + H_BACKING_OFFSET, len ? w->pos : 0);
	put32(w->buf + H_BACKING_SIZE, len);
	put_bytes(w, file, len);
}

/* All extensions of @raw but those that are written anew. */
static void copy_extensions(struct writer *w, const uint8_t *raw, size_t pos, size_t end)
{
	while (end - pos >= 8) {
		uint32_t magic = get32(raw + pos), len = get32(raw + pos + 4);

		pos += 8;
		if (magic == EXT_END || len > end - pos)
			return;
		if (magic != EXT_BACKING_FORMAT && magic != EXT_INVALID)
			put_ext(w, magic, raw + pos, len);
		pos += round_up_to(len, 8);
		if (pos > end)
			return;
	}
}

static int check_backing_args(const struct qio *io, const char *file, const char *format,
			      struct err *e)
{
	if (file && !*file)
		return img_err(io, e, EINVAL, "the backing file's name is empty");
	if (file && strlen(file) > MAX_BACKING_NAME)
		return img_err(io, e, EINVAL, "the backing file's name is longer than %u bytes",
			       MAX_BACKING_NAME);
	if (file && (!format || !*format))
		return img_err(io, e, EINVAL, "a backing file needs its format named");
	if (format && strlen(format) > MAX_BACKING_FORMAT)
		return img_err(io, e, EINVAL, "backing format '%s' is not known", format);
	return 0;
}

static int too_large(const struct qio *io, struct err *e)
{
	return img_err(io, e, ENOSPC,
		       "header, extensions and backing file's name do not fit its first cluster; "
		       "use a shorter name");
}

/* Into @buf, a zeroed cluster, what the header @raw becomes with these words (NULL: without). */
static int rebuild(struct qcow2 *img, const uint8_t *raw, uint8_t *buf, const char *file,
		   const char *format, const char *invalid, struct err *e)
{
	struct writer w = { .buf = buf, .size = img->cluster_size };

	put_bytes(&w, raw, img->hdr.length);
	if (format)
		put_ext(&w, EXT_BACKING_FORMAT, format, strlen(format));
	if (invalid)
		put_ext(&w, EXT_INVALID, invalid, strlen(invalid));
	copy_extensions(&w, raw, img->hdr.length, ext_end(img));
	put_backing(&w, file);
	return w.full ? too_large(img->io, e) : 0;
}

/* ---- a change in place ---------------------------------------------------------------- */

#define SECTOR 512u /* what a disk writes whole or not at all */

/* Where things are in the first cluster. */
struct layout {
	size_t format, format_room; /* the backing format's extension; 0: there is none */
	size_t end;		    /* behind the last extension */
};

static bool find_layout(const struct qcow2 *img, const uint8_t *raw, struct layout *l)
{
	size_t pos = img->hdr.length, end = ext_end(img);

	*l = (struct layout){ 0 };
	while (pos <= end && end - pos >= 8) {
		uint32_t magic = get32(raw + pos), len = get32(raw + pos + 4);

		if (magic == EXT_END) {
			l->end = pos + 8;
			return true;
		}
		if (len > end - pos - 8)
			return false;
		if (magic == EXT_BACKING_FORMAT) {
			l->format = pos;
			l->format_room = round_up_to(len, 8);
		}
		pos += 8 + round_up_to(len, 8);
	}
	return false;
}

static bool overlaps(size_t a, size_t na, size_t b, size_t nb)
{
	return a < b + nb && b < a + na;
}

/* A place for a name of @len bytes that leaves the present one as it is; 0: none. */
static size_t find_place(const struct qcow2 *img, const struct layout *l, size_t len)
{
	size_t old = img->hdr.backing_off, old_len = old ? img->hdr.backing_len : 0;
	size_t at = l->end;

	if (overlaps(at, len, old, old_len))
		at = old + old_len;
	return at + len <= img->cluster_size ? at : 0;
}

/*
 * @buf, the header as it is, gets another backing file such that one sector, the first, makes the
 * difference: the name goes elsewhere, the format's name to where the old one is. Without a backing
 * file the format stays and means nothing. False: it can't be done so.
 */
static bool change_in_place(struct qcow2 *img, uint8_t *buf, const char *file, const char *format,
			    size_t *ret_place)
{
	size_t len = file ? strlen(file) : 0, flen = file ? strlen(format) : 0, at = 0;
	struct layout l;

	if (file) {
		if (!find_layout(img, buf, &l))
			return false;
		at = find_place(img, &l, len);
		if (!at || !l.format || l.format_room != round_up_to(flen, 8) ||
		    l.format + 8 + l.format_room > SECTOR)
			return false;
		memset(buf + l.format + 8, 0, l.format_room);
		memcpy(buf + l.format + 8, format, flen);
		put32(buf + l.format + 4, flen);
		memcpy(buf + at, file, len);
	}
	put64(buf + H_BACKING_OFFSET, at);
	put32(buf + H_BACKING_SIZE, len);
	*ret_place = at;
	return true;
}

static int write_durably(struct qcow2 *img, const uint8_t *buf, size_t from, size_t to,
			 struct err *e)
{
	int r = from < to ? img->io->pwrite(img->io, buf + from, to - from, from, e) : 0;

	return r || from >= to ? r : img->io->flush(img->io, e);
}

/* The name; then the sector that leads to it; the old name is wiped out. */
static int write_in_place(struct qcow2 *img, uint8_t *buf, size_t at, size_t len, struct err *e)
{
	size_t old = img->hdr.backing_off, old_len = old ? img->hdr.backing_len : 0;
	int r;

	r = write_durably(img, buf, at < SECTOR ? SECTOR : at, at + len, e);
	if (!r)
		r = write_durably(img, buf, 0, SECTOR, e); /* a cluster has one at least */
	if (r || !old_len)
		return r;
	memset(buf + old, 0, old_len);
	return img->io->pwrite(img->io, buf + old, old_len, old, e);
}

static int write_header(struct qcow2 *img, uint8_t *raw, uint8_t *buf, const char *file,
			const char *format, struct err *e)
{
	size_t at;
	int r;

	memcpy(buf, raw, img->cluster_size);
	if (change_in_place(img, buf, file, format, &at)) {
		r = write_in_place(img, buf, at, file ? strlen(file) : 0, e);
	} else {
		memset(buf, 0, img->cluster_size);
		r = rebuild(img, raw, buf, file, file ? format : NULL, img->invalid, e);
		if (r < 0)
			return r;
		r = write_durably(img, buf, 0, img->cluster_size, e);
	}
	if (r < 0)
		img->failed = true;
	return r;
}

static int __set_backing(struct qcow2 *img, const char *file, const char *format, struct err *e)
{
	_cleanup_free_ uint8_t *raw = buf_new(img->cluster_size, e);
	_cleanup_free_ uint8_t *buf = buf_new(img->cluster_size, e);
	_cleanup_free_ char *new_file = file ? strdup(file) : NULL;
	_cleanup_free_ char *new_format = file ? strdup(format) : NULL;
	int r;

	if (!raw || !buf || (file && (!new_file || !new_format)))
		return err_set(e, ENOMEM, "out of memory");
	r = img->io->pread(img->io, raw, img->cluster_size, 0, e);
	if (r < 0)
		return r;
	r = write_header(img, raw, buf, file, format, e);
	if (r < 0)
		return r;
	free(img->backing_file);
	free(img->backing_format);
	img->backing_file = take_ptr(new_file);
	img->backing_format = take_ptr(new_format);
	img->hdr.backing_off = get64(buf + H_BACKING_OFFSET);
	img->hdr.backing_len = get32(buf + H_BACKING_SIZE);
	return 0;
}

int qcow2_set_backing(struct qcow2 *img, const char *file, const char *format, struct err *e)
{
	int r = check_backing_args(img->io, file, format, e);

	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	r = __change_begin(img, e);
	if (r == 0)
		r = __set_backing(img, file, format, e);
	pthread_mutex_unlock(&img->lock);
	return r;
}

/* Written as a whole: should it tear, nothing is lost that may be used. */
static int __set_invalid(struct qcow2 *img, const char *why, struct err *e)
{
	_cleanup_free_ uint8_t *raw = buf_new(img->cluster_size, e);
	_cleanup_free_ uint8_t *buf = buf_new(img->cluster_size, e);
	_cleanup_free_ char *text = strndup(why, MAX_INVALID_TEXT);
	int r;

	if (!raw || !buf || !text)
		return err_set(e, ENOMEM, "out of memory");
	r = img->io->pread(img->io, raw, img->cluster_size, 0, e);
	if (!r)
		r = rebuild(img, raw, buf, img->backing_file, img->backing_format, text, e);
	if (r < 0)
		return r;
	r = write_durably(img, buf, 0, img->cluster_size, e);
	if (r < 0) {
		img->failed = true;
		return r;
	}
	free(img->invalid);
	img->invalid = take_ptr(text);
	img->hdr.backing_off = get64(buf + H_BACKING_OFFSET);
	return 0;
}

int qcow2_set_invalid(struct qcow2 *img, const char *why, struct err *e)
{
	int r;

	pthread_mutex_lock(&img->lock);
	r = __change_begin(img, e);
	if (r == 0)
		r = __set_invalid(img, why, e);
	pthread_mutex_unlock(&img->lock);
	return r;
}

/* ---- a new header --------------------------------------------------------------------- */

struct feature {
	uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
	uint8_t bit;
	const char *name;
};

static const struct feature features[] = {
	{ 0, 0, "dirty bit" },
	{ 0, 1, "corrupt bit" },
	{ 0, 2, "external data file" },
	{ 0, 3, "compression type" },
	{ 0, 4, "extended L2 entries" },
	{ 1, 0, "lazy refcounts" },
	{ 2, 0, "bitmaps" },
	{ 2, 1, "raw external data" },
};

static void put_feature_names(struct writer *w)
{
	uint8_t table[ARRAY_SIZE(features) * FEATURE_ENTRY_SIZE] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		uint8_t *p = table + i * FEATURE_ENTRY_SIZE;

		p[0] = features[i].type;
		p[1] = features[i].bit;
		memcpy(p + 2, features[i].name, strlen(features[i].name));
	}
	put_ext(w, EXT_FEATURE_NAMES, table, sizeof(table));
}

static void put_fields(uint8_t *buf, const struct header *h)
{
	put32(buf + H_MAGIC, QCOW2_MAGIC);
	put32(buf + H_VERSION, h->version);
	put32(buf + H_CLUSTER_BITS, h->cluster_bits);
	put64(buf + H_SIZE, h->size);
	put32(buf + H_L1_SIZE, h->l1_size);
	put64(buf + H_L1_OFFSET, h->l1_off);
	put64(buf + H_REFTABLE_OFFSET, h->rt_off);
	put32(buf + H_REFTABLE_CLUSTERS, h->rt_clusters);
	if (h->version < 3)
		return;
	put32(buf + H_REFCOUNT_ORDER, h->refcount_order);
	put32(buf + H_HEADER_LENGTH, h->length);
}

int header_build(const struct qio *io, uint8_t *buf, const struct header *h, const char *backing,
		 const char *format, struct err *e)
{
	struct writer w = { .buf = buf, .pos = h->length, .size = 1ull << h->cluster_bits };
	int r = check_backing_args(io, backing, format, e);

	if (r < 0)
		return r;
	put_fields(buf, h);
	if (backing)
		put_ext(&w, EXT_BACKING_FORMAT, format, strlen(format));
	if (h->version >= 3)
		put_feature_names(&w);
	put_backing(&w, backing);
	return w.full ? too_large(io, e) : 0;
}
