// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages for partial writes, and their reserve.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include "buf.h"

static void free_pages_of(struct lc_buf *buf)
{
	while (buf->nr)
		__free_page(buf->page[--buf->nr]);
}

/* Adds pages up to @nr. False if memory is short; what is there stays. */
static bool fill(struct lc_buf *buf, unsigned int nr, gfp_t gfp)
{
	while (buf->nr < nr) {
		buf->page[buf->nr] = alloc_page(gfp);
		if (!buf->page[buf->nr])
			return false;
		buf->nr++;
	}
	return true;
}

static struct lc_buf *buf_alloc(unsigned int nr, gfp_t gfp)
{
	struct lc_buf *buf = kmalloc(struct_size(buf, page, nr), gfp);

	if (!buf)
		return NULL;
	buf->nr = 0;
	if (fill(buf, nr, gfp))
		return buf;
	free_pages_of(buf);
	kfree(buf);
	return NULL;
}

int lc_buf_init(struct lc_bufs *bufs, unsigned int nr)
{
	spin_lock_init(&bufs->lock);
	INIT_LIST_HEAD(&bufs->waiters);
	bufs->taken = false;
	bufs->reserve = buf_alloc(nr, GFP_KERNEL);
	return bufs->reserve ? 0 : -ENOMEM;
}

void lc_buf_exit(struct lc_bufs *bufs)
{
	free_pages_of(bufs->reserve);
	kfree(bufs->reserve);
}

int lc_buf_grow(struct lc_bufs *bufs, unsigned int nr)
{
	struct lc_buf *buf, *old = NULL;

	if (READ_ONCE(bufs->reserve)->nr >= nr)
		return 0;
	buf = buf_alloc(nr, GFP_NOIO);
	if (!buf)
		return -ENOMEM;
	spin_lock(&bufs->lock);
	/* One that is taken is freed by lc_buf_put(): it is not the reserve any more. */
	if (!bufs->taken)
		old = bufs->reserve;
	bufs->reserve = buf;
	bufs->taken = false;
	spin_unlock(&bufs->lock);
	if (old) {
		free_pages_of(old);
		kfree(old);
	}
	return 0;
}

struct lc_buf *lc_buf_get(struct lc_bufs *bufs, unsigned int nr, struct lc_buf_waiter *w)
{
	struct lc_buf *buf = buf_alloc(nr, GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);

	if (buf)
		return buf;
	spin_lock(&bufs->lock);
	if (bufs->taken) {
		list_add_tail(&w->list, &bufs->waiters);
	} else {
		bufs->taken = true;
		buf = bufs->reserve;
	}
	spin_unlock(&bufs->lock);
	return buf;
}

void lc_buf_put(struct lc_bufs *bufs, struct lc_buf *buf)
{
	struct lc_buf_waiter *w = NULL;

	spin_lock(&bufs->lock);
	if (buf == bufs->reserve) {
		bufs->taken = false;
		buf = NULL;
	}
	w = list_first_entry_or_null(&bufs->waiters, struct lc_buf_waiter, list);
	if (w)
		list_del(&w->list);
	spin_unlock(&bufs->lock);
	if (buf) {
		free_pages_of(buf);
		kfree(buf);
	}
	if (w)
		w->wake(w);
}
