// SPDX-License-Identifier: GPL-2.0-only
/* The speed limit, with a clock that the test moves. */
#include "check.h"
#include "logic/ratelimit.h"

#define MS 1000000ULL
#define SEC (1000 * MS)

/* Copy pieces of @piece bytes for @ns, waking @late after each delay. Return: bytes. */
static u64 copy_for(struct lc_ratelimit *rl, u64 piece, u64 ns, u64 late)
{
	u64 now = 7 * SEC, end = now + ns, bytes = 0, delay;

	lc_rate_set(rl, rl->speed, now);
	while (now < end) {
		delay = lc_rate_delay(rl, now);
		if (delay) {
			now += delay + late;
			continue;
		}
		lc_rate_charge(rl, piece, now);
		bytes += piece;
	}
	return bytes;
}

static void assert_within(u64 value, u64 want, u64 percent)
{
	assert_in_range(value, want - want * percent / 100, want + want * percent / 100);
}

static void no_limit_never_waits(void **state)
{
	struct lc_ratelimit rl = { 0 };

	lc_rate_set(&rl, 0, 5);
	lc_rate_charge(&rl, 1 << 30, 5);
	assert_int_equal(lc_rate_delay(&rl, 5), 0);
	assert_true(lc_rate_piece(&rl) == U64_MAX);
}

static void keeps_the_average(void **state)
{
	struct lc_ratelimit rl = { .speed = 10 << 20 };

	assert_within(copy_for(&rl, 64 << 10, 5 * SEC, 0), 50ULL << 20, 1);
}

static void late_wakeups_do_not_lower_it(void **state)
{
	struct lc_ratelimit rl = { .speed = 10 << 20 };

	assert_within(copy_for(&rl, 64 << 10, 5 * SEC, 8 * MS), 50ULL << 20, 2);
}

static void idle_time_is_not_saved_up(void **state)
{
	struct lc_ratelimit rl;
	u64 now = SEC, bytes = 0;

	lc_rate_set(&rl, 1 << 20, now);
	now += 60 * SEC;
	while (!lc_rate_delay(&rl, now)) {
		lc_rate_charge(&rl, 64 << 10, now);
		bytes += 64 << 10;
	}
	/* the credit, and the piece that goes beyond it */
	assert_true(bytes <= (1 << 20) / 10 + 2 * (64 << 10));
}

static void a_new_speed_counts_at_once(void **state)
{
	struct lc_ratelimit rl;

	lc_rate_set(&rl, 1, 0);
	lc_rate_charge(&rl, 1 << 20, 0);
	assert_true(lc_rate_delay(&rl, SEC) > 1000 * SEC);
	lc_rate_set(&rl, 1 << 30, SEC);
	assert_int_equal(lc_rate_delay(&rl, SEC), 0);
}

static void extremes_do_not_wrap(void **state)
{
	struct lc_ratelimit rl;
	u64 delay, last = 0;
	unsigned int i;

	lc_rate_set(&rl, 1, 0);
	for (i = 0; i < 64; i++) {
		lc_rate_charge(&rl, 1ULL << 30, 0);
		delay = lc_rate_delay(&rl, SEC);
		assert_true(delay >= last);
		last = delay;
	}
	lc_rate_set(&rl, U64_MAX, 0);
	lc_rate_charge(&rl, 1 << 30, 0);
	assert_int_equal(lc_rate_delay(&rl, 1), 0);
}

static void pieces_are_a_slice_long(void **state)
{
	struct lc_ratelimit rl = { .speed = 10 << 20 };

	assert_int_equal(lc_rate_piece(&rl), 1 << 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_limit_never_waits),
		cmocka_unit_test(keeps_the_average),
		cmocka_unit_test(late_wakeups_do_not_lower_it),
		cmocka_unit_test(idle_time_is_not_saved_up),
		cmocka_unit_test(a_new_speed_counts_at_once),
		cmocka_unit_test(extremes_do_not_wrap),
		cmocka_unit_test(pieces_are_a_slice_long),
	};

	return cmocka_run_group_tests_name("ratelimit", tests, NULL, NULL);
}
