/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The qcow2 format, alone: open, map, allocate, free, create, check.
 *
 * Words: a *cluster* is the image's unit of allocation, 4 KiB to 2 MiB here; a
 * *region* is the part of the guest's disk that one L2 table maps (cluster
 * size / 8 clusters). All offsets and lengths are bytes. Images are hostile:
 * every field is checked before use, and what is wrong or not supported is
 * refused by a sentence that names it.
 *
 * Who writes what. The library keeps the L1 table and the refcount table in
 * memory and owns them, the header and the refcount blocks. It never keeps an
 * L2 table: qcow2_map() reads them from the image each time, and once
 * qcow2_prepare_tables() has returned a table's place the library never
 * writes there again, so the kernel may own these pages.
 *
 * Durability. A call that changes the image returns 0 only when the change is
 * durable, and orders its writes so that a crash at any instant leaves an image
 * that QEMU opens as it is, with at worst leaked clusters. Nothing is left to
 * be written at close. When a metadata write or flush has failed, the image
 * takes no more changes (-EIO): close it and open it again. Running
 * out of space (-ENOSPC) is not such a failure: nothing changed, try again.
 *
 * Threads. One image may be used by several threads: one mutex inside orders
 * changes; qcow2_map() does not hold it while they read L2
 * tables, so a map is never behind an allocation's I/O for long. Only
 * qcow2_close() must be alone. Callers provide image locks and loops.
 */
#ifndef LIVECHAIN_QCOW2_H
#define LIVECHAIN_QCOW2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../lib/cleanup.h"
#include "../lib/err.h"
#include "qio.h"

struct qcow2;

#define QCOW2_MIN_CLUSTER_BITS 12
#define QCOW2_MAX_CLUSTER_BITS 21

/* A range of the image file (or of the guest's disk where it says so). */
struct qcow2_range {
	uint64_t off;
	uint64_t len;
};

/* ---- open, close, facts ------------------------------------------------ */

enum {
	QCOW2_WRITABLE = 1 << 0, /* may be changed by the calls below */
	/*
	 * With QCOW2_WRITABLE: accept internal snapshots. Refcounts above 1 are
	 * honoured, but what a write replaces is not counted down.
	 */
	QCOW2_SNAPSHOTS_OK = 1 << 1,
};

/*
 * Opens the image behind @io, which is borrowed until qcow2_close(). Writes
 * nothing. Never opens the backing file.
 *
 * -EINVAL, -EFBIG: not qcow2, or a header that makes no sense; -EUCLEAN: its
 * tables are damaged, or it is marked dirty or corrupt and @flags has
 * QCOW2_WRITABLE; -EOPNOTSUPP: a feature that is not supported.
 */
int qcow2_open(struct qio *io, unsigned int flags, struct qcow2 **ret, struct err *e);

/* Frees the handle; writes nothing. NULL is fine. */
void qcow2_close(struct qcow2 *img);

DEFINE_CLEANUP(struct qcow2, qcow2_close)
#define _cleanup_qcow2_ _cleanup_(qcow2_closep)

struct qcow2_info {
	uint32_t version; /* 2 or 3 */
	uint32_t cluster_bits;
	uint32_t cluster_size;
	uint64_t virtual_size;
	uint64_t region_size;	    /* guest bytes that one L2 table maps */
	const char *backing_file;   /* NULL: none; as written, not resolved */
	const char *backing_format; /* NULL: not recorded */
	const char *invalid;	    /* why it must not be used any more; NULL: it may */
	uint32_t refcount_bits;	    /* 1, 2, 4 .. 64 */
	uint32_t snapshots;	    /* internal ones */
	bool has_bitmaps;	    /* a bitmaps extension is there and valid */
	bool lazy_refcounts;
	bool dirty;
	bool corrupt;
	bool has_zero; /* the format has zero clusters (version 3) */
	bool writable;
	uint64_t host_size; /* of the image file, as the library knows it */
};

/* Strings live until qcow2_set_backing(), qcow2_set_invalid() or qcow2_close(). */
void qcow2_get_info(struct qcow2 *img, struct qcow2_info *ret);

/* ---- reading the map --------------------------------------------------- */

enum qcow2_kind {
	QCOW2_UNALLOCATED, /* the backing file's content, zeros without one */
	QCOW2_ZERO_PLAIN,  /* zeros, no cluster behind them */
	QCOW2_ZERO_ALLOC,  /* zeros; host_off is a cluster kept for them */
	QCOW2_DATA,	   /* host_off holds the data */
};

