// SPDX-License-Identifier: GPL-2.0-only
/*
 * The slow path's state machine: what all ways of changing blocks have in common.
 */
#include "io.h"
#include "logic/space.h"

static void io_work(struct work_struct *work)
{
	struct lc_io *io = container_of(work, struct lc_io, work);

	while (io->step(io))
		;
}

void lc_io_queue(struct lc_io *io)
{
	queue_work(io->view->wq, &io->work);
}

void lc_io_init_job(struct lc_io *io, struct lc_view *view, sector_t pos, sector_t end,
		    bool (*start)(struct lc_io *io), void (*done)(struct lc_io *io))
{
	io->view = view;
	io->start = start;
	io->step = start;
	io->done = done;
	io->status = BLK_STS_OK;
	io->locked = false;
	io->lock.waiting = false;
	io->no_write_zeroes = false;
	io->read_failed = false;
	io->wait.parked = false;
	io->buf = NULL;
	io->pos = pos;
	io->end = end;
	INIT_WORK(&io->work, io_work);
}

struct lc_io *lc_io_init(struct lc_view *view, struct bio *bio, bool (*start)(struct lc_io *io))
{
	struct lc_io *io = dm_per_bio_data(bio, sizeof(*io));

	lc_io_init_job(io, view, bio->bi_iter.bi_sector, bio_end_sector(bio), start, NULL);
	return io;
}

void lc_io_start(struct lc_view *view, struct bio *bio, bool (*start)(struct lc_io *io))
{
	lc_io_queue(lc_io_init(view, bio, start));
}

void lc_io_child_done(struct lc_io *io, blk_status_t status)
{
	if (status)
		WRITE_ONCE(io->status, status);
	if (atomic_dec_and_test(&io->pending))
		lc_io_queue(io);
}

bool lc_io_finish(struct lc_io *io)
{
	struct bio *bio;

	if (io->buf)
		lc_buf_put(&io->view->bufs, io->buf);
	io->buf = NULL;
	lc_io_unlock(io);
	if (io->done) {
		io->done(io);
		return false;
	}
	bio = lc_io_bio(io);
	bio->bi_status = io->status;
	bio_endio(bio);
	return false;
}

/*
 * ---------------------------------------------------------------------------
 * Parking.
 * ---------------------------------------------------------------------------
 */
static void io_wake(struct lc_waiter *w, bool again)
{
	struct lc_io *io = container_of(w, struct lc_io, wait);

	if (!again) {
		io->status = BLK_STS_DM_REQUEUE;
		io->step = lc_io_finish;
	} else if (w->status) {
		io->status = w->status;
		io->step = lc_io_finish;
	}
	lc_io_queue(io);
}

bool lc_io_park(struct lc_io *io, enum lc_want want, u64 key,
		bool (*recheck)(struct lc_view *view, struct lc_waiter *w))
{
	io->wait.want = want;
	io->wait.key = key;
	io->wait.is_bio = !io->done;
	io->wait.status = BLK_STS_OK;
	io->wait.wake = io_wake;
	lc_park(io->view, &io->wait, recheck);
	return false;
}

void lc_io_give_up(struct lc_io *io)
{
	if (lc_unpark(io->view, &io->wait) || lc_lock_cancel(&io->view->locks, &io->lock))
		io_wake(&io->wait, false);
}

/*
 * ---------------------------------------------------------------------------
 * Locking.
 * ---------------------------------------------------------------------------
 */
static void io_copied(struct lc_copy_waiter *w, blk_status_t status)
{
	struct lc_io *io = container_of(w, struct lc_io, copy);

	if (status) {
		io->status = status;
		io->step = lc_io_finish;
	}
	lc_io_queue(io);
}

static bool io_locked(struct lc_io *io)
{
	struct lc_view *view = io->view;
	bool wanted;
	u64 slice;

	io->locked = true;
	if (lc_map_absent(view, io->first, io->nr, &slice))
		return lc_io_park(io, LC_WANT_SLICE, slice, lc_map_loaded);

	io->step = io->locked_next;
	rcu_read_lock();
	wanted = lc_copy_wants(view, io->first, io->nr);
	rcu_read_unlock();
	if (!wanted)
		return true;
	io->copy.first = io->first;
	io->copy.nr = io->nr;
	io->copy.done = io_copied;
	return lc_copy_before_write(view, &io->copy);
}

static void io_granted(struct lc_lock *lock)
{
	lc_io_queue(container_of(lock, struct lc_io, lock));
}

bool lc_io_lock(struct lc_io *io, bool (*next)(struct lc_io *io))
{
	struct lc_view *view = io->view;
	const unsigned int bs = view->block_shift;
	unsigned int shift;
	sector_t n = min_t(sector_t, io->end - io->pos, LC_IO_LOCK_SECTORS);
	u64 first = io->pos >> bs, last = (io->pos + n - 1) >> bs;

	io->grain_shift = lc_grain_shift(view);
	shift = max(io->grain_shift - bs, READ_ONCE(view->copy_shift));
	io->nr = lc_space_cover(first, last - first + 1, shift, view->nr_blocks, &io->first);
	io->locked_end = min_t(sector_t, io->end, (io->first + io->nr) << bs);
	io->locked_next = next;
	io->step = io_locked;
	return lc_lock_range(&view->locks, &io->lock, io->first, io->nr, io_granted);
}

void lc_io_unlock(struct lc_io *io)
{
	if (!io->locked)
		return;
	io->locked = false;
	lc_unlock_range(&io->view->locks, &io->lock);
}

/*
 * ---------------------------------------------------------------------------
 * Entries and their records.
 * ---------------------------------------------------------------------------
 */

/* The units of the active layer that blocks touch. */
static u64 units_of(struct lc_view *view, u64 block, u64 nr, u64 *ret_nr)
{
	const unsigned int us = view->active->unit_shift;
	sector_t first = block << view->block_shift;
	sector_t end = min_t(sector_t, (block + nr) << view->block_shift, view->nr_sectors);

	*ret_nr = ((end - 1) >> us) - (first >> us) + 1;
	return first >> us;
}

static bool home_ready(struct lc_view *view, struct lc_waiter *w)
{
	sector_t sector;

	return READ_ONCE(view->fail) || lc_record_home(view->active, w->key, &sector);
}

bool lc_io_homes(struct lc_io *io, u64 block, u64 nr)
{
	struct lc_view *view = io->view;
	u64 units, page, last;
	sector_t sector;

	page = units_of(view, block, nr, &units);
	last = (page + units - 1) / LIVECHAIN_RECORDS_PER_PAGE;
	for (page /= LIVECHAIN_RECORDS_PER_PAGE; page <= last; page++)
		if (!lc_record_home(view->active, page, &sector))
			return lc_io_park(io, LC_WANT_HOME, page, home_ready);
	return true;
}

void lc_io_change(struct lc_io *io, u64 block, u64 nr, u64 entry)
{
	struct lc_view *view = io->view;
	u64 unit, units;

	lc_map_set(view, block, nr, entry);
	if (lc_layer_kind(view->active) != LC_LAYER_RECORD)
		return;
	unit = units_of(view, block, nr, &units);
	lc_record_dirty(view, unit, units);
}
