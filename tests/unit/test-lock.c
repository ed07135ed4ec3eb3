// SPDX-License-Identifier: GPL-2.0-or-later
/* Image locks against real qemu-img and qemu-io, both ways. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "image/lock.h"
#include "lib/cleanup.h"

static char dir[] = "/var/tmp/livechain-lock-XXXXXX";
static char image[128];

/* Runs a command; its output (both streams) goes to @out. Returns the exit status. */
static int sh(char *out, size_t len, const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;
	size_t n;
	FILE *p;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd) - 8, fmt, ap);
	va_end(ap);
	strcat(cmd, " 2>&1");
	p = popen(cmd, "r");
	assert_non_null(p);
	n = fread(out, 1, len - 1, p);
	out[n] = '\0';
	return WEXITSTATUS(pclose(p));
}

static int open_image(void)
{
	int fd = open(image, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int setup(void **state)
{
	char out[512];

	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(image, sizeof(image), "%s/a.qcow2", dir);
	return sh(out, sizeof(out), "qemu-img create -f qcow2 %s 4M", image);
}

static int teardown(void **state)
{
	(void)state;
	unlink(image);
	return rmdir(dir);
}

static void qemu_refuses_our_active_image(void **state)
{
	_cleanup_close_ int fd = open_image();
	struct image_lock l;
	struct err e = ERR_INIT;
	char out[2048];

	(void)state;
	assert_int_equal(image_lock(fd, image, IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED, &l, &e),
			 0);
	assert_int_not_equal(sh(out, sizeof(out), "qemu-img info %s", image), 0);
	assert_non_null(strstr(out, "Failed to get shared \"write\" lock"));
	assert_int_not_equal(sh(out, sizeof(out), "qemu-io -f qcow2 -c 'write 0 64k' %s", image),
			     0);
	assert_non_null(strstr(out, "Failed to get \"write\" lock"));
	assert_int_equal(sh(out, sizeof(out), "qemu-img info -U %s", image), 0);
	image_unlock(fd, &l);
	assert_int_equal(sh(out, sizeof(out), "qemu-img info %s", image), 0);
}

static void qemu_reads_but_does_not_write_our_backing_image(void **state)
{
	_cleanup_close_ int fd = open(image, O_RDONLY | O_CLOEXEC);
	struct image_lock l;
	struct err e = ERR_INIT;
	char out[2048];

	(void)state;
	assert_int_equal(
		image_lock(fd, image, IMAGE_LOCK_BACKING_PERM, IMAGE_LOCK_UNSHARED, &l, &e), 0);
	assert_int_equal(sh(out, sizeof(out), "qemu-img info %s", image), 0);
	assert_int_not_equal(sh(out, sizeof(out), "qemu-io -f qcow2 -c 'write 0 64k' %s", image),
			     0);
	assert_non_null(strstr(out, "Failed to get \"write\" lock"));
}

/* A qemu-io that has the image open for as long as the pipe to it is. */
static pid_t hold_by_qemu(const char *options, int *ret_stdin)
{
	int in[2], fd, tries;
	pid_t pid;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);

		dup2(in[0], 0);
		dup2(null, 1);
		execlp("qemu-io", "qemu-io", "-f", "qcow2", options, image, NULL);
		_exit(127);
	}
	close(in[0]);
	fd = open_image();
	for (tries = 0; tries < 3000; tries++) {
		if (image_lock_test(fd, image, IMAGE_PERM_WRITE, 0, NULL))
			break;
		usleep(20000);
	}
	close(fd);
	assert_true(tries < 3000);
	*ret_stdin = in[1];
	return pid;
}

