// SPDX-License-Identifier: GPL-2.0-or-later
#include "lib/fault.h"

#ifdef LIVECHAIN_FAULTS

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

static struct fault_file *file;
static unsigned long slow_us;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* What a test asked for and does not get would be a test that can't fail. */
static void read_environment(void)
{
	const char *path = getenv("LIVECHAIN_FAULTS"), *slow = getenv("LIVECHAIN_SLOW");
	int fd;

	if (slow)
		slow_us = strtoul(slow, NULL, 10) * 1000;
	if (!path)
		return;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		file = mmap(NULL, FAULT_FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || file == MAP_FAILED) {
		perror(path);
		abort();
	}
	close(fd);
}

static void take_time(void)
{
	unsigned int r;

	if (slow_us && getrandom(&r, sizeof(r), 0) == sizeof(r))
		usleep((r >> 8) % (slow_us / (r % 16 ? 32 : 1) + 1));
}

void fault_point(const char *what, const char *whom)
{
	const char *slash = strrchr(whom, '/');
	uint64_t n;

	pthread_once(&once, read_environment);
	take_time();
	if (!file)
		return;
	n = __atomic_add_fetch(&file->count, 1, __ATOMIC_SEQ_CST);
	snprintf(file->names[(n - 1) % FAULT_NAMES], sizeof(file->names[0]), "%s %s", what,
		 slash ? slash + 1 : whom);
	if (n == __atomic_load_n(&file->die_at, __ATOMIC_SEQ_CST))
		(void)raise(SIGKILL);
	(void)__atomic_add_fetch(&file->passed, 1, __ATOMIC_SEQ_CST);
}

#else
typedef int nothing_here; /* ISO C wants a declaration in each file */
#endif