struct qcow2_run {
	uint64_t guest_off;
	uint64_t len;
	enum qcow2_kind kind;
	bool copied;	   /* DATA, ZERO_ALLOC: refcount is 1, may be overwritten in place */
	uint64_t host_off; /* DATA, ZERO_ALLOC; 0 otherwise */
};

/* Returns 0 to go on; anything else ends the walk, whose result it becomes. */
typedef int (*qcow2_run_fn)(void *opaque, const struct qcow2_run *run);

/*
 * Calls @fn for the runs of [@guest_off, @guest_off + @len) in order, without
 * gaps, each as long as it can be (never merged over a change of kind, of
 * copied, or of host contiguity). The range is cut at the virtual size; it
 * need not be aligned. @fn is called without a lock held.
 *
 * Every entry is checked: reserved bits, alignment, inside the file, not in the
 * header, L1, refcounts or an L2 table; and, on a writable image, that its
 * refcount is not 0 and is 1 where the entry says so. -EUCLEAN on damage,
 * -EOPNOTSUPP on a compressed cluster; the sentence has the guest offset, @fn
 * was called for what lies before. A region without L2 table costs O(1).
 *
 * While the kernel owns the L2 tables this shows the records that it
 * has written, not what it still holds.
 */
int qcow2_map(struct qcow2 *img, uint64_t guest_off, uint64_t len, qcow2_run_fn fn, void *opaque,
	      struct err *e);

/*
 * The same as an array (to be freed with free()). Stops after @max_runs when
 * that is not 0: *@ret_end is the guest offset that the array reaches.
 */
int qcow2_map_array(struct qcow2 *img, uint64_t guest_off, uint64_t len, size_t max_runs,
		    struct qcow2_run **ret_runs, size_t *ret_n, uint64_t *ret_end, struct err *e);

/* ---- records: how a kernel writes an L2 entry -------------------------- */

/* An entry is @bytes long, big endian; its value as a CPU number is ... */
struct qcow2_record {
	uint32_t bytes;		 /* 8 */
	uint64_t data_or;	 /* host offset | data_or: data */
	bool has_zero;		 /* false (version 2): the format cannot say "zero" */
	uint64_t zero_plain;	 /* zeros without a cluster: 1 */
	uint64_t zero_alloc_or;	 /* host offset | zero_alloc_or: zeros that keep it */
};

void qcow2_get_record(struct qcow2 *img, struct qcow2_record *ret);

/* ---- changes ------------------------------------------------------------ */

/*
 * To be called before anybody's first write to the image, the kernel's
 * included: durably clears the autoclear bits (bitmaps and unknown ones), which
 * promise something that we do not keep up, and brings a file's size
 * up to a whole cluster. The changes below do it themselves. Idempotent.
 */
int qcow2_begin_write(struct qcow2 *img, struct err *e);

/* Did a write of its metadata fail? Then it refuses all changes till it is opened anew. */
bool qcow2_has_failed(struct qcow2 *img);

struct qcow2_table {
	uint64_t guest_off; /* start of its region */
	uint64_t host_off;  /* the table: cluster_size bytes, entry i at + 8 * i */
	bool fresh;	    /* made by this call: all zeros */
};

/*
 * Sees to it that each region that touches [@guest_off, + @len) has an
 * L2 table of its own: makes the missing ones (all zeros) and copies those whose
 * refcount is above 1. Returns one entry for each region in order, in an array
 * to be freed with free(). New tables are holes of a growable file; on a
 * block device zeros are written.
 *
 * Order: refcounts durable, (zeroed or copied) tables durable, L1 durable.
 * Flushes: at most three, five when the refcount table grows. A crash in
 * between leaks what was allocated.
 */
int qcow2_prepare_tables(struct qcow2 *img, uint64_t guest_off, uint64_t len,
			 struct qcow2_table **ret, size_t *ret_n, struct err *e);

/*
 * Allocates @n clusters: refcounts 1, and the space itself, durable on return.
 * The content of the clusters is undefined (on a file's fresh end: zeros).
 * *@ret (to be freed with free()) are the ranges, as few as can be, each a
 * multiple of the cluster size; with a @min_run, and @n a multiple of it, each is
 * a multiple of @min_run clusters. @min_run 0 leaves that to the library: runs
 * amid the image from 1 MiB on, then the end, then (on a full block device) any.
 * One flush, up to four when refcount blocks or the refcount table are added.
 * -ENOSPC: nothing was allocated.
 */
