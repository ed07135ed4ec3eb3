// SPDX-License-Identifier: GPL-2.0-only
/*
 * The promote job: blocks of some layers get a copy of their own in the active layer.
 *
 * The map is walked grain by grain. What is to be promoted goes the way of a guest's write that writes
 * nothing: lock, space, read, write, new entries, recorded by the next commit (write.c). So whatever
 * holds for guests' writes holds here: what the guest writes before the lock is
 * found in the active layer, what it writes behind the lock replaces the copy (P1 in
 * Documentation/design/jobs.rst).
 *
 * The work item plans, and reaps ios that have ended; their steps run in view->wq as those of guests'
 * ios do. A grain whose io did not end well has its bit set again.
 */
#include <linux/bitmap.h>
#include <linux/ktime.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "io.h"
#include "job.h"
#include "layer.h"
#include "view.h"

#define LC_PROMOTE_IOS 16
/* Who has to be sent off is looked for so often, for an io may be about to park. */
#define LC_END_JIFFIES (HZ / 50 + 1)

struct lc_promote_io {
	struct lc_io io;
	struct lc_job *job;
	struct list_head list;	/* ->free, or ->done under job->lock */
	u64 grain, nr;		/* 0: the commit */
	unsigned int resumes;	/* the job's when it was begun */
};

struct lc_promote {
	struct list_head free;	/* the work item's */
	struct list_head done;	/* job->lock */
	bool committed;
	unsigned int resumes; /* so often it has gone on after an error; the work item's */
	struct lc_promote_io ios[LC_PROMOTE_IOS];
};

/* --- an io: its steps, under the lock of its grains ------------------------------------ */

static struct lc_job *job_of(struct lc_io *io)
{
	return container_of(io, struct lc_promote_io, io)->job;
}

/* What is to become of the grain of @nr blocks. */
static enum lc_kind grain_kind(struct lc_job *job, u64 block, u64 nr)
{
	bool wanted = false, zero = true;
	u64 e;

	for (; nr; nr--, block++) {
		e = lc_map_entry(job->view, block);
		if (lc_entry_type(e) == LC_ERROR || !test_bit(lc_entry_layer(e), job->skip))
			wanted = true;
		zero = zero && lc_entry_type(e) == LC_ZERO;
	}
	if (!wanted)
		return LC_KIND_SKIP;
	return zero && job->view->active->format.has_plain_zero ? LC_KIND_ZERO : LC_KIND_DATA;
}

/* The kind of the grain that begins at sector @at. */
static enum lc_kind kind_at(struct lc_io *io, sector_t at)
{
	const unsigned int bs = io->view->block_shift;
	u64 block = at >> bs, nr = 1ULL << (io->grain_shift - bs);

	return grain_kind(job_of(io), block, min(nr, io->view->nr_blocks - block));
}

static bool promote_step(struct lc_io *io);

static bool promote_start(struct lc_io *io)
{
	return lc_io_lock(io, promote_step);
}

static bool promote_copied(struct lc_io *io)
{
	io->pos = io->whole_end;
	io->step = promote_step;
	return true;
}

/* The grain at io->pos, and what follows and is data too, gets a copy. */
static bool promote_data(struct lc_io *io)
{
	const sector_t grain = 1ULL << io->grain_shift;
	const sector_t most = max_t(sector_t, grain, LC_BUF_SECTORS);

	io->whole = io->pos;
	io->whole_end = io->pos + grain;
	while (io->whole_end < io->locked_end && io->whole_end - io->whole < most &&
	       kind_at(io, io->whole_end) == LC_KIND_DATA)
		io->whole_end += grain;
	return lc_write_copy(io, promote_copied);
}

static bool promote_zero(struct lc_io *io)
{
	struct lc_view *view = io->view;
	u64 block = io->pos >> view->block_shift;
	u64 nr = min(1ULL << (io->grain_shift - view->block_shift), view->nr_blocks - block);

	if (!lc_io_homes(io, block, nr))
		return false;
	lc_map_prepare(view, block, nr);
	lc_io_change(io, block, nr, lc_entry_zero(view->active->id));
	io->pos += 1ULL << io->grain_shift;
	return true;
}

