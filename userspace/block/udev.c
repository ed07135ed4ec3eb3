// SPDX-License-Identifier: GPL-2.0-or-later
#include <dirent.h>
#include <errno.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/udev.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/util.h"

#define MARKS	  "/run/livechain/udev"
#define RULES_DIR "/run/udev/rules.d"
#define RULES	  RULES_DIR "/59-livechain.rules" /* before 60-persistent-storage.rules */
#define MARK_MAX  65536

static const char rules[] =
	"# Written by livechaind: images of guests are not looked into.\n"
	"SUBSYSTEM==\"block\", KERNEL==\"loop[0-9]*\", TEST==\"" MARKS "/%k\", "
	"ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}=\"1\", ENV{UDISKS_IGNORE}=\"1\", "
	"ENV{SYSTEMD_READY}=\"0\"\n";

extern char **environ;

static void mark_path(int number, char path[64])
{
	snprintf(path, 64, MARKS "/loop%d", number);
}

static int put_file(const char *path, const char *text, struct err *e)
{
	FILE *f = fopen(path, "we");
	int r = f && fputs(text, f) >= 0 ? 0 : -errno;

	if (f && fclose(f) && !r)
		r = -errno;
	return r ? err_set(e, -r, "cannot write '%s': %s", path, strerror(-r)) : 0;
}

/* udev looks for new rules by itself only every few seconds. */
static int reload_rules(struct err *e)
{
	static char udevadm[] = "udevadm", control[] = "control", reload[] = "--reload",
		    timeout[] = "--timeout=5";
	char *const argv[] = { udevadm, control, reload, timeout, NULL };
	int status = 0, r;
	pid_t pid;

	r = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
	if (r)
		return err_set(e, r, "cannot run udevadm: %s", strerror(r));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status ? err_set(e, EIO, "udevadm control --reload failed") : 0;
}

static int install_rules(struct err *e)
{
	_cleanup_free_ char *have = NULL;
	size_t len;
	int r;

	if (!read_file(RULES, sizeof(rules), &have, &len, NULL) && streq(have, rules))
		return 0;
	r = path_mkdirs(RULES_DIR, 0755, e);
	if (!r)
		r = put_file(RULES, rules, e);
	return r ? r : reload_rules(e);
}

void udev_loop_gone(int number)
{
	_cleanup_free_ char *path = NULL, *backing = NULL;
	char mark[64], sysfs[80];
	size_t len;

	mark_path(number, mark);
	if (read_file(mark, MARK_MAX, &path, &len, NULL))
		return;
	snprintf(sysfs, sizeof(sysfs), "/sys/block/loop%d/loop/backing_file", number);
	if (read_file(sysfs, MARK_MAX, &backing, &len, NULL) || !str_has_prefix(backing, path))
		(void)unlink(mark);
}

/* Devices that went while no daemon was there have left their marks. */
static void sweep(void)
{
	DIR *d = opendir(MARKS);
	struct dirent *de;
	int number;

	while (d && (de = readdir(d))) {
		if (sscanf(de->d_name, "loop%d", &number) == 1)
			udev_loop_gone(number);
	}
	if (d)
		closedir(d);
}

void udev_hide_loop(int number, const char *path)
{
	static bool ready;
	struct err e = ERR_INIT;
	char mark[64];
	int r;

	if (access("/run/udev/control", F_OK))
		return;
	r = path_mkdirs(MARKS, 0755, &e);
	if (!r && !ready) {
		sweep();
		r = install_rules(&e);
		ready = !r;
	}
	mark_path(number, mark);
	if (!r)
		r = put_file(mark, path, &e);
	if (r)
		log_warn("udev may look for file systems in '%s': %s", path, e.msg);
}
