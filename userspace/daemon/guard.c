// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The two talk by a pipe, in records of fixed size: '+' or '-' and a device's name; '<', a
 * device and a message that undoes (none: its inactive table goes); '?', instead of all '<', a
 * device with an inactive table and the number of the state's file; '=': nothing is undone any
 * more. Its end is the daemon's end. The guard makes the ioctls itself: nothing of libdevmapper's
 * state is valid after a fork, and it must not need memory then.
 *
 * The guard has a lock on the state's folder while it is there: what the next daemon sees, and
 * takes up, it has made up its mind about.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../lib/ev.h"
#include "../lib/log.h"
#include "../lib/util.h"
#include "guard.h"

#define HELD_MAX  256
#define UNDO_MAX  256
#define TEXT_MAX  128
#define TRIES	  50
#define PAUSE_MS  100
#define FORMER_MS 60000 /* for the last daemon's guard to end: it may have to wait for the disk */
#define CONTROL	  "/dev/mapper/control"
#define KEPT	  5 /* descriptors of the guard */

struct record {
	char what;
	char dm[DM_NAME_LEN];
	char text[TEXT_MAX]; /* of '<', '?' */
};

static int daemon_end = -1;
static char state_dir[PATH_MAX], state_file[PATH_MAX + 16]; /* both processes' */

/* --- the guard's process --- */

static char held[HELD_MAX][DM_NAME_LEN];
static struct record undo[UNDO_MAX];
static unsigned nr_undo;
static struct record pivot; /* no device: there is none */
static int control = -1, folder = -1;

static void note(const struct record *rec)
{
	int free_slot = -1;

	if (rec->what == '=' || rec->what == '?') {
		nr_undo = 0;
		pivot.dm[0] = '\0';
	}
	if (rec->what == '?')
		pivot = *rec;
	else if (rec->what == '<' && nr_undo < UNDO_MAX)
		undo[nr_undo++] = *rec;
	if (rec->what != '+' && rec->what != '-')
		return;
	for (int i = 0; i < HELD_MAX; i++) {
		if (streq(held[i], rec->dm)) {
			if (rec->what == '-')
				held[i][0] = '\0';
			return;
		}
		if (!held[i][0])
			free_slot = i;
	}
	if (rec->what == '+' && free_slot >= 0)
		memcpy(held[free_slot], rec->dm, sizeof(held[0]));
}

static void clear_table(const char *dm)
{
	struct dm_ioctl io = {
		.version = { 4, 0, 0 },
		.data_size = sizeof(io),
		.data_start = sizeof(io),
	};

	memcpy(io.name, dm, sizeof(io.name));
	(void)ioctl(control, DM_TABLE_CLEAR, &io);
}

/* The target may refuse: the daemon died before it did what is to be undone. */
static void tell_target(const struct record *rec)
{
	static struct {
		struct dm_ioctl io;
		struct dm_target_msg msg;
		char text[TEXT_MAX];
	} req;

	memset(&req, 0, sizeof(req));
	req.io.version[0] = 4;
	req.io.data_size = sizeof(req);
	req.io.data_start = offsetof(__typeof__(req), msg);
	memcpy(req.io.name, rec->dm, sizeof(req.io.name));
	/* the text follows the sector at once: dm_target_msg ends with an open array */
	memcpy((char *)&req + req.io.data_start + offsetof(struct dm_target_msg, message), rec->text,
	       sizeof(rec->text));
	(void)ioctl(control, DM_TARGET_MSG, &req);
}

static void take_back(const struct record *rec)
{
	if (rec->text[0])
		tell_target(rec);
	else
		clear_table(rec->dm);
}

/* Saving the state puts a new file in the place of the old one. */
static unsigned long long state_number(void)
{
	struct stat st;

	return stat(state_file, &st) ? 0 : st.st_ino;
}

/* What the state says is durable before the device goes on accordingly (I16). */
static void decide_pivot(void)
{
	unsigned long long now = state_number();

	if (!now || now == strtoull(pivot.text, NULL, 10) || fsync(folder))
		clear_table(pivot.dm);
}

