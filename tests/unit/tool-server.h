/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Subcommands of the tool, run in this process against a server that greets as the daemon does,
 * remembers what it is asked and answers what the test told it to.
 */
#ifndef LIVECHAIN_TEST_TOOL_SERVER_H
#define LIVECHAIN_TEST_TOOL_SERVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tool/tool.h"

/* Group set-up: a scratch folder. Tests remove their files: the end fails if one is left. */
int ts_setup(void **state);
int ts_teardown(void **state);
/* A path in it; valid until the next call. */
char *ts_path(const char *name);

/* A test with a server of its own, which knows no answers and remembers nothing yet. */
#define TS_WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, ts_start, ts_stop)
int ts_start(void **state);
int ts_stop(void **state);

/* ---- what it answers --------------------------------------------------------- */

#define TS_EMPTY	"{\"return\": {}}" /* to what it was told nothing of */
#define TS_HANG_UP	"hang up"	   /* instead of an answer: the connection breaks */
#define TS_SIGINT_FIRST "^C"		   /* before an answer: the user's Ctrl-C */

/* The answers to a command, one after the other, the last one again and again; may be NULL. */
void ts_says(const char *command, const char *first, const char *then, const char *last);
/*
 * The disk vm1, 8 MiB: export e1 of node top (/i/c), over #block7 (/i/b, not named by a user),
 * over root (/i/a).
 */
void ts_has_disk(void);

/* ---- running a subcommand -------------------------------------------------------- */

/* Runs cmd_*() with the arguments; what it writes to stdout is in ts_out then. */
#define TS_RUN(cmd, json, e, ...) ts_run(cmd, json, e, ##__VA_ARGS__, NULL)
int ts_run(int (*cmd)(struct tool *, int, char **, struct err *), bool json, struct err *e, ...);
extern char ts_out[8192];

/* ---- what it was asked ---------------------------------------------------------------- */

/* The requests' JSON, in order, one per line. */
const char *ts_log(void);
void ts_forget(void);
/* Fail unless the log has that text, or has not. */
void ts_sent(const char *what);
void ts_not_sent(const char *what);

#endif
