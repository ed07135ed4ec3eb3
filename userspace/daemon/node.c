// SPDX-License-Identifier: GPL-2.0-or-later
/* The registry of nodes: names, references, the end of a node. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../lib/log.h"
#include "ctl.h"
#include "fleece.h"
#include "journal.h"
#include "node.h"

struct list node_list = LIST_INIT(node_list);

static unsigned anonymous_nr = 100;

static const char *const driver_names[] = {
	[NODE_FILE] = "file",
	[NODE_HOST_DEVICE] = "host_device",
	[NODE_RAW] = "raw",
	[NODE_QCOW2] = "qcow2",
	[NODE_CBW] = "copy-before-write",
	[NODE_ACCESS] = "snapshot-access",
};

const char *node_driver_name(enum node_driver d)
{
	return driver_names[d];
}

struct node *node_find(const char *name)
{
	struct node *n;

	list_for_each(n, &node_list, link) {
		if (streq(n->name, name))
			return n;
	}
	return NULL;
}

int node_check_name(const char *name, struct err *e)
{
	if (id_wellformed(name, SIZE_MAX) && strlen(name) > NODE_NAME_MAX)
		return err_set(e, EINVAL, "Node name too long");
	if (!id_wellformed(name, NODE_NAME_MAX))
		return err_set(e, EINVAL, "Invalid node-name: '%s'", name);
	if (node_find(name))
		return err_set(e, EEXIST, "Duplicate nodes with node-name='%s'", name);
	return 0;
}

struct node *node_new(enum node_driver driver, const char *name)
{
	struct node *n = xcalloc(1, sizeof(*n));

	n->driver = driver;
	n->fd = -1;
	n->ro_fd = -1;
	n->loop = (struct loop_dev)LOOP_DEV_INIT;
	n->ro_loop = (struct loop_dev)LOOP_DEV_INIT;
	list_init(&n->link);
	if (name)
		snprintf(n->name, sizeof(n->name), "%s", name);
	else
		snprintf(n->name, sizeof(n->name), "#block%u", anonymous_nr++);
	return n;
}

void node_link(struct node *n)
{
	core_lock();
	list_add_tail(&node_list, &n->link);
	core_unlock();
}

/* Without a format node above it nobody uses the file: others may have it. */
static void release_file(struct node *file)
{
	loop_detach(&file->loop);
	image_unlock(file->fd, &file->lock);
	file->lock_adopted = false;
}

static void node_free(struct node *n)
{
	if (n->file)
		release_file(n->file);
	core_lock();
	list_del(&n->link);
	core_unlock();
	qcow2_close(n->img);
	qio_free(n->qio);
	loop_detach(&n->loop);
	loop_detach(&n->ro_loop);
	closep(&n->fd);
	closep(&n->ro_fd);
	free(n->filename);
	free(n->backing_name);
	free(n);
}

void node_put(struct node *n)
{
	while (n && !n->monitor && !n->parents && !n->users) {
		struct node *file = n->file, *backing = n->backing;
		struct node *filtered = n->filtered, *target = n->target;
		struct err e = ERR_INIT;

		if (node_is_filter(n) && fleece_end(n, &e))
			log_warn("node '%s': %s", n->name, e.msg);
		err_clear(&e);
		node_free(n);
		fleece_put_children(filtered, target);
		if (file) {
			core_lock();
			file->parents--;
			core_unlock();
			node_put(file);
		}
		if (!backing)
			return;
		core_lock();
		backing->parents--;
		core_unlock();
		n = backing;
	}
}

void node_set_backing(struct node *n, struct node *backing)
{
	struct node *old = n->backing;

	core_lock();
	n->backing = backing;
	if (backing)
		backing->parents++;
	if (old)
		old->parents--;
	core_unlock();
	node_put(old);
}

bool node_chain_has(const struct node *top, const struct node *n)
{
	while (top && top != n)
		top = top->backing;
	return top;
}

struct node *node_find_backing(struct node *top, const char *file)
{
	for (struct node *n = top; n->backing; n = n->backing) {
		_cleanup_free_ char *dir = path_dir(n->file->filename);
		_cleanup_free_ char *path = path_join(dir, file);
		_cleanup_free_ char *real = realpath(path, NULL);

		if (streq(file, n->backing->file->filename) ||
		    (n->backing_name && streq(file, n->backing_name)) ||
		    (real && streq(real, n->backing->file->filename)))
			return n->backing;
	}
	return NULL;
}

