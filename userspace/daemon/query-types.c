// SPDX-License-Identifier: GPL-2.0-or-later
#include <stddef.h>

#include "daemon/query-types.h"

#define REQ(n, t)                \
	{                        \
		n, &(t), 0, NULL \
	}
#define OPT(n, t)                       \
	{                               \
		n, &(t), QAPI_OPT, NULL \
	}
#define END       \
	{         \
		0 \
	}

static const struct qapi_type strings = QAPI_ARRAY(&qapi_str);

/* --- images and nodes ------------------------------------------------------------------ */

static const char *const compression_values[] = { "zlib", "zstd", NULL };
static const struct qapi_type compression = QAPI_ENUM("Qcow2CompressionType", compression_values);

static const struct qapi_member qcow2_members[] = {
	REQ("compat", qapi_str),
	OPT("lazy-refcounts", qapi_bool),
	OPT("corrupt", qapi_bool),
	REQ("refcount-bits", qapi_int),
	REQ("compression-type", compression),
	END,
};
static const struct qapi_type qcow2_info = QAPI_STRUCT("ImageInfoSpecificQCow2", qcow2_members);
static const struct qapi_member wrapper_members[] = { REQ("data", qcow2_info), END };
static const struct qapi_type wrapper =
	QAPI_STRUCT("ImageInfoSpecificQCow2Wrapper", wrapper_members);

static const char *const specific_values[] = { "qcow2", NULL };
static const struct qapi_type specific_kind = QAPI_ENUM("ImageInfoSpecificKind", specific_values);
static const struct qapi_member specific_members[] = { REQ("type", specific_kind), END };
static const struct qapi_branch specific_branches[] = { { "qcow2", &wrapper }, { 0 } };
static const struct qapi_type specific =
	QAPI_UNION("ImageInfoSpecific", specific_members, "type", specific_branches);

static const struct qapi_type image_info;
static const struct qapi_member image_members[] = {
	REQ("filename", qapi_str),
	REQ("format", qapi_str),
	OPT("dirty-flag", qapi_bool),
	OPT("actual-size", qapi_int),
	REQ("virtual-size", qapi_int),
	OPT("cluster-size", qapi_int),
	OPT("backing-filename", qapi_str),
	OPT("full-backing-filename", qapi_str),
	OPT("backing-filename-format", qapi_str),
	OPT("backing-image", image_info),
	OPT("format-specific", specific),
	END,
};
static const struct qapi_type image_info = QAPI_STRUCT("ImageInfo", image_members);

static const char *const detect_values[] = { "off", "on", "unmap", NULL };
static const struct qapi_type detect_zeroes =
	QAPI_ENUM("BlockdevDetectZeroesOptions", detect_values);
static const struct qapi_member cache_members[] = {
	REQ("writeback", qapi_bool),
	REQ("direct", qapi_bool),
	REQ("no-flush", qapi_bool),
	END,
};
static const struct qapi_type cache_info = QAPI_STRUCT("BlockdevCacheInfo", cache_members);

static const struct qapi_member node_members[] = {
	REQ("file", qapi_str),
	OPT("node-name", qapi_str),
	REQ("ro", qapi_bool),
	REQ("drv", qapi_str),
	OPT("backing_file", qapi_str),
	REQ("backing_file_depth", qapi_int),
	REQ("encrypted", qapi_bool),
	REQ("detect_zeroes", detect_zeroes),
	REQ("bps", qapi_int),
	REQ("bps_rd", qapi_int),
	REQ("bps_wr", qapi_int),
	REQ("iops", qapi_int),
	REQ("iops_rd", qapi_int),
	REQ("iops_wr", qapi_int),
	REQ("image", image_info),
	REQ("cache", cache_info),
	REQ("write_threshold", qapi_int),
	END,
};
static const struct qapi_type node_info = QAPI_STRUCT("BlockDeviceInfo", node_members);
const struct qapi_type query_block_nodes = QAPI_ARRAY(&node_info);

/* --- disks ----------------------------------------------------------------------------- */

static const char *const status_values[] = { "ok", "failed", "nospace", NULL };
static const struct qapi_type io_status = QAPI_ENUM("BlockDeviceIoStatus", status_values);
static const struct qapi_member block_members[] = {
	REQ("device", qapi_str),     OPT("qdev", qapi_str),
	REQ("type", qapi_str),	     REQ("removable", qapi_bool),
	REQ("locked", qapi_bool),    OPT("inserted", node_info),
	OPT("io-status", io_status), END,
};
static const struct qapi_type block_info = QAPI_STRUCT("BlockInfo", block_members);
const struct qapi_type query_blocks = QAPI_ARRAY(&block_info);

static const struct qapi_member timed_members[] = {
	REQ("interval_length", qapi_int),
	REQ("min_rd_latency_ns", qapi_int),
	REQ("max_rd_latency_ns", qapi_int),
	REQ("avg_rd_latency_ns", qapi_int),
	REQ("min_wr_latency_ns", qapi_int),
	REQ("max_wr_latency_ns", qapi_int),
	REQ("avg_wr_latency_ns", qapi_int),
	REQ("min_flush_latency_ns", qapi_int),
	REQ("max_flush_latency_ns", qapi_int),
	REQ("avg_flush_latency_ns", qapi_int),
	REQ("avg_rd_queue_depth", qapi_number),
	REQ("avg_wr_queue_depth", qapi_number),
	END,
};
static const struct qapi_type timed = QAPI_STRUCT("BlockDeviceTimedStats", timed_members);
static const struct qapi_type timed_list = QAPI_ARRAY(&timed);

