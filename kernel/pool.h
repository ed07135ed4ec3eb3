/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The pool of a layer: ranges that user space has granted. What is in it is
 * durable in the format already, so that taking from it costs nothing and a crash only
 * leaks.
 */
#ifndef LC_POOL_H
#define LC_POOL_H

#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct lc_pool {
	spinlock_t lock;
	struct list_head free;		/* struct lc_range, in the order of their granting */
	struct list_head offered;	/* taken out by `reclaim`, not yet confirmed */
	u64 free_sectors;
	u64 low;			/* ask when less is left */
	u64 last_grant;			/* number */
	bool low_told;			/* an event has been raised for it */
};

struct lc_range {
	struct list_head list;
	u64 sector, nr;
};

void lc_pool_init(struct lc_pool *pool);
void lc_pool_set_low(struct lc_pool *pool, u64 low);

/* Frees the struct lc_range of @list. */
void lc_range_free_list(struct list_head *list);

void lc_pool_exit(struct lc_pool *pool);

/**
 * lc_pool_take() - take contiguous space
 * @grain, @want: sectors; @want is a multiple of @grain.
 *
 * Takes what the first range that has room for a grain has, at most @want and whole
 * grains only. Ranges begin and end with units, so what is taken does too. Context: process.
 * Return: sectors taken, 0 if there is none.
 */
u64 lc_pool_take(struct lc_pool *pool, u64 grain, u64 want, u64 *ret_sector);

/* Whether there is room for a grain in one place. Context: any but irq. */
bool lc_pool_has(struct lc_pool *pool, u64 grain);

/* True once after the pool has run low. Context: process. */
bool lc_pool_tell_low(struct lc_pool *pool);

/* Gives space back that nothing refers to. May leak it if memory is short. */
void lc_pool_return(struct lc_pool *pool, u64 sector, u64 nr);

/* Adds the ranges of @list (struct lc_range) as grant @number. False: it is an old one. */
bool lc_pool_grant(struct lc_pool *pool, u64 number, struct list_head *list);

/* Moves all free space to the offered. */
void lc_pool_offer(struct lc_pool *pool);
/* The offered space is gone. */
void lc_pool_offer_done(struct lc_pool *pool);

#endif
