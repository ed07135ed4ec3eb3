// SPDX-License-Identifier: GPL-2.0-only
/*
 * The messages `map`, `forget` and `remap`.
 */
#include <linux/mm.h>
#include "copy.h"
#include "logic/grammar.h"
#include "message.h"
#include "table.h"

static u64 blocks_of_slice(const struct lc_view *view, u64 slice)
{
	return min_t(u64, LIVECHAIN_SLICE_BLOCKS, view->nr_blocks - (slice << LC_SLICE_SHIFT));
}

/* What a run says, against the layer that it names. */
static int check_run(struct lc_msg *m, const char *word, const struct lc_run *run, u64 block)
{
	unsigned int id = lc_entry_layer(run->entry);
	u64 sector = lc_entry_sector(run->entry);
	struct lc_layer *layer;

	if (run->count > m->view->nr_blocks - block)
		return lc_msg_refuse(m, -EINVAL, "run %s ends beyond the view's end", word);
	if (id == LC_ENTRY_NO_LAYER)
		return 0;
	layer = lc_layer_find(m->view, id);
	if (!layer || !lc_table_has(m->table, layer))
		return lc_msg_refuse(m, -ENOENT, "run %s: layer %u is not in the live table", word,
				     id);
	/* What it holds changes without its entries; a promote's is the active layer. */
	if (layer != m->view->active && lc_jobs_use_layer(m->view, layer))
		return lc_msg_refuse(m, -EBUSY, "run %s: layer %u is the destination of a job",
				     word, id);
	if (sector & ((bdev_logical_block_size(layer->bdev) >> SECTOR_SHIFT) - 1))
		return lc_msg_refuse(m, -EINVAL, "run %s: the sector is not a multiple of the device's logical block",
				     word);
	if (layer->kind == LC_LAYER_RAW && lc_entry_has_space(run->entry) &&
	    sector != block << m->view->block_shift)
		return lc_msg_refuse(m, -EINVAL, "run %s: layer %u is raw: its blocks lie at their own sectors",
				     word, id);
	return 0;
}

/* The runs from argument @i on; *block is the first one's, and becomes the end of the last. */
static int check_runs(struct lc_msg *m, unsigned int i, u64 *block)
{
	struct lc_run run;
	const char *why;
	int r;

	for (; i < m->argc; i++, *block += run.count) {
		why = lc_parse_run(m->argv[i], &run);
		if (why)
			return lc_msg_refuse(m, -EINVAL, "run %s %s", m->argv[i], why);
		r = check_run(m, m->argv[i], &run, *block);
		if (r)
			return r;
	}
	return 0;
}

static int check_slices(struct lc_msg *m, u64 block)
{
	int r = check_runs(m, 3, &block);

	if (r)
		return r;
	if ((block & LC_SLICE_MASK) && block != m->view->nr_blocks)
		return lc_msg_refuse(m, -EINVAL, "the runs end within a slice, at block %llu",
				     block);
	return 0;
}

/* Takes blocks one after the other and fills slice by slice. */
struct filler {
	struct lc_view *view;
	u64 block;
	u64 *entries;		/* of the slice that @block is in, so far */
	u64 filled;		/* slices */
};

static int filler_run(struct filler *f, struct lc_run *run)
{
	const u64 slice = f->block >> LC_SLICE_SHIFT, nr = blocks_of_slice(f->view, slice);
	const u64 step = lc_entry_step(run->entry, lc_block_sectors(f->view));
	u64 i = f->block & LC_SLICE_MASK, n = min(run->count, nr - i);
	int r = 0;

	f->block += n;
	run->count -= n;
	if (n == nr) {
		r = lc_map_fill_run(f->view, slice, run->entry);
		run->entry += n * step;
	} else {
		for (; n; n--, i++, run->entry += step)
			f->entries[i] = run->entry;
		if (i == nr)
			r = lc_map_fill(f->view, slice, f->entries);
	}
	if (r > 0)
		f->filled++;
	return min(r, 0);
}

static int fill(struct lc_msg *m, struct filler *f)
{
	struct lc_run run;
	unsigned int i;
	int r = 0;

	for (i = 3; i < m->argc && !r; i++) {
		lc_parse_run(m->argv[i], &run);
		while (run.count && !r)
			r = filler_run(f, &run);
		cond_resched();
	}
	return r ? lc_msg_refuse(m, r, "no memory for the map") : 0;
}

int lc_msg_map(struct lc_msg *m)
{
	struct filler f = { .view = m->view };
	unsigned int sz = 0, maxlen = m->maxlen;
	char *result = m->result;
	u64 generation;
	int r;

	if (kstrtou64(m->argv[1], 10, &generation) || generation > m->view->generation)
		return lc_msg_refuse(m, -EINVAL, "%s is not a generation of this view", m->argv[1]);
	if (kstrtou64(m->argv[2], 10, &f.block) || (f.block & LC_SLICE_MASK) ||
	    f.block >= m->view->nr_blocks)
		return lc_msg_refuse(m, -EINVAL, "%s is not the first block of a slice", m->argv[2]);
	if (generation < m->view->generation) {
		DMEMIT("stale %llu", m->view->generation);
		return 1;
	}
	r = check_slices(m, f.block);
	if (r)
		return r;
	f.entries = (u64 *)__get_free_page(GFP_NOIO);
	if (!f.entries)
		return lc_msg_refuse(m, -ENOMEM, "no memory for the map");
	r = fill(m, &f);
	free_page((unsigned long)f.entries);
	if (r)
		return r;
	DMEMIT("filled %llu", f.filled);
	return 1;
}

