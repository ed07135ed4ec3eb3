// SPDX-License-Identifier: GPL-2.0-only
/* The life of a job: the facts that job-states.h draws. */
#include "check.h"
#include "logic/job-states.h"

static void created_is_only_a_beginning(void **state)
{
	unsigned int s;

	for (s = 0; s < LC_JOB_NR_STATES; s++)
		assert_false(lc_job_may_follow(s, LC_JOB_CREATED));
	assert_true(lc_job_may_follow(LC_JOB_CREATED, LC_JOB_RUNNING));
	assert_true(lc_job_may_follow(LC_JOB_CREATED, LC_JOB_PAUSED));
}

static void concluded_is_an_end(void **state)
{
	unsigned int s;

	for (s = 0; s < LC_JOB_NR_STATES; s++) {
		assert_false(lc_job_may_follow(LC_JOB_CONCLUDED, s));
		assert_int_equal(lc_job_may_follow(s, LC_JOB_CONCLUDED), s != LC_JOB_CONCLUDED);
	}
}

static void pause_and_back(void **state)
{
	assert_true(lc_job_may_follow(LC_JOB_RUNNING, LC_JOB_PAUSED));
	assert_true(lc_job_may_follow(LC_JOB_PAUSED, LC_JOB_RUNNING));
	assert_false(lc_job_may_follow(LC_JOB_RUNNING, LC_JOB_RUNNING));
	assert_true(lc_job_may_follow(LC_JOB_READY, LC_JOB_STANDBY));
	assert_true(lc_job_may_follow(LC_JOB_STANDBY, LC_JOB_READY));
}

static void ready_is_for_good(void **state)
{
	unsigned int s;

	assert_true(lc_job_may_follow(LC_JOB_RUNNING, LC_JOB_READY));
	assert_false(lc_job_may_follow(LC_JOB_PAUSED, LC_JOB_READY));
	for (s = 0; s < LC_JOB_CONCLUDED; s++) {
		assert_false(lc_job_may_follow(LC_JOB_READY, s) && s != LC_JOB_STANDBY);
		assert_false(lc_job_may_follow(LC_JOB_STANDBY, s) && s != LC_JOB_READY);
	}
}

static void only_a_ready_job_is_completed(void **state)
{
	unsigned int s;

	for (s = 0; s < LC_JOB_NR_STATES; s++)
		assert_int_equal(lc_job_accepts(s, LC_VERB_COMPLETE), s == LC_JOB_READY);
}

static void two_states_run(void **state)
{
	unsigned int s;

	for (s = 0; s < LC_JOB_NR_STATES; s++)
		assert_int_equal(lc_job_runs(s), s == LC_JOB_RUNNING || s == LC_JOB_READY);
}

static void only_a_concluded_job_is_dismissed(void **state)
{
	unsigned int s;

	for (s = 0; s < LC_JOB_NR_STATES; s++)
		assert_int_equal(lc_job_accepts(s, LC_VERB_DISMISS), s == LC_JOB_CONCLUDED);
}

static void a_living_job_takes_every_other_verb(void **state)
{
	unsigned int s, v;

	for (s = 0; s < LC_JOB_CONCLUDED; s++)
		for (v = 0; v < LC_JOB_NR_VERBS; v++)
			if (v != LC_VERB_COMPLETE)
				assert_int_equal(lc_job_accepts(s, v), v != LC_VERB_DISMISS);
}

static void a_concluded_job_is_past_steering(void **state)
{
	assert_true(lc_job_accepts(LC_JOB_CONCLUDED, LC_VERB_CANCEL));
	assert_false(lc_job_accepts(LC_JOB_CONCLUDED, LC_VERB_PAUSE));
	assert_false(lc_job_accepts(LC_JOB_CONCLUDED, LC_VERB_RESUME));
	assert_false(lc_job_accepts(LC_JOB_CONCLUDED, LC_VERB_SPEED));
	assert_false(lc_job_accepts(LC_JOB_CONCLUDED, LC_VERB_MODE));
}

static void words_go_both_ways(void **state)
{
	static const char *const states[] = { "created", "running", "paused", "ready",
						"standby", "concluded" };
	unsigned int i;

	for (i = 0; i < LC_JOB_NR_STATES; i++)
		assert_string_equal(lc_job_state_name(i), states[i]);
	for (i = 0; i < LC_JOB_NR_VERBS; i++)
		assert_int_equal(lc_job_parse_verb(lc_job_verb_name(i)), i);
	assert_int_equal(lc_job_parse_verb("finalize"), LC_JOB_NR_VERBS);
	assert_int_equal(lc_job_parse_verb(""), LC_JOB_NR_VERBS);
	assert_string_equal(lc_job_side_name(LC_SIDE_READ), "read");
	assert_string_equal(lc_job_side_name(LC_SIDE_WRITE), "write");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(created_is_only_a_beginning),
		cmocka_unit_test(concluded_is_an_end),
		cmocka_unit_test(pause_and_back),
		cmocka_unit_test(ready_is_for_good),
		cmocka_unit_test(only_a_ready_job_is_completed),
		cmocka_unit_test(two_states_run),
		cmocka_unit_test(only_a_concluded_job_is_dismissed),
		cmocka_unit_test(a_living_job_takes_every_other_verb),
		cmocka_unit_test(a_concluded_job_is_past_steering),
		cmocka_unit_test(words_go_both_ways),
	};

	return cmocka_run_group_tests_name("job-states", tests, NULL, NULL);
}
