// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "lib/jsonstream.h"
#include "lib/util.h"
#include "tool/client.h"

struct qmp_client {
	int fd;
	char *path;
	struct json_stream *in;
	struct strbuf unread; /* received, not yet fed to @in */
	struct json *version;
	struct json *events; /* array: came while an answer was waited for */
	size_t next_event;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static int broken(const struct qmp_client *c, const char *why, struct err *e)
{
	return err_set(e, ENOTCONN, "the connection to livechaind at '%s' broke: %s", c->path, why);
}

/*
 * Receives until one value is complete: 1 with it in *@ret. 0 after the time (-1: no limit) or at a
 * signal when @interruptible.
 */
static int receive(struct qmp_client *c, int timeout_ms, bool interruptible, struct json **ret,
		   struct err *e)
{
	int64_t end = now_ms() + timeout_ms;

	for (;;) {
		struct pollfd p = { .fd = c->fd, .events = POLLIN };
		char buf[4096];
		size_t used;
		ssize_t n;
		int r, wait;

		r = json_stream_feed(c->in, strbuf_str(&c->unread), c->unread.len, &used, ret, e);
		strbuf_consume(&c->unread, used);
		if (r)
			return r < 0 ? -EPROTO : 1;
		wait = timeout_ms < 0 ? -1 : (int)(end - now_ms());
		if (timeout_ms >= 0 && wait < 0)
			wait = 0;
		r = poll(&p, 1, wait);
		if (r == 0 || (r < 0 && errno == EINTR && interruptible))
			return 0;
		if (r < 0 && errno == EINTR)
			continue;
		n = r < 0 ? -1 : recv(c->fd, buf, sizeof(buf), 0);
		if (n <= 0)
			return broken(c, n ? strerror(errno) : "the daemon closed it", e);
		strbuf_add(&c->unread, buf, n);
	}
}

static int send_text(struct qmp_client *c, const char *text, struct err *e)
{
	size_t done = 0, len = strlen(text);

	while (done < len) {
		ssize_t n = send(c->fd, text + done, len - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return broken(c, strerror(errno), e);
		done += n;
	}
	return 0;
}

/* The next answer; events before it are kept. */
static int receive_answer(struct qmp_client *c, struct json **ret, struct err *e)
{
	for (;;) {
		_cleanup_json_ struct json *msg = NULL;
		int r = receive(c, -1, false, &msg, e);

		if (r < 0)
			return r;
		if (json_get(msg, "event")) {
			json_append(c->events, take_ptr(msg));
			continue;
		}
		*ret = take_ptr(msg);
		return 0;
	}
}

static int error_of(struct json *answer, struct err *e)
{
	struct json *error = json_get(answer, "error");
	const char *cls = json_str_of(json_get(error, "class"));
	const char *desc = json_str_of(json_get(error, "desc"));
	enum err_class i;

	if (!error)
		return 0;
	for (i = ERR_GENERIC; i <= ERR_KVM_MISSING_CAP; i++)
		if (cls && streq(cls, err_class_name(i)))
			break;
	if (i > ERR_KVM_MISSING_CAP)
		i = ERR_GENERIC;
	return err_set_class(
		e, i, i == ERR_DEVICE_NOT_FOUND || i == ERR_DEVICE_NOT_ACTIVE ? ESRCH : EREMOTEIO,
		"%s", desc ? desc : "(the daemon gave no reason)");
}

int qmp_client_raw(struct qmp_client *c, const char *text, struct json **ret, struct err *e)
{
	int r = send_text(c, text, e);

	return r ? r : receive_answer(c, ret, e);
}

int qmp_client_run(struct qmp_client *c, const char *command, struct json *args, struct json **ret,
		   struct err *e)
{
	_cleanup_json_ struct json *request = NULL;
	_cleanup_json_ struct json *answer = NULL;
	_cleanup_free_ char *text = NULL;
	struct json *value;
	int r;

	request = json_pack("{s:s, s:o?}", "execute", command, "arguments", args);
	text = json_text(request);
	r = qmp_client_raw(c, text, &answer, e);
	if (!r)
		r = error_of(answer, e);
	if (r)
		return r;
	value = json_get(answer, "return");
	if (!value)
		return err_set(e, EPROTO,
			       "the daemon's answer to '%s' has neither return nor error", command);
	if (ret)
		*ret = json_ref(value);
	return 0;
}

int qmp_client_event(struct qmp_client *c, int timeout_ms, struct json **ret, struct err *e)
{
	int64_t end = now_ms() + timeout_ms;

	if (c->next_event < json_len(c->events)) {
		*ret = json_ref(json_at(c->events, c->next_event++));
		return 1;
	}
	json_unref(c->events);
	c->events = json_arr();
	c->next_event = 0;
	for (;;) {
		_cleanup_json_ struct json *msg = NULL;
		int64_t left = end - now_ms();
		int r = receive(c, left > 0 ? (int)left : 0, true, &msg, e);

		if (r <= 0)
			return r;
		if (!json_get(msg, "event"))
			continue; /* an answer that nobody waits for any more */
		*ret = take_ptr(msg);
		return 1;
	}
}

static int greet(struct qmp_client *c, struct err *e)
{
	_cleanup_json_ struct json *greeting = NULL;
	struct json *version;
	int r = receive(c, 10000, false, &greeting, e);

	if (r == 0)
		return err_set(
			e, ENOTCONN,
			"'%s' does not greet within 10 s: is another client holding the daemon's socket?",
			c->path);
	if (r < 0)
		return r;
	version = json_get(json_get(greeting, "QMP"), "version");
	if (!version)
		return err_set(e, EPROTO, "'%s' is not a QMP socket", c->path);
	c->version = json_ref(version);
	return qmp_client_run(c, "qmp_capabilities", NULL, NULL, e);
}

static int open_socket(const char *path, struct err *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_set(e, errno, "cannot make a socket: %s", strerror(errno));
	if (strlen(path) >= sizeof(addr.sun_path))
		return err_set(e, ENAMETOOLONG, "the socket's path '%s' has more than %zu bytes",
			       path, sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		const char *hint = errno == EACCES || errno == EPERM
					   ? "only root and the socket's group may connect"
					   : "is livechaind running? (-s names another socket)";

		return err_set(e, ENOTCONN, "cannot reach livechaind at '%s': %s: %s", path,
			       strerror(errno), hint);
	}
	return take_fd(fd);
}

int qmp_client_connect(const char *path, struct qmp_client **ret, struct err *e)
{
	static const struct json_limits limits = { 1024, 64u << 20, 2u << 20 };
	_cleanup_(qmp_client_closep) struct qmp_client *c = NULL;
	int fd = open_socket(path, e);
	int r;

	if (fd < 0)
		return fd;
	c = xcalloc(1, sizeof(*c));
	c->fd = fd;
	c->path = xstrdup(path);
	c->in = json_stream_new(&limits);
	c->events = json_arr();
	r = greet(c, e);
	if (!r)
		*ret = take_ptr(c);
	return r;
}

void qmp_client_close(struct qmp_client *c)
{
	if (!c)
		return;
	close(c->fd);
	json_stream_free(c->in);
	strbuf_done(&c->unread);
	json_unref(c->version);
	json_unref(c->events);
	free(c->path);
	free(c);
}

struct json *qmp_client_version(const struct qmp_client *c)
{
	return c->version;
}
