// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pieces of a copy: a run of grains in hand, from its plan to its end.
 *
 *	plan -> [lock] -> read -> (bits cleared, unlocked, writer released) -> write
 *
 * The lock is for before-write jobs only: no guest write is under way in a locked
 * grain, and none can come that has not waited for the grain's bit to be cleared,
 * so what is read is the view at the job's line in time. Once a grain is in memory
 * its writer goes on: a slow destination holds guests up only when the job's
 * memory has run out.
 *
 * Of a job whose copy can be read (access.c) the bits are cleared, and the writer goes on, when the
 * grains are on the destination (A1): a clear bit says where a read goes.
 *
 * Without a line in time nobody but the job looks at the bits: they are cleared when a
 * piece is planned, and set again if it is given back.
 *
 * Zeros are not read: their bits are cleared at once and the destination is told.
 *
 * A tracking job takes no locks either. Its pieces are on ->active while they are read or written,
 *and nothing is begun that overlaps one of them; what guests write meanwhile sets the bits again
 *(track.c).
 *
 * Errors: a failed read leaves the bits set, so the same grains are planned again
 * after the verb resume; a failed write keeps its piece, with the data, on ->retry. A tracking
 * job sets the bits again instead.
 */
#include <linux/bitmap.h>
#include <linux/blkdev.h>
#include <linux/ktime.h>

#include "job.h"
#include "layer.h"
#include "map.h"
#include "view.h"

/* --- pieces and buffers --------------------------------------------------------- */

/* Buffers for so many grains. */
unsigned int lc_grain_bufs(struct lc_job *job, u64 nr)
{
	return DIV_ROUND_UP(nr << job->grain_shift, LC_BUF_SECTORS);
}

/* Grains that so many buffers hold. */
static u64 bufs_grains(struct lc_job *job, unsigned int bufs)
{
	return ((u64)bufs * LC_BUF_SECTORS) >> job->grain_shift;
}

static u64 piece_bytes(struct lc_piece *p)
{
	return (u64)p->nr_sectors << SECTOR_SHIFT;
}

void lc_piece_set(struct lc_piece *p, u64 grain, u64 nr)
{
	p->grain = grain;
	p->nr = nr;
	p->sector = lc_grain_sector(p->job, grain);
	p->nr_sectors = lc_grain_sector(p->job, grain + nr) - p->sector;
}

struct lc_piece *lc_piece_get(struct lc_job *job, struct lc_copy_waiter *wait)
{
	struct lc_piece *p = list_first_entry_or_null(&job->pieces, struct lc_piece, list);

	if (!p)
		return NULL;
	list_del_init(&p->list);
	p->wait = wait;
	p->sync = NULL;
	p->background = !wait;
	p->zero = p->skip = p->locked = false;
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

void lc_piece_put(struct lc_piece *p)
{
	piece_unlock(p);
	lc_piece_put_bufs(p);
	list_del_init(&p->active);
	if (p->background)
		p->job->background--;
	list_add(&p->list, &p->job->pieces);
	piece_idle(p);
}

/* The piece serves nobody any more. */
void lc_piece_to_background(struct lc_piece *p)
{
	p->wait = NULL;
	p->background = true;
	p->job->background++;
}

/* Clear @nr bits, all of them set, while others set bits: word by word, for holes have millions. */
static void clear_run(unsigned long *bits, u64 bit, u64 nr)
{
	u64 end = bit + nr;

	while (bit < end) {
		if (bit % BITS_PER_LONG || end - bit < BITS_PER_LONG) {
			clear_bit(bit++, bits);
			continue;
		}
		xchg(&bits[BIT_WORD(bit)], 0);
		bit += BITS_PER_LONG;
	}
}

/* The piece's grains are taken out of what is to be done; never while a writer may look. */
static void piece_claim(struct lc_piece *p)
{
	struct lc_job *job = p->job;

	clear_run(job->todo, p->grain, p->nr);
	atomic64_sub(p->nr, &job->left);
	if (!job->track)
		return;
	list_add_tail(&p->active, &job->active);
	/* J1: the bits are clear before the grains are read */
	smp_mb__after_atomic();
}

/* The grains of a piece that has been claimed are to be done after all. */
static void piece_unclaim(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	u64 i;

	if (job->track) {
		lc_track_mark(job, p->sector, p->nr_sectors);
		atomic64_sub(piece_bytes(p), &job->remaining);
		return;
	}
	for (i = 0; i < p->nr; i++)
		set_bit(p->grain + i, job->todo);
	atomic64_add(p->nr, &job->left);
}

/* Not done: the grains are in ->todo and will be planned again. */
static void piece_give_back(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	struct lc_copy_waiter *wait = p->wait;

	if (!job->before_write)
		piece_unclaim(p);
	job->cursor = min(job->cursor, p->grain);
	if (wait) {
		wait->inflight--;
		wait->next = min(wait->next, p->grain);
		lc_piece_to_background(p);
	}
	lc_piece_put(p);
}

/* --- steps of a piece -------------------------------------------------------------- */

static void piece_write(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	struct block_device *bdev = READ_ONCE(job->dest->bdev);
	sector_t sector = job->dest->start + p->sector;

	p->step = LC_STEP_WRITE;
	p->status = BLK_STS_OK;
	atomic_set(&p->pending, 1);
	if (!p->skip && p->background)
		job->flushed = false;
	if (WARN_ON_ONCE(!bdev))
		p->status = BLK_STS_IOERR;
	else if (p->zero && !p->skip)
		lc_piece_submit_zeroes(p, bdev, sector, p->nr_sectors);
	else if (!p->skip)
		lc_piece_submit(p, REQ_OP_WRITE, bdev, sector, 0, piece_bytes(p));
	lc_piece_bio_end(p, BLK_STS_OK);
}

void lc_piece_flush(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	struct block_device *bdev = READ_ONCE(job->dest->bdev);

	p->step = LC_STEP_FLUSH;
	lc_piece_set(p, 0, 0);
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
		lc_piece_to_background(p);
		lc_wait_read(wait);
	}
}