static bool promote_step(struct lc_io *io)
{
	io->step = promote_step;
	if (READ_ONCE(job_of(io)->ending) || !READ_ONCE(io->view->jobs->live))
		io->status = BLK_STS_DM_REQUEUE;
	else if (READ_ONCE(io->view->fail))
		io->status = BLK_STS_IOERR;
	if (io->status)
		return lc_io_finish(io);
	if (io->pos >= io->locked_end) {
		lc_io_unlock(io);
		return io->pos >= io->end ? lc_io_finish(io) : promote_start(io);
	}
	switch (kind_at(io, io->pos)) {
	case LC_KIND_DATA:
		return promote_data(io);
	case LC_KIND_ZERO:
		return promote_zero(io);
	case LC_KIND_SKIP:
	case LC_KIND_ABSENT:
		break;
	}
	io->pos += 1ULL << io->grain_shift;
	return true;
}

static bool commit_step(struct lc_io *io)
{
	lc_commit_join(io->view, io);
	return false;
}

/* Any context. */
static void io_done(struct lc_io *io)
{
	struct lc_promote_io *p = container_of(io, struct lc_promote_io, io);
	struct lc_job *job = p->job;
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	list_add_tail(&p->list, &job->promote->done);
	/* within the lock: the job may be gone when its work item has seen it */
	lc_job_kick(job);
	spin_unlock_irqrestore(&job->lock, flags);
}

/* --- the work item ------------------------------------------------------------------------ */

static u64 grains_bytes(struct lc_job *job, u64 grain, u64 nr)
{
	return (lc_grain_sector(job, grain + nr) - lc_grain_sector(job, grain)) << SECTOR_SHIFT;
}

static void claim(struct lc_job *job, u64 grain, u64 nr)
{
	bitmap_clear(job->todo, grain, nr);
	atomic64_sub(nr, &job->left);
	job->cursor = grain + nr;
}

static void count(struct lc_job *job, u64 bytes)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	job->copied += bytes;
	spin_unlock_irqrestore(&job->lock, flags);
}

static void io_ended(struct lc_promote_io *p)
{
	struct lc_job *job = p->job;

	if (!p->io.status) {
		count(job, grains_bytes(job, p->grain, p->nr));
		if (!p->nr)
			job->promote->committed = true;
	} else {
		bitmap_set(job->todo, p->grain, p->nr);
		atomic64_add(p->nr, &job->left);
		job->cursor = min(job->cursor, p->grain);
		/* of what was begun before the resume an error says nothing: it is tried again */
		if (p->io.status != BLK_STS_DM_REQUEUE && p->resumes == job->promote->resumes)
			lc_job_fail(job, p->io.read_failed ? LC_SIDE_READ : LC_SIDE_WRITE,
				    blk_status_to_errno(p->io.status));
	}
	list_add(&p->list, &job->promote->free);
	if (atomic_dec_and_test(&job->inflight))
		wake_up(&job->view->jobs->idle);
}

static void reap(struct lc_job *job)
{
	struct lc_promote_io *p, *next;
	unsigned long flags;
	LIST_HEAD(done);

	spin_lock_irqsave(&job->lock, flags);
	list_splice_init(&job->promote->done, &done);
	if (job->speed_new)
		lc_rate_set(&job->rate, job->speed, ktime_get_ns());
	if (job->retry_now)
		job->promote->resumes++;
	job->speed_new = job->retry_now = false;
	spin_unlock_irqrestore(&job->lock, flags);
	list_for_each_entry_safe(p, next, &done, list) {
		list_del_init(&p->list);
		io_ended(p);
	}
}

/* Begin an io. Return: false: as many as may be are under way. */
static bool io_begin(struct lc_job *job, u64 grain, u64 nr, bool (*start)(struct lc_io *io))
{
	struct lc_promote_io *p;

	p = list_first_entry_or_null(&job->promote->free, struct lc_promote_io, list);
	if (!p)
		return false;
	list_del_init(&p->list);
	atomic_inc(&job->inflight);
	p->grain = grain;
	p->nr = nr;
	p->resumes = job->promote->resumes;
	lc_io_init_job(&p->io, job->view, lc_grain_sector(job, grain),
		       lc_grain_sector(job, grain + nr), start, io_done);
	lc_io_queue(&p->io);
	return true;
}

