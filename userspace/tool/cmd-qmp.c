// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/jsonstream.h"
#include "lib/util.h"
#include "tool/tool.h"

/* An answer that is an error: printed as it is, and counted. */
static int print_answer(struct json *answer, struct err *e)
{
	bool failed = json_get(answer, "error");

	tool_print_json(answer);
	fflush(stdout);
	return failed ? err_set(e, EIO, "a command failed: its answer says why") : 0;
}

/* Every JSON value of stdin is sent as it is. */
static int from_stdin(struct tool *t, struct err *e)
{
	static const struct json_limits limits = JSON_LIMITS_DEFAULT;
	struct json_stream *s = json_stream_new(&limits);
	struct qmp_client *c;
	char buf[4096];
	size_t len = 0, pos = 0, used;
	int r = tool_client(t, &c, e);
	int failed = 0;

	while (!r) {
		_cleanup_json_ struct json *request = NULL;
		_cleanup_json_ struct json *answer = NULL;
		_cleanup_free_ char *text = NULL;

		if (pos == len) {
			len = fread(buf, 1, 1,
				    stdin); /* a value ends where it ends, not at a newline */
			pos = 0;
			r = len ? 0 : json_stream_end(s, &request, e);
			if (!len && r <= 0)
				break;
		}
		if (!request) {
			r = json_stream_feed(s, buf + pos, len - pos, &used, &request, e);
			pos += used;
		}
		if (r < 0 || !request)
			continue;
		text = json_text(request);
		r = qmp_client_raw(c, text, &answer, e);
		if (!r && print_answer(take_ptr(answer), e))
			failed = 1;
	}
	json_stream_free(s);
	return r < 0 ? r : failed ? -EIO : 0;
}

static int one_command(struct tool *t, const char *command, const char *arguments, struct err *e)
{
	struct json *args = NULL;
	struct json *ret = NULL;
	int r;

	if (arguments) {
		args = json_parse(arguments, strlen(arguments), e);
		if (!args)
			return -e->code;
	}
	r = tool_qmp(t, command, args, &ret, e);
	if (!r)
		tool_print_json(ret);
	return r;
}

int cmd_qmp(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = { TOOL_OPTIONS };
	struct json *answer = NULL;
	struct qmp_client *c;
	const char *what;
	int r;

	while (tool_getopt(t, argc, argv, "", longs) != -1)
		;
	tool_need_args(t, argc, 1, 2);
	what = argv[optind];
	if (streq(what, "-"))
		return from_stdin(t, e);
	if (what[0] != '{')
		return one_command(t, what, argv[optind + 1], e);
	r = tool_client(t, &c, e);
	if (!r)
		r = qmp_client_raw(c, what, &answer, e);
	return r ? r : print_answer(answer, e);
}
