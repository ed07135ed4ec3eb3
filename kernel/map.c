// SPDX-License-Identifier: GPL-2.0-only
/*
 * The map: slots of slices, entries, look-up, loading and forgetting.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include "view.h"

static struct lc_map *map_of(struct lc_view *view)
{
	return &view->map;
}

/*
 * ---------------------------------------------------------------------------
 * Slots. A pointer to entries stays good as long as the caller is in an RCU read
 * section or holds map->lock.
 * ---------------------------------------------------------------------------
 */
static __always_inline unsigned long slot_of(struct lc_view *view, u64 slice)
{
	unsigned long *leaf = READ_ONCE(view->map.leaf[slice >> LC_LEAF_SHIFT]);

	return leaf ? READ_ONCE(leaf[slice & LC_LEAF_MASK]) : 0;
}

static __always_inline u64 entry_of(struct lc_view *view, unsigned long slot, unsigned int i)
{
	if (!slot)
		return 0;
	if (lc_slot_is_run(slot))
		return lc_slot_entry(slot, i, lc_block_sectors(view));
	return READ_ONCE(((u64 *)slot)[i]);
}

static u64 *slot_array(unsigned long slot)
{
	return slot && !lc_slot_is_run(slot) ? (u64 *)slot : NULL;
}

/* Blocks of a slice that the view has: less than 512 in the last one, perhaps. */
static unsigned int slice_blocks(struct lc_view *view, u64 slice)
{
	u64 first = slice << LC_SLICE_SHIFT;

	return min_t(u64, view->nr_blocks - first, LIVECHAIN_SLICE_BLOCKS);
}

u64 lc_map_entry(struct lc_view *view, u64 block)
{
	u64 e;

	rcu_read_lock();
	e = entry_of(view, slot_of(view, block >> LC_SLICE_SHIFT), block & LC_SLICE_MASK);
	rcu_read_unlock();
	return e;
}

/*
 * ---------------------------------------------------------------------------
 * Extents.
 * ---------------------------------------------------------------------------
 */

/* Whether @next may follow a block whose successor would be @expect, in one extent. */
static __always_inline bool follows(u64 expect, u64 next, u64 mask)
{
	return !((expect ^ next) & mask);
}

/*
 * How many sectors from the start of @block on, at most @max, go on as entry @e does, which
 * comes from @slot. Bits out of @mask are let differ.
 *
 * Each slice's slot is read once: a `forget` may empty it at any moment, and what is absent has no
 * successor of data.
 */
static unsigned int run_length(struct lc_view *view, u64 block, unsigned long slot, u64 e,
			       unsigned int max, u64 mask)
{
	const unsigned int bs = lc_block_sectors(view);
	const u64 step = lc_entry_type(e) == LC_DATA ? bs : 0;
	unsigned int len = bs, i = (block & LC_SLICE_MASK) + 1;
	u64 slice = block >> LC_SLICE_SHIFT;

	for (;;) {
		if (lc_slot_is_run(slot)) {
			/* The slice goes on alike to its end. */
			e += step * (LIVECHAIN_SLICE_BLOCKS - i);
			len += bs * (LIVECHAIN_SLICE_BLOCKS - i);
		} else if (slot) {
			const u64 *a = (const u64 *)slot;

			for (; i < LIVECHAIN_SLICE_BLOCKS && len < max; i++, len += bs) {
				e += step;
				if (!follows(e, READ_ONCE(a[i]), mask))
					return len;
			}
		} else {
			len += bs * (LIVECHAIN_SLICE_BLOCKS - i);
		}
		if (len >= max || ++slice >= view->nr_slices)
			return min(len, max);
		slot = slot_of(view, slice);
		e += step;
		if (!follows(e, entry_of(view, slot, 0), mask))
			return len;
		len += bs;
		i = 1;
	}
}

#define LC_MASK_TYPE	(3ULL << LC_ENTRY_TYPE_SHIFT)

static void data_extent(struct lc_view *view, u64 e, unsigned int offset, struct lc_extent *x)
{
	struct lc_layer *layer = view->layers[lc_entry_layer(e)];
	sector_t sector = lc_entry_sector(e) + offset, size = lc_layer_sectors(layer);

	if (unlikely(sector >= size)) {
		x->type = LC_ZERO;
		return;
	}
	x->layer = layer;
	x->sector = layer->start + sector;
	x->len = min_t(sector_t, x->len, size - sector);
}

