// SPDX-License-Identifier: GPL-2.0-or-later
/* L2 tables: prepared for records that we write as the kernel does, and walked by reclaim. */
#include <errno.h>
#include <stdlib.h>

#include "qcow2-bench.h"

/* ---- tables ------------------------------------------------------------------------- */

/* Records written into prepared tables are what qemu then reads. */
static void prepare_and_record(void **state)
{
	(void)state;
	for (unsigned int round = 0; round < 20; round++) {
		struct qcow2_create_opts o = bench_random_opts(round);
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
		bench_write_record(&b, &t[0], (cluster - t[0].guest_off) / b.info.cluster_size,
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
	bench_write_record(&b, t, 3, rec.zero_plain);
	bench_write_record(&b, t, 5, v->off | rec.zero_alloc_or);
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
	struct bench b;
	uint64_t end;
	size_t n;

	(void)state;
	q_run("qemu-img create -q -f qcow2 a.qcow2 2G && qemu-io -f qcow2 -c 'write -P 5 0 1M' "
	      "-c 'write -P 6 600M 1M' a.qcow2 >/dev/null && qemu-img snapshot -q -c s a.qcow2");
	bench_open(&b, 0, QCOW2_WRITABLE | QCOW2_SNAPSHOTS_OK);
	q_ok(qcow2_prepare_tables(b.img, 0, 2ull << 30, &t, &n, &b.e), &b.e);
	assert_int_equal(n, 4);
	assert_false(t[0].fresh);
	assert_false(t[1].fresh);
	assert_true(t[2].fresh && t[3].fresh);
	q_check_clean("a.qcow2", b.img, 0);
	/* The active state forgets 64 KiB; the snapshot does not. (Data refcount 2: a leak.) */
	bench_write_record(&b, &t[0], 0, 1);
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
		struct qcow2_create_opts o = bench_random_opts(round);
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
			bench_write_record(&b, t, i,
					   (v[0].off + i % (v[0].len / c) * c) | ENTRY_COPIED);
			used++;
		}
		bench_reopen(&b, QCOW2_WRITABLE);
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
	struct bench b;
	uint64_t freed = 1;
	char *before, *after;

	(void)state;
	q_run("qemu-img create -q -f qcow2 a.qcow2 64M && "
	      "qemu-img bitmap --add a.qcow2 b0 && qemu-img bitmap --add -g 512 a.qcow2 b1 && "
	      "qemu-io -f qcow2 -c 'write -P 5 0 4M' -c 'write -c -P 6 20M 2M' a.qcow2 >/dev/null && "
	      "qemu-img snapshot -q -c s a.qcow2 && "
	      "qemu-io -f qcow2 -c 'write -P 7 1M 4M' -c 'write -z 2M 64k' a.qcow2 >/dev/null");
	before = q_output(
		"qemu-img check --output=json a.qcow2 && qemu-img info --output=json a.qcow2");
	/* Opening for writing first, so that bitmaps are still valid when the walk looks. */
	bench_open(&b, 0, 0);
	q_check_clean("a.qcow2", b.img, 0);
	bench_reopen(&b, QCOW2_WRITABLE | QCOW2_SNAPSHOTS_OK);
	b.img->begun = true; /* keeps the bitmaps' bit: they count as referenced */
	q_ok(qcow2_reclaim(b.img, &all, 1, 0, &freed, &b.e), &b.e);
	assert_int_equal(freed, 0);
	q_check_clean("a.qcow2", b.img, 0);
	bench_done(&b);
	after = q_output(
		"qemu-img check --output=json a.qcow2 && qemu-img info --output=json a.qcow2");
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
	bench_reopen(&b, QCOW2_WRITABLE);
	q_ok(qcow2_reclaim(b.img, &all, 1, 0, &freed, &b.e), &b.e);
	assert_int_equal(freed, 3000 * b.info.cluster_size);
	q_run("truncate -s 100M a.qcow2"); /* whatever is left would be seen now */
	bench_reopen(&b, QCOW2_WRITABLE);
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
	bench_write_record(&b, t, 1, 0x123456); /* not on a cluster */
	assert_int_equal(qcow2_reclaim(b.img, &all, 1, 0, &freed, NULL), -EUCLEAN);
	assert_int_equal(freed, 77);
	bench_write_record(&b, t, 1, 0);
	q_check_clean("a.qcow2", b.img, 4);
	free(t);
	free(v);
	bench_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(prepare_and_record),
		cmocka_unit_test(zero_records),
		cmocka_unit_test(shared_table_is_copied),
		cmocka_unit_test(reclaim_takes_only_leaks),
		cmocka_unit_test(reclaim_knows_all_metadata),
		cmocka_unit_test(reclaim_knows_a_lost_end),
		cmocka_unit_test(reclaim_stops_at_damage),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
