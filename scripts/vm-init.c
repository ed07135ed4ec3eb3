// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * PID 1 of the test VM, the only program in its initial ramdisk.
 *
 * Loads the modules listed in /modules (one path a line, in order), makes a
 * root of the host's / (9p, read-only) under a tmpfs overlay, mounts the
 * checkout writable at its own path, runs /run/vmctl/cmd in bash with output
 * on the virtio port, writes the exit status to /run/vmctl/rc and ends the
 * machine. Kernel command line: vm.checkout=PATH vm.modules=PATH (on the host).
 *
 * On the host, "vm-init --tsc-khz" prints the rate of the time stamp counter:
 * the guest can not measure it reliably on a loaded machine.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define P9_OPTIONS "trans=virtio,version=9p2000.L,msize=262144,cache="

static char checkout[1024], modules[1024];

static int tsc_khz(void)
{
	struct timespec a, b, nap = { 0, 50000000 };
	uint64_t start, end;
	double ns;

	clock_gettime(CLOCK_MONOTONIC_RAW, &a);
	start = __builtin_ia32_rdtsc();
	nanosleep(&nap, NULL);
	clock_gettime(CLOCK_MONOTONIC_RAW, &b);
	end = __builtin_ia32_rdtsc();
	ns = (b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec);
	printf("%.0f\n", (double)(end - start) * 1e6 / ns);
	return 0;
}

static void try_mount(const char *src, const char *dir, const char *type, unsigned long flags,
		      const char *options)
{
	if (mount(src, dir, type, flags, options))
		dprintf(2, "vm-init: mount %s on %s: %s\n", src, dir, strerror(errno));
}

static void put_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		dprintf(2, "vm-init: write %s: %s\n", path, strerror(errno));
	close(fd);
}

static void make_dirs(const char *path)
{
	char buf[1200], *c = buf;

	snprintf(buf, sizeof(buf), "%s", path);
	while ((c = strchr(c + 1, '/'))) {
		*c = 0;
		mkdir(buf, 0755);
		*c = '/';
	}
	mkdir(buf, 0755);
}

