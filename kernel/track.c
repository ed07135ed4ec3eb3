// SPDX-License-Identifier: GPL-2.0-only
/*
 * What guests' writes tell a tracking job: the note in the map path, the mark when a write
 * has completed, and the wait of a write that is to be on both sides (J1 to J4 in
 * Documentation/design/jobs.rst).
 *
 * A write is marked after it has completed on the source and before it is acknowledged. The job
 * clears a grain's bit before it reads the grain. So a write that the read has missed is marked
 * after the bit was cleared, and the grain is copied again.
 *
 * While the job is eager a write to clean grains is not marked but handed to the job, which
 * reads it back from the source and writes it to the destination: so it does not matter what the
 * guest does with its memory meanwhile, nor in which order writes to the same place complete.
 * A piece of the same sectors that is in hand may have read what was there before: it is
 * waited for, so that no two writes of one sector of the destination are under way.
 */
#include <linux/device-mapper.h>
#include <linux/jiffies.h>
#include <linux/rcupdate.h>

#include "job.h"
#include "view.h"

void __lc_track_update(struct lc_job *job)
{
	lockdep_assert_held(&job->lock);
	WRITE_ONCE(job->eager, (job->both || job->completing || job->converge) && !job->stopped &&
				       !job->ending);
}

static bool is_eager(struct lc_job *job)
{
	return READ_ONCE(job->eager) && READ_ONCE(job->view->jobs->live);
}

/* --- in the path of guests' writes ------------------------------------------------- */

void __lc_track_note(struct lc_view *view, struct bio *bio, struct lc_track_io *t)
{
	struct lc_job *job;

	t->sector = bio->bi_iter.bi_sector;
	t->nr = bio_sectors(bio);
	t->bio = bio;
	if (t->nr <= LC_PIECE_SECTORS || bio_op(bio) != REQ_OP_WRITE)
		return;
	/*
	 * What is to be copied before it is acknowledged must fit into a piece. Zeros and discards
	 * that do not are marked: to cut them would turn one of a whole disk into a million.
	 */
	rcu_read_lock();
	job = rcu_dereference(view->track);
	if (job && is_eager(job)) {
		dm_accept_partial_bio(bio, LC_PIECE_SECTORS);
		t->nr = LC_PIECE_SECTORS;
	}
	rcu_read_unlock();
}

static u64 grain_end(struct lc_job *job, sector_t sector, sector_t nr)
{
	return min(((sector + nr - 1) >> job->grain_shift) + 1, job->nr_grains);
}

static bool all_dirty(struct lc_job *job, sector_t sector, sector_t nr)
{
	u64 end = grain_end(job, sector, nr);

	return find_next_zero_bit(job->todo, end, sector >> job->grain_shift) >= end;
}

void lc_track_mark(struct lc_job *job, sector_t sector, sector_t nr)
{
	u64 grain = sector >> job->grain_shift, end = grain_end(job, sector, nr);
	sector_t n;

	for (; grain < end; grain++) {
		if (test_and_set_bit(grain, job->todo))
			continue;
		n = lc_grain_sector(job, grain + 1) - lc_grain_sector(job, grain);
		atomic64_add(n << SECTOR_SHIFT, &job->remaining);
		if (atomic64_inc_return(&job->left) == 1)
			lc_job_kick(job);
	}
}

/* What is copied consists of whole blocks of any device's. */
static void round_out(struct lc_job *job, struct lc_track_io *t)
{
	sector_t end = round_up(t->sector + t->nr, LIVECHAIN_BLOCK_SECTORS_MIN);

	t->sector = round_down(t->sector, LIVECHAIN_BLOCK_SECTORS_MIN);
	t->nr = min(end, job->nr_sectors) - t->sector;
}

/* Hands a write to the job, unless that is not eager any more. */
static bool hand_over(struct lc_job *job, struct lc_track_io *t)
{
	unsigned long flags;
	bool taken;

	spin_lock_irqsave(&job->lock, flags);
	taken = job->eager;
	if (taken) {
		t->piece = NULL;
		t->since = jiffies;
		list_add_tail(&t->list, &job->syncs_new);
		lc_job_kick(job);
	}
	spin_unlock_irqrestore(&job->lock, flags);
	return taken;
}