static __always_inline void __extent(struct lc_view *view, sector_t sector, unsigned int max,
				     u64 data_mask, u64 zero_mask, struct lc_extent *x)
{
	const u64 block = sector >> view->block_shift;
	const unsigned int offset = sector & (lc_block_sectors(view) - 1);
	const unsigned long slot = slot_of(view, block >> LC_SLICE_SHIFT);
	u64 e = entry_of(view, slot, block & LC_SLICE_MASK), mask;

	x->type = lc_entry_type(e);
	x->entry = e;
	x->len = max;
	mask = x->type == LC_DATA ? data_mask : zero_mask;
	if (offset + max > lc_block_sectors(view))
		x->len = run_length(view, block, slot, e, offset + max, mask) - offset;
	if (likely(x->type == LC_DATA))
		data_extent(view, e, offset, x);
}

static __always_inline void extent(struct lc_view *view, sector_t sector, unsigned int max,
				   u64 zero_mask, struct lc_extent *x)
{
	if (unlikely(sector >= view->nr_sectors)) {
		x->type = LC_ZERO;
		x->entry = 0;
		x->len = max;
		return;
	}
	max = min_t(sector_t, max, view->nr_sectors - sector);
	rcu_read_lock();
	__extent(view, sector, max, ~LC_ENTRY_SHARED, zero_mask, x);
	rcu_read_unlock();
}

void lc_map_extent(struct lc_view *view, sector_t sector, unsigned int max, struct lc_extent *x)
{
	extent(view, sector, max, LC_MASK_TYPE, x);
}

void lc_map_extent_layer(struct lc_view *view, sector_t sector, unsigned int max,
			 struct lc_extent *x)
{
	extent(view, sector, max, LC_MASK_TYPE | LC_ENTRY_LAYER_MASK, x);
}

void lc_map_extent_same(struct lc_view *view, sector_t sector, unsigned int max,
			struct lc_extent *x)
{
	rcu_read_lock();
	__extent(view, sector, max, ~0ULL, LC_MASK_TYPE, x);
	rcu_read_unlock();
}

bool lc_map_absent(struct lc_view *view, u64 block, u64 nr, u64 *ret_slice)
{
	u64 slice = block >> LC_SLICE_SHIFT, last = (block + nr - 1) >> LC_SLICE_SHIFT;

	for (; slice <= last; slice++) {
		if (!slot_of(view, slice)) {
			*ret_slice = slice;
			return true;
		}
	}
	return false;
}

bool lc_map_loaded(struct lc_view *view, struct lc_waiter *w)
{
	return slot_of(view, w->key);
}

/*
 * ---------------------------------------------------------------------------
 * Changes.
 * ---------------------------------------------------------------------------
 */

/* Counts @nr blocks with entries like @e for or against their layer. */
static void __count(struct lc_view *view, u64 e, s64 nr)
{
	unsigned int id = lc_entry_layer(e);

	lockdep_assert_held(&view->map.lock);
	if (lc_entry_type(e) != LC_ABSENT && id != LC_ENTRY_NO_LAYER)
		view->layers[id]->entries += nr;
}

static void __count_slot(struct lc_view *view, unsigned long slot, u64 slice, int sign)
{
	unsigned int i, nr = slice_blocks(view, slice);
	u64 *a = slot_array(slot);

	if (!a) {
		__count(view, entry_of(view, slot, 0), sign * (s64)nr);
		return;
	}
	for (i = 0; i < nr; i++)
		__count(view, a[i], sign);
}

static void __set_slot(struct lc_view *view, u64 slice, unsigned long slot)
{
	unsigned long *leaf = view->map.leaf[slice >> LC_LEAF_SHIFT];

	lockdep_assert_held(&view->map.lock);
	/* Entries before the pointer to them; readers depend on the address. */
	smp_store_release(&leaf[slice & LC_LEAF_MASK], slot);
}

