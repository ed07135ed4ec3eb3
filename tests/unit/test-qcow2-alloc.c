// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Changing images: create, allocate, prepare tables, free, reclaim, each followed
 * by qemu-img check and ours.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "qcow2-util.h"

struct bench {
	struct q_file *f;
	struct qcow2 *img;
	struct qcow2_info info;
	struct err e;
};

/* A new image made by qcow2_create() itself, on a file or a "block device". */
static void bench_new(struct bench *b, const struct qcow2_create_opts *o, unsigned int flags,
		      uint64_t dev_size)
{
	*b = (struct bench){ 0 };
	if (flags & Q_BDEV) {
		/* Old content where metadata will be. */
		q_run("head -c 6M /dev/zero | tr '\\0' '\\245' >a.qcow2 && truncate -s %llu a.qcow2",
		      (unsigned long long)dev_size);
		b->f = q_open_file("a.qcow2", flags);
	} else {
		b->f = q_open_file("a.qcow2", flags | Q_CREATE);
	}
	q_ok(qcow2_create(b->f->io, o, &b->e), &b->e);
	b->img = q_open(b->f, QCOW2_WRITABLE);
	qcow2_get_info(b->img, &b->info);
	q_check_clean("a.qcow2", b->img, 0);
}

static void bench_done(struct bench *b)
{
	qcow2_close(b->img);
	q_close_file(b->f);
}

static void reopen(struct bench *b)
{
	qcow2_close(b->img);
	b->img = q_open(b->f, QCOW2_WRITABLE);
}

static uint64_t total(const struct qcow2_range *v, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += v[i].len;
	return sum;
}

static void overlap_check(const struct qcow2_range *a, size_t na, const struct qcow2_range *b,
			  size_t nb)
{
	for (size_t i = 0; i < na; i++)
		for (size_t j = 0; j < nb; j++)
			assert_true(a[i].off + a[i].len <= b[j].off ||
				    b[j].off + b[j].len <= a[i].off);
}

/* Writes an L2 entry as the kernel does. */
static void write_record(struct bench *b, const struct qcow2_table *t, uint64_t index, uint64_t v)
{
	uint8_t rec[8];

	put64(rec, v);
	q_ok(b->f->io->pwrite(b->f->io, rec, 8, t->host_off + index * 8, &b->e), &b->e);
}

static struct qcow2_create_opts random_opts(unsigned int i)
{
	struct qcow2_create_opts o = {
		.cluster_bits = 12 + (i < 10 ? i : q_rand(10)),
		.version = q_rand(4) ? 3 : 2,
	};

	o.size = q_rand(8) ? (1 + q_rand(40)) << (o.cluster_bits + q_rand(12)) : 512 * q_rand(10);
	if (o.version == 3)
		o.refcount_bits = 1u << (i < 7 ? 6 - i : q_rand(7));
	if (q_rand(2)) {
		o.backing_file = "base.raw";
		o.backing_format = "raw";
	}
	return o;
}

/* ---- create -------------------------------------------------------------------- */

