// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/control.h"
#include "daemon/core.h"
#include "daemon/dispatch.h"
#include "daemon/query-types.h"
#include "daemon/schema.h"
#include "daemon/version.h"
#include "lib/util.h"

/*
 * There are no CPUs here: stop and cont change what query-status says and raise their
 * events, for clients that wrap a backup in them. Guests' disks go on.
 */
static bool stopped;

/* --- negotiation and lists --- */

static const char *const capability_values[] = { "oob", NULL };
static const struct qapi_type capability = QAPI_ENUM("QMPCapability", capability_values);
static const struct qapi_type capability_list = QAPI_ARRAY(&capability);
static const struct qapi_member capabilities_args[] = {
	{ "enable", &capability_list, QAPI_OPT, NULL },
	{ 0 },
};

static void qmp_capabilities(struct qmp_call *call)
{
	struct qmp_session *session = qmp_call_session(call);

	if (session) {
		session->negotiated = true;
		session->oob = json_len(json_get(qmp_args(call), "enable")) > 0;
	}
	qmp_return(call, NULL);
}

static const struct qapi_member version_triple_members[] = {
	{ "major", &qapi_int, 0, NULL },
	{ "minor", &qapi_int, 0, NULL },
	{ "micro", &qapi_int, 0, NULL },
	{ 0 },
};
static const struct qapi_type version_triple = QAPI_STRUCT("VersionTriple", version_triple_members);
static const struct qapi_member version_members[] = {
	{ "qemu", &version_triple, 0, NULL },
	{ "package", &qapi_str, 0, NULL },
	{ 0 },
};
static const struct qapi_type version_info = QAPI_STRUCT("VersionInfo", version_members);

static struct json *version(void)
{
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", QMP_MICRO, "minor", QMP_MINOR,
			 "major", QMP_MAJOR, "package", "livechain " LIVECHAIN_VERSION);
}

struct json *qmp_greeting(void)
{
	return json_pack("{s:{s:o, s:[s]}}", "QMP", "version", version(), "capabilities", "oob");
}

static void query_version(struct qmp_call *call)
{
	qmp_return(call, version());
}

static const struct qapi_member name_members[] = { { "name", &qapi_str, 0, NULL }, { 0 } };
static const struct qapi_type command_info = QAPI_STRUCT("CommandInfo", name_members);
static const struct qapi_type command_list = QAPI_ARRAY(&command_info);

static void query_commands(struct qmp_call *call)
{
	struct json *list = json_arr();

	for (const struct qmp_command *c = NULL; (c = qmp_next_command(c));)
		json_append(list, json_pack("{s:s}", "name", c->name));
	qmp_return(call, list);
}

/*
 * QEMU describes SchemaInfo in itself. Ours says "any" there: no client looks, and it would
 * be written twice.
 */

static void query_qmp_schema(struct qmp_call *call)
{
	qmp_return(call, schema_build());
}

/* --- run state --- */

static const char *const run_state_values[] = { "paused", "running", "shutdown", NULL };
static const struct qapi_type run_state = QAPI_ENUM("RunState", run_state_values);
static const struct qapi_member status_members[] = {
	{ "running", &qapi_bool, 0, NULL },
	{ "singlestep", &qapi_bool, 0, NULL },
	{ "status", &run_state, 0, NULL },
	{ 0 },
};
static const struct qapi_type status_info = QAPI_STRUCT("StatusInfo", status_members);

static void query_status(struct qmp_call *call)
{
	qmp_return(call, json_pack("{s:s, s:b, s:b}", "status", stopped ? "paused" : "running",
				   "singlestep", 0, "running", !stopped));
}

static const struct qapi_member name_info_members[] = {
	{ "name", &qapi_str, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type name_info = QAPI_STRUCT("NameInfo", name_info_members);

static void query_name(struct qmp_call *call)
{
	const char *name = the_daemon ? the_daemon->name : NULL;

	qmp_return(call, json_pack("{s:s?}", "name", name));
}

static const struct qapi_type tpm_list = QAPI_ARRAY(&qapi_any);

static void query_tpm(struct qmp_call *call)
{
	qmp_return(call, json_arr());
}

static void stop(struct qmp_call *call)
{
	if (!stopped) {
		stopped = true;
		qmp_event("STOP", NULL);
	}
	qmp_return(call, NULL);
}

static void cont(struct qmp_call *call)
{
	if (stopped) {
		stopped = false;
		qmp_event("RESUME", NULL);
	}
	qmp_return(call, NULL);
}

/* --- quit --- */

static void quit_done(const struct err *e, void *arg)
{
	struct qmp_call *call = arg;

	if (e)
		qmp_error(call, e);
	else
		qmp_return(call, NULL);
}

static void quit(struct qmp_call *call)
{
	daemon_quit(quit_done, call);
}

static const struct qmp_command control_commands[] = {
	{ .name = "qmp_capabilities",
	  .handler = qmp_capabilities,
	  .args = capabilities_args,
	  .flags = QMP_PRECONFIG },
	{ .name = "query-version", .handler = query_version, .ret = &version_info },
	{ .name = "query-commands", .handler = query_commands, .ret = &command_list },
	{ .name = "query-qmp-schema", .handler = query_qmp_schema, .ret = &query_schema },
	{ .name = "query-status", .handler = query_status, .ret = &status_info },
	{ .name = "query-name", .handler = query_name, .ret = &name_info },
	{ .name = "query-tpm", .handler = query_tpm, .ret = &tpm_list },
	{ .name = "stop", .handler = stop },
	{ .name = "cont", .handler = cont },
	{ .name = "quit", .handler = quit, .flags = QMP_QUITTING },
	{ 0 },
};

static const struct qmp_event_def control_events[] = {
	{ "STOP", NULL },
	{ "RESUME", NULL },
	{ 0 },
};

void control_register(void)
{
	qmp_register(control_commands);
	qmp_register_events(control_events);
}