static void piece_read(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	sector_t first = p->sector, nr = p->nr_sectors, done = 0;
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

static u64 piece_end(struct lc_piece *p)
{
	return ((p->sector + p->nr_sectors - 1) >> p->job->grain_shift) + 1;
}

/* Zeros of a destination that was zero are there already, unless data of ours is. */
static bool zero_is_there(struct lc_piece *p)
{
	const unsigned long *written = p->job->written;
	u64 grain = p->sector >> p->job->grain_shift, end = piece_end(p);

	return written && find_next_bit(written, end, grain) >= end;
}

static void note_written(struct lc_piece *p)
{
	u64 grain = p->sector >> p->job->grain_shift;

	if (p->job->written)
		bitmap_set(p->job->written, grain, piece_end(p) - grain);
}

/* Grains, kind and memory are settled (and the lock held, if one is needed). */
static void piece_start(struct lc_piece *p, enum lc_kind kind)
{
	struct lc_job *job = p->job;

	if (kind == LC_KIND_DATA) {
		note_written(p);
		lc_rate_charge(&job->rate, piece_bytes(p), ktime_get_ns());
		piece_read(p);
		return;
	}
	p->zero = kind == LC_KIND_ZERO;
	p->skip = !p->zero || zero_is_there(p);
	lc_piece_put_bufs(p);
	if (!job->access)
		piece_saved(p);
	piece_write(p);
}

/* Lock the first of @nr grains and as many more as can be. Return: how many; 0: it is locked. */
u64 lc_piece_lock(struct lc_piece *p, u64 nr)
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
	enum lc_kind kind;

	if (!test_bit(p->grain, job->todo)) {
		piece_give_back(p);
		return;
	}
	run = find_next_zero_bit(job->todo, end, p->grain) - p->grain;
	kind = lc_copy_look(job, p->grain, run, max_t(u64, 1, bufs_grains(job, p->nr_bufs)), &run);
	if (kind == LC_KIND_ABSENT ||
	    (kind == LC_KIND_DATA && !lc_piece_get_bufs(p, lc_grain_bufs(job, run)))) {
		piece_give_back(p);
		return;
	}
	lc_piece_set(p, p->grain, run);
	job->cursor = min(job->cursor, p->grain + run);
	piece_start(p, kind);
}

/*
 * A piece of a tracking job: it is claimed before it is looked at for good, for what a guest writes
 * between the look and the claim is not marked (its bits are set), so the look must be later (J1).
 */
static void piece_tracked(struct lc_piece *p, enum lc_kind kind)
{
	u64 run;

	piece_claim(p);
	if (kind != LC_KIND_DATA &&
	    (lc_copy_look(p->job, p->grain, p->nr, p->nr, &run) != kind || run < p->nr)) {
		piece_give_back(p);
		return;
	}
	piece_start(p, kind);
}

void lc_piece_begin(struct lc_piece *p, enum lc_kind kind)
{
	if (p->job->before_write) {
		piece_locked(p);
	} else if (p->job->track) {
		piece_tracked(p, kind);
	} else {
		piece_claim(p);
		piece_start(p, kind);
	}
}

u64 lc_copy_grains(struct lc_job *job, struct lc_copy_waiter *wait, u64 grain, u64 nr)
{
	struct lc_piece *p;
	enum lc_kind kind;
	u64 run;

	/* A3: what a writer did not wait for to the end may be in hand still */
	if (job->access)
		nr = lc_idle_grains(job, grain, nr);
	if (!nr)
		return 0;
	kind = lc_copy_look(job, grain, nr, max_t(u64, 1, LC_PIECE_SECTORS >> job->grain_shift), &run);
	if (kind == LC_KIND_ABSENT)
		return 0;
	if (kind == LC_KIND_DATA)
		run = min_t(u64, run, bufs_grains(job, job->nr_bufs));
	p = run ? lc_piece_get(job, wait) : NULL;
	if (!p)
		return 0;
	lc_piece_set(p, grain, run);
	if (job->access)
		list_add_tail(&p->active, &job->active);
	if (kind == LC_KIND_DATA)
		lc_piece_get_bufs(p, lc_grain_bufs(job, run));
	/* A zero piece releases its writer's part within, before the caller moves on. */
	piece_start(p, kind);
	return run;
}

