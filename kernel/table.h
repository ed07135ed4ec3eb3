/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A table: the binding of a mapped device to a view.
 */
#ifndef LC_TABLE_H
#define LC_TABLE_H

#include "view.h"

struct lc_table {
	struct lc_view *view;
	struct dm_target *ti;
	unsigned int nr_layers;
	struct lc_table_layer {
		struct dm_dev *dev;
		struct lc_layer *layer;
	} layers[];
};

/* Parses a constructor's arguments and binds. Sets ti->error when it fails. May sleep. */
int lc_table_create(struct dm_target *ti, unsigned int argc, char **argv);

/* The exact reverse. Waits for commits and jobs that have a layer in hand. */
void lc_table_destroy(struct lc_table *t);

/* Whether the table lists the layer. */
bool lc_table_has(const struct lc_table *t, const struct lc_layer *layer);

/*
 * Whether the view can live with this table: every layer that is in use is listed. NULL, or why
 * not. Under view->mutex.
 */
char *lc_table_lacks(const struct lc_table *t);

/* STATUSTYPE_TABLE: what lc_table_create() accepts. */
void lc_table_print(const struct lc_table *t, char *result, unsigned int maxlen);

#endif