static void create_like_qemu(void **state)
{
	(void)state;
	q_run("truncate -s 1M base.raw");
	for (unsigned int i = 0; i < 24; i++) {
		struct qcow2_create_opts o = random_opts(i);
		bool bdev = q_rand(3) == 0;
		struct bench b;
		char *json;

		bench_new(&b, &o, (q_rand(2) ? Q_DIRECT : 0) | (bdev ? Q_BDEV : 0), 34 << 20);
		assert_int_equal(b.info.virtual_size, o.size);
		json = q_output("qemu-img info -U --output=json -f qcow2 a.qcow2");
		assert_non_null(strstr(json, o.version == 3 ? "\"compat\": \"1.1\"" :
							      "\"compat\": \"0.10\""));
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

/* ---- allocate, free -------------------------------------------------------------- */

#define MAX_GRANTS 64

struct grant {
	struct qcow2_range *v;
	size_t n;
};

static void take(struct bench *b, struct grant *g, uint64_t n)
{
	uint64_t min_run = q_rand(2) ? 0 : 1 + q_rand(20);

	q_ok(qcow2_alloc_clusters(b->img, n, min_run, &g->v, &g->n, &b->e), &b->e);
	assert_int_equal(total(g->v, g->n), n * b->info.cluster_size);
	for (size_t i = 0; min_run && n % min_run == 0 && i < g->n; i++)
		assert_int_equal(g->v[i].len / b->info.cluster_size % min_run, 0);
}

static void alloc_free_random(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 14; round++) {
		struct qcow2_create_opts o = random_opts(round + (round > 9 ? 0 : q_rand(3)));
		struct grant g[MAX_GRANTS] = { 0 };
		bool bdev = round % 3 == 2;
		uint64_t leaked = 0;
		struct bench b;

		o.backing_file = NULL;
		if (bdev && o.cluster_bits > 17)
			o.cluster_bits = 17;
		if (o.size > 1 << 30)
			o.size = 1 << 30;
		bench_new(&b, &o, (q_rand(2) ? Q_DIRECT : 0) | (bdev ? Q_BDEV : 0), 128 << 20);
		for (int step = 0; step < 60; step++) {
			struct grant *x = &g[q_rand(MAX_GRANTS)];
			uint64_t max = (bdev ? 1u << 20 : 64u << 20) / b.info.cluster_size;

			if (!x->v) {
				take(&b, x, 1 + q_rand(max));
				leaked += total(x->v, x->n) / b.info.cluster_size;
				for (int i = 0; i < MAX_GRANTS; i++)
					if (g[i].v && &g[i] != x)
						overlap_check(g[i].v, g[i].n, x->v, x->n);
			} else {
				q_ok(qcow2_free_clusters(b.img, x->v, x->n,
							 q_rand(2) ? QCOW2_KEEP_SIZE : 0, &b.e),
				     &b.e);
				leaked -= total(x->v, x->n) / b.info.cluster_size;
				free(x->v);
				x->v = NULL;
			}
			if (q_rand(10) == 0)
				reopen(&b);
		}
		q_check_clean("a.qcow2", b.img, leaked);
		for (int i = 0; i < MAX_GRANTS; i++) {
			if (g[i].v)
				q_ok(qcow2_free_clusters(b.img, g[i].v, g[i].n, 0, &b.e), &b.e);
			free(g[i].v);
		}
		q_check_clean("a.qcow2", b.img, 0);
		bench_done(&b);
	}
}

/* On images of qemu's, with qemu's holes to be found again. */
static void alloc_amid(void **state)
{
	struct qcow2_range *v;
	struct bench b = { 0 };
	size_t n;
	struct stat st;

	(void)state;
	q_run("qemu-img create -q -f qcow2 a.qcow2 64M && "
	      "qemu-io -f qcow2 -c 'write 0 32M' -c 'discard 4M 8M' a.qcow2 >/dev/null");
	b.f = q_open_file("a.qcow2", Q_DIRECT);
	b.img = q_open(b.f, QCOW2_WRITABLE);
	assert_int_equal(stat(q_path("a.qcow2"), &st), 0);
	q_ok(qcow2_alloc_clusters(b.img, 128, 0, &v, &n, &b.e), &b.e);
	assert_int_equal(n, 1);
	assert_true(v[0].off + v[0].len <= (uint64_t)st.st_size); /* reused */
	free(v);
	q_ok(qcow2_alloc_clusters(b.img, 32, 0, &v, &n, &b.e), &b.e);
	assert_true(v[n - 1].off >= (uint64_t)st.st_size); /* nothing left amid */
	free(v);
	q_check_clean("a.qcow2", b.img, 160);
	bench_done(&b);
}

/* Space is there when clusters are handed out. */
static void alloc_has_space(void **state)
{
	struct qcow2_create_opts o = { .size = 1 << 30 };
	struct qcow2_range *v, *again;
	struct bench b;
	struct stat st;
	size_t n;

	(void)state;
	bench_new(&b, &o, 0, 0);
	q_ok(qcow2_alloc_clusters(b.img, 512, 0, &v, &n, &b.e), &b.e);
	assert_int_equal(n, 1);
	assert_int_equal(stat(q_path("a.qcow2"), &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= 512ull * 65536);
	assert_int_equal((uint64_t)st.st_size, v[0].off + v[0].len);
	q_ok(qcow2_free_clusters(b.img, v, n, 0, &b.e), &b.e);
	assert_int_equal(stat(q_path("a.qcow2"), &st), 0);
	assert_int_equal((uint64_t)st.st_size, v[0].off);
	assert_int_equal(b.img->end, st.st_size / 65536);
	assert_int_equal(b.img->file_size, st.st_size);
	q_ok(qcow2_alloc_clusters(b.img, 512, 0, &again, &n, &b.e), &b.e);
	assert_int_equal(n, 1);
	assert_int_equal(again[0].off, v[0].off); /* the new end */
	free(again);
	free(v);
	bench_done(&b);
}

static void device_full(void **state)
{
	struct qcow2_create_opts o = { .size = 1 << 30, .cluster_bits = 12, .refcount_bits = 64 };
	struct grant g[512] = { 0 };
	uint64_t taken = 0, all = 8 << 20 >> 12;
	struct bench b;
	struct err e = ERR_INIT;
	int i, r = 0;

	(void)state;
	bench_new(&b, &o, Q_BDEV, 8 << 20);
	for (i = 0; i < 512 && r == 0; i++) {
		uint64_t n = 1 + q_rand(64);

		r = qcow2_alloc_clusters(b.img, n, 0, &g[i].v, &g[i].n, &e);
		taken += r == 0 ? n : 0;
	}
	assert_int_equal(r, -ENOSPC);
	assert_non_null(strstr(e.msg, "enlarge"));
	assert_true(taken > all - 160);
	q_check_clean("a.qcow2", b.img, taken);
	/* Holes amid serve now, single clusters too. */
	for (int k = 0; k < i - 1; k += 2) {
		q_ok(qcow2_free_clusters(b.img, g[k].v, g[k].n, 0, &b.e), &b.e);
		taken -= total(g[k].v, g[k].n) >> 12;
	}
	q_check_clean("a.qcow2", b.img, taken);
	free(g[0].v);
	q_ok(qcow2_alloc_clusters(b.img, 300, 0, &g[0].v, &g[0].n, &b.e), &b.e);
	taken += 300;
	q_check_clean("a.qcow2", b.img, taken);
	for (int k = 1; k < i - 1; k += 2)
		overlap_check(g[0].v, g[0].n, g[k].v, g[k].n);
	for (int k = 0; k < 512; k++)
		free(g[k].v);
	bench_done(&b);
}

/* Pieces of a wanted size, or nothing. */
static void pieces(void **state)
{
	struct qcow2_create_opts o = { .size = 1 << 30, .cluster_bits = 12 };
	struct qcow2_range *v, *all, hole;
	struct bench b;
	size_t n;

	(void)state;
	bench_new(&b, &o, Q_BDEV, 4 << 20);
	q_ok(qcow2_alloc_clusters(b.img, 960, 0, &all, &n, &b.e), &b.e);
	assert_int_equal(n, 1);
	/* Free: 15 clusters, 40 clusters, and some at the end of the device. */
	hole = (struct qcow2_range){ all->off + (100 << 12), 15 << 12 };
	q_ok(qcow2_free_clusters(b.img, &hole, 1, 0, &b.e), &b.e);
	hole = (struct qcow2_range){ all->off + (200 << 12), 40 << 12 };
	q_ok(qcow2_free_clusters(b.img, &hole, 1, 0, &b.e), &b.e);
	q_ok(qcow2_alloc_clusters(b.img, 80, 16, &v, &n, &b.e), &b.e);
	assert_int_equal(n, 2);
	assert_int_equal(v[0].off, hole.off);
	assert_int_equal(v[0].len, 32 << 12);
	assert_true(v[1].off > all->off + all->len - 1);
	free(v);
	assert_int_equal(qcow2_alloc_clusters(b.img, 32, 16, &v, &n, NULL), -ENOSPC);
	q_check_clean("a.qcow2", b.img, 960 - 55 + 80);
	q_ok(qcow2_alloc_clusters(b.img, 20, 1, &v, &n, &b.e), &b.e);
	free(v);
	free(all);
	bench_done(&b);
}

static void free_refuses(void **state)
{
	struct qcow2_create_opts o = { .size = 1 << 30 };
	struct qcow2_range *v, bad[2];
	struct bench b;
	size_t n;

	(void)state;
	bench_new(&b, &o, 0, 0);
	q_ok(qcow2_alloc_clusters(b.img, 8, 0, &v, &n, &b.e), &b.e);
	bad[0] = (struct qcow2_range){ 0, 65536 }; /* the header */
	assert_int_equal(qcow2_free_clusters(b.img, bad, 1, 0, NULL), -EUCLEAN);
	bad[0] = (struct qcow2_range){ v->off + 512, 65536 };
	assert_int_equal(qcow2_free_clusters(b.img, bad, 1, 0, NULL), -EINVAL);
	bad[0] = (struct qcow2_range){ 1ull << 40, 65536 };
	assert_int_equal(qcow2_free_clusters(b.img, bad, 1, 0, NULL), -EINVAL);
	bad[0] = bad[1] = *v; /* twice */
	assert_int_equal(qcow2_free_clusters(b.img, bad, 2, 0, NULL), -EINVAL);
	q_check_clean("a.qcow2", b.img, 8);
	q_ok(qcow2_free_clusters(b.img, v, n, QCOW2_KEEP_SIZE, &b.e), &b.e);
	assert_int_equal(qcow2_free_clusters(b.img, v, n, 0, NULL), -EUCLEAN);
	q_check_clean("a.qcow2", b.img, 0);
	free(v);
	bench_done(&b);
}

/* ---- tables ------------------------------------------------------------------------- */

/* Records written into prepared tables are what qemu then reads. */
static void prepare_and_record(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 20; round++) {
		struct qcow2_create_opts o = random_opts(round);
		bool bdev = round % 4 == 3;
		uint64_t off, cluster;
		struct qcow2_table *t;
		struct qcow2_range *v;
		struct qcow2_record rec;
		struct bench b;
		size_t nt, nv;

		o.backing_file = NULL;
		o.size = (1 + q_rand(300)) << (o.cluster_bits + (o.cluster_bits < 16 ? 9 : 3));
		bench_new(&b, &o, (q_rand(2) ? Q_DIRECT : 0) | (bdev ? Q_BDEV : 0), 64 << 20);
		off = q_rand(o.size);
		q_ok(qcow2_prepare_tables(b.img, off, q_rand(o.size) + 1, &t, &nt, &b.e), &b.e);
		assert_true(t[0].fresh && t[0].guest_off <= off &&
			    off < t[0].guest_off + b.info.region_size);
		q_check_clean("a.qcow2", b.img, 0);
		q_ok(qcow2_alloc_clusters(b.img, 1, 0, &v, &nv, &b.e), &b.e);
		qcow2_get_record(b.img, &rec);
		cluster = off & ~(uint64_t)(b.info.cluster_size - 1);
		write_record(&b, &t[0], (cluster - t[0].guest_off) / b.info.cluster_size,
			     v[0].off | rec.data_or);
		q_check_clean("a.qcow2", b.img, 0);
		free(t);
		/* Asking again gives the same table. */
		q_ok(qcow2_prepare_tables(b.img, off, 1, &t, &nt, &b.e), &b.e);
		assert_int_equal(nt, 1);
		assert_false(t[0].fresh);
		bench_done(&b);
		q_run("qemu-io -f qcow2 -c 'write -P 77 %llu 512' -c 'read -P 77 %llu 512' a.qcow2 "
		      ">io.out && ! grep -q failed io.out",
		      (unsigned long long)off & ~511ull, (unsigned long long)off & ~511ull);
		assert_int_equal(q_qemu_check("a.qcow2"), 0);
		free(t);
		free(v);
	}
}

static void zero_records(void **state)
{
	struct qcow2_create_opts o = { .size = 64 << 20 };
	struct qcow2_record rec;
	struct qcow2_table *t;
	struct qcow2_range *v;
	struct qcow2_run *runs;
	struct bench b;
	uint64_t end;
	size_t n;

	(void)state;
	bench_new(&b, &o, 0, 0);
	qcow2_get_record(b.img, &rec);
	assert_true(rec.has_zero);
	q_ok(qcow2_prepare_tables(b.img, 0, 1, &t, &n, &b.e), &b.e);
	q_ok(qcow2_alloc_clusters(b.img, 1, 0, &v, &n, &b.e), &b.e);
	write_record(&b, t, 3, rec.zero_plain);
	write_record(&b, t, 5, v->off | rec.zero_alloc_or);
	q_ok(qcow2_map_array(b.img, 0, 1 << 20, 0, &runs, &n, &end, &b.e), &b.e);
	assert_int_equal(n, 5);
	assert_int_equal(runs[1].kind, QCOW2_ZERO_PLAIN);
	assert_int_equal(runs[3].kind, QCOW2_ZERO_ALLOC);
	assert_int_equal(runs[3].host_off, v->off);
	q_check_clean("a.qcow2", b.img, 0);
	free(runs);
	free(t);
	free(v);
	bench_done(&b);
	o.version = 2;
	bench_new(&b, &o, 0, 0);
	qcow2_get_record(b.img, &rec);
	assert_false(rec.has_zero);
	bench_done(&b);
}

/* A table that a snapshot shares is copied before it is given out. */
static void shared_table_is_copied(void **state)
{
	struct qcow2_table *t;
	struct qcow2_run *runs;
	struct bench b = { 0 };
	uint64_t end;
	size_t n;

	(void)state;
	q_run("qemu-img create -q -f qcow2 a.qcow2 2G && qemu-io -f qcow2 -c 'write -P 5 0 1M' "
	      "-c 'write -P 6 600M 1M' a.qcow2 >/dev/null && qemu-img snapshot -q -c s a.qcow2");
	b.f = q_open_file("a.qcow2", 0);
	b.img = q_open(b.f, QCOW2_WRITABLE | QCOW2_SNAPSHOTS_OK);
	q_ok(qcow2_prepare_tables(b.img, 0, 2ull << 30, &t, &n, &b.e), &b.e);
	assert_int_equal(n, 4);
	assert_false(t[0].fresh);
	assert_false(t[1].fresh);
	assert_true(t[2].fresh && t[3].fresh);
	q_check_clean("a.qcow2", b.img, 0);
	/* The active state forgets 64 KiB; the snapshot does not. (Data refcount 2: a leak.) */
	write_record(&b, &t[0], 0, 1);
	q_ok(qcow2_map_array(b.img, 0, 1 << 20, 0, &runs, &n, &end, &b.e), &b.e);
	assert_int_equal(runs[0].kind, QCOW2_ZERO_PLAIN);
	assert_false(runs[1].copied);
	free(runs);
	free(t);
	q_check_clean("a.qcow2", b.img, 1);
	bench_done(&b);
	q_run("qemu-io -f qcow2 -c 'read -P 0 0 64k' -c 'read -P 5 64k 960k' -c 'read -P 6 600M 1M' "
	      "a.qcow2 >io.out && ! grep -q failed io.out");
	q_run("qemu-img snapshot -q -a s a.qcow2 && qemu-io -f qcow2 -c 'read -P 5 0 1M' a.qcow2 "
	      ">io.out && ! grep -q failed io.out");
}

/* ---- reclaim ---------------------------------------------------------------------------- */

static void reclaim_takes_only_leaks(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 10; round++) {
		struct qcow2_create_opts o = random_opts(round);
		struct qcow2_range all[2], *v;
		struct qcow2_table *t;
		uint64_t freed = 0, used = 0, c;
		struct bench b;
		size_t nt, n;

		o.backing_file = NULL;
		o.size = 64ull << o.cluster_bits;
		bench_new(&b, &o, 0, 0);
		c = b.info.cluster_size;
		q_ok(qcow2_prepare_tables(b.img, 0, o.size, &t, &nt, &b.e), &b.e);
		q_ok(qcow2_alloc_clusters(b.img, 64, 1, &v, &n, &b.e), &b.e);
		for (uint64_t i = 0; i < 64; i++) {
			if (q_rand(2))
				continue;
			write_record(&b, t, i, (v[0].off + i % (v[0].len / c) * c) | ENTRY_COPIED);
			used++;
		}
		reopen(&b);
		/* Too much is asked for on purpose: all of the image, and more. */
		all[0] = (struct qcow2_range){ 0, UINT64_MAX };
		all[1] = v[0];
		if (v[0].len == 64 * c) {
			q_ok(qcow2_reclaim(b.img, all, 2, q_rand(2) ? QCOW2_KEEP_SIZE : 0, &freed,
					   &b.e),
			     &b.e);
			assert_int_equal(freed, (64 - used) * c);
			q_check_clean("a.qcow2", b.img, 0);
		}
		free(t);
		free(v);
		bench_done(&b);
	}
}

