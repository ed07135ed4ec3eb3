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

/* After any crash the header names one of two backing files, whole, with its format. */
static void one_of_two(const struct scene *s, size_t n, const char *const *old,
		       const char *const *new)
{
	struct qcow2_info info;
	struct q_file *f;
	struct qcow2 *img;
	const char *const *got;

	q_copy("c0.qcow2", "crash.qcow2");
	q_log_replay_torn(&s->log, n, "crash.qcow2");
	f = q_open_file("crash.qcow2", 0);
	img = q_open(f, 0);
	qcow2_get_info(img, &info);
	got = (info.backing_file && new[0])   ? strcmp(info.backing_file, new[0]) ? old : new
	      : !info.backing_file == !new[0] ? new
					      : old;
	if (!got[0]) {
		assert_null(info.backing_file);
	} else {
		assert_non_null(info.backing_file);
		assert_string_equal(info.backing_file, got[0]);
		assert_string_equal(info.backing_format, got[1]);
	}
	if (n == s->log.n)
		assert_ptr_equal(got, new);
	if (q_rand(20) == 0) {
		char *out =
			q_output("qemu-img info -U crash.qcow2 | grep -c 'backing file: %s$'; true",
				 got[0] ? got[0] : ".*");

		assert_int_equal(atoi(out), got[0] != NULL);
		free(out);
	}
	qcow2_close(img);
	q_close_file(f);
}

/* The header's way from one backing file to another: one sector decides. */
static void crash_in_set_backing(void **state)
{
	static char longer[700];
	const char *names[][2] = { { "/some/where/one.qcow2", "qcow2" },
				   { "/d", "raw" },
				   { "/some/where/else/with/a/long/name/two.qcow2", "qcow2" },
				   { longer, "raw" },
				   { "/some/where/three.qcow2", "qcow2" },
				   { NULL, NULL } };

	(void)state;
	memset(longer, 'x', sizeof(longer) - 1);
	for (unsigned int shape = 0; shape < 3; shape++) {
		struct scene s = { .opts = { .size = 8 << 20,
					     .cluster_bits = shape == 1 ? 16 : 12,
					     .version = shape == 2 ? 2 : 3,
					     .backing_file = names[0][0],
					     .backing_format = names[0][1] } };

		scene_new(&s, 0);
		for (size_t i = 1; i < ARRAY_SIZE(names); i++) {
			size_t before = s.log.n;

			q_ok(qcow2_set_backing(s.img, names[i][0], names[i][1], &s.e), &s.e);
			for (size_t n = before + 1; n <= s.log.n; n++)
				for (unsigned int draw = 0; draw < 20; draw++)
					one_of_two(&s, n, names[i - 1], names[i]);
		}
		scene_done(&s);
	}
}

/* What QEMU reads: as it was, then zeros; nothing of what lay behind the old end is seen. */
static void reads_grown(const char *name, uint64_t size)
{
	q_run("truncate -s %llu want.raw && qemu-img compare -q -f qcow2 -F raw %s want.raw",
	      (unsigned long long)size, name);
}

/* After any crash the disk has its old size or its new one, and its content. */
static void one_of_two_sizes(const struct scene *s, size_t n, uint64_t old, uint64_t new)
{
	struct qcow2_info info;
	struct q_file *f;
	struct qcow2 *img;

	survive(s, n, q_rand(10) == 0);
	f = q_open_file("crash.qcow2", s->flags & Q_BDEV);
	img = q_open(f, 0);
	qcow2_get_info(img, &info);
	assert_true(info.virtual_size == new || (info.virtual_size == old && n < s->log.n));
	qcow2_close(img);
	q_close_file(f);
	if (q_rand(8) == 0)
		reads_grown("crash.qcow2", info.virtual_size);
}

