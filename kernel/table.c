// SPDX-License-Identifier: GPL-2.0-only
/*
 * Constructor arguments, both ways:
 *
 *	<view> <block sectors> <active id or -> <#layers> {<id> <device> <start>}* [<#feature args>]
 */
#include <linux/log2.h>
#include <linux/slab.h>
#include "copy.h"
#include "table.h"

/* What the arguments say, apart from the layers. */
struct lc_args {
	const char *name;
	unsigned int block_sectors;
	int active;		/* -1: none */
	unsigned int nr_layers;
};

static int refuse(char **error, char *why)
{
	*error = why;
	return -EINVAL;
}

static int parse_name(struct dm_arg_set *as, struct lc_args *a, char **error)
{
	size_t len;

	a->name = dm_shift_arg(as);
	if (!a->name)
		return refuse(error, "The view's name is missing");
	len = strlen(a->name);
	if (!len || len > LIVECHAIN_NAME_MAX)
		return refuse(error, "The view's name must have 1 to 63 characters");
	if (strspn(a->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:+-")
	    != len)
		return refuse(error, "The view's name has a character that is none of A-Za-z0-9._:+-");
	return 0;
}

static int parse_block(struct dm_arg_set *as, struct lc_args *a, char **error)
{
	const char *s = dm_shift_arg(as);

	if (!s || kstrtouint(s, 10, &a->block_sectors) || !is_power_of_2(a->block_sectors) ||
	    a->block_sectors < LIVECHAIN_BLOCK_SECTORS_MIN ||
	    a->block_sectors > LIVECHAIN_BLOCK_SECTORS_MAX)
		return refuse(error, "The block size must be a power of two from 8 to 4096 sectors");
	return 0;
}

static int parse_active(struct dm_arg_set *as, struct lc_args *a, char **error)
{
	const char *s = dm_shift_arg(as);
	unsigned int id;

	a->active = -1;
	if (s && !strcmp(s, "-"))
		return 0;
	if (!s || kstrtouint(s, 10, &id) || id > LIVECHAIN_LAYER_ID_MAX)
		return refuse(error, "The active layer must be - or an id from 0 to 1022");
	a->active = id;
	return 0;
}

static int parse_nr_layers(struct dm_arg_set *as, struct lc_args *a, char **error)
{
	const char *s = dm_shift_arg(as);

	if (!s || kstrtouint(s, 10, &a->nr_layers) || !a->nr_layers ||
	    a->nr_layers > LIVECHAIN_LAYERS_MAX)
		return refuse(error, "The number of layers must be 1 to 256");
	return 0;
}

static int parse_features(struct dm_arg_set *as, char **error)
{
	const char *s = dm_shift_arg(as);
	unsigned int n = 0;

	if (s && kstrtouint(s, 10, &n))
		return refuse(error, "The number of feature arguments must be a number");
	if (n)
		return refuse(error, "This version has no features: the number of feature arguments must be 0");
	if (as->argc)
		return refuse(error, "There are arguments behind the last one");
	return 0;
}

bool lc_table_has(const struct lc_table *t, const struct lc_layer *layer)
{
	unsigned int i;

	for (i = 0; i < t->nr_layers; i++)
		if (t->layers[i].layer == layer)
			return true;
	return false;
}

/*
 * Opened for writing if that can be: any layer may become active or a destination later. Also
 * under a read-only table, whose view can be copied from.
 */
static int open_device(struct lc_table *t, const char *path, struct dm_dev **dev,
		       bool *writable, char **error)
{
	lc_mode_t mode = dm_table_get_mode(t->ti->table) | LC_MODE_WRITE;
	int r;

	*writable = true;
	r = dm_get_device(t->ti, path, mode, dev);
	if (r == -EACCES || r == -EROFS) {
		*writable = false;
		r = dm_get_device(t->ti, path, mode & ~LC_MODE_WRITE, dev);
	}
	if (r) {
		DMERR("cannot open layer's device %s, error %d", path, -r);
		*error = "Cannot open a layer's device";
	} else if (bdev_read_only((*dev)->bdev)) {
		*writable = false;
	}
	return r;
}

static int check_device(struct lc_table *t, struct block_device *bdev, u64 start, char **error)
{
	unsigned int lbs = bdev_logical_block_size(bdev) >> SECTOR_SHIFT;

	if (start > bdev_nr_sectors(bdev))
		return refuse(error, "A layer's start lies beyond the end of its device");
	if (start & (lbs - 1))
		return refuse(error, "A layer's start is not a multiple of its device's logical block");
	if (lc_block_sectors(t->view) < lbs)
		return refuse(error, "The block size is less than a layer's logical block");
	return 0;
}

static int bind_layer(struct lc_table *t, struct dm_arg_set *as, char **error)
{
	struct lc_table_layer *l = &t->layers[t->nr_layers];
	const char *id_s = dm_shift_arg(as), *path = dm_shift_arg(as), *start_s = dm_shift_arg(as);
	struct lc_layer *layer;
	unsigned int id;
	bool writable;
	u64 start;
	int r;

	if (!start_s)
		return refuse(error, "There are fewer layers than their number says");
	if (kstrtouint(id_s, 10, &id) || id > LIVECHAIN_LAYER_ID_MAX)
		return refuse(error, "A layer's id must be 0 to 1022");
	if (kstrtou64(start_s, 10, &start))
		return refuse(error, "A layer's start must be a number of sectors");
	if (t->view->layers[id] && lc_table_has(t, t->view->layers[id]))
		return refuse(error, "A layer's id is there twice");

	r = open_device(t, path, &l->dev, &writable, error);
	if (r)
		return r;
	r = check_device(t, l->dev->bdev, start, error);
	if (r)
		goto out_put_device;
	layer = lc_layer_bind(t->view, id, l->dev->bdev, start, writable, error);
	if (IS_ERR(layer)) {
		r = PTR_ERR(layer);
		goto out_put_device;
	}
	l->layer = layer;
	t->nr_layers++;
	return 0;

out_put_device:
	dm_put_device(t->ti, l->dev);
	return r;
}

static void unbind_layers(struct lc_table *t)
{
	lockdep_assert_held(&t->view->mutex);
	while (t->nr_layers--) {
		lc_layer_unbind(t->layers[t->nr_layers].layer);
		dm_put_device(t->ti, t->layers[t->nr_layers].dev);
	}
}

/* The first table of a view says which layer is active; later ones must agree. */
static int bind_active(struct lc_table *t, int id, char **error)
{
	struct lc_view *view = t->view;
	struct lc_layer *layer = id < 0 ? NULL : lc_layer_find(view, id);

	if (id >= 0 && (!layer || !lc_table_has(t, layer)))
		return refuse(error, "The active layer is not among the layers");
	if (layer && !layer->writable)
		return refuse(error, "The active layer's device is read-only");
	if (!view->has_active) {
		view->has_active = true;
		view->active = layer;
	}
	if (view->active != layer)
		return refuse(error, "Another layer is active in the view: see the message activate");
	return 0;
}

char *lc_table_lacks(const struct lc_table *t)
{
	struct lc_view *view = t->view;
	char *why = NULL;
	unsigned int id;

	lockdep_assert_held(&view->mutex);
	if (view->active && !lc_table_has(t, view->active))
		return "The table lacks the active layer";
	if (view->active && !view->active->writable)
		return "The active layer's device is read-only";
	spin_lock(&view->map.lock);
	for (id = 0; id <= LIVECHAIN_LAYER_ID_MAX; id++)
		if (view->layers[id] && view->layers[id]->entries &&
		    !lc_table_has(t, view->layers[id]))
			why = "The table lacks a layer that entries name";
	spin_unlock(&view->map.lock);
	for (id = 0; id <= LIVECHAIN_LAYER_ID_MAX; id++)
		if (view->layers[id] && !lc_table_has(t, view->layers[id]) &&
		    lc_jobs_use_layer(view, view->layers[id]))
			why = "The table lacks the destination of a job";
	return why;
}

static int bind(struct lc_table *t, const struct lc_args *a, struct dm_arg_set *as, char **error)
{
	unsigned int i;
	int r = 0;

	mutex_lock(&t->view->mutex);
	for (i = 0; i < a->nr_layers && !r; i++)
		r = bind_layer(t, as, error);
	if (!r)
		r = bind_active(t, a->active, error);
	if (!r)
		r = parse_features(as, error);
	if (!r && lc_table_lacks(t))
		r = refuse(error, lc_table_lacks(t));
	if (r)
		unbind_layers(t);
	mutex_unlock(&t->view->mutex);
	return r;
}

int lc_table_create(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	struct lc_args a = {};
	struct lc_table *t;
	int r;

	if (ti->begin)
		return refuse(&ti->error, "The target must start at sector 0");
	r = parse_name(&as, &a, &ti->error) ?: parse_block(&as, &a, &ti->error) ?:
	    parse_active(&as, &a, &ti->error) ?: parse_nr_layers(&as, &a, &ti->error);
	if (r)
		return r;

	t = kzalloc(struct_size(t, layers, a.nr_layers), GFP_KERNEL);
	if (!t) {
		ti->error = "No memory for a table";
		return -ENOMEM;
	}
	t->ti = ti;
	t->view = lc_view_get(a.name, ti->len, ilog2(a.block_sectors), &ti->error);
	if (IS_ERR(t->view)) {
		r = PTR_ERR(t->view);
		goto out_free;
	}
	r = bind(t, &a, &as, &ti->error);
	if (r)
		goto out_put_view;
	ti->private = t;
	return 0;

out_put_view:
	lc_view_put(t->view);
out_free:
	kfree(t);
	return r;
}

void lc_table_destroy(struct lc_table *t)
{
	struct lc_view *view = t->view;

	if (lc_view_not_live(view, t->ti))
		lc_jobs_stop(view);
	mutex_lock(&view->mutex);
	unbind_layers(t);
	mutex_unlock(&view->mutex);
	lc_view_put(view);
	kfree(t);
}

void lc_table_print(const struct lc_table *t, char *result, unsigned int maxlen)
{
	const struct lc_view *view = t->view;
	unsigned int i, sz = 0;

	DMEMIT("%s %u ", view->name, lc_block_sectors(view));
	if (view->active)
		DMEMIT("%u", view->active->id);
	else
		DMEMIT("-");
	DMEMIT(" %u", t->nr_layers);
	for (i = 0; i < t->nr_layers; i++)
		DMEMIT(" %u %s %llu", t->layers[i].layer->id, t->layers[i].dev->name,
		       (u64)t->layers[i].layer->start);
}