static int forget(struct lc_msg *m, u64 block, u64 nr)
{
	struct lc_view *view = m->view;
	struct lc_layer *active = view->active;
	struct lc_lock lock;
	int r = 0;

	if (!lc_trylock_range(&view->locks, &lock, block, nr))
		return lc_msg_refuse(m, -EBUSY, "a block in it is locked: try again");
	if (active && active->kind == LC_LAYER_RECORD) {
		u64 first = (block << view->block_shift) >> active->unit_shift;
		u64 last = (((block + nr) << view->block_shift) - 1) >> active->unit_shift;

		if (lc_record_pending(view, first, last - first + 1))
			r = lc_msg_refuse(m, -EBUSY, "an entry in it is not recorded yet: commit, and try again");
	}
	if (!r) {
		view->generation++;
		lc_map_forget(view, block >> LC_SLICE_SHIFT,
			      (nr + LC_SLICE_MASK) >> LC_SLICE_SHIFT);
	}
	lc_unlock_range(&view->locks, &lock);
	return r;
}

int lc_msg_forget(struct lc_msg *m)
{
	u64 block, nr;

	if (kstrtou64(m->argv[1], 10, &block) || (block & LC_SLICE_MASK) ||
	    block >= m->view->nr_blocks)
		return lc_msg_refuse(m, -EINVAL, "%s is not the first block of a slice", m->argv[1]);
	if (kstrtou64(m->argv[2], 10, &nr) || !nr || nr > m->view->nr_blocks - block ||
	    ((nr & LC_SLICE_MASK) && block + nr != m->view->nr_blocks))
		return lc_msg_refuse(m, -EINVAL, "%s blocks are not whole slices", m->argv[2]);
	return forget(m, block, nr);
}

/*
 * ---------------------------------------------------------------------------
 * remap
 * ---------------------------------------------------------------------------
 */

/* <id>[,<id>]*: layers that are replaced; the active one is not. */
static int parse_layers(struct lc_msg *m, char *list, unsigned long *ids)
{
	struct lc_layer *active = m->view->active;
	unsigned int id;
	char *word;

	while ((word = strsep(&list, ","))) {
		if (kstrtouint(word, 10, &id) || id > LIVECHAIN_LAYER_ID_MAX)
			return lc_msg_refuse(m, -EINVAL, "%s is not a layer's id", word);
		if (active && active->id == id)
			return lc_msg_refuse(m, -EINVAL, "layer %u is the active one", id);
		__set_bit(id, ids);
	}
	return 0;
}

/* What the runs say must not be of the active layer: nothing of it is recorded here. */
static int check_not_active(struct lc_msg *m)
{
	struct lc_layer *active = m->view->active;
	struct lc_run run;
	unsigned int i;

	for (i = 5; i < m->argc; i++) {
		lc_parse_run(m->argv[i], &run);
		if (active && lc_entry_layer(run.entry) == active->id)
			return lc_msg_refuse(m, -EINVAL, "run %s: layer %u is the active one",
					     m->argv[i], active->id);
	}
	return 0;
}

static u64 replace(struct lc_msg *m, u64 block, const unsigned long *ids)
{
	struct lc_run run;
	unsigned int i;
	u64 n = 0;

	for (i = 5; i < m->argc; i++, block += run.count) {
		lc_parse_run(m->argv[i], &run);
		n += lc_map_replace(m->view, block, run.count, run.entry, ids);
	}
	return n;
}

int lc_msg_remap(struct lc_msg *m)
{
	DECLARE_BITMAP(ids, LC_ENTRY_NO_LAYER + 1) = {};
	unsigned int sz = 0, maxlen = m->maxlen;
	char *result = m->result;
	u64 generation, block, end, n;
	int r;

	if (kstrtou64(m->argv[1], 10, &generation) || generation > m->view->generation)
		return lc_msg_refuse(m, -EINVAL, "%s is not a generation of this view", m->argv[1]);
	if (kstrtou64(m->argv[2], 10, &block) || block >= m->view->nr_blocks)
		return lc_msg_refuse(m, -EINVAL, "%s is not a block of this view", m->argv[2]);
	if (strcmp(m->argv[3], "if-layer"))
		return lc_msg_refuse(m, -EINVAL, "needs if-layer behind the block, not %s",
				     m->argv[3]);
	if (generation < m->view->generation) {
		DMEMIT("stale %llu", m->view->generation);
		return 1;
	}
	end = block;
	r = parse_layers(m, m->argv[4], ids) ?: check_runs(m, 5, &end) ?: check_not_active(m);
	if (r)
		return r;
	n = replace(m, block, ids);
	m->view->generation++;
	DMEMIT("remapped %llu %llu", n, m->view->generation);
	return 1;
}
