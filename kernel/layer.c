// SPDX-License-Identifier: GPL-2.0-only
/*
 * Layers and who uses them.
 */
#include <linux/slab.h>
#include "copy.h"
#include "view.h"

struct lc_layer *lc_layer_find(struct lc_view *view, unsigned int id)
{
	return id <= LIVECHAIN_LAYER_ID_MAX ? READ_ONCE(view->layers[id]) : NULL;
}

bool lc_layer_get(struct lc_layer *layer)
{
	return atomic_inc_not_zero(&layer->users);
}

void lc_layer_put(struct lc_layer *layer)
{
	if (atomic_dec_and_test(&layer->users))
		wake_up_var(&layer->users);
}

static struct lc_layer *layer_new(struct lc_view *view, unsigned int id, dev_t dev, sector_t start)
{
	struct lc_layer *l = kzalloc(sizeof(*l), GFP_KERNEL);

	if (!l)
		return NULL;
	l->view = view;
	l->id = id;
	l->dev = dev;
	l->start = start;
	lc_pool_init(&l->pool);
	xa_init(&l->homes);
	WRITE_ONCE(view->layers[id], l);
	return l;
}

struct lc_layer *lc_layer_bind(struct lc_view *view, unsigned int id, struct block_device *bdev,
			       sector_t start, bool writable, char **error)
{
	struct lc_layer *l = view->layers[id];

	lockdep_assert_held(&view->mutex);
	if (l && (l->dev != bdev->bd_dev || l->start != start)) {
		*error = "The view has a layer of that id on another device or at another start";
		return ERR_PTR(-EBUSY);
	}
	if (!l)
		l = layer_new(view, id, bdev->bd_dev, start);
	if (!l) {
		*error = "No memory for a layer";
		return ERR_PTR(-ENOMEM);
	}
	if (!l->tables++) {
		l->bdev = bdev;
		l->writable = writable;
		atomic_set(&l->users, 1);
	} else if (!writable) {
		l->writable = false;
	}
	return l;
}

void lc_layer_unbind(struct lc_layer *layer)
{
	struct lc_view *view = layer->view;
	u64 entries;

	lockdep_assert_held(&view->mutex);
	if (--layer->tables)
		return;
	/* Commits and jobs that have the device in hand end first; no new ones get it. */
	lc_layer_put(layer);
	wait_var_event(&layer->users, !atomic_read(&layer->users));
	layer->bdev = NULL;

	spin_lock(&view->map.lock);
	entries = layer->entries;
	spin_unlock(&view->map.lock);
	if (!entries && view->active != layer && !lc_jobs_use_layer(view, layer))
		lc_layer_free(layer);
}

void lc_layer_free(struct lc_layer *layer)
{
	WRITE_ONCE(layer->view->layers[layer->id], NULL);
	lc_pool_exit(&layer->pool);
	xa_destroy(&layer->homes);
	kfree(layer);
}
