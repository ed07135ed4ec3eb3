/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Layers: block devices that hold blocks, by stable ids.
 *
 * A layer belongs to its view. Each table that lists it has the device open; when the
 * last such table goes, its users are waited for and the layer has no device any more
 * (and is forgotten, unless entries still name it).
 */
#ifndef LC_LAYER_H
#define LC_LAYER_H

#include <linux/blkdev.h>
#include <linux/wait_bit.h>
#include <linux/xarray.h>
#include "logic/entry.h"
#include "pool.h"

struct lc_view;

enum lc_layer_kind {
	LC_LAYER_PLAIN,		/* not described: only read, and written in place */
	LC_LAYER_RAW,		/* block i at sector i, nothing recorded */
	LC_LAYER_RECORD,	/* allocates from a pool and records */
};

struct lc_layer {
	struct lc_view *view;
	unsigned int id;
	sector_t start;			/* of the layer on its device */
	dev_t dev;
	struct block_device *bdev;	/* NULL while no table lists the layer */
	bool writable;			/* every table has it open for writing */
	bool dirty;			/* a write has completed since the last flush began */

	unsigned int tables;		/* that list it; view->mutex */
	atomic_t users;			/* I/O of our own (commits, jobs), and 1 for the tables */
	u64 entries;			/* that name it; map->lock */

	/* how it is written; set once by the message `layer`, view->mutex */
	enum lc_layer_kind kind;
	unsigned int unit_shift;	/* log2 sectors; 0 for LC_LAYER_PLAIN */
	struct lc_record_format format;
	bool say_zeros;			/* what it has not is not known to be zero */

	struct lc_pool pool;
	struct xarray homes;		/* record page number -> value: sector */
};

/* The layer of that id or NULL. Under view->mutex, or where an entry or a table has it. */
struct lc_layer *lc_layer_find(struct lc_view *view, unsigned int id);

/* Keeps the device open beyond its tables' end; they wait. False: it has none any more. */
bool lc_layer_get(struct lc_layer *layer);
void lc_layer_put(struct lc_layer *layer);

/* Sectors from the layer's start to its device's end. */
static inline sector_t lc_layer_sectors(const struct lc_layer *layer)
{
	sector_t n = bdev_nr_sectors(layer->bdev);

	return n > layer->start ? n - layer->start : 0;
}

/*
 * How the layer is written, for who does not hold view->mutex: who sees it described sees the
 * unit and the format, too.
 */
static inline enum lc_layer_kind lc_layer_kind(const struct lc_layer *layer)
{
	/* pairs with the message `layer` */
	return smp_load_acquire(&layer->kind);
}

/* A write to the layer has completed. Context: any. */
static inline void lc_layer_wrote(struct lc_layer *layer)
{
	if (!READ_ONCE(layer->dirty))
		WRITE_ONCE(layer->dirty, true);
}

/* For table.c, under view->mutex. */
struct lc_layer *lc_layer_bind(struct lc_view *view, unsigned int id, struct block_device *bdev,
			       sector_t start, bool writable, char **error);
void lc_layer_unbind(struct lc_layer *layer);
void lc_layer_free(struct lc_layer *layer);

#endif
