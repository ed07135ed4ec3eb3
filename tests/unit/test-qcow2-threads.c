// SPDX-License-Identifier: GPL-2.0-or-later
/* One thread maps while others allocate, prepare tables and free. Worth running under TSan. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2-util.h"

#define SIZE (256ull << 20)

static struct qcow2 *img;
static struct q_file *file;
static atomic_bool stop;

/* What maps must show at any time: data that was there before, untouched. */
static void *map_always(void *arg)
{
	uintptr_t rounds = 0;

	(void)arg;
	while (!stop) {
		struct qcow2_run *runs;
		struct err e = ERR_INIT;
		uint64_t end;
		size_t n;

		if (qcow2_map_array(img, 0, SIZE, 0, &runs, &n, &end, &e) < 0) {
			fprintf(stderr, "map: %s\n", e.msg);
			abort();
		}
		if (end != SIZE || runs[0].kind != QCOW2_DATA || runs[0].len != 1 << 20)
			abort();
		free(runs);
		rounds++;
	}
	return (void *)rounds;
}

static void *alloc_and_free(void *arg)
{
	(void)arg;
	for (int i = 0; i < 60; i++) {
		struct qcow2_range *v;
		struct err e = ERR_INIT;
		size_t n;
		int r = qcow2_alloc_clusters(img, 1 + i * 7 % 90, 0, &v, &n, &e);

		if (r == 0 && i % 3)
			r = qcow2_free_clusters(img, v, n, i % 2, &e);
		if (r < 0) {
			fprintf(stderr, "allocate or free: %s\n", e.msg);
			abort();
		}
		free(v);
	}
	return NULL;
}

static void *prepare_regions(void *arg)
{
	(void)arg;
	for (uint64_t off = 0; off < SIZE; off += 2 << 20) {
		struct qcow2_table *t;
		struct err e = ERR_INIT;
		size_t n;

		if (qcow2_prepare_tables(img, off, 1, &t, &n, &e) < 0 || n != 1) {
			fprintf(stderr, "prepare: %s\n", e.msg);
			abort();
		}
		free(t);
	}
	return NULL;
}

static void all_at_once(void **state)
{
	pthread_t mapper, changers[3];
	void *rounds;

	(void)state;
	q_run("qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=64 t.qcow2 256M && "
	      "qemu-io -f qcow2 -c 'write 0 1M' t.qcow2 >/dev/null");
	file = q_open_file("t.qcow2", 0);
	img = q_open(file, QCOW2_WRITABLE);
	pthread_create(&mapper, NULL, map_always, NULL);
	pthread_create(&changers[0], NULL, alloc_and_free, NULL);
	pthread_create(&changers[1], NULL, alloc_and_free, NULL);
	pthread_create(&changers[2], NULL, prepare_regions, NULL);
	for (int i = 0; i < 3; i++)
		pthread_join(changers[i], NULL);
	stop = true;
	pthread_join(mapper, &rounds);
	assert_true((uintptr_t)rounds > 0);
	q_check_clean("t.qcow2", img, -1);
	qcow2_close(img);
	q_close_file(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_at_once),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
