// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Power failure and failing I/O. A log of every write, resize and flush is
 * replayed up to each point, with what was not flushed there or not at random: the image
 * must open as it is, without corruption, and with all that had been promised.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2-util.h"

struct scene {
	struct qcow2_create_opts opts;
	unsigned int flags;
	struct q_file *f;
	struct q_log log;
	struct qcow2 *img;
	struct err e;
};

/* A made image; its copy is what crashes are replayed upon. */
static void scene_new(struct scene *s, uint64_t dev_size)
{
	if (s->flags & Q_BDEV)
		q_run("head -c 4M /dev/zero | tr '\\0' '\\377' >c.qcow2 && truncate -s %llu c.qcow2",
		      (unsigned long long)dev_size);
	s->f = q_open_file("c.qcow2", s->flags & Q_BDEV ? Q_BDEV : Q_CREATE);
	q_ok(qcow2_create(s->f->io, &s->opts, &s->e), &s->e);
	q_log_init(&s->log, s->f->io);
	q_ok(qcow2_open(&s->log.io, QCOW2_WRITABLE, &s->img, &s->e), &s->e);
	q_copy("c.qcow2", "c0.qcow2");
}

static void scene_done(struct scene *s)
{
	qcow2_close(s->img);
	q_log_done(&s->log);
	q_close_file(s->f);
}

/* What must hold after any crash; returns the handle's report. */
static struct qcow2_report survive(const struct scene *s, size_t n, bool ask_qemu)
{
	struct qcow2_report report;
	struct err e = ERR_INIT;
	struct q_file *f;
	struct qcow2 *img;

	q_copy("c0.qcow2", "crash.qcow2");
	q_log_replay(&s->log, n, "crash.qcow2");
	f = q_open_file("crash.qcow2", s->flags & Q_BDEV);
	img = q_open(f, QCOW2_WRITABLE);
	q_ok(qcow2_check(img, &report, &e), &e);
	if (report.corruptions)
		fail_msg("after %zu operations: %s", n, report.first);
	if (ask_qemu) {
		int st = q_qemu_check("crash.qcow2");

		if (st != 0 && st != 3)
			fail_msg("after %zu operations: %s", n, q_output("head -c 400 check.out"));
	}
	qcow2_close(img);
	q_close_file(f);
	return report;
}

/* All crash points of the log, a few draws each. */
static void crash_everywhere(const struct scene *s, unsigned int draws)
{
	for (size_t n = 0; n <= s->log.n; n++)
		for (unsigned int i = 0; i < draws; i++)
			survive(s, n, i == 0 && q_rand(10) == 0);
}

/* A block device may be too small for what was drawn: a refusal is an answer, too. */
static bool done(struct scene *s, int r)
{
	if (r == -ENOSPC && (s->flags & Q_BDEV)) {
		err_clear(&s->e);
		return false;
	}
	q_ok(r, &s->e);
	return true;
}

static void change_at_random(struct scene *s, unsigned int steps)
{
	struct qcow2_range *v[8] = { 0 };
	struct qcow2_table *t;
	size_t n[8], nt;

	for (unsigned int i = 0; i < steps; i++) {
		unsigned int k = q_rand(8);
		uint64_t off = q_rand(s->opts.size);

		if (q_rand(3) == 0) {
			if (done(s, qcow2_prepare_tables(s->img, off, 1 + q_rand(s->opts.size / 4),
							 &t, &nt, &s->e)))
				free(t);
		} else if (!v[k]) {
			if (!done(s, qcow2_alloc_clusters(s->img, 1 + q_rand(1u << q_rand(11)), 0,
							  &v[k], &n[k], &s->e)))
				v[k] = NULL;
		} else {
			q_ok(qcow2_free_clusters(s->img, v[k], n[k], 0, &s->e), &s->e);
			free(v[k]);
			v[k] = NULL;
		}
	}
	for (int k = 0; k < 8; k++)
		free(v[k]);
}

static void crash_in_changes(void **state)
{
	static const struct qcow2_create_opts shapes[] = {
		{ .size = 1ull << 30, .cluster_bits = 12, .refcount_bits = 64 }, /* blocks often */
		{ .size = 1ull << 30, .cluster_bits = 12, .refcount_bits = 1 },
		{ .size = 64ull << 30, .cluster_bits = 16 },
		{ .size = 1ull << 30, .cluster_bits = 13, .version = 2 },
	};

	(void)state;
	for (size_t i = 0; i < 2 * ARRAY_SIZE(shapes); i++) {
		struct scene s = { .opts = shapes[i / 2], .flags = i % 2 ? Q_BDEV : 0 };

		scene_new(&s, s.opts.cluster_bits == 16 ? 96 << 20 : 32 << 20);
		change_at_random(&s, 8);
		crash_everywhere(&s, 2);
		scene_done(&s);
	}
}

