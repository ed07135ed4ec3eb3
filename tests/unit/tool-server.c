// SPDX-License-Identifier: GPL-2.0-or-later
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/jsonstream.h"
#include "lib/util.h"
#include "tool-server.h"

#define GREETING "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0}}, \"capabilities\": []}}\r\n"

static char dir[] = "/var/tmp/livechain-tool-XXXXXX";

int ts_setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	return mkdtemp(dir) ? 0 : -1;
}

int ts_teardown(void **state)
{
	(void)state;
	return rmdir(dir);
}

char *ts_path(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

/* ---- the server ------------------------------------------------------------ */

/* The answers to a command, one after the other; the last one again and again. */
struct answers {
	const char *command;
	const char *text[8];
	int next;
};

static struct {
	char path[100];
	int listener;
	pthread_t thread, user;
	struct answers answers[16];
	char log[16384]; /* the requests, one per line */
} d;

static const char *answer_for(const char *command)
{
	for (struct answers *a = d.answers; a->command; a++) {
		const char *text = a->text[a->next];

		if (!streq(a->command, command))
			continue;
		if (a->next + 1 < 8 && a->text[a->next + 1])
			a->next++;
		return text;
	}
	return TS_EMPTY;
}

/* False: the connection is to end. */
static bool serve_one(int fd, const struct json *request)
{
	const char *command = json_str_of(json_get(request, "execute"));
	_cleanup_free_ char *text = json_text(request);
	const char *answer;

	if (!streq(command, "qmp_capabilities")) {
		strcat(d.log, text);
		strcat(d.log, "\n");
	}
	answer = answer_for(command);
	if (streq(answer, TS_HANG_UP))
		return false;
	if (str_has_prefix(answer, TS_SIGINT_FIRST)) {
		pthread_kill(d.user, SIGINT);
		answer += strlen(TS_SIGINT_FIRST);
	}
	return write_all(fd, answer, strlen(answer)) == 0 && write_all(fd, "\r\n", 2) == 0;
}

static void serve_client(int fd)
{
	static const struct json_limits limits = JSON_LIMITS_DEFAULT;
	struct json_stream *s = json_stream_new(&limits);
	bool go_on = write_all(fd, GREETING, strlen(GREETING)) == 0;
	char c;

	while (go_on && read(fd, &c, 1) == 1) {
		_cleanup_json_ struct json *request = NULL;
		size_t used;

		if (json_stream_feed(s, &c, 1, &used, &request, NULL) == 1)
			go_on = serve_one(fd, request);
	}
	json_stream_free(s);
	close(fd);
}

static void *serve(void *arg)
{
	int fd;

	(void)arg;
	while ((fd = accept(d.listener, NULL, NULL)) >= 0)
		serve_client(fd);
	return NULL;
}

int ts_start(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	(void)state;
	memset(&d, 0, sizeof(d));
	snprintf(d.path, sizeof(d.path), "%s/qmp", dir);
	strcpy(addr.sun_path, d.path);
	unlink(d.path);
	d.user = pthread_self();
	d.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(d.listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(d.listener, 4))
		return -1;
	return pthread_create(&d.thread, NULL, serve, NULL);
}

int ts_stop(void **state)
{
	(void)state;
	shutdown(d.listener, SHUT_RDWR);
	pthread_join(d.thread, NULL);
	close(d.listener);
	unlink(d.path);
	return 0;
}

void ts_says(const char *command, const char *first, const char *then, const char *last)
{
	struct answers *a = d.answers;

	while (a->command && !streq(a->command, command))
		a++;
	*a = (struct answers){ command, { first, then, last }, 0 };
}

#define EXPORTS                                                                                        \
	"{\"return\": [{\"id\": \"e1\", \"type\": \"dm\", \"node-name\": \"top\", \"name\": \"vm1\", " \
	"\"shutting-down\": false, \"writable\": true}, {\"id\": \"n\", \"type\": \"nbd\", \"node-name\": \"x\", \"shutting-down\": false}]}"
#define IMAGE(file, size, below)                                                      \
	"{\"filename\": \"" file "\", \"format\": \"qcow2\", \"virtual-size\": " size \
	", \"actual-size\": 1536" below "}"
#define NODE(name, file, image)                                               \
	"{\"node-name\": \"" name "\", \"drv\": \"qcow2\", \"file\": \"" file \
	"\", \"image\": " image "}"
#define BASE IMAGE("/i/a", "8388608", "")
#define NODES                                                                                                       \
	"{\"return\": [" NODE("#block7", "/i/b", IMAGE("/i/b", "8388608", ", \"backing-image\": " BASE)) ", " NODE( \
		"top", "/i/c",                                                                                      \
		IMAGE("/i/c", "8388608",                                                                            \
		      ", \"backing-image\": " IMAGE(                                                                \
			      "/i/b", "8388608",                                                                    \
			      ", \"backing-image\": " BASE))) ", " NODE("root", "/i/a", BASE) "]}"

void ts_has_disk(void)
{
	ts_says("query-block-exports", EXPORTS, NULL, NULL);
	ts_says("query-named-block-nodes", NODES, NULL, NULL);
}

/* ---- running a subcommand ---------------------------------------------------- */

char ts_out[8192];

int ts_run(int (*cmd)(struct tool *, int, char **, struct err *), bool json, struct err *e, ...)
{
	static const struct tool_cmd info = { "test", NULL, "", "", NULL };
	struct tool t = { .socket = d.path, .json = json, .cmd = &info };
	char *argv[12] = { (char *)(uintptr_t) "test" };
	int argc = 1, r, saved = dup(1), fd;
	char path[] = "/tmp/livechain-tool-out-XXXXXX";
	ssize_t n;
	va_list ap;

	va_start(ap, e);
	while ((argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	fd = mkstemp(path);
	unlink(path);
	fflush(stdout);
	dup2(fd, 1);
	optind = 0;
	r = cmd(&t, argc, argv, e);
	qmp_client_close(t.client);
	fflush(stdout);
	dup2(saved, 1);
	close(saved);
	n = pread(fd, ts_out, sizeof(ts_out) - 1, 0);
	ts_out[n < 0 ? 0 : n] = '\0';
	close(fd);
	return r;
}

/* ---- what was asked ------------------------------------------------------------- */

const char *ts_log(void)
{
	return d.log;
}

void ts_forget(void)
{
	d.log[0] = '\0';
}

void ts_sent(const char *what)
{
	if (!strstr(d.log, what))
		fail_msg("not sent: %s\nsent:\n%s", what, d.log);
}

void ts_not_sent(const char *what)
{
	if (strstr(d.log, what))
		fail_msg("sent: %s\n%s", what, d.log);
}
