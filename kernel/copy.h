/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copy jobs: what the core (map, write, message, status, suspend) calls, and,
 * at the end, what a job needs from the core.
 *
 * A before-write job keeps one bit for each grain that it has still to read.
 * The line in time is drawn while the view is suspended, so no write is in
 * flight when the bits appear; from then on a write that touches a set bit takes
 * the slow path, locks its range (widened to the job's grains), and waits in
 * lc_copy_before_write() until the old content is in the job's memory. A bit is
 * cleared under the block lock of its grain and is never set again.
 */
#ifndef LC_COPY_H
#define LC_COPY_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/types.h>
#include <linux/wait.h>

struct lc_view;
struct lc_job;

/*
 * Embedded in struct lc_view as `jobs`.
 *
 * @cbw: before-write jobs that still hold set bits; changed under @lock, walked
 *	under RCU by the map path.
 */
struct lc_jobs {
	struct list_head cbw;
	struct mutex lock;		/* guards @list, states, results */
	struct list_head list;		/* all jobs, oldest first */
	bool live;			/* between resume and presuspend */
	bool noflush;			/* being suspended with noflush */
	wait_queue_head_t idle;		/* woken when a job's last I/O ends */
};

/* May sleep; at the view's birth and death. No job is in flight at exit. */
void lc_jobs_init(struct lc_view *view);
void lc_jobs_exit(struct lc_view *view);

bool __lc_copy_wants(struct lc_view *view, u64 block, u64 nr);

/**
 * lc_copy_wants() - Must a change of these blocks wait for a job?
 *
 * The map path's question before it writes in place. Under rcu_read_lock; cheap when
 * there is no before-write job.
 */
#define lc_copy_wants(view, block, nr) \
	(!list_empty(&(view)->jobs.cbw) && __lc_copy_wants(view, block, nr))

/**
 * lc_copy_round() - Widen a range of blocks to the grains of all before-write jobs.
 *
 * Whoever is going to change blocks calls this before it locks them. The result does not
 * reach past the end of the view.
 */
void lc_copy_round(struct lc_view *view, u64 *block, u64 *nr);

/*
 * One wait of a writer for old content to be saved. The range must stay locked from before the
 * call until @fn. @fn is called from a workqueue, at most once: with 0 the blocks may be
 * changed; with BLK_STS_DM_REQUEUE the view is being suspended (noflush) and the
 * writer must give up its lock and requeue its bios.
 */
struct lc_copy_wait {
	void (*fn)(struct lc_copy_wait *wait, blk_status_t status);
	u64 block, nr;			/* set by the caller, as locked */
	/* the job's own: */
	struct list_head list;
	struct lc_job *job;
	u64 next, end;			/* grains: not begun yet */
	unsigned int inflight;		/* pieces being read */
	unsigned long since;		/* jiffies */
};

/**
 * lc_copy_before_write() - Have the old content of locked blocks saved.
 *
 * Never sleeps; process context. Return: true: nothing to wait for, @fn will not be called.
 */
bool lc_copy_before_write(struct lc_view *view, struct lc_copy_wait *wait);

/**
 * lc_jobs_kick() - Something jobs may wait for has come (slices loaded).
 *
 * Any context.
 */
void lc_jobs_kick(struct lc_view *view);

/*
 * Suspend, in this order: lc_jobs_quiesce() in presuspend: no new background I/O; with
 * @noflush writers that wait and cannot be served at once are called back with
 * BLK_STS_DM_REQUEUE. lc_jobs_drain() in postsuspend: waits until nothing of any job is in
 * flight. lc_jobs_resume() in resume (and presuspend_undo): jobs start or go on.
 */
void lc_jobs_quiesce(struct lc_view *view, bool noflush);
void lc_jobs_drain(struct lc_view *view);
void lc_jobs_resume(struct lc_view *view);

/** lc_jobs_use_layer() - Does a job that is not concluded write to layer @id? */
bool lc_jobs_use_layer(struct lc_view *view, unsigned int id);

/*
 * Messages `copy` and `job`; argv[0] is the first word after the verb. On an error *@why is a
 * sentence's reason for the log.
 */
int lc_msg_copy(struct lc_view *view, unsigned int argc, char **argv, const char **why);
int lc_msg_job(struct lc_view *view, unsigned int argc, char **argv, const char **why);

/** lc_jobs_status() - Append "<#jobs> {...}*" to a status line. Return: the new sz. */
unsigned int lc_jobs_status(struct lc_view *view, char *result, unsigned int maxlen,
			    unsigned int sz);

/* The module's own: workqueue, bio set. */
int lc_copy_module_init(void);
void lc_copy_module_exit(void);

/*
 * What a job needs from the core (declared in the core's own headers; named here so that
 * both sides agree):
 *
 * view->{name, length (sectors), block_sectors, nr_blocks}
 * lc_map_extent(view, sector, nr_sectors, struct lc_extent *ext)
 *	What lies at @sector: ext->kind (absent, zero, data), ext->nr_sectors (<= nr_sectors,
 *	contiguous, walked cheaply over entries and slices), for data ext->bdev and ext->sector.
 *	Never sleeps.
 * lc_map_want(view, block)
 *	Ask for the absent slice of a block; lc_jobs_kick() comes when a `map` message filled
 *	something.
 * lc_block_lock(view, struct lc_block_lock *l, block, nr, fn)
 *	true: locked at once; false: fn(l) is called (process or softirq context) when it is.
 * lc_block_unlock(view, l)
 * lc_layer_bdev(view, id, sector_t *start)
 *	The live table's device of a layer; NULL if it has none. Valid until the suspend has drained.
 * lc_view_event(view)
 *	Raise a dm event from a worker. Any context.
 */

#endif