static int grow_only(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	uint64_t size;
	int r = q->size(q, &size, e);

	return r == 0 && size < off + len ? q->truncate(q, off + len, e) : r;
}

/* The refcount table grows: 4 KiB clusters, 64 bits: every GiB. */
static void crash_in_table_growth(void **state)
{
	struct scene s = { .opts = { .size = 64 << 20, .cluster_bits = 12, .refcount_bits = 64 } };
	struct qcow2_range *v;
	struct qcow2_table *t;
	uint32_t before;
	size_t n;

	(void)state;
	scene_new(&s, 0);
	before = s.img->hdr.rt_clusters;
	q_ok(qcow2_prepare_tables(s.img, 0, s.opts.size, &t, &n, &s.e), &s.e);
	free(t);
	/* 1 GiB behind the end, as a hole: the space itself is not the point here. */
	s.f->io->allocate = grow_only;
	q_ok(qcow2_alloc_clusters(s.img, 262144, 0, &v, &n, &s.e), &s.e);
	free(v);
	assert_true(s.img->hdr.rt_clusters > before);
	q_check_clean("c.qcow2", s.img, 262144);
	for (size_t k = s.log.n - 10; k <= s.log.n; k++)
		survive(&s, k, k % 5 == 0);
	scene_done(&s);
}

/* What a call has returned is there, whatever happens next. */
static void promises_hold(void **state)
{
	struct scene s = { .opts = { .size = 1ull << 30, .cluster_bits = 12, .refcount_bits = 32 } };
	struct qcow2_range *v;
	struct qcow2_table *t;
	struct qcow2_report report;
	size_t n, at;

	(void)state;
	scene_new(&s, 0);
	for (int i = 0; i < 6; i++) {
		uint64_t count = 1 + q_rand(2000), leaks;

		q_ok(qcow2_alloc_clusters(s.img, count, 0, &v, &n, &s.e), &s.e);
		at = s.log.n;
		report = survive(&s, at, true);
		leaks = report.leaks;
		assert_true(leaks >= count); /* refcounts are 1 */
		q_ok(qcow2_free_clusters(s.img, v, n, 0, &s.e), &s.e);
		free(v);
		assert_int_equal(survive(&s, s.log.n, true).leaks, leaks - count);
		q_ok(qcow2_prepare_tables(s.img, i * (64ull << 20), 64 << 20, &t, &n, &s.e), &s.e);
		{
			struct q_file *f;
			struct qcow2 *img;
			uint8_t buf[4096] = { 0 }, zero[4096] = { 0 };

			survive(&s, s.log.n, true);
			f = q_open_file("crash.qcow2", 0);
			img = q_open(f, 0);
			for (size_t k = 0; k < n; k++) {
				assert_int_equal(img->l1[t[k].guest_off / region_size(img)],
						 t[k].host_off | ENTRY_COPIED);
				q_ok(f->io->pread(f->io, buf, 4096, t[k].host_off, &s.e), &s.e);
				assert_memory_equal(buf, zero, 4096);
			}
			qcow2_close(img);
			q_close_file(f);
		}
		free(t);
	}
	scene_done(&s);
}

static void few_flushes(void **state)
{
	struct scene s = { .opts = { .size = 1ull << 40 } };
	struct qcow2_range *v;
	struct qcow2_table *t;
	unsigned int before;
	size_t n;

	(void)state;
	scene_new(&s, 0);
	for (int i = 0; i < 4; i++) {
		before = s.log.flushes;
		q_ok(qcow2_alloc_clusters(s.img, 1024, 0, &v, &n, &s.e), &s.e);
		free(v);
		assert_int_equal(s.log.flushes - before, 1);
	}
	before = s.log.flushes;
	q_ok(qcow2_prepare_tables(s.img, 0, 512ull << 30, &t, &n, &s.e), &s.e);
	free(t);
	assert_int_equal(s.log.flushes - before, 2);
	scene_done(&s);
}

