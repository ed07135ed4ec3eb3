// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * From the command line to the end, with a core that only notes what it is asked: the order of
 * the start, failures on the way, quit and signals, sockets and who may come in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/chardev.h"
#include "daemon/control.h"
#include "daemon/dispatch.h"
#include "daemon/monitor.h"
#include "daemon/startup.h"
#include "lib/cleanup.h"
#include "lib/util.h"

/* --- the core --- */

struct daemon *the_daemon;
static struct strbuf story; /* what the core was asked, in order */
static const char *fail_at; /* the word at which it fails */
static size_t quit_noise;   /* bytes that quitting makes a client read */
static core_done_fn late_done;
static void *late_arg;
static struct ev_timer *late;

static void finish(const char *word, core_done_fn done, void *arg)
{
	struct err e = ERR_INIT;

	strbuf_addf(&story, "%s ", word);
	if (fail_at && streq(fail_at, word)) {
		err_set(&e, EIO, "%s went wrong", word);
		done(&e, arg);
	} else {
		done(NULL, arg);
	}
}

void core_register(void)
{
}

static void start_later(void *arg)
{
	(void)arg;
	ev_timer_free(late);
	finish("start", late_done, late_arg);
}

void core_start(struct daemon *d, core_done_fn done, void *arg)
{
	late_done = done;
	late_arg = arg;
	late = ev_timer_new(d->ev, start_later, NULL);
	ev_timer_set(late, 5);
}

void core_apply_blockdev(struct json *opts, bool keyval, core_done_fn done, void *arg)
{
	(void)keyval;
	finish(json_str_of(json_get(opts, "node-name")), done, arg);
}

void core_apply_export(struct json *opts, bool keyval, core_done_fn done, void *arg)
{
	(void)keyval;
	finish(json_str_of(json_get(opts, "id")), done, arg);
}

void core_quit(struct daemon *d, core_done_fn done, void *arg)
{
	_cleanup_free_ char *noise = xmalloc(quit_noise + 1);

	(void)d;
	/* As jobs that are cancelled raise theirs. */
	memset(noise, 'x', quit_noise);
	noise[quit_noise] = '\0';
	if (quit_noise)
		qmp_event("RESUME", json_pack("{s:s}", "noise", noise));
	qmp_event("STOP", NULL);
	finish("quit", done, arg);
}

void core_done(struct daemon *d)
{
	(void)d;
	strbuf_adds(&story, "done");
}

/* --- a run --- */

static char dir[64], sock[96];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/livechain-startup.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(sock, sizeof(sock), "%s/qmp", dir);
	qmp_reset();
	control_register();
	fail_at = NULL;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(sock);
	strbuf_done(&story);
	qmp_reset();
	return rmdir(dir); /* a socket file left behind is a failure */
}

static bool was_ready;

static void on_ready(void *arg)
{
	was_ready = true;
	if (arg)
		((void (*)(void))(uintptr_t)arg)();
}

static int run(void (*when_ready)(void), struct err *e, const char *const *args)
{
	char *argv[16] = { (char[]){ "livechaind" } };
	struct daemon d = { 0 };
	struct options o;
	int argc = 1, r;

	for (; args[argc - 1]; argc++)
		argv[argc] = (char *)(uintptr_t)args[argc - 1];
	r = options_parse(&o, argc, argv, stdout, e);
	assert_int_equal(r, 0);
	d.ev = ev_new(e);
	d.worker = worker_new(d.ev, 1, e);
	the_daemon = &d;
	was_ready = false;
	alarm(100);
	r = startup_run(&d, &o, on_ready, (void *)(uintptr_t)when_ready, e);
	alarm(0);
	worker_free(d.worker);
	ev_free(d.ev);
	options_done(&o);
	return r;
}

#define RUN(ready, e, ...) run(ready, e, (const char *[]){ "--qmp", sock, __VA_ARGS__, NULL })

static void terminate(void)
{
	kill(getpid(), SIGTERM);
}

static void test_order(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(RUN(terminate, &e, "--export", "type=dm,id=e1", "--blockdev",
			     "driver=file,node-name=b1", "--export", "dm,id=e2", "--blockdev",
			     "{\"node-name\":\"b2\"}"),
			 0);
	assert_true(was_ready);
	assert_string_equal(strbuf_str(&story), "start b1 b2 e1 e2 quit done");
	assert_int_equal(access(sock, F_OK), -1);
}

