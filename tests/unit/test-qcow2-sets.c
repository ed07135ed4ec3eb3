// SPDX-License-Identifier: GPL-2.0-or-later
/* The small data structures of the qcow2 library against plain models. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2-util.h"

#define KEYS 600

static void metaset_is_a_set(void **state)
{
	struct metaset m = { 0 };
	bool model[KEYS] = { 0 };

	(void)state;
	for (int i = 0; i < 40000; i++) {
		/* Few and many members by turns, so that it is fullest where it hurts. */
		uint64_t k = q_rand(KEYS), key = k * (k % 3 ? 1 : 1ull << 30);

		assert_int_equal(metaset_has(&m, key), model[k]);
		if (q_rand(100) < (i / 5000 % 2 ? 30u : 70u)) {
			assert_int_equal(metaset_add(&m, key, 1), model[k] ? -EEXIST : 0);
			model[k] = true;
		} else {
			metaset_del(&m, key, 1);
			model[k] = false;
		}
	}
	for (uint64_t k = 0; k < KEYS; k++)
		assert_int_equal(metaset_has(&m, k * (k % 3 ? 1 : 1ull << 30)), model[k]);
	metaset_done(&m);
}

/* Refcounts of each width: least significant bits first, big endian. */
static void refcount_widths(void **state)
{
	uint8_t block[64] = { 0 };

	(void)state;
	for (unsigned int order = 0; order <= 6; order++) {
		unsigned int n = 512 >> order;
		uint64_t model[512] = { 0 }, max = order == 6 ? UINT64_MAX : (1ull << (1 << order)) - 1;

		memset(block, 0, sizeof(block));
		for (int i = 0; i < 2000; i++) {
			unsigned int k = q_rand(n);

			model[k] = (q_rand(UINT64_MAX) << 32 ^ q_rand(UINT64_MAX)) & max;
			rb_set(block, order, k, model[k]);
			for (unsigned int j = k ? k - 1 : 0; j < n && j < k + 2; j++)
				assert_int_equal(rb_get(block, order, j), model[j]);
		}
	}
	memset(block, 0, sizeof(block));
	rb_set(block, 0, 9, 1);
	assert_int_equal(block[1], 2);
	rb_set(block, 2, 5, 0xa);
	assert_int_equal(block[2], 0xa0);
	rb_set(block, 4, 2, 0x1234);
	assert_int_equal(block[4], 0x12);
}

static void ranges_join(void **state)
{
	struct ranges r = { 0 };

	(void)state;
	ranges_add(&r, 30, 10, NULL);
	ranges_add(&r, 40, 10, NULL);
	assert_int_equal(r.n, 1);
	ranges_add(&r, 0, 10, NULL);
	ranges_add(&r, 10, 5, NULL);
	assert_int_equal(r.n, 2);
	assert_int_equal(r.bytes, 35);
	assert_int_equal(ranges_sort(&r, false), 0);
	assert_int_equal(r.v[0].off, 0);
	ranges_add(&r, 12, 20, NULL);
	assert_int_equal(ranges_sort(&r, false), -EEXIST);
	ranges_sort(&r, true);
	assert_int_equal(r.n, 1);
	assert_int_equal(r.v[0].len, 50);
	assert_int_equal(r.bytes, 50);
	ranges_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(metaset_is_a_set),
		cmocka_unit_test(refcount_widths),
		cmocka_unit_test(ranges_join),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