/* What a guest has zeroed or discarded is as a rule no data any more, and stays a hole. */
static bool reads_as_zeros(struct lc_job *job, sector_t sector, sector_t nr)
{
	sector_t end = sector + nr;
	struct lc_extent ext;

	for (; sector < end; sector += ext.len) {
		lc_map_extent(job->view, sector, end - sector, &ext);
		if (ext.type != LC_ZERO)
			return false;
	}
	return true;
}

bool lc_copy_sync(struct lc_job *job, struct lc_track_io *t)
{
	bool zero = bio_op(t->bio) != REQ_OP_WRITE && reads_as_zeros(job, t->sector, t->nr);
	unsigned int bufs = zero ? 0 : DIV_ROUND_UP(t->nr, LC_BUF_SECTORS);
	struct lc_piece *p = bufs <= job->nr_bufs ? lc_piece_get(job, NULL) : NULL;

	if (!p)
		return false;
	p->background = false;
	job->background--;
	p->sync = t;
	t->piece = p;
	p->grain = p->nr = 0;
	p->sector = t->sector;
	p->nr_sectors = t->nr;
	lc_piece_get_bufs(p, bufs);
	list_add_tail(&p->active, &job->active);
	atomic64_add(piece_bytes(p), &job->remaining);
	if (zero) {
		p->zero = true;
		p->skip = zero_is_there(p);
		piece_write(p);
	} else {
		note_written(p);
		piece_read(p);
	}
	return true;
}

void lc_piece_again(struct lc_piece *p)
{
	list_del_init(&p->list);
	atomic_inc(&p->job->inflight);
	if (p->step == LC_STEP_FLUSH)
		lc_piece_flush(p);
	else
		piece_write(p);
}

void lc_piece_forget(struct lc_piece *p)
{
	list_del_init(&p->list);
	atomic_inc(&p->job->inflight);
	lc_piece_put(p);
}

/* --- what came back ----------------------------------------------------------------- */

/* Not copied: later. A piece of a tracking job keeps no data that may be old by then. */
static void piece_failed(struct lc_piece *p)
{
	struct lc_track_io *sync = p->sync;

	piece_give_back(p);
	if (sync)
		lc_track_copied(sync, false);
}

static void count_copied(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	if (job->track)
		atomic64_sub(piece_bytes(p), &job->remaining);
	if (!p->skip || p->zero || !(job->track || job->before_write))
		job->copied += piece_bytes(p);
	else if (job->before_write)
		job->left_out += piece_bytes(p);
	spin_unlock_irqrestore(&job->lock, flags);
}

/* What a writer waits for was not to be had: it fails, or the job. Return: as lc_job_fail(). */
static bool copy_failed(struct lc_piece *p, enum lc_job_side side)
{
	if (p->wait)
		p->wait->failed = true;
	if (p->job->break_guest)
		return false;
	return lc_job_fail(p->job, side, blk_status_to_errno(p->status));
}

static void read_done(struct lc_piece *p)
{
	if (!p->status && !READ_ONCE(p->job->ending)) {
		if (!p->job->access)
			piece_saved(p);
		piece_write(p);
		return;
	}
	if (p->status && p->status != BLK_STS_AGAIN)
		copy_failed(p, LC_SIDE_READ);
	piece_failed(p);
}

/* Return: whether the piece has been dealt with. */
static bool write_failed(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	bool stopped;

	if (p->status == BLK_STS_NOTSUPP && p->zero && !job->no_write_zeroes &&
	    !READ_ONCE(job->ending)) {
		job->no_write_zeroes = true;
		piece_write(p);
		return true;
	}
	stopped = copy_failed(p, LC_SIDE_WRITE);
	if (job->access || (job->track && p->step == LC_STEP_WRITE)) {
		piece_failed(p);
		return true;
	}
	if (stopped) {
		list_add_tail(&p->list, &job->retry);
		piece_idle(p);
	}
	return stopped;
}

static void write_done(struct lc_piece *p)
{
	struct lc_track_io *sync = p->sync;

	if (p->status) {
		if (!write_failed(p))
			lc_piece_put(p);
		return;
	}
	if (p->step == LC_STEP_WRITE)
		count_copied(p);
	else
		p->job->flushed = true;
	if (p->job->access)
		piece_saved(p);
	if (sync)
		lc_track_copied(sync, true);
	lc_piece_put(p);
}

void lc_piece_reap(struct lc_job *job)
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