/* Snapshots, bitmaps and compressed clusters are references, too. */
static void reclaim_knows_all_metadata(void **state)
{
	struct qcow2_range all = { 0, UINT64_MAX };
	struct bench b = { 0 };
	uint64_t freed = 1;
	char *before, *after;

	(void)state;
	q_run("qemu-img create -q -f qcow2 a.qcow2 64M && "
	      "qemu-img bitmap --add a.qcow2 b0 && qemu-img bitmap --add -g 512 a.qcow2 b1 && "
	      "qemu-io -f qcow2 -c 'write -P 5 0 4M' -c 'write -c -P 6 20M 2M' a.qcow2 >/dev/null && "
	      "qemu-img snapshot -q -c s a.qcow2 && "
	      "qemu-io -f qcow2 -c 'write -P 7 1M 4M' -c 'write -z 2M 64k' a.qcow2 >/dev/null");
	before = q_output("qemu-img check --output=json a.qcow2 && qemu-img info --output=json a.qcow2");
	b.f = q_open_file("a.qcow2", 0);
	/* Opening for writing first, so that bitmaps are still valid when the walk looks. */
	b.img = q_open(b.f, 0);
	q_check_clean("a.qcow2", b.img, 0);
	qcow2_close(b.img);
	b.img = q_open(b.f, QCOW2_WRITABLE | QCOW2_SNAPSHOTS_OK);
	b.img->begun = true; /* keeps the bitmaps' bit: they count as referenced */
	q_ok(qcow2_reclaim(b.img, &all, 1, 0, &freed, &b.e), &b.e);
	assert_int_equal(freed, 0);
	q_check_clean("a.qcow2", b.img, 0);
	bench_done(&b);
	after = q_output("qemu-img check --output=json a.qcow2 && qemu-img info --output=json a.qcow2");
	assert_string_equal(before, after);
	free(before);
	free(after);
}

