// SPDX-License-Identifier: GPL-2.0-or-later
/* What the header says: of a created image, and after each change of it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "qcow2-bench.h"

/* ---- create -------------------------------------------------------------------- */

static void create_like_qemu(void **state)
{
	(void)state;
	q_run("truncate -s 1M base.raw");
	for (unsigned int i = 0; i < 24; i++) {
		struct qcow2_create_opts o = bench_random_opts(i);
		bool bdev = q_rand(3) == 0;
		struct bench b;
		char *json;

		bench_new(&b, &o, (q_rand(2) ? Q_DIRECT : 0) | (bdev ? Q_BDEV : 0), 34 << 20);
		assert_int_equal(b.info.virtual_size, o.size);
		json = q_output("qemu-img info -U --output=json -f qcow2 a.qcow2");
		assert_non_null(strstr(json, o.version == 3 ? "\"compat\": \"1.1\""
							    : "\"compat\": \"0.10\""));
		assert_int_equal(!!strstr(json, "base.raw"), !!o.backing_file);
		assert_int_equal(!!strstr(json, "\"backing-filename-format\": \"raw\""),
				 !!o.backing_file);
		free(json);
		bench_done(&b);
		if (!o.backing_file && o.size)
			q_run("qemu-io -f qcow2 -c 'write -P 3 0 512' -c 'read -P 3 0 512' a.qcow2 "
			      ">/dev/null");
	}
}

