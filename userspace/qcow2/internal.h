/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Inside the qcow2 library. "cluster" as a number is a host cluster's index;
 * "__" functions want img->lock held. Nothing here is for other folders.
 */
#ifndef LIVECHAIN_QCOW2_INTERNAL_H
#define LIVECHAIN_QCOW2_INTERNAL_H

#include <pthread.h>

#include "format.h"
#include "qcow2.h"

#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define ARRAY_SIZE(a)	   (sizeof(a) / sizeof((a)[0]))

/* ---- a set of the clusters that hold metadata (metaset.c) --------------- */

struct metaset {
	uint64_t *slots; /* cluster + 1; 0 is empty */
	size_t mask;
	size_t used;
};

void metaset_done(struct metaset *m);
/* Makes room for @n more, so that the next @n additions can not fail. */
int metaset_reserve(struct metaset *m, size_t n);
/* 0, -EEXIST when one of them is in it already, -ENOMEM. */
int metaset_add(struct metaset *m, uint64_t cluster, uint64_t n);
void metaset_del(struct metaset *m, uint64_t cluster, uint64_t n);
bool metaset_has(const struct metaset *m, uint64_t cluster);

/* ---- lists of ranges (ranges.c) ------------------------------------------ */

struct ranges {
	struct qcow2_range *v;
	size_t n, cap;
	uint64_t bytes;
};

void ranges_done(struct ranges *r);
/* Appends, joining with the last one where they touch. */
int ranges_add(struct ranges *r, uint64_t off, uint64_t len, struct err *e);
/* Sorts by offset; -EEXIST when two overlap, unless @join makes them one. */
int ranges_sort(struct ranges *r, bool join);

#define _cleanup_ranges_ _cleanup_(ranges_done)

/* ---- the header, parsed (header.c) ---------------------------------------- */

struct header {
	uint32_t version;
	uint32_t cluster_bits;
	uint64_t size;
	uint64_t backing_off;
	uint32_t backing_len;
	uint32_t l1_size;
	uint64_t l1_off;
	uint64_t rt_off;
	uint32_t rt_clusters;
	uint32_t nb_snapshots;
	uint64_t snapshots_off;
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order;
	uint32_t length;
	bool has_unknown_ext;
	bool has_bitmaps; /* the extension is there */
	uint32_t nb_bitmaps;
	uint64_t bitmap_dir_off, bitmap_dir_len;
};

/* ---- refcounts in memory (refcount.c) -------------------------------------- */

/* A refcount block in memory. */
struct refblock {
	uint8_t *data; /* NULL: slot is free */
	uint64_t idx;  /* in the refcount table */
	uint64_t used; /* for eviction of the least recently used */
	uint32_t dirty_lo, dirty_hi; /* bytes; hi 0: clean */
};

/* What a cluster's refcount is, 2 bits each in the summary of a block. */
enum rc_state { RC_FREE, RC_ONE, RC_MANY };

struct refcounts {
	bool loaded;
	uint64_t *table; /* offset of each block, 0: none */
	uint64_t entries;
	uint64_t dirty_lo, dirty_hi; /* entries of the table; hi 0: clean */
	uint64_t old_off;	     /* a table that has been replaced, until committed */
	uint32_t old_clusters;
	uint8_t **summary; /* by table index; NULL: not read yet, or no block */
	struct refblock *slots;
	unsigned int nslots;
	uint64_t tick;
	unsigned int order;
	unsigned int block_bits; /* a block counts for 1 << block_bits clusters */
};

struct qcow2 {
	pthread_mutex_t lock; /* all below that changes after open */
	struct qio *io;
	bool writable;
	bool begun;  /* qcow2_begin_write() has been done */
	bool failed; /* a metadata write failed: no more changes */
	struct header hdr;
	char *backing_file, *backing_format, *invalid;
	uint64_t cluster_size;
	unsigned int l2_bits; /* an L2 table has 1 << l2_bits entries */
	uint64_t *l1;	      /* CPU byte order */
	struct refcounts rc;
	struct metaset meta;
	uint64_t file_size;
	uint64_t end;	 /* no cluster from here on is in use (writable images) */
	uint64_t cursor; /* free clusters are looked for from here */
	/* So many were not to be had, in such runs, from a device of that size; 0: not known. */
	struct {
		uint64_t n, min_run, capacity;
	} scarce;
};

