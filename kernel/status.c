// SPDX-License-Identifier: GPL-2.0-only
/*
 * Status and table lines.
 */
#include "copy.h"
#include "status.h"
#include "table.h"

static const char *mode_name(const struct lc_view *view)
{
	if (READ_ONCE(view->fail))
		return "fail";
	return view->active ? "rw" : "ro";
}

static bool layer_dirty(struct lc_view *view, const struct lc_layer *layer)
{
	return READ_ONCE(layer->dirty) ||
	       (layer == view->active && READ_ONCE(view->rec.unrecorded));
}

/* {<id> <entries> <unit sectors or -> <last grant> <free sectors> <clean|dirty>} */
static void emit_layer(struct lc_view *view, struct lc_layer *l, char *result,
		       unsigned int maxlen, unsigned int *sz_ptr)
{
	unsigned int sz = *sz_ptr;

	DMEMIT(" %u %llu ", l->id, READ_ONCE(l->entries));
	if (l->kind == LC_LAYER_PLAIN)
		DMEMIT("-");
	else
		DMEMIT("%u", 1U << l->unit_shift);
	DMEMIT(" %llu %llu %s", READ_ONCE(l->pool.last_grant), READ_ONCE(l->pool.free_sectors),
	       layer_dirty(view, l) ? "dirty" : "clean");
	*sz_ptr = sz;
}

/*
 * Status format:
 *
 * 1 <view> <generation> <rw|ro|fail> <block sectors> <active id or -> <loaded slices>/<slices>
 *   <map bytes> <unrecorded units> <parked bios> <#layers> {...}* <#jobs> {...}*
 */
static void emit_info(struct lc_table *t, char *result, unsigned int maxlen)
{
	struct lc_view *view = t->view;
	unsigned int i, sz = 0;

	mutex_lock(&view->mutex);
	DMEMIT("%u %s %llu %s %u ", LIVECHAIN_STATUS_FORMAT, view->name, view->generation,
	       mode_name(view), lc_block_sectors(view));
	if (view->active)
		DMEMIT("%u", view->active->id);
	else
		DMEMIT("-");
	DMEMIT(" %llu/%llu %llu %llu %u %u", READ_ONCE(view->map.loaded), view->nr_slices,
	       READ_ONCE(view->map.bytes), READ_ONCE(view->rec.unrecorded),
	       READ_ONCE(view->park.nr_bios), t->nr_layers);
	for (i = 0; i < t->nr_layers; i++)
		emit_layer(view, t->layers[i].layer, result, maxlen, &sz);
	lc_jobs_status(view, result, maxlen, &sz);
	mutex_unlock(&view->mutex);
}

static void emit_ima(struct lc_table *t, char *result, unsigned int maxlen)
{
	struct lc_view *view = t->view;
	unsigned int sz = 0;

	DMEMIT_TARGET_NAME_VERSION(t->ti->type);
	DMEMIT(",view=%s,block_sectors=%u,layers=%u;", view->name, lc_block_sectors(view),
	       t->nr_layers);
}

void lc_status(struct lc_table *t, status_type_t type, char *result, unsigned int maxlen)
{
	switch (type) {
	case STATUSTYPE_INFO:
		emit_info(t, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		mutex_lock(&t->view->mutex);
		lc_table_print(t, result, maxlen);
		mutex_unlock(&t->view->mutex);
		break;
	case STATUSTYPE_IMA:
		emit_ima(t, result, maxlen);
		break;
	}
}
