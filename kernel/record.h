/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records and commits: which units of the active layer have entries that its
 * format does not know yet, and the group commit that tells it.
 */
#ifndef LC_RECORD_H
#define LC_RECORD_H

#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

struct lc_view;
struct lc_io;

#define LC_RECPAGE_BUCKETS 256

struct lc_records {
	spinlock_t lock;		/* irq-safe */
	struct hlist_head hash[LC_RECPAGE_BUCKETS]; /* struct lc_recpage by number */
	struct list_head dirty;		/* record pages with something unrecorded */
	u64 unrecorded;			/* units; read without the lock as a hint */
	struct list_head waiters;	/* struct lc_io that wait for the next commit to end */
	bool running;
	struct delayed_work work;
	mempool_t pages;		/* for record pages in I/O */
	mempool_t recpages;
};

int lc_records_init(struct lc_view *view, char **error);
void lc_records_exit(struct lc_view *view);

/* The home of a record page of the active layer is known. Context: process. */
bool lc_record_home(struct lc_view *view, u64 page, u64 *ret_sector);

/**
 * lc_record_dirty() - units of the active layer have new entries
 *
 * Called after lc_map_set(), with the range's block lock held; the homes must be known. Starts
 * the timer. May sleep (GFP_NOIO).
 */
void lc_record_dirty(struct lc_view *view, u64 first_unit, u64 nr);

/* Whether a unit of the range is not recorded yet. Context: any. */
bool lc_record_pending(struct lc_view *view, u64 first_unit, u64 nr);

/* Completes @io's bio after a commit that begins from now on. Context: any. */
void lc_commit_join(struct lc_view *view, struct lc_io *io);

/* Starts a commit if there is something to do. Context: any. */
void lc_commit_kick(struct lc_view *view);

/* Waits until nothing is unrecorded or unflushed, or it can't be done now. May sleep. */
void lc_commit_wait(struct lc_view *view);

/* Nothing is unrecorded, unflushed or being committed. */
bool lc_commit_clean(struct lc_view *view);

#endif
