// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The header and its extensions: reading, with every check.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

int img_err(const struct qio *io, struct err *e, int code, const char *fmt, ...)
{
	char text[ERR_MSG_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return err_set(e, code, "qcow2 image '%s': %s", io->name, text);
}

void *buf_new(size_t size, struct err *e)
{
	void *p = aligned_alloc(4096, round_up_to(size, 4096));

	if (!p) {
		err_set(e, ENOMEM, "out of memory (%zu bytes for image metadata)", size);
		return NULL;
	}
	memset(p, 0, round_up_to(size, 4096));
	return p;
}

/* ---- fields ---------------------------------------------------------------- */

static int parse_start(struct qcow2 *img, const uint8_t *raw, struct err *e)
{
	struct header *h = &img->hdr;

	if (get32(raw + H_MAGIC) != QCOW2_MAGIC)
		return img_err(img->io, e, EINVAL, "not in qcow2 format (no magic at its start)");
	h->version = get32(raw + H_VERSION);
	if (h->version != 2 && h->version != 3)
		return img_err(img->io, e, EOPNOTSUPP,
			       "version %u is not supported, only 2 and 3 are", h->version);
	h->cluster_bits = get32(raw + H_CLUSTER_BITS);
	if (h->cluster_bits < 9 || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return img_err(img->io, e, EINVAL, "cluster_bits is %u, must be 9 to 21",
			       h->cluster_bits);
	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS)
		return img_err(img->io, e, EOPNOTSUPP,
			       "clusters of %u bytes are not supported, the smallest are 4096; "
			       "convert it with qemu-img convert -o cluster_size=64k",
			       1u << h->cluster_bits);
	img->cluster_size = 1ull << h->cluster_bits;
	img->l2_bits = h->cluster_bits - 3;
	return 0;
}

static void parse_fields(struct header *h, const uint8_t *raw)
{
	h->backing_off = get64(raw + H_BACKING_OFFSET);
	h->backing_len = get32(raw + H_BACKING_SIZE);
	h->size = get64(raw + H_SIZE);
	h->l1_size = get32(raw + H_L1_SIZE);
	h->l1_off = get64(raw + H_L1_OFFSET);
	h->rt_off = get64(raw + H_REFTABLE_OFFSET);
	h->rt_clusters = get32(raw + H_REFTABLE_CLUSTERS);
	h->nb_snapshots = get32(raw + H_NB_SNAPSHOTS);
	h->snapshots_off = get64(raw + H_SNAPSHOTS_OFFSET);
	h->refcount_order = 4;
	h->length = H_V2_LENGTH;
	if (h->version < 3)
		return;
	h->incompatible = get64(raw + H_INCOMPATIBLE);
	h->compatible = get64(raw + H_COMPATIBLE);
	h->autoclear = get64(raw + H_AUTOCLEAR);
	h->refcount_order = get32(raw + H_REFCOUNT_ORDER);
	h->length = get32(raw + H_HEADER_LENGTH);
}

/* The name of a feature bit from the image's own table, printable. */
static void feature_name(const uint8_t *raw, size_t from, size_t to, unsigned int type,
			 unsigned int bit, char *ret, size_t size)
{
	snprintf(ret, size, "unknown feature");
	while (to - from >= 8) {
		uint32_t magic = get32(raw + from), len = get32(raw + from + 4);
		const uint8_t *p = raw + from + 8;

		if (magic == EXT_END || len > to - from - 8)
			return;
		for (uint32_t i = 0; magic == EXT_FEATURE_NAMES && i + FEATURE_ENTRY_SIZE <= len;
		     i += FEATURE_ENTRY_SIZE) {
			if (p[i] != type || p[i + 1] != bit)
				continue;
			snprintf(ret, size, "%.46s", (const char *)p + i + 2);
			for (char *c = ret; *c; c++)
				if (*c < ' ' || *c > '~')
					*c = '?';
			return;
		}
		from += 8 + round_up_to(len, 8);
		if (from > to)
			return;
	}
}

static int check_features(struct qcow2 *img, const uint8_t *raw, size_t ext_end, struct err *e)
{
	const struct header *h = &img->hdr;
	uint64_t unknown = h->incompatible & ~INCOMPAT_KNOWN;
	uint8_t compression = h->length > H_COMPRESSION_TYPE ? raw[H_COMPRESSION_TYPE] : 0;
	unsigned int bit;
	char name[64];

	if (unknown) {
		bit = __builtin_ctzll(unknown);
		feature_name(raw, h->length, ext_end, 0, bit, name, sizeof(name));
		return img_err(img->io, e, EOPNOTSUPP,
			       "it needs a feature that is not supported: '%s' (incompatible bit %u)",
			       name, bit);
	}
	if (h->incompatible & INCOMPAT_DATA_FILE)
		return img_err(img->io, e, EOPNOTSUPP,
			       "an external data file is not supported; convert it with qemu-img "
			       "convert");
	if (h->incompatible & INCOMPAT_EXTL2)
		return img_err(img->io, e, EOPNOTSUPP,
			       "extended L2 entries (subclusters) are not supported; convert it "
			       "with qemu-img convert");
	if (!(h->incompatible & INCOMPAT_COMPRESSION) != !compression)
		return img_err(img->io, e, EINVAL,
			       "compression type %u contradicts its feature bit", compression);
	if (compression > 1)
		return img_err(img->io, e, EOPNOTSUPP, "compression type %u is not supported",
			       compression);
	return 0;
}

static int check_encryption(struct qcow2 *img, uint32_t method, struct err *e)
{
	if (!method)
		return 0;
	return img_err(img->io, e, EOPNOTSUPP, "encryption (%s) is not supported",
		       method == 1 ? "AES" : method == 2 ? "LUKS" : "of an unknown method");
}

/* A table of @bytes at @off: aligned, not on the header, inside the file. */
static int check_table(struct qcow2 *img, const char *what, uint64_t off, uint64_t bytes,
		       struct err *e)
{
	if (off & (img->cluster_size - 1))
		return img_err(img->io, e, EINVAL, "the %s's offset %#llx is not on a cluster",
			       what, (unsigned long long)off);
	if (bytes && off < img->cluster_size)
		return img_err(img->io, e, EINVAL, "the %s overlaps the header (offset %#llx)",
			       what, (unsigned long long)off);
	if (bytes && (off > img->file_size || !img_in_file(img, off, bytes)))
		return img_err(img->io, e, EINVAL,
			       "the %s (%llu bytes at %#llx) is not inside the file, which has "
			       "%llu bytes",
			       what, (unsigned long long)bytes, (unsigned long long)off,
			       (unsigned long long)img->file_size);
	return 0;
}

static int check_tables(struct qcow2 *img, struct err *e)
{
	const struct header *h = &img->hdr;
	uint64_t region = region_size(img);
	uint64_t need = h->size / region + !!(h->size % region);
	int r;

	if (h->size > INT64_MAX)
		return img_err(img->io, e, EFBIG, "a virtual size of %llu bytes is too large",
			       (unsigned long long)h->size);
	if ((uint64_t)h->l1_size * 8 > MAX_L1_BYTES)
		return img_err(img->io, e, EFBIG, "the L1 table is too large (%u entries)",
			       h->l1_size);
	if (h->l1_size < need)
		return img_err(img->io, e, EINVAL,
			       "the L1 table is too small: %u entries, its size needs %llu",
			       h->l1_size, (unsigned long long)need);
	r = check_table(img, "L1 table", h->l1_off, (uint64_t)h->l1_size * 8, e);
	if (r < 0)
		return r;
	if (!h->rt_clusters)
		return img_err(img->io, e, EINVAL, "there is no refcount table");
	if ((uint64_t)h->rt_clusters << h->cluster_bits > MAX_REFTABLE_BYTES)
		return img_err(img->io, e, EFBIG, "the refcount table is too large (%u clusters)",
			       h->rt_clusters);
	r = check_table(img, "refcount table", h->rt_off,
			(uint64_t)h->rt_clusters << h->cluster_bits, e);
	if (r < 0)
		return r;
	if (h->nb_snapshots > MAX_SNAPSHOTS)
		return img_err(img->io, e, EFBIG, "too many internal snapshots (%u)",
			       h->nb_snapshots);
	return check_table(img, "snapshot table", h->snapshots_off,
			   (uint64_t)h->nb_snapshots * 40, e);
}

static int check_shape(struct qcow2 *img, struct err *e)
{
	const struct header *h = &img->hdr;

	if (h->refcount_order > 6)
		return img_err(img->io, e, EINVAL, "refcount_order is %u, must be 0 to 6",
			       h->refcount_order);
	if (h->version >= 3 && (h->length < H_V3_MIN_LENGTH || h->length % 8 ||
				h->length > img->cluster_size))
		return img_err(img->io, e, EINVAL,
			       "the header's length %u is wrong (104 or more, a multiple of 8, "
			       "inside the first cluster)",
			       h->length);
	if (!h->backing_off)
		return 0;
	if (h->backing_len > MAX_BACKING_NAME)
		return img_err(img->io, e, EINVAL, "the backing file's name is too long (%u bytes)",
			       h->backing_len);
	if (h->backing_off < h->length || h->backing_off > img->cluster_size ||
	    h->backing_len > img->cluster_size - h->backing_off)
		return img_err(img->io, e, EINVAL,
			       "the backing file's name is not inside the first cluster");
	return 0;
}

/* ---- extensions --------------------------------------------------------------- */

/* A string of the image: no NUL in it. */
static int dup_string(struct qcow2 *img, const char *what, const uint8_t *p, size_t len,
		      char **ret, struct err *e)
{
	if (memchr(p, 0, len))
		return img_err(img->io, e, EINVAL, "the %s has a zero byte in it", what);
	*ret = strndup((const char *)p, len);
	return *ret ? 0 : err_set(e, ENOMEM, "out of memory");
}

static int parse_bitmaps_ext(struct qcow2 *img, const uint8_t *p, uint32_t len, struct err *e)
{
	struct header *h = &img->hdr;

	h->has_bitmaps = true;
	if (!(h->autoclear & AUTOCLEAR_BITMAPS))
		return 0; /* not valid any more: whatever it says */
	if (len != 24)
		return img_err(img->io, e, EINVAL, "the bitmaps extension has %u bytes, not 24",
			       len);
	h->nb_bitmaps = get32(p);
	h->bitmap_dir_len = get64(p + 8);
	h->bitmap_dir_off = get64(p + 16);
	if (!h->nb_bitmaps || h->nb_bitmaps > MAX_BITMAPS || get32(p + 4) ||
	    h->bitmap_dir_len > MAX_BITMAP_DIR || h->bitmap_dir_len < h->nb_bitmaps * 24ull)
		return img_err(img->io, e, EINVAL, "the bitmaps extension is damaged");
	return check_table(img, "bitmap directory", h->bitmap_dir_off, h->bitmap_dir_len, e);
}

static int parse_ext(struct qcow2 *img, uint32_t magic, const uint8_t *p, uint32_t len,
		     struct err *e)
{
	switch (magic) {
	case EXT_BACKING_FORMAT:
		if (img->backing_format)
			return img_err(img->io, e, EINVAL, "two backing format extensions");
		if (len > MAX_BACKING_FORMAT)
			return img_err(img->io, e, EINVAL,
				       "the backing format's name is too long (%u bytes)", len);
		return dup_string(img, "backing format", p, len, &img->backing_format, e);
	case EXT_BITMAPS:
		if (img->hdr.has_bitmaps)
			return img_err(img->io, e, EINVAL, "two bitmaps extensions");
		return parse_bitmaps_ext(img, p, len, e);
	case EXT_INVALID:
		if (img->invalid || len > MAX_INVALID_TEXT)
			return img_err(img->io, e, EINVAL,
				       "the mark of an invalid image is damaged");
		return dup_string(img, "reason in the mark", p, len, &img->invalid, e);
	case EXT_FEATURE_NAMES:
		return 0;
	default:
		/* Kept when the header is rewritten. */
		img->hdr.has_unknown_ext = true;
		return 0;
	}
}

static int parse_extensions(struct qcow2 *img, const uint8_t *raw, size_t end, struct err *e)
{
	size_t pos = img->hdr.length;

	while (end - pos >= 8) {
		uint32_t magic = get32(raw + pos), len = get32(raw + pos + 4);
		int r;

		pos += 8;
		if (magic == EXT_END)
			return 0;
		if (len > end - pos)
			return img_err(img->io, e, EINVAL,
				       "header extension %#x (%u bytes) goes behind the header's end",
				       magic, len);
		r = parse_ext(img, magic, raw + pos, len, e);
		if (r < 0)
			return r;
		pos += round_up_to(len, 8);
		if (pos > end)
			return 0;
	}
	return 0;
}

static int parse_all(struct qcow2 *img, const uint8_t *raw, struct err *e)
{
	int r;

	parse_fields(&img->hdr, raw);
	r = check_shape(img, e);
	if (r == 0)
		r = check_features(img, raw, ext_end(img), e);
	if (r == 0)
		r = check_encryption(img, get32(raw + H_CRYPT_METHOD), e);
	if (r == 0)
		r = check_tables(img, e);
	if (r == 0)
		r = parse_extensions(img, raw, ext_end(img), e);
	if (r == 0 && img->hdr.backing_off && img->hdr.backing_len)
		r = dup_string(img, "backing file's name", raw + img->hdr.backing_off,
			       img->hdr.backing_len, &img->backing_file, e);
	if (!img->backing_file) { /* qcow2_set_backing() leaves a format alone: it means nothing */
		free(img->backing_format);
		img->backing_format = NULL;
	}
	return r;
}

int header_load(struct qcow2 *img, struct err *e)
{
	_cleanup_free_ uint8_t *start = buf_new(4096, e), *raw = NULL;
	int r;

	if (!start)
		return -ENOMEM;
	r = img->io->size(img->io, &img->file_size, e);
	if (r < 0)
		return r;
	r = img->io->pread(img->io, start, 4096, 0, e);
	if (r < 0)
		return r;
	r = parse_start(img, start, e);
	if (r < 0)
		return r;
	raw = buf_new(img->cluster_size, e);
	if (!raw)
		return -ENOMEM;
	r = img->io->pread(img->io, raw, img->cluster_size, 0, e);
	return r < 0 ? r : parse_all(img, raw, e);
}

int header_check_writable(struct qcow2 *img, unsigned int flags, struct err *e)
{
	const struct header *h = &img->hdr;

	if (h->incompatible & INCOMPAT_CORRUPT)
		return img_err(img->io, e, EUCLEAN,
			       "it is marked corrupt and can only be read; " CHECK_HINT);
	if (h->incompatible & INCOMPAT_DIRTY)
		return img_err(img->io, e, EUCLEAN,
			       "it was not closed (its dirty bit is set), its refcounts may be "
			       "wrong; " CHECK_HINT);
	if (h->nb_snapshots && !(flags & QCOW2_SNAPSHOTS_OK))
		return img_err(img->io, e, EOPNOTSUPP,
			       "writing to an image with internal snapshots (it has %u) is not "
			       "supported; remove them with qemu-img snapshot -d, or put an overlay "
			       "on top of it",
			       h->nb_snapshots);
	return 0;
}
