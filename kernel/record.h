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
#include <linux/types.h>
#include <linux/workqueue.h>

struct lc_view;
struct lc_layer;
struct lc_io;

#define LC_RECPAGE_BUCKETS 256
#define LC_COMMIT_PERIOD HZ

struct lc_records {
	spinlock_t lock;		/* not from interrupts; nothing is taken inside it */
	struct hlist_head hash[LC_RECPAGE_BUCKETS]; /* struct lc_recpage by number */
	struct list_head dirty;		/* record pages with something unrecorded */
	u64 unrecorded;			/* units whose records are not durable */
	struct list_head waiters;	/* struct lc_io: complete when the next commit has */
	bool asked;			/* for a commit, even if it is only a flush of what is dirty */
	bool running;
	struct delayed_work work;
	mempool_t recpages;
	mempool_t images;		/* pages for records in I/O; only a commit takes them */
};

int lc_records_init(struct lc_view *view, char **error);
void lc_records_exit(struct lc_view *view);

/* The home of a record page of @layer, if it is known. Context: any. */
bool lc_record_home(struct lc_layer *layer, u64 page, u64 *ret_sector);

/**
 * lc_record_dirty() - units of the active layer have new entries
 *
 * Called after lc_map_set(), with the blocks locked; the homes must be known. Starts the
 * timer. Context: view->wq, may sleep for memory.
 */
void lc_record_dirty(struct lc_view *view, u64 first_unit, u64 nr);

/* Whether a unit of the range is not recorded yet. Context: process. */
bool lc_record_pending(struct lc_view *view, u64 first_unit, u64 nr);

/* Completes @io when a commit that begins from now on has. Context: process, atomic too. */
void lc_commit_join(struct lc_view *view, struct lc_io *io);

/* Starts a commit, now. Context: any but irq. */
void lc_commit_start(struct lc_view *view);

/* Commits; returns when that has ended, be it because it can't be done now. May sleep. */
void lc_commit_wait(struct lc_view *view);

/* Nothing is unrecorded, unflushed or being committed. */
bool lc_commit_clean(struct lc_view *view);

#endif
