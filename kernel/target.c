// SPDX-License-Identifier: GPL-2.0-only
/*
 * The target's methods: the fast path, and what device-mapper calls a table's life.
 */
#include <linux/module.h>
#include "io.h"
#include "message.h"
#include "status.h"
#include "table.h"
#include "target.h"

static int lc_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	int r = lc_table_create(ti, argc, argv);

	if (r)
		return r;
	ti->num_flush_bios = 1;
	/* Flushes arrive whatever the layers have: entries may be unrecorded. */
	ti->flush_supported = true;
	ti->num_discard_bios = 1;
	ti->discards_supported = true;
	ti->num_write_zeroes_bios = 1;
	ti->limit_swap_bios = true;
	ti->per_io_data_size = sizeof(struct lc_io);
	return 0;
}

static void lc_dtr(struct dm_target *ti)
{
	lc_table_destroy(ti->private);
}

/*
 * ---------------------------------------------------------------------------
 * The fast path: look up, remap. No lock, no allocation; whatever needs more goes to the
 * slow path's work queue.
 * ---------------------------------------------------------------------------
 */
static int refuse_bio(struct bio *bio, blk_status_t status)
{
	bio->bi_status = status;
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

static int defer(struct lc_view *view, struct bio *bio, bool (*start)(struct lc_io *io))
{
	if (bio->bi_opf & REQ_NOWAIT)
		bio_wouldblock_error(bio);
	else
		lc_io_start(view, bio, start);
	return DM_MAPIO_SUBMITTED;
}

static __always_inline int remap(struct bio *bio, const struct lc_extent *x)
{
	if (x->len < bio_sectors(bio))
		dm_accept_partial_bio(bio, x->len);
	bio_set_dev(bio, x->layer->bdev);
	bio->bi_iter.bi_sector = x->sector;
	return DM_MAPIO_REMAPPED;
}

static void parked_read_done(struct lc_read *r)
{
	struct bio *bio = r->bio;

	bio->bi_status = r->status;
	bio_endio(bio);
}

static int park_read(struct lc_view *view, struct bio *bio)
{
	struct lc_io *io = dm_per_bio_data(bio, sizeof(*io));
	struct lc_read *r = &io->read[0];

	if (bio->bi_opf & REQ_NOWAIT) {
		bio_wouldblock_error(bio);
		return DM_MAPIO_SUBMITTED;
	}
	r->view = view;
	r->sector = bio->bi_iter.bi_sector;
	r->nr_sectors = bio_sectors(bio);
	r->pages = NULL;
	r->bio = bio;
	r->done = parked_read_done;
	lc_map_read_later(r);
	return DM_MAPIO_SUBMITTED;
}

static int map_read(struct lc_view *view, struct bio *bio)
{
	struct lc_extent x;

	lc_map_extent(view, bio->bi_iter.bi_sector, bio_sectors(bio), &x);
	if (likely(x.type == LC_DATA))
		return remap(bio, &x);
	if (x.type == LC_ABSENT)
		return park_read(view, bio);
	if (x.len < bio_sectors(bio))
		dm_accept_partial_bio(bio, x.len);
	if (unlikely(x.type == LC_ERROR))
		return refuse_bio(bio, BLK_STS_IOERR);
	zero_fill_bio(bio);
	return refuse_bio(bio, BLK_STS_OK);
}

static int map_write(struct lc_view *view, struct bio *bio)
{
	const struct lc_layer *active = view->active;
	struct lc_extent x;
	bool in_place;

	if (unlikely(READ_ONCE(view->fail) || !active))
		return refuse_bio(bio, BLK_STS_IOERR);
	/* Of a block that is not recorded yet FUA promises more than its data. */
	if ((bio->bi_opf & REQ_FUA) && READ_ONCE(view->rec.unrecorded))
		return defer(view, bio, lc_write_start);

	rcu_read_lock();
	lc_map_extent_same(view, bio->bi_iter.bi_sector, bio_sectors(bio), &x);
	in_place = x.type == LC_DATA && lc_entry_in_place(x.entry, active->id) &&
		   !lc_copy_wants(view, bio->bi_iter.bi_sector >> view->block_shift,
				  lc_blocks_touched(view, bio->bi_iter.bi_sector, x.len));
	rcu_read_unlock();
	if (likely(in_place))
		return remap(bio, &x);
	return defer(view, bio, lc_write_start);
}

static int map_flush(struct lc_view *view, struct bio *bio)
{
	struct lc_layer *active = view->active;

	if (unlikely(READ_ONCE(view->fail)))
		return refuse_bio(bio, BLK_STS_IOERR);
	if (!active)
		return refuse_bio(bio, BLK_STS_OK);
	/*
	 * Only the active layer can have been written: `activate` leaves no other that is
	 * not clean, and copies flush their destinations themselves.
	 */
	if (!READ_ONCE(view->rec.unrecorded)) {
		WRITE_ONCE(active->dirty, false);
		bio_set_dev(bio, active->bdev);
		return DM_MAPIO_REMAPPED;
	}
	lc_commit_join(view, lc_io_init(view, bio, NULL));
	return DM_MAPIO_SUBMITTED;
}

static int lc_map(struct dm_target *ti, struct bio *bio)
{
	const struct lc_table *t = ti->private;
	struct lc_view *view = t->view;
	struct lc_io *io = dm_per_bio_data(bio, sizeof(*io));

	if (op_is_write(bio_op(bio)))
		lc_track_note(view, bio, &io->track);
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		return map_read(view, bio);
	case REQ_OP_WRITE:
		if (bio->bi_opf & REQ_PREFLUSH)
			return map_flush(view, bio);
		return map_write(view, bio);
	case REQ_OP_DISCARD:
	case REQ_OP_WRITE_ZEROES:
		return defer(view, bio, lc_discard_start);
	default:
		return DM_MAPIO_KILL;
	}
}

