// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Views in the state folder, and how a new daemon takes up what a former one left.
 *
 * The former one may have died between any two steps, so the kernel is asked what is true:
 *  - which layer is active decides what the chain's top is (a snapshot was made or not);
 *  - a layer that only the file knows was dropped, or never came to be;
 *  - a layer that only the kernel knows came to be and was never used: no step uses
 *    a layer before the file has it;
 *  - a device that was left suspended goes on; one without a table never was.
 */
#include <errno.h>

#include "../lib/log.h"
#include "ctl.h"
#include "view.h"

static struct json *save_layers(const struct view *v)
{
	struct json *arr = json_arr();

	for (unsigned i = 0; i < v->nr_layers; i++)
		json_append(arr, json_pack("{s:i, s:s?, s:I, s:b}", "id", v->layers[i].id, "node",
					   v->layers[i].node ? v->layers[i].node->name : NULL,
					   "device", (int64_t)v->layers[i].devno, "dest",
					   v->layers[i].dest));
	return arr;
}

struct json *view_save(void)
{
	struct json *arr = json_arr();
	struct view *v;

	list_for_each(v, &view_list, link)
		json_append(arr, json_pack("{s:s, s:s, s:s, s:b, s:b, s:s, s:I, s:i, s:i, s:i, s:o}",
					   "dm", v->dm, "kname", v->kname, "uuid", v->uuid,
					   "internal", v->internal, "writable", v->writable, "top",
					   v->top->name, "sectors", (int64_t)v->sectors, "block",
					   (int)v->block, "active", v->active, "next-id",
					   v->next_id, "layers", save_layers(v)));
	return arr;
}

static int restore_layers(struct view *v, struct json *arr, struct err *e)
{
	for (size_t i = 0; i < json_len(arr); i++) {
		struct json *j = json_at(arr, i);
		const char *name = json_str_of(json_get(j, "node"));
		int64_t id, dev;
		int r;

		if ((r = json_need_int(j, "id", &id, e)) ||
		    (r = json_need_int(j, "device", &dev, e)))
			return r;
		/* The device is the one that the live table has; a job may have made the image another. */
		view_push_layer(v, name ? node_find(name) : NULL, (dev_t)dev,
				json_bool_of(json_get(j, "dest")));
		v->layers[v->nr_layers - 1].id = (int)id;
	}
	return 0;
}

static int restore_fields(struct view *v, struct json *j, struct err *e)
{
	int64_t sectors, block, active, next;
	int r;

	if ((r = json_need_int(j, "sectors", &sectors, e)) ||
	    (r = json_need_int(j, "block", &block, e)) ||
	    (r = json_need_int(j, "active", &active, e)) ||
	    (r = json_need_int(j, "next-id", &next, e)))
		return r;
	v->sectors = sectors;
	v->block = block;
	v->internal = json_bool_of(json_get(j, "internal"));
	v->writable = json_bool_of(json_get(j, "writable"));
	r = restore_layers(v, json_get(j, "layers"), e);
	v->active = (int)active;
	v->next_id = (int)next;
	return r;
}

static bool kernel_has(const struct view_status *st, int id)
{
	for (unsigned i = 0; i < st->nr_layers; i++) {
		if (st->layers[i].id == id)
			return true;
	}
	return false;
}

/* Our layers become those of the live table. */
static void reconcile_layers(struct view *v, const struct view_status *st)
{
	for (unsigned i = v->nr_layers; i-- > 0;) {
		if (!kernel_has(st, v->layers[i].id))
			view_pop_layer(v, v->layers[i].id);
	}
	for (unsigned i = 0; i < st->nr_layers; i++) {
		int id = st->layers[i].id;

		if (view_layer(v, id))
			continue;
		log_notice("'%s': layer %d was about to be added when the last daemon ended", v->dm,
			   id);
		v->stale = true;
		if (v->next_id <= id)
			v->next_id = id + 1;
	}
}

/* @top: as the file has it. */
static int reconcile(struct view *v, struct node **top, struct err *e)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	struct view_layer *l;
	int r = view_get_status(v, st, e);

	if (r)
		return r;
	reconcile_layers(v, st);
	if (st->active == v->active)
		return 0;
	l = view_layer(v, st->active);
	if (!l || !l->node)
		return err_set(e, EINVAL, "state: device '%s' has layer %d active, which is unknown",
			       v->dm, st->active);
	log_notice("'%s': the snapshot '%s' had been made when the last daemon ended", v->dm,
		   l->node->name);
	v->active = st->active;
	*top = l->node;
	return 0;
}

