// SPDX-License-Identifier: GPL-2.0-or-later
/* Loop devices; needs root and /dev/loop-control, else everything is skipped. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/loop.h"
#include "image/lock.h"
#include "lib/cleanup.h"

#define SIZE (4 << 20)

static char dir[] = "/var/tmp/livechain-loop-XXXXXX";
static char image[128];
static bool buffered; /* the folder's file system has no direct I/O (a VM's overlay) */

static int open_image(void)
{
	int fd = open(image, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static struct loop_options options(void)
{
	return (struct loop_options){ .path = image, .allow_buffered = buffered };
}

static void need_loop(void)
{
	if (access("/dev/loop-control", R_OK | W_OK))
		skip();
}

static int setup(void **state)
{
	int fd;

	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(image, sizeof(image), "%s/a.raw", dir);
	fd = open(image, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, SIZE))
		return -1;
	close(fd);
	fd = open(image, O_RDWR | O_DIRECT);
	buffered = fd < 0;
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(image);
	return rmdir(dir);
}

static bool in_use(int number)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/loop%d/loop/backing_file", number);
	return access(path, F_OK) == 0;
}

/* The kernel takes it down after the close, not in it; udev may have it open, too. */
static bool is_gone(int number)
{
	int tries;

	for (tries = 0; tries < 1500 && in_use(number); tries++)
		usleep(20000);
	return !in_use(number);
}

/* Given up, its device is gone, and nothing is left of it that could be taken for another's. */
static bool release(struct loop_dev *dev)
{
	int number = dev->number;

	loop_detach(dev);
	return is_gone(number) && dev->number < 0 && !dev->devno;
}

