// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <sys/sysmacros.h>

#include "../../include/uapi/linux/dm-livechain.h"
#include "../block/kmod.h"
#include "../block/probe.h"
#include "../lib/log.h"
#include "backup.h"
#include "ctl.h"
#include "fleece.h"
#include "job-copy.h"
#include "state.h"

#define DEFAULT_TIMEOUT_S 30 /* where nobody's write is failed */

/* '#' of a made up name is none of the kernel's letters. */
static char *name_for(const struct node *n, const char *prefix, const char *suffix)
{
	char *s = xasprintf("%s%s%s", prefix, n->name, suffix);

	for (char *p = s; *p; p++) {
		if (*p == '#')
			*p = '_';
	}
	return s;
}

static char *job_name(const struct node *n)
{
	return name_for(n, "cbw:", "");
}

static char *device_name(const struct node *n)
{
	return name_for(n, "livechain-", "--access");
}

static char *device_uuid(const struct node *n)
{
	return name_for(n, "int-access-", "");
}

static struct job *job_of(const struct node *n)
{
	_cleanup_free_ char *id = job_name(n);

	return job_find(id);
}

/* --- the kernel's job behind copy-before-write --- */

static int fleece_prepare(struct txn_action *t, struct json *args, struct err *e)
{
	struct node *n = node_find(json_str_of(json_get(args, "node-name")));
	_cleanup_free_ char *id = job_name(n);
	struct job *j;
	dev_t dev;
	int r;

	j = job_new(id, &fleece_job, true, true, 0);
	j->len = n->size;
	j->dest = -1;
	r = job_source_view(j, n->filtered, e);
	if (!r) {
		core_lock();
		j->source_node = n->filtered;
		j->target_node = n->target;
		core_unlock();
		job_hold(j);
		r = job_target_device(j, n->target, &dev, e);
	}
	if (!r) {
		r = view_add_layer(j->source, j->target ? NULL : n->target, dev, true, e);
		if (r >= 0) {
			j->dest = r;
			r = 0;
		}
	}
	if (r) {
		job_undo_start(j);
		return r;
	}
	t->state = xstrdup(n->name);
	t->job = j;
	t->view = j->source;
	snprintf(t->undo, sizeof(t->undo), "job %s cancel", j->id);
	return 0;
}

/* The instant that is kept. */
static int fleece_act(struct txn_action *t, struct err *e)
{
	struct job *j = t->job;
	const struct node *n = node_find(t->state);
	int64_t timeout;

	timeout = n->cbw_timeout >= 0 ? n->cbw_timeout : n->break_snapshot ? DEFAULT_TIMEOUT_S : 0;
	return view_message(j->source, e, NULL,
			    "copy %s %d before-write grain %u timeout %lld access %s", j->id,
			    j->dest, backup_grain(j), (long long)timeout * 1000,
			    n->break_snapshot ? "break-snapshot" : "break-guest-write");
}

/* clang-format off: as a line of its own the name would be that of a command */
static const struct txn_type txn_fleece = { .name = "copy-before-write", .prepare = fleece_prepare,
	.act = fleece_act, .revert = backup_revert, .abort = backup_abort };

const struct job_type fleece_job = { .name = "copy-before-write", .hidden = true,
	.clean = job_copy_clean };
/* clang-format on */

/* --- nodes --- */

static void adopt_child(struct node **where, struct node *child)
{
	core_lock();
	*where = child;
	child->parents++;
	core_unlock();
}

static void disown_child(struct node **where)
{
	struct node *child = *where;

	if (!child)
		return;
	core_lock();
	*where = NULL;
	child->parents--;
	core_unlock();
	node_put(child);
}

/* Unlinks and frees a node behind which there is nothing (more). */
static void drop_node(struct node *n)
{
	core_lock();
	n->monitor = false;
	core_unlock();
	node_put(n);
}

static int check_target(const struct node *file, const struct node *t, struct err *e)
{
	int r;

	if (file == t)
		return err_set(e, EINVAL, "Source and target cannot be the same");
	r = job_check_target(t, fleece_job.name, e);
	if (r)
		return r;
	if (file->size != t->size)
		return err_set(e, EINVAL, "Source and target image have different sizes");
	if (t->backing || t->backing_name)
		return err_set(
			e, EOPNOTSUPP,
			"copy-before-write needs a target without a backing file: '%s' has one",
			t->name);
	if (t->driver == NODE_RAW)
		return probe_refuse_used(t->file->fd, t->file->filename, e);
	return 0;
}

static int start(struct node *n, struct err *e)
{
	_cleanup_json_ struct json *args = json_pack("{s:s}", "node-name", n->name);
	int r = kmod_ensure_livechain(NULL, e);

	if (!r)
		r = kmod_ensure_loop(e);
	return r ? r : txn_single(&txn_fleece, args, e);
}