static void end_machine(void)
{
	sync();
	put_file("/proc/sysrq-trigger", "b");
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void load_modules(void)
{
	char path[256];
	FILE *list = fopen("/modules", "r");
	int fd;

	if (!list)
		return;
	while (fgets(path, sizeof(path), list)) {
		path[strcspn(path, "\n")] = 0;
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			dprintf(2, "vm-init: load %s: %s\n", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	fclose(list);
}

static void read_cmdline(void)
{
	char line[8192], *word;
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC), n;

	n = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);
	line[n > 0 ? n : 0] = 0;
	close(fd);
	for (word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
		if (!strncmp(word, "vm.checkout=", 12))
			snprintf(checkout, sizeof(checkout), "%s", word + 12);
		if (!strncmp(word, "vm.modules=", 11))
			snprintf(modules, sizeof(modules), "%s", word + 11);
	}
}

/* The host's root below an overlay whose changes die with the machine. */
static void mount_root(void)
{
	try_mount("hostroot", "/lower", "9p", MS_RDONLY, P9_OPTIONS "loose");
	try_mount("upper", "/upper", "tmpfs", 0, "mode=755");
	mkdir("/upper/data", 0755);
	mkdir("/upper/work", 0755);
	try_mount("root", "/sysroot", "overlay", 0,
		  "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work");
	try_mount("tmp", "/sysroot/tmp", "tmpfs", 0, "mode=1777");
	try_mount("run", "/sysroot/run", "tmpfs", 0, "mode=755");
	try_mount("vartmp", "/sysroot/var/tmp", "tmpfs", 0, "mode=1777");
	try_mount("mnt", "/sysroot/mnt", "tmpfs", 0, "mode=755");
	try_mount("sys", "/sysroot/sys", "sysfs", 0, "");
	mount("debug", "/sysroot/sys/kernel/debug", "debugfs", 0, "");
	mount("trace", "/sysroot/sys/kernel/tracing", "tracefs", 0, "");
	mount("config", "/sysroot/sys/kernel/config", "configfs", 0, "");
	try_mount("/proc", "/sysroot/proc", "", MS_MOVE, "");
	try_mount("/dev", "/sysroot/dev", "", MS_MOVE, "");
	mkdir("/sysroot/dev/shm", 01777);
	mkdir("/sysroot/dev/pts", 0755);
	try_mount("shm", "/sysroot/dev/shm", "tmpfs", 0, "mode=1777");
	try_mount("pts", "/sysroot/dev/pts", "devpts", 0, "ptmxmode=666");
	symlink("/proc/self/fd", "/sysroot/dev/fd");
	symlink("/proc/self/fd/0", "/sysroot/dev/stdin");
	symlink("/proc/self/fd/1", "/sysroot/dev/stdout");
	symlink("/proc/self/fd/2", "/sysroot/dev/stderr");
}

static void mount_shares(void)
{
	char src[1200], dst[1200];
	struct utsname uts;

	uname(&uts);
	if (*modules) {
		snprintf(src, sizeof(src), "/lower%s", modules);
		snprintf(dst, sizeof(dst), "/sysroot/lib/modules/%s", uts.release);
		make_dirs(dst);
		try_mount(src, dst, "", MS_BIND, "");
	}
	mkdir("/sysroot/run/lock", 01777);
	mkdir("/sysroot/run/vmctl", 0755);
	try_mount("vmctl", "/sysroot/run/vmctl", "9p", 0, P9_OPTIONS "none");
	snprintf(dst, sizeof(dst), "/sysroot%s", checkout);
	make_dirs(dst);
	try_mount("checkout", dst, "9p", 0, P9_OPTIONS "none");
}

static void loopback_up(void)
{
	struct ifreq req = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	ioctl(fd, SIOCSIFFLAGS, &req);
	close(fd);
}

static void run_command(void)
{
	static char *const env[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TERM=dumb", "LANG=C", "DM_DISABLE_UDEV=1", "LIVECHAIN_VM=1", NULL
	};
	int in = open("/dev/null", O_RDONLY), out = open("/dev/vport0p1", O_WRONLY);

	setsid();
	dup2(in, 0);
	if (out >= 0) {
		dup2(out, 1);
		dup2(out, 2);
	}
	if (chdir(checkout))
		_exit(126);
	execle("/bin/bash", "bash", "/run/vmctl/cmd", (char *)NULL, env);
	_exit(127);
}

static int run_and_wait(void)
{
	pid_t pid = fork(), done;
	int status;

	if (!pid)
		run_command();
	do {
		done = wait(&status);
	} while (done != pid && !(done < 0 && errno == ECHILD));
	if (done != pid)
		return 125;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	static const char *const dirs[] = { "/proc", "/dev", "/lower", "/upper", "/sysroot" };
	char rc[16];
	int fd;

	if (argc > 1 && !strcmp(argv[1], "--tsc-khz"))
		return tsc_khz();
	if (getpid() != 1)
		return 2;
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		mkdir(dirs[i], 0755);
	mount("proc", "/proc", "proc", 0, "");
	mount("dev", "/dev", "devtmpfs", 0, "");
	fd = open("/dev/console", O_RDWR);
	if (fd >= 0)
		for (int i = 0; i < 3; i++)
			dup2(fd, i);
	load_modules();
	read_cmdline();
	mount_root();
	mount_shares();
	if (chroot("/sysroot") || chdir("/")) {
		dprintf(2, "vm-init: no root: %s\n", strerror(errno));
		end_machine();
	}
	sethostname("vm", 2);
	loopback_up();
	put_file("/run/vmctl/up", "1\n");
	snprintf(rc, sizeof(rc), "%d\n", run_and_wait());
	put_file("/run/vmctl/rc", rc);
	end_machine();
}
