// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/process.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/util.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

static int ready_fd = -1; /* the parent waits at the other end */

/* In the parent: does not return. */
static void wait_for_child(int fd, pid_t child)
{
	int status;
	ssize_t n;
	char c;

	do {
		n = read(fd, &c, 1);
	} while (n < 0 && errno == EINTR);
	if (n == 1)
		_exit(0);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	_exit(1);
}

int process_daemonize(struct err *e)
{
	int p[2];
	pid_t child;

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_set(e, errno, "Could not create a pipe: %s", strerror(errno));
	child = fork();
	if (child < 0) {
		int code = errno;

		close(p[0]);
		close(p[1]);
		return err_set(e, code, "Could not fork: %s", strerror(code));
	}
	if (child > 0) {
		close(p[1]);
		wait_for_child(p[0], child);
	}
	close(p[0]);
	ready_fd = p[1];
	(void)setsid();
	return 0;
}

void process_ready(void)
{
	_cleanup_close_ int null = -1;

	if (ready_fd < 0)
		return;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (chdir("/") < 0)
		log_debug("Could not change to /: %s", strerror(errno));
	for (int fd = 0; null >= 0 && fd <= 2; fd++)
		(void)dup2(null, fd);
	(void)write_all(ready_fd, "", 1);
	close(ready_fd);
	ready_fd = -1;
}

int process_pidfile(const char *path, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	char text[24];
	int n;

	if (fd < 0)
		return err_set(e, errno, "Could not create the pidfile '%s': %s", path,
			       strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(e, EBUSY, "The pidfile '%s' belongs to a daemon that is running",
			       path);
	n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, text, n, 0) != n)
		return err_set(e, EIO, "Could not write the pidfile '%s'", path);
	return take_fd(fd);
}

int process_lock_state(const char *dir, struct err *e)
{
	_cleanup_free_ char *path = path_join(dir, "lock");
	_cleanup_close_ int fd = -1;
	int r;

	r = path_mkdirs(dir, 0700, e);
	if (r < 0)
		return r;
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(e, errno, "Could not create '%s': %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(
			e, EBUSY,
			"Another livechaind uses the state folder '%s': end it, or give this "
			"one a folder of its own with --state-dir",
			dir);
	return take_fd(fd);
}

/* Without the right to lock memory MCL_FUTURE would make later allocations fail. */
static bool may_lock_memory(void)
{
	struct __user_cap_header_struct hdr = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { 0 };

	return syscall(SYS_capget, &hdr, data) == 0 && (data[0].effective & 1u << CAP_IPC_LOCK);
}

static void protect_from_oom(void)
{
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write_all(fd, "-900", 4) < 0)
		log_info("Could not lower our OOM score: %s", strerror(errno));
}

void process_harden(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	/* What is there now comes in; what comes later is locked as it is touched. */
	if (!may_lock_memory() || mlockall(MCL_CURRENT) < 0 ||
	    mlockall(MCL_FUTURE | MCL_ONFAULT) < 0)
		log_info("Could not lock our memory: without the right to, or out of memory");
	/* Inherited by the threads that are started later. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		log_info("Could not become an I/O flusher: %s", strerror(errno));
	protect_from_oom();
}