static bool ensure_leaf(struct lc_view *view, u64 slice)
{
	unsigned long **p = &view->map.leaf[slice >> LC_LEAF_SHIFT];
	unsigned long *leaf;

	if (READ_ONCE(*p))
		return true;
	leaf = (unsigned long *)get_zeroed_page(GFP_NOIO);
	if (!leaf)
		return false;
	spin_lock(&view->map.lock);
	if (!*p) {
		smp_store_release(p, leaf);
		view->map.bytes += PAGE_SIZE;
		leaf = NULL;
	}
	spin_unlock(&view->map.lock);
	free_page((unsigned long)leaf);
	return true;
}

static int fill_slot(struct lc_view *view, u64 slice, unsigned long slot)
{
	struct lc_map *map = map_of(view);
	bool absent;

	if (!ensure_leaf(view, slice))
		return -ENOMEM;
	spin_lock(&map->lock);
	absent = !slot_of(view, slice);
	if (absent) {
		__set_slot(view, slice, slot);
		__count_slot(view, slot, slice, 1);
		map->loaded++;
		if (slot_array(slot))
			map->bytes += PAGE_SIZE;
	}
	spin_unlock(&map->lock);
	if (absent)
		lc_park_wake(view, LC_WANT_SLICE, slice);
	return absent;
}

int lc_map_fill_run(struct lc_view *view, u64 slice, u64 first_entry)
{
	return fill_slot(view, slice, lc_slot_run(first_entry));
}

static bool is_run(struct lc_view *view, const u64 *e, unsigned int nr)
{
	const u64 step = lc_entry_step(e[0], lc_block_sectors(view));
	unsigned int i;

	for (i = 1; i < nr; i++)
		if (e[i] != e[i - 1] + step)
			return false;
	return true;
}

int lc_map_fill(struct lc_view *view, u64 slice, const u64 *e)
{
	unsigned int nr = slice_blocks(view, slice);
	u64 *a;
	int r;

	if (is_run(view, e, nr))
		return lc_map_fill_run(view, slice, e[0]);
	a = (u64 *)__get_free_page(GFP_NOIO);
	if (!a)
		return -ENOMEM;
	memcpy(a, e, nr * sizeof(*e));
	memset(a + nr, 0, (LIVECHAIN_SLICE_BLOCKS - nr) * sizeof(*e));
	r = fill_slot(view, slice, (unsigned long)a);
	if (r != 1)
		free_page((unsigned long)a);
	return r;
}

static void prepare_slice(struct lc_view *view, u64 slice)
{
	struct lc_map *map = map_of(view);
	unsigned int i, nr = slice_blocks(view, slice);
	unsigned long slot;
	u64 *a;

	if (slot_array(slot_of(view, slice)))
		return;
	/* One page, for good: there is nothing that could be given back instead. */
	a = (u64 *)get_zeroed_page(GFP_NOIO | __GFP_NOFAIL);
	spin_lock(&map->lock);
	slot = slot_of(view, slice);
	if (lc_slot_is_run(slot)) {
		for (i = 0; i < nr; i++)
			a[i] = entry_of(view, slot, i);
		__set_slot(view, slice, (unsigned long)a);
		map->bytes += PAGE_SIZE;
		a = NULL;
	}
	spin_unlock(&map->lock);
	free_page((unsigned long)a);
}

void lc_map_prepare(struct lc_view *view, u64 block, u64 nr)
{
	u64 slice = block >> LC_SLICE_SHIFT, last = (block + nr - 1) >> LC_SLICE_SHIFT;

	for (; slice <= last; slice++)
		prepare_slice(view, slice);
}

void lc_map_set(struct lc_view *view, u64 block, u64 nr, u64 entry)
{
	const u64 step = lc_entry_step(entry, lc_block_sectors(view));
	struct lc_map *map = map_of(view);

	spin_lock(&map->lock);
	__count(view, entry, nr);
	for (; nr; nr--, block++, entry += step) {
		u64 *a = slot_array(slot_of(view, block >> LC_SLICE_SHIFT));

		if (WARN_ON_ONCE(!a))
			break;
		a += block & LC_SLICE_MASK;
		__count(view, *a, -1);
		WRITE_ONCE(*a, entry);
	}
	spin_unlock(&map->lock);
}

