/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A view: what a guest sees. Named, counted by the tables that are bound to it,
 * outlives each of them.
 *
 * Locks, outermost first; Documentation/design/locking.rst has the whole table:
 *   lc_views_mutex   the list of views, their binding and end
 *   view->mutex      messages, layers, active, jobs' administration; may be held while taking any below
 *   map.lock, locks.lock, park.lock, pool.lock, rec.lock   spinlocks, irq-safe where their header says so
 */
#ifndef LC_VIEW_H
#define LC_VIEW_H

#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/workqueue.h>
#include "blocklock.h"
#include "buf.h"
#include "layer.h"
#include "map.h"
#include "park.h"
#include "record.h"
#include <linux/dm-livechain.h>

#define DM_MSG_PREFIX "livechain"

struct lc_cbw;
struct lc_job;
struct lc_jobs;

struct lc_view {
	/* constant */
	sector_t nr_sectors;
	u64 nr_blocks, nr_slices;
	unsigned int block_shift;	/* log2 sectors */

	/* the fast path's */
	struct lc_map map;
	/*
	 * The active layer, or NULL. Changed by `activate` only, that is while
	 * suspended and under the mutex; those who serve bios may read it freely.
	 */
	struct lc_layer *active;
	bool has_active;		/* a table has said which (NULL counts); mutex */
	int fail;			/* errno (positive) of a record that could not be written */
	/* Non-NULL while a before-write job has something to copy; jobs' own (copy.h). */
	struct lc_cbw __rcu *cbw;
	/* The tracking job, or NULL; set while suspended only (copy.h). */
	struct lc_job __rcu *track;
	struct lc_layer *layers[LIVECHAIN_LAYER_ID_MAX + 1];

	/* the slow path's */
	struct workqueue_struct *wq;	/* WQ_MEM_RECLAIM, many at once; nothing in it waits for I/O */
	struct workqueue_struct *commit_wq; /* WQ_MEM_RECLAIM, ordered; commits wait for I/O in it */
	struct bio_set bs;		/* for children of guests' bios and for our own */
	struct lc_locks locks;
	struct lc_park park;
	struct lc_records rec;
	struct lc_bufs bufs;
	/*
	 * log2 blocks: guests' writes lock this much at least. Raised by a before-write
	 * job (while suspended) to its grain, so that the lock covers what it copies.
	 */
	unsigned int copy_shift;

	struct lc_jobs *jobs;		/* copy.h */

	struct mutex mutex;
	u64 generation;			/* mutex */
	char name[LIVECHAIN_NAME_MAX + 1];
	struct list_head list;		/* lc_views_mutex */
	unsigned int tables;		/* bound; lc_views_mutex */

	/* the table that is live or was last; event_lock. NULL before the first resume. */
	struct mutex event_lock;
	struct dm_target *live;
	bool resumed;			/* under mutex */
	struct work_struct event_work;
};

static inline unsigned int lc_block_sectors(const struct lc_view *view)
{
	return 1U << view->block_shift;
}

/* Blocks that sectors [sector, sector + len) touch */
static inline u64 lc_blocks_touched(const struct lc_view *view, sector_t sector, unsigned int len)
{
	return ((sector + len - 1) >> view->block_shift) - (sector >> view->block_shift) + 1;
}

/* log2 sectors of what one allocating write writes: the larger of block and unit */
static inline unsigned int lc_grain_shift(const struct lc_view *view)
{
	const struct lc_layer *a = view->active;

	if (!a || lc_layer_kind(a) != LC_LAYER_RECORD)
		return view->block_shift;
	return max(view->block_shift, a->unit_shift);
}

/* Finds or makes the view and counts a table. May sleep. */
struct lc_view *lc_view_get(const char *name, sector_t nr_sectors, unsigned int block_shift,
			    char **error);
void lc_view_put(struct lc_view *view);

/**
 * lc_view_call() - do something with the view of that name
 *
 * Under its mutex; may sleep. Return: what @fn returns; -ENOENT: there is none.
 */
int lc_view_call(const char *name, int (*fn)(struct lc_view *view, void *arg), void *arg);

/* Which table events go to. @ti is the live one; or it goes away: was it that? May sleep. */
void lc_view_set_live(struct lc_view *view, struct dm_target *ti);
bool lc_view_not_live(struct lc_view *view, struct dm_target *ti);

/* Raises a dm event from a worker. Context: any. */
void lc_view_event(struct lc_view *view);

#endif