static void resume(const char *dm)
{
	struct timespec nap = { 0, PAUSE_MS * 1000000L };

	for (int i = 0; i < TRIES; i++) {
		struct dm_ioctl io = {
			.version = { 4, 0, 0 },
			.data_size = sizeof(io),
			.data_start = sizeof(io),
		};

		memcpy(io.name, dm, sizeof(io.name));
		if (!ioctl(control, DM_DEV_SUSPEND, &io) || errno == ENXIO)
			return;
		nanosleep(&nap, NULL);
	}
}

/* Ends with the daemon and not with its group, terminal or folder; holds nothing open. */
static int settle(int fd)
{
	static const int ignored[] = { SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; null >= 0 && i <= 2; i++)
		(void)dup2(null, i);
	fd = fcntl(fd, F_DUPFD, KEPT);
	folder = fcntl(folder, F_DUPFD, KEPT);
	if (dup2(fd, 3) < 0 || dup2(folder, 4) < 0)
		return -1;
	fd = 3;
	folder = 4;
	(void)close_range(KEPT, ~0U, 0);
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		(void)signal(ignored[i], SIG_IGN);
	(void)prctl(PR_SET_NAME, "lc-guard");
	(void)chdir("/");
	(void)mlockall(MCL_CURRENT | MCL_FUTURE);
	return fd;
}

static void __attribute__((noreturn)) guard(int fd)
{
	struct record rec;

	fd = settle(fd);
	while (fd >= 0) {
		ssize_t n = recv(fd, &rec, sizeof(rec), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(rec))
			break;
		if (control < 0) /* there once there is a device */
			control = open(CONTROL, O_RDWR | O_CLOEXEC);
		note(&rec);
	}
	while (nr_undo)
		take_back(&undo[--nr_undo]);
	if (pivot.dm[0])
		decide_pivot();
	for (int i = 0; i < HELD_MAX; i++) {
		if (held[i][0])
			resume(held[i]);
	}
	_exit(0);
}

/* --- the daemon's side --- */

static int lock_folder(struct err *e)
{
	uint64_t until = ev_now_ms() + FORMER_MS;
	struct timespec nap = { 0, 5000000 };

	folder = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		return err_set(e, errno, "'%s': %s", state_dir, strerror(errno));
	while (flock(folder, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK || ev_now_ms() > until) {
			log_warn("What the last daemon held is not let go of yet (lc-guard): %s",
				 strerror(errno));
			break;
		}
		nanosleep(&nap, NULL);
	}
	return 0;
}

int guard_start(const char *dir, struct err *e)
{
	int fds[2], r;
	pid_t pid;

	if (!realpath(dir, state_dir))
		return err_set(e, errno, "'%s': %s", dir, strerror(errno));
	snprintf(state_file, sizeof(state_file), "%s/state.json", state_dir);
	r = lock_folder(e);
	if (r)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(e, errno, "Could not make a socket pair: %s", strerror(errno));
	pid = fork();
	if (pid == 0) {
		close(fds[0]);
		guard(fds[1]);
	}
	close(fds[1]);
	close(folder);
	if (pid < 0) {
		close(fds[0]);
		return err_set(e, errno, "Could not start a process: %s", strerror(errno));
	}
	daemon_end = fds[0];
	return 0;
}

void guard_stop(void)
{
	if (daemon_end >= 0)
		close(daemon_end);
	daemon_end = -1;
}

static void tell(char what, const char *dm, const char *text)
{
	struct record rec = { .what = what };

	if (daemon_end < 0)
		return;
	snprintf(rec.dm, sizeof(rec.dm), "%s", dm);
	snprintf(rec.text, sizeof(rec.text), "%s", text);
	/* It reads at once; one that has gone must not stop us. */
	if (send(daemon_end, &rec, sizeof(rec), MSG_NOSIGNAL) < 0)
		log_warn("the process that resumes devices after us is gone: %s", strerror(errno));
}

void guard_hold(const char *dm)
{
	tell('+', dm, "");
}

void guard_release(const char *dm)
{
	tell('-', dm, "");
}

void guard_undo(const char *dm, const char *text)
{
	tell('<', dm, text);
}

void guard_pivot(const char *dm)
{
	char text[TEXT_MAX];

	snprintf(text, sizeof(text), "%llu", state_number());
	tell('?', dm, text);
}

void guard_keep(void)
{
	tell('=', "", "");
}
