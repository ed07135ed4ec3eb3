/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP commands and events. A command is one entry of a table; a table is announced with
 * qmp_register(). Loop thread only.
 *
 * A handler is called with arguments that fit its table. It answers exactly once, at once or
 * later from the loop, with qmp_return() or qmp_error(); until then it may keep the call. The
 * client may vanish meanwhile: the answer is then dropped, the handler need not know. Each
 * client has one command under way; different clients' commands can overlap in time where a
 * handler answers later, so state is checked again after each wait.
 */
#ifndef LIVECHAIN_DISPATCH_H
#define LIVECHAIN_DISPATCH_H

#include <stdbool.h>

#include "qapi.h"

struct qmp_call;

enum qmp_command_flags {
	QMP_PRECONFIG = 1, /* the command of negotiation: allowed before it, only then */
	QMP_QUITTING = 2,  /* still allowed while the daemon shuts down */
};

struct qmp_command {
	const char *name; /* NULL ends a table */
	void (*handler)(struct qmp_call *call);
	/* A NULL-terminated list; NULL: no arguments. */
	const struct qapi_member *args;
	/* Instead of @args where the arguments are one struct or union (blockdev-add). */
	const struct qapi_type *arg_type;
	const struct qapi_type *ret; /* of the return value, for the schema; NULL: {} */
	const char *const *features; /* for the schema; NULL-terminated, or NULL */
	unsigned flags;
};

struct qmp_event_def {
	const char *name; /* NULL ends a table */
	const struct qapi_member *data;
};

/* Tables are kept, not copied. A name twice is a bug and ends the process. */
void qmp_register(const struct qmp_command *table);
void qmp_register_events(const struct qmp_event_def *table);
const struct qmp_command *qmp_find(const char *name);
/* Iteration for query-commands and the schema: NULL starts; NULL ends. In order of names. */
const struct qmp_command *qmp_next_command(const struct qmp_command *prev);
const struct qmp_event_def *qmp_next_event(const struct qmp_event_def *prev);

/* Checked arguments, an object; borrowed, lives as long as the call. */
struct json *qmp_args(const struct qmp_call *call);
const char *qmp_command_name(const struct qmp_call *call);

/* Answer, and free the call. qmp_return() takes @ret over; NULL means {}. */
void qmp_return(struct qmp_call *call, struct json *ret);
void qmp_error(struct qmp_call *call, const struct err *e);
void qmp_errorf(struct qmp_call *call, enum err_class cls, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* For a handler's last line: the error in @e if @r < 0, otherwise {}. */
void qmp_finish(struct qmp_call *call, int r, const struct err *e);

/*
 * Runs a command from inside (the command line, the reload of state). @args is borrowed. With
 * @keyval the strings in it are converted as the command's table asks. @done runs exactly once,
 * perhaps before this returns; @ret (NULL on error) and @e are borrowed.
 */
typedef void (*qmp_done_fn)(struct json *ret, const struct err *e, void *arg);
void qmp_invoke(const char *name, struct json *args, bool keyval, qmp_done_fn done, void *arg);

/*
 * Raises an event: to every client that has negotiated, with the time. Goes out before any
 * answer that is given later. Takes @data over (NULL: none). The name must be registered.
 */
void qmp_event(const char *name, struct json *data);

/* --- for the monitor --- */

/*
 * Executes one request. @request is any JSON value, borrowed. @session tells what the
 * client negotiated. @reply runs exactly once with a complete reply object (owned by it),
 * perhaps before this returns, and never after qmp_call_abandon().
 */
struct qmp_session {
	bool negotiated;
	bool oob;
};
typedef void (*qmp_reply_fn)(struct json *reply, void *arg);
/* Returns the call if it is still under way, otherwise NULL. */
struct qmp_call *qmp_dispatch(struct qmp_session *session, struct json *request, qmp_reply_fn reply,
			      void *arg);
/* The session of the client that called; NULL from inside or when it is gone. */
struct qmp_session *qmp_call_session(const struct qmp_call *call);
/* The client is gone: the call's answer goes nowhere. */
void qmp_call_abandon(struct qmp_call *call);
/* An error object without id, for input that is no request. Owned by the caller. */
struct json *qmp_error_object(const struct err *e);
/* The greeting. Owned by the caller. */
struct json *qmp_greeting(void);
/* Where events go: @fn with a borrowed, complete event object. */
void qmp_set_event_sink(void (*fn)(struct json *event, void *arg), void *arg);
/* While set, commands without QMP_QUITTING are answered with an error. */
void qmp_set_quitting(bool quitting);
/* Forgets all tables. For tests. */
void qmp_reset(void);

#endif
