// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who waits for user space, and for what.
 */
#include <linux/hash.h>
#include "view.h"

void lc_park_init(struct lc_park *park)
{
	unsigned int want, i;

	spin_lock_init(&park->lock);
	for (want = 0; want < LC_WANT_NR; want++)
		for (i = 0; i < LC_PARK_BUCKETS; i++)
			INIT_LIST_HEAD(&park->bucket[want][i]);
}

static struct list_head *bucket(struct lc_park *park, enum lc_want want, u64 key)
{
	return &park->bucket[want][hash_64(key, ilog2(LC_PARK_BUCKETS))];
}

static bool __wanted(struct lc_park *park, enum lc_want want, u64 key)
{
	struct lc_waiter *w;

	lockdep_assert_held(&park->lock);
	list_for_each_entry(w, bucket(park, want, key), list)
		if (w->key == key)
			return true;
	return false;
}

void lc_park(struct lc_view *view, struct lc_waiter *w,
	     bool (*recheck)(struct lc_view *view, struct lc_waiter *w))
{
	struct lc_park *park = &view->park;
	unsigned long flags;
	bool again, news;

	spin_lock_irqsave(&park->lock, flags);
	again = recheck(view, w);
	if (again || park->closed) {
		spin_unlock_irqrestore(&park->lock, flags);
		w->wake(w, again);
		return;
	}
	news = !__wanted(park, w->want, w->key);
	list_add_tail(&w->list, bucket(park, w->want, w->key));
	w->parked = true;
	park->nr[w->want]++;
	park->nr_bios += w->is_bio;
	spin_unlock_irqrestore(&park->lock, flags);
	if (news)
		lc_view_event(view);
}

static void __unpark(struct lc_park *park, struct lc_waiter *w, struct list_head *out)
{
	lockdep_assert_held(&park->lock);
	list_move_tail(&w->list, out);
	w->parked = false;
	park->nr[w->want]--;
	park->nr_bios -= w->is_bio;
}

bool lc_unpark(struct lc_view *view, struct lc_waiter *w)
{
	struct lc_park *park = &view->park;
	unsigned long flags;
	LIST_HEAD(out);
	bool parked;

	spin_lock_irqsave(&park->lock, flags);
	parked = w->parked;
	if (parked) {
		__unpark(park, w, &out);
		list_del_init(&w->list);
	}
	spin_unlock_irqrestore(&park->lock, flags);
	return parked;
}

static void wake_list(struct list_head *list, bool again)
{
	struct lc_waiter *w, *next;

	list_for_each_entry_safe(w, next, list, list)
		w->wake(w, again);
}

void lc_park_wake(struct lc_view *view, enum lc_want want, u64 key)
{
	struct lc_park *park = &view->park;
	struct lc_waiter *w, *next;
	unsigned long flags;
	LIST_HEAD(out);

	spin_lock_irqsave(&park->lock, flags);
	if (park->nr[want])
		list_for_each_entry_safe(w, next, bucket(park, want, key), list)
			if (w->key == key)
				__unpark(park, w, &out);
	spin_unlock_irqrestore(&park->lock, flags);
	wake_list(&out, true);
}

static void __unpark_all(struct lc_park *park, enum lc_want want, struct list_head *out)
{
	struct lc_waiter *w, *next;
	unsigned int i;

	for (i = 0; i < LC_PARK_BUCKETS; i++)
		list_for_each_entry_safe(w, next, &park->bucket[want][i], list)
			__unpark(park, w, out);
}

void lc_park_wake_all(struct lc_view *view, enum lc_want want)
{
	struct lc_park *park = &view->park;
	unsigned long flags;
	LIST_HEAD(out);

	spin_lock_irqsave(&park->lock, flags);
	__unpark_all(park, want, &out);
	spin_unlock_irqrestore(&park->lock, flags);
	wake_list(&out, true);
}

void lc_park_fail(struct lc_view *view, blk_status_t status)
{
	struct lc_park *park = &view->park;
	struct lc_waiter *w;
	unsigned long flags;
	LIST_HEAD(out);

	spin_lock_irqsave(&park->lock, flags);
	__unpark_all(park, LC_WANT_HOME, &out);
	__unpark_all(park, LC_WANT_POOL, &out);
	list_for_each_entry(w, &out, list)
		w->status = status;
	spin_unlock_irqrestore(&park->lock, flags);
	wake_list(&out, true);
}

void lc_park_close(struct lc_view *view)
{
	struct lc_park *park = &view->park;
	unsigned int want;
	unsigned long flags;
	LIST_HEAD(out);

	spin_lock_irqsave(&park->lock, flags);
	park->closed = true;
	for (want = 0; want < LC_WANT_NR; want++)
		__unpark_all(park, want, &out);
	spin_unlock_irqrestore(&park->lock, flags);
	wake_list(&out, false);
}

void lc_park_open(struct lc_view *view)
{
	unsigned long flags;

	spin_lock_irqsave(&view->park.lock, flags);
	view->park.closed = false;
	spin_unlock_irqrestore(&view->park.lock, flags);
}

static bool known(const u64 *keys, unsigned int n, u64 key)
{
	while (n--)
		if (keys[n] == key)
			return true;
	return false;
}

unsigned int lc_park_keys(struct lc_view *view, enum lc_want want, u64 *keys, unsigned int max)
{
	struct lc_park *park = &view->park;
	struct lc_waiter *w;
	unsigned int i, n = 0;
	unsigned long flags;

	spin_lock_irqsave(&park->lock, flags);
	for (i = 0; i < LC_PARK_BUCKETS && n < max; i++) {
		list_for_each_entry(w, &park->bucket[want][i], list) {
			if (n < max && !known(keys, n, w->key))
				keys[n++] = w->key;
		}
	}
	spin_unlock_irqrestore(&park->lock, flags);
	return n;
}