static void attach_reads_and_writes_the_file(void **state)
{
	_cleanup_close_ int fd = open_image();
	struct loop_options opt = options();
	struct loop_dev dev = LOOP_DEV_INIT;
	struct err e = ERR_INIT;
	char buf[512] = "through the loop device", back[512];
	uint64_t size;
	int sector = 0;

	(void)state;
	need_loop();
	if (loop_attach(fd, &opt, &dev, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(dev.direct_io, !buffered);
	assert_false(dev.read_only);
	assert_int_equal(ioctl(dev.fd, BLKGETSIZE64, &size), 0);
	assert_int_equal(size, SIZE);
	assert_int_equal(ioctl(dev.fd, BLKSSZGET, &sector), 0);
	assert_int_equal(sector, 512);
	assert_int_equal(pwrite(dev.fd, buf, 512, 1024), 512);
	assert_int_equal(fsync(dev.fd), 0);
	assert_int_equal(pread(fd, back, 512, 1024), 512);
	assert_memory_equal(buf, back, 512);
	assert_true(release(&dev));
}

static void grows_with_the_file(void **state)
{
	_cleanup_close_ int fd = open_image();
	struct loop_options opt = options();
	struct loop_dev dev = LOOP_DEV_INIT;
	uint64_t size;

	(void)state;
	need_loop();
	assert_int_equal(loop_attach(fd, &opt, &dev, NULL), 0);
	assert_int_equal(ftruncate(fd, 2 * SIZE), 0);
	assert_int_equal(ioctl(dev.fd, BLKGETSIZE64, &size), 0);
	assert_int_equal(size, SIZE);
	assert_int_equal(loop_set_capacity(&dev, NULL), 0);
	assert_int_equal(ioctl(dev.fd, BLKGETSIZE64, &size), 0);
	assert_int_equal(size, 2 * SIZE);
	assert_int_equal(ftruncate(fd, SIZE), 0);
	assert_true(release(&dev));
}

static void read_only_refuses_writes(void **state)
{
	_cleanup_close_ int fd = open(image, O_RDONLY | O_CLOEXEC);
	struct loop_options opt = options();
	struct loop_dev dev = LOOP_DEV_INIT;
	struct err e = ERR_INIT;
	int ro = 0;

	(void)state;
	need_loop();
	/* A descriptor that can't write is not enough for a writable device. */
	assert_int_equal(loop_attach(fd, &opt, &dev, &e), -EROFS);
	assert_non_null(strstr(e.msg, image));
	assert_int_equal(dev.fd, -1);
	opt.read_only = true;
	assert_int_equal(loop_attach(fd, &opt, &dev, NULL), 0);
	assert_true(dev.read_only);
	assert_true(pwrite(dev.fd, "x", 1, 0) < 0);
	assert_int_equal(ioctl(dev.fd, BLKROGET, &ro), 0);
	assert_int_equal(ro, 1);
	assert_true(release(&dev));
}

static void is_found_by_file_and_by_number(void **state)
{
	_cleanup_close_ int fd = open_image();
	struct loop_options opt = options();
	struct loop_dev dev = LOOP_DEV_INIT, found = LOOP_DEV_INIT;
	struct stat st;
	dev_t devno;

	(void)state;
	need_loop();
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(loop_find(st.st_dev, st.st_ino, 0, &found, NULL), -ENOENT);
	assert_int_equal(loop_attach(fd, &opt, &dev, NULL), 0);
	assert_int_equal(loop_find(st.st_dev, st.st_ino, 512, &found, NULL), -ENOENT);
	assert_int_equal(loop_find(st.st_dev, st.st_ino, 0, &found, NULL), 0);
	assert_int_equal(found.number, dev.number);
	assert_int_equal(found.direct_io, dev.direct_io);
	assert_int_equal(found.devno, dev.devno);
	loop_detach(&found);
	assert_int_equal(loop_open(dev.devno, &found, NULL), 0);
	assert_int_equal(found.number, dev.number);
	/* The finder's hold alone keeps it. */
	loop_detach(&dev);
	assert_true(in_use(found.number));
	devno = found.devno;
	assert_true(release(&found));
	assert_int_equal(loop_open(devno, &dev, NULL), -ENOENT);
}

static void a_device_that_is_buffered_is_refused(void **state)
{
	char path[] = "/dev/shm/livechain-loop-XXXXXX";
	_cleanup_close_ int fd = -1;
	struct loop_options opt = { .path = path };
	struct loop_dev dev = LOOP_DEV_INIT;
	struct err e = ERR_INIT;
	int r;

	(void)state;
	need_loop();
	fd = mkstemp(path);
	if (fd < 0)
		skip();
	assert_int_equal(ftruncate(fd, SIZE), 0);
	r = loop_attach(fd, &opt, &dev, &e);
	unlink(path);
	if (r == 0) { /* tmpfs has had direct I/O since 6.6 */
		assert_true(dev.direct_io);
		loop_detach(&dev);
		skip();
	}
	assert_int_equal(r, -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "no direct I/O"));
	opt.allow_buffered = true;
	assert_int_equal(loop_attach(fd, &opt, &dev, NULL), 0);
	assert_false(dev.direct_io);
	loop_detach(&dev);
}

/* A child locks, attaches and is killed; someone else (a dm table) holds the device. */
static void locks_outlive_a_killed_daemon(void **state)
{
	_cleanup_close_ int other = open_image();
	int pipefd[2], status, holder, number;
	char path[32];
	pid_t pid;

	(void)state;
	need_loop();
	assert_int_equal(pipe(pipefd), 0);
	pid = fork();
	if (!pid) {
		int fd = open(image, O_RDWR);
		struct loop_options opt = options();
		struct loop_dev dev = LOOP_DEV_INIT;
		struct image_lock l;

		if (image_lock(fd, image, IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED, &l, NULL) ||
		    loop_attach(fd, &opt, &dev, NULL))
			_exit(1);
		if (write(pipefd[1], &dev.number, sizeof(dev.number)) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	close(pipefd[1]);
	assert_int_equal(read(pipefd[0], &number, sizeof(number)), sizeof(number));
	close(pipefd[0]);
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	holder = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(holder >= 0);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	assert_true(in_use(number));
	assert_int_equal(image_lock_test(other, image, IMAGE_PERM_WRITE, 0, NULL), -EAGAIN);
	assert_int_equal(image_lock_test(other, image, 0, IMAGE_PERM_WRITE, NULL), -EAGAIN);
	close(holder);
	assert_true(is_gone(number));
	for (status = 0; status < 1500; status++) { /* the file goes shortly after */
		if (!image_lock_test(other, image, IMAGE_PERM_WRITE, IMAGE_PERM_WRITE, NULL))
			break;
		usleep(20000);
	}
	assert_true(status < 1500);
}

#define RACERS 6

static void *racer(void *arg)
{
	struct loop_dev *dev = arg;
	int fd = open_image();
	struct loop_options opt = options();

	if (loop_attach(fd, &opt, dev, NULL))
		dev->fd = -1;
	close(fd);
	return NULL;
}

static void racing_attaches_get_different_devices(void **state)
{
	struct loop_dev dev[RACERS];
	pthread_t t[RACERS];
	int i, j;

	(void)state;
	need_loop();
	for (i = 0; i < RACERS; i++) {
		dev[i] = (struct loop_dev)LOOP_DEV_INIT;
		assert_int_equal(pthread_create(&t[i], NULL, racer, &dev[i]), 0);
	}
	for (i = 0; i < RACERS; i++)
		pthread_join(t[i], NULL);
	for (i = 0; i < RACERS; i++) {
		assert_true(dev[i].fd >= 0);
		for (j = 0; j < i; j++)
			assert_int_not_equal(dev[i].number, dev[j].number);
	}
	for (i = 0; i < RACERS; i++)
		loop_detach(&dev[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(attach_reads_and_writes_the_file),
		cmocka_unit_test(grows_with_the_file),
		cmocka_unit_test(read_only_refuses_writes),
		cmocka_unit_test(is_found_by_file_and_by_number),
		cmocka_unit_test(a_device_that_is_buffered_is_refused),
		cmocka_unit_test(locks_outlive_a_killed_daemon),
		cmocka_unit_test(racing_attaches_get_different_devices),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
