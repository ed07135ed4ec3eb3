// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "blockdev.h"
#include "ctl.h"
#include "node.h"
#include "state.h"
#include "view.h"

static int blockdev_add(struct json *args, struct json **ret, struct err *e)
{
	struct node *n;
	int r = node_add(args, &n, e);

	(void)ret;
	return r ? r : state_save(e);
}

static int blockdev_del(struct json *args, struct json **ret, struct err *e)
{
	struct view *v;
	const char *name;
	int r = json_need_str(args, "node-name", &name, e);

	(void)ret;
	v = r ? NULL : view_ending(node_find(name));
	if (v) /* it says that somebody has its device open */
		r = view_stop(v, e);
	if (!r)
		r = node_del(name, e);
	return r ? r : state_save(e);
}

static void cmd_add(struct qmp_call *call)
{
	ctl_command(call, blockdev_add);
}

static void cmd_del(struct qmp_call *call)
{
	ctl_command(call, blockdev_del);
}

static const char *const driver_values[] = { "file",  "host_device",	   "raw",
					     "qcow2", "copy-before-write", "snapshot-access",
					     NULL };
static const char *const discard_values[] = { "ignore", "unmap", NULL };
static const char *const detect_values[] = { "off", "on", "unmap", NULL };
static const char *const aio_values[] = { "threads", "native", "io_uring", NULL };
static const char *const lock_values[] = { "auto", "on", "off", NULL };
const struct qapi_type blockdev_driver = QAPI_ENUM("BlockdevDriver", driver_values);
static const struct qapi_type discard = QAPI_ENUM("BlockdevDiscardOptions", discard_values);
static const struct qapi_type detect = QAPI_ENUM("BlockdevDetectZeroesOptions", detect_values);
static const struct qapi_type aio = QAPI_ENUM("BlockdevAioOptions", aio_values);
static const struct qapi_type locking = QAPI_ENUM("OnOffAuto", lock_values);