/* A crash may leave refcounts that are durable and a file whose new size is not. */
static void reclaim_knows_a_lost_end(void **state)
{
	struct qcow2_create_opts o = { .size = 64 << 20, .cluster_bits = 12 };
	struct qcow2_range *v, all = { 0, UINT64_MAX };
	struct bench b;
	uint64_t freed;
	size_t n;

	(void)state;
	bench_new(&b, &o, 0, 0);
	q_ok(qcow2_alloc_clusters(b.img, 3000, 0, &v, &n, &b.e), &b.e);
	q_run("truncate -s %llu a.qcow2", (unsigned long long)v[n - 1].off);
	reopen(&b);
	q_ok(qcow2_reclaim(b.img, &all, 1, 0, &freed, &b.e), &b.e);
	assert_int_equal(freed, 3000 * b.info.cluster_size);
	q_run("truncate -s 100M a.qcow2"); /* whatever is left would be seen now */
	reopen(&b);
	q_check_clean("a.qcow2", b.img, 0);
	free(v);
	bench_done(&b);
}

static void reclaim_stops_at_damage(void **state)
{
	struct qcow2_create_opts o = { .size = 64 << 20 };
	struct qcow2_range *v, all = { 0, UINT64_MAX };
	struct qcow2_table *t;
	uint64_t freed = 77;
	struct bench b;
	size_t n;

	(void)state;
	bench_new(&b, &o, 0, 0);
	q_ok(qcow2_prepare_tables(b.img, 0, 1, &t, &n, &b.e), &b.e);
	q_ok(qcow2_alloc_clusters(b.img, 4, 0, &v, &n, &b.e), &b.e);
	write_record(&b, t, 1, 0x123456); /* not on a cluster */
	assert_int_equal(qcow2_reclaim(b.img, &all, 1, 0, &freed, NULL), -EUCLEAN);
	assert_int_equal(freed, 77);
	write_record(&b, t, 1, 0);
	q_check_clean("a.qcow2", b.img, 4);
	free(t);
	free(v);
	bench_done(&b);
}

