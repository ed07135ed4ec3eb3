// SPDX-License-Identifier: GPL-2.0-only
/*
 * The copy engine: takes what a view holds to another device, grain by grain.
 *
 * All of it runs in the job's one work item. A piece is a run of grains:
 *
 *	plan -> [lock] -> read -> (bits cleared, unlocked, writer released) -> write
 *
 * The lock is for before-write jobs only: no guest write is under way in a locked
 * grain, and none can come that has not waited for the grain's bit to be cleared,
 * so what is read is the view at the job's line in time. Once a grain is in memory
 * its writer goes on: a slow destination holds guests up only when the job's
 * memory has run out. The background never waits for a lock, for then guests would
 * wait behind it for each other: what is locked is left for a later pass.
 *
 * Without a line in time nobody but the job looks at the bits: they are cleared when a
 * piece is planned, and set again if it is given back.
 *
 * Zeros are not read: their bits are cleared at once and the destination is told.
 *
 * Errors: a failed read leaves the bits set, so the same grains are planned again
 * after the verb resume; a failed write keeps its piece, with the data, on ->retry.
 */
#include <linux/bitmap.h>
#include <linux/blkdev.h>
#include <linux/ktime.h>

#include "job.h"
#include "layer.h"
#include "map.h"
#include "view.h"

/* A locked grain is looked at again after so long. */
#define LC_RESCAN_JIFFIES (HZ / 100 + 1)
/* How often the work item goes on at once before it lets others run. */
#define LC_ROUNDS 16

/* --- pieces and buffers --------------------------------------------------------- */

static sector_t grain_sector(struct lc_job *job, u64 grain)
{
	return min(grain << job->grain_shift, job->nr_sectors);
}

static unsigned int grain_bufs(struct lc_job *job)
{
	return (1u << job->grain_shift) / LC_BUF_SECTORS;
}

static sector_t piece_sectors(struct lc_piece *p)
{
	return grain_sector(p->job, p->grain + p->nr) - grain_sector(p->job, p->grain);
}

static struct lc_piece *piece_get(struct lc_job *job, struct lc_copy_waiter *wait)
{
	struct lc_piece *p = list_first_entry_or_null(&job->pieces, struct lc_piece, list);

	if (!p)
		return NULL;
	list_del_init(&p->list);
	p->wait = wait;
	p->zero = p->locked = false;
	p->status = BLK_STS_OK;
	p->nr_bufs = 0;
	atomic_inc(&job->inflight);
	if (wait)
		wait->inflight++;
	else
		job->background++;
	return p;
}

/* The writer's part ends, and the background's count, when the content is in memory. */
static void piece_unlock(struct lc_piece *p)
{
	if (p->locked)
		lc_unlock_range(&p->job->view->locks, &p->lock);
	p->locked = false;
}

static void piece_idle(struct lc_piece *p)
{
	if (atomic_dec_and_test(&p->job->inflight))
		wake_up(&p->job->view->jobs->idle);
}

static void piece_put(struct lc_piece *p)
{
	piece_unlock(p);
	lc_piece_put_bufs(p);
	if (!p->wait)
		p->job->background--;
	list_add(&p->list, &p->job->pieces);
	piece_idle(p);
}

/* The piece's grains are taken out of what is to be done; never while a writer may look. */
static void piece_claim(struct lc_piece *p)
{
	u64 i;

	for (i = 0; i < p->nr; i++)
		clear_bit(p->grain + i, p->job->todo);
	p->job->left -= p->nr;
}

/* Not done: the grains are in ->todo and will be planned again. */
static void piece_give_back(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	struct lc_copy_waiter *wait = p->wait;

	if (!job->before_write) {
		bitmap_set(job->todo, p->grain, p->nr);
		job->left += p->nr;
	}
	job->cursor = min(job->cursor, p->grain);
	if (wait) {
		wait->inflight--;
		wait->next = min(wait->next, p->grain);
		p->wait = NULL;
		job->background++;
	}
	piece_put(p);
}

/* --- what lies there ------------------------------------------------------------- */

static void slice_came(struct lc_job *job)
{
	/* the job may be gone when its work item has seen the count; it is freed by RCU */
	rcu_read_lock();
	if (atomic_dec_and_test(&job->parked))
		lc_job_kick(job);
	rcu_read_unlock();
}

static void slice_woken(struct lc_waiter *w, bool again)
{
	slice_came(container_of(w, struct lc_job_slice, waiter)->job);
}

