// SPDX-License-Identifier: GPL-2.0-only
/* Arithmetic of ranges: against a slow model that looks at each block. */
#include "check.h"
#include "logic/space.h"

/* Is each block of the grain of @b, as far as the view goes, in [first, first + nr)? */
static bool grain_is_inside(u64 b, u64 first, u64 nr, unsigned int shift, u64 end)
{
	u64 g = (b >> shift) << shift, i;

	for (i = g; i < g + (1u << shift) && i < end; i++)
		if (i < first || i >= first + nr)
			return false;
	return true;
}

static void check_whole(u64 first, u64 nr, unsigned int shift, u64 end)
{
	u64 b, got, got_first;

	got = lc_space_whole(first, nr, shift, end, &got_first);
	for (b = 0; b < end; b++) {
		bool in = got && b >= got_first && b < got_first + got;

		if (in != (b >= first && b < first + nr &&
			   grain_is_inside(b, first, nr, shift, end)))
			fail_msg("whole(%llu+%llu, %u, %llu): block %llu", first, nr, shift, end, b);
	}
}

static void check_cover(u64 first, u64 nr, unsigned int shift, u64 end)
{
	u64 b, got, got_first, lo = first >> shift, hi = (first + nr - 1) >> shift;

	got = lc_space_cover(first, nr, shift, end, &got_first);
	for (b = 0; b < end; b++) {
		bool in = b >= got_first && b < got_first + got;

		if (in != (b >> shift >= lo && b >> shift <= hi))
			fail_msg("cover(%llu+%llu, %u, %llu): block %llu", first, nr, shift, end, b);
	}
	assert_true(got_first + got <= end);
}

static void all_small_ranges(void **state)
{
	u64 first, nr, end;
	unsigned int shift;

	for (end = 1; end <= 19; end++)
		for (shift = 0; shift <= 3; shift++)
			for (first = 0; first < end; first++)
				for (nr = 1; first + nr <= end; nr++) {
					check_whole(first, nr, shift, end);
					check_cover(first, nr, shift, end);
				}
}

static void space_fits_in_grains(void **state)
{
	assert_int_equal(lc_space_fit(100, 8, 1000), 96);
	assert_int_equal(lc_space_fit(100, 8, 16), 16);
	assert_int_equal(lc_space_fit(7, 8, 16), 0);
	assert_int_equal(lc_space_fit(0, 8, 16), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_small_ranges),
		cmocka_unit_test(space_fits_in_grains),
	};

	return cmocka_run_group_tests_name("space", tests, NULL, NULL);
}