static int parse_filter(struct json *opts, struct node *n, struct err *e)
{
	const char *on_error = "break-guest-write";
	int r;

	n->cbw_timeout = -1;
	if ((r = json_opt_str(opts, "on-cbw-error", &on_error, e)) ||
	    (r = json_opt_int(opts, "cbw-timeout", &n->cbw_timeout, e)))
		return r;
	n->break_snapshot = streq(on_error, "break-snapshot");
	return 0;
}

static int children_of(struct json *opts, const char *name, struct node **file,
		       struct node **target, struct err *e)
{
	int r = node_child(json_get(opts, "file"), false, file, e);

	if (!r)
		r = node_child(json_get(opts, "target"), false, target, e);
	if (!r)
		r = node_as_image(file, e);
	if (!r)
		r = node_as_image(target, e);
	if (!r && name) /* once more: a child may have taken it */
		r = node_check_name(name, e);
	if (!r)
		r = job_check_image(*file, false, fleece_job.name, e);
	if (!r)
		r = node_check_free(*file, e);
	return r ? r : check_target(*file, *target, e);
}

static int add_filter(struct json *opts, const char *name, struct node **ret, struct err *e)
{
	struct node *file = NULL, *target = NULL, *n;
	int r = children_of(opts, name, &file, &target, e);

	if (r) {
		node_put(file);
		node_put(target);
		return r;
	}
	n = node_new(NODE_CBW, name);
	n->size = file->size;
	adopt_child(&n->filtered, file);
	adopt_child(&n->target, target);
	node_link(n);
	r = parse_filter(opts, n, e);
	if (!r)
		r = start(n, e);
	if (r) {
		drop_node(n);
		return r;
	}
	n->info.cluster_size = backup_grain(job_of(n)) * 512;
	*ret = n;
	return 0;
}

/* --- snapshot-access --- */

int fleece_device(const struct node *n, dev_t *ret, struct err *e)
{
	_cleanup_free_ char *dm = device_name(n), *uuid = device_uuid(n);
	struct dm_dev_info info = { 0 };
	int r = dm_get_info(dm, &info, e);

	if (r)
		return r;
	if (!info.exists || !info.live_table || !str_has_prefix(info.uuid, DM_DEV_UUID_PREFIX) ||
	    !streq(info.uuid + strlen(DM_DEV_UUID_PREFIX), uuid))
		return err_set(e, ENXIO, "Node '%s' has lost its device", n->name);
	*ret = info.devno;
	return 0;
}

static int create_device(const struct node *n, struct err *e)
{
	_cleanup_free_ char *dm = device_name(n), *uuid = device_uuid(n), *params = NULL;
	struct job *j = job_of(n->filtered);
	struct dm_table t = { 0 };
	struct view_layer *l;
	dev_t dev;
	int r;

	l = j && j->source ? view_layer(j->source, j->dest) : NULL;
	if (!l)
		return err_set(e, ENXIO, "Node '%s' keeps nothing any more", n->filtered->name);
	params = xasprintf("%s %s %u:%u 0", j->source->kname, j->id, major(l->devno),
			   minor(l->devno));
	r = dm_table_set(&t, n->size / 512, LIVECHAIN_POINT_TARGET_NAME, params);
	if (!r)
		r = dm_create(dm, uuid, &t, true, &dev, e);
	dm_table_done(&t);
	return r;
}

static int add_access(struct json *opts, const char *name, struct node **ret, struct err *e)
{
	struct node *file = NULL, *n;
	int r = node_child(json_get(opts, "file"), false, &file, e);

	if (!r && name)
		r = node_check_name(name, e);
	if (!r && file->driver != NODE_CBW)
		r = err_set(
			e, EINVAL,
			"Node '%s' is a %s node: 'file' of a snapshot-access node must be a copy-before-write node",
			file->name, node_driver_name(file->driver));
	if (r) {
		node_put(file);
		return r;
	}
	n = node_new(NODE_ACCESS, name);
	n->read_only = true;
	n->size = file->size;
	adopt_child(&n->filtered, file);
	node_link(n);
	core_lock();
	n->monitor = true; /* a device that no state knows would stay for ever */
	core_unlock();
	r = state_save(e);
	if (!r)
		r = create_device(n, e);
	if (r) {
		drop_node(n);
		return r;
	}
	*ret = n;
	return 0;
}

int fleece_add(enum node_driver driver, struct json *opts, const char *name, struct node **ret,
	       struct err *e)
{
	return driver == NODE_CBW ? add_filter(opts, name, ret, e) : add_access(opts, name, ret, e);
}

