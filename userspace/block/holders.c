// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "block/holders.h"
#include "lib/cleanup.h"

#define EACH_MAX 3 /* so many mounts, so many processes are named */

static void fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}

static void add(char *buf, size_t len, const char *what, const char *name)
{
	size_t n = strlen(buf);

	if (n + 1 < len)
		snprintf(buf + n, len - n, "%s%s%s", n ? ", " : "", what, name);
}

/* mountinfo: "36 35 253:0 /root /mount/point options..." */
static void add_mounts(dev_t devno, char *buf, size_t len)
{
	_cleanup_(fclosep) FILE *f = fopen("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	int found = 0;

	while (f && found < EACH_MAX && getline(&line, &size, f) > 0) {
		unsigned major, minor;
		char where[256];

		if (sscanf(line, "%*d %*d %u:%u %*s %255s", &major, &minor, where) == 3 &&
		    makedev(major, minor) == devno) {
			add(buf, len, "mounted on ", where);
			found++;
		}
	}
}

static void add_swap(dev_t devno, char *buf, size_t len)
{
	_cleanup_(fclosep) FILE *f = fopen("/proc/swaps", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	while (f && getline(&line, &size, f) > 0) {
		struct stat st;

		line[strcspn(line, " \t\n")] = '\0';
		if (stat(line, &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == devno)
			add(buf, len, "in use as swap", "");
	}
}

static void add_devices_above(dev_t devno, char *buf, size_t len)
{
	char path[64];
	_cleanup_(closedirp) DIR *d = NULL;
	struct dirent *de;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(devno), minor(devno));
	d = opendir(path);
	while (d && (de = readdir(d)))
		if (de->d_name[0] != '.')
			add(buf, len, "in use by /dev/", de->d_name);
}

static bool has_open(const char *pid, dev_t devno)
{
	char path[64];
	_cleanup_(closedirp) DIR *d = NULL;
	struct dirent *de;
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	d = opendir(path);
	while (d && (de = readdir(d)))
		if (fstatat(dirfd(d), de->d_name, &st, 0) == 0 && S_ISBLK(st.st_mode) &&
		    st.st_rdev == devno)
			return true;
	return false;
}

static void add_processes(dev_t devno, char *buf, size_t len)
{
	_cleanup_(closedirp) DIR *d = opendir("/proc");
	struct dirent *de;
	int found = 0;

	while (d && found < EACH_MAX && (de = readdir(d))) {
		char path[64], comm[32] = "", what[96];
		FILE *f;

		if (!isdigit((unsigned char)de->d_name[0]) || !has_open(de->d_name, devno))
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/comm", de->d_name);
		f = fopen(path, "re");
		if (f && fgets(comm, sizeof(comm), f))
			comm[strcspn(comm, "\n")] = '\0';
		fclosep(&f);
		snprintf(what, sizeof(what), "%.20s (%s)", de->d_name, comm);
		add(buf, len, "used by process ", what);
		found++;
	}
}

const char *holders_describe(dev_t devno, char *buf, size_t len)
{
	buf[0] = '\0';
	add_mounts(devno, buf, len);
	add_swap(devno, buf, len);
	add_devices_above(devno, buf, len);
	add_processes(devno, buf, len);
	return buf;
}
