/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who may change which blocks of a view: one table of locked ranges, used by
 * allocating writes, discards and copies alike.
 *
 * Strictly first come, first served: a lock waits for every earlier lock, held
 * or waiting, that overlaps it. Nobody may ask for a second lock of the same view
 * while holding or awaiting one, so there is no deadlock among lockers.
 *
 * Reads and writes in place take no lock.
 */
#ifndef LC_BLOCKLOCK_H
#define LC_BLOCKLOCK_H

#include <linux/list.h>
#include <linux/rbtree.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct lc_locks {
	spinlock_t lock;		/* irq-safe; nothing is taken inside it */
	struct rb_root_cached tree;	/* every lock, held and waiting */
	u64 last_number;
};

struct lc_lock {
	struct rb_node node;
	u64 first, last;		/* blocks, both included */
	u64 subtree_last;
	u64 number;			/* in the order of asking */
	unsigned int blockers;		/* earlier locks that overlap */
	bool waiting;			/* false in a new one */
	struct list_head granted_list;
	void (*granted)(struct lc_lock *lock);
};

void lc_locks_init(struct lc_locks *locks);

/**
 * lc_lock_range() - lock blocks @first to @first + @nr - 1
 * @granted: called once if the lock has to be waited for, in the context of the
 *	release that lets it go (any context, no lock held): must not sleep.
 *
 * @lock is the caller's and must stay until it is released.
 * Context: any.
 * Return: true if it is held now; then @granted is not called.
 */
bool lc_lock_range(struct lc_locks *locks, struct lc_lock *lock, u64 first, u64 nr,
		   void (*granted)(struct lc_lock *lock));

/**
 * lc_unlock_range() - release a held lock, and let those go that waited for it only
 *
 * Context: any.
 */
void lc_unlock_range(struct lc_locks *locks, struct lc_lock *lock);

/**
 * lc_lock_cancel() - wait for @lock no longer
 *
 * @lock is one that was asked for, or new. Context: any; may grant the locks of others.
 * Return: true if it waited; then @granted is not called. False: it is held, or about to be
 * granted, or was never asked for.
 */
bool lc_lock_cancel(struct lc_locks *locks, struct lc_lock *lock);

/* Locks the range if no lock, held or awaited, overlaps it. Context: any. */
bool lc_trylock_range(struct lc_locks *locks, struct lc_lock *lock, u64 first, u64 nr);

#endif