/* --- the end --- */

static int end_access(struct node *n, struct err *e)
{
	_cleanup_free_ char *dm = device_name(n);
	struct dm_dev_info info = { 0 };
	int r = dm_get_info(dm, &info, e);

	return r || !info.exists ? r : dm_remove(dm, e);
}

int fleece_end(struct node *n, struct err *e)
{
	struct job *j;

	if (n->driver == NODE_ACCESS)
		return end_access(n, e);
	j = job_of(n);
	return j ? job_cancel(j, e) : 0;
}

void fleece_quit(void)
{
	for (enum node_driver d = NODE_ACCESS; d >= NODE_CBW; d--) {
		for (bool again = true; again;) {
			struct err e = ERR_INIT;
			struct node *n;

			again = false;
			list_for_each (n, &node_list, link) {
				if (n->driver != d || n->parents || n->users)
					continue;
				if (fleece_end(n, &e)) {
					log_notice("left as it is: node '%s': %s", n->name, e.msg);
					err_clear(&e);
					continue;
				}
				drop_node(n);
				again = true;
				break;
			}
		}
	}
}

/* --- the state folder --- */

void fleece_save(const struct node *n, struct json *o)
{
	if (!node_is_filter(n))
		return;
	json_add(o, "filtered", json_str(n->filtered->name));
	json_add(o, "target", n->target ? json_str(n->target->name) : NULL);
	json_add(o, "break-snapshot", json_bool(n->break_snapshot));
	json_add(o, "cbw-timeout", json_int(n->cbw_timeout));
	json_add(o, "cluster-size", json_int(n->info.cluster_size));
}

int fleece_restore(enum node_driver driver, struct json *o, const char *name, struct node **ret,
		   struct err *e)
{
	const char *file = json_str_of(json_get(o, "filtered"));
	const char *target = json_str_of(json_get(o, "target"));
	int64_t cluster = 0, timeout = -1;
	struct node *n;

	if (!file || !node_find(file) || (driver == NODE_CBW && (!target || !node_find(target))))
		return err_set(e, EINVAL, "state: node '%s' lacks a child", name);
	n = node_new(driver, name);
	n->read_only = driver == NODE_ACCESS;
	n->size = node_find(file)->size;
	n->break_snapshot = json_bool_of(json_get(o, "break-snapshot"));
	(void)json_int_of(json_get(o, "cbw-timeout"), &timeout);
	(void)json_int_of(json_get(o, "cluster-size"), &cluster);
	n->cbw_timeout = timeout;
	n->info.cluster_size = (uint32_t)cluster;
	adopt_child(&n->filtered, node_find(file));
	if (driver == NODE_CBW)
		adopt_child(&n->target, node_find(target));
	node_link(n);
	*ret = n;
	return 0;
}

/* Without its job a node keeps nothing: the daemon died while it was added, or its disk is gone. */
static bool is_lost(struct node *n)
{
	struct err e = ERR_INIT;
	dev_t dev;
	bool lost;

	if (n->driver == NODE_CBW)
		return !job_of(n);
	if (n->driver != NODE_ACCESS || !fleece_device(n, &dev, NULL))
		return false;
	lost = create_device(n, &e) != 0;
	err_clear(&e);
	return lost;
}

/* Jobs that an earlier daemon could not end when it let their node go. */
static void end_orphans(void)
{
	for (bool again = true; again;) {
		struct err e = ERR_INIT;
		struct job *j;

		again = false;
		list_for_each (j, &job_list, link) {
			struct node *n;
			bool known = !j->type->hidden;

			list_for_each (n, &node_list, link)
				known |= n->driver == NODE_CBW && job_of(n) == j;
			if (known)
				continue;
			again = !job_cancel(j, &e);
			if (!again)
				log_warn("job '%s': %s", j->id, e.msg);
			err_clear(&e);
			break;
		}
	}
}

void fleece_settle(void)
{
	end_orphans();
	for (enum node_driver d = NODE_ACCESS; d >= NODE_CBW; d--) {
		for (bool again = true; again;) {
			struct err e = ERR_INIT;
			struct node *n;

			again = false;
			list_for_each (n, &node_list, link) {
				if (n->driver != d || n->parents || n->users || !is_lost(n))
					continue;
				log_warn(
					"node '%s' is gone: what it kept was lost with its disk, or was never begun",
					n->name);
				if (fleece_end(n, &e))
					log_warn("node '%s': %s", n->name, e.msg);
				err_clear(&e);
				drop_node(n);
				again = true;
				break;
			}
		}
	}
}

void fleece_put_children(struct node *filtered, struct node *target)
{
	disown_child(&filtered);
	disown_child(&target);
}
