// SPDX-License-Identifier: GPL-2.0-or-later
/* Queries: nodes as QEMU's BlockDeviceInfo, disks as query-block, the kernel's counters. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "blockdev.h"
#include "ctl.h"
#include "export.h"
#include "query-types.h"

static struct json *format_specific(const struct node *n)
{
	const struct qcow2_info *i = &n->info;

	return json_pack("{s:s, s:{s:s, s:b, s:s, s:b, s:i}}", "type", "qcow2", "data", "compat",
			 i->version == 2 ? "0.10" : "1.1", "lazy-refcounts", i->lazy_refcounts,
			 "compression-type", "zlib", "corrupt", i->corrupt, "refcount-bits",
			 (int)i->refcount_bits);
}

static uint64_t actual_size(const struct node *n)
{
	struct stat st;

	return stat(node_protocol((struct node *)n)->filename, &st) ? 0 : st.st_blocks * 512ULL;
}

/* ImageInfo, with the images below it inside. */
static struct json *image_info(const struct node *n, bool flat)
{
	const struct node *p = node_protocol((struct node *)n);
	struct json *j = json_pack("{s:I, s:s, s:s, s:I, s:b}", "virtual-size", (int64_t)n->size,
				   "filename", p->filename, "format",
				   node_driver_name(node_shown(n)->driver),
				   "actual-size", (int64_t)actual_size(n), "dirty-flag",
				   n->info.dirty);

	if (n->driver == NODE_QCOW2 || n->driver == NODE_CBW)
		json_add(j, "cluster-size", json_int(n->info.cluster_size));
	if (n->driver == NODE_QCOW2)
		json_add(j, "format-specific", format_specific(n));
	if (n->backing_name || n->backing) {
		json_add(j, "backing-filename",
			 json_str(n->backing_name ? n->backing_name :
						    node_protocol(n->backing)->filename));
		if (n->backing)
			json_add(j, "full-backing-filename",
				 json_str(node_protocol(n->backing)->filename));
		if (n->info.backing_format)
			json_add(j, "backing-filename-format", json_str(n->info.backing_format));
	}
	if (n->backing && !flat)
		json_add(j, "backing-image", image_info(n->backing, false));
	return j;
}

static unsigned backing_depth(const struct node *n)
{
	unsigned depth = 0;

	while ((n = n->backing))
		depth++;
	return depth;
}

static struct json *node_info(const struct node *n, bool flat)
{
	const struct node *p = node_protocol((struct node *)n), *shown = node_shown(n);
	struct json *j = json_pack(
		"{s:b, s:s, s:b, s:s, s:s, s:i, s:s, s:i, s:{s:b, s:b, s:b}, s:I, s:o}", "ro",
		n->read_only, "drv", node_driver_name(shown->driver), "encrypted", 0, "node-name",
		shown->name, "file", p->filename, "backing_file_depth", (int)backing_depth(n),
		"detect_zeroes", "off", "write_threshold", 0, "cache", "no-flush", 0, "direct", 1,
		"writeback", 1, "bps", (int64_t)0, "image", image_info(n, flat));
	static const char *const zeros[] = { "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr" };

	for (unsigned i = 0; i < ARRAY_SIZE(zeros); i++)
		json_add(j, zeros[i], json_int(0));
	if (n->backing)
		json_add(j, "backing_file", json_str(node_protocol(n->backing)->filename));
	return j;
}

static void cmd_named_nodes(struct qmp_call *call)
{
	struct json *arr = json_arr();
	bool flat = json_bool_of(json_get(qmp_args(call), "flat"));
	struct node *n;

	core_lock();
	list_for_each(n, &node_list, link) {
		if (!n->implicit)
			json_append(arr, node_info(n, flat));
	}
	core_unlock();
	ctl_answer(call, arr);
}

static void cmd_query_block(struct qmp_call *call)
{
	struct json *arr = json_arr();
	struct export *x;

	core_lock();
	list_for_each(x, &export_list, link) {
		_cleanup_free_ char *path = xasprintf("/dev/mapper/%s", x->view->dm);

		json_append(arr, json_pack("{s:s, s:s, s:b, s:b, s:s, s:s, s:o}", "device",
					   x->view->dm, "type", "unknown", "removable", 0,
					   "locked", 0, "qdev", path, "io-status",
					   x->view->nospace ? "nospace" :
					   x->view->failed  ? "failed" :
							      "ok",
					   "inserted", node_info(x->view->top, false)));
	}
	core_unlock();
	ctl_answer(call, arr);
}

