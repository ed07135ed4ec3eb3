/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest's bio on the slow path: a state machine whose state lives in the bio's
 * per-bio data, so that being slow allocates nothing. A job that changes blocks of its own accord has
 * ios without a bio (@done).
 *
 * A step does its part and returns true when the next one (io->step) may run right
 * away; or it has handed the io over (to children in flight, the lock table, the
 * parking place, a copy job) and returns false, and who has it runs the next step in
 * view->wq. After returning false the step must not look at the io again.
 */
#ifndef LC_IO_H
#define LC_IO_H

#include "copy.h"
#include "view.h"

/* How a piece of a range is written. */
enum lc_way {
	LC_WAY_IN_PLACE,	/* overwrite the guest's sectors where they are */
	LC_WAY_REUSE,		/* write whole grains into the space that their zeros keep */
	LC_WAY_RAW,		/* write whole blocks to the raw layer's own sectors */
	LC_WAY_ALLOC,		/* write whole grains into new space */
};

struct lc_io {
	struct lc_view *view;
	bool (*start)(struct lc_io *io);	/* the first step; from any pos it starts over */
	bool (*step)(struct lc_io *io);
	bool (*locked_next)(struct lc_io *io);	/* lc_io_lock()'s */
	bool (*wrote_next)(struct lc_io *io);	/* lc_write_range()'s */
	void (*done)(struct lc_io *io);		/* a job's: instead of completing a bio; may free it */
	struct work_struct work;
	atomic_t pending;		/* children in flight, and 1 while they are being sent */
	blk_status_t status;
	bool locked;
	bool no_write_zeroes;		/* the device has refused that op */
	bool read_failed;		/* @status is that of a read around */

	sector_t pos, end;		/* of the view: what is not done yet */
	sector_t locked_end;		/* how far the locked blocks go, at most to @end */
	u64 first, nr;			/* blocks that are locked for this round */
	unsigned int grain_shift;	/* log2 sectors, when they were locked */
	struct lc_lock lock;

	/* the piece in hand: guest's sectors [pos, piece_end) inside [whole, whole_end) */
	sector_t stop;			/* of lc_write_range() */
	enum lc_way way;
	sector_t piece_end;
	sector_t whole, whole_end;	/* whole grains, perhaps beyond the view's end */
	sector_t to;			/* where @whole goes, relative to the layer's start */
	bool around;			/* one grain, of which something around the guest's part is kept */
	struct lc_buf *buf;		/* ... which comes together here */

	struct lc_track_io track;	/* lc_map()'s and lc_end_io()'s; not for steps */
	struct lc_read read[2];
	struct lc_waiter wait;
	union {
		struct lc_buf_waiter buf_wait;
		struct lc_copy_waiter copy;
		struct list_head list;	/* in the commit's waiters */
	};
};

static inline struct bio *lc_io_bio(struct lc_io *io)
{
	return dm_bio_from_per_bio_data(io, sizeof(*io));
}

/* Makes a bio's per-bio data an io. */
struct lc_io *lc_io_init(struct lc_view *view, struct bio *bio, bool (*start)(struct lc_io *io));

/* Makes ready an io without a bio for sectors [pos, end); lc_io_queue() starts it. */
void lc_io_init_job(struct lc_io *io, struct lc_view *view, sector_t pos, sector_t end,
		    bool (*start)(struct lc_io *io), void (*done)(struct lc_io *io));

/*
 * If it waits for user space, or for the lock of somebody who may do so, it is finished with
 * BLK_STS_DM_REQUEUE. Context: any.
 */
void lc_io_give_up(struct lc_io *io);

/* Starts @bio at step @start, in view->wq. Context: any that may not sleep. */
void lc_io_start(struct lc_view *view, struct bio *bio, bool (*start)(struct lc_io *io));

/* Runs the next step in view->wq. Context: any. */
void lc_io_queue(struct lc_io *io);

/* A child or the sender of children is done: the last one lets the next step run. Context: any. */
void lc_io_child_done(struct lc_io *io, blk_status_t status);

/* Releases what the io holds and completes the bio. Returns false, as a step must. */
bool lc_io_finish(struct lc_io *io);

/* Parks until user space has brought something; io->step runs then. */
bool lc_io_park(struct lc_io *io, enum lc_want want, u64 key,
		bool (*recheck)(struct lc_view *view, struct lc_waiter *w));

/**
 * lc_io_lock() - lock the grains around [pos, end) and make ready to change them
 *
 * At most LC_IO_LOCK_SECTORS or one grain at once; io->first and io->nr say what it is. @next
 * runs when the blocks are locked and loaded, and no job needs their old content any more.
 */
bool lc_io_lock(struct lc_io *io, bool (*next)(struct lc_io *io));
void lc_io_unlock(struct lc_io *io);

/*
 * Whether the active layer has been described (`layer`) since the blocks were locked: then they are not
 * whole grains any more. Unlock and start over.
 */
static inline bool lc_io_outgrown(const struct lc_io *io)
{
	return io->grain_shift != lc_grain_shift(io->view);
}

#define LC_IO_LOCK_SECTORS 8192

/* First steps. */
bool lc_write_start(struct lc_io *io);	/* a write that is not simply in place */
bool lc_discard_start(struct lc_io *io); /* discard and write-zeroes */

/**
 * lc_io_change() - give the locked blocks [block, block + nr) new entries
 *
 * If the active layer has records, they are unrecorded from now on.
 */
void lc_io_change(struct lc_io *io, u64 block, u64 nr, u64 entry);

/* Parks if a record of these blocks has no home; true: all have. */
bool lc_io_homes(struct lc_io *io, u64 block, u64 nr);

/*
 * Writes the guest's [pos, stop), which is locked; zeros, if the bio carries no data. Then pos is
 * stop and @next runs.
 */
bool lc_write_range(struct lc_io *io, sector_t stop, bool (*next)(struct lc_io *io));

/**
 * lc_write_copy() - give locked grains a copy of their own in the active layer
 *
 * [io->whole, io->whole_end): whole grains, which are not in the active layer; as many of them as there is space for in one
 * place get one. Then whole_end is the end of these and @next runs.
 */
bool lc_write_copy(struct lc_io *io, bool (*next)(struct lc_io *io));

/* The end of a write that has changed what it had to: FUA, if asked for, then lc_io_finish(). */
bool lc_write_end(struct lc_io *io);

#endif
