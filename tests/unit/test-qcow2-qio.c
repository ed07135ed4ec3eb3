// SPDX-License-Identifier: GPL-2.0-or-later
/* Image I/O on files and (as root) a loop device: any alignment, with and without O_DIRECT. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qcow2-util.h"

#define SIZE (3u << 20)

/* Random reads and writes of every alignment against a copy in memory. */
static void compare_with_memory(struct qio *io, uint64_t limit)
{
	uint8_t *model = calloc(1, SIZE), *buf = malloc(SIZE);
	struct err e = ERR_INIT;

	q_ok(io->zero(io, 0, limit, &e), &e);
	for (int i = 0; i < 300; i++) {
		uint64_t off = q_rand(limit), len = 1 + q_rand(q_rand(4) ? 9000 : limit);
		uint64_t align = q_rand(3) ? 1 : q_rand(2) ? 512 : 4096;

		off &= ~(align - 1);
		len = len < limit - off ? len : limit - off;
		if (q_rand(2)) {
			memset(buf, q_rand(256), len);
			buf[q_rand(len)] = 1;
			memcpy(model + off, buf, len);
			q_ok(io->pwrite(io, buf, len, off, &e), &e);
		} else if (q_rand(8) == 0) {
			memset(model + off, 0, len);
			q_ok(io->zero(io, off, len, &e), &e);
		} else {
			q_ok(io->pread(io, buf, len, off, &e), &e);
			assert_memory_equal(buf, model + off, len);
		}
	}
	q_ok(io->pread(io, buf, limit, 0, &e), &e);
	assert_memory_equal(buf, model, limit);
	free(model);
	free(buf);
}

static void files(void **state)
{
	(void)state;
	for (unsigned int flags = 0; flags <= Q_DIRECT; flags += Q_DIRECT) {
		struct q_file *f = q_open_file("x", Q_CREATE | flags);

		compare_with_memory(f->io, SIZE);
		compare_with_memory(f->io, SIZE - 12345);
		q_close_file(f);
	}
}

/* A file that ends anywhere reads as zeros behind its end, and grows. */
static void behind_the_end(void **state)
{
	(void)state;
	for (unsigned int flags = 0; flags <= Q_DIRECT; flags += Q_DIRECT) {
		struct q_file *f;
		struct err e = ERR_INIT;
		uint8_t buf[20000];
		uint64_t size;

		q_run("head -c 5001 /dev/zero | tr '\\0' '\\101' >x");
		f = q_open_file("x", flags);
		memset(buf, 9, sizeof(buf));
		q_ok(f->io->pread(f->io, buf, sizeof(buf), 1, &e), &e);
		for (size_t i = 0; i < sizeof(buf); i++)
			assert_int_equal(buf[i], i < 5000 ? 'A' : 0);
		memset(buf, 'B', sizeof(buf));
		q_ok(f->io->pwrite(f->io, buf, 10, 9000, &e), &e);
		q_ok(f->io->pread(f->io, buf, 5000, 5000, &e), &e);
		assert_int_equal(buf[0], 'A');
		assert_int_equal(buf[1], 0);
		assert_int_equal(buf[4000], 'B');
		assert_int_equal(buf[4010], 0);
		q_ok(f->io->allocate(f->io, 4000, 1 << 20, &e), &e);
		q_ok(f->io->size(f->io, &size, &e), &e);
		assert_int_equal(size, 4000 + (1 << 20));
		q_ok(f->io->pread(f->io, buf, 5000, 5000, &e), &e);
		assert_int_equal(buf[0], 'A'); /* kept */
		q_ok(f->io->truncate(f->io, 5000, &e), &e);
		q_ok(f->io->truncate(f->io, 9000, &e), &e);
		q_ok(f->io->pread(f->io, buf, 4001, 4999, &e), &e);
		assert_int_equal(buf[0], 'A');
		assert_int_equal(buf[1], 0);
		q_close_file(f);
	}
}

static void refusals(void **state)
{
	struct q_file *f = q_open_file("x", Q_CREATE);
	struct err e = ERR_INIT;
	struct qio *io;
	uint8_t b = 0;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)state;
	assert_int_equal(qio_file_new(fd, "null", &io, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "'null' is neither"));
	err_clear(&e);
	assert_int_equal(qio_file_new(-1, "none", &io, &e), -EBADF);
	err_clear(&e);
	assert_int_equal(f->io->pwrite(f->io, &b, 1, UINT64_MAX, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "'x'"));
	assert_int_equal(f->io->pread(f->io, &b, 1, INT64_MAX, NULL), -EFBIG);
	assert_int_equal(f->io->allocate(f->io, 1, UINT64_MAX, NULL), -EFBIG);
	q_close_file(f);
	fd = open(q_path("x"), O_RDONLY | O_CLOEXEC);
	q_ok(qio_file_new(fd, "ro", &io, &e), &e);
	err_clear(&e);
	assert_int_equal(io->pwrite(io, &b, 1, 0, &e), -EBADF);
	assert_non_null(strstr(e.msg, "cannot write 1 bytes at offset 0 of 'ro'"));
	qio_free(io);
	close(fd);
}

/* A block device whose size is not a multiple of 4 KiB, with a qcow2 image on it. */
static void block_device(void **state)
{
	struct qcow2_create_opts o = { .size = 64 << 20, .cluster_bits = 12 };
	struct qcow2_range *v;
	struct qcow2_table *t;
	struct qcow2 *img;
	struct err e = ERR_INIT;
	struct qio *io;
	uint8_t b = 1;
	char *dev;
	size_t n;
	int fd;

	(void)state;
	if (geteuid() || q_status("truncate -s %u loop && losetup -f >/dev/null 2>&1", SIZE - 1536)) {
		print_message("# no loop device to be had\n");
		skip();
	}
	dev = q_output("losetup -f --show loop | tr -d '\\n'");
	fd = open(dev, O_RDWR | O_CLOEXEC | O_DIRECT);
	assert_true(fd >= 0);
	q_run("losetup -d %s", dev); /* goes with the last close, however the test ends */
	q_ok(qio_file_new(fd, dev, &io, &e), &e);
	assert_true(io->is_bdev);
	assert_int_equal(io->capacity, SIZE - 1536);
	compare_with_memory(io, SIZE - 1536);
	assert_int_equal(io->truncate(io, 0, NULL), -EINVAL);
	assert_int_equal(io->pwrite(io, &b, 1, SIZE - 1536, NULL), -ENOSPC);
	assert_int_equal(io->allocate(io, SIZE - 4096, 4096, NULL), -ENOSPC);
	q_ok(qcow2_create(io, &o, &e), &e);
	q_ok(qcow2_open(io, QCOW2_WRITABLE, &img, &e), &e);
	q_ok(qcow2_prepare_tables(img, 0, 64 << 20, &t, &n, &e), &e);
	assert_int_equal(n, 32);
	free(t);
	q_ok(qcow2_alloc_clusters(img, 600, 0, &v, &n, &e), &e);
	assert_int_equal(qcow2_alloc_clusters(img, 200, 0, &v, &n, NULL), -ENOSPC);
	q_ok(qcow2_free_clusters(img, v, n, 0, &e), &e);
	free(v);
	q_run("qemu-img check -q -f qcow2 %s", dev);
	qcow2_close(img);
	qio_free(io);
	close(fd);
	free(dev);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files),
		cmocka_unit_test(behind_the_end),
		cmocka_unit_test(refusals),
		cmocka_unit_test(block_device),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