/* A write is marked when it has completed and before the guest knows: a later flush sees it. */
static int lc_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	const struct lc_table *t = ti->private;
	struct lc_layer *active = t->view->active;
	struct lc_io *io = dm_per_bio_data(bio, sizeof(*io));

	if (!op_is_write(bio_op(bio)) || !active)
		return DM_ENDIO_DONE;
	/*
	 * Of a flush (no data; the flag may be gone, if the device has no cache) only the failure
	 * counts: then nothing has become clean.
	 */
	if (bio_op(bio) != REQ_OP_WRITE || bio->bi_io_vec || *error)
		lc_layer_wrote(active);
	if (lc_track_done(t->view, bio, &io->track, !*error))
		return DM_ENDIO_INCOMPLETE;
	return DM_ENDIO_DONE;
}

/*
 * ---------------------------------------------------------------------------
 * Suspend and resume.
 * ---------------------------------------------------------------------------
 */

/*
 * Bios go on arriving until device-mapper has shut the door, then it waits for those inside.
 * With noflush nobody may wait for user space any more: who does is
 * requeued, now and until the resume. Without, they must be served, so user space must go on serving.
 *
 * Guests wait from here on. Device-mapper waits for two grace periods of SRCU in a row; the second
 * comes so soon after the first that SRCU takes jiffies for it, unless all are expedited.
 */
static void lc_presuspend(struct dm_target *ti)
{
	struct lc_view *view = ((struct lc_table *)ti->private)->view;
	bool noflush = dm_noflush_suspending(ti);

	rcu_expedite_gp();
	lc_jobs_quiesce(view, noflush);
	if (!noflush)
		return;
	lc_park_close(view);
	/* Who waits for a commit that had no space waits for nothing else now. */
	lc_commit_start(view);
}

static void lc_presuspend_undo(struct dm_target *ti)
{
	struct lc_view *view = ((struct lc_table *)ti->private)->view;

	lc_park_open(view);
	lc_jobs_resume(view);
	rcu_unexpedite_gp();
}

static void lc_postsuspend(struct dm_target *ti)
{
	struct lc_view *view = ((struct lc_table *)ti->private)->view;

	rcu_unexpedite_gp();
	lc_jobs_wait(view);
	lc_commit_wait(view);
	mutex_lock(&view->mutex);
	view->resumed = false;
	mutex_unlock(&view->mutex);
}

static int lc_preresume(struct dm_target *ti)
{
	struct lc_table *t = ti->private;
	struct lc_view *view = t->view;
	const char *why = NULL;
	int r = 0;

	mutex_lock(&view->mutex);
	if (view->resumed) {
		why = "Another device is live on the view";
		r = -EBUSY;
	} else {
		why = lc_table_lacks(t);
		r = why ? -EINVAL : 0;
	}
	if (!r)
		view->resumed = true;
	mutex_unlock(&view->mutex);
	if (r) {
		DMERR("%s: %s: cannot resume: %s", dm_device_name(dm_table_get_md(ti->table)),
		      view->name, why);
		return r;
	}
	lc_view_set_live(view, ti);
	return 0;
}

static void lc_resume(struct dm_target *ti)
{
	struct lc_view *view = ((struct lc_table *)ti->private)->view;

	lc_park_open(view);
	lc_jobs_resume(view);
}

/*
 * ---------------------------------------------------------------------------
 * What device-mapper asks.
 * ---------------------------------------------------------------------------
 */
static int lc_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct lc_table *t = ti->private;
	unsigned int i;
	int r = 0;

	for (i = 0; i < t->nr_layers && !r; i++) {
		sector_t start = t->layers[i].layer->start;

		r = fn(ti, t->layers[i].dev, start,
		       bdev_nr_sectors(t->layers[i].dev->bdev) - start, data);
	}
	return r;
}

/* Whole grains are what a discard can do; any size is chewed in bounded steps. */
static void lc_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct lc_view *view = ((struct lc_table *)ti->private)->view;
	const unsigned int max = round_down(UINT_MAX >> SECTOR_SHIFT, LIVECHAIN_BLOCK_SECTORS_MAX);

	limits->io_opt = lc_block_sectors(view) << SECTOR_SHIFT;
	limits->discard_granularity = limits->io_opt;
	limits->discard_alignment = 0;
	lc_set_max_discard(limits, max);
	limits->max_write_zeroes_sectors = max;
}

static void lc_target_status(struct dm_target *ti, status_type_t type, unsigned int flags,
			     char *result, unsigned int maxlen)
{
	lc_status(ti->private, type, result, maxlen);
}

struct target_type lc_target = {
	.name = LIVECHAIN_TARGET_NAME,
	.version = { LIVECHAIN_VERSION_MAJOR, LIVECHAIN_VERSION_MINOR, LIVECHAIN_VERSION_PATCH },
	.features = DM_TARGET_SINGLETON | DM_TARGET_NOWAIT,
	.module = THIS_MODULE,
	.ctr = lc_ctr,
	.dtr = lc_dtr,
	.map = lc_map,
	.end_io = lc_end_io,
	.presuspend = lc_presuspend,
	.presuspend_undo = lc_presuspend_undo,
	.postsuspend = lc_postsuspend,
	.preresume = lc_preresume,
	.resume = lc_resume,
	.status = lc_target_status,
	.message = lc_message,
	.iterate_devices = lc_iterate_devices,
	.io_hints = lc_io_hints,
};
