// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>

#include "../block/kmod.h"
#include "../lib/log.h"
#include "ctl.h"
#include "export.h"
#include "job.h"
#include "state.h"

struct list export_list = LIST_INIT(export_list);

struct export *export_find(const char *name)
{
	struct export *x;

	list_for_each(x, &export_list, link) {
		if (streq(x->id, name) || streq(x->view->dm, name))
			return x;
	}
	return NULL;
}

struct export *export_of(const struct view *v)
{
	struct export *x;

	list_for_each(x, &export_list, link) {
		if (x->view == v)
			return x;
	}
	return NULL;
}

int device_lookup_any(const char *device, const char *node, struct node **ret, struct err *e)
{
	struct export *x = device ? export_find(device) : NULL;

	if (x)
		*ret = x->view->next_top ? x->view->next_top : x->view->top;
	else
		*ret = node || device ? node_find(node ? node : device) : NULL;
	if (!*ret)
		return err_set(e, ENOENT, "Cannot find device='%s' nor node-name='%s'",
			       device ? device : "", node ? node : "");
	return node_as_image(ret, e);
}

int device_lookup(const char *device, const char *node, struct node **ret, struct err *e)
{
	int r = device_lookup_any(device, node, ret, e);

	if (!r && node_is_filter(*ret))
		r = err_set(e, EINVAL,
			    "Node '%s' is a %s node: the command needs a raw or qcow2 node",
			    (*ret)->name, node_driver_name((*ret)->driver));
	return r;
}

int device_find(const char *name, struct node **ret, struct err *e)
{
	return device_lookup(name, name, ret, e);
}

static int check_id(const char *id, const char *dm, struct err *e)
{
	if (!id_wellformed(id, 127))
		return err_set(e, EINVAL, "Invalid block export id '%s'", id);
	if (export_find(id))
		return err_set(e, EEXIST, "Block export id '%s' is already in use", id);
	if (dm_check_name(dm, e))
		return -EINVAL;
	if (export_find(dm) || view_find(dm))
		return err_set(e, EEXIST, "There is a disk '%s' already", dm);
	return 0;
}

static int check_node(struct node *n, bool writable, struct err *e)
{
	if (node_is_protocol(n))
		return err_set(e, EINVAL,
			       "Node '%s' is a %s node; export a raw or qcow2 node above it",
			       n->name, node_driver_name(n->driver));
	if (n->driver == NODE_CBW)
		return err_set(
			e, EINVAL,
			"Node '%s' is a copy-before-write node: its disk is exported already, or export '%s'; what it keeps is read through a snapshot-access node",
			n->name, n->filtered->name);
	if (writable && n->read_only)
		return err_set(e, EACCES, "Cannot export read-only node as writable");
	if (n->users)
		return err_set(e, EBUSY, "Node '%s' is busy: it is exported already", n->name);
	return writable ? node_check_free(n, e) : 0;
}

/* Puts it before @next; or, if that is NULL, takes it off and returns what followed. */
static struct list *show_export(struct export *x, struct list *next)
{
	struct list *followed = x->link.next;

	core_lock();
	if (next)
		list_add_tail(next, &x->link);
	else
		list_del(&x->link);
	core_unlock();
	return followed;
}

static int add_export(const char *id, struct view *v)
{
	struct export *x = xcalloc(1, sizeof(*x));

	x->id = xstrdup(id);
	x->view = v;
	(void)show_export(x, &export_list);
	return 0;
}


static int export_add(struct json *args, struct json **ret, struct err *e)
{
	const char *id, *node, *name = NULL;
	bool writable = false;
	struct node *n;
	struct view *v;
	int r;

	(void)ret;
	if ((r = json_need_str(args, "id", &id, e)) ||
	    (r = json_need_str(args, "node-name", &node, e)) ||
	    (r = json_opt_str(args, "name", &name, e)) ||
	    (r = json_opt_bool(args, "writable", &writable, e)))
		return r;
	if (!name)
		name = node;
	r = check_id(id, name, e);
	if (!r)
		r = device_lookup_any(NULL, node, &n, e);
	if (!r)
		r = check_node(n, writable, e);
	if (!r)
		r = kmod_ensure_livechain(NULL, e);
	if (!r)
		r = kmod_ensure_loop(e);
	if (!r)
		r = view_start(n, name, writable, false, &v, e);
	if (r)
		return r;
	add_export(id, v);
	return state_save(e);
}

/* The copy-before-write node above @n; NULL. */
static const struct node *filter_of(const struct node *n)
{
	struct node *f;

	list_for_each (f, &node_list, link) {
		if (f->driver == NODE_CBW && f->filtered == n)
			return f;
	}
	return NULL;
}

