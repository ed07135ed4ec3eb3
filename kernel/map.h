/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The map of a view: block -> entry, in slices of 512 blocks.
 *
 * Two levels: a table of pages of slots, a slot for each slice: absent, one run, or a
 * page of 512 entries. Readers need RCU only. Changes are made under map->lock; a
 * page of entries is freed a grace period after it was unhooked.
 */
#ifndef LC_MAP_H
#define LC_MAP_H

#include <linux/bio.h>
#include <linux/dm-livechain.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include "logic/entry.h"
#include "park.h"

#define LC_SLICE_SHIFT	9
#define LC_SLICE_MASK	(LIVECHAIN_SLICE_BLOCKS - 1)
#define LC_LEAF_SHIFT	9	/* slots in one page of the table */
#define LC_LEAF_SLOTS	(1U << LC_LEAF_SHIFT)
#define LC_LEAF_MASK	(LC_LEAF_SLOTS - 1)
#define LC_MAP_LEAVES_MAX (1ULL << 22)	/* 32 MiB of pointers: 4 PiB in blocks of 4 KiB */

struct lc_view;
struct lc_layer;

struct lc_map {
	unsigned long **leaf;		/* [slice >> 9][slice & 511] -> slot */
	u64 nr_leaves;
	spinlock_t lock;		/* changes of slots and entries, and the counts */
	u64 loaded;			/* slices */
	u64 bytes;			/* memory */
};

/* A piece of the view that lies in one place, and of which the answer is one. */
struct lc_extent {
	enum lc_type type;
	unsigned int len;		/* sectors */
	u64 entry;			/* of the first block */
	struct lc_layer *layer;		/* data only */
	sector_t sector;		/* data only: on the layer's device, start added */
};

int lc_map_init(struct lc_view *view, char **error);
void lc_map_exit(struct lc_view *view);

/* The entry of @block. Context: any; takes RCU itself. */
u64 lc_map_entry(struct lc_view *view, u64 block);

/**
 * lc_map_extent() - where does the view's range [sector, sector + max) begin
 *
 * Fills @x with the longest piece from @sector on, at most @max sectors, that is
 * uniform: absent, zero, error, or data contiguous on one layer. What would lie beyond a
 * layer's end is zero. Without the range's lock the answer may be old as soon as it is
 * given, but I/O to where it points stays harmless: places are never reused for
 * other blocks.
 * Context: any.
 */
void lc_map_extent(struct lc_view *view, sector_t sector, unsigned int max, struct lc_extent *x);

/*
 * The same for who is about to write in place: shared and unshared are told apart. The range must be
 * within the view.
 */
void lc_map_extent_same(struct lc_view *view, sector_t sector, unsigned int max,
			struct lc_extent *x);

/* As lc_map_extent(), for who asks for the layer, which a zero may have too: an extent is of one. */
void lc_map_extent_layer(struct lc_view *view, sector_t sector, unsigned int max,
			 struct lc_extent *x);

/* Returns true and the number of the first absent slice if there is one in the range. */
bool lc_map_absent(struct lc_view *view, u64 block, u64 nr, u64 *ret_slice);

/* Turns the slices of the range into arrays. Loaded slices only. May sleep (GFP_NOIO). */
void lc_map_prepare(struct lc_view *view, u64 block, u64 nr);

/**
 * lc_map_set() - give @nr blocks the entries of a run that starts with @entry
 *
 * Caller holds the range's block lock and has called lc_map_prepare(). Context: process.
 */
void lc_map_set(struct lc_view *view, u64 block, u64 nr, u64 entry);

/**
 * lc_map_replace() - give blocks that a layer of @ids holds the entries of a run
 *
 * For blocks [block, block + nr) whose entry, data or zero, names one of these layers; what is absent stays so. May sleep (GFP_NOIO).
 * Return: how many blocks have got a new entry.
 */
u64 lc_map_replace(struct lc_view *view, u64 block, u64 nr, u64 entry, const unsigned long *ids);

/**
 * lc_map_fill() - fill one slice if it is absent
 * @e: 512 entries (behind the view's end: whatever).
 *
 * Wakes who waits for it. May sleep (GFP_NOIO).
 * Return: 1 if it was absent, 0 if it is left as it is, -ENOMEM.
 */
int lc_map_fill(struct lc_view *view, u64 slice, const u64 *e);

/* The same for a slice that is one run. */
int lc_map_fill_run(struct lc_view *view, u64 slice, u64 first_entry);

/* Forgets the loaded slices of a range, which the caller has locked. Sleeps (RCU). */
void lc_map_forget(struct lc_view *view, u64 slice, u64 nr);

/* lc_park()'s recheck for LC_WANT_SLICE */
bool lc_map_loaded(struct lc_view *view, struct lc_waiter *w);

/*
 * A read of the view into pages, for those who copy.
 */
struct lc_read {
	struct lc_view *view;
	sector_t sector;		/* of the view */
	unsigned int nr_sectors;
	struct page **pages;		/* where to; or NULL and bio */
	unsigned int offset;		/* bytes in front, in pages[0] */
	struct bio *bio;		/* its data is what is to be filled */
	void (*done)(struct lc_read *r); /* any context; may free @r */
	void *owner;			/* the caller's */
	blk_status_t status;		/* BLK_STS_DM_REQUEUE: being suspended, read again later */

	/* private */
	atomic_t pending;
	sector_t pos, end;
	struct lc_waiter wait;
	struct work_struct work;
};

/* The same from a context that may not sleep: the work is done in view->wq. */
void lc_map_read_later(struct lc_read *r);

/**
 * lc_map_read() - read what the view holds
 *
 * Caller sets the public fields. Zeros are filled in; I/O goes to each block's own
 * layer. What is absent is waited for. @done is called exactly once, perhaps
 * before this returns.
 * Context: process, may sleep (GFP_NOIO); view->wq runs what must wait.
 */
void lc_map_read(struct lc_read *r);

#endif
