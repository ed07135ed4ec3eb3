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
#include <unistd.h>

static struct fault_file *file;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* What a test asked for and does not get would be a test that can't fail. */
static void map_file(void)
{
	const char *path = getenv("LIVECHAIN_FAULTS");
	int fd;

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

void fault_point(const char *what, const char *whom)
{
	const char *slash = strrchr(whom, '/');
	uint64_t n;

	pthread_once(&once, map_file);
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
