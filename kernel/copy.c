// SPDX-License-Identifier: GPL-2.0-only
/*
 * The copy engine: takes what a view holds to another device, grain by grain.
 *
 * All of it runs in the job's one work item, which plans the background's pieces (copy-piece.c has
 * their life), serves guests' writes, and finds the end.
 *
 * The background never waits for a lock, for then guests would wait behind it for each other: what
 * is locked is left for a later pass. What a guest's write to both sides is in the way of is
 * left, too; but then no other such write is begun there before the background has had its turn, or a
 * guest that writes all the time would keep the job from getting ready.
 */
#include <linux/bitmap.h>
#include <linux/ktime.h>

#include "access.h"
#include "job.h"
#include "view.h"

/* A locked grain is looked at again after so long. */
#define LC_RESCAN_JIFFIES (HZ / 100 + 1)
/* A tracking job gets ready in so many rounds, and the one after it; then a round begins so often. */
#define LC_TRACK_ROUNDS 3
#define LC_TRACK_PERIOD (HZ / 10)

/* So many zeros are passed at once where nothing has to be written for them. */
#define LC_ZERO_THERE_SECTORS (1ULL << 18)

/* --- how much at once ------------------------------------------------------------- */

/* The most that is copied as one piece: less when a low speed is to be kept evenly. */
static u64 data_max(struct lc_job *job)
{
	u64 sectors = min_t(u64, LC_PIECE_SECTORS, lc_rate_piece(&job->rate) >> SECTOR_SHIFT);

	return max_t(u64, 1, sectors >> job->grain_shift);
}

/* Zeros cost time under the lock, and requests to the destination, unless they are there already. */
static u64 zero_max(struct lc_job *job, u64 grain)
{
	u64 there = max_t(u64, 1, LC_ZERO_THERE_SECTORS >> job->grain_shift);
	u64 end = min(grain + there, job->nr_grains);

	if (job->written && find_next_bit(job->written, end, grain) >= end)
		return there;
	return max_t(u64, 1, (job->no_write_zeroes ? LC_PIECE_SECTORS : 65536) >>
				     job->grain_shift);
}

/* --- the background -------------------------------------------------------------------- */

/* Begin a piece of up to @run grains, which look like @kind. Return: false: no memory is free. */
static bool background_begin(struct lc_job *job, u64 grain, u64 run, enum lc_kind kind)
{
	unsigned int bufs = kind == LC_KIND_DATA ? lc_grain_bufs(job, run) : 0;
	struct lc_piece *p;

	if (bufs && job->nr_bufs < bufs + LC_GUEST_BUFS)
		return false;
	p = lc_piece_get(job, NULL);
	if (!p)
		return false;
	p->grain = grain;
	if (job->before_write) {
		run = lc_piece_lock(p, run);
		if (!run) {
			job->skipped = min(job->skipped, grain);
			job->cursor = grain + 1;
			lc_piece_put(p);
			return true;
		}
	}
	lc_piece_set(p, grain, run);
	job->cursor = grain + run;
	lc_piece_get_bufs(p, bufs);
	lc_piece_begin(p, kind);
	return true;
}

/* J2: nothing is begun that overlaps a piece in hand. */
u64 lc_idle_grains(struct lc_job *job, u64 grain, u64 nr)
{
	sector_t first = lc_grain_sector(job, grain);

	while (nr && lc_track_busy(job, first, lc_grain_sector(job, grain + nr) - first))
		nr /= 2;
	return nr;
}

/* Begin the next piece. Return: false: there is none now. */
static bool background_piece(struct lc_job *job)
{
	u64 grain, run;
	enum lc_kind kind;

	grain = find_next_bit(job->todo, job->nr_grains, job->cursor);
	job->cursor = grain;
	if (grain >= job->nr_grains)
		return false;
	run = find_next_zero_bit(job->todo, min(grain + zero_max(job, grain), job->nr_grains), grain) -
	      grain;
	if (job->track) {
		run = lc_idle_grains(job, grain, run);
		if (!run) {
			job->turn = min(job->turn, grain);
			job->cursor = grain + 1;
			return true;
		}
	}
	kind = lc_copy_look(job, grain, run, data_max(job), &run);
	return kind != LC_KIND_ABSENT && background_begin(job, grain, run, kind);
}

static bool background_may(struct lc_job *job)
{
	return !job->on_demand && (READ_ONCE(job->view->jobs->live) || READ_ONCE(job->draining)) &&
	       lc_job_runs(READ_ONCE(job->state)) && !READ_ONCE(job->ending) &&
	       job->background < LC_BACKGROUND_PIECES;
}

/* Return: jiffies until there may be more to do; MAX_SCHEDULE_TIMEOUT: when something comes. */
static unsigned long background(struct lc_job *job)
{
	u64 delay;

	job->cursor = min(job->cursor, job->turn);
	job->turn = U64_MAX;
	while (background_may(job)) {
		delay = READ_ONCE(job->draining) ? 0 : lc_rate_delay(&job->rate, ktime_get_ns());
		if (delay)
			return min_t(u64, nsecs_to_jiffies64(delay) + 1, HZ * 3600);
		if (!background_piece(job))
			break;
	}
	if (job->skipped != U64_MAX && job->cursor >= job->nr_grains) {
		/* what was locked is looked at again by the next run, in a while */
		job->cursor = job->skipped;
		job->skipped = U64_MAX;
		return LC_RESCAN_JIFFIES;
	}
	/* a slice that is absent can't be waited for while suspended */
	return READ_ONCE(job->draining) ? LC_RESCAN_JIFFIES : MAX_SCHEDULE_TIMEOUT;
}

