/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Jobs, as the rest of the target sees them. job.c and copy.c implement this.
 */
#ifndef LC_COPY_H
#define LC_COPY_H

#include <linux/rcupdate.h>
#include "view.h"

/* One who waits for a copy to be made before it may change blocks. */
struct lc_copy_waiter {
	struct list_head list;		/* the jobs' own */
	u64 first, nr;			/* blocks */
	/*
	 * Called exactly once, in any context, no lock held; must not sleep. 0: go on (copied, or
	 * the job has failed or ended). BLK_STS_DM_REQUEUE: being suspended; the bio is requeued.
	 * BLK_STS_IOERR: not copied, and the job wants the write to fail.
	 */
	void (*done)(struct lc_copy_waiter *w, blk_status_t status);

	/* private: beforewrite.c */
	struct lc_view *view;
	struct lc_job *job;
	u64 next, end;			/* grains that are not begun yet */
	unsigned int inflight;		/* pieces being read */
	bool failed;			/* a read failed; not begun again before the verb resume */
	unsigned long since;		/* jiffies */
};

bool __lc_copy_wants(struct lc_view *view, u64 first_block, u64 nr);

/**
 * lc_copy_wants() - must one of these blocks be copied before it is changed
 *
 * Context: any, under rcu_read_lock(). Once false for a block it stays so until the next
 * suspend.
 */
static inline bool lc_copy_wants(struct lc_view *view, u64 first_block, u64 nr)
{
	if (likely(!rcu_access_pointer(view->cbw)))
		return false;
	return __lc_copy_wants(view, first_block, nr);
}

/**
 * lc_copy_before_write() - copy the blocks of @w that still must be
 *
 * The caller holds the lock of all copy grains that the range touches (view->copy_shift), so the copy
 * takes none; every slice of these grains is loaded. Others may ask for the same grain at the same time
 * only if it is not locked, that is never.
 * Context: process (view->wq), may sleep for memory (GFP_NOIO) only.
 * Return: true if nothing is to be waited for; @w->done is not called then.
 */
bool lc_copy_before_write(struct lc_view *view, struct lc_copy_waiter *w);

/*
 * A guest's write, as a tracking job sees it. In the bio's per-bio data, valid from map to its
 * acknowledgement.
 */
struct lc_track_io {
	sector_t sector, nr;		/* nr 0: there is nothing to be told */

	/* private: track.c */
	struct list_head list;
	struct bio *bio;
	struct lc_piece *piece;		/* that copies it */
	unsigned long since;		/* jiffies */
};

void __lc_track_note(struct lc_view *view, struct bio *bio, struct lc_track_io *t);
bool __lc_track_done(struct lc_view *view, struct bio *bio, struct lc_track_io *t, bool good);

/**
 * lc_track_note() - a write is about to be mapped; its sectors are noted
 *
 * May cut the bio. Context: the map method. Tracking begins while suspended only, so whoever finds a job when
 * the write has completed has found it here, too.
 */
static inline void lc_track_note(struct lc_view *view, struct bio *bio, struct lc_track_io *t)
{
	if (unlikely(rcu_access_pointer(view->track)))
		__lc_track_note(view, bio, t);
}

/**
 * lc_track_done() - a write has completed, and is not acknowledged yet
 *
 * Context: any. Return: true: the job keeps the bio for now, and calls its bi_end_io again.
 */
static inline bool lc_track_done(struct lc_view *view, struct bio *bio, struct lc_track_io *t,
				 bool good)
{
	return unlikely(rcu_access_pointer(view->track)) && __lc_track_done(view, bio, t, good);
}

/* Life of a view's jobs. lc_jobs_exit() is called with nothing in flight. */
int lc_jobs_init(struct lc_view *view, char **error);
void lc_jobs_exit(struct lc_view *view);

/*
 * lc_jobs_quiesce(): presuspend. No new background I/O; what guests' writes need is still copied
 * (or turned away with BLK_STS_DM_REQUEUE when it can't be now and @noflush). Must not wait for guests' bios.
 * lc_jobs_wait(): postsuspend. Returns when no I/O of a job is in flight.
 * lc_jobs_resume(): resume, also after a presuspend that was undone.
 */
void lc_jobs_quiesce(struct lc_view *view, bool noflush);
void lc_jobs_wait(struct lc_view *view);
void lc_jobs_resume(struct lc_view *view);

/* The live table goes away while suspended: no job's I/O is in flight afterwards. */
void lc_jobs_stop(struct lc_view *view);

/* Whether a job that has not concluded writes to the layer. Under view->mutex. */
bool lc_jobs_use_layer(struct lc_view *view, const struct lc_layer *layer);

/*
 * Messages `copy`, `promote` and `job`, argv[0] is the verb. Called under view->mutex; @ti is the live target. Return 0, or an
 * errno after a sentence in the log (lc_refuse(), message.h).
 */
int lc_message_copy(struct lc_view *view, struct dm_target *ti, unsigned int argc, char **argv);
int lc_message_promote(struct lc_view *view, struct dm_target *ti, unsigned int argc, char **argv);
int lc_message_job(struct lc_view *view, struct dm_target *ti, unsigned int argc, char **argv);

/* Emits " <#jobs> {...}*" as the status line wants it. Under view->mutex. */
void lc_jobs_status(struct lc_view *view, char *result, unsigned int maxlen, unsigned int *sz);

#endif
