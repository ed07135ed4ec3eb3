// SPDX-License-Identifier: GPL-2.0-only
/*
 * Discard and write-zeroes: whole grains become zero entries of the active layer,
 * which keep their space if they had any of their own there. Nothing is freed.
 *
 * What can't be said with entries (parts of grains, formats without zeros) is ignored by
 * a discard and written as data by write-zeroes.
 */
#include "io.h"

enum lc_zeroing {
	LC_ZEROED,	/* reads as zeros already */
	LC_SAY,		/* the format can say it */
	LC_WRITE,	/* only zeros as data would do */
};

/* A discard promises nothing. A zero that is written must not be other data later. */
static bool must_say(struct lc_io *io)
{
	return bio_op(lc_io_bio(io)) != REQ_OP_DISCARD && READ_ONCE(io->view->active->say_zeros);
}

/* How the grain of @nr blocks from @block on becomes zero, and its first entry then. */
static enum lc_zeroing grain_zeroing(struct lc_io *io, u64 block, u64 nr, u64 *ret_entry)
{
	struct lc_view *view = io->view;
	const struct lc_layer *active = view->active;
	u64 i, first = lc_map_entry(view, block);
	bool own = lc_entry_in_place(first, active->id), zero = true, say = must_say(io);

	for (i = 0; i < nr; i++) {
		u64 e = lc_map_entry(view, block + i);

		zero &= lc_entry_type(e) == LC_ZERO &&
			(!say || lc_entry_layer(e) == active->id);
		if (lc_entry_type(e) == LC_ERROR)
			return LC_WRITE;
		if (own ? e != first + i * lc_block_sectors(view) :
			  lc_entry_in_place(e, active->id))
			return LC_WRITE;
	}
	if (zero)
		return LC_ZEROED;
	if (lc_layer_kind(active) != LC_LAYER_RECORD)
		return LC_WRITE;
	if (own) {
		*ret_entry = lc_entry_zero_space(active->id, lc_entry_sector(first));
		return active->format.has_zero_space ? LC_SAY : LC_WRITE;
	}
	*ret_entry = lc_entry_zero(active->id);
	return active->format.has_plain_zero ? LC_SAY : LC_WRITE;
}

static bool discard_step(struct lc_io *io);

static bool zero_range(struct lc_io *io, sector_t stop)
{
	struct lc_extent x;

	lc_map_extent(io->view, io->pos, stop - io->pos, &x);
	if (bio_op(lc_io_bio(io)) != REQ_OP_DISCARD &&
	    (x.type != LC_ZERO || x.len < stop - io->pos || must_say(io)))
		return lc_write_range(io, stop, discard_step);
	io->pos = stop;
	return true;
}

/* Says of as many grains from @block on as go together that they are zero. */
static bool say_zero(struct lc_io *io, u64 block, u64 entry)
{
	struct lc_view *view = io->view;
	const unsigned int bs = view->block_shift;
	const u64 grain = 1ULL << (lc_grain_shift(view) - bs);
	const u64 step = lc_entry_step(entry, lc_block_sectors(view));
	u64 nr = min(grain, view->nr_blocks - block), n, next;

	while (((block + nr + grain) << bs) <= io->locked_end) {
		n = min(grain, view->nr_blocks - (block + nr));
		if (grain_zeroing(io, block + nr, n, &next) != LC_SAY ||
		    next != entry + nr * step)
			break;
		nr += n;
	}
	if (!lc_io_homes(io, block, nr))
		return false;
	lc_map_prepare(view, block, nr);
	lc_io_change(io, block, nr, entry);
	io->pos = min_t(sector_t, (block + nr) << bs, view->nr_sectors);
	return true;
}

static bool discard_step(struct lc_io *io)
{
	struct lc_view *view = io->view;
	const sector_t grain = 1ULL << lc_grain_shift(view);
	sector_t end = min((io->pos & ~(grain - 1)) + grain, view->nr_sectors);
	u64 block = io->pos >> view->block_shift, entry = 0, nr;

	io->step = discard_step;
	if (READ_ONCE(view->fail)) {
		io->status = BLK_STS_IOERR;
		return lc_io_finish(io);
	}
	if (io->pos == io->locked_end) {
		lc_io_unlock(io);
		return io->pos == io->end ? lc_write_end(io) : lc_discard_start(io);
	}
	if (lc_io_outgrown(io)) {
		lc_io_unlock(io);
		io->step = lc_discard_start;
		return true;
	}
	if ((io->pos & (grain - 1)) || end > io->locked_end)
		return zero_range(io, min(end, io->locked_end));

	nr = min_t(u64, grain >> view->block_shift, view->nr_blocks - block);
	switch (grain_zeroing(io, block, nr, &entry)) {
	case LC_ZEROED:
		break;
	case LC_SAY:
		return say_zero(io, block, entry);
	case LC_WRITE:
		return zero_range(io, end);
	}
	io->pos = end;
	return true;
}

static bool can_say_zero(const struct lc_layer *layer)
{
	return lc_layer_kind(layer) == LC_LAYER_RECORD &&
	       (layer->format.has_zero_space || layer->format.has_plain_zero);
}

bool lc_discard_start(struct lc_io *io)
{
	struct lc_view *view = io->view;

	if (READ_ONCE(view->fail) || !view->active) {
		io->status = BLK_STS_IOERR;
		return lc_io_finish(io);
	}
	if (bio_op(lc_io_bio(io)) == REQ_OP_DISCARD && !can_say_zero(view->active))
		return lc_io_finish(io);
	return lc_io_lock(io, discard_step);
}