static bool slice_there(struct lc_view *view, struct lc_waiter *w)
{
	u64 slice;

	return !lc_map_absent(view, w->key << LC_SLICE_SHIFT, 1, &slice);
}

/* Ask for the slice of @sector and for the next that are absent too. */
static void want_slices(struct lc_job *job, sector_t sector)
{
	struct lc_view *view = job->view;
	u64 block = sector >> view->block_shift, slice;
	unsigned int i;

	if (atomic_read(&job->parked))
		return;
	atomic_set(&job->parked, 1);
	for (i = 0; i < LC_JOB_AHEAD && block < view->nr_blocks; i++) {
		if (!lc_map_absent(view, block, min_t(u64, view->nr_blocks - block, 65536), &slice))
			break;
		job->slice[i].job = job;
		job->slice[i].waiter = (struct lc_waiter){
			.want = LC_WANT_SLICE, .key = slice, .wake = slice_woken,
		};
		atomic_inc(&job->parked);
		lc_park(view, &job->slice[i].waiter, slice_there);
		block = (slice + 1) << LC_SLICE_SHIFT;
	}
	slice_came(job);
}

enum kind { KIND_ABSENT, KIND_ZERO, KIND_DATA };

/* The kind of one grain that is not of one extent; @ext is its first. */
static enum kind mixed_kind(struct lc_job *job, u64 grain, struct lc_extent *ext)
{
	sector_t sector = grain_sector(job, grain), end = grain_sector(job, grain + 1);
	enum kind kind = KIND_ZERO;

	for (;;) {
		if (ext->type == LC_ABSENT)
			break;
		if (ext->type != LC_ZERO)
			kind = KIND_DATA;
		sector += ext->len;
		if (sector >= end)
			return kind;
		lc_map_extent(job->view, sector, end - sector, ext);
	}
	want_slices(job, sector);
	return KIND_ABSENT;
}

/* What the first of @nr grains is, and how many have that in one sweep (>= 1). */
static enum kind kind_of(struct lc_job *job, u64 grain, u64 nr, u64 *run)
{
	sector_t sector = grain_sector(job, grain), end = grain_sector(job, grain + nr);
	struct lc_extent ext;

	lc_map_extent(job->view, sector, end - sector, &ext);
	*run = 1;
	if (ext.type == LC_ABSENT) {
		want_slices(job, sector);
		return KIND_ABSENT;
	}
	if (sector + ext.len == end)
		*run = nr;
	else if (ext.len >> job->grain_shift)
		*run = ext.len >> job->grain_shift;
	else
		return mixed_kind(job, grain, &ext);
	return ext.type == LC_ZERO ? KIND_ZERO : KIND_DATA;
}

/* As kind_of(), to the end of the run; data at most @data_max grains. */
static enum kind look(struct lc_job *job, u64 grain, u64 nr, u64 data_max, u64 *run)
{
	enum kind kind = kind_of(job, grain, nr, run);
	u64 more;

	if (kind == KIND_ABSENT)
		return kind;
	if (kind == KIND_DATA)
		nr = min(nr, data_max);
	while (*run < nr && kind_of(job, grain + *run, nr - *run, &more) == kind)
		*run += more;
	*run = min(*run, nr);
	return kind;
}

/* The most that is copied as one piece: less when a low speed is to be kept evenly. */
static u64 data_max(struct lc_job *job)
{
	u64 sectors = min_t(u64, LC_PIECE_SECTORS, lc_rate_piece(&job->rate) >> SECTOR_SHIFT);

	return max_t(u64, 1, sectors >> job->grain_shift);
}

/* Zeros cost nothing but time under the lock, and requests to the destination. */
static u64 zero_max(struct lc_job *job)
{
	return max_t(u64, 1, (job->no_write_zeroes ? LC_PIECE_SECTORS : 65536) >>
				     job->grain_shift);
}

/* --- steps of a piece -------------------------------------------------------------- */

static void piece_write(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	struct block_device *bdev = READ_ONCE(job->dest->bdev);
	sector_t sector = job->dest->start + grain_sector(job, p->grain);

	p->step = LC_STEP_WRITE;
	p->status = BLK_STS_OK;
	atomic_set(&p->pending, 1);
	if (WARN_ON_ONCE(!bdev))
		p->status = BLK_STS_IOERR;
	else if (p->zero)
		lc_piece_submit_zeroes(p, bdev, sector, piece_sectors(p));
	else
		lc_piece_submit(p, REQ_OP_WRITE, bdev, sector, 0,
			      piece_sectors(p) << SECTOR_SHIFT);
	lc_piece_bio_end(p, BLK_STS_OK);
}

