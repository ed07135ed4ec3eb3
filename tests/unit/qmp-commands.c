// SPDX-License-Identifier: GPL-2.0-or-later
#include <string.h>

#include "daemon/control.h"
#include "lib/util.h"
#include "qmp-commands.h"

struct qmp_call *test_waiting;

static const struct qapi_member job_id[] = { { "id", &qapi_str, 0, NULL }, { 0 } };
static const struct qapi_member job_device[] = { { "device", &qapi_str, 0, NULL }, { 0 } };
static const struct qapi_member set_speed[] = {
	{ "device", &qapi_str, 0, NULL },
	{ "speed", &qapi_int, 0, NULL },
	{ 0 },
};

/* --- a small BlockdevOptions --- */

static const char *const driver_values[] = { "file", "null-co", "qcow2", "raw", NULL };
static const struct qapi_type driver = QAPI_ENUM("BlockdevDriver", driver_values);
static const char *const feature_list[] = { "unstable", NULL };
static const struct qapi_member common[] = {
	{ "driver", &driver, 0, NULL },
	{ "node-name", &qapi_str, QAPI_OPT, NULL },
	{ "read-only", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member file_members[] = { { "filename", &qapi_str, 0, NULL }, { 0 } };
static const struct qapi_type file_options = QAPI_STRUCT("BlockdevOptionsFile", file_members);
static const struct qapi_member null_members[] = {
	{ "size", &qapi_int, QAPI_OPT, NULL },
	{ "latency-ns", &qapi_size, QAPI_OPT, feature_list },
	{ 0 },
};
static const struct qapi_type null_options = QAPI_STRUCT("BlockdevOptionsNull", null_members);
static const struct qapi_branch ref_or_null_kinds[] = {
	{ NULL, &test_blockdev_options },
	{ NULL, &qapi_str },
	{ NULL, &qapi_null },
	{ 0 },
};
static const struct qapi_type ref_or_null = QAPI_ALTERNATE("BlockdevRefOrNull", ref_or_null_kinds);
static const struct qapi_member format_members[] = {
	{ "file", &test_blockdev_ref, 0, NULL },
	{ "backing", &ref_or_null, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type format_options = QAPI_STRUCT("BlockdevOptionsFormat", format_members);
static const struct qapi_branch drivers[] = {
	{ "file", &file_options },
	{ "null-co", &null_options },
	{ "qcow2", &format_options },
	{ 0 },
};
const struct qapi_type test_blockdev_options =
	QAPI_UNION("BlockdevOptions", common, "driver", drivers);
static const struct qapi_branch ref_kinds[] = {
	{ NULL, &test_blockdev_options },
	{ NULL, &qapi_str },
	{ 0 },
};
const struct qapi_type test_blockdev_ref = QAPI_ALTERNATE("BlockdevRef", ref_kinds);

/* --- transaction-like lists --- */

static const struct qapi_member action_members[] = {
	{ "type", &qapi_str, 0, NULL },
	{ "data", &qapi_any, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type action = QAPI_STRUCT("Action", action_members);
static const struct qapi_type action_list = QAPI_ARRAY(&action);
static const struct qapi_member transaction_args[] = {
	{ "actions", &action_list, 0, NULL },
	{ "limit", &qapi_uint32, QAPI_OPT, NULL },
	{ "rate", &qapi_number, QAPI_OPT, NULL },
	{ 0 },
};

/* --- handlers --- */

static void empty_list(struct qmp_call *call)
{
	qmp_return(call, json_arr());
}

static void no_job(struct qmp_call *call)
{
	qmp_errorf(call, ERR_GENERIC, "Job not found");
}

static void no_block_job(struct qmp_call *call)
{
	qmp_errorf(call, ERR_DEVICE_NOT_ACTIVE, "Block job '%s' not found",
		   json_str_of(json_get(qmp_args(call), "device")));
}

static void echo(struct qmp_call *call)
{
	qmp_return(call, json_ref(qmp_args(call)));
}

static void wait(struct qmp_call *call)
{
	test_waiting = call;
}

void test_wait_answer(void)
{
	struct qmp_call *call = take_ptr(test_waiting);

	qmp_return(call, json_pack("{s:s}", "waited", "yes"));
}

/* Raises "count" events with "size" bytes each, then answers. */
static const struct qapi_member flood_args[] = {
	{ "count", &qapi_uint32, 0, NULL },
	{ "size", &qapi_uint32, 0, NULL },
	{ "wait", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};

static void flood(struct qmp_call *call)
{
	uint64_t count = 0, size = 0;
	char *text;

	(void)json_u64_of(json_get(qmp_args(call), "count"), &count);
	(void)json_u64_of(json_get(qmp_args(call), "size"), &size);
	text = xmalloc(size + 1);
	memset(text, 'x', size);
	text[size] = '\0';
	while (count--)
		qmp_event("TEST_EVENT", json_pack("{s:s}", "text", text));
	free(text);
	if (json_bool_of(json_get(qmp_args(call), "wait")))
		test_waiting = call;
	else
		qmp_return(call, NULL);
}

static const struct qmp_command commands[] = {
	{ .name = "query-jobs", .handler = empty_list },
	{ .name = "query-block-jobs", .handler = empty_list },
	{ .name = "job-pause", .handler = no_job, .args = job_id },
	{ .name = "block-job-cancel", .handler = no_block_job, .args = job_device },
	{ .name = "block-job-set-speed", .handler = no_block_job, .args = set_speed },
	{ .name = "blockdev-add", .handler = echo, .arg_type = &test_blockdev_options },
	{ .name = "transaction",
	  .handler = echo,
	  .args = transaction_args,
	  .features = feature_list },
	{ .name = "test-wait", .handler = wait },
	{ .name = "test-flood", .handler = flood, .args = flood_args },
	{ 0 },
};

static const struct qapi_member event_data[] = { { "text", &qapi_str, 0, NULL }, { 0 } };
static const struct qmp_event_def events[] = { { "TEST_EVENT", event_data }, { 0 } };

void test_commands_register(void)
{
	qmp_reset();
	control_register();
	qmp_register(commands);
	qmp_register_events(events);
}