static void test_failures(void **state)
{
	static const struct {
		const char *at, *msg, *story;
	} cases[] = {
		/* What did not start is not asked to quit; what did is. */
		{ "start", "start went wrong", "start done" },
		{ "b1", "--blockdev driver=file,node-name=b1: b1 went wrong",
		  "start b1 quit done" },
		{ "e1", "--export dm,id=e1: e1 went wrong", "start b1 e1 quit done" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = ERR_INIT;

		strbuf_reset(&story);
		fail_at = cases[i].at;
		assert_true(RUN(NULL, &e, "--blockdev", "driver=file,node-name=b1", "--export",
				"dm,id=e1") < 0);
		assert_false(was_ready);
		assert_string_equal(e.msg, cases[i].msg);
		assert_string_equal(strbuf_str(&story), cases[i].story);
	}
}

/* --- a client in a thread of its own --- */

static int dial(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(sa.sun_path, path);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* All that comes until the other side closes. Owned by the caller. */
static char *hear_all(int fd)
{
	struct strbuf sb = STRBUF_INIT;
	char buf[4096];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		strbuf_add(&sb, buf, n);
	return strbuf_detach(&sb);
}

static pthread_t client;
static char *client_heard;

static void *quit_by_qmp(void *arg)
{
	static const char text[] =
		"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\",\"id\":1}";
	int fd = dial(sock);

	(void)arg;
	if (fd < 0 || write(fd, text, sizeof(text) - 1) < 0)
		abort();
	client_heard = hear_all(fd);
	close(fd);
	return NULL;
}

static void start_client(void)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	assert_int_equal(pthread_create(&client, NULL, quit_by_qmp, NULL), 0);
}

static void check_quit_dialogue(void)
{
	const char *event, *answer;

	pthread_join(client, NULL);
	event = strstr(client_heard, "\"event\": \"STOP\"}\r\n");
	answer = strstr(client_heard, "{\"return\": {}, \"id\": 1}\r\n");
	assert_non_null(event);
	assert_non_null(answer);
	assert_true(event < answer);
	assert_int_equal(strlen(answer), strlen("{\"return\": {}, \"id\": 1}\r\n"));
	free(client_heard);
	client_heard = NULL;
}

/* The answer to quit comes after what quitting raised, and is delivered before the end. */
static void test_quit(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(RUN(start_client, &e, NULL), 0);
	check_quit_dialogue();
	assert_string_equal(strbuf_str(&story), "start quit done");
}

/* Also when a client needs a while to read it. */
static void test_quit_waits_for_readers(void **state)
{
	quit_noise = 4 << 20;
	test_quit(state);
	quit_noise = 0;
}

static void test_failing_quit(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	fail_at = "quit";
	assert_true(RUN(start_client, &e, NULL) < 0);
	assert_string_equal(e.msg, "quit went wrong");
	pthread_join(client, NULL);
	assert_non_null(strstr(client_heard, "\"desc\": \"quit went wrong\""));
	free(client_heard);
}

/* Without server=on the daemon connects, and serves whoever listens there. */
static void *listener(void *arg)
{
	static const char text[] =
		"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\",\"id\":1}";
	int lfd = *(int *)arg, fd = accept(lfd, NULL, NULL);

	if (fd < 0 || write(fd, text, sizeof(text) - 1) < 0)
		abort();
	client_heard = hear_all(fd);
	close(fd);
	return NULL;
}

static void test_client_socket(void **state)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int lfd = socket(AF_UNIX, SOCK_STREAM, 0);
	_cleanup_free_ char *chardev = xasprintf("socket,id=m,path=%s", sock);
	struct err e = ERR_INIT;

	(void)state;
	strcpy(sa.sun_path, sock);
	assert_int_equal(bind(lfd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(lfd, 1), 0);
	assert_int_equal(pthread_create(&client, NULL, listener, &lfd), 0);
	assert_int_equal(
		run(NULL, &e,
		    (const char *[]){ "--chardev", chardev, "--monitor", "chardev=m", NULL }),
		0);
	check_quit_dialogue();
	close(lfd);
	/* Not ours to remove; and nobody listens: an error before anything is started. */
	strbuf_reset(&story);
	assert_int_equal(access(sock, F_OK), 0);
	assert_true(run(NULL, &e,
			(const char *[]){ "--chardev", chardev, "--monitor", "m", NULL }) < 0);
	assert_non_null(strstr(e.msg, "Failed to connect to '"));
	assert_string_equal(strbuf_str(&story), "");
}

/* --- sockets --- */

/* A socket file that nobody listens on, in place of what is there. */
static void leave_stale(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	unlink(path);
	strcpy(sa.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd);
}

static void test_socket_in_use(void **state)
{
	struct ev *ev = ev_new(NULL);
	struct err e = ERR_INIT;
	struct chardev *a = chardev_open(ev, "a", sock, true, 0, &e), *b;
	FILE *f;

	(void)state;
	assert_non_null(a);
	assert_null(chardev_open(ev, "b", sock, true, 0, &e));
	assert_non_null(strstr(e.msg, "another process listens there"));
	/* The living socket is untouched. */
	close(dial(sock));
	/* A socket of a killed daemon is replaced, and the old owner does not remove the new. */
	leave_stale(sock);
	b = chardev_open(ev, "b", sock, true, 0, NULL);
	assert_non_null(b);
	chardev_close(a);
	assert_int_equal(access(sock, F_OK), 0);
	chardev_close(b);
	assert_int_equal(access(sock, F_OK), -1);
	/* Any other file is not. */
	f = fopen(sock, "w");
	fclose(f);
	err_clear(&e);
	assert_null(chardev_open(ev, "b", sock, true, 0, &e));
	assert_non_null(strstr(e.msg, "the file exists and is no socket"));
	assert_int_equal(access(sock, F_OK), 0);
	ev_free(ev);
}

/* In a child without rights: 0 if the connection's other side lets it in. */
static int try_as(uid_t uid, gid_t gid, gid_t extra)
{
	int sv[2], status;
	pid_t pid;

	assert_int_equal(pipe(sv), 0);
	pid = fork();
	if (pid == 0) {
		char c;

		if (setgroups(extra != (gid_t)-1, &extra) < 0 || setgid(gid) < 0 || setuid(uid) < 0)
			_exit(9);
		status = dial(sock);
		if (status < 0 || write(sv[1], "c", 1) != 1)
			_exit(8);
		_exit(read(status, &c, 1) == 1 ? 0 : 1);
	}
	close(sv[1]);
	assert_int_equal(read(sv[0], &status, 1), 1); /* it is connected */
	close(sv[0]);
	return pid;
}

static void test_peers(void **state)
{
	static const struct {
		uid_t uid;
		gid_t gid, extra, owner;
		bool in;
	} cases[] = {
		{ 0, 0, -1, 0, true },
		{ 65534, 65534, -1, 0, false },
		{ 65534, 65534, -1, 4321, false },
		{ 65534, 4321, -1, 4321, true },
		{ 65534, 65534, 4321, 4321, true },
	};
	struct ev *ev;
	struct stat st;

	(void)state;
	if (geteuid() != 0)
		skip();
	ev = ev_new(NULL);
	monitor_init(ev);
	assert_int_equal(chmod(dir, 0755), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct chardev *c = chardev_open(ev, "a", sock, true, 0, NULL);
		int status, pid;

		assert_int_equal(stat(sock, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0660);
		assert_int_equal(chown(sock, 0, cases[i].owner), 0);
		/* Even if someone opened the file to all. */
		assert_int_equal(chmod(sock, 0666), 0);
		assert_int_equal(chardev_start(c, NULL), 0);
		pid = try_as(cases[i].uid, cases[i].gid, cases[i].extra);
		while (waitpid(pid, &status, WNOHANG) == 0)
			ev_run_once(ev, 10);
		assert_int_equal(status, cases[i].in ? 0 : 1 << 8);
		chardev_close(c);
	}
	monitor_done();
	ev_free(ev);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_order),	       T(test_failures),
		T(test_quit),	       T(test_quit_waits_for_readers),
		T(test_failing_quit),  T(test_client_socket),
		T(test_socket_in_use), T(test_peers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