static void we_refuse_what_qemu_writes(void **state)
{
	_cleanup_close_ int fd = open_image();
	struct image_lock l = { 0, 0 };
	struct err e = ERR_INIT;
	int in, status;
	pid_t pid = hold_by_qemu("-n", &in);

	(void)state;
	assert_int_equal(image_lock(fd, image, IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED, &l, &e),
			 -EAGAIN);
	assert_non_null(strstr(
		e.msg, "Failed to get \"write\" lock. Is another process using the image ["));
	assert_non_null(strstr(e.msg, image));
	err_clear(&e);
	assert_int_equal(
		image_lock(fd, image, IMAGE_LOCK_BACKING_PERM, IMAGE_LOCK_UNSHARED, &l, &e),
		-EAGAIN);
	assert_non_null(strstr(e.msg, "Failed to get shared \"write\" lock"));
	assert_int_equal(l.perm | l.unshared, 0);
	close(in);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(
		image_lock(fd, image, IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED, &l, NULL), 0);
}

static void two_readers_share(void **state)
{
	_cleanup_close_ int fd = open_image();
	_cleanup_close_ int fd2 = open_image();
	struct image_lock l, l2;

	(void)state;
	assert_int_equal(
		image_lock(fd, image, IMAGE_LOCK_BACKING_PERM, IMAGE_LOCK_UNSHARED, &l, NULL), 0);
	assert_int_equal(
		image_lock(fd2, image, IMAGE_LOCK_BACKING_PERM, IMAGE_LOCK_UNSHARED, &l2, NULL), 0);
}

static void a_failed_change_keeps_the_old_set(void **state)
{
	_cleanup_close_ int fd = open_image();
	_cleanup_close_ int fd2 = open_image();
	_cleanup_close_ int fd3 = open_image();
	struct image_lock reader, other;
	struct image_lock writer = { IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED };

	(void)state;
	assert_int_equal(
		image_lock(fd, image, IMAGE_LOCK_BACKING_PERM, IMAGE_LOCK_UNSHARED, &reader, NULL),
		0);
	assert_int_equal(
		image_lock(fd2, image, IMAGE_LOCK_BACKING_PERM, IMAGE_LOCK_UNSHARED, &other, NULL),
		0);
	assert_int_equal(image_lock_change(fd, image, &reader, writer, NULL), -EAGAIN);
	assert_int_equal(reader.perm, IMAGE_LOCK_BACKING_PERM);
	/* Byte 101 is free again, 201 is still held. */
	image_unlock(fd2, &other);
	assert_int_equal(image_lock_test(fd3, image, 0, IMAGE_PERM_WRITE, NULL), 0);
	assert_int_equal(image_lock_test(fd3, image, IMAGE_PERM_WRITE, 0, NULL), -EAGAIN);
	/* Alone it can become the writer, and step back again. */
	assert_int_equal(image_lock_change(fd, image, &reader, writer, NULL), 0);
	assert_int_equal(image_lock_test(fd3, image, 0, IMAGE_PERM_WRITE, NULL), -EAGAIN);
	assert_int_equal(image_lock_change(fd, image, &reader,
					   (struct image_lock){ IMAGE_LOCK_BACKING_PERM,
								IMAGE_LOCK_UNSHARED },
					   NULL),
			 0);
	assert_int_equal(image_lock_test(fd3, image, 0, IMAGE_PERM_WRITE, NULL), 0);
}

static void locks_go_with_the_last_duplicate(void **state)
{
	_cleanup_close_ int fd3 = open_image();
	int fd = open_image();
	int copy = dup(fd);
	struct image_lock l;

	(void)state;
	assert_int_equal(
		image_lock(fd, image, IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED, &l, NULL), 0);
	close(fd);
	assert_int_equal(image_lock_test(fd3, image, IMAGE_PERM_WRITE, 0, NULL), -EAGAIN);
	close(copy);
	assert_int_equal(image_lock_test(fd3, image, IMAGE_PERM_WRITE, 0, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(qemu_refuses_our_active_image),
		cmocka_unit_test(qemu_reads_but_does_not_write_our_backing_image),
		cmocka_unit_test(we_refuse_what_qemu_writes),
		cmocka_unit_test(two_readers_share),
		cmocka_unit_test(a_failed_change_keeps_the_old_set),
		cmocka_unit_test(locks_go_with_the_last_duplicate),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