static int adopt_device(struct view *v, struct node **top, struct err *e)
{
	struct dm_dev_info info;
	int r = dm_get_info(v->dm, &info, e);

	if (r)
		return r;
	if (!info.exists)
		dm_settle_node(v->dm);
	if (!info.exists || !str_has_prefix(info.uuid, DM_DEV_UUID_PREFIX) ||
	    !streq(info.uuid + strlen(DM_DEV_UUID_PREFIX), v->uuid))
		return err_set(e, ENXIO, "the device is gone");
	if (info.inactive_table)
		(void)dm_clear(v->dm, NULL);
	if (!info.live_table) {
		(void)dm_remove(v->dm, NULL);
		return err_set(e, ENXIO, "the device was not complete");
	}
	if (info.suspended) /* there was no guard (guard.h), or it could not */
		r = view_resume(v, e);
	if (!r)
		r = reconcile(v, top, e);
	return r ? r : view_refresh(v, e);
}

/* What lay below the active layer when the daemon died may still have grants. */
static void settle_backing(struct view *v)
{
	for (struct node *n = v->top->backing; v->writable && n; n = n->backing) {
		struct view_layer *l = view_layer_of(v, n);
		struct err e = ERR_INIT;

		/* what a job has opened for writing is another view's to write */
		if (n->read_only || n->file->reopened || !l)
			continue;
		if (view_reclaim(v, l->id, &e) || view_recover(v, n, &e) ||
		    node_make_read_only(n, &e))
			log_warn("'%s': %s", n->file->filename, e.msg);
	}
}

static int restore_one(struct json *j, struct err *e)
{
	const char *dm, *kname, *uuid, *top;
	struct node *n;
	struct view *v;
	int r;

	if ((r = json_need_str(j, "dm", &dm, e)) || (r = json_need_str(j, "kname", &kname, e)) ||
	    (r = json_need_str(j, "uuid", &uuid, e)) || (r = json_need_str(j, "top", &top, e)))
		return r;
	n = node_find(top);
	if (!n)
		return err_set(e, EINVAL, "state: device '%s' has no node '%s'", dm, top);
	v = view_alloc(dm, kname, uuid);
	v->adopted = true;
	r = restore_fields(v, j, e);
	if (!r)
		r = adopt_device(v, &n, e);
	if (r) {
		view_free(v);
		return r;
	}
	v->ready = true;
	view_link(v, n);
	settle_backing(v);
	return 0;
}

/* ---- which view a device is bound to: a daemon may have died while it switched one --------- */

/* The view's name in the live table of the device; NULL if there is none. */
static char *live_view(const char *dm)
{
	struct dm_table t = { 0 };
	char *name = NULL;

	if (!dm_live_table(dm, &t, NULL) && t.params)
		name = strndup(t.params, strcspn(t.params, " "));
	dm_table_done(&t);
	return name;
}

static struct json *entry_of(struct json *views, const char *kname)
{
	for (size_t i = 0; i < json_len(views); i++) {
		if (streq(json_str_of(json_get(json_at(views, i), "kname")), kname))
			return json_at(views, i);
	}
	return NULL;
}

static void swap_member(struct json *a, struct json *b, const char *key)
{
	struct json *va = json_copy(json_get(a, key)), *vb = json_copy(json_get(b, key));

	json_add(a, key, vb);
	json_add(b, key, va);
}

/* What the file says follows what the kernel says. */
static void settle_devices(struct json *views)
{
	for (size_t i = 0; i < json_len(views); i++) {
		struct json *j = json_at(views, i), *other;
		const char *dm = json_str_of(json_get(j, "dm"));
		const char *kname = json_str_of(json_get(j, "kname"));
		_cleanup_free_ char *live = NULL;

		if (!dm || !kname || json_bool_of(json_get(j, "internal")))
			continue;
		live = live_view(dm);
		other = live && !streq(live, kname) ? entry_of(views, live) : NULL;
		if (!other)
			continue;
		swap_member(j, other, "dm");
		swap_member(j, other, "uuid");
		swap_member(j, other, "internal");
	}
}

/* A job's device that has lost its view to a disk. */
static bool is_shell(struct json *j)
{
	const char *dm = json_str_of(json_get(j, "dm"));
	const char *kname = json_str_of(json_get(j, "kname"));
	_cleanup_free_ char *live = dm && kname ? live_view(dm) : NULL;

	if (!live || streq(live, kname))
		return false;
	(void)dm_remove(dm, NULL);
	return true;
}

int view_restore(struct json *views, struct err *e)
{
	settle_devices(views);
	for (size_t i = 0; i < json_len(views); i++) {
		struct err one = ERR_INIT;
		int r = is_shell(json_at(views, i)) ? 0 : restore_one(json_at(views, i), &one);

		if (r == -ENXIO)
			log_notice("device '%s' of an earlier run: %s",
				   json_str_of(json_get(json_at(views, i), "dm")), one.msg);
		else if (r)
			return err_set(e, -r, "%s", one.msg);
	}
	return 0;
}

int view_drop_unknown_layers(struct view *v, struct err *e)
{
	return v->stale ? view_reload(v, e) : 0;
}
