// SPDX-License-Identifier: GPL-2.0-or-later
/* JSON values, their text, and the stream: QEMU's dialect, sentences and resynchronisation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "fuzz-seed.h"
#include "lib/jsonstream.h"
#include "lib/util.h"

/* Everything that @s yields for the bytes, a line each ("!" before errors), in pieces of @piece. */
static char *run_stream(struct json_stream *s, const char *in, size_t len, size_t piece)
{
	struct strbuf out = STRBUF_INIT;

	for (size_t at = 0; at < len;) {
		size_t n = len - at < piece ? len - at : piece, used = 0;
		struct err e = ERR_INIT;
		struct json *val = NULL;
		int r = json_stream_feed(s, in + at, n, &used, &val, &e);

		assert_true(used <= n);
		assert_true(used == n || r != 0);
		at += used;
		if (r > 0)
			json_write(val, &out);
		else if (r < 0)
			strbuf_addf(&out, "!%s", e.msg);
		if (r)
			strbuf_addc(&out, '\n');
		json_unref(val);
	}
	return strbuf_detach(&out);
}

static char *run_fresh(const char *in, size_t len, size_t piece)
{
	struct json_stream *s = json_stream_new(NULL);
	char *out = run_stream(s, in, len, piece);

	json_stream_free(s);
	return out;
}

struct stream_case {
	const char *in;
	const char *out;
};

#define ERR(s) "!JSON parse error, " s "\n"

static const struct stream_case stream_cases[] = {
	{ "{\"id\":{\"a\":[1,2.5,null,true]}}\n", "{\"id\": {\"a\": [1, 2.5, null, true]}}\n" },
	{ "[1]\n\"x\"\n17\n", "[1]\n\"x\"\n17\n" },
	{ "{}{\"a\":1}[]", "{}\n{\"a\": 1}\n[]\n" },
	{ "  \t\r\n", "" },
	{ "{'a':'b\"c\\'d'}", "{\"a\": \"b\\\"c'd\"}\n" },
	{ "{\"id\":1,\"id\":2}\n", ERR("duplicate key") },
	{ "{\"execute\" \"x\"}\n", ERR("missing : in object pair") },
	{ "{\"execute\":}\n", ERR("expecting value") },
	{ "}\n", ERR("expecting value") },
	{ "]\n,:", ERR("expecting value") ERR("expecting value") ERR("expecting value") },
	{ "{1:2}", ERR("key is not a string in object") },
	{ "{\"a\":1,}", ERR("expecting value") },
	{ "[1,]", ERR("expecting value") },
	{ "[1 2]", ERR("expected separator in list") },
	{ "{\"a\":1 \"b\":2}", ERR("expected separator in dict") },
	/* The first error counts, and is told at the balanced end only. */
	{ "{\"a\":[1 2],\"a\":{\"b\"}} 1 ", ERR("expected separator in list") "1\n" },
	/* A bracket too many ends it at once. */
	{ "{\"a\":]1 ", ERR("expecting value") "1\n" },
	{ "{\"id\":1e400}\n", ERR("number '1e400' is out of range") },
	{ "18446744073709551615 18446744073709551616 ",
	  "18446744073709551615\n1.8446744073709552e+19\n" },
	{ "-9223372036854775808 -9223372036854775809 ",
	  "-9223372036854775808\n-9.2233720368547758e+18\n" },
	{ "0 -0 0.5 1e2 1E+2 1e-2 ", "0\n0\n0.5\n100\n100\n0.01\n" },
	{ "\"\\u00e9\\ud83d\\ude00\"", "\"\\u00E9\\uD83D\\uDE00\"\n" },
	{ "\"\xc3\xa9\"", "\"\\u00E9\"\n" },
	{ "\"\\b\\f\\n\\r\\t\\/\\\\\\\"\\u001f\"", "\"\\b\\f\\n\\r\\t/\\\\\\\"\\u001F\"\n" },
	{ "\"\x7f\"", "\"\\u007F\"\n" },
	{ "{\"id\":\"\xc3(\"}\n", ERR("invalid UTF-8 sequence in string") },
	{ "\"\xe0\x80\x80\"", ERR("invalid UTF-8 sequence in string") },
	{ "\"\xed\xa0\x80\"", ERR("invalid UTF-8 sequence in string") },
	{ "\"\\u0000\"", "\"\\u0000\"\n" },
	{ "\"\\ud800\"", ERR("'\\ud800' is not a valid Unicode character") },
	{ "\"\\udc00\\ud800\"", ERR("'\\udc00' is not a valid Unicode character") },
	{ "\"\\u12g4\"", ERR("invalid hex escape '\\u12g4' in string") },
	{ "\"\\u12\"", ERR("invalid hex escape '\\u12' in string") },
	{ "\"\\q\"", ERR("invalid escape sequence '\\q' in string") },
	{ "abc\n", ERR("invalid keyword 'abc'") },
	{ "tru\n", ERR("invalid keyword 'tru'") },
	{ "true[false]null ", "true\n[false]\nnull\n" },
	/* Lexical errors: told at once, garbage up to the next structure is skipped. */
	{ "%s\n1\n", ERR("stray '%'") "1\n" },
	{ "{\"id\":NaN}\n", ERR("stray 'N'") ERR("expecting value") },
	{ "{\"id\":01}\n", ERR("stray '01'") ERR("expecting value") },
	{ "\xff\n{\"id\":\"after-ff\"}\n", ERR("stray '\xff'") "{\"id\": \"after-ff\"}\n" },
	{ "\xff{}", ERR("stray '\xff'") "{}\n" },
	{ "{\"a\":[\"b\xff\xff{}", ERR("stray '\"b\xff'") "{}\n" },
	{ "{\"a\n\":1}[]", ERR("stray '\"a\n'") "!JSON parse error, expecting value\n"
						/* ":" begins anew and is a message of its own */
						"1\n" ERR("expecting value") "[]\n" },
	{ "-x\n1.x\n1e+x\n.5\n+1\n", ERR("stray '-x'") ERR("stray '1.x'") ERR("stray '1e+x'")
					     ERR("stray '.'") ERR("stray '+'") },
	{ "NULL 1\n2\n", ERR("stray 'N'") "2\n" },
};