/* The device's counters: read/write operations, sectors, milliseconds, flushes. */
static void read_counters(const char *dm, uint64_t c[17])
{
	struct dm_dev_info info;
	_cleanup_free_ char *path = NULL;
	FILE *f;

	memset(c, 0, 17 * sizeof(*c));
	if (dm_get_info(dm, &info, NULL) || !info.exists)
		return;
	path = xasprintf("/sys/dev/block/%u:%u/stat", major(info.devno), minor(info.devno));
	f = fopen(path, "re");
	if (!f)
		return;
	for (unsigned i = 0; i < 17; i++) {
		unsigned long long v;

		if (fscanf(f, "%llu", &v) != 1)
			break;
		c[i] = v;
	}
	fclose(f);
}

static struct json *stats_of(const uint64_t c[17])
{
	struct json *j = json_obj();
	const struct {
		const char *key;
		uint64_t val;
	} pairs[] = {
		{ "rd_bytes", c[2] * 512 },	      { "wr_bytes", c[6] * 512 },
		{ "rd_operations", c[0] },	      { "wr_operations", c[4] },
		{ "flush_operations", c[15] },	      { "unmap_operations", c[11] },
		{ "unmap_bytes", c[13] * 512 },	      { "rd_total_time_ns", c[3] * 1000000 },
		{ "wr_total_time_ns", c[7] * 1000000 }, { "flush_total_time_ns", c[16] * 1000000 },
		{ "unmap_total_time_ns", c[14] * 1000000 }, { "rd_merged", c[1] },
		{ "wr_merged", c[5] },		      { "unmap_merged", c[12] },
		{ "wr_highest_offset", 0 },	      { "failed_rd_operations", 0 },
		{ "failed_wr_operations", 0 },	      { "failed_flush_operations", 0 },
		{ "failed_unmap_operations", 0 },     { "invalid_rd_operations", 0 },
		{ "invalid_wr_operations", 0 },	      { "invalid_flush_operations", 0 },
		{ "invalid_unmap_operations", 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++)
		json_add(j, pairs[i].key, json_u64(pairs[i].val));
	json_add(j, "account_invalid", json_bool(false));
	json_add(j, "account_failed", json_bool(false));
	json_add(j, "timed_stats", json_arr());
	return j;
}

static void stats_of_nodes(struct json *arr)
{
	static const uint64_t zeros[17];
	struct node *n;

	list_for_each(n, &node_list, link) {
		if (!n->implicit)
			json_append(arr, json_pack("{s:s, s:o}", "node-name", n->name, "stats",
						   stats_of(zeros)));
	}
}

static void cmd_blockstats(struct qmp_call *call)
{
	struct json *arr = json_arr();
	struct export *x;
	uint64_t c[17];

	core_lock();
	if (json_bool_of(json_get(qmp_args(call), "query-nodes"))) {
		stats_of_nodes(arr);
	} else {
		list_for_each(x, &export_list, link) {
			read_counters(x->view->dm, c);
			json_append(arr, json_pack("{s:s, s:s, s:o}", "device", x->view->dm,
						   "node-name", node_shown(x->view->top)->name, "stats",
						   stats_of(c)));
		}
	}
	core_unlock();
	ctl_answer(call, arr);
}

static const struct qapi_member named_args[] = { { "flat", &qapi_bool, QAPI_OPT, NULL }, { 0 } };
static const struct qapi_member stats_args[] = {
	{ "query-nodes", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};

const struct qmp_command query_commands[] = {
	{ .name = "query-named-block-nodes",
	  .handler = cmd_named_nodes,
	  .args = named_args,
	  .ret = &query_block_nodes },
	{ .name = "query-block", .handler = cmd_query_block, .ret = &query_blocks },
	{ .name = "query-blockstats",
	  .handler = cmd_blockstats,
	  .args = stats_args,
	  .ret = &query_block_stats },
	{ 0 },
};