static bool of_layers(u64 e, const unsigned long *ids)
{
	return (lc_entry_type(e) == LC_DATA || lc_entry_type(e) == LC_ZERO) &&
	       test_bit(lc_entry_layer(e), ids);
}

/* Blocks [i, i + nr) of a slice; @entry is for the first. */
static u64 replace_in_slice(struct lc_view *view, u64 slice, unsigned int i, unsigned int nr,
			    u64 entry, const unsigned long *ids)
{
	const u64 step = lc_entry_step(entry, lc_block_sectors(view));
	unsigned long slot = slot_of(view, slice);
	u64 *a, n = 0;

	if (lc_slot_is_run(slot) && !of_layers(entry_of(view, slot, 0), ids))
		return 0;
	if (slot)
		prepare_slice(view, slice);
	spin_lock(&view->map.lock);
	a = slot_array(slot_of(view, slice));
	for (; a && nr; nr--, i++, entry += step) {
		if (!of_layers(a[i], ids))
			continue;
		__count(view, a[i], -1);
		__count(view, entry, 1);
		WRITE_ONCE(a[i], entry);
		n++;
	}
	spin_unlock(&view->map.lock);
	return n;
}

u64 lc_map_replace(struct lc_view *view, u64 block, u64 nr, u64 entry, const unsigned long *ids)
{
	const u64 step = lc_entry_step(entry, lc_block_sectors(view));
	u64 done = 0, n;

	for (; nr; nr -= n, block += n, entry += n * step) {
		n = min_t(u64, nr, LIVECHAIN_SLICE_BLOCKS - (block & LC_SLICE_MASK));
		done += replace_in_slice(view, block >> LC_SLICE_SHIFT, block & LC_SLICE_MASK, n,
					 entry, ids);
		cond_resched();
	}
	return done;
}

/* Unhooks a slice; its page, if it has one, is put on @pages. */
static void forget_slice(struct lc_view *view, u64 slice, struct list_head *pages)
{
	struct lc_map *map = map_of(view);
	unsigned long slot;

	spin_lock(&map->lock);
	slot = slot_of(view, slice);
	if (slot) {
		__count_slot(view, slot, slice, -1);
		__set_slot(view, slice, 0);
		map->loaded--;
		if (slot_array(slot)) {
			map->bytes -= PAGE_SIZE;
			list_add(&virt_to_page(slot_array(slot))->lru, pages);
		}
	}
	spin_unlock(&map->lock);
}

void lc_map_forget(struct lc_view *view, u64 slice, u64 nr)
{
	struct page *page, *next;
	LIST_HEAD(pages);

	for (; nr; nr--, slice++)
		forget_slice(view, slice, &pages);
	if (list_empty(&pages))
		return;
	synchronize_rcu();
	list_for_each_entry_safe(page, next, &pages, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

/*
 * ---------------------------------------------------------------------------
 * Life.
 * ---------------------------------------------------------------------------
 */
int lc_map_init(struct lc_view *view, char **error)
{
	struct lc_map *map = map_of(view);

	spin_lock_init(&map->lock);
	map->nr_leaves = (view->nr_slices + LC_LEAF_MASK) >> LC_LEAF_SHIFT;
	if (map->nr_leaves > LC_MAP_LEAVES_MAX) {
		*error = "The view is too long for its block size";
		return -EINVAL;
	}
	map->leaf = kvcalloc(map->nr_leaves, sizeof(*map->leaf), GFP_KERNEL);
	if (!map->leaf) {
		*error = "No memory for the map";
		return -ENOMEM;
	}
	map->bytes = map->nr_leaves * sizeof(*map->leaf);
	return 0;
}

static void free_leaf(unsigned long *leaf)
{
	unsigned int i;

	for (i = 0; i < LC_LEAF_SLOTS; i++)
		free_page((unsigned long)slot_array(leaf[i]));
	free_page((unsigned long)leaf);
}

void lc_map_exit(struct lc_view *view)
{
	u64 i;

	for (i = 0; i < view->map.nr_leaves; i++)
		if (view->map.leaf[i])
			free_leaf(view->map.leaf[i]);
	kvfree(view->map.leaf);
}