/* Each operation fails once, at each of its writes: no corruption, and no more changes. */
static void failing_writes(void **state)
{
	(void)state;
	for (long at = 0; at < 40; at++) {
		struct scene s = { .opts = { .size = 1ull << 30, .cluster_bits = 12,
					     .refcount_bits = 64 } };
		struct qcow2_range *v;
		struct qcow2_table *t = NULL;
		struct qcow2_report report;
		size_t n;
		int r;

		scene_new(&s, 0);
		q_ok(qcow2_alloc_clusters(s.img, 100, 0, &v, &n, &s.e), &s.e);
		free(v);
		s.log.fail_at = at;
		s.log.fail_code = q_rand(2) ? EIO : ENOSPC;
		r = q_rand(2) ? qcow2_prepare_tables(s.img, 0, s.opts.size, &t, &n, NULL) :
				qcow2_alloc_clusters(s.img, 3000, 0, &v, &n, NULL);
		if (r == 0)
			free(t ? (void *)t : v);
		else
			assert_true(r == -s.log.fail_code);
		if (s.img->failed) {
			s.log.fail_at = -1;
			assert_int_equal(qcow2_alloc_clusters(s.img, 1, 0, &v, &n, NULL), -EIO);
		}
		qcow2_close(s.img);
		q_ok(qcow2_open(s.f->io, QCOW2_WRITABLE, &s.img, &s.e), &s.e);
		q_ok(qcow2_check(s.img, &report, &s.e), &s.e);
		if (report.corruptions)
			fail_msg("write %ld failed: %s", at, report.first);
		q_ok(qcow2_alloc_clusters(s.img, 10, 0, &v, &n, &s.e), &s.e);
		free(v);
		scene_done(&s);
	}
}

/* A full disk changes nothing; when there is room again it goes on. */
static void no_space(void **state)
{
	struct scene s = { .opts = { .size = 1ull << 30 } };
	struct qcow2_range *v;
	struct qcow2_report report;
	uint64_t size, after;
	size_t n;

	(void)state;
	scene_new(&s, 0);
	q_ok(qcow2_begin_write(s.img, &s.e), &s.e);
	q_ok(s.f->io->size(s.f->io, &size, &s.e), &s.e);
	s.log.fail_code = ENOSPC;
	for (long at = 0; at < 2; at++) {
		s.log.fail_at = at;
		assert_int_equal(qcow2_alloc_clusters(s.img, 40000, 0, &v, &n, NULL), -ENOSPC);
		assert_false(s.img->failed);
		q_ok(s.f->io->size(s.f->io, &after, &s.e), &s.e);
		assert_int_equal(after, size);
	}
	q_ok(qcow2_alloc_clusters(s.img, 40, 0, &v, &n, &s.e), &s.e);
	free(v);
	q_ok(qcow2_check(s.img, &report, &s.e), &s.e);
	assert_int_equal(report.corruptions, 0);
	assert_int_equal(report.leaks, 40);
	scene_done(&s);
}

/* A crash in create leaves no image, or all of it. */
static void crash_in_create(void **state)
{
	struct qcow2_create_opts o = { .size = 4ull << 30, .cluster_bits = 12 };

	(void)state;
	for (unsigned int flags = 0; flags <= Q_BDEV; flags += Q_BDEV) {
		struct q_log log;
		struct q_file *f;
		struct err e = ERR_INIT;

		/* Over an older image. */
		q_run("rm -f n.qcow2; qemu-img create -q -f qcow2 n.qcow2 64M && "
		      "qemu-io -f qcow2 -c 'write 0 8M' n.qcow2 >/dev/null && cp n.qcow2 n0.qcow2");
		f = q_open_file("n.qcow2", flags);
		q_log_init(&log, f->io);
		q_ok(qcow2_create(&log.io, &o, &e), &e);
		for (size_t n = 1; n <= log.n; n++) {
			struct q_file *c;
			struct qcow2 *img;
			int r;

			q_copy("n0.qcow2", "crash.qcow2");
			q_log_replay(&log, n, "crash.qcow2");
			c = q_open_file("crash.qcow2", 0);
			r = qcow2_open(c->io, QCOW2_WRITABLE, &img, NULL);
			if (r == 0) {
				struct qcow2_report report;

				q_ok(qcow2_check(img, &report, &e), &e);
				/* The old one, untouched, or the new one. */
				assert_true(report.corruptions == 0 || n < 3);
				qcow2_close(img);
			}
			if (n == log.n)
				assert_int_equal(r, 0);
			q_close_file(c);
		}
		q_log_done(&log);
		q_close_file(f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crash_in_changes),
		cmocka_unit_test(crash_in_table_growth),
		cmocka_unit_test(promises_hold),
		cmocka_unit_test(few_flushes),
		cmocka_unit_test(failing_writes),
		cmocka_unit_test(no_space),
		cmocka_unit_test(crash_in_create),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
