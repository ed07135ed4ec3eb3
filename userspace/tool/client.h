/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QMP client: one connection, one command at a time, events kept in order.
 *
 * Errors: -ENOTCONN when the daemon can't be reached or the connection broke; what the daemon
 * answers is -ESRCH for its classes DeviceNotFound and DeviceNotActive, else -EREMOTEIO, with its
 * class and sentence in @e.
 */
#ifndef LIVECHAIN_TOOL_CLIENT_H
#define LIVECHAIN_TOOL_CLIENT_H

#include "lib/err.h"
#include "lib/json.h"

struct qmp_client;

/* Connects to the socket and negotiates. */
int qmp_client_connect(const char *path, struct qmp_client **ret, struct err *e);
void qmp_client_close(struct qmp_client *c);
DEFINE_CLEANUP(struct qmp_client, qmp_client_close)

/* Runs a command; takes @args over (NULL: none). *@ret (if not NULL) is owned by the caller. */
int qmp_client_run(struct qmp_client *c, const char *command, struct json *args, struct json **ret,
		   struct err *e);

/* Sends @text as it is; the answer (return or error, whole) goes to *@ret. */
int qmp_client_raw(struct qmp_client *c, const char *text, struct json **ret, struct err *e);

/*
 * The next event, waited for at most @timeout_ms (0: not at all). 1 with *@ret owned by
 * the caller; 0 after the time, or early when a signal came (then errno is EINTR).
 */
int qmp_client_event(struct qmp_client *c, int timeout_ms, struct json **ret, struct err *e);

/* The greeting's version object; borrowed. */
struct json *qmp_client_version(const struct qmp_client *c);

#endif
