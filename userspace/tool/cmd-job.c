// SPDX-License-Identifier: GPL-2.0-or-later
/* jobs, job */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/util.h"
#include "tool/disk.h"
#include "tool/print.h"
#include "tool/wait.h"

static void add_row(struct table *table, const struct json *job)
{
	char total[SIZE_TEXT], rate[SIZE_TEXT], progress[64], speed[32];
	uint64_t offset = image_size(job, "offset"), len = image_size(job, "len");
	uint64_t limit = image_size(job, "speed");
	const char *io = json_str_of(json_get(job, "io-status"));
	const char *error = json_str_of(json_get(job, "error"));
	const char *cells[] = {
		json_str_of(json_get(job, "device")),
		json_str_of(json_get(job, "type")),
		json_str_of(json_get(job, "status")),
		progress,
		speed,
		error			 ? error
		: io && !streq(io, "ok") ? io
					 : "",
	};

	snprintf(progress, sizeof(progress), "%5.1f%% of %s",
		 !len ? 100.0 : 100.0 * (double)offset / (double)len, print_size(len, total));
	snprintf(speed, sizeof(speed), limit ? "%s/s" : "-", print_size(limit, rate));
	table_row(table, cells);
}

int cmd_jobs(struct tool *t, int argc, char **argv, struct err *e)
{
	static const char *const head[] = { "JOB", "TYPE", "STATUS", "DONE", "LIMIT", "ERROR" };
	static const struct option longs[] = { TOOL_OPTIONS };
	_cleanup_json_ struct json *jobs = NULL;
	struct table *table;
	int r;

	while (tool_getopt(t, argc, argv, "", longs) != -1)
		;
	tool_need_args(t, argc, 0, 0);
	r = tool_qmp(t, "query-block-jobs", NULL, &jobs, e);
	if (r)
		return r;
	if (t->json) {
		tool_print_json(take_ptr(jobs));
		return 0;
	}
	if (!json_len(jobs))
		return 0;
	table = table_new(ARRAY_SIZE(head));
	table_row(table, head);
	for (size_t i = 0; i < json_len(jobs); i++)
		add_row(table, json_at(jobs, i));
	table_print(table, stdout);
	table_free(table);
	return 0;
}

/* The target's node that `backup` added for this job; it may be somebody else's or gone. */
static void drop_target(struct tool *t, const char *id)
{
	_cleanup_free_ char *node = make_id("target-", id, 31);

	(void)tool_qmp(t, "blockdev-del", json_pack("{s:s}", "node-name", node), NULL, NULL);
}

static int run_verb(struct tool *t, const char *verb, const char *id, const char *value,
		    struct err *e)
{
	char command[32];
	uint64_t speed;

	if (streq(verb, "finish"))
		return tool_qmp(t, "block-job-cancel", json_pack("{s:s}", "device", id), NULL, e);
	if (!streq(verb, "speed")) {
		snprintf(command, sizeof(command), "job-%s", verb);
		return tool_qmp(t, command, json_pack("{s:s}", "id", id), NULL, e);
	}
	if (parse_size(value, &speed) || speed > INT64_MAX)
		tool_usage(
			t,
			"speed '%s' is not a number of bytes a second (suffixes k, M, G; 0: no limit)",
			value);
	return tool_qmp(t, "block-job-set-speed",
			json_pack("{s:s, s:U}", "device", id, "speed", speed), NULL, e);
}

int cmd_job(struct tool *t, int argc, char **argv, struct err *e)
{
	static const char *const verbs[] = { "pause",  "resume",   "cancel",  "complete",
					     "finish", "finalize", "dismiss", "speed" };
	static const struct option longs[] = { TOOL_OPTIONS };
	_cleanup_json_ struct json *job = NULL;
	const char *verb, *id;
	size_t i;
	int r;

	while (tool_getopt(t, argc, argv, "", longs) != -1)
		;
	tool_need_args(t, argc, 2, 3);
	verb = argv[optind];
	id = argv[optind + 1];
	for (i = 0; i < ARRAY_SIZE(verbs); i++)
		if (streq(verb, verbs[i]))
			break;
	if (i == ARRAY_SIZE(verbs))
		tool_usage(t, "unknown verb '%s'", verb);
	if (streq(verb, "speed") != (argc - optind == 3))
		tool_usage(t, "only speed takes a value, and needs it");
	r = job_query(t, id, &job, e);
	if (!r)
		r = run_verb(t, verb, id, argv[optind + 2], e);
	if (r)
		return r;
	if (streq(verb, "dismiss"))
		drop_target(t, id);
	if (t->json)
		tool_print_json(json_pack("{s:s, s:s}", "job", id, "verb", verb));
	return 0;
}
