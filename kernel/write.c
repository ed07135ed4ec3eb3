// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writes that are not simply in place.
 *
 * A range that is locked is written piece by piece, each of one way (enum lc_way):
 *
 *  1. plan: which blocks, which way; take space from the pool. What is missing (a
 *     home, space) is waited for, with the lock held: nobody else could do better.
 *  2. if the guest writes part of a grain, and the rest is not zero: read the rest, from
 *     wherever it is, and put the guest's part into it.
 *  3. write whole grains. All of a grain is written before anybody can see it, so a reader
 *     never sees what the space held before.
 *  4. give the blocks their new entries, and mark them unrecorded.
 *
 * A crash before the next commit: the format still has the old place, which nobody has touched
 * (or, where the blocks' own space was reused, a zero or older data of the same blocks); the
 * space taken has leaked. A commit writes records only after a flush that covers step 3.
 */
#include "io.h"

static bool write_failed(struct lc_io *io, const char *why)
{
	DMERR_LIMIT("%s: write at sector %llu: %s", io->view->name, (u64)io->pos, why);
	io->status = BLK_STS_IOERR;
	return lc_io_finish(io);
}

/*
 * ---------------------------------------------------------------------------
 * 4. The piece is written.
 * ---------------------------------------------------------------------------
 */
static bool plan_piece(struct lc_io *io);
static bool write_piece(struct lc_io *io);

/*
 * Where the piece ends on the active layer: at the view's end a grain of several units owns those
 * only that have something of the view. What lies behind them is somebody else's.
 */
static sector_t owned_end(const struct lc_io *io)
{
	const struct lc_layer *active = io->view->active;

	if (lc_layer_kind(active) != LC_LAYER_RECORD)
		return io->whole_end;
	return min_t(sector_t, io->whole_end,
		     round_up(io->view->nr_sectors, 1ULL << active->unit_shift));
}

static void drop_buf(struct lc_io *io)
{
	if (io->buf)
		lc_buf_put(&io->view->bufs, io->buf);
	io->buf = NULL;
}

static bool piece_written(struct lc_io *io)
{
	struct lc_view *view = io->view;
	struct lc_layer *active = view->active;
	u64 block = io->whole >> view->block_shift;
	u64 end = min_t(u64, io->whole_end >> view->block_shift, view->nr_blocks);

	drop_buf(io);
	lc_layer_wrote(active);
	if (io->status == BLK_STS_NOTSUPP && !io->no_write_zeroes) {
		/* The device has promised too much. */
		io->no_write_zeroes = true;
		io->status = BLK_STS_OK;
		io->step = write_piece;
		return true;
	}
	if (io->status) {
		if (io->way == LC_WAY_ALLOC)
			lc_pool_return(&active->pool, io->to, owned_end(io) - io->whole);
		return lc_io_finish(io);
	}
	if (io->way != LC_WAY_IN_PLACE)
		lc_io_change(io, block, end - block, lc_entry_data(active->id, io->to));
	io->pos = io->piece_end;
	io->step = plan_piece;
	return true;
}

/*
 * ---------------------------------------------------------------------------
 * 3. Write.
 * ---------------------------------------------------------------------------
 */
static void child_endio(struct bio *bio)
{
	struct lc_io *io = bio->bi_private;
	blk_status_t status = bio->bi_status;

	bio_put(bio);
	lc_io_child_done(io, status);
}

static void send(struct lc_io *io, struct bio *bio, sector_t at)
{
	bio->bi_iter.bi_sector = io->view->active->start + io->to + (at - io->whole);
	bio->bi_private = io;
	bio->bi_end_io = child_endio;
	atomic_inc(&io->pending);
	submit_bio_noacct(bio);
}

static blk_opf_t child_opf(struct lc_io *io)
{
	if (io->done)
		return REQ_OP_WRITE;
	return REQ_OP_WRITE | (lc_io_bio(io)->bi_opf & (REQ_SYNC | REQ_IDLE | REQ_PRIO));
}

/* Writes sectors [at, end) from @pages on, or zeros without @pages. */
static void send_pages(struct lc_io *io, sector_t at, sector_t end, struct page **pages)
{
	struct block_device *bdev = io->view->active->bdev;
	sector_t sector = at;

	while (at < end) {
		unsigned int nr = bio_max_segs(DIV_ROUND_UP(end - at, PAGE_SECTORS));
		struct bio *bio = bio_alloc_bioset(bdev, nr, child_opf(io), GFP_NOIO,
						   &io->view->bs);

		for (; nr && at < end; nr--) {
			unsigned int n = min_t(sector_t, end - at, PAGE_SECTORS);

			__bio_add_page(bio, pages ? *pages++ : ZERO_PAGE(0), n << SECTOR_SHIFT, 0);
			at += n;
		}
		send(io, bio, sector);
		sector = at;
	}
}

static void send_guest(struct lc_io *io)
{
	struct bio *parent = lc_io_bio(io);
	struct bio *bio = bio_alloc_clone(io->view->active->bdev, parent, GFP_NOIO, &io->view->bs);

	bio->bi_opf &= ~(REQ_FUA | REQ_PREFLUSH);
	bio_advance(bio, (io->pos - parent->bi_iter.bi_sector) << SECTOR_SHIFT);
	bio->bi_iter.bi_size = (io->piece_end - io->pos) << SECTOR_SHIFT;
	send(io, bio, io->pos);
}

/* The guest's part of a write-zeroes: by the device if it can, else as data. */
static void send_zeroes(struct lc_io *io)
{
	struct block_device *bdev = io->view->active->bdev;
	struct bio *bio;

	if (!bdev_write_zeroes_sectors(bdev) || io->no_write_zeroes) {
		send_pages(io, io->pos, io->piece_end, NULL);
		return;
	}
	bio = bio_alloc_bioset(bdev, 0, REQ_OP_WRITE_ZEROES |
			       (lc_io_bio(io)->bi_opf & REQ_NOUNMAP), GFP_NOIO, &io->view->bs);
	bio->bi_iter.bi_size = (io->piece_end - io->pos) << SECTOR_SHIFT;
	send(io, bio, io->pos);
}

/* Puts the guest's part into the grain that has been read around it. */
static void merge_guest(struct lc_io *io)
{
	unsigned int at = (io->pos - io->whole) << SECTOR_SHIFT;
	struct bio *parent = lc_io_bio(io);
	struct bvec_iter iter = parent->bi_iter;
	struct bio_vec bv;

	bio_advance_iter(parent, &iter, (io->pos - iter.bi_sector) << SECTOR_SHIFT);
	iter.bi_size = (io->piece_end - io->pos) << SECTOR_SHIFT;
	for (; iter.bi_size; bio_advance_iter_single(parent, &iter, bv.bv_len)) {
		bv = bio_iter_iovec(parent, iter);
		bv.bv_len = min_t(unsigned int, bv.bv_len, PAGE_SIZE - offset_in_page(at));
		memcpy_page(io->buf->page[at >> PAGE_SHIFT], offset_in_page(at), bv.bv_page,
			    bv.bv_offset, bv.bv_len);
		at += bv.bv_len;
	}
}

static void merge_zeroes(struct lc_io *io)
{
	unsigned int at = (io->pos - io->whole) << SECTOR_SHIFT, n;
	unsigned int end = (io->piece_end - io->whole) << SECTOR_SHIFT;

	for (; at < end; at += n) {
		n = min_t(unsigned int, end - at, PAGE_SIZE - offset_in_page(at));
		memzero_page(io->buf->page[at >> PAGE_SHIFT], offset_in_page(at), n);
	}
}

static bool guest_has_data(struct lc_io *io)
{
	return bio_op(lc_io_bio(io)) == REQ_OP_WRITE;
}

static bool write_merged(struct lc_io *io)
{
	if (io->status) {
		io->read_failed = true;
		return piece_written(io);
	}
	if (io->pos == io->piece_end)
		;	/* a copy: nothing of a guest's */
	else if (guest_has_data(io))
		merge_guest(io);
	else
		merge_zeroes(io);
	io->step = piece_written;
	atomic_set(&io->pending, 1);
	send_pages(io, io->whole, owned_end(io), io->buf->page);
	return atomic_dec_and_test(&io->pending);
}

/* The guest's part as it is, and zeros around it. */
static bool write_piece(struct lc_io *io)
{
	io->step = piece_written;
	atomic_set(&io->pending, 1);
	send_pages(io, io->whole, io->pos, NULL);
	if (guest_has_data(io))
		send_guest(io);
	else
		send_zeroes(io);
	send_pages(io, io->piece_end, owned_end(io), NULL);
	return atomic_dec_and_test(&io->pending);
}

/*
 * ---------------------------------------------------------------------------
 * 2. Read the surroundings.
 * ---------------------------------------------------------------------------
 */
static void around_read(struct lc_read *r)
{
	lc_io_child_done(r->owner, r->status);
}

static void read_part(struct lc_io *io, struct lc_read *r, sector_t from, sector_t to)
{
	unsigned int at = (from - io->whole) << SECTOR_SHIFT;

	if (from == to)
		return;
	r->view = io->view;
	r->sector = from;
	r->nr_sectors = to - from;
	r->pages = io->buf->page + (at >> PAGE_SHIFT);
	r->offset = offset_in_page(at);
	r->bio = NULL;
	r->owner = io;
	r->done = around_read;
	atomic_inc(&io->pending);
	lc_map_read(r);
}

static void buf_ready(struct lc_buf_waiter *w)
{
	lc_io_queue(container_of(w, struct lc_io, buf_wait));
}

/* Two reads are dearer than one that reads so much in vain. */
#define LC_READ_IN_VAIN 32

static bool read_around(struct lc_io *io)
{
	unsigned int pages = (io->whole_end - io->whole) >> PAGE_SECTORS_SHIFT;

	io->buf_wait.wake = buf_ready;
	io->buf = lc_buf_get(&io->view->bufs, pages, &io->buf_wait);
	if (!io->buf)
		return false;
	io->step = write_merged;
	atomic_set(&io->pending, 1);
	if (io->piece_end - io->pos <= LC_READ_IN_VAIN) {
		read_part(io, &io->read[0], io->whole, io->whole_end);
	} else {
		read_part(io, &io->read[0], io->whole, io->pos);
		read_part(io, &io->read[1], io->piece_end, io->whole_end);
	}
	return atomic_dec_and_test(&io->pending);
}

/*
 * ---------------------------------------------------------------------------
 * 1. Plan.
 * ---------------------------------------------------------------------------
 */

/*
 * Which way the grain of blocks [block, block + nr) goes. Return: NULL, or why it can't be
 * written.
 */
static const char *grain_way(struct lc_view *view, u64 block, u64 nr, enum lc_way *way,
			     u64 *ret_first)
{
	static const char different[] = "the blocks of one unit are in different places";
	const unsigned int id = view->active->id, bs = lc_block_sectors(view);
	u64 i, e, first = lc_map_entry(view, block);
	bool reuse = lc_entry_reusable(first, id);

	for (i = 0; i < nr; i++) {
		e = lc_map_entry(view, block + i);
		if (lc_entry_type(e) == LC_ERROR)
			return "what it holds is unknown (an error in the map)";
		if (lc_entry_in_place(e, id) || lc_entry_reusable(e, id) != reuse)
			return different;
		if (reuse && e != first + i * bs)
			return different;
		if (lc_layer_kind(view->active) == LC_LAYER_RAW && lc_entry_type(e) == LC_DATA)
			return different;
	}
	*way = reuse ? LC_WAY_REUSE : LC_WAY_ALLOC;
	*ret_first = first;
	return NULL;
}

/* Makes the piece as long as the grains that follow go the same way, to the same place. */
static void extend_piece(struct lc_io *io, unsigned int grain_shift, u64 first)
{
	struct lc_view *view = io->view;
	const unsigned int bs = view->block_shift;
	const u64 grain = 1ULL << (grain_shift - bs);
	enum lc_way way;
	u64 e;

	while (io->whole_end < io->stop) {
		u64 block = io->whole_end >> bs;

		if (grain_way(view, block, min(grain, view->nr_blocks - block), &way, &e) ||
		    way != io->way)
			return;
		if (way == LC_WAY_REUSE && e != first + (io->whole_end - io->whole))
			return;
		io->whole_end += 1ULL << grain_shift;
	}
}

static bool reads_zero(struct lc_view *view, sector_t from, sector_t to)
{
	struct lc_extent x;

	if (from == to)
		return true;
	lc_map_extent(view, from, to - from, &x);
	return x.type == LC_ZERO && x.len == to - from;
}

/*
 * A part of a grain that is kept, unless it is zero, makes the grain a piece of its own; whole grains
 * go together.
 */
static void cut_piece(struct lc_io *io)
{
	const sector_t grain = 1ULL << io->grain_shift;

	for (;;) {
		io->piece_end = min(io->whole_end, io->stop);
		io->around = !reads_zero(io->view, io->whole, io->pos) ||
			     !reads_zero(io->view, io->piece_end, io->whole_end);
		if (!io->around || io->whole_end == io->whole + grain)
			return;
		if (io->pos > io->whole)
			io->whole_end = io->whole + grain;
		else
			io->whole_end -= grain;
	}
}

static bool pool_ready(struct lc_view *view, struct lc_waiter *w)
{
	struct lc_layer *a = view->active;

	if (READ_ONCE(view->fail) || lc_layer_kind(a) == LC_LAYER_RAW)
		return true;
	return lc_layer_kind(a) == LC_LAYER_RECORD &&
	       lc_pool_has(&a->pool, 1ULL << lc_grain_shift(view));
}

static bool take_space(struct lc_io *io, unsigned int grain_shift)
{
	struct lc_layer *active = io->view->active;
	u64 sector, n, used;

	n = lc_pool_take(&active->pool, 1ULL << grain_shift, io->whole_end - io->whole, &sector);
	if (lc_pool_tell_low(&active->pool))
		lc_view_event(io->view);
	if (!n)
		return lc_io_park(io, LC_WANT_POOL, 0, pool_ready);
	io->to = sector;
	io->whole_end = io->whole + n;
	io->piece_end = min(io->whole_end, io->stop);
	used = owned_end(io) - io->whole;
	if (used < n)
		lc_pool_return(&active->pool, sector + used, n - used);
	return true;
}

/* The piece begins at io->pos and takes whole grains. */
static bool plan_whole(struct lc_io *io)
{
	struct lc_view *view = io->view;
	const unsigned int gs = io->grain_shift, bs = view->block_shift;
	const u64 grain = 1ULL << gs, nr = grain >> bs;
	struct lc_layer *active = view->active;
	const char *why;
	u64 block, first;

	if (lc_layer_kind(active) == LC_LAYER_PLAIN || lc_io_outgrown(io)) {
		lc_io_unlock(io);
		io->step = io->start;
		return lc_io_park(io, LC_WANT_POOL, 0, pool_ready);
	}
	io->whole = io->pos & ~(grain - 1);
	io->whole_end = io->whole + grain;
	block = io->whole >> bs;
	why = grain_way(view, block, min(nr, view->nr_blocks - block), &io->way, &first);
	if (why)
		return write_failed(io, why);
	extend_piece(io, gs, first);
	cut_piece(io);

	if (lc_layer_kind(active) == LC_LAYER_RAW) {
		io->way = LC_WAY_RAW;
		io->to = io->whole;
	} else {
		if (!lc_io_homes(io, block, ((io->whole_end - io->whole) >> bs)))
			return false;
		if (io->way == LC_WAY_REUSE)
			io->to = lc_entry_sector(first);
		else if (!take_space(io, gs))
			return false;
	}
	lc_map_prepare(view, block, min_t(u64, (io->whole_end - io->whole) >> bs,
					  view->nr_blocks - block));
	io->step = io->around ? read_around : write_piece;
	return true;
}

static bool plan_in_place(struct lc_io *io)
{
	struct lc_layer *active = io->view->active;
	struct lc_extent x;

	lc_map_extent_same(io->view, io->pos, io->stop - io->pos, &x);
	if (x.type != LC_DATA)
		return write_failed(io, "the block lies beyond the end of its layer");
	io->way = LC_WAY_IN_PLACE;
	io->whole = io->pos;
	io->whole_end = io->piece_end = io->pos + x.len;
	io->to = x.sector - active->start;
	io->step = write_piece;
	return true;
}

static bool plan_piece(struct lc_io *io)
{
	struct lc_view *view = io->view;

	if (io->pos == io->stop) {
		io->step = io->wrote_next;
		return true;
	}
	if (READ_ONCE(view->fail)) {
		io->status = BLK_STS_IOERR;
		return lc_io_finish(io);
	}
	if (lc_entry_in_place(lc_map_entry(view, io->pos >> view->block_shift), view->active->id))
		return plan_in_place(io);
	return plan_whole(io);
}

bool lc_write_range(struct lc_io *io, sector_t stop, bool (*next)(struct lc_io *io))
{
	io->stop = stop;
	io->wrote_next = next;
	io->step = plan_piece;
	return true;
}

/* As plan_whole(), with no sector of a guest's. */
static bool plan_copy(struct lc_io *io)
{
	struct lc_view *view = io->view;
	u64 block = io->whole >> view->block_shift, nr;

	if (READ_ONCE(view->fail) || lc_io_outgrown(io) ||
	    view->active->kind != LC_LAYER_RECORD) {
		io->status = BLK_STS_IOERR;
		return lc_io_finish(io);
	}
	io->way = LC_WAY_ALLOC;
	io->stop = io->pos;
	nr = (io->whole_end - io->whole) >> view->block_shift;
	if (!lc_io_homes(io, block, min(nr, view->nr_blocks - block)) ||
	    !take_space(io, io->grain_shift))
		return false;
	nr = (io->whole_end - io->whole) >> view->block_shift;
	lc_map_prepare(view, block, min(nr, view->nr_blocks - block));
	io->step = read_around;
	return true;
}

bool lc_write_copy(struct lc_io *io, bool (*next)(struct lc_io *io))
{
	io->wrote_next = next;
	io->step = plan_copy;
	return true;
}

/*
 * ---------------------------------------------------------------------------
 * A guest's write.
 * ---------------------------------------------------------------------------
 */
bool lc_write_end(struct lc_io *io)
{
	if (!(lc_io_bio(io)->bi_opf & REQ_FUA))
		return lc_io_finish(io);
	lc_commit_join(io->view, io);
	return false;
}

static bool range_written(struct lc_io *io)
{
	lc_io_unlock(io);
	return io->pos == io->end ? lc_write_end(io) : lc_write_start(io);
}

static bool write_locked(struct lc_io *io)
{
	return lc_write_range(io, io->locked_end, range_written);
}

bool lc_write_start(struct lc_io *io)
{
	if (READ_ONCE(io->view->fail) || !io->view->active) {
		io->status = BLK_STS_IOERR;
		return lc_io_finish(io);
	}
	return lc_io_lock(io, write_locked);
}