/* Go on with the next grains. Return: false: there is nothing to be done now. */
static bool next(struct lc_job *job)
{
	u64 grain = find_next_bit(job->todo, job->nr_grains, job->cursor), run;
	enum lc_kind kind;

	job->cursor = grain;
	if (grain >= job->nr_grains)
		return false;
	run = find_next_zero_bit(job->todo, min(grain + (65536 >> job->grain_shift),
						job->nr_grains), grain) - grain;
	kind = lc_copy_look(job, grain, run, 1, &run);
	if (kind == LC_KIND_ABSENT)
		return false;
	if (kind == LC_KIND_SKIP) {
		claim(job, grain, run);
		count(job, grains_bytes(job, grain, run));
		return true;
	}
	if (!io_begin(job, grain, run, promote_start))
		return false;
	claim(job, grain, run);
	if (kind == LC_KIND_DATA)
		lc_rate_charge(&job->rate, grains_bytes(job, grain, run), ktime_get_ns());
	return true;
}

static bool may(struct lc_job *job)
{
	return READ_ONCE(job->view->jobs->live) && lc_job_runs(READ_ONCE(job->state)) &&
	       !READ_ONCE(job->ending);
}

static unsigned long finish(struct lc_job *job)
{
	if (atomic_read(&job->inflight) || !may(job))
		return MAX_SCHEDULE_TIMEOUT;
	if (atomic64_read(&job->left)) {
		if (job->cursor < job->nr_grains)
			return MAX_SCHEDULE_TIMEOUT;
		job->cursor = 0;
		return 0;
	}
	if (job->promote->committed)
		lc_job_end(job, LC_SIDE_WRITE, 0);
	else
		io_begin(job, 0, 0, commit_step);
	return MAX_SCHEDULE_TIMEOUT;
}

/*
 * Send off who waits for user space, or for a guest's write that does: it may have stopped
 * serving, and a suspend waits for all.
 */
static unsigned long send_off(struct lc_job *job)
{
	unsigned int i;

	for (i = 0; i < LC_PROMOTE_IOS; i++)
		lc_io_give_up(&job->promote->ios[i].io);
	return atomic_read(&job->inflight) ? LC_END_JIFFIES : MAX_SCHEDULE_TIMEOUT;
}

/* The result is decided: conclude when all are back. */
static unsigned long wind_up(struct lc_job *job)
{
	unsigned long wake = send_off(job);

	lc_copy_unpark(job);
	if (wake != MAX_SCHEDULE_TIMEOUT || atomic_read(&job->parked))
		return LC_END_JIFFIES;
	lc_job_conclude(job);
	return MAX_SCHEDULE_TIMEOUT;
}

unsigned long lc_promote_run(struct lc_job *job)
{
	unsigned long wake = MAX_SCHEDULE_TIMEOUT;
	u64 delay;

	reap(job);
	while (may(job)) {
		delay = lc_rate_delay(&job->rate, ktime_get_ns());
		if (delay)
			wake = min_t(u64, nsecs_to_jiffies64(delay) + 1, HZ * 3600);
		if (delay || !next(job))
			break;
	}
	wake = min(wake, finish(job));
	if (!READ_ONCE(job->view->jobs->live))
		wake = min(wake, send_off(job));
	return READ_ONCE(job->ending) ? wind_up(job) : wake;
}

/* --- memory ----------------------------------------------------------------------------------- */

int lc_promote_init(struct lc_job *job)
{
	struct lc_view *view = job->view;
	unsigned int i, noio = memalloc_noio_save();

	job->run = lc_promote_run;
	job->promote = kvzalloc(sizeof(*job->promote), GFP_KERNEL);
	job->todo = kvcalloc(BITS_TO_LONGS(job->nr_grains), sizeof(long), GFP_KERNEL);
	memalloc_noio_restore(noio);
	if (!job->promote || !job->todo ||
	    lc_buf_grow(&view->bufs, (1U << job->grain_shift) >> PAGE_SECTORS_SHIFT))
		return -ENOMEM;
	INIT_LIST_HEAD(&job->promote->free);
	INIT_LIST_HEAD(&job->promote->done);
	for (i = 0; i < LC_PROMOTE_IOS; i++) {
		job->promote->ios[i].job = job;
		job->promote->ios[i].io.view = view;
		list_add_tail(&job->promote->ios[i].list, &job->promote->free);
	}
	bitmap_set(job->todo, 0, job->nr_grains);
	atomic64_set(&job->left, job->nr_grains);
	return 0;
}

void lc_promote_exit(struct lc_job *job)
{
	kvfree(job->promote);
	job->promote = NULL;
}
