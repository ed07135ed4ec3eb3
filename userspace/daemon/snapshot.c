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
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/log.h"
#include "ctl.h"
#include "export.h"
#include "job.h"
#include "snapshot.h"
#include "state.h"

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

/* What service and queries see of the chain from now on. */
static void switch_top(struct view *v, struct node *overlay, int id, uint64_t generation)
{
	struct node *old = v->top;

	pthread_mutex_lock(&v->lock);
	core_lock();
	v->top = overlay;
	v->active = id;
	v->generation = generation;
	v->ahead = 0; /* what is absent is loaded from the new chain, tables made for it */
	v->ahead_tables = 512;
	old->users--;
	overlay->users++;
	core_unlock();
	pthread_mutex_unlock(&v->lock);
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

/* Step 4. On failure the old layer is the active one again. */
static int pivot(struct view *v, struct node *overlay, int id, bool forget, struct err *e)
{
	uint64_t generation = 0, t0;
	int r, old = v->active;

	(void)view_message(v, NULL, NULL, "commit");
	r = view_suspend(v, e);
	if (r)
		return r;
	t0 = ev_now_ms();
	r = activate(v, id, forget, &generation, e);
	if (r) {
		(void)view_message(v, NULL, NULL, "activate %d", old);
		(void)view_resume(v, NULL);
		return r;
	}
	switch_top(v, overlay, id, generation);
	r = view_resume(v, e);
	log_info("'%s': snapshot: held for %llu ms", v->dm, (unsigned long long)(ev_now_ms() - t0));
	return r;
}

static int snapshot_view(struct view *v, struct node *overlay, struct err *e)
{
	struct node *old = v->top;
	int id, old_id = v->active, r;
	bool data = false;
	dev_t devno;

	r = check_overlay(v, old, overlay, &data, e);
	if (!r)
		r = node_layer_device(overlay, &devno, e);
	if (r)
		return r;
	id = view_add_layer(v, overlay, devno, false, e);
	if (id < 0)
		return id;
	r = view_prepare_active(v, id, e);
	if (!r)
		node_set_backing(overlay, old);
	if (!r)
		r = state_save(e);
	if (!r)
		r = pivot(v, overlay, id, data, e);
	if (r) {
		node_set_backing(overlay, NULL);
		(void)view_reclaim(v, id, NULL);
		(void)view_drop_layer(v, id, NULL);
		return r;
	}
	pthread_mutex_lock(&v->lock);
	r = view_reclaim(v, old_id, e);
	pthread_mutex_unlock(&v->lock);
	if (!r)
		r = view_recover(v, old, e);
	if (r) { /* the snapshot is made; what is unused there can be taken back later */
		log_warn("'%s': can't take back unused space: %s", v->dm, e->msg);
		err_clear(e);
	}
	return 0;
}

static int take_snapshot(struct node *old, struct node *overlay, struct err *e)
{
	struct view *v = view_of_top(old);
	int r;

	if (v && v->writable) {
		r = snapshot_view(v, overlay, e);
		if (r)
			return r;
	} else if (v) {
		return err_set(e, EACCES, "The disk '%s' is read-only: it can't have a snapshot", v->dm);
	} else {
		node_set_backing(overlay, old);
		core_lock();
		overlay->monitor = true; /* nobody else would keep it */
		core_unlock();
	}
	if (!old->read_only && node_make_read_only(old, e)) {
		log_warn("'%s': %s", old->file->filename, e->msg);
		err_clear(e);
	}
	return state_save(e);
}

static bool same_str(const char *a, const char *b)
{
	return a && b && streq(a, b);
}

/* An overlay as we would make it: without data it holds nothing that could be lost. */
static bool is_same_overlay(struct qio *io, const struct qcow2_create_opts *o)
{
	struct qcow2_info info;
	struct qcow2 *img = NULL;
	bool same;

	if (qcow2_open(io, 0, &img, NULL))
		return false;
	qcow2_get_info(img, &info);
	same = info.virtual_size == o->size && !info.snapshots && !info.has_bitmaps &&
	       same_str(info.backing_file, o->backing_file) &&
	       same_str(info.backing_format, o->backing_format) &&
	       !qcow2_map(img, 0, o->size, has_data_cb, NULL, NULL);
	qcow2_close(img);
	return same;
}

/*
 * An overlay is never written over. A file that is there is taken if it is empty, or what
 * this command leaves when the daemon dies in it: so that it can be given again.
 */
static int check_free_file(struct qio *io, const struct qcow2_create_opts *o, struct err *e)
{
	uint64_t size;
	int r = io->is_bdev ? 0 : io->size(io, &size, e);

	if (r || io->is_bdev || !size || qcow2_is_unfinished(io) || is_same_overlay(io, o))
		return r;
	return err_set(e, EEXIST,
		       "Could not create '%s': it exists and is not empty; remove it, or use mode 'existing' if it is the overlay",
		       io->name);
}

static int create_file(const char *path, struct err *e)
{
	struct stat st;
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);

	if (fd < 0 || fstat(fd, &st))
		return err_set(e, errno, "Could not create '%s': %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, EINVAL, "Could not create '%s': it is no file or block device", path);
	return 0;
}

static int create_overlay(const char *path, const struct node *old, struct err *e)
{
	struct qcow2_create_opts opts = {
		.size = old->size,
		.backing_file = old->file->filename,
		.backing_format = node_driver_name(old->driver),
	};
	_cleanup_qio_ struct qio *io = NULL;
	struct image_lock lock = { 0, 0 };
	_cleanup_close_ int fd = -1;
	int r;

	r = create_file(path, e);
	if (r)
		return r;
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno == EINVAL ? EOPNOTSUPP : errno,
			       "Could not open '%s': %s", path,
			       errno == EINVAL ? "its file system has no direct I/O" : strerror(errno));
	r = image_lock(fd, path, IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED, &lock, e);
	if (!r)
		r = qio_file_new(fd, path, &io, e);
	if (!r)
		r = check_free_file(io, &opts, e);
	if (!r)
		r = qcow2_create(io, &opts, e);
	return r;
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

static int snapshot_sync(struct json *args, struct json **ret, struct err *e)
{
	struct sync_args a = { 0 };
	struct node *overlay;
	int r;

	(void)ret;
	r = parse_sync(args, &a, e);
	if (!r && streq(a.mode, "absolute-paths"))
		r = create_overlay(a.file, a.old, e);
	if (!r)
		r = node_open_image(NODE_QCOW2, a.file, a.name, false, &overlay, e);
	if (r)
		return r;
	r = take_snapshot(a.old, overlay, e);
	if (r)
		node_put(overlay);
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

static int snapshot_given(struct json *args, struct json **ret, struct err *e)
{
	const char *node, *overlay;
	struct node *n, *o;
	int r;

	(void)ret;
	if ((r = json_need_str(args, "node", &node, e)) ||
	    (r = json_need_str(args, "overlay", &overlay, e)) || (r = device_find(node, &n, e)) ||
	    (r = device_find(overlay, &o, e)))
		return r;
	if (n == o)
		return err_set(e, EINVAL, "Node '%s' can't be its own overlay", o->name);
	r = node_is_protocol(n) ? err_set(e, EINVAL, "Node '%s' is no format node", n->name) :
				  node_check_free(n, e);
	if (!r)
		r = check_given_overlay(o, e);
	return r ? r : take_snapshot(n, o, e);
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

const struct qmp_command snapshot_commands[] = {
	{ .name = "blockdev-snapshot-sync", .handler = cmd_snapshot_sync, .args = sync_members },
	{ .name = "blockdev-snapshot", .handler = cmd_snapshot, .args = snapshot_members },
	{ 0 },
};