/* Inside the table, into a new one of more clusters, from nothing; with a tail in its last cluster. */
static void crash_in_growth(void **state)
{
	static const uint64_t sizes[][3] = { { 1 << 20, 3 << 20, 4 << 20 },
					     { 5 << 20, 1200 << 20, 2300ull << 20 },
					     { (3 << 20) + 512, (3 << 20) + 1024, 3000ull << 20 },
					     { 0, 512, 1100 << 20 } };

	(void)state;
	for (size_t k = 0; k < 2 * ARRAY_SIZE(sizes); k++) {
		const uint64_t *z = sizes[k / 2];
		struct scene s = { .opts = { .size = z[0], .cluster_bits = 12, .version = 2 + k % 2 } };
		uint64_t size = z[0];
		uint8_t buf[8];

		scene_new(&s, 0);
		qcow2_close(s.img);
		/* data at both ends, and rubbish behind the end of the last cluster */
		q_run("cp c.qcow2 w.qcow2 && truncate -s %llu want.raw", (unsigned long long)size);
		if (size) {
			q_run("qemu-img resize -q -f qcow2 c.qcow2 %llu && "
			      "qemu-io -f qcow2 -c 'write -q -P 7 0 64k' -c 'write -q -P 8 %llu 4k' c.qcow2 && "
			      "qemu-img convert -f qcow2 -O raw c.qcow2 want.raw && "
			      "truncate -s %llu want.raw",
			      (unsigned long long)round_up_to(size, 4096),
			      (unsigned long long)(round_up_to(size, 4096) - 4096),
			      (unsigned long long)size);
			/* the old size again, as somebody who does not wipe writes it */
			put64(buf, size);
			q_ok(s.f->io->pwrite(s.f->io, buf, sizeof(buf), H_SIZE, &s.e), &s.e);
		}
		q_copy("c.qcow2", "c0.qcow2");
		q_ok(qcow2_open(&s.log.io, QCOW2_WRITABLE, &s.img, &s.e), &s.e);
		for (size_t i = 1; i < 3; i++) {
			size_t before = s.log.n;

			q_ok(qcow2_grow(s.img, z[i], 0, &s.e), &s.e);
			for (size_t n = before + 1; n <= s.log.n; n++)
				one_of_two_sizes(&s, n, size, z[i]);
			size = z[i];
		}
		q_check_clean("c.qcow2", s.img, 0);
		reads_grown("c.qcow2", size);
		assert_int_equal(qcow2_grow(s.img, size - 512, 0, NULL), -EINVAL);
		scene_done(&s);
	}
}

/* The same above a longer backing file, of which no more may be seen at any instant. */
static void crash_in_hidden_growth(void **state)
{
	static const uint64_t sizes[][3] = { { 1 << 20, 3 << 20, 4 << 20 },
					     { 5 << 20, 1200 << 20, 2300ull << 20 },
					     { 2 << 20, (2 << 20) + 512, 9 << 20 },
					     { 0, 4096, 1100 << 20 } };
	const uint64_t longer = 1500 << 20;

	(void)state;
	q_run("truncate -s %llu b.raw && qemu-io -f raw -c 'write -q -P 5 0 9M' -c 'write -q -P 6 1190M 20M' b.raw",
	      (unsigned long long)longer);
	for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
		const uint64_t *z = sizes[k];
		struct scene s = { .opts = { .size = z[0],
					     .cluster_bits = 12,
					     .backing_file = "b.raw",
					     .backing_format = "raw" } };

		scene_new(&s, 0);
		q_run("cp --sparse=always b.raw want.raw && truncate -s %llu want.raw",
		      (unsigned long long)z[0]);
		for (size_t i = 1; i < 3; i++) {
			size_t before = s.log.n;

			q_ok(qcow2_grow(s.img, z[i], longer, &s.e), &s.e);
			for (size_t n = before + 1; n <= s.log.n; n++)
				one_of_two_sizes(&s, n, z[i - 1], z[i]);
		}
		q_check_clean("c.qcow2", s.img, 0);
		reads_grown("c.qcow2", z[2]);
		scene_done(&s);
	}
}

/* Version 2 has no zeros; an old end amid a cluster that comes from below can't be hidden. */
static void hidden_growth_refused(void **state)
{
	(void)state;
	q_run("truncate -s 8M b.raw");
	for (unsigned int version = 2; version <= 3; version++) {
		const uint64_t size = (1 << 20) + 512;
		struct scene s = { .opts = { .size = size,
					     .version = version,
					     .backing_file = "b.raw",
					     .backing_format = "raw" } };

		scene_new(&s, 0);
		assert_int_equal(qcow2_grow(s.img, 4 << 20, 8 << 20, NULL), -EOPNOTSUPP);
		assert_int_equal(s.log.n, 0);
		/* one that ends amid the same cluster as the image has nothing to hide */
		q_ok(qcow2_grow(s.img, 4 << 20, size, &s.e), &s.e);
		scene_done(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crash_in_changes), cmocka_unit_test(crash_in_table_growth),
		cmocka_unit_test(promises_hold),    cmocka_unit_test(few_flushes),
		cmocka_unit_test(failing_writes),   cmocka_unit_test(no_space),
		cmocka_unit_test(crash_in_create),  cmocka_unit_test(crash_in_set_backing),
		cmocka_unit_test(crash_in_growth),  cmocka_unit_test(crash_in_hidden_growth),
		cmocka_unit_test(hidden_growth_refused),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
