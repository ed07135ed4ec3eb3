// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pool of a layer: granted ranges, taken from front to back.
 */
#include <linux/slab.h>
#include "logic/space.h"
#include "pool.h"

void lc_pool_init(struct lc_pool *pool)
{
	spin_lock_init(&pool->lock);
	INIT_LIST_HEAD(&pool->free);
	INIT_LIST_HEAD(&pool->offered);
	pool->low = 8192;
}

void lc_pool_set_low(struct lc_pool *pool, u64 low)
{
	spin_lock(&pool->lock);
	pool->low = low;
	pool->low_told = false;
	spin_unlock(&pool->lock);
}

void lc_range_free_list(struct list_head *list)
{
	struct lc_range *r, *next;

	list_for_each_entry_safe(r, next, list, list)
		kfree(r);
}

void lc_pool_exit(struct lc_pool *pool)
{
	lc_range_free_list(&pool->free);
	lc_range_free_list(&pool->offered);
}

u64 lc_pool_take(struct lc_pool *pool, u64 grain, u64 want, u64 *ret_sector)
{
	struct lc_range *r, *used = NULL;
	u64 n = 0;

	spin_lock(&pool->lock);
	list_for_each_entry(r, &pool->free, list) {
		n = lc_space_fit(r->nr, grain, want);
		if (!n)
			continue;
		*ret_sector = r->sector;
		r->sector += n;
		r->nr -= n;
		pool->free_sectors -= n;
		if (!r->nr) {
			list_del(&r->list);
			used = r;
		}
		break;
	}
	spin_unlock(&pool->lock);
	kfree(used);
	return n;
}

bool lc_pool_has(struct lc_pool *pool, u64 grain)
{
	struct lc_range *r;
	bool has = false;

	spin_lock(&pool->lock);
	list_for_each_entry(r, &pool->free, list) {
		has = r->nr >= grain;
		if (has)
			break;
	}
	spin_unlock(&pool->lock);
	return has;
}

void lc_pool_return(struct lc_pool *pool, u64 sector, u64 nr)
{
	struct lc_range *r = kmalloc(sizeof(*r), GFP_NOIO);

	if (!r)
		return;
	r->sector = sector;
	r->nr = nr;
	spin_lock(&pool->lock);
	list_add(&r->list, &pool->free);
	pool->free_sectors += nr;
	spin_unlock(&pool->lock);
}

bool lc_pool_grant(struct lc_pool *pool, u64 number, struct list_head *list)
{
	struct lc_range *r;

	spin_lock(&pool->lock);
	if (number <= pool->last_grant) {
		spin_unlock(&pool->lock);
		return false;
	}
	pool->last_grant = number;
	pool->low_told = false;
	list_for_each_entry(r, list, list)
		pool->free_sectors += r->nr;
	list_splice_tail_init(list, &pool->free);
	spin_unlock(&pool->lock);
	return true;
}

void lc_pool_offer(struct lc_pool *pool)
{
	spin_lock(&pool->lock);
	list_splice_tail_init(&pool->free, &pool->offered);
	pool->free_sectors = 0;
	spin_unlock(&pool->lock);
}

void lc_pool_offer_done(struct lc_pool *pool)
{
	LIST_HEAD(done);

	spin_lock(&pool->lock);
	list_splice_init(&pool->offered, &done);
	spin_unlock(&pool->lock);
	lc_range_free_list(&done);
}

bool lc_pool_tell_low(struct lc_pool *pool)
{
	bool tell;

	spin_lock(&pool->lock);
	tell = pool->free_sectors < pool->low && !pool->low_told;
	pool->low_told |= tell;
	spin_unlock(&pool->lock);
	return tell;
}