bool __lc_track_done(struct lc_view *view, struct bio *bio, struct lc_track_io *t, bool good)
{
	struct lc_job *job;
	bool taken = false;

	if (!t->nr)
		return false;
	rcu_read_lock();
	job = rcu_dereference(view->track);
	if (job) {
		round_out(job, t);
		if (good && t->nr <= LC_GRAIN_MAX_SECTORS && is_eager(job) &&
		    !all_dirty(job, t->sector, t->nr))
			taken = hand_over(job, t);
		if (!taken)
			lc_track_mark(job, t->sector, t->nr);
	}
	rcu_read_unlock();
	return taken;
}

/* --- in the work item ---------------------------------------------------------------- */

/* The bio is device-mapper's again, which looks at lc_end_io() once more. */
static void acknowledge(struct lc_track_io *t)
{
	struct bio *bio = t->bio;

	list_del_init(&t->list);
	t->nr = 0;
	bio->bi_end_io(bio);
}

static void detach(struct lc_track_io *t)
{
	struct lc_piece *p = t->piece;

	t->piece = NULL;
	p->sync = NULL;
	p->background = true;
	p->job->background++;
}

/* The write does not wait any more: what is not in hand is copied later. */
static void let_go(struct lc_job *job, struct lc_track_io *t)
{
	if (t->piece)
		detach(t);
	else
		lc_track_mark(job, t->sector, t->nr);
	acknowledge(t);
}

void lc_track_copied(struct lc_track_io *t, bool good)
{
	struct lc_piece *p = t->piece;

	p->sync = NULL;
	if (!good)
		lc_track_mark(p->job, t->sector, t->nr);
	acknowledge(t);
}

bool lc_track_busy(struct lc_job *job, sector_t sector, sector_t nr)
{
	struct lc_piece *p;

	list_for_each_entry(p, &job->active, active)
		if (p->sector < sector + nr && sector < p->sector + p->nr_sectors)
			return true;
	return false;
}

static void take_new(struct lc_job *job)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	list_splice_tail_init(&job->syncs_new, &job->syncs);
	spin_unlock_irqrestore(&job->lock, flags);
}

/* J4: the background is to have a grain of it next. */
static bool waits_its_turn(struct lc_job *job, struct lc_track_io *t)
{
	return job->turn >= t->sector >> job->grain_shift &&
	       job->turn < grain_end(job, t->sector, t->nr);
}

void lc_track_serve(struct lc_job *job)
{
	struct lc_track_io *t, *next;

	take_new(job);
	if (!is_eager(job)) {
		list_for_each_entry_safe(t, next, &job->syncs, list)
			let_go(job, t);
		return;
	}
	list_for_each_entry_safe(t, next, &job->syncs, list) {
		if (t->piece || lc_track_busy(job, t->sector, t->nr) || waits_its_turn(job, t))
			continue;
		/* It is no worse than it was: the background has it before it. */
		if (all_dirty(job, t->sector, t->nr))
			acknowledge(t);
		else if (!lc_copy_sync(job, t))
			break;
	}
}

unsigned long lc_track_due(struct lc_job *job)
{
	struct lc_track_io *t, *next;
	unsigned long age;

	if (!job->timeout)
		return MAX_SCHEDULE_TIMEOUT;
	list_for_each_entry_safe(t, next, &job->syncs, list) {
		age = jiffies - t->since;
		if (age < job->timeout)
			return job->timeout - age;
		let_go(job, t);
	}
	return MAX_SCHEDULE_TIMEOUT;
}

/* --- whether there is one -------------------------------------------------------------- */

void lc_track_add(struct lc_job *job)
{
	unsigned long flags;

	spin_lock_irqsave(&job->view->jobs->lock, flags);
	rcu_assign_pointer(job->view->track, job);
	spin_unlock_irqrestore(&job->view->jobs->lock, flags);
}

void lc_track_remove(struct lc_job *job)
{
	struct lc_view *view = job->view;
	unsigned long flags;

	spin_lock_irqsave(&view->jobs->lock, flags);
	if (rcu_access_pointer(view->track) == job)
		RCU_INIT_POINTER(view->track, NULL);
	spin_unlock_irqrestore(&view->jobs->lock, flags);
}
