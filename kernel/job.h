/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A copy job from the inside: shared by job.c (life cycle, messages, status),
 * copy.c (the engine), copy-piece.c (a piece's life), copy-look.c (what lies where), copy-io.c,
 * beforewrite.c and track.c (what guests' writes see), access.c (who reads what was copied). A
 * promote job (promote.c) has all but the engine in common. copy.h is what the rest of the module
 * sees.
 *
 * Who may touch what: all the engine's state belongs to the job's work item,
 * which never runs twice at once, so it needs no lock. Others hand it
 * things through lists under @lock (finished pieces, granted block locks, new waits)
 * and kick it. State, result and what status prints are under @lock too.
 */
#ifndef LC_JOB_H
#define LC_JOB_H

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/workqueue.h>
#include <uapi/linux/dm-livechain.h>

#include "blocklock.h"
#include "copy.h"
#include "logic/job-states.h"
#include "logic/ratelimit.h"

/* Buffers are 64 KiB, the smallest grain. */
#define LC_BUF_ORDER (16 - PAGE_SHIFT)
#define LC_BUF_PAGES (1 << LC_BUF_ORDER)
#define LC_BUF_BYTES 65536u
#define LC_BUF_SECTORS (LC_BUF_BYTES >> SECTOR_SHIFT)
/* The background copies pieces of 1 MiB, 8 at a time; the rest is for guests' writes. */
#define LC_PIECE_SECTORS 2048u
#define LC_BACKGROUND_PIECES 8
#define LC_GUEST_BUFS 64
#define LC_JOB_BUFS (LC_BACKGROUND_PIECES * (LC_PIECE_SECTORS / LC_BUF_SECTORS) + LC_GUEST_BUFS)
#define LC_JOB_PIECES (LC_BACKGROUND_PIECES + LC_GUEST_BUFS)
/* The largest piece with data: one grain of the largest size. */
#define LC_GRAIN_MAX_SECTORS 4096u
#define LC_PIECE_BUFS (LC_GRAIN_MAX_SECTORS / LC_BUF_SECTORS)
/* Absent slices that a job asks for at once. */
#define LC_JOB_AHEAD 16

/* What the map path looks at: view->cbw points to it while @jobs has any. */
struct lc_cbw {
	struct list_head jobs;		/* RCU; changed under lc_jobs.lock */
};

/* The jobs of one view. */
struct lc_jobs {
	struct list_head list;		/* oldest first; changed under view->mutex and @lock */
	spinlock_t lock;		/* irq-safe; lc_job.lock may be taken inside it */
	struct lc_cbw cbw;
	bool live;			/* from resume to presuspend */
	bool noflush;			/* from presuspend of a noflush suspend to resume */
	/* suspended: nothing is in flight, nor can get there, but for a job that completes */
	bool drained;
	atomic_t running;		/* runs of work items under way */
	wait_queue_head_t idle;		/* woken when a job's last piece comes back, or a run ends */
	struct bio_set bios;
	struct page *zero_page;
	unsigned int zero_bytes;	/* of zeros there */
};

/* 64 KiB of memory; contiguous where that could be had. */
struct lc_copy_buf {
	struct list_head list;
	bool contiguous;
	struct page *page[LC_BUF_PAGES];
};

enum lc_piece_step {
	LC_STEP_READ,
	LC_STEP_WRITE,
	LC_STEP_FLUSH,		/* the last: the destination's cache */
};

/*
 * A run of whole grains in hand, or (nr == 0) of what a guest has just written. Owned by the work
 * item, or by the I/O that it waits for.
 */
struct lc_piece {
	struct list_head list;	/* job->pieces, ->done, ->retry */
	struct list_head active; /* job->active, in hand */
	struct lc_job *job;
	struct lc_copy_waiter *wait; /* the writer that it serves, or NULL */
	struct lc_track_io *sync; /* the same of a tracking job */
	bool background;	/* counted by job->background: serves nobody */
	u64 grain, nr;
	sector_t sector, nr_sectors;
	enum lc_piece_step step;
	bool zero;		/* reads as zeros: nothing in the buffers */
	bool skip;		/* not to be written at all */
	bool locked;
	struct lc_lock lock;
	atomic_t pending;	/* bios, and one for the submitter */
	blk_status_t status;	/* the first error of any bio */
	unsigned int nr_bufs;
	struct lc_copy_buf *buf[LC_PIECE_BUFS];
};

struct lc_job {
	struct lc_view *view;
	struct list_head list;	/* view->jobs.list, under its mutex */
	struct list_head cbw;	/* lc_jobs.cbw.jobs: RCU */
	bool in_cbw;		/* lc_jobs.lock */
	struct rcu_work free_work;

	/* fixed for life */
	char name[LIVECHAIN_NAME_MAX + 1];
	struct lc_layer *dest;	/* valid until concluded */
	unsigned int dest_id;
	bool before_write;
	bool track;		/* or both */
	bool filtered;		/* entries of layers in @skip are left out */
	bool nounmap;
	bool zeroed;		/* the destination was zero */
	bool new_only;		/* nothing is to be copied in the beginning */
	bool on_demand;		  /* copies for guests' writes alone, until it is cancelled */
	struct lc_access *access; /* the view at the line in time can be read; or NULL */
	bool break_guest;	  /* what can't be copied fails the guest's write, not the job */
	DECLARE_BITMAP(skip, LC_ENTRY_NO_LAYER + 1); /* layer ids */
	unsigned long *written;	/* grains with data of ours, of a destination that was zero; or NULL */
	unsigned int grain_shift; /* sectors */
	u64 nr_grains, nr_sectors;
	bool stop_on[2];	/* policy by lc_job_side: stop, or report */
	unsigned long timeout;	/* jiffies; 0: none */

	spinlock_t lock;	/* irq-safe; guards up to the next blank line */
	enum lc_job_state state;
	bool user_paused;	/* created, but to start paused */
	bool ending;		/* result decided, not yet concluded */
	bool stopped;		/* by a policy: paused until the verb resume */
	bool retry_now;		/* that verb has come */
	bool both;		/* guests' writes go to both sides: as a mode, */
	bool completing;	/* ... until it is completed */
	bool converge;		/* ... or to get ready */
	bool eager;		/* what these say, see __lc_track_update(); read anywhere */
	bool draining;		/* suspended: copy the rest, and conclude */
	bool drain_new;
	bool speed_new;
	enum lc_job_side side;	/* of the error that ended or stopped it */
	int error;		/* negative errno; -ECANCELED: cancelled */
	u64 speed;
	u64 copied;		/* bytes */
	u64 left_out;		/* bytes that were not to be copied, of a before-write job */
	struct list_head syncs_new; /* struct lc_track_io */
	struct list_head done;	/* pieces whose I/O has come */
	struct list_head waits_new;

	/* the work item's own */
	struct delayed_work work;
	unsigned long (*run)(struct lc_job *job); /* what it does; as lc_copy_run() */
	struct lc_promote *promote; /* promote.c's, of a job of that kind */
	unsigned long *todo;	/* grains still to be read (or, without a line in time, planned) */
	atomic64_t left;	/* grains in @todo; in passing, less */
	atomic64_t remaining;	/* bytes dirty and in flight, of a tracking job */
	unsigned int rounds;
	struct list_head
		active; /* pieces of a tracking job, or one with access, read or written now */
	struct list_head syncs;	/* guests' writes that wait for the destination, in order of arrival */
	u64 cursor;		/* the background's next grain */
	u64 skipped;		/* the first that it left out, being locked; or U64_MAX */
	u64 turn;		/* the first that it found in use: has it next (J4); or U64_MAX */
	bool flushed;
	bool no_write_zeroes;	/* the destination refused one */
	struct lc_ratelimit rate;
	struct list_head waits;	/* writers, in order of arrival */
	struct list_head retry;	/* pieces that an error stopped */
	struct list_head pieces; /* free */
	struct list_head bufs;	/* free */
	unsigned int nr_bufs;
	unsigned int background; /* pieces of the background in hand */
	struct lc_piece *piece_mem;
	struct lc_copy_buf *buf_mem;

	atomic_t inflight;	/* pieces in hand */
	atomic_t parked;	/* how many of the next wait */
	struct lc_job_slice {
		struct lc_waiter waiter;
		struct lc_job *job;
	} slice[LC_JOB_AHEAD];
};

/* job.c; the next five under view->mutex */

/** lc_job_new() - A job that nobody knows yet; lc_job_destroy() ends it as long as that is so. */
struct lc_job *lc_job_new(struct lc_view *view, const char *name);
void lc_job_destroy(struct lc_job *job);

/** lc_job_add() - Put it on the view's list; draws a before-write job's line in time. */
void lc_job_add(struct lc_job *job);

struct lc_job *lc_job_find(struct lc_view *view, const char *name);

/** lc_job_apply() - Do a verb (not LC_VERB_SPEED) that the job's state accepts. */
void lc_job_apply(struct lc_job *job, enum lc_job_verb verb);

/** lc_job_set_mode() - Of a tracking job: do guests' writes go to both sides. */
void lc_job_set_mode(struct lc_job *job, bool both);

/** lc_job_is_ready() - Both sides were equal, and the destination is flushed. Work item. */
void lc_job_is_ready(struct lc_job *job);

/** lc_job_drained() - Both sides are equal for good: end well, unless a resume has come between. */
void lc_job_drained(struct lc_job *job);

/** lc_job_set_speed() - Bytes per second; 0: no limit. */
void lc_job_set_speed(struct lc_job *job, u64 speed);

/** lc_job_kick() - Have the job's work item run soon. Any context. */
void lc_job_kick(struct lc_job *job);

/** lc_job_wake() - Have it run in so many jiffies, unless sooner. */
void lc_job_wake(struct lc_job *job, unsigned long jiffies);

/**
 * lc_job_fail() - Apply the error policy to an error of the work item's own I/O.
 *
 * Return: true: the job stopped, and what failed is to be kept for a retry; false: it is ending.
 */
bool lc_job_fail(struct lc_job *job, enum lc_job_side side, int error);

/** lc_job_end() - Decide the result, unless it is decided; 0: ok. Any context. */
void lc_job_end(struct lc_job *job, enum lc_job_side side, int error);

/** lc_job_conclude() - Nothing is in flight any more and the result is decided. Work item. */
void lc_job_conclude(struct lc_job *job);

/** lc_idle_grains() - How many of the first @nr grains overlap no piece on ->active. Work item. */
u64 lc_idle_grains(struct lc_job *job, u64 grain, u64 nr);

/* What grains are. */
enum lc_kind { LC_KIND_ABSENT, LC_KIND_SKIP, LC_KIND_ZERO, LC_KIND_DATA };

/* copy.c */

/** lc_copy_engine_init() - Memory for the engine; lc_copy_engine_exit() also after a failure. */
int lc_copy_engine_init(struct lc_job *job);
void lc_copy_engine_exit(struct lc_job *job);

/**
 * lc_copy_run() - What the work item of a copy does
 *
 * Return: jiffies until it is to run again, if nothing comes; MAX_SCHEDULE_TIMEOUT: never.
 */
unsigned long lc_copy_run(struct lc_job *job);

/* copy-piece.c; from the work item */

/** lc_piece_get() - A free piece, for a writer or (NULL) the background; NULL: there is none. */
struct lc_piece *lc_piece_get(struct lc_job *job, struct lc_copy_waiter *wait);

/** lc_piece_put() - It is done with, whatever it still holds. */
void lc_piece_put(struct lc_piece *p);

/** lc_piece_set() - It stands for these grains. */
void lc_piece_set(struct lc_piece *p, u64 grain, u64 nr);

/** lc_piece_lock() - Lock p->grain and up to @nr - 1 more. Return: how many; 0: it is locked. */
u64 lc_piece_lock(struct lc_piece *p, u64 nr);

/**
 * lc_piece_begin() - Set out with a piece of the background
 *
 * It has its grains, which have looked like @kind, memory for them, and the lock if its job
 * needs one.
 */
void lc_piece_begin(struct lc_piece *p, enum lc_kind kind);

/** lc_piece_flush() - Use it to flush the destination. */
void lc_piece_flush(struct lc_piece *p);

/** lc_piece_again() - Write what an error has stopped. */
void lc_piece_again(struct lc_piece *p);

/** lc_piece_forget() - Don't. */
void lc_piece_forget(struct lc_piece *p);

/** lc_piece_to_background() - It serves nobody any more. */
void lc_piece_to_background(struct lc_piece *p);

/** lc_piece_reap() - Go on with the pieces whose I/O has come. */
void lc_piece_reap(struct lc_job *job);

/** lc_grain_bufs() - Buffers for so many grains. */
unsigned int lc_grain_bufs(struct lc_job *job, u64 nr);

/**
 * lc_copy_grains() - Begin to copy a run of grains for a writer that holds their lock.
 *
 * From the work item. Return: how many grains were begun; 0: no memory is free now.
 */
u64 lc_copy_grains(struct lc_job *job, struct lc_copy_waiter *w, u64 grain, u64 nr);

/**
 * lc_copy_sync() - Begin to copy what a guest has just written
 *
 * From the work item. Return: false: no memory is free now.
 */
bool lc_copy_sync(struct lc_job *job, struct lc_track_io *t);

/* copy-look.c: what lies where; from the work item */

static inline sector_t lc_grain_sector(const struct lc_job *job, u64 grain)
{
	return min(grain << job->grain_shift, job->nr_sectors);
}

/**
 * lc_copy_look() - What are the first of @nr grains, and how many (*run >= 1) are alike
 *
 * Data at most @data_max grains. Slices that are absent are asked for.
 */
enum lc_kind lc_copy_look(struct lc_job *job, u64 grain, u64 nr, u64 data_max, u64 *run);

/* The slices that were asked for are not waited for any more: the job is ending. */
void lc_copy_unpark(struct lc_job *job);

/* promote.c */

/** lc_promote_init() - Make it a promote job; lc_promote_exit() also after a failure. */
int lc_promote_init(struct lc_job *job);
void lc_promote_exit(struct lc_job *job);
unsigned long lc_promote_run(struct lc_job *job);

/* copy-io.c: memory and I/O of pieces */
int lc_copy_io_init(struct lc_jobs *jobs);
void lc_copy_io_exit(struct lc_jobs *jobs);

/* Have @nr buffers in all. Return: false: so many are not free; nothing has changed. */
bool lc_piece_get_bufs(struct lc_piece *p, unsigned int nr);
void lc_piece_put_bufs(struct lc_piece *p);

/** lc_piece_done() - Give a piece to the work item. Any context. */
void lc_piece_done(struct lc_piece *p);

/*
 * The submitter sets p->pending to 1, submits any number of these, and drops its own count with
 * lc_piece_bio_end(). The last to end gives the piece to the work item, with the first error in
 * p->status.
 */
void lc_piece_submit(struct lc_piece *p, blk_opf_t opf, struct block_device *bdev,
		     sector_t sector, unsigned int off, unsigned int bytes);
void lc_piece_submit_zeroes(struct lc_piece *p, struct block_device *bdev, sector_t sector,
			    sector_t nr);
void lc_piece_submit_flush(struct lc_piece *p, struct block_device *bdev);
void lc_piece_bio_end(struct lc_piece *p, blk_status_t status);

/* Zeros into the piece's memory. */
void lc_piece_clear(struct lc_piece *p, unsigned int off, unsigned int bytes);

/* beforewrite.c; from the work item */

/** lc_cbw_add() - Guests' writes look at the job from now on. While suspended. */
void lc_cbw_add(struct lc_job *job);

/** lc_cbw_remove() - They need not look any more. May be repeated. */
void lc_cbw_remove(struct lc_job *job);

/** lc_waits_serve() - Begin what writers wait for. */
void lc_waits_serve(struct lc_job *job);

/** lc_wait_read() - A piece that served @w has been read; @w may be gone afterwards. */
void lc_wait_read(struct lc_copy_waiter *w);

/** lc_waits_release() - Let every writer go on: the job is ending. */
void lc_waits_release(struct lc_job *job);

/** lc_waits_expire() - Those that have waited too long fail; what is copied for them goes on. */
void lc_waits_expire(struct lc_job *job);

/** lc_waits_requeue() - Send back writers that have nothing in flight: a noflush suspend. */
void lc_waits_requeue(struct lc_job *job);

/* track.c; from the work item, if not said otherwise */

/** lc_track_add() - Guests' writes are told to the job from now on. While suspended. */
void lc_track_add(struct lc_job *job);

/** lc_track_remove() - They need not be told any more. May be repeated. */
void lc_track_remove(struct lc_job *job);

/** lc_track_mark() - A range is to be copied again. Any context. */
void lc_track_mark(struct lc_job *job, sector_t sector, sector_t nr);

/** lc_track_serve() - Begin what guests' writes wait for, or let them go if it is not to be. */
void lc_track_serve(struct lc_job *job);

/** lc_track_copied() - A piece that served @t has been written (or not): the write is acknowledged. */
void lc_track_copied(struct lc_track_io *t, bool good);

/** lc_track_due() - As lc_waits_due(), but those that have waited too long are let go. */
unsigned long lc_track_due(struct lc_job *job);

/** lc_track_busy() - Is a piece in hand that overlaps the range? */
bool lc_track_busy(struct lc_job *job, sector_t sector, sector_t nr);

/** __lc_track_update() - Set job->eager from what decides it. Under job->lock. */
void __lc_track_update(struct lc_job *job);

/** lc_waits_due() - Return: jiffies until the oldest writer has waited too long, 0: it has; never: MAX_SCHEDULE_TIMEOUT. */
unsigned long lc_waits_due(struct lc_job *job);

#endif
