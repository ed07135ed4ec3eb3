/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pages for grains that are written in part, with a reserve so that one write
 * at a time gets on when memory is short, and with some that are kept for the
 * next to come, so that not each write waits for pages to be cleared.
 */
#ifndef LC_BUF_H
#define LC_BUF_H

#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct lc_buf {
	unsigned int nr;
	int order;			/* of the one block that the pages are; -1: each its own */
	struct page *page[];
};

/* So many that were put are kept, if they are small: a kernel may clear each page that it gives. */
#define LC_BUF_SPARES	   8
#define LC_BUF_SPARE_PAGES (65536 >> PAGE_SHIFT)

struct lc_bufs {
	spinlock_t lock;
	struct lc_buf *spare[LC_BUF_SPARES]; /* all of the reserve's size */
	unsigned int nr_spares;
	struct lc_buf *reserve;
	bool taken;
	struct list_head waiters;	/* struct lc_buf_waiter, for the reserve */
};

struct lc_buf_waiter {
	struct list_head list;
	void (*wake)(struct lc_buf_waiter *w); /* try again; must not sleep */
};

/* A reserve of @nr pages. May sleep. */
int lc_buf_init(struct lc_bufs *bufs, unsigned int nr);
void lc_buf_exit(struct lc_bufs *bufs);

/* Makes the reserve at least @nr pages large. May sleep (GFP_NOIO). */
int lc_buf_grow(struct lc_bufs *bufs, unsigned int nr);

/**
 * lc_buf_get() - get @nr pages
 *
 * Kept ones if there are some of that size, else new ones, else the reserve. They
 * hold what their last user left: none of it may be written to a disk.
 *
 * Context: process, may sleep for memory but not for the reserve.
 * Return: NULL if there are none now; @w->wake is called when it is time to try
 * again. @nr must not be larger than the reserve.
 */
struct lc_buf *lc_buf_get(struct lc_bufs *bufs, unsigned int nr, struct lc_buf_waiter *w);
void lc_buf_put(struct lc_bufs *bufs, struct lc_buf *buf);

#endif
