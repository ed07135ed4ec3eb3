/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The tool `livechain`: subcommands over QMP. One thread, blocking I/O.
 *
 * A subcommand returns 0, or -errno with a sentence; main() prints it and turns it into an exit
 * status. Results go to stdout (people's text, or one line of JSON with --json),
 * everything else to stderr.
 */
#ifndef LIVECHAIN_TOOL_H
#define LIVECHAIN_TOOL_H

#include <getopt.h>
#include <stdbool.h>

#include "lib/err.h"
#include "lib/json.h"
#include "tool/client.h"

#define TOOL_DEFAULT_SOCKET "/run/livechain/qmp.sock"

enum tool_exit {
	TOOL_EXIT_OK = 0,
	TOOL_EXIT_FAILED = 1,
	TOOL_EXIT_USAGE = 2,
	TOOL_EXIT_CANCELLED = 3, /* ECANCELED: the job was cancelled */
	TOOL_EXIT_NOT_FOUND = 4, /* ESRCH: no such disk, node or job */
	TOOL_EXIT_NO_DAEMON = 5, /* ENOTCONN: the daemon can't be reached */
};

struct tool;

struct tool_cmd {
	const char *name;
	int (*run)(struct tool *t, int argc, char **argv, struct err *e);
	const char *args;    /* for the usage line */
	const char *summary; /* one line */
	const char *help;    /* options and more; lines, may be NULL */
};

struct tool {
	const char *socket;
	bool json;
	const struct tool_cmd *cmd; /* the one that runs */
	struct qmp_client *client;  /* once tool_client() was called */
};

/* What every subcommand takes, too. Last in a subcommand's table of options. */
#define TOOL_OPTIONS                                                                    \
	{ "socket", required_argument, NULL, 's' }, { "json", no_argument, NULL, 'j' }, \
		{ "help", no_argument, NULL, 'h' },                                     \
	{                                                                               \
		NULL, 0, NULL, 0                                                        \
	}

/*
 * getopt_long() that deals with the common options. -1 at the end; wrong use and --help end
 * the process. @shorts is what the subcommand has besides, "" if none.
 */
int tool_getopt(struct tool *t, int argc, char **argv, const char *shorts,
		const struct option *longs);

/* "livechain CMD: <sentence>", a pointer to --help, exit 2. */
void __attribute__((noreturn, format(printf, 2, 3)))
tool_usage(const struct tool *t, const char *fmt, ...);

/* Ends with tool_usage() unless there are @min to @max arguments after the options. */
void tool_need_args(const struct tool *t, int argc, int min, int max);

/* The connection, made on first use. */
int tool_client(struct tool *t, struct qmp_client **ret, struct err *e);

/* tool_client() and qmp_client_run(). Takes @args over; @ret may be NULL. */
int tool_qmp(struct tool *t, const char *command, struct json *args, struct json **ret,
	     struct err *e);

/* One line of JSON to stdout; takes @j over. */
void tool_print_json(struct json *j);

enum tool_exit tool_exit_status(const struct err *e);

/* One per file cmd-*.c. */
int cmd_attach(struct tool *t, int argc, char **argv, struct err *e);
int cmd_detach(struct tool *t, int argc, char **argv, struct err *e);
int cmd_list(struct tool *t, int argc, char **argv, struct err *e);
int cmd_chain(struct tool *t, int argc, char **argv, struct err *e);
int cmd_snapshot(struct tool *t, int argc, char **argv, struct err *e);
int cmd_backup(struct tool *t, int argc, char **argv, struct err *e);
int cmd_mirror(struct tool *t, int argc, char **argv, struct err *e);
int cmd_stream(struct tool *t, int argc, char **argv, struct err *e);
int cmd_commit(struct tool *t, int argc, char **argv, struct err *e);
int cmd_jobs(struct tool *t, int argc, char **argv, struct err *e);
int cmd_job(struct tool *t, int argc, char **argv, struct err *e);
int cmd_qmp(struct tool *t, int argc, char **argv, struct err *e);

#endif