static const struct qapi_member cache_members[] = {
	{ "direct", &qapi_bool, QAPI_OPT, NULL },
	{ "no-flush", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type cache = QAPI_STRUCT("BlockdevCacheOptions", cache_members);

static const struct qapi_branch ref_kinds[] = {
	{ NULL, &blockdev_options },
	{ NULL, &qapi_str },
	{ 0 },
};
static const struct qapi_branch ref_or_null_kinds[] = {
	{ NULL, &blockdev_options },
	{ NULL, &qapi_str },
	{ NULL, &qapi_null },
	{ 0 },
};
const struct qapi_type blockdev_ref = QAPI_ALTERNATE("BlockdevRef", ref_kinds);
static const struct qapi_type blockdev_ref_or_null =
	QAPI_ALTERNATE("BlockdevRefOrNull", ref_or_null_kinds);

static const struct qapi_member common_members[] = {
	{ "driver", &blockdev_driver, 0, NULL },
	{ "node-name", &qapi_str, QAPI_OPT, NULL },
	{ "read-only", &qapi_bool, QAPI_OPT, NULL },
	{ "auto-read-only", &qapi_bool, QAPI_OPT, NULL },
	{ "force-share", &qapi_bool, QAPI_OPT, NULL },
	{ "discard", &discard, QAPI_OPT, NULL },
	{ "detect-zeroes", &detect, QAPI_OPT, NULL },
	{ "cache", &cache, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member protocol_members[] = {
	{ "filename", &qapi_str, 0, NULL },
	{ "aio", &aio, QAPI_OPT, NULL },
	{ "locking", &locking, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member raw_members[] = {
	{ "file", &blockdev_ref, 0, NULL },
	{ 0 },
};
static const struct qapi_member qcow2_members[] = {
	{ "file", &blockdev_ref, 0, NULL },
	{ "backing", &blockdev_ref_or_null, QAPI_OPT, NULL },
	/* Of QEMU's caches, and of what it does with freed clusters: no effect. */
	{ "lazy-refcounts", &qapi_bool, QAPI_OPT, NULL },
	{ "pass-discard-request", &qapi_bool, QAPI_OPT, NULL },
	{ "pass-discard-snapshot", &qapi_bool, QAPI_OPT, NULL },
	{ "pass-discard-other", &qapi_bool, QAPI_OPT, NULL },
	{ "cache-size", &qapi_int, QAPI_OPT, NULL },
	{ "l2-cache-size", &qapi_int, QAPI_OPT, NULL },
	{ "l2-cache-entry-size", &qapi_int, QAPI_OPT, NULL },
	{ "refcount-cache-size", &qapi_int, QAPI_OPT, NULL },
	{ "cache-clean-interval", &qapi_int, QAPI_OPT, NULL },
	{ 0 },
};
static const char *const cbw_error_values[] = { "break-guest-write", "break-snapshot", NULL };
static const struct qapi_type on_cbw_error = QAPI_ENUM("OnCbwError", cbw_error_values);
static const struct qapi_member cbw_members[] = {
	{ "file", &blockdev_ref, 0, NULL },
	{ "target", &blockdev_ref, 0, NULL },
	{ "on-cbw-error", &on_cbw_error, QAPI_OPT, NULL },
	{ "cbw-timeout", &qapi_uint32, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type cbw_options = QAPI_STRUCT("BlockdevOptionsCbw", cbw_members);
static const struct qapi_type protocol_options =
	QAPI_STRUCT("BlockdevOptionsFile", protocol_members);
static const struct qapi_type raw_options = QAPI_STRUCT("BlockdevOptionsRaw", raw_members);
static const struct qapi_type qcow2_options = QAPI_STRUCT("BlockdevOptionsQcow2", qcow2_members);
static const struct qapi_branch driver_branches[] = {
	{ "file", &protocol_options },
	{ "host_device", &protocol_options },
	{ "raw", &raw_options },
	{ "qcow2", &qcow2_options },
	{ "copy-before-write", &cbw_options },
	{ "snapshot-access", &raw_options },
	{ 0 },
};
const struct qapi_type blockdev_options =
	QAPI_UNION("BlockdevOptions", common_members, "driver", driver_branches);

static const struct qapi_member del_members[] = {
	{ "node-name", &qapi_str, 0, NULL },
	{ 0 },
};

const struct qmp_command blockdev_commands[] = {
	{ .name = "blockdev-add", .handler = cmd_add, .arg_type = &blockdev_options },
	{ .name = "blockdev-del", .handler = cmd_del, .args = del_members },
	{ 0 },
};

static const char *const op_values[] = { "read", "write", NULL };
static const char *const action_values[] = { "ignore", "report", "stop", NULL };
static const struct qapi_type io_operation = QAPI_ENUM("IoOperationType", op_values);
static const struct qapi_type io_action = QAPI_ENUM("BlockErrorAction", action_values);
static const struct qapi_member io_error_data[] = {
	{ "qom-path", &qapi_str, 0, NULL },	   { "device", &qapi_str, 0, NULL },
	{ "node-name", &qapi_str, QAPI_OPT, NULL }, { "operation", &io_operation, 0, NULL },
	{ "action", &io_action, 0, NULL },	   { "nospace", &qapi_bool, QAPI_OPT, NULL },
	{ "reason", &qapi_str, 0, NULL },	   { 0 },
};

static const struct qapi_member corrupted_data[] = {
	{ "device", &qapi_str, 0, NULL },	    { "node-name", &qapi_str, QAPI_OPT, NULL },
	{ "msg", &qapi_str, 0, NULL },		    { "offset", &qapi_int, QAPI_OPT, NULL },
	{ "size", &qapi_int, QAPI_OPT, NULL },	    { "fatal", &qapi_bool, 0, NULL },
	{ 0 },
};

const struct qmp_event_def blockdev_events[] = {
	{ "BLOCK_IO_ERROR", io_error_data },
	{ "BLOCK_IMAGE_CORRUPTED", corrupted_data },
	{ 0 },
};