static void piece_flush(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	struct block_device *bdev = READ_ONCE(job->dest->bdev);

	p->step = LC_STEP_FLUSH;
	p->grain = p->nr = 0;
	p->status = BLK_STS_OK;
	atomic_set(&p->pending, 1);
	if (WARN_ON_ONCE(!bdev))
		p->status = BLK_STS_IOERR;
	else
		lc_piece_submit_flush(p, bdev);
	lc_piece_bio_end(p, BLK_STS_OK);
}

/* The old content is safe: writers may go on. */
static void piece_saved(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	struct lc_copy_waiter *wait = p->wait;

	if (job->before_write) {
		/* paired with the test in lc_copy_wants(): the read is over before the bit goes */
		smp_mb();
		piece_claim(p);
	}
	piece_unlock(p);
	if (wait) {
		p->wait = NULL;
		job->background++;
		lc_wait_read(wait);
	}
}

static void piece_read(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	sector_t first = grain_sector(job, p->grain), nr = piece_sectors(p), done = 0;
	struct lc_extent ext;

	p->step = LC_STEP_READ;
	p->status = BLK_STS_OK;
	atomic_set(&p->pending, 1);
	while (done < nr) {
		lc_map_extent(job->view, first + done, nr - done, &ext);
		if (ext.type == LC_ABSENT) {
			/* forgotten since it was planned: not an error, planned again */
			cmpxchg(&p->status, BLK_STS_OK, BLK_STS_AGAIN);
			break;
		}
		if (ext.type == LC_ERROR) {
			cmpxchg(&p->status, BLK_STS_OK, BLK_STS_IOERR);
			break;
		}
		if (ext.type == LC_ZERO)
			lc_piece_clear(p, done << SECTOR_SHIFT, ext.len << SECTOR_SHIFT);
		else
			lc_piece_submit(p, REQ_OP_READ, ext.layer->bdev, ext.sector, done << SECTOR_SHIFT,
				      ext.len << SECTOR_SHIFT);
		done += ext.len;
	}
	lc_piece_bio_end(p, BLK_STS_OK);
}

/* Grains, kind and memory are settled (and the lock held, if one is needed). */
static void piece_start(struct lc_piece *p, enum kind kind)
{
	struct lc_job *job = p->job;

	if (kind == KIND_ZERO) {
		p->zero = true;
		lc_piece_put_bufs(p);
		piece_saved(p);
		piece_write(p);
		return;
	}
	lc_rate_charge(&job->rate, (u64)piece_sectors(p) << SECTOR_SHIFT, ktime_get_ns());
	piece_read(p);
}

/* Lock the first of @nr grains and as many more as can be. Return: how many; 0: it is locked. */
static u64 piece_lock(struct lc_piece *p, u64 nr)
{
	struct lc_view *view = p->job->view;
	unsigned int shift = p->job->grain_shift - view->block_shift;
	u64 block = p->grain << shift, end;

	for (; nr; nr /= 2) {
		end = min((p->grain + nr) << shift, view->nr_blocks);
		p->locked = lc_trylock_range(&view->locks, &p->lock, block, end - block);
		if (p->locked)
			break;
	}
	return nr;
}

/* A background piece has its lock. What was planned without it may have changed. */
static void piece_locked(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	u64 end = p->grain + p->nr, run;
	enum kind kind;

	if (!test_bit(p->grain, job->todo)) {
		piece_give_back(p);
		return;
	}
	run = find_next_zero_bit(job->todo, end, p->grain) - p->grain;
	kind = look(job, p->grain, run, max_t(u64, 1, p->nr_bufs / grain_bufs(job)), &run);
	if (kind == KIND_ABSENT ||
	    (kind == KIND_DATA && !lc_piece_get_bufs(p, run * grain_bufs(job)))) {
		piece_give_back(p);
		return;
	}
	p->nr = run;
	job->cursor = min(job->cursor, p->grain + run);
	piece_start(p, kind);
}