static void test_stream_cases(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(stream_cases); i++) {
		const struct stream_case *c = &stream_cases[i];
		size_t len = strlen(c->in);

		for (size_t piece = 1; piece <= len; piece++) {
			_cleanup_free_ char *out = run_fresh(c->in, len, piece);

			if (!streq(out, c->out))
				print_error("case %zu: %s in pieces of %zu\n", i, c->in, piece);
			assert_string_equal(out, c->out);
		}
	}
}

static char *nested(size_t n, const char *before, const char *after)
{
	struct strbuf sb = STRBUF_INIT;

	strbuf_adds(&sb, before);
	for (size_t i = 0; i < n; i++)
		strbuf_addc(&sb, '[');
	for (size_t i = 0; i < n; i++)
		strbuf_addc(&sb, ']');
	strbuf_adds(&sb, after);
	return strbuf_detach(&sb);
}

static void test_depth(void **state)
{
	static const struct {
		size_t n;
		bool good;
	} cases[] = {
		{ 1022, true }, { 1023, true }, { 1024, false }, { 1025, false }, { 9000, false }
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *in = nested(cases[i].n, "{\"id\":", "} \"next\" ");
		_cleanup_free_ char *out = run_fresh(in, strlen(in), 4096);

		/* One error, then the next message as if nothing had been. */
		if (cases[i].good)
			assert_true(str_has_prefix(out, "{\"id\": [[["));
		else
			assert_string_equal(out, "!JSON nesting depth limit exceeded\n\"next\"\n");
		assert_non_null(strstr(out, "\n\"next\"\n"));
	}
}

