// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Snapshots: an overlay becomes the active layer, what was active becomes its
 * backing image and is never written again.
 *
 * Steps and what a crash after each leaves (Documentation/design/crash-consistency.rst):
 *  1. the overlay exists, durable and empty         - an unused file; the command may be repeated
 *  2. it is a layer of the device, with tables and space - as before; the file has leaks
 *  3. the state folder knows the new chain          - the kernel says which layer is active
 *  4. suspend (all recorded), activate, resume      - I5: the overlay is openable with its
 *     backing image before the first write goes to it
 *  5. the old image's unused space is given back, others may read it
 */
#include <errno.h>
#include <stdio.h>

#include "../lib/log.h"
#include "ctl.h"
#include "export.h"
#include "image-create.h"
#include "snapshot.h"
#include "transaction.h"

/* 1 when the image maps anything itself. */
static int has_data_cb(void *arg, const struct qcow2_run *run)
{
	(void)arg;
	return run->kind != QCOW2_UNALLOCATED;
}

static int check_overlay(struct view *v, struct node *old, struct node *overlay, bool *ret_data,
			 struct err *e)
{
	int r;

	if (overlay->size != old->size)
		return err_set(e, EINVAL,
			       "The overlay has %llu bytes, the disk '%s' has %llu: its size can't change while it is in use; resize the overlay (qemu-img resize)",
			       (unsigned long long)overlay->size, v->dm,
			       (unsigned long long)old->size);
	r = qcow2_map(overlay->img, 0, overlay->size, has_data_cb, NULL, e);
	if (r < 0)
		return r;
	*ret_data = r > 0;
	if (r > 0 && overlay->info.cluster_size < v->block * 512)
		return err_set(e, EINVAL,
			       "The overlay has data in clusters of %u bytes, smaller than the blocks of %u bytes that the disk '%s' has; use an empty overlay or larger clusters",
			       overlay->info.cluster_size, v->block * 512, v->dm);
	return 0;
}

/* What service and queries see of the chain from now on. With @v->lock held. */
static void switch_top(struct view *v, struct node *overlay, int id, uint64_t generation)
{
	struct node *old = v->top;

	core_lock();
	v->top = overlay;
	v->next_top = NULL;
	v->active = id;
	v->generation = generation;
	v->ahead = 0; /* what is absent is loaded from the new chain, tables made for it */
	v->ahead_tables = 512;
	old->users--;
	overlay->users++;
	core_unlock();
}

static int activate(struct view *v, int id, bool forget, uint64_t *ret_generation, struct err *e)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	uint64_t blocks = (v->sectors + v->block - 1) / v->block;
	int r;

	r = view_message(v, e, NULL, "activate %d", id);
	if (!r && forget) /* the overlay's own data hides what is loaded */
		r = view_message(v, e, NULL, "forget 0 %llu", (unsigned long long)blocks);
	if (!r)
		r = view_get_status(v, st, e);
	if (!r)
		*ret_generation = st->generation;
	return r;
}

/* One snapshot under way: an action of a transaction. */
struct snapshot {
	struct node *old, *overlay;
	bool opened; /* the overlay's node is ours */
	int id, old_id;
	bool data; /* the overlay has some of its own */
	bool locked; /* the view: its service must not load the old chain again */
	uint64_t generation;
};

/* The overlay as a layer of the disk that is about to be its active one. */
static int add_overlay(struct txn_action *a, struct snapshot *s, struct err *e)
{
	struct view *v = a->view;
	dev_t devno;
	int r;

	r = check_overlay(v, s->old, s->overlay, &s->data, e);
	if (!r)
		r = node_layer_device(s->overlay, &devno, e);
	if (r)
		return r;
	s->old_id = v->active;
	s->id = view_add_layer(v, s->overlay, devno, false, e);
	if (s->id < 0)
		return s->id;
	r = view_prepare_active(v, s->id, e);
	if (r) {
		(void)view_reclaim(v, s->id, NULL);
		(void)view_drop_layer(v, s->id, NULL);
		return r;
	}
	node_set_backing(s->overlay, s->old);
	v->next_top = s->overlay;
	snprintf(a->undo, sizeof(a->undo), "activate %d", s->old_id);
	return 0;
}

/* With @old and @overlay checked. */
static int snapshot_prepare(struct txn_action *a, struct snapshot *s, struct err *e)
{
	struct view *v = view_of_top(s->old);

	if (!v) { /* no disk: the graph changes, nothing else */
		node_set_backing(s->overlay, s->old);
		return 0;
	}
	if (!v->writable)
		return err_set(e, EACCES, "The disk '%s' is read-only: it can't have a snapshot",
			       v->dm);
	if (v->next_top)
		return err_set(e, EBUSY,
			       "The disk '%s' has a snapshot in this transaction already", v->dm);
	a->view = v;
	return add_overlay(a, s, e);
}