bool node_is_file(const struct node *n, const char *file)
{
	_cleanup_free_ char *dir = path_dir(n->file->filename);
	_cleanup_free_ char *path = path_join(dir, file);
	_cleanup_free_ char *there = realpath(path, NULL), *here = realpath(file, NULL);

	return (there && streq(there, n->file->filename)) ||
	       (here && streq(here, n->file->filename));
}

const struct node *node_parent(const struct node *n, const struct node *but)
{
	const struct node *p;

	list_for_each(p, &node_list, link) {
		if (p != but &&
		    (p->file == n || p->backing == n || p->filtered == n || p->target == n))
			return p;
	}
	return NULL;
}

/* Who uses a file node does so through the implicit node above it, of which nobody knows. */
static const struct node *used_as(const struct node *n)
{
	const struct node *p = node_parent(n, NULL);

	return p && p->implicit ? p : n;
}

int node_check_free(const struct node *node, struct err *e)
{
	const struct node *n = used_as(node), *p = node_parent(n, NULL);

	if (n->job)
		return err_set(e, EBUSY,
			       "Node '%s' is busy: block device is in use by block job: %s",
			       node_shown(n)->name, n->job_type);
	if (p)
		return err_set(e, EBUSY, "Node '%s' is busy: node is used as %s of '%s'",
			       node_shown(n)->name,
			       p->backing == n	? "backing hd"
			       : p->target == n ? "target"
						: "file",
			       node_shown(p)->name);
	return node_check_valid(n, e);
}

int node_check_backing(const struct node *n, struct err *e)
{
	const struct node *p = node_parent(n, NULL);

	if (!n->job && n->read_only && p && p->backing == n)
		return node_check_valid(n, e);
	return node_check_free(n, e);
}

int node_check_valid(const struct node *n, struct err *e)
{
	if (n->driver != NODE_QCOW2 || !n->info.invalid)
		return 0;
	return err_set(
		e, EINVAL,
		"Image '%s' is not valid any more: %s; delete it (qemu-img can read it still)",
		n->file->filename, n->info.invalid);
}

void node_settle_unused(struct node *n)
{
	struct qcow2 *anew = NULL;
	struct err e = ERR_INIT;
	int r = 0;

	if (n->driver != NODE_QCOW2 || n->read_only)
		return;
	/* One that takes no more changes is never changed by @n again: another may. */
	if (qcow2_has_failed(n->img))
		r = qcow2_open(n->qio, QCOW2_WRITABLE, &anew, &e);
	if (!r)
		r = journal_recover(n->file->filename, anew ? anew : n->img, &e);
	if (r)
		log_warn("'%s': unused space is not given back: %s", n->file->filename, e.msg);
	qcow2_close(anew);
	err_clear(&e);
}

int node_del(const char *name, struct err *e)
{
	struct node *n = node_find(name);
	const struct node *as;
	int r;

	if (!n)
		return err_set(e, ENOENT, "Failed to find node with node-name='%s'", name);
	as = used_as(n);
	if (as->job || (as->parents && node_parent(as, NULL)->backing == as))
		return node_check_free(n, e);
	if (!n->monitor)
		return err_set(e, EPERM, "Node %s is not owned by the monitor", name);
	if (n->parents || n->users)
		return err_set(e, EBUSY, "Block device %s is in use%s", name,
			       n->users && !n->parents
				       ? ": it is exported, block-export-del comes first"
				       : "");
	if (node_is_filter(n) && (r = fleece_end(n, e)))
		return r;
	node_settle_unused(n);
	core_lock();
	n->monitor = false;
	core_unlock();
	node_put(n);
	return 0;
}

static int64_t loop_number(const struct loop_dev *l)
{
	return l->number < 0 ? 0 : (int64_t)l->devno;
}