static void begin_flush(struct lc_job *job)
{
	struct lc_piece *p = lc_piece_get(job, NULL);

	if (p)
		lc_piece_flush(p);
}

/* J3: after LC_TRACK_ROUNDS rounds what a guest writes is copied before it is acknowledged. */
static unsigned long next_round(struct lc_job *job)
{
	bool running = READ_ONCE(job->state) == LC_JOB_RUNNING;
	unsigned long flags;

	job->cursor = 0;
	if (running && ++job->rounds >= LC_TRACK_ROUNDS && !job->converge) {
		spin_lock_irqsave(&job->lock, flags);
		job->converge = true;
		__lc_track_update(job);
		spin_unlock_irqrestore(&job->lock, flags);
	}
	/* what is left may be in the way of a guest's write that is just being copied */
	if (running || READ_ONCE(job->eager) || READ_ONCE(job->draining))
		return list_empty(&job->active) ? 0 : 1;
	return LC_TRACK_PERIOD;
}

/* No piece of the background is in hand: another round, ready, or the end. Return: as run(). */
static unsigned long track_finish(struct lc_job *job)
{
	bool draining = READ_ONCE(job->draining);

	if (atomic64_read(&job->left) > 0)
		return job->cursor < job->nr_grains ? MAX_SCHEDULE_TIMEOUT : next_round(job);
	if (READ_ONCE(job->state) == LC_JOB_READY && !draining)
		return MAX_SCHEDULE_TIMEOUT;
	if (!job->flushed)
		begin_flush(job);
	else if (draining)
		lc_job_drained(job);
	else
		lc_job_is_ready(job);
	return MAX_SCHEDULE_TIMEOUT;
}

/* Everything is read and written: the destination's cache, then the end. Return: as run(). */
static unsigned long finish(struct lc_job *job)
{
	if (job->background || !background_may(job) || !list_empty(&job->retry))
		return MAX_SCHEDULE_TIMEOUT;
	if (job->track)
		return track_finish(job);
	if (atomic_read(&job->inflight))
		return MAX_SCHEDULE_TIMEOUT;
	if (atomic64_read(&job->left)) {
		/* what a guest needed was not to be had */
		if (job->cursor >= job->nr_grains && list_empty(&job->waits)) {
			job->cursor = 0;
			return 0;
		}
		return MAX_SCHEDULE_TIMEOUT;
	}
	if (job->flushed)
		lc_job_end(job, LC_SIDE_WRITE, 0);
	else
		begin_flush(job);
	return MAX_SCHEDULE_TIMEOUT;
}

/* --- the work item ------------------------------------------------------------------------ */

/* Take over what messages asked for. */
static void take_orders(struct lc_job *job)
{
	struct lc_piece *p, *next;
	struct lc_copy_waiter *wait;
	unsigned long flags;
	bool retry, speed;

	spin_lock_irqsave(&job->lock, flags);
	if (job->drain_new)
		job->flushed = false;
	job->drain_new = false;
	retry = job->retry_now && (job->view->jobs->live || job->draining);
	if (retry)
		job->retry_now = false;
	speed = job->speed_new;
	job->speed_new = false;
	if (speed)
		lc_rate_set(&job->rate, job->speed, ktime_get_ns());
	spin_unlock_irqrestore(&job->lock, flags);
	if (!retry)
		return;
	list_for_each_entry(wait, &job->waits, list)
		wait->failed = false;
	list_for_each_entry_safe(p, next, &job->retry, list)
		lc_piece_again(p);
}

/* The result is decided: let everybody go, and conclude when the last I/O is back. */
static void wind_up(struct lc_job *job)
{
	struct lc_piece *p, *next;
	unsigned int i;

	lc_cbw_remove(job);
	lc_track_remove(job);
	lc_track_serve(job);
	for (i = 0; i < LC_JOB_PIECES; i++)
		if (job->piece_mem[i].wait)
			lc_piece_to_background(&job->piece_mem[i]);
	lc_waits_release(job);
	list_for_each_entry_safe(p, next, &job->retry, list)
		lc_piece_forget(p);
	lc_copy_unpark(job);
	if (!atomic_read(&job->inflight) && !atomic_read(&job->parked))
		lc_job_conclude(job);
}

/* What a writer has waited for too long: reads, or memory that writes hold. */
static enum lc_job_side stuck_side(struct lc_job *job)
{
	struct lc_copy_waiter *w = list_first_entry(&job->waits, struct lc_copy_waiter, list);

	return w->inflight || w->failed ? LC_SIDE_READ : LC_SIDE_WRITE;
}

unsigned long lc_copy_run(struct lc_job *job)
{
	unsigned long wake = MAX_SCHEDULE_TIMEOUT, due;

	take_orders(job);
	lc_piece_reap(job);
	if (!READ_ONCE(job->ending)) {
		if (READ_ONCE(job->view->jobs->noflush))
			lc_waits_requeue(job);
		else
			lc_waits_serve(job);
		lc_access_serve(job);
		wake = background(job);
		lc_track_serve(job);
	}
	if (!job->track && !atomic64_read(&job->left))
		lc_cbw_remove(job);
	if (!READ_ONCE(job->ending))
		wake = min(wake, finish(job));
	wake = min(wake, lc_track_due(job));
	due = lc_waits_due(job);
	if (!due && job->break_guest) {
		lc_waits_expire(job);
		due = lc_waits_due(job);
	}
	if (!due)
		lc_job_end(job, stuck_side(job), -ETIMEDOUT);
	if (READ_ONCE(job->ending))
		wind_up(job);
	return min(wake, due);
}