u64 lc_copy_grains(struct lc_job *job, struct lc_copy_waiter *wait, u64 grain, u64 nr)
{
	unsigned int per = grain_bufs(job);
	struct lc_piece *p;
	enum kind kind;
	u64 run;

	kind = look(job, grain, nr, max_t(u64, 1, LC_PIECE_SECTORS >> job->grain_shift), &run);
	if (kind == KIND_ABSENT)
		return 0;
	if (kind == KIND_DATA)
		run = min_t(u64, run, job->nr_bufs / per);
	p = run ? piece_get(job, wait) : NULL;
	if (!p)
		return 0;
	p->grain = grain;
	p->nr = run;
	if (kind == KIND_DATA)
		lc_piece_get_bufs(p, run * per);
	/* A zero piece releases its writer's part within, before the caller moves on. */
	piece_start(p, kind);
	return run;
}

/* --- what came back ----------------------------------------------------------------- */

static void read_done(struct lc_piece *p)
{
	struct lc_copy_waiter *wait = p->wait;

	if (!p->status && !READ_ONCE(p->job->ending)) {
		piece_saved(p);
		piece_write(p);
		return;
	}
	if (p->status && p->status != BLK_STS_AGAIN) {
		if (wait)
			wait->failed = true;
		lc_job_fail(p->job, LC_SIDE_READ, blk_status_to_errno(p->status));
	}
	piece_give_back(p);
}

static void write_done(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	unsigned long flags;

	if (p->status == BLK_STS_NOTSUPP && p->zero && !job->no_write_zeroes &&
	    !READ_ONCE(job->ending)) {
		job->no_write_zeroes = true;
		piece_write(p);
		return;
	}
	if (p->status && lc_job_fail(job, LC_SIDE_WRITE, blk_status_to_errno(p->status))) {
		list_add_tail(&p->list, &job->retry);
		piece_idle(p);
		return;
	}
	if (!p->status && p->step == LC_STEP_WRITE) {
		spin_lock_irqsave(&job->lock, flags);
		job->copied += (u64)piece_sectors(p) << SECTOR_SHIFT;
		spin_unlock_irqrestore(&job->lock, flags);
	}
	if (!p->status && p->step == LC_STEP_FLUSH)
		job->flushed = true;
	piece_put(p);
}

static void reap(struct lc_job *job)
{
	struct lc_piece *p, *next;
	unsigned long flags;
	LIST_HEAD(done);

	spin_lock_irqsave(&job->lock, flags);
	list_splice_init(&job->done, &done);
	spin_unlock_irqrestore(&job->lock, flags);
	list_for_each_entry_safe(p, next, &done, list) {
		list_del_init(&p->list);
		switch (p->step) {
		case LC_STEP_READ:
			read_done(p);
			break;
		case LC_STEP_WRITE:
		case LC_STEP_FLUSH:
			write_done(p);
			break;
		}
	}
}

/* --- the background -------------------------------------------------------------------- */

/* Begin a piece of up to @run grains, which look like @kind. Return: false: no memory is free. */
static bool background_begin(struct lc_job *job, u64 grain, u64 run, enum kind kind)
{
	unsigned int bufs = kind == KIND_DATA ? run * grain_bufs(job) : 0;
	struct lc_piece *p;

	if (bufs && job->nr_bufs < bufs + LC_GUEST_BUFS)
		return false;
	p = piece_get(job, NULL);
	if (!p)
		return false;
	p->grain = grain;
	if (job->before_write) {
		run = piece_lock(p, run);
		if (!run) {
			job->skipped = min(job->skipped, grain);
			job->cursor = grain + 1;
			piece_put(p);
			return true;
		}
	}
	p->nr = run;
	job->cursor = grain + run;
	lc_piece_get_bufs(p, bufs);
	if (job->before_write) {
		piece_locked(p);
	} else {
		piece_claim(p);
		piece_start(p, kind);
	}
	return true;
}

/* Begin the next piece. Return: false: there is none now. */
static bool background_piece(struct lc_job *job)
{
	u64 grain, run;
	enum kind kind;

	grain = find_next_bit(job->todo, job->nr_grains, job->cursor);
	job->cursor = grain;
	if (grain >= job->nr_grains)
		return false;
	run = find_next_zero_bit(job->todo, min(grain + zero_max(job), job->nr_grains), grain) -
	      grain;
	kind = look(job, grain, run, data_max(job), &run);
	return kind != KIND_ABSENT && background_begin(job, grain, run, kind);
}

static bool background_may(struct lc_job *job)
{
	return READ_ONCE(job->view->jobs->live) && READ_ONCE(job->state) == LC_JOB_RUNNING &&
	       !READ_ONCE(job->ending) && job->background < LC_BACKGROUND_PIECES;
}