static void lock_view(struct view *v, struct snapshot *s)
{
	if (!s->locked)
		pthread_mutex_lock(&v->lock);
	s->locked = true;
}

static void unlock_view(struct view *v, struct snapshot *s)
{
	if (s->locked)
		pthread_mutex_unlock(&v->lock);
	s->locked = false;
}

static void snapshot_revert(struct txn_action *a)
{
	struct snapshot *s = a->state;
	struct err e = ERR_INIT;

	if (!a->view)
		return;
	if (view_message(a->view, &e, NULL, "activate %d", s->old_id))
		log_error("'%s': %s", a->view->dm, e.msg);
	unlock_view(a->view, s);
}

static int snapshot_act(struct txn_action *a, struct err *e)
{
	struct snapshot *s = a->state;
	int r;

	if (!a->view)
		return 0;
	if (s->data)
		lock_view(a->view, s);
	r = activate(a->view, s->id, s->data, &s->generation, e);
	if (r)
		snapshot_revert(a);
	return r;
}

static void snapshot_settle(struct txn_action *a)
{
	struct snapshot *s = a->state;

	if (!a->view)
		return;
	lock_view(a->view, s);
	switch_top(a->view, s->overlay, s->id, s->generation);
	unlock_view(a->view, s);
}

/* The snapshot is made; what is unused in the old image can also be taken back later. */
static void give_back(struct view *v, struct snapshot *s)
{
	struct err e = ERR_INIT;
	int r;

	pthread_mutex_lock(&v->lock);
	r = view_reclaim(v, s->old_id, &e);
	pthread_mutex_unlock(&v->lock);
	if (!r)
		r = view_recover(v, s->old, &e);
	if (r)
		log_warn("'%s': can't take back unused space: %s", v->dm, e.msg);
}

static void snapshot_commit(struct txn_action *a)
{
	struct snapshot *s = a->state;
	struct err e = ERR_INIT;

	if (a->view) {
		give_back(a->view, s);
	} else {
		core_lock();
		s->overlay->monitor = true; /* nobody else would keep it */
		core_unlock();
	}
	if (!s->old->read_only && node_make_read_only(s->old, &e))
		log_warn("'%s': %s", s->old->file->filename, e.msg);
}

static void snapshot_abort(struct txn_action *a)
{
	struct snapshot *s = a->state;

	node_set_backing(s->overlay, NULL);
	if (a->view) {
		a->view->next_top = NULL;
		(void)view_reclaim(a->view, s->id, NULL);
		(void)view_drop_layer(a->view, s->id, NULL);
	}
	if (s->opened)
		node_put(s->overlay);
}

static int create_overlay(const char *path, const struct node *old, struct err *e)
{
	struct qcow2_create_opts opts = {
		.size = old->size,
		.backing_file = old->file->filename,
		.backing_format = node_driver_name(old->driver),
	};

	return image_create(path, NODE_QCOW2, &opts, e);
}

struct sync_args {
	const char *file, *name, *format, *mode;
	struct node *old;
};

static int parse_sync(struct json *args, struct sync_args *a, struct err *e)
{
	const char *device = NULL, *node = NULL;
	int r;

	a->format = "qcow2";
	a->mode = "absolute-paths";
	if ((r = json_opt_str(args, "device", &device, e)) ||
	    (r = json_opt_str(args, "node-name", &node, e)) ||
	    (r = json_need_str(args, "snapshot-file", &a->file, e)) ||
	    (r = json_opt_str(args, "snapshot-node-name", &a->name, e)) ||
	    (r = json_opt_str(args, "format", &a->format, e)) ||
	    (r = json_opt_str(args, "mode", &a->mode, e)))
		return r;
	r = device_lookup(device, node, &a->old, e);
	if (r)
		return r;
	if (!device && !a->name)
		return err_set(e, EINVAL, "New overlay node-name missing");
	if (a->name && node_find(a->name))
		return err_set(e, EEXIST, "New overlay node-name already in use");
	if (a->name && (r = node_check_name(a->name, e)))
		return r;
	if (!streq(a->format, "qcow2"))
		return err_set(e, EINVAL, "Format '%s' can't be an overlay: use qcow2", a->format);
	if (node_is_protocol(a->old))
		return err_set(e, EINVAL, "Node '%s' is a %s node: a snapshot needs a format node",
			       a->old->name, node_driver_name(a->old->driver));
	return node_check_free(a->old, e);
}