/* ---- header --------------------------------------------------------------------------------- */

static void set_backing(void **state)
{
	struct bench b = { 0 };
	struct qcow2_info info;
	char name[1100];

	(void)state;
	q_run("qemu-img create -q -f qcow2 one.qcow2 8M && qemu-img create -q -f qcow2 two.qcow2 8M && "
	      "qemu-io -f qcow2 -c 'write -P 2 0 1M' two.qcow2 >/dev/null && "
	      "qemu-img create -q -f qcow2 -b one.qcow2 -F qcow2 a.qcow2 && "
	      "qemu-img bitmap --add a.qcow2 b0");
	b.f = q_open_file("a.qcow2", Q_DIRECT);
	b.img = q_open(b.f, QCOW2_WRITABLE);
	qcow2_get_info(b.img, &info);
	assert_true(info.has_bitmaps);
	q_ok(qcow2_set_backing(b.img, "two.qcow2", "qcow2", &b.e), &b.e);
	reopen(&b);
	qcow2_get_info(b.img, &info);
	assert_string_equal(info.backing_file, "two.qcow2");
	assert_false(info.has_bitmaps); /* we do not keep them up */
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
	reopen(&b);
	qcow2_get_info(b.img, &info);
	assert_null(info.backing_file);
	assert_null(info.backing_format);
	q_run("qemu-io -f qcow2 -r -c 'read -P 0 0 1M' a.qcow2 >io.out 2>&1 && ! grep -q failed io.out");
	bench_done(&b);
}