static int stop_export(struct export *x, struct err *e)
{
	_cleanup_free_ char *id = xstrdup(x->id);
	struct list *next;
	int r;

	if (filter_of(x->view->top))
		return err_set(e, EBUSY, "Export '%s' is in use by node '%s'; delete that first",
			       id, filter_of(x->view->top)->name);
	if (x->view->jobs)
		return err_set(e, EBUSY, "Export '%s' is in use by a block job; cancel it first", id);
	next = show_export(x, NULL); /* its view may not be looked at while it ends */
	r = view_stop(x->view, e);
	if (r) {
		(void)show_export(x, next);
		err_prefix(e, "Export '%s'", id);
		return r;
	}
	free(x->id);
	free(x);
	event_post("BLOCK_EXPORT_DELETED", json_pack("{s:s}", "id", id));
	return 0;
}

static int export_del(struct json *args, struct json **ret, struct err *e)
{
	struct export *x, *found = NULL;
	const char *id;
	int r;

	(void)ret;
	r = json_need_str(args, "id", &id, e);
	if (r)
		return r;
	list_for_each(x, &export_list, link) {
		if (streq(x->id, id))
			found = x;
	}
	if (!found)
		return err_set(e, ENOENT, "Export '%s' is not found", id);
	r = stop_export(found, e);
	return r ? r : state_save(e);
}

static void cmd_export_add(struct qmp_call *call)
{
	ctl_command(call, export_add);
}

static void cmd_export_del(struct qmp_call *call)
{
	ctl_command(call, export_del);
}

static void cmd_query_exports(struct qmp_call *call)
{
	struct json *arr = json_arr();
	struct export *x;

	core_lock();
	list_for_each(x, &export_list, link)
		json_append(arr, json_pack("{s:s, s:s, s:s, s:b, s:s, s:b}", "id", x->id, "type",
					   "dm", "node-name", node_shown(x->view->top)->name, "shutting-down",
					   0, "name", x->view->dm, "writable", x->view->writable));
	core_unlock();
	ctl_answer(call, arr);
}

struct json *export_save(void)
{
	struct json *arr = json_arr();
	struct export *x;

	list_for_each(x, &export_list, link)
		json_append(arr, json_pack("{s:s, s:s}", "id", x->id, "dm", x->view->dm));
	return arr;
}

int export_restore(struct json *exports, struct err *e)
{
	for (size_t i = 0; i < json_len(exports); i++) {
		const char *id, *dm;
		struct view *v;
		int r;

		if ((r = json_need_str(json_at(exports, i), "id", &id, e)) ||
		    (r = json_need_str(json_at(exports, i), "dm", &dm, e)))
			return r;
		v = view_find(dm);
		if (v)
			add_export(id, v);
		else
			event_post("BLOCK_EXPORT_DELETED", json_pack("{s:s}", "id", id));
	}
	return 0;
}

void export_quit(bool filters)
{
	struct export *x;

	list_for_each(x, &export_list, link) {
		struct err e = ERR_INIT;

		if (filters != node_is_filter(x->view->top))
			continue;
		if (stop_export(x, &e))
			log_notice("left as it is: %s", e.msg);
	}
}

static const char *const type_values[] = { "dm", NULL };
static const char *const mode_values[] = { "safe", "hard", NULL };
static const struct qapi_type export_type = QAPI_ENUM("BlockExportType", type_values);
static const struct qapi_type remove_mode = QAPI_ENUM("BlockExportRemoveMode", mode_values);

static const struct qapi_member add_common[] = {
	{ "type", &export_type, 0, NULL },
	{ "id", &qapi_str, 0, NULL },
	{ "node-name", &qapi_str, 0, NULL },
	{ "writable", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member dm_members[] = {
	{ "name", &qapi_str, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type dm_options = QAPI_STRUCT("BlockExportOptionsDm", dm_members);
static const struct qapi_branch add_branches[] = { { "dm", &dm_options }, { 0 } };
static const struct qapi_type add_options =
	QAPI_UNION("BlockExportOptions", add_common, "type", add_branches);

static const struct qapi_member del_args[] = {
	{ "id", &qapi_str, 0, NULL },
	{ "mode", &remove_mode, QAPI_OPT, NULL },
	{ 0 },
};

static const struct qapi_member info_members[] = {
	{ "id", &qapi_str, 0, NULL },	       { "type", &export_type, 0, NULL },
	{ "node-name", &qapi_str, 0, NULL },   { "shutting-down", &qapi_bool, 0, NULL },
	{ "name", &qapi_str, QAPI_OPT, NULL }, { "writable", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type export_info = QAPI_STRUCT("BlockExportInfo", info_members);
static const struct qapi_type export_infos = QAPI_ARRAY(&export_info);

const struct qmp_command export_commands[] = {
	{ .name = "block-export-add", .handler = cmd_export_add, .arg_type = &add_options },
	{ .name = "block-export-del", .handler = cmd_export_del, .args = del_args },
	{ .name = "query-block-exports", .handler = cmd_query_exports, .ret = &export_infos },
	{ 0 },
};

static const struct qapi_member deleted_data[] = { { "id", &qapi_str, 0, NULL }, { 0 } };

const struct qmp_event_def export_events[] = {
	{ "BLOCK_EXPORT_DELETED", deleted_data },
	{ 0 },
};