int qcow2_alloc_clusters(struct qcow2 *img, uint64_t n, uint64_t min_run,
			 struct qcow2_range **ret, size_t *ret_n, struct err *e);

enum {
	QCOW2_KEEP_SIZE = 1 << 0, /* do not cut the file where its end became free */
};

/*
 * Gives back clusters that nothing references (the caller answers for that):
 * refcount 1 becomes 0, durably. All ranges are whole clusters; each cluster must
 * have refcount 1 and be no metadata, or nothing at all is freed
 * (-EUCLEAN). Then a growable file whose end is what was freed is cut there.
 */
int qcow2_free_clusters(struct qcow2 *img, const struct qcow2_range *ranges, size_t n,
			unsigned int flags, struct err *e);

/*
 * After a crash: frees those of the candidate clusters that NOTHING
 * references and whose refcount is exactly 1; *@ret_freed (may be NULL) counts
 * bytes. Reads every L2 table, of internal snapshots too, and all other
 * metadata, so it holds whatever has been done to the image since; any damage
 * met means that nothing is freed. So does a header extension that the library does
 * not know, without an error: who can tell what that references. Only while no one
 * else writes L2 tables. Candidates may be in any order, overlap, or lie outside
 * the image (then ignored).
 */
int qcow2_reclaim(struct qcow2 *img, const struct qcow2_range *candidates, size_t n,
		  unsigned int flags, uint64_t *ret_freed, struct err *e);

/*
 * Changes (or with NULL removes) the backing file's name and format in one
 * write of the header; every extension that the library does not know is kept. -ENOSPC
 * when it does not fit the first cluster. The caller answers for the content.
 */
int qcow2_set_backing(struct qcow2 *img, const char *file, const char *format, struct err *e);

/*
 * Makes the disk in it @size bytes large (a multiple of 512, not less than now; the same is no error): what
 * is gained reads as zeros. @backing_size is that of the backing file, 0 if there is none: where it is longer
 * than the old size, L2 entries say zeros. -EOPNOTSUPP: that can't be done in version 2, or with an old end
 * amid an unallocated cluster. In use, only while nobody writes near its old end. -ENOSPC: nothing was changed.
 */
int qcow2_grow(struct qcow2 *img, uint64_t size, uint64_t backing_size, struct err *e);

/*
 * Marks an image whose content is no longer right; @why is the reason (cut behind 1023 bytes). A
 * header extension of ours, which QEMU keeps and does not look at. The library opens such an image
 * still: who opens it looks at qcow2_info.invalid. Errors as above.
 */
int qcow2_set_invalid(struct qcow2 *img, const char *why, struct err *e);

/* ---- create, check ------------------------------------------------------ */

struct qcow2_create_opts {
	uint64_t size;		    /* virtual size; a multiple of 512 */
	uint32_t cluster_bits;	    /* 12 .. 21; 0: 16 */
	uint32_t version;	    /* 2 or 3; 0: 3 */
	uint32_t refcount_bits;	    /* 1, 2, 4 .. 64; 0: 16 (the only one of version 2) */
	const char *backing_file;   /* or NULL */
	const char *backing_format; /* required with backing_file */
};

/*
 * Writes a new, empty image over whatever @io holds; the header comes last, so
 * that a crash leaves no half image. Durable on return.
 */
int qcow2_create(struct qio *io, const struct qcow2_create_opts *opts, struct err *e);

/* Is the file what a crash within qcow2_create() left? It holds nothing then. */
bool qcow2_is_unfinished(struct qio *io);

struct qcow2_report {
	uint64_t corruptions;	    /* refcount too low, COPIED wrong, overlap, bad entry */
	uint64_t leaks;		    /* clusters with a refcount above their references */
	uint64_t allocated;	    /* guest clusters with data or a kept cluster */
	uint64_t compressed;	    /* guest clusters that are compressed */
	uint64_t image_end;	    /* behind the last cluster in use */
	char first[256];	    /* the first corruption, as a sentence; or "" */
};

/*
 * Compares every refcount with the references that there are, as `qemu-img
 * check` does. Changes nothing. Returns 0 when the check could be done,
 * whatever it found. Only while no one else changes the image.
 */
int qcow2_check(struct qcow2 *img, struct qcow2_report *ret, struct err *e);

#endif
