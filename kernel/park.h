/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Those who wait for user space: for a slice of the map, for a home, for space.
 * The message `requests` is a look at this table; nothing is queued elsewhere, so
 * nothing can be lost.
 */
#ifndef LC_PARK_H
#define LC_PARK_H

#include <linux/blk_types.h>
#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct lc_view;

enum lc_want {
	LC_WANT_SLICE,		/* key: slice number */
	LC_WANT_HOME,		/* key: record page number (unit / 512) of the active layer */
	LC_WANT_POOL,		/* key: 0; space in the active layer's pool, or its description */
	LC_WANT_NR,
};

#define LC_PARK_BUCKETS 64

struct lc_park {
	spinlock_t lock;	/* irq-safe; rechecks take pool.lock inside it */
	bool closed;		/* suspending: who comes is turned away */
	unsigned int nr[LC_WANT_NR];
	unsigned int nr_bios;
	struct list_head bucket[LC_WANT_NR][LC_PARK_BUCKETS];
};

struct lc_waiter {
	struct list_head list;
	enum lc_want want;
	u64 key;
	bool is_bio;		/* counted by status as a parked bio */
	bool parked;		/* the table's own */
	blk_status_t status;	/* when woken: if not 0, give up with it (space and homes only) */
	/*
	 * @again: what was waited for may be there: look again. Otherwise the view is
	 * being suspended: give up for now (a bio: requeue; a job: again after resume).
	 * Any context, no lock held.
	 */
	void (*wake)(struct lc_waiter *w, bool again);
};

void lc_park_init(struct lc_park *park);

/**
 * lc_park() - wait until user space has brought @w->key of kind @w->want
 *
 * The caller looked, found it missing, and parks; @w->wake is called exactly
 * once, perhaps before this returns. @recheck is called with the table locked: it returns true
 * if the thing is there now, so that nothing is missed in between.
 */
void lc_park(struct lc_view *view, struct lc_waiter *w,
	     bool (*recheck)(struct lc_view *view, struct lc_waiter *w));

/* Stops waiting. False: @w->wake has been called or is about to be. Context: any. */
bool lc_unpark(struct lc_view *view, struct lc_waiter *w);

/* Wakes who waits for that key, or for any key of that kind. Context: any. */
void lc_park_wake(struct lc_view *view, enum lc_want want, u64 key);
void lc_park_wake_all(struct lc_view *view, enum lc_want want);

/* Wakes who waits for space or for a home: it will not come, for @status. Context: any. */
void lc_park_fail(struct lc_view *view, blk_status_t status);

/* Turns everybody away, now and until lc_park_open(). Context: any. */
void lc_park_close(struct lc_view *view);
void lc_park_open(struct lc_view *view);

/* Up to @max different keys that are waited for. Returns how many. */
unsigned int lc_park_keys(struct lc_view *view, enum lc_want want, u64 *keys, unsigned int max);

#endif