static void create_refuses(void **state)
{
	static const struct {
		struct qcow2_create_opts o;
		const char *text;
	} bad[] = {
		{ { .size = 1000 }, "multiple of 512" },
		{ { .size = 1 << 20, .cluster_bits = 9 }, "cluster_bits" },
		{ { .size = 1 << 20, .cluster_bits = 22 }, "cluster_bits" },
		{ { .size = 1 << 20, .version = 4 }, "version 4" },
		{ { .size = 1 << 20, .refcount_bits = 3 }, "refcount_bits" },
		{ { .size = 1 << 20, .refcount_bits = 128 }, "refcount_bits" },
		{ { .size = 1 << 20, .version = 2, .refcount_bits = 8 }, "version 2" },
		{ { .size = 16ull << 40, .cluster_bits = 12 }, "too large" },
		{ { .size = 1ull << 63 }, "too large" },
		{ { .size = 1 << 20, .backing_file = "x" }, "format" },
		{ { .size = 1 << 20, .backing_file = "x", .backing_format = "0123456789abcdef" },
		  "not known" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct q_file *f;
		struct err e = ERR_INIT;
		struct stat st;

		q_run("echo precious >r.qcow2");
		f = q_open_file("r.qcow2", 0);
		assert_true(qcow2_create(f->io, &bad[i].o, &e) < 0);
		if (!strstr(e.msg, bad[i].text))
			fail_msg("\"%s\" has no \"%s\"", e.msg, bad[i].text);
		q_close_file(f);
		assert_int_equal(stat(q_path("r.qcow2"), &st), 0);
		assert_int_equal(st.st_size, 9);
	}
}

/* ---- change -------------------------------------------------------------------------------- */

static void set_backing(void **state)
{
	struct bench b;
	struct qcow2_info info;
	char name[1100];

	(void)state;
	q_run("qemu-img create -q -f qcow2 one.qcow2 8M && qemu-img create -q -f qcow2 two.qcow2 8M && "
	      "qemu-io -f qcow2 -c 'write -P 2 0 1M' two.qcow2 >/dev/null && "
	      "qemu-img create -q -f qcow2 -b one.qcow2 -F qcow2 a.qcow2 && "
	      "qemu-img bitmap --add a.qcow2 b0");
	bench_open(&b, Q_DIRECT, QCOW2_WRITABLE);
	qcow2_get_info(b.img, &info);
	assert_true(info.has_bitmaps);
	q_ok(qcow2_set_backing(b.img, "two.qcow2", "qcow2", &b.e), &b.e);
	bench_reopen(&b, QCOW2_WRITABLE);
	qcow2_get_info(b.img, &info);
	assert_string_equal(info.backing_file, "two.qcow2");
	assert_false(info.has_bitmaps);	     /* we do not keep them up */
	assert_true(b.img->hdr.has_bitmaps); /* but the extension is not ours to drop */
	q_run("qemu-io -f qcow2 -r -c 'read -P 2 0 1M' a.qcow2 >io.out 2>&1 && "
	      "! grep -q failed io.out");
	memset(name, 'n', sizeof(name));
	name[1023] = '\0';
	q_ok(qcow2_set_backing(b.img, name, "raw", &b.e), &b.e);
	qcow2_get_info(b.img, &info);
	assert_string_equal(info.backing_file, name);
	name[1023] = 'n';
	name[1024] = '\0';
	assert_int_equal(qcow2_set_backing(b.img, name, "raw", NULL), -EINVAL);
	assert_int_equal(qcow2_set_backing(b.img, "x", NULL, NULL), -EINVAL);
	q_ok(qcow2_set_backing(b.img, NULL, NULL, &b.e), &b.e);
	bench_reopen(&b, QCOW2_WRITABLE);
	qcow2_get_info(b.img, &info);
	assert_null(info.backing_file);
	assert_null(info.backing_format);
	q_run("qemu-io -f qcow2 -r -c 'read -P 0 0 1M' a.qcow2 >io.out 2>&1 && ! grep -q failed io.out");
	bench_done(&b);
}

/* The mark stays when the backing file changes, and when QEMU writes the header. */
static void mark_of_invalid(void **state)
{
	struct bench b;
	struct qcow2_info info;

	(void)state;
	q_run("qemu-img create -q -f qcow2 one.qcow2 8M && qemu-img create -q -f qcow2 two.qcow2 8M && "
	      "qemu-img create -q -f qcow2 -b one.qcow2 -F qcow2 a.qcow2 && "
	      "qemu-io -f qcow2 -c 'write -P 3 0 1M' a.qcow2 >/dev/null");
	bench_open(&b, Q_DIRECT, QCOW2_WRITABLE);
	qcow2_get_info(b.img, &info);
	assert_null(info.invalid);
	q_ok(qcow2_set_invalid(b.img, "it was wrong", &b.e), &b.e);
	q_ok(qcow2_set_invalid(b.img, "it was committed into 'x'", &b.e), &b.e);
	q_ok(qcow2_set_backing(b.img, "two.qcow2", "qcow2", &b.e), &b.e);
	bench_reopen(&b, QCOW2_WRITABLE);
	qcow2_get_info(b.img, &info);
	assert_string_equal(info.invalid, "it was committed into 'x'");
	assert_string_equal(info.backing_file, "two.qcow2");
	bench_done(&b);
	q_run("qemu-img check -q a.qcow2 && qemu-img rebase -u -f qcow2 -F qcow2 -b one.qcow2 a.qcow2 && "
	      "qemu-io -f qcow2 -r -c 'read -P 3 0 1M' a.qcow2 >io.out 2>&1 && ! grep -q failed io.out");
	bench_open(&b, Q_DIRECT, 0);
	qcow2_get_info(b.img, &info);
	assert_string_equal(info.invalid, "it was committed into 'x'");
	assert_string_equal(info.backing_file, "one.qcow2");
	bench_done(&b);
}

/* Unknown extensions and what lies behind the header's fields survive a rewrite. */
static void unknown_is_kept(void **state)
{
	static const uint8_t ext[24] = { 0xab, 0xcd, 0xef, 0x01, 0,   0,   0,	13,  'u', 'n',
					 'k',  'n',  'o',  'w',	 'n', ' ', 'e', 'x', 't', 'n' };
	struct qcow2_create_opts o = { .size = 8 << 20,
				       .backing_file = "two.qcow2",
				       .backing_format = "qcow2" };
	uint8_t *head = buf_new(65536, NULL);
	struct qcow2_range *v;
	uint64_t freed = 7;
	struct bench b;
	char *found;
	size_t n;

	(void)state;
	bench_new(&b, &o, 0, 0);
	/* In front of the feature names, which begin behind the backing format. */
	q_ok(b.f->io->pread(b.f->io, head, 65536, 0, &b.e), &b.e);
	memmove(head + 112 + 24, head + 112, 2000);
	memcpy(head + 112, ext, sizeof(ext));
	put64(head + H_BACKING_OFFSET, get64(head + H_BACKING_OFFSET) + 24);
	put64(head + H_AUTOCLEAR, 1ull << 40); /* an unknown promise */
	q_ok(b.f->io->pwrite(b.f->io, head, 65536, 0, &b.e), &b.e);
	bench_reopen(&b, QCOW2_WRITABLE);
	q_ok(qcow2_set_backing(b.img, "one.qcow2", "qcow2", &b.e), &b.e);
	q_ok(b.f->io->pread(b.f->io, head, 65536, 0, &b.e), &b.e);
	found = memmem(head, 2000, ext, sizeof(ext));
	assert_non_null(found);
	assert_int_equal(get64(head + H_AUTOCLEAR), 0);
	assert_non_null(memmem(head, 2000, "lazy refcounts", 14));
	assert_non_null(memmem(head, 2000, "one.qcow2", 9));
	assert_null(memmem(head, 2000, "two.qcow2", 9));
	/* Who knows what it references: nothing is reclaimed. */
	q_ok(qcow2_alloc_clusters(b.img, 5, 0, &v, &n, &b.e), &b.e);
	q_ok(qcow2_reclaim(b.img, v, n, 0, &freed, &b.e), &b.e);
	assert_int_equal(freed, 0);
	q_check_clean("a.qcow2", b.img, 5);
	free(v);
	bench_done(&b);
	free(head);
}

static void read_only_stays(void **state)
{
	struct qcow2_create_opts o = { .size = 8 << 20 };
	struct qcow2_range *v, x = { 0, 65536 };
	struct qcow2_table *t;
	struct bench b;
	size_t n;

	(void)state;
	bench_new(&b, &o, 0, 0);
	bench_reopen(&b, 0);
	assert_int_equal(qcow2_begin_write(b.img, NULL), -EROFS);
	assert_int_equal(qcow2_alloc_clusters(b.img, 1, 0, &v, &n, NULL), -EROFS);
	assert_int_equal(qcow2_prepare_tables(b.img, 0, 1, &t, &n, NULL), -EROFS);
	assert_int_equal(qcow2_free_clusters(b.img, &x, 1, 0, NULL), -EROFS);
	assert_int_equal(qcow2_reclaim(b.img, &x, 1, 0, NULL, NULL), -EROFS);
	assert_int_equal(qcow2_set_backing(b.img, NULL, NULL, NULL), -EROFS);
	bench_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(create_like_qemu), cmocka_unit_test(create_refuses),
		cmocka_unit_test(set_backing),	    cmocka_unit_test(mark_of_invalid),
		cmocka_unit_test(unknown_is_kept),  cmocka_unit_test(read_only_stays),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