static void test_limits(void **state)
{
	static const struct json_limits small = { 4, 20, 12 };
	static const struct stream_case cases[] = {
		{ "[[[[]]]] [[[[[]]]]] 1 ", "[[[[]]]]\n!JSON nesting depth limit exceeded\n1\n" },
		{ "[1,2,3,4,5,6] 4 ", "!JSON token count limit exceeded\n4\n" },
		{ "[1,2,3,4,5] 4 ", "[1, 2, 3, 4, 5]\n4\n" },
		{ "\"123456789012345678\" 1 ", "\"123456789012345678\"\n1\n" },
		{ "\"1234567890123456789012\" 1 ", "!JSON message size limit exceeded\n1\n" },
		{ "[\"12345678901234567890\", 1, 2, 3, 4, 5] 1 ",
		  "!JSON message size limit exceeded\n1\n" },
		{ "1234567890123456789012345 1 ", "!JSON message size limit exceeded\n1\n" },
		{ "abcdefghijabcdefghijabcdefghij 1 ", "!JSON message size limit exceeded\n1\n" },
		/* Blanks between messages are free. */
		{ "                         1 ", "1\n" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		for (size_t piece = 1; piece < 40; piece++) {
			struct json_stream *s = json_stream_new(&small);
			_cleanup_free_ char *out =
				run_stream(s, cases[i].in, strlen(cases[i].in), piece);

			json_stream_free(s);
			assert_string_equal(out, cases[i].out);
		}
	}
}

/* Memory stays bounded for a message that never ends. */
static void test_endless(void **state)
{
	static const struct json_limits small = { 4, 1000, 100 };
	struct json_stream *s = json_stream_new(&small);
	char block[4096];
	size_t errors = 0;

	(void)state;
	memset(block, 'x', sizeof(block));
	block[0] = '"';
	for (int i = 0; i < 1000; i++) {
		_cleanup_free_ char *out = run_stream(s, block + (i > 0), sizeof(block) - 1, 4096);

		errors += *out == '!';
	}
	assert_int_equal(errors, 1);
	assert_true(json_stream_busy(s));
	json_stream_free(s);
}

static void test_parse(void **state)
{
	static const struct stream_case bad[] = {
		{ "", "Expecting a JSON value" },
		{ "  ", "Expecting a JSON value" },
		{ "{", "JSON parse error, unexpected end" },
		{ "\"a", "JSON parse error, unexpected end" },
		{ "{} 1", "JSON parse error, text behind the value" },
		{ "{\"a\":}", "JSON parse error, expecting value" },
		{ "nul", "JSON parse error, invalid keyword 'nul'" },
		{ "1.", "JSON parse error, stray '1.\n'" },
	};
	static const char *const good[] = { "{}", " {} \n", "17", "true", "-1", "\"a\"", "1e3" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		_cleanup_json_ struct json *j = json_parse(good[i], strlen(good[i]), NULL);

		assert_non_null(j);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = ERR_INIT;

		assert_null(json_parse(bad[i].in, strlen(bad[i].in), &e));
		assert_string_equal(e.msg, bad[i].out);
	}
}

static void test_pack_and_get(void **state)
{
	_cleanup_json_ struct json *shared = json_str("kept");
	_cleanup_json_ struct json *j = json_pack(
		"{s:s, s:i, s:I, s:U, s:b, s:f, s:n, s:[i, s?, s], s:{s:{s:s}}, s:O, s:o?, s:s?}",
		"s", "text", "i", -1, "I", INT64_MIN, "U", UINT64_MAX, "b", 1, "f", 0.5, "n", "a",
		1, NULL, "two", "x", "y", "z", "deep", "O", shared, "gone", NULL, "gone2", NULL);
	_cleanup_free_ char *text = json_text(j);
	_cleanup_json_ struct json *copy = json_copy(j);
	const char *s = NULL;
	uint64_t u = 5;
	int64_t i = 5;
	bool b = false;
	struct err e = ERR_INIT;

	(void)state;
	assert_string_equal(text,
			    "{\"s\": \"text\", \"i\": -1, \"I\": -9223372036854775808, "
			    "\"U\": 18446744073709551615, \"b\": true, \"f\": 0.5, \"n\": null, "
			    "\"a\": [1, \"two\"], \"x\": {\"y\": {\"z\": \"deep\"}}, "
			    "\"O\": \"kept\"}");
	assert_true(json_equal(j, copy));
	json_add(json_get(copy, "x"), "more", json_null());
	assert_false(json_equal(j, copy));
	assert_true(json_is_null(json_get(j, "n")));
	assert_false(json_is(json_get(j, "n"), JSON_BOOL));
	assert_null(json_get(j, "gone"));
	assert_false(json_is_null(NULL));
	assert_int_equal(json_need_str(j, "x.y.z", &s, NULL), 0);
	assert_string_equal(s, "deep");
	assert_int_equal(json_need_u64(j, "U", &u, NULL), 0);
	assert_true(u == UINT64_MAX);
	assert_int_equal(json_need_bool(j, "b", &b, NULL), 0);
	assert_true(b);
	assert_int_equal(json_opt_int(j, "absent", &i, NULL), 0);
	assert_int_equal(i, 5);
	assert_true(json_need_int(j, "x.y.q", &i, &e) < 0);
	assert_string_equal(e.msg, "Parameter 'x.y.q' is missing");
	err_clear(&e);
	assert_true(json_opt_int(j, "U", &i, &e) < 0);
	assert_string_equal(e.msg, "Invalid parameter type for 'U', expected: integer");
	err_clear(&e);
	assert_true(json_opt_u64(j, "i", &u, &e) < 0);
	err_clear(&e);
	assert_true(json_only_keys(json_get(j, "x"), (const char *[]){ "a", NULL }, &e) < 0);
	assert_string_equal(e.msg, "Parameter 'y' is unexpected");
}

/* --- mutations --- */

static const char *const corpus[] = {
	"{\"execute\":\"query-jobs\",\"id\":[1,-2,3.5e7,true,false,null,{}]}\n",
	"{'execute':'a','arguments':{'x':\"\\u00e9\\ud83d\\ude00\xc3\xa9\"}}{}[]",
	"[[[[{\"a\":{\"b\":[]}}]]]] 18446744073709551615 -9223372036854775808 ",
	"\xff{\"a\":1}\nabc\n{\"b\" 1}\n",
};

static size_t mutate(uint64_t *rnd, char *buf, size_t max)
{
	static const char spice[] = "{}[]:,\"'\\u0ed9-+.e%\n \xff\xfe\xc3\x80\xe0N";
	const char *seed = corpus[fuzz_next(rnd) % ARRAY_SIZE(corpus)];
	size_t len = strlen(seed), edits = fuzz_next(rnd) % 8;

	memcpy(buf, seed, len);
	while (edits--) {
		size_t at = fuzz_next(rnd) % (len + 1);

		switch (fuzz_next(rnd) % 3) {
		case 0: /* change */
			if (at < len)
				buf[at] = spice[fuzz_next(rnd) % (sizeof(spice) - 1)];
			break;
		case 1: /* insert */
			if (len < max) {
				memmove(buf + at + 1, buf + at, len - at);
				buf[at] =
					(char)(fuzz_next(rnd) % 2
						       ? spice[fuzz_next(rnd) % (sizeof(spice) - 1)]
						       : (char)fuzz_next(rnd));
				len++;
			}
			break;
		default: /* remove */
			if (at < len) {
				memmove(buf + at, buf + at + 1, len - at - 1);
				len--;
			}
		}
	}
	return len;
}

/* What comes out does not depend on how the bytes arrive, is ASCII, and reads back the same. */
static void test_fuzz(void **state)
{
	uint64_t rnd = fuzz_seed("json stream");
	char buf[256];

	(void)state;
	for (unsigned i = 0; i < fuzz_rounds(20000); i++) {
		size_t len = mutate(&rnd, buf, sizeof(buf) - 1);
		_cleanup_free_ char *whole = run_fresh(buf, len, len ? len : 1);
		_cleanup_free_ char *bytes = run_fresh(buf, len, 1);

		assert_string_equal(whole, bytes);
		for (char *line = whole, *nl; (nl = strchr(line, '\n')) && *line != '!';
		     line = nl + 1) {
			_cleanup_json_ struct json *j = json_parse(line, nl - line, NULL);
			_cleanup_free_ char *again = NULL;

			assert_non_null(j);
			again = json_text(j);
			*nl = '\0';
			/* -0.0 is written as -0, which is the integer 0 when read. */
			if (!strstr(line, "-0"))
				assert_string_equal(again, line);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stream_cases), cmocka_unit_test(test_depth),
		cmocka_unit_test(test_limits),	     cmocka_unit_test(test_endless),
		cmocka_unit_test(test_parse),	     cmocka_unit_test(test_pack_and_get),
		cmocka_unit_test(test_fuzz),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
