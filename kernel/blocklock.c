// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table of locked block ranges: an interval tree of all locks, held and
 * waiting, in which each lock counts the earlier ones that overlap it.
 */
#include <linux/interval_tree_generic.h>
#include <linux/list.h>
#include "blocklock.h"

#define START(l) ((l)->first)
#define LAST(l) ((l)->last)

INTERVAL_TREE_DEFINE(struct lc_lock, node, u64, subtree_last, START, LAST, static, lc_tree)

void lc_locks_init(struct lc_locks *locks)
{
	spin_lock_init(&locks->lock);
	locks->tree = RB_ROOT_CACHED;
	locks->last_number = 0;
}

static unsigned int __count_overlaps(struct lc_locks *locks, u64 first, u64 last)
{
	struct lc_lock *l;
	unsigned int n = 0;

	lockdep_assert_held(&locks->lock);
	for (l = lc_tree_iter_first(&locks->tree, first, last); l;
	     l = lc_tree_iter_next(l, first, last))
		n++;
	return n;
}

static bool insert(struct lc_locks *locks, struct lc_lock *lock, bool wait)
{
	unsigned long flags;
	bool held;

	spin_lock_irqsave(&locks->lock, flags);
	lock->blockers = __count_overlaps(locks, lock->first, lock->last);
	held = !lock->blockers;
	lock->waiting = !held && wait;
	lock->number = ++locks->last_number;
	if (held || wait)
		lc_tree_insert(lock, &locks->tree);
	spin_unlock_irqrestore(&locks->lock, flags);
	return held;
}

bool lc_lock_range(struct lc_locks *locks, struct lc_lock *lock, u64 first, u64 nr,
		   void (*granted)(struct lc_lock *lock))
{
	lock->first = first;
	lock->last = first + nr - 1;
	lock->granted = granted;
	return insert(locks, lock, true);
}

bool lc_trylock_range(struct lc_locks *locks, struct lc_lock *lock, u64 first, u64 nr)
{
	lock->first = first;
	lock->last = first + nr - 1;
	lock->granted = NULL;
	return insert(locks, lock, false);
}

/* Takes @lock out; who waited for nobody else comes to @granted. */
static void __remove(struct lc_locks *locks, struct lc_lock *lock, struct list_head *granted)
{
	struct lc_lock *l;

	lockdep_assert_held(&locks->lock);
	lc_tree_remove(lock, &locks->tree);
	for (l = lc_tree_iter_first(&locks->tree, lock->first, lock->last); l;
	     l = lc_tree_iter_next(l, lock->first, lock->last)) {
		if (l->number < lock->number || --l->blockers)
			continue;
		l->waiting = false;
		list_add_tail(&l->granted_list, granted);
	}
}

/* A granted lock is its owner's as soon as it knows: don't look at it afterwards. */
static void tell(struct list_head *granted)
{
	struct lc_lock *l, *next;

	list_for_each_entry_safe(l, next, granted, granted_list)
		l->granted(l);
}

void lc_unlock_range(struct lc_locks *locks, struct lc_lock *lock)
{
	unsigned long flags;
	LIST_HEAD(granted);

	spin_lock_irqsave(&locks->lock, flags);
	__remove(locks, lock, &granted);
	spin_unlock_irqrestore(&locks->lock, flags);
	tell(&granted);
}

bool lc_lock_cancel(struct lc_locks *locks, struct lc_lock *lock)
{
	unsigned long flags;
	LIST_HEAD(granted);
	bool waited;

	spin_lock_irqsave(&locks->lock, flags);
	waited = lock->waiting;
	lock->waiting = false;
	if (waited)
		__remove(locks, lock, &granted);
	spin_unlock_irqrestore(&locks->lock, flags);
	tell(&granted);
	return waited;
}