static struct json *node_save_one(const struct node *n)
{
	struct json *o = json_pack(
		"{s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:I, s:I, s:s?, s:s?, s:s?, s:s?}", "name", n->name,
		"driver", node_driver_name(n->driver), "read-only", n->read_only, "reopened",
		n->file && n->file->reopened, "second-file", n->file && n->file->ro_fd >= 0,
		"monitor", n->monitor, "implicit", n->implicit, "loop", loop_number(&n->loop), "second-loop",
		n->file ? loop_number(&n->file->ro_loop) : (int64_t)0, "filename", n->filename,
		"file", n->file ? n->file->name : NULL, "backing",
		n->backing ? n->backing->name : NULL, "backing-name", n->backing_name);

	fleece_save(n, o);
	return o;
}

struct json *node_save(void)
{
	struct json *arr = json_arr();
	struct node *n;

	list_for_each(n, &node_list, link)
		json_append(arr, node_save_one(n));
	return arr;
}

static int driver_of(const char *name, enum node_driver *ret, struct err *e)
{
	for (unsigned i = 0; i < ARRAY_SIZE(driver_names); i++) {
		if (streq(driver_names[i], name)) {
			*ret = i;
			return 0;
		}
	}
	return err_set(e, EINVAL, "state: node driver '%s' is unknown", name);
}

/* Protocol nodes first, then format nodes, then filters, in the order of the file. */
static unsigned pass_of(enum node_driver d)
{
	return d == NODE_FILE || d == NODE_HOST_DEVICE ? 0
	       : d == NODE_RAW || d == NODE_QCOW2      ? 1
						       : 2;
}

static int restore_one(struct json *j, unsigned pass, struct err *e)
{
	struct node_open_flags flags = { .adopt = true };
	const char *name, *drv, *filename = NULL, *file = NULL;
	bool ro, monitor;
	enum node_driver driver = NODE_RAW;
	int64_t loop = 0, second = 0;
	struct node *n;
	int r;

	if ((r = json_need_str(j, "name", &name, e)) || (r = json_need_str(j, "driver", &drv, e)) ||
	    (r = json_need_bool(j, "read-only", &ro, e)) ||
	    (r = json_need_bool(j, "monitor", &monitor, e)) || (r = driver_of(drv, &driver, e)) ||
	    (r = json_opt_str(j, "filename", &filename, e)) ||
	    (r = json_opt_str(j, "file", &file, e)) || (r = json_opt_int(j, "loop", &loop, e)) ||
	    (r = json_opt_int(j, "second-loop", &second, e)))
		return r;
	flags.loop = (dev_t)loop;
	if (pass_of(driver) != pass)
		return 0;
	if (pass == 2) {
		r = fleece_restore(driver, j, name, &n, e);
	} else if (pass == 0) {
		r = node_file_open(driver, filename, name, ro, flags, &n, e);
	} else {
		struct node *f = file ? node_find(file) : NULL;

		if (!f)
			return err_set(e, EINVAL, "state: node '%s' has no file node", name);
		r = node_format_open(driver, f, name, ro, flags, &n, e);
		if (!r && json_bool_of(json_get(j, "reopened")))
			r = node_restore_reopened(n, json_bool_of(json_get(j, "second-file")),
						  (dev_t)second, e);
	}
	if (!r) {
		n->monitor = monitor;
		n->implicit = json_bool_of(json_get(j, "implicit"));
	}
	return r;
}

static int restore_backing(struct json *j)
{
	struct node *n = node_find(json_str_of(json_get(j, "name")));
	const char *backing = json_str_of(json_get(j, "backing"));
	const char *backing_name = json_str_of(json_get(j, "backing-name"));

	if (!n)
		return 0;
	free(n->backing_name);
	n->backing_name = backing_name ? xstrdup(backing_name) : NULL;
	if (backing && node_find(backing))
		node_set_backing(n, node_find(backing));
	return 0;
}

int node_restore(struct json *nodes, struct err *e)
{
	int r = 0;

	for (unsigned pass = 0; pass < 3; pass++) {
		for (size_t i = 0; i < json_len(nodes) && !r; i++)
			r = restore_one(json_at(nodes, i), pass, e);
	}
	for (size_t i = 0; i < json_len(nodes) && !r; i++)
		r = restore_backing(json_at(nodes, i));
	for (size_t i = 0; i < json_len(nodes); i++) {
		unsigned nr;
		const char *name = json_str_of(json_get(json_at(nodes, i), "name"));

		if (name && sscanf(name, "#block%u", &nr) == 1 && nr >= anonymous_nr)
			anonymous_nr = nr + 1;
	}
	return r;
}