/* The mark stays when the backing file changes, and when QEMU writes the header. */
static void mark_of_invalid(void **state)
{
	struct bench b = { 0 };
	struct qcow2_info info;

	(void)state;
	q_run("qemu-img create -q -f qcow2 one.qcow2 8M && qemu-img create -q -f qcow2 two.qcow2 8M && "
	      "qemu-img create -q -f qcow2 -b one.qcow2 -F qcow2 a.qcow2 && "
	      "qemu-io -f qcow2 -c 'write -P 3 0 1M' a.qcow2 >/dev/null");
	b.f = q_open_file("a.qcow2", Q_DIRECT);
	b.img = q_open(b.f, QCOW2_WRITABLE);
	qcow2_get_info(b.img, &info);
	assert_null(info.invalid);
	q_ok(qcow2_set_invalid(b.img, "it was wrong", &b.e), &b.e);
	q_ok(qcow2_set_invalid(b.img, "it was committed into 'x'", &b.e), &b.e);
	q_ok(qcow2_set_backing(b.img, "two.qcow2", "qcow2", &b.e), &b.e);
	reopen(&b);
	qcow2_get_info(b.img, &info);
	assert_string_equal(info.invalid, "it was committed into 'x'");
	assert_string_equal(info.backing_file, "two.qcow2");
	bench_done(&b);
	q_run("qemu-img check -q a.qcow2 && qemu-img rebase -u -f qcow2 -F qcow2 -b one.qcow2 a.qcow2 && "
	      "qemu-io -f qcow2 -r -c 'read -P 3 0 1M' a.qcow2 >io.out 2>&1 && ! grep -q failed io.out");
	b.f = q_open_file("a.qcow2", Q_DIRECT);
	b.img = q_open(b.f, 0);
	qcow2_get_info(b.img, &info);
	assert_string_equal(info.invalid, "it was committed into 'x'");
	assert_string_equal(info.backing_file, "one.qcow2");
	bench_done(&b);
}