/* Return: jiffies until there may be more to do; MAX_SCHEDULE_TIMEOUT: when something comes. */
static unsigned long background(struct lc_job *job)
{
	u64 delay;

	while (background_may(job)) {
		delay = lc_rate_delay(&job->rate, ktime_get_ns());
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
	return MAX_SCHEDULE_TIMEOUT;
}

/* Everything is read and written: the destination's cache, then the end. */
static void finish(struct lc_job *job)
{
	struct lc_piece *p;

	if (atomic_read(&job->inflight) || !background_may(job) || !list_empty(&job->retry))
		return;
	if (job->left) {
		/* what a guest needed was not to be had */
		if (job->cursor >= job->nr_grains && list_empty(&job->waits)) {
			job->cursor = 0;
			lc_job_kick(job);
		}
		return;
	}
	if (job->flushed) {
		lc_job_end(job, LC_SIDE_WRITE, 0);
		return;
	}
	p = piece_get(job, NULL);
	if (p)
		piece_flush(p);
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
	retry = job->retry_now && job->view->jobs->live;
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
	list_for_each_entry_safe(p, next, &job->retry, list) {
		list_del_init(&p->list);
		atomic_inc(&job->inflight);
		if (p->step == LC_STEP_FLUSH)
			piece_flush(p);
		else
			piece_write(p);
	}
}

/* The result is decided: let everybody go, and conclude when the last I/O is back. */
static void wind_up(struct lc_job *job)
{
	struct lc_piece *p, *next;
	unsigned int i;

	lc_cbw_remove(job);
	for (i = 0; i < LC_JOB_PIECES; i++) {
		p = &job->piece_mem[i];
		if (p->wait)
			job->background++;
		p->wait = NULL;
	}
	lc_waits_release(job);
	list_for_each_entry_safe(p, next, &job->retry, list) {
		list_del_init(&p->list);
		atomic_inc(&job->inflight);
		piece_put(p);
	}
	for (i = 0; i < LC_JOB_AHEAD && atomic_read(&job->parked); i++)
		if (job->slice[i].job && lc_unpark(job->view, &job->slice[i].waiter))
			slice_came(job);
	if (!atomic_read(&job->inflight) && !atomic_read(&job->parked))
		lc_job_conclude(job);
}

/* What a writer has waited for too long: reads, or memory that writes hold. */
static enum lc_job_side stuck_side(struct lc_job *job)
{
	struct lc_copy_waiter *w = list_first_entry(&job->waits, struct lc_copy_waiter, list);

	return w->inflight || w->failed ? LC_SIDE_READ : LC_SIDE_WRITE;
}

static bool has_done(struct lc_job *job)
{
	return !list_empty_careful(&job->done);
}

/* Return: jiffies until it is to run again, if nothing comes; MAX_SCHEDULE_TIMEOUT: never. */
static unsigned long run(struct lc_job *job)
{
	unsigned long wake = MAX_SCHEDULE_TIMEOUT, due;

	take_orders(job);
	reap(job);
	if (!READ_ONCE(job->ending)) {
		if (READ_ONCE(job->view->jobs->noflush))
			lc_waits_requeue(job);
		else
			lc_waits_serve(job);
		wake = background(job);
	}
	if (!job->left)
		lc_cbw_remove(job);
	if (!READ_ONCE(job->ending))
		finish(job);
	due = lc_waits_due(job);
	if (!due)
		lc_job_end(job, stuck_side(job), -ETIMEDOUT);
	if (READ_ONCE(job->ending))
		wind_up(job);
	return min(wake, due);
}

void lc_copy_work(struct work_struct *work)
{
	struct lc_job *job = container_of(to_delayed_work(work), struct lc_job, work);
	struct lc_jobs *jobs = job->view->jobs;
	unsigned long wake = MAX_SCHEDULE_TIMEOUT;
	unsigned int rounds;

	atomic_inc(&jobs->running);
	/* paired with the one in lc_jobs_quiesce() */
	smp_mb__after_atomic();
	/* A fast device has completed by now what was begun; but others want to run, too. */
	for (rounds = 0; rounds < LC_ROUNDS && READ_ONCE(job->state) != LC_JOB_CONCLUDED; rounds++) {
		wake = run(job);
		if (!has_done(job))
			break;
	}
	if (wake != MAX_SCHEDULE_TIMEOUT && READ_ONCE(job->state) != LC_JOB_CONCLUDED)
		lc_job_wake(job, wake);
	if (atomic_dec_and_test(&jobs->running))
		wake_up(&jobs->idle);
}
