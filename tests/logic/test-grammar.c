// SPDX-License-Identifier: GPL-2.0-only
/* The words of messages: what is taken, and why the rest is refused. */
#include <string.h>

#include "check.h"
#include "logic/grammar.h"

static void assert_refused(const char *word, const char *why)
{
	struct lc_run run;
	const char *got = lc_parse_run(word, &run);

	if (!got)
		fail_msg("%s was taken", word);
	if (!strstr(got, why))
		fail_msg("%s: \"%s\" does not say \"%s\"", word, got, why);
}

static void assert_run(const char *word, u64 count, u64 entry)
{
	struct lc_run run;
	const char *why = lc_parse_run(word, &run);

	if (why)
		fail_msg("%s %s", word, why);
	assert_true(run.count == count);
	if (run.entry != entry)
		fail_msg("%s: entry %llx, not %llx", word, run.entry, entry);
}

static void zero_runs(void **state)
{
	assert_run("512:z", 512, lc_entry_zero(LC_ENTRY_NO_LAYER));
	assert_run("1:z:0", 1, lc_entry_zero(0));
	assert_run("1:z:7:s", 1, lc_entry_zero(7) | LC_ENTRY_SHARED);
	assert_run("34359738368:z", 1ULL << 35, lc_entry_zero(LC_ENTRY_NO_LAYER));
	assert_run("3:z:7:128", 3, lc_entry_zero_space(7, 128));
	assert_run("3:z:1022:0:s", 3, lc_entry_zero_space(1022, 0) | LC_ENTRY_SHARED);
}

static void data_runs(void **state)
{
	assert_run("16:d:1:2048", 16, lc_entry_data(1, 2048));
	assert_run("16:d:1:2048:s", 16, lc_entry_data(1, 2048) | LC_ENTRY_SHARED);
	assert_run("1:d:0:0", 1, lc_entry_data(0, 0));
}

static void error_runs(void **state)
{
	assert_run("4:e", 4, lc_entry_error());
}

static void refused_runs(void **state)
{
	static const struct {
		const char *word, *why;
	} bad[] = {
		{ "", "count" },
		{ "z", "count" },
		{ ":z", "count" },
		{ "0:z", "count" },
		{ "-1:z", "count" },
		{ "34359738369:z", "2^35" },
		{ "18446744073709551617:z", "count" },
		{ "99999999999999999999999999:z", "count" },
		{ "5", "type" },
		{ "5z", "type" },
		{ "5:", "neither" },
		{ "5:x", "neither" },
		{ "5:p:1:2:3", "packed" },
		{ "5:e:1", "behind" },
		{ "5:es", "behind" },
		{ "5:z:", "layer" },
		{ "5:z:s", "layer" },
		{ "5:zz", "behind" },
		{ "5:z:1023", "1022" },
		{ "5:z:1:", "sector" },
		{ "5:z:1:s:s", "behind" },
		{ "5:z:1:2:x", "flag" },
		{ "5:d", "layer" },
		{ "5:d:1", "sector" },
		{ "5:d:1:s", "sector" },
		{ "5:d:1:2:s5", "behind" },
		{ "5:d:1:0x10", "behind" },
		{ "5:d:1: 2", "sector" },
		{ "5:d:1:281474976710655", "2^48" },
		{ "5:d:1:99999999999999999999", "sector" },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		assert_refused(bad[i].word, bad[i].why);
}

static void ranges(void **state)
{
	static const char *const bad[] = {
		"", "5", "5+", "+5", "5+0", "5-5", "5+5x", "281474976710655+1",
		"1+281474976710655", "99999999999999999999+1", "5+99999999999999999999",
	};
	unsigned int i;
	u64 first, nr;

	assert_null(lc_parse_range("0+8", &first, &nr));
	assert_true(first == 0 && nr == 8);
	assert_null(lc_parse_range("281474976710000+655", &first, &nr));
	assert_true(first == 281474976710000 && nr == 655);
	for (i = 0; i < ARRAY_SIZE(bad); i++)
		if (!lc_parse_range(bad[i], &first, &nr))
			fail_msg("range %s was taken", bad[i]);
}

static void homes(void **state)
{
	static const char *const bad[] = {
		"", "0+512", "0+512@", "0+512@-1", "0+0@8", "0+512@8 ", "0@8+512",
		"281474976710655+1@8", "0+8@281474976710655",
	};
	unsigned int i;
	u64 first, nr, sector;

	assert_null(lc_parse_home("1024+8192@256", &first, &nr, &sector));
	assert_true(first == 1024 && nr == 8192 && sector == 256);
	for (i = 0; i < ARRAY_SIZE(bad); i++)
		if (!lc_parse_home(bad[i], &first, &nr, &sector))
			fail_msg("home %s was taken", bad[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_runs),
		cmocka_unit_test(zero_runs),	cmocka_unit_test(data_runs),
		cmocka_unit_test(refused_runs), cmocka_unit_test(ranges),
		cmocka_unit_test(homes),
	};

	return cmocka_run_group_tests_name("grammar", tests, NULL, NULL);
}
