// SPDX-License-Identifier: GPL-2.0-only
/* Map entries, slots and records. */
#include "check.h"
#include "logic/entry.h"

#define FAR (LC_ENTRY_SECTOR_MASK - 4096)

static const struct lc_record_format qcow2_v3 = {
	.shift = 9,
	.data_mask = 0x8000000000000000,
	.zero_mask = 0x8000000000000001,
	.plain_zero = 1,
	.has_zero_space = true,
	.has_plain_zero = true,
};

/* qcow2 version 2 has no zeros. */
static const struct lc_record_format qcow2_v2 = { .shift = 9, .data_mask = 0x8000000000000000 };

static void an_entry_keeps_what_it_was_given(void **state)
{
	static const u64 sectors[] = { 0, 1, 128, FAR, LC_ENTRY_SECTOR_MASK };
	static const unsigned int layers[] = { 0, 1, 511, 1022 };
	unsigned int s, l;
	u64 e;

	for (s = 0; s < ARRAY_SIZE(sectors); s++) {
		for (l = 0; l < ARRAY_SIZE(layers); l++) {
			e = lc_entry_data(layers[l], sectors[s]);
			assert_int_equal(lc_entry_type(e), LC_DATA);
			assert_int_equal(lc_entry_layer(e), layers[l]);
			assert_true(lc_entry_sector(e) == sectors[s]);
			assert_true(lc_entry_has_space(e));
			assert_false(lc_entry_shared(e));
			e = lc_entry_zero_space(layers[l], sectors[s]) | LC_ENTRY_SHARED;
			assert_int_equal(lc_entry_type(e), LC_ZERO);
			assert_int_equal(lc_entry_layer(e), layers[l]);
			assert_true(lc_entry_sector(e) == sectors[s]);
			assert_true(lc_entry_has_space(e));
			assert_true(lc_entry_shared(e));
		}
	}
}

static void zeros_without_space(void **state)
{
	u64 e = lc_entry_zero(LC_ENTRY_NO_LAYER);

	assert_int_equal(lc_entry_type(e), LC_ZERO);
	assert_int_equal(lc_entry_layer(e), LC_ENTRY_NO_LAYER);
	assert_false(lc_entry_has_space(e));
	assert_int_equal(lc_entry_step(e, 128), 0);
	assert_int_equal(lc_entry_type(0), LC_ABSENT);
}

/* Nobody's, without space, never taken for what may be written. */
static void an_error_is_nothing_else(void **state)
{
	u64 e = lc_entry_error(), v;

	assert_int_equal(lc_entry_type(e), LC_ERROR);
	assert_int_equal(lc_entry_layer(e), LC_ENTRY_NO_LAYER);
	assert_false(lc_entry_has_space(e));
	assert_false(lc_entry_in_place(e, LC_ENTRY_NO_LAYER));
	assert_false(lc_entry_reusable(e, LC_ENTRY_NO_LAYER));
	assert_int_equal(lc_entry_step(e, 128), 0);
	assert_true(lc_slot_entry(lc_slot_run(e), 511, 128) == e);
	assert_false(lc_record_value(&qcow2_v3, e, 0, &v));
}

static void in_place_is_own_data_that_nobody_shares(void **state)
{
	assert_true(lc_entry_in_place(lc_entry_data(3, 77), 3));
	assert_false(lc_entry_in_place(lc_entry_data(3, 77), 2));
	assert_false(lc_entry_in_place(lc_entry_data(3, 77) | LC_ENTRY_SHARED, 3));
	assert_false(lc_entry_in_place(lc_entry_zero_space(3, 77), 3));
	assert_false(lc_entry_in_place(lc_entry_zero(3), 3));
	assert_false(lc_entry_in_place(0, 0));
}

static void kept_space_is_written_by_its_owner(void **state)
{
	assert_true(lc_entry_reusable(lc_entry_zero_space(3, 77), 3));
	assert_false(lc_entry_reusable(lc_entry_zero_space(3, 77), 2));
	assert_false(lc_entry_reusable(lc_entry_zero_space(3, 77) | LC_ENTRY_SHARED, 3));
	assert_false(lc_entry_reusable(lc_entry_zero(3), 3));
	assert_false(lc_entry_reusable(lc_entry_data(3, 77), 3));
	assert_false(lc_entry_reusable(0, 0));
}

/* The largest sector, every flag: nothing is lost by the tag. */
static void a_run_in_a_slot_gives_each_entry(void **state)
{
	u64 first[] = {
		lc_entry_data(1022, FAR) | LC_ENTRY_SHARED,
		lc_entry_zero_space(1022, 0),
		lc_entry_zero(LC_ENTRY_NO_LAYER),
		lc_entry_data(0, 0),
	};
	unsigned long slot;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(first); i++) {
		slot = lc_slot_run(first[i]);
		assert_true(lc_slot_is_run(slot));
		assert_true(lc_slot_entry(slot, 0, 8) == first[i]);
		assert_true(lc_slot_entry(slot, 511, 8) ==
			    first[i] + 511 * lc_entry_step(first[i], 8));
		assert_int_equal(lc_entry_layer(lc_slot_entry(slot, 511, 8)),
				 lc_entry_layer(first[i]));
	}
	assert_false(lc_slot_is_run(0));
}

static void records_are_what_qcow2_wants(void **state)
{
	u64 v;

	/* a cluster at byte 0x50000 = sector 0x280 */
	assert_true(lc_record_value(&qcow2_v3, lc_entry_data(4, 0x280), 0, &v));
	assert_true(v == 0x8000000000050000);
	assert_true(lc_record_value(&qcow2_v3, lc_entry_zero_space(4, 0x280), 0, &v));
	assert_true(v == 0x8000000000050001);
	assert_true(lc_record_value(&qcow2_v3, lc_entry_zero(4), 0, &v));
	assert_true(v == 1);
	/* the second unit of a block that holds several */
	assert_true(lc_record_value(&qcow2_v3, lc_entry_data(4, 0x280), 8, &v));
	assert_true(v == 0x8000000000051000);
}

static void what_a_format_cannot_say_is_refused(void **state)
{
	u64 v;

	assert_true(lc_record_value(&qcow2_v2, lc_entry_data(4, 0x280), 0, &v));
	assert_false(lc_record_value(&qcow2_v2, lc_entry_zero(4), 0, &v));
	assert_false(lc_record_value(&qcow2_v2, lc_entry_zero_space(4, 0x280), 0, &v));
	assert_false(lc_record_value(&qcow2_v3, 0, 0, &v));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_entry_keeps_what_it_was_given),
		cmocka_unit_test(zeros_without_space),
		cmocka_unit_test(an_error_is_nothing_else),
		cmocka_unit_test(in_place_is_own_data_that_nobody_shares),
		cmocka_unit_test(kept_space_is_written_by_its_owner),
		cmocka_unit_test(a_run_in_a_slot_gives_each_entry),
		cmocka_unit_test(records_are_what_qcow2_wants),
		cmocka_unit_test(what_a_format_cannot_say_is_refused),
	};

	return cmocka_run_group_tests_name("entry", tests, NULL, NULL);
}