/* Unknown extensions and what lies behind the header's fields survive a rewrite. */
static void unknown_is_kept(void **state)
{
	static const uint8_t ext[24] = { 0xab, 0xcd, 0xef, 0x01, 0, 0, 0, 13, 'u', 'n', 'k', 'n',
					 'o',  'w',  'n',  ' ',  'e', 'x', 't', 'n' };
	struct qcow2_create_opts o = { .size = 8 << 20, .backing_file = "two.qcow2",
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
	reopen(&b);
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
	qcow2_close(b.img);
	b.img = q_open(b.f, 0);
	assert_int_equal(qcow2_begin_write(b.img, NULL), -EROFS);
	assert_int_equal(qcow2_alloc_clusters(b.img, 1, 0, &v, &n, NULL), -EROFS);
	assert_int_equal(qcow2_prepare_tables(b.img, 0, 1, &t, &n, NULL), -EROFS);
	assert_int_equal(qcow2_free_clusters(b.img, &x, 1, 0, NULL), -EROFS);
	assert_int_equal(qcow2_reclaim(b.img, &x, 1, 0, NULL, NULL), -EROFS);
	assert_int_equal(qcow2_set_backing(b.img, NULL, NULL, NULL), -EROFS);
	bench_done(&b);
}

/* ---- scale ------------------------------------------------------------------ */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void sixteen_tib(void **state)
{
	struct qcow2_create_opts o = { .size = 16ull << 40 };
	struct qcow2_table *t;
	struct qcow2_range *v;
	struct qcow2_run *runs;
	double start, opened, mapped, prepared, allocated;
	struct bench b;
	uint64_t end;
	size_t n;

	(void)state;
	bench_new(&b, &o, Q_DIRECT | Q_SYNC, 0);
	qcow2_close(b.img);
	start = now();
	b.img = q_open(b.f, QCOW2_WRITABLE);
	opened = now();
	q_ok(qcow2_map_array(b.img, 0, o.size, 0, &runs, &n, &end, &b.e), &b.e);
	assert_int_equal(n, 1);
	assert_int_equal(runs[0].len, o.size);
	free(runs);
	mapped = now();
	q_ok(qcow2_prepare_tables(b.img, 0, o.size, &t, &n, &b.e), &b.e);
	assert_int_equal(n, 32768);
	prepared = now();
	q_ok(qcow2_alloc_clusters(b.img, 16384, 0, &v, &n, &b.e), &b.e);
	assert_int_equal(n, 1);
	allocated = now();
	printf("# 16 TiB: open %.1f ms, map %.1f ms, prepare %.1f ms; 1 GiB of clusters %.1f ms\n",
	       (opened - start) * 1e3, (mapped - opened) * 1e3, (prepared - mapped) * 1e3,
	       (allocated - prepared) * 1e3);
	q_ok(qcow2_free_clusters(b.img, v, n, 0, &b.e), &b.e);
	reopen(&b); /* every L1 entry and refcount block is looked at */
	for (size_t i = 0; i < 32768; i += 100)
		assert_int_equal(b.img->l1[i], t[i].host_off | ENTRY_COPIED);
	free(v);
	free(t);
	bench_done(&b);
	q_run("rm a.qcow2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(create_like_qemu),
		cmocka_unit_test(create_refuses),
		cmocka_unit_test(alloc_free_random),
		cmocka_unit_test(alloc_amid),
		cmocka_unit_test(alloc_has_space),
		cmocka_unit_test(device_full),
		cmocka_unit_test(pieces),
		cmocka_unit_test(free_refuses),
		cmocka_unit_test(prepare_and_record),
		cmocka_unit_test(zero_records),
		cmocka_unit_test(shared_table_is_copied),
		cmocka_unit_test(reclaim_takes_only_leaks),
		cmocka_unit_test(reclaim_knows_all_metadata),
		cmocka_unit_test(reclaim_knows_a_lost_end),
		cmocka_unit_test(reclaim_stops_at_damage),
		cmocka_unit_test(set_backing),
		cmocka_unit_test(mark_of_invalid),
		cmocka_unit_test(unknown_is_kept),
		cmocka_unit_test(read_only_stays),
		cmocka_unit_test(sixteen_tib),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