static const struct qapi_member counter_members[] = {
	REQ("rd_bytes", qapi_int),
	REQ("wr_bytes", qapi_int),
	REQ("unmap_bytes", qapi_int),
	REQ("rd_operations", qapi_int),
	REQ("wr_operations", qapi_int),
	REQ("flush_operations", qapi_int),
	REQ("unmap_operations", qapi_int),
	REQ("rd_total_time_ns", qapi_int),
	REQ("wr_total_time_ns", qapi_int),
	REQ("flush_total_time_ns", qapi_int),
	REQ("unmap_total_time_ns", qapi_int),
	REQ("wr_highest_offset", qapi_int),
	REQ("rd_merged", qapi_int),
	REQ("wr_merged", qapi_int),
	REQ("unmap_merged", qapi_int),
	REQ("failed_rd_operations", qapi_int),
	REQ("failed_wr_operations", qapi_int),
	REQ("failed_flush_operations", qapi_int),
	REQ("failed_unmap_operations", qapi_int),
	REQ("invalid_rd_operations", qapi_int),
	REQ("invalid_wr_operations", qapi_int),
	REQ("invalid_flush_operations", qapi_int),
	REQ("invalid_unmap_operations", qapi_int),
	REQ("account_invalid", qapi_bool),
	REQ("account_failed", qapi_bool),
	REQ("timed_stats", timed_list),
	END,
};
static const struct qapi_type counters = QAPI_STRUCT("BlockDeviceStats", counter_members);
static const struct qapi_member stats_members[] = {
	OPT("device", qapi_str),
	OPT("node-name", qapi_str),
	REQ("stats", counters),
	END,
};
static const struct qapi_type stats = QAPI_STRUCT("BlockStats", stats_members);
const struct qapi_type query_block_stats = QAPI_ARRAY(&stats);

/* --- the schema itself ------------------------------------------------------------------- */

static const char *const json_values[] = { "string", "number", "int",	"boolean", "null",
					   "object", "array",  "value", NULL };
static const struct qapi_type json_type = QAPI_ENUM("JSONType", json_values);
static const struct qapi_member builtin_members[] = { REQ("json-type", json_type), END };
static const struct qapi_type builtin = QAPI_STRUCT("SchemaInfoBuiltin", builtin_members);

static const struct qapi_member enum_value_members[] = { REQ("name", qapi_str), END };
static const struct qapi_type enum_value = QAPI_STRUCT("SchemaInfoEnumMember", enum_value_members);
static const struct qapi_type enum_values = QAPI_ARRAY(&enum_value);
static const struct qapi_member enum_members[] = {
	REQ("members", enum_values),
	REQ("values", strings),
	END,
};
static const struct qapi_type enum_info = QAPI_STRUCT("SchemaInfoEnum", enum_members);

static const struct qapi_member array_members[] = { REQ("element-type", qapi_str), END };
static const struct qapi_type array_info = QAPI_STRUCT("SchemaInfoArray", array_members);

static const struct qapi_member member_members[] = {
	REQ("name", qapi_str),
	REQ("type", qapi_str),
	OPT("default", qapi_any),
	OPT("features", strings),
	END,
};
static const struct qapi_type member = QAPI_STRUCT("SchemaInfoObjectMember", member_members);
static const struct qapi_type member_list = QAPI_ARRAY(&member);
static const struct qapi_member variant_members[] = {
	REQ("case", qapi_str),
	REQ("type", qapi_str),
	END,
};
static const struct qapi_type variant = QAPI_STRUCT("SchemaInfoObjectVariant", variant_members);
static const struct qapi_type variants = QAPI_ARRAY(&variant);
static const struct qapi_member object_members[] = {
	REQ("members", member_list),
	OPT("tag", qapi_str),
	OPT("variants", variants),
	END,
};
static const struct qapi_type object_info = QAPI_STRUCT("SchemaInfoObject", object_members);

static const struct qapi_member choice_members[] = { REQ("type", qapi_str), END };
static const struct qapi_type choice = QAPI_STRUCT("SchemaInfoAlternateMember", choice_members);
static const struct qapi_type choices = QAPI_ARRAY(&choice);
static const struct qapi_member alternate_members[] = { REQ("members", choices), END };
static const struct qapi_type alternate_info =
	QAPI_STRUCT("SchemaInfoAlternate", alternate_members);

static const struct qapi_member command_members[] = {
	REQ("arg-type", qapi_str),
	REQ("ret-type", qapi_str),
	END,
};
static const struct qapi_type command_info = QAPI_STRUCT("SchemaInfoCommand", command_members);
static const struct qapi_member event_members[] = { REQ("arg-type", qapi_str), END };
static const struct qapi_type event_info = QAPI_STRUCT("SchemaInfoEvent", event_members);

static const char *const meta_values[] = { "builtin",	"enum",	   "array", "object",
					   "alternate", "command", "event", NULL };
static const struct qapi_type meta_type = QAPI_ENUM("SchemaMetaType", meta_values);
static const struct qapi_member schema_members[] = {
	REQ("name", qapi_str),
	REQ("meta-type", meta_type),
	OPT("features", strings),
	END,
};
static const struct qapi_branch schema_branches[] = {
	{ "builtin", &builtin },	  { "enum", &enum_info },
	{ "array", &array_info },	  { "object", &object_info },
	{ "alternate", &alternate_info }, { "command", &command_info },
	{ "event", &event_info },	  { 0 },
};
static const struct qapi_type schema_info =
	QAPI_UNION("SchemaInfo", schema_members, "meta-type", schema_branches);
const struct qapi_type query_schema = QAPI_ARRAY(&schema_info);