/* Clusters from @first on have become free. */
static inline void __freed(struct qcow2 *img, uint64_t first)
{
	if (first < img->cursor)
		img->cursor = first;
	img->scarce.n = 0;
}

/* ---- small things ----------------------------------------------------------- */

/* err_set() with "qcow2 image 'NAME': " in front; @io names it. */
int img_err(const struct qio *io, struct err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#define CHECK_HINT "run qemu-img check -r all on it while it is not in use"

static inline uint64_t round_up_to(uint64_t v, uint64_t size)
{
	return (v + size - 1) & ~(size - 1);
}

/* Memory for I/O: aligned, zeroed. NULL with a sentence. */
void *buf_new(size_t size, struct err *e);

/* Whether [off, off + len) lies in an image file of @file_size, whole clusters counted. */
static inline bool in_file(uint64_t file_size, uint64_t cluster_size, uint64_t off, uint64_t len)
{
	uint64_t end;

	return !__builtin_add_overflow(off, len, &end) && end <= MAX_HOST_OFFSET &&
	       end <= round_up_to(file_size, cluster_size);
}

static inline bool img_in_file(const struct qcow2 *img, uint64_t off, uint64_t len)
{
	return in_file(img->file_size, img->cluster_size, off, len);
}

/* ---- header.c ------------------------------------------------------------------ */

/* Reads and checks header and extensions; fills hdr, backing_*, cluster_size. */
int header_load(struct qcow2 *img, struct err *e);
/* Where extensions must end, in the first cluster. */
static inline size_t ext_end(const struct qcow2 *img)
{
	return img->hdr.backing_off ? img->hdr.backing_off : img->cluster_size;
}

/* What the features mean for a writer. */
int header_check_writable(struct qcow2 *img, unsigned int flags, struct err *e);

/* ---- header-write.c --------------------------------------------------------- */

int __header_set_reftable(struct qcow2 *img, uint64_t off, uint32_t clusters, struct err *e);
int __begin_write(struct qcow2 *img, struct err *e);
/* Writes version, features .. extensions for qcow2_create() into a zeroed cluster. */
int header_build(const struct qio *io, uint8_t *buf, const struct header *h, const char *backing,
		 const char *format, struct err *e);

/* ---- l1l2.c --------------------------------------------------------------------- */

int l1_load(struct qcow2 *img, struct err *e);
/* Reads entries [@first, @first + @n) of the table at @off, in CPU order. */
int table_read(struct qcow2 *img, uint64_t off, uint64_t first, size_t n, uint64_t *ret,
	       struct err *e);

/* An L2 entry taken apart. 0, or what is wrong with it. */
struct l2_entry {
	enum qcow2_kind kind;
	bool copied;
	bool compressed;
	uint64_t off;
	uint64_t len; /* compressed: of the host bytes */
};

const char *l2_parse(const struct qcow2 *img, uint64_t raw, struct l2_entry *ret);

static inline uint64_t region_size(const struct qcow2 *img)
{
	return img->cluster_size << img->l2_bits;
}

/* ---- refcount.c ------------------------------------------------------------------ */

/* Reads and checks the table once; its blocks become metadata. */
int __rc_load(struct qcow2 *img, struct err *e);
void rc_done(struct refcounts *rc);
int __rc_get(struct qcow2 *img, uint64_t cluster, uint64_t *ret, struct err *e);
int __rc_state(struct qcow2 *img, uint64_t cluster, enum rc_state *ret, struct err *e);
/* The last cluster in use of those in the refcount block @idx, which is there; -ENOENT: none. */
int __rc_last(struct qcow2 *img, uint64_t idx, uint64_t *ret, struct err *e);
/*
 * Sets @n refcounts; there must be blocks for all of them. An error leaves
 * part of them set: the caller marks the image failed.
 */
int __rc_set(struct qcow2 *img, uint64_t cluster, uint64_t n, uint64_t value, struct err *e);
/* Whether the summary of the block for @cluster is in memory (or there is no block). */
bool __rc_cached(struct qcow2 *img, uint64_t cluster);
/* Makes the table @clusters long at @off; durable with the next commit. */
int __rc_move_table(struct qcow2 *img, uint64_t off, uint32_t clusters, struct err *e);
/* Adds an empty block; durable with the next commit. */
int __rc_new_block(struct qcow2 *img, uint64_t idx, uint64_t off, struct err *e);
/* Everything changed becomes durable, in an order that is safe. */
int __rc_commit(struct qcow2 *img, struct err *e);

static inline bool rc_has_block(const struct qcow2 *img, uint64_t cluster)
{
	uint64_t idx = cluster >> img->rc.block_bits;

	return idx < img->rc.entries && img->rc.table[idx];
}

/* A refcount of width 1 << @order bits out of, and into, a block. */
uint64_t rb_get(const uint8_t *data, unsigned int order, uint64_t i);
void rb_set(uint8_t *data, unsigned int order, uint64_t i, uint64_t v);

/* ---- alloc.c ----------------------------------------------------------------------- */

/* Where clusters will come from; nothing is changed until it is carried out. */
struct alloc_plan {
	struct ranges data;
	uint64_t meta_first;	   /* cluster; then rt_n and rb_n clusters ... */
	uint64_t rt_n, rb_n;	   /* of a new refcount table and new blocks */
	uint64_t new_end;	   /* img->end afterwards */
	uint64_t old_size;	   /* file size before */
};

enum {
	PLAN_FRESH = 1, /* at the end of a file only: all zeros */
};

int __plan_make(struct qcow2 *img, uint64_t n, uint64_t min_run, unsigned int flags,
		struct alloc_plan *ret, struct err *e);
/* Makes the space; with @holes only that of refcounts, the rest becomes a hole. */
int __plan_reserve(struct qcow2 *img, struct alloc_plan *p, bool holes, struct err *e);
/* Refcounts of everything in it become 1, durably; flushes also what was written before. */
int __plan_commit(struct qcow2 *img, struct alloc_plan *p, struct err *e);
void plan_done(struct alloc_plan *p);

#define _cleanup_plan_ _cleanup_(plan_done)

/* Refuses on read-only and failed images, then begins writing. */
int __change_begin(struct qcow2 *img, struct err *e);
int __free_clusters(struct qcow2 *img, const struct qcow2_range *v, size_t n, unsigned int flags,
		    struct err *e);

/* ---- hide.c ---------------------------------------------------------------------------- */

/* What a longer backing file must not show where an image grows. */
struct hide {
	uint64_t end;		  /* of the backing file, in the guest's disk; a cluster's end */
	uint64_t first;		  /* L1 entry of the first new table */
	struct alloc_plan tables; /* new L2 tables, which all say zeros */
};

/* To be called first, without the lock: checks, and a table of its own where the old end lies. */
int hide_begin(struct qcow2 *img, struct hide *h, uint64_t size, struct err *e);
/* Writes the entries; the old size does not show them. Flushed with what comes next. */
int __hide(struct qcow2 *img, struct hide *h, struct err *e);
/* The size stays as it was. */
void __hide_undo(struct qcow2 *img, struct hide *h);
void hide_fill_l1(const struct qcow2 *img, const struct hide *h, uint64_t *l1);
/* The new tables are part of the image. */
int __hide_end(struct qcow2 *img, const struct hide *h);

/* ---- refs.c ---------------------------------------------------------------------------- */

/* Every reference that an image's metadata makes to host clusters. */
enum ref_kind {
	REF_HEADER,
	REF_L1,
	REF_L2,
	REF_DATA,
	REF_COMPRESSED,
	REF_REFTABLE,
	REF_REFBLOCK,
	REF_SNAPSHOTS,
	REF_BITMAPS,
};

struct ref {
	enum ref_kind kind;
	uint64_t off, len; /* bytes; clusters touched are referenced once each */
	bool has_copied;   /* the active tables' entries say whether refcount is 1 */
	bool copied;
};

struct ref_walk {
	void *opaque;
	int (*ref)(void *opaque, const struct ref *r, struct err *e);
	/* Damage: 0 to go on; otherwise the walk ends with that. */
	int (*bad)(void *opaque, const char *sentence, struct err *e);
};

/* Walks all of them, needs no lock but that no one changes the image. */
int refs_walk(struct qcow2 *img, const struct ref_walk *w, struct err *e);

#endif
