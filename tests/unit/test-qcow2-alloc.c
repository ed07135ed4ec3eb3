// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Clusters: taken, given back, the space behind them; and the times at 16 TiB. Each
 * followed by qemu-img check and ours.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "qcow2-bench.h"

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
		struct qcow2_create_opts o = bench_random_opts(round + (round > 9 ? 0 : q_rand(3)));
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
				bench_reopen(&b, QCOW2_WRITABLE);
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
	struct bench b;
	size_t n;
	struct stat st;

	(void)state;
	q_run("qemu-img create -q -f qcow2 a.qcow2 64M && "
	      "qemu-io -f qcow2 -c 'write 0 32M' -c 'discard 4M 8M' a.qcow2 >/dev/null");
	bench_open(&b, Q_DIRECT, QCOW2_WRITABLE);
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

/* A volume that somebody enlarges is noticed when the space is needed. */
static void device_enlarged(void **state)
{
	struct qcow2_create_opts o = { .size = 1 << 30, .cluster_bits = 12 };
	struct qcow2_range *v, *again;
	struct bench b;
	size_t n;

	(void)state;
	bench_new(&b, &o, Q_BDEV, 4 << 20);
	q_ok(qcow2_alloc_clusters(b.img, 960, 0, &v, &n, &b.e), &b.e);
	for (int i = 0; i < 2; i++)
		assert_int_equal(qcow2_alloc_clusters(b.img, 400, 0, &again, &n, NULL), -ENOSPC);
	assert_int_equal(truncate(q_path("a.qcow2"), 5 << 20), 0);
	assert_int_equal(qcow2_alloc_clusters(b.img, 400, 0, &again, &n, NULL), -ENOSPC);
	assert_int_equal(truncate(q_path("a.qcow2"), 6 << 20), 0);
	q_ok(qcow2_alloc_clusters(b.img, 400, 0, &again, &n, &b.e), &b.e);
	overlap_check(again, n, v, 1);
	q_check_clean("a.qcow2", b.img, 960 + 400);
	q_ok(qcow2_free_clusters(b.img, again, n, 0, &b.e), &b.e);
	q_check_clean("a.qcow2", b.img, 960);
	free(again);
	free(v);
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
	bench_reopen(&b, QCOW2_WRITABLE); /* every L1 entry and refcount block is looked at */
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
		cmocka_unit_test(alloc_free_random),
		cmocka_unit_test(alloc_amid),
		cmocka_unit_test(alloc_has_space),
		cmocka_unit_test(device_full),
		cmocka_unit_test(device_enlarged),
		cmocka_unit_test(pieces),
		cmocka_unit_test(free_refuses),
		cmocka_unit_test(sixteen_tib),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
