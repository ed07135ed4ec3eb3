// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool/tool.h"

static void print_help(const struct tool *t)
{
	printf("Usage: livechain %s %s\n\n%s.\n", t->cmd->name, t->cmd->args, t->cmd->summary);
	if (t->cmd->help)
		printf("\n%s", t->cmd->help);
	printf("\nCommon options:\n"
	       "  -s, --socket PATH   the daemon's QMP socket (%s)\n"
	       "      --json          print one line of JSON\n"
	       "  -h, --help          print this\n",
	       TOOL_DEFAULT_SOCKET);
}

void tool_usage(const struct tool *t, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "livechain %s: ", t->cmd->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nUsage: livechain %s %s (see livechain %s --help)\n", t->cmd->name,
		t->cmd->args, t->cmd->name);
	exit(TOOL_EXIT_USAGE);
}

int tool_getopt(struct tool *t, int argc, char **argv, const char *shorts,
		const struct option *longs)
{
	char all[64];
	int c;

	snprintf(all, sizeof(all), ":s:h%s", shorts);
	opterr = 0;
	while ((c = getopt_long(argc, argv, all, longs, NULL)) != -1) {
		switch (c) {
		case 's':
			t->socket = optarg;
			break;
		case 'j':
			t->json = true;
			break;
		case 'h':
			print_help(t);
			exit(TOOL_EXIT_OK);
		case ':':
			tool_usage(t, "option '%s' needs a value", argv[optind - 1]);
		case '?':
			tool_usage(t, "unknown option '%s'", argv[optind - 1]);
		default:
			return c;
		}
	}
	return -1;
}

void tool_need_args(const struct tool *t, int argc, int min, int max)
{
	int n = argc - optind;

	if (n < min)
		tool_usage(t, "an argument is missing");
	if (n > max)
		tool_usage(t, "there are too many arguments");
}

int tool_client(struct tool *t, struct qmp_client **ret, struct err *e)
{
	int r = t->client ? 0 : qmp_client_connect(t->socket, &t->client, e);

	if (!r)
		*ret = t->client;
	return r;
}

int tool_qmp(struct tool *t, const char *command, struct json *args, struct json **ret,
	     struct err *e)
{
	_cleanup_json_ struct json *mine = args;
	struct qmp_client *c;
	int r = tool_client(t, &c, e);

	return r ? r : qmp_client_run(c, command, take_ptr(mine), ret, e);
}

void tool_print_json(struct json *j)
{
	_cleanup_free_ char *text = json_text(j);

	puts(text);
	json_unref(j);
}

enum tool_exit tool_exit_status(const struct err *e)
{
	switch (e->code) {
	case 0:
		return TOOL_EXIT_OK;
	case ECANCELED:
		return TOOL_EXIT_CANCELLED;
	case ESRCH:
		return TOOL_EXIT_NOT_FOUND;
	case ENOTCONN:
		return TOOL_EXIT_NO_DAEMON;
	default:
		return TOOL_EXIT_FAILED;
	}
}
