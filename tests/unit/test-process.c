// SPDX-License-Identifier: GPL-2.0-or-later
/* Background, pidfile and the lock of the state folder, with real processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/process.h"
#include "lib/cleanup.h"
#include "lib/util.h"

/*
 * Daemonizes in a child. The daemon tells its parent's world through @fd: its process id when it
 * begins; then it becomes ready or fails, and lives until the other end of @gate is closed.
 */
static void daemon_main(int fd, int gate, bool ready)
{
	pid_t me;
	char c;

	if (process_daemonize(NULL) < 0)
		_exit(7);
	me = getpid();
	if (write(fd, &me, sizeof(me)) != sizeof(me))
		_exit(7);
	if (!ready)
		_exit(1);
	process_ready();
	me = getsid(0) == getpid() ? 1 : 0;
	if (read(gate, &c, 1) < 0 || write(fd, &me, sizeof(me)) != sizeof(me))
		_exit(7);
	_exit(0);
}

static void run_daemon(bool ready, int expected_status)
{
	int up[2], gate[2], status = -1;
	pid_t starter, daemon = 0, session_leader = 0;

	assert_int_equal(pipe(up), 0);
	assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
	starter = fork();
	if (starter == 0) {
		close(up[0]);
		close(gate[1]);
		daemon_main(up[1], gate[0], ready);
	}
	close(up[1]);
	close(gate[0]);
	alarm(100);
	assert_int_equal(waitpid(starter, &status, 0), starter);
	assert_int_equal(status, expected_status << 8);
	assert_int_equal(read(up[0], &daemon, sizeof(daemon)), sizeof(daemon));
	assert_true(daemon != starter && daemon > 0);
	if (ready) {
		/* The starter is gone, the daemon lives on. */
		assert_int_equal(kill(daemon, 0), 0);
		close(gate[1]);
		assert_int_equal(read(up[0], &session_leader, sizeof(session_leader)),
				 sizeof(session_leader));
		assert_int_equal(session_leader, 1);
	} else {
		close(gate[1]);
	}
	alarm(0);
	close(up[0]);
}

static void test_daemonize(void **state)
{
	(void)state;
	run_daemon(true, 0);
	run_daemon(false, 1);
}

static void test_pidfile(void **state)
{
	char dir[] = "/tmp/livechain-process.XXXXXX";
	_cleanup_free_ char *path = NULL, *text = NULL, *want = NULL, *link = NULL;
	struct err e = ERR_INIT;
	int fd, again;

	(void)state;
	assert_non_null(mkdtemp(dir));
	path = path_join(dir, "pid");
	link = path_join(dir, "link");
	want = xasprintf("%ld\n", (long)getpid());
	/* What a killed daemon left is overwritten, also if it was longer. */
	assert_int_equal(write_file_durably(path, "1234567890\n", 11, 0644, NULL), 0);
	fd = process_pidfile(path, &e);
	assert_true(fd >= 0);
	assert_int_equal(read_file(path, 100, &text, NULL, NULL), 0);
	assert_string_equal(text, want);
	assert_int_equal(process_pidfile(path, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "belongs to a daemon that is running"));
	close(fd);
	again = process_pidfile(path, NULL);
	assert_true(again >= 0);
	close(again);
	/* Not through a link that someone put there. */
	assert_int_equal(symlink(path, link), 0);
	assert_int_equal(process_pidfile(link, NULL), -ELOOP);
	unlink(link);
	unlink(path);
	rmdir(dir);
}

static void test_state_lock(void **state)
{
	char dir[] = "/tmp/livechain-process.XXXXXX";
	_cleanup_free_ char *deep = NULL, *lock = NULL;
	struct err e = ERR_INIT;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	deep = path_join(dir, "a/b");
	lock = path_join(deep, "lock");
	fd = process_lock_state(deep, &e);
	assert_true(fd >= 0);
	assert_int_equal(process_lock_state(deep, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "--state-dir"));
	close(fd);
	fd = process_lock_state(deep, NULL);
	assert_true(fd >= 0);
	close(fd);
	err_clear(&e);
	assert_int_equal(process_lock_state(lock, &e), -ENOTDIR);
	unlink(lock);
	rmdir(deep);
	*strrchr(deep, '/') = '\0';
	rmdir(deep);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_daemonize),
		cmocka_unit_test(test_pidfile),
		cmocka_unit_test(test_state_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
