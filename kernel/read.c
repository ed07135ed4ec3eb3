// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads of a view that the fast path cannot do: of what is in several places, or
 * not loaded yet, or into pages of our own.
 *
 * One extent after the other is sent off until the end, or until one is absent; then the
 * reader parks and goes on from there. @pending counts the children in flight, and
 * one for the walk itself.
 */
#include "view.h"

static void read_put(struct lc_read *r)
{
	if (atomic_dec_and_test(&r->pending))
		r->done(r);
}

static void read_endio(struct bio *bio)
{
	struct lc_read *r = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(r->status, bio->bi_status);
	bio_put(bio);
	read_put(r);
}

/* The part of r->bio that stands for the next @len sectors. */
static struct bio *clone_part(struct lc_read *r, struct block_device *bdev, unsigned int len)
{
	struct bio *bio = bio_alloc_clone(bdev, r->bio, GFP_NOIO, &r->view->bs);

	bio_advance(bio, (r->pos - r->sector) << SECTOR_SHIFT);
	bio->bi_iter.bi_size = len << SECTOR_SHIFT;
	return bio;
}

/* Where the next sector goes, in bytes from the start of the pages. */
static unsigned int page_pos(const struct lc_read *r)
{
	return r->offset + ((r->pos - r->sector) << SECTOR_SHIFT);
}

/* A bio into our pages for as much of the next *len sectors as one bio takes. */
static struct bio *page_part(struct lc_read *r, struct block_device *bdev, unsigned int *len)
{
	unsigned int at = page_pos(r), left = *len << SECTOR_SHIFT;
	unsigned int nr = bio_max_segs(DIV_ROUND_UP(offset_in_page(at) + left, PAGE_SIZE));
	struct bio *bio = bio_alloc_bioset(bdev, nr, REQ_OP_READ, GFP_NOIO, &r->view->bs);

	while (left) {
		unsigned int n = min_t(unsigned int, left, PAGE_SIZE - offset_in_page(at));

		if (!bio_add_page(bio, r->pages[at >> PAGE_SHIFT], n, offset_in_page(at)))
			break;
		at += n;
		left -= n;
	}
	*len = bio_sectors(bio);
	return bio;
}

static void read_data(struct lc_read *r, const struct lc_extent *x)
{
	sector_t sector = x->sector;
	unsigned int left, len;
	struct bio *bio;

	for (left = x->len; left; left -= len, sector += len, r->pos += len) {
		len = left;
		if (r->bio)
			bio = clone_part(r, x->layer->bdev, len);
		else
			bio = page_part(r, x->layer->bdev, &len);
		bio->bi_iter.bi_sector = sector;
		bio->bi_private = r;
		bio->bi_end_io = read_endio;
		atomic_inc(&r->pending);
		submit_bio_noacct(bio);
	}
}

static void zero_pages(struct lc_read *r, unsigned int len)
{
	unsigned int at = page_pos(r), left = len << SECTOR_SHIFT;

	while (left) {
		unsigned int n = min_t(unsigned int, left, PAGE_SIZE - offset_in_page(at));

		memzero_page(r->pages[at >> PAGE_SHIFT], offset_in_page(at), n);
		at += n;
		left -= n;
	}
}

static void read_zero(struct lc_read *r, unsigned int len)
{
	if (r->bio) {
		struct bio *bio = clone_part(r, r->bio->bi_bdev, len);

		zero_fill_bio(bio);
		bio_put(bio);
	} else {
		zero_pages(r, len);
	}
	r->pos += len;
}

static void read_wake(struct lc_waiter *w, bool again)
{
	struct lc_read *r = container_of(w, struct lc_read, wait);

	if (again) {
		queue_work(r->view->wq, &r->work);
		return;
	}
	WRITE_ONCE(r->status, BLK_STS_DM_REQUEUE);
	read_put(r);
}

static void read_park(struct lc_read *r)
{
	r->wait.want = LC_WANT_SLICE;
	r->wait.key = r->pos >> (r->view->block_shift + LC_SLICE_SHIFT);
	r->wait.is_bio = r->bio;
	r->wait.wake = read_wake;
	lc_park(r->view, &r->wait, lc_map_loaded);
}

static void read_walk(struct lc_read *r)
{
	struct lc_extent x;

	while (r->pos < r->end) {
		lc_map_extent(r->view, r->pos, r->end - r->pos, &x);
		switch (x.type) {
		case LC_ABSENT:
			read_park(r);
			return;
		case LC_ZERO:
			read_zero(r, x.len);
			break;
		case LC_DATA:
			read_data(r, &x);
			break;
		case LC_ERROR:
			WRITE_ONCE(r->status, BLK_STS_IOERR);
			r->pos += x.len;
			break;
		}
	}
	read_put(r);
}

static void read_work(struct work_struct *work)
{
	read_walk(container_of(work, struct lc_read, work));
}

static void read_init(struct lc_read *r)
{
	r->status = BLK_STS_OK;
	r->pos = r->sector;
	r->end = r->sector + r->nr_sectors;
	atomic_set(&r->pending, 1);
	INIT_WORK(&r->work, read_work);
}

void lc_map_read(struct lc_read *r)
{
	read_init(r);
	read_walk(r);
}

void lc_map_read_later(struct lc_read *r)
{
	read_init(r);
	read_park(r);
}
