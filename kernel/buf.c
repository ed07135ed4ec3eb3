// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages for partial writes, and their reserve.
 */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include "buf.h"

static void buf_free(struct lc_buf *buf)
{
	if (buf->order >= 0)
		__free_pages(buf->page[0], buf->order);
	else
		while (buf->nr)
			__free_page(buf->page[--buf->nr]);
	kfree(buf);
}

/* One block of pages is quicker to get and to free than many. */
static bool fill_block(struct lc_buf *buf, unsigned int nr, gfp_t gfp)
{
	struct page *block;
	unsigned int i;

	buf->order = get_order(nr << PAGE_SHIFT);
	if (buf->order > PAGE_ALLOC_COSTLY_ORDER + 1)
		return false;
	block = alloc_pages(gfp | __GFP_COMP | __GFP_NORETRY | __GFP_NOWARN, buf->order);
	if (!block)
		return false;
	for (i = 0; i < nr; i++)
		buf->page[i] = block + i;
	buf->nr = nr;
	return true;
}

static bool fill_singly(struct lc_buf *buf, unsigned int nr, gfp_t gfp)
{
	buf->order = -1;
	for (buf->nr = 0; buf->nr < nr; buf->nr++) {
		buf->page[buf->nr] = alloc_page(gfp);
		if (!buf->page[buf->nr])
			return false;
	}
	return true;
}

static struct lc_buf *buf_alloc(unsigned int nr, gfp_t gfp)
{
	struct lc_buf *buf = kmalloc(struct_size(buf, page, nr), gfp);

	if (!buf)
		return NULL;
	if (fill_block(buf, nr, gfp) || fill_singly(buf, nr, gfp))
		return buf;
	buf_free(buf);
	return NULL;
}

int lc_buf_init(struct lc_bufs *bufs, unsigned int nr)
{
	spin_lock_init(&bufs->lock);
	INIT_LIST_HEAD(&bufs->waiters);
	bufs->taken = false;
	bufs->nr_spares = 0;
	bufs->reserve = buf_alloc(nr, GFP_KERNEL);
	return bufs->reserve ? 0 : -ENOMEM;
}

void lc_buf_exit(struct lc_bufs *bufs)
{
	while (bufs->nr_spares)
		buf_free(bufs->spare[--bufs->nr_spares]);
	buf_free(bufs->reserve);
}

int lc_buf_grow(struct lc_bufs *bufs, unsigned int nr)
{
	struct lc_buf *buf, *old = NULL, *spare[LC_BUF_SPARES];
	unsigned int nr_spares;

	if (READ_ONCE(bufs->reserve)->nr >= nr)
		return 0;
	buf = buf_alloc(nr, GFP_NOIO);
	if (!buf)
		return -ENOMEM;
	spin_lock(&bufs->lock);
	nr_spares = bufs->nr_spares;
	memcpy(spare, bufs->spare, nr_spares * sizeof(*spare));
	bufs->nr_spares = 0;
	/* One that is taken is freed by lc_buf_put(): it is not the reserve any more. */
	if (!bufs->taken)
		old = bufs->reserve;
	bufs->reserve = buf;
	bufs->taken = false;
	spin_unlock(&bufs->lock);
	while (nr_spares)
		buf_free(spare[--nr_spares]);
	if (old)
		buf_free(old);
	return 0;
}

struct lc_buf *lc_buf_get(struct lc_bufs *bufs, unsigned int nr, struct lc_buf_waiter *w)
{
	struct lc_buf *buf = NULL;

	spin_lock(&bufs->lock);
	if (bufs->nr_spares && bufs->reserve->nr == nr)
		buf = bufs->spare[--bufs->nr_spares];
	spin_unlock(&bufs->lock);
	if (!buf)
		buf = buf_alloc(nr, GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
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
	} else if (buf->nr == bufs->reserve->nr && buf->nr <= LC_BUF_SPARE_PAGES &&
		   bufs->nr_spares < LC_BUF_SPARES) {
		bufs->spare[bufs->nr_spares++] = buf;
		buf = NULL;
	}
	w = list_first_entry_or_null(&bufs->waiters, struct lc_buf_waiter, list);
	if (w)
		list_del(&w->list);
	spin_unlock(&bufs->lock);
	if (buf)
		buf_free(buf);
	if (w)
		w->wake(w);
}
