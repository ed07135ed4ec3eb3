// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/time.h>

#include "daemon/dispatch.h"
#include "lib/log.h"
#include "lib/util.h"

struct qmp_call {
	const struct qmp_command *cmd;
	struct json *args, *id;
	struct qmp_session *session; /* NULL: from inside, or the client is gone */
	qmp_reply_fn reply;
	void *reply_arg;
	qmp_done_fn done; /* from inside */
	void *done_arg;
	bool starting; /* the handler has not returned yet: who started it frees it */
	bool answered;
};

static const struct qmp_command **commands;
static size_t nr_commands;
static const struct qmp_event_def **events;
static size_t nr_events;
static void (*event_sink)(struct json *event, void *arg);
static void *event_sink_arg;
static bool quitting;

/* --- the registry: sorted arrays of pointers into the tables --- */

/* Where @name is or would be among @nr entries. */
static size_t position(const char *(*name_of)(size_t), size_t nr, const char *name, bool *found)
{
	size_t lo = 0, hi = nr;

	*found = false;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		int cmp = strcmp(name_of(mid), name);

		if (cmp == 0) {
			*found = true;
			return mid;
		}
		if (cmp < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static const char *command_name(size_t i)
{
	return commands[i]->name;
}

static const char *event_name(size_t i)
{
	return events[i]->name;
}

static void bug(const char *what, const char *name)
{
	log_error("bug: %s '%s'", what, name);
	abort();
}

void qmp_register(const struct qmp_command *table)
{
	for (; table->name; table++) {
		bool found;
		size_t at = position(command_name, nr_commands, table->name, &found);

		if (found)
			bug("command registered twice:", table->name);
		commands = xreallocarray(commands, nr_commands + 1, sizeof(*commands));
		memmove(commands + at + 1, commands + at, (nr_commands - at) * sizeof(*commands));
		commands[at] = table;
		nr_commands++;
	}
}

void qmp_register_events(const struct qmp_event_def *table)
{
	for (; table->name; table++) {
		bool found;
		size_t at = position(event_name, nr_events, table->name, &found);

		if (found)
			bug("event registered twice:", table->name);
		events = xreallocarray(events, nr_events + 1, sizeof(*events));
		memmove(events + at + 1, events + at, (nr_events - at) * sizeof(*events));
		events[at] = table;
		nr_events++;
	}
}

void qmp_reset(void)
{
	free(commands);
	free(events);
	commands = NULL;
	events = NULL;
	nr_commands = nr_events = 0;
	event_sink = NULL;
	quitting = false;
}

const struct qmp_command *qmp_find(const char *name)
{
	bool found;
	size_t at = position(command_name, nr_commands, name, &found);

	return found ? commands[at] : NULL;
}

const struct qmp_command *qmp_next_command(const struct qmp_command *prev)
{
	bool found;
	size_t at = prev ? position(command_name, nr_commands, prev->name, &found) + 1 : 0;

	return at < nr_commands ? commands[at] : NULL;
}

const struct qmp_event_def *qmp_next_event(const struct qmp_event_def *prev)
{
	bool found;
	size_t at = prev ? position(event_name, nr_events, prev->name, &found) + 1 : 0;

	return at < nr_events ? events[at] : NULL;
}

/* --- answers --- */

struct json *qmp_args(const struct qmp_call *call)
{
	return call->args;
}

const char *qmp_command_name(const struct qmp_call *call)
{
	return call->cmd->name;
}

struct qmp_session *qmp_call_session(const struct qmp_call *call)
{
	return call->session;
}

static void call_free(struct qmp_call *call)
{
	json_unref(call->args);
	json_unref(call->id);
	free(call);
}

struct json *qmp_error_object(const struct err *e)
{
	return json_pack("{s:{s:s, s:s}}", "error", "class", err_class_name(e->cls), "desc",
			 e->msg);
}

/* QEMU's order of keys: the id first in errors, last otherwise. */
static struct json *error_reply(const struct err *e, struct json *id)
{
	return json_pack("{s:O?, s:{s:s, s:s}}", "id", id, "error", "class", err_class_name(e->cls),
			 "desc", e->msg);
}

static void answer(struct qmp_call *call, struct json *ret, const struct err *e)
{
	_cleanup_json_ struct json *value = ret;

	if (call->answered)
		bug("two answers to", call->cmd->name);
	call->answered = true;
	if (!e && !value)
		value = json_obj();
	if (call->done)
		call->done(e ? NULL : value, e, call->done_arg);
	else if (call->reply && e)
		call->reply(error_reply(e, call->id), call->reply_arg);
	else if (call->reply)
		call->reply(json_pack("{s:O, s:O?}", "return", value, "id", call->id),
			    call->reply_arg);
	if (!call->starting)
		call_free(call);
}

void qmp_return(struct qmp_call *call, struct json *ret)
{
	answer(call, ret, NULL);
}

void qmp_error(struct qmp_call *call, const struct err *e)
{
	struct err unknown = ERR_INIT;

	if (!e || !e->code) {
		err_set(&unknown, EIO, "The command %s failed", call->cmd->name);
		e = &unknown;
	}
	answer(call, NULL, e);
}

void qmp_errorf(struct qmp_call *call, enum err_class cls, const char *fmt, ...)
{
	struct err e = ERR_INIT;
	va_list ap;

	va_start(ap, fmt);
	err_vset(&e, cls, EINVAL, fmt, ap);
	va_end(ap);
	answer(call, NULL, &e);
}

void qmp_finish(struct qmp_call *call, int r, const struct err *e)
{
	if (r < 0)
		qmp_error(call, e);
	else
		qmp_return(call, NULL);
}

/* --- requests --- */

struct request {
	const char *command;
	struct json *args, *id; /* borrowed */
	bool oob;
};

/* Takes the request apart. QEMU's checks in QEMU's words. */
static int parse_request(const struct qmp_session *session, struct json *req, struct request *ret,
			 struct err *e)
{
	if (!json_is(req, JSON_OBJ))
		return err_set(e, EINVAL, "QMP input must be a JSON object");
	ret->id = json_get(req, "id");
	json_for_each(req, it)
	{
		bool oob = session->oob && streq(it.key, "exec-oob");

		if (streq(it.key, "execute") || oob) {
			if (!json_is(it.val, JSON_STR))
				return err_set(e, EINVAL, "QMP input member '%s' must be a string",
					       it.key);
			if (ret->command)
				return err_set(
					e, EINVAL,
					"QMP input member 'execute' clashes with 'exec-oob'");
			ret->command = json_str_of(it.val);
			ret->oob = oob;
		} else if (streq(it.key, "arguments")) {
			if (!json_is(it.val, JSON_OBJ))
				return err_set(e, EINVAL,
					       "QMP input member 'arguments' must be an object");
			ret->args = it.val;
		} else if (!streq(it.key, "id")) {
			return err_set(e, EINVAL, "QMP input member '%s' is unexpected", it.key);
		}
	}
	if (!ret->command)
		return err_set(e, EINVAL, "QMP input lacks member 'execute'");
	return 0;
}

static int not_found(const char *name, struct err *e)
{
	return err_set_class(e, ERR_COMMAND_NOT_FOUND, ENOENT, "The command %s has not been found",
			     name);
}

/* Whether this client may run the command now. */
static int find_allowed(const struct qmp_session *session, const struct request *req,
			const struct qmp_command **ret, struct err *e)
{
	const struct qmp_command *cmd = qmp_find(req->command);
	bool negotiation = cmd && (cmd->flags & QMP_PRECONFIG);

	if (!session->negotiated && !negotiation)
		return err_set_class(e, ERR_COMMAND_NOT_FOUND, EPERM,
				     "Expecting capabilities negotiation with 'qmp_capabilities'");
	if (session->negotiated && negotiation)
		return err_set_class(
			e, ERR_COMMAND_NOT_FOUND, EPERM,
			"Capabilities negotiation is already complete, command ignored");
	if (!cmd)
		return not_found(req->command, e);
	if (req->oob)
		return err_set(e, EINVAL, "The command %s does not support OOB", cmd->name);
	if (quitting && !(cmd->flags & (QMP_QUITTING | QMP_PRECONFIG)))
		return err_set(e, ESHUTDOWN, "The daemon is shutting down");
	*ret = cmd;
	return 0;
}

/* @args, checked or converted: a reference that the caller owns. */
static int checked_args(const struct qmp_command *cmd, struct json *args, bool keyval,
			struct json **ret, struct err *e)
{
	const struct qapi_type list = QAPI_STRUCT("arguments", cmd->args);
	const struct qapi_type *type = cmd->arg_type ? cmd->arg_type : &list;
	_cleanup_json_ struct json *given = args ? json_ref(args) : json_obj();
	int r;

	if (keyval)
		return qapi_convert_keyval_type(type, given, ret, e);
	r = qapi_check_type(type, given, "", e);
	if (r == 0)
		*ret = take_ptr(given);
	return r;
}

/* Runs the handler. Returns the call if it is still under way. */
static struct qmp_call *start(struct qmp_call *call)
{
	call->starting = true;
	call->cmd->handler(call);
	call->starting = false;
	if (!call->answered)
		return call;
	call_free(call);
	return NULL;
}

struct qmp_call *qmp_dispatch(struct qmp_session *session, struct json *request, qmp_reply_fn reply,
			      void *arg)
{
	const struct qmp_command *cmd = NULL;
	struct request req = { 0 };
	struct json *args = NULL;
	struct err e = ERR_INIT;
	struct qmp_call *call;
	int r;

	r = parse_request(session, request, &req, &e);
	if (r == 0)
		r = find_allowed(session, &req, &cmd, &e);
	if (r == 0)
		r = checked_args(cmd, req.args, false, &args, &e);
	if (r < 0) {
		reply(error_reply(&e, req.id), arg);
		return NULL;
	}
	call = xcalloc(1, sizeof(*call));
	call->cmd = cmd;
	call->args = args;
	call->id = json_ref(req.id);
	call->session = session;
	call->reply = reply;
	call->reply_arg = arg;
	return start(call);
}

void qmp_call_abandon(struct qmp_call *call)
{
	call->reply = NULL;
	call->session = NULL;
}

void qmp_invoke(const char *name, struct json *args, bool keyval, qmp_done_fn done, void *arg)
{
	const struct qmp_command *cmd = qmp_find(name);
	struct json *checked = NULL;
	struct err e = ERR_INIT;
	struct qmp_call *call;
	int r;

	r = cmd ? checked_args(cmd, args, keyval, &checked, &e) : not_found(name, &e);
	if (r < 0) {
		done(NULL, &e, arg);
		return;
	}
	call = xcalloc(1, sizeof(*call));
	call->cmd = cmd;
	call->args = checked;
	call->done = done;
	call->done_arg = arg;
	(void)start(call);
}

/* --- events --- */

void qmp_set_event_sink(void (*fn)(struct json *event, void *arg), void *arg)
{
	event_sink = fn;
	event_sink_arg = arg;
}

void qmp_set_quitting(bool on)
{
	quitting = on;
}

void qmp_event(const char *name, struct json *data)
{
	_cleanup_json_ struct json *event = NULL;
	struct timeval now;
	bool found;

	(void)position(event_name, nr_events, name, &found);
	if (!found)
		bug("event is not registered:", name);
	gettimeofday(&now, NULL);
	event = json_pack("{s:{s:I, s:I}, s:s, s:o?}", "timestamp", "seconds", (int64_t)now.tv_sec,
			  "microseconds", (int64_t)now.tv_usec, "event", name, "data", data);
	if (event_sink)
		event_sink(event, event_sink_arg);
}
