// SPDX-License-Identifier: GPL-2.0-or-later
/* The parser of the target's status line. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "daemon/view.h"
#include "lib/strbuf.h"

static const char full[] =
	"1 vm1.0a 7 rw 128 2 5/64 4096 3 1 2 0 100 - 0 0 clean 2 28 128 4 2048 dirty "
	"2 b0 running 65536/1048576 1000 - 3 b1 concluded 10/20 0 error:write:28 4";

static int parse(const char *text, struct view_status *st, struct err *e)
{
	err_clear(e);
	return view_status_parse(text, st, e);
}

static void every_word(void **state)
{
	struct view_status st;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(parse(full, &st, &e), 0);
	assert_int_equal(st.generation, 7);
	assert_string_equal(st.mode, "rw");
	assert_int_equal(st.active, 2);
	assert_int_equal(st.loaded, 5);
	assert_int_equal(st.slices, 64);
	assert_int_equal(st.map_bytes, 4096);
	assert_int_equal(st.unrecorded, 3);
	assert_int_equal(st.parked, 1);
	assert_int_equal(st.nr_layers, 2);
	assert_int_equal(st.layers[0].id, 0);
	assert_int_equal(st.layers[0].entries, 100);
	assert_true(st.layers[0].clean);
	assert_int_equal(st.layers[1].id, 2);
	assert_int_equal(st.layers[1].last_grant, 4);
	assert_int_equal(st.layers[1].free, 2048);
	assert_false(st.layers[1].clean);
	assert_int_equal(st.nr_jobs, 2);
	assert_string_equal(st.jobs[0].id, "b0");
	assert_string_equal(st.jobs[0].state, "running");
	assert_int_equal(st.jobs[0].done, 65536);
	assert_int_equal(st.jobs[0].total, 1048576);
	assert_int_equal(st.jobs[0].speed, 1000);
	assert_string_equal(st.jobs[0].result, "-");
	assert_string_equal(st.jobs[1].result, "error:write:28");
}

static void no_active_no_jobs(void **state)
{
	struct view_status st;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(parse("1 v 0 ro 8 - 0/1 0 0 0 1 0 0 - 0 0 clean 0", &st, &e), 0);
	assert_int_equal(st.active, VIEW_NONE);
	assert_int_equal(st.nr_jobs, 0);
	assert_string_equal(st.mode, "ro");
}

/* Cut at any blank, it is an error with a sentence, never a half-filled success. */
static void truncated(void **state)
{
	struct view_status st;
	struct err e = ERR_INIT;
	char text[sizeof(full)];

	(void)state;
	for (size_t i = 0; i < sizeof(full) - 1; i++) {
		if (full[i] != ' ')
			continue;
		memcpy(text, full, i);
		text[i] = '\0';
		if (parse(text, &st, &e) != -EPROTO)
			fail_msg("accepted: '%s'", text);
		assert_int_equal(e.code, EPROTO);
		assert_non_null(strstr(e.msg, "status"));
	}
	assert_int_equal(parse("", &st, &e), -EPROTO);
}

static void wrong_words(void **state)
{
	static const char *const bad[] = {
		"2 v 0 rw 8 - 0/1 0 0 0 1 0 0 - 0 0 clean 0",	/* another format */
		"1 v x rw 8 - 0/1 0 0 0 1 0 0 - 0 0 clean 0",	/* no number */
		"1 v 0 rw 8 q 0/1 0 0 0 1 0 0 - 0 0 clean 0",	/* no id */
		"1 v 0 rw 8 - 01 0 0 0 1 0 0 - 0 0 clean 0",	/* no pair */
		"1 v 0 rw 8 - 0/1 0 0 0 -1 0 0 - 0 0 clean 0",	/* negative count */
		"1 v 0 rw 8 - 0/1 0 0 0 1 0 0 - 0 0 clean 99999999999999999999",
	};
	struct view_status st;
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (parse(bad[i], &st, &e) != -EPROTO)
			fail_msg("accepted: '%s'", bad[i]);
}

/* More layers or jobs than there is room for must not be written behind the arrays. */
static void too_many(void **state)
{
	static const char head[] = "1 v 0 rw 8 0 0/1 0 0 0";
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	struct view_status st;
	struct err e = ERR_INIT;

	(void)state;
	strbuf_addf(&s, "%s %u", head, 256);
	for (unsigned i = 0; i < 256; i++)
		strbuf_addf(&s, " %u 1 - 0 0 clean", i);
	strbuf_adds(&s, " 0");
	assert_int_equal(parse(strbuf_str(&s), &st, &e), 0);
	assert_int_equal(st.nr_layers, 256);
	assert_int_equal(st.layers[255].id, 255);

	strbuf_reset(&s);
	strbuf_addf(&s, "%s %u", head, 257);
	for (unsigned i = 0; i < 257; i++)
		strbuf_addf(&s, " %u 1 - 0 0 clean", i);
	strbuf_adds(&s, " 0");
	assert_int_equal(parse(strbuf_str(&s), &st, &e), -EPROTO);

	strbuf_reset(&s);
	strbuf_addf(&s, "%s 0 %u", head, VIEW_JOBS_MAX + 1);
	for (unsigned i = 0; i <= VIEW_JOBS_MAX; i++)
		strbuf_addf(&s, " j%u running 0/1 0 - 1", i);
	assert_int_equal(parse(strbuf_str(&s), &st, &e), -EPROTO);
}

/* Names as long as the kernel allows fit, longer words are cut, not overrun. */
static void long_names(void **state)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	struct view_status st;
	struct err e = ERR_INIT;
	char name[201];

	(void)state;
	memset(name, 'n', sizeof(name));
	name[63] = '\0';
	strbuf_addf(&s, "1 %s 0 rw 8 - 0/1 0 0 0 0 1 %s running 0/1 0 - 1", name, name);
	assert_int_equal(parse(strbuf_str(&s), &st, &e), 0);
	assert_string_equal(st.jobs[0].id, name);
	name[63] = 'n';
	name[200] = '\0';
	strbuf_reset(&s);
	strbuf_addf(&s, "1 v 0 %s 8 - 0/1 0 0 0 0 1 j %s 0/1 0 %s 1", name, name, name);
	assert_int_equal(parse(strbuf_str(&s), &st, &e), 0);
	assert_int_equal(strlen(st.jobs[0].state), sizeof(st.jobs[0].state) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_word), cmocka_unit_test(no_active_no_jobs),
		cmocka_unit_test(truncated),  cmocka_unit_test(wrong_words),
		cmocka_unit_test(too_many),   cmocka_unit_test(long_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