static int sync_prepare(struct txn_action *a, struct json *args, struct err *e)
{
	struct sync_args sa = { 0 };
	struct snapshot *s;
	int r;

	a->state = s = xcalloc(1, sizeof(*s));
	r = parse_sync(args, &sa, e);
	if (!r && streq(sa.mode, "absolute-paths"))
		r = create_overlay(sa.file, sa.old, e);
	if (!r)
		r = node_open_image(NODE_QCOW2, sa.file, sa.name, false, &s->overlay, e);
	if (r)
		return r;
	s->old = sa.old;
	s->opened = true;
	r = snapshot_prepare(a, s, e);
	if (r)
		node_put(s->overlay);
	return r;
}

static int check_given_overlay(const struct node *o, struct err *e)
{
	if (o->driver != NODE_QCOW2)
		return err_set(e, EINVAL, "The overlay does not support backing images");
	if (o->users || o->parents || o->job)
		return err_set(e, EBUSY, "The overlay is already in use");
	if (o->backing)
		return err_set(e, EINVAL, "The overlay already has a backing image");
	if (o->read_only)
		return err_set(e, EACCES, "Block node '%s' is read-only", o->name);
	return 0;
}

static int given_prepare(struct txn_action *a, struct json *args, struct err *e)
{
	const char *node, *overlay;
	struct snapshot *s;
	int r;

	a->state = s = xcalloc(1, sizeof(*s));
	if ((r = json_need_str(args, "node", &node, e)) ||
	    (r = json_need_str(args, "overlay", &overlay, e)) ||
	    (r = device_find(node, &s->old, e)) || (r = device_find(overlay, &s->overlay, e)))
		return r;
	if (s->old == s->overlay)
		return err_set(e, EINVAL, "Node '%s' can't be its own overlay", s->overlay->name);
	r = node_is_protocol(s->old) ?
		    err_set(e, EINVAL, "Node '%s' is no format node", s->old->name) :
		    node_check_free(s->old, e);
	if (!r)
		r = check_given_overlay(s->overlay, e);
	return r ? r : snapshot_prepare(a, s, e);
}

#define SNAPSHOT_HOOKS                                                                 \
	.act = snapshot_act, .revert = snapshot_revert, .settle = snapshot_settle,     \
	.commit = snapshot_commit, .abort = snapshot_abort

const struct txn_type txn_snapshot_sync = {
	.name = "blockdev-snapshot-sync",
	.prepare = sync_prepare,
	SNAPSHOT_HOOKS,
};

const struct txn_type txn_snapshot = {
	.name = "blockdev-snapshot",
	.prepare = given_prepare,
	SNAPSHOT_HOOKS,
};

static int snapshot_sync(struct json *args, struct json **ret, struct err *e)
{
	(void)ret;
	return txn_single(&txn_snapshot_sync, args, e);
}

static int snapshot_given(struct json *args, struct json **ret, struct err *e)
{
	(void)ret;
	return txn_single(&txn_snapshot, args, e);
}

static void cmd_snapshot_sync(struct qmp_call *call)
{
	ctl_command(call, snapshot_sync);
}

static void cmd_snapshot(struct qmp_call *call)
{
	ctl_command(call, snapshot_given);
}

static const char *const mode_values[] = { "existing", "absolute-paths", NULL };
static const struct qapi_type image_mode = QAPI_ENUM("NewImageMode", mode_values);

static const struct qapi_member sync_members[] = {
	{ "device", &qapi_str, QAPI_OPT, NULL },
	{ "node-name", &qapi_str, QAPI_OPT, NULL },
	{ "snapshot-file", &qapi_str, 0, NULL },
	{ "snapshot-node-name", &qapi_str, QAPI_OPT, NULL },
	{ "format", &qapi_str, QAPI_OPT, NULL },
	{ "mode", &image_mode, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member snapshot_members[] = {
	{ "node", &qapi_str, 0, NULL },
	{ "overlay", &qapi_str, 0, NULL },
	{ 0 },
};

const struct qapi_type blockdev_snapshot_sync_type =
	QAPI_STRUCT("BlockdevSnapshotSync", sync_members);
const struct qapi_type blockdev_snapshot_type = QAPI_STRUCT("BlockdevSnapshot", snapshot_members);

const struct qmp_command snapshot_commands[] = {
	{ .name = "blockdev-snapshot-sync", .handler = cmd_snapshot_sync, .args = sync_members },
	{ .name = "blockdev-snapshot", .handler = cmd_snapshot, .args = snapshot_members },
	{ 0 },
};
