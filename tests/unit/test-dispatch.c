// SPDX-License-Identifier: GPL-2.0-or-later
/* Argument checks, requests, and the schema made from the same tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "daemon/schema.h"
#include "fuzz-seed.h"
#include "lib/util.h"
#include "qmp-commands.h"

static struct qmp_session session;
static char *answer; /* the last reply's text */
static int nr_replies;

static int setup(void **state)
{
	(void)state;
	test_commands_register();
	session = (struct qmp_session){ .negotiated = true, .oob = true };
	nr_replies = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(answer);
	answer = NULL;
	qmp_reset();
	return 0;
}

static void on_reply(struct json *reply, void *arg)
{
	(void)arg;
	free(answer);
	answer = json_text(reply);
	json_unref(reply);
	nr_replies++;
}

static struct qmp_call *send(const char *text)
{
	struct json *req = json_parse(text, strlen(text), NULL);
	struct qmp_call *call;

	assert_non_null(req);
	call = qmp_dispatch(&session, req, on_reply, NULL);
	json_unref(req);
	return call;
}

struct request_case {
	const char *in, *out;
};

#define GENERIC(s) "{\"error\": {\"class\": \"GenericError\", \"desc\": \"" s "\"}}"
#define ADD(s)	   "{\"execute\":\"blockdev-add\",\"arguments\":" s "}"
#define ACT(s)	   "{\"execute\":\"transaction\",\"arguments\":" s "}"

static const struct request_case cases[] = {
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"d\"},\"id\":2}",
	  "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"Parameter 'speed' is "
	  "missing\"}}" },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"d\",\"speed\":\"1M\"}}",
	  GENERIC("Invalid parameter type for 'speed', expected: integer") },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"d\",\"speed\":1.5}}",
	  GENERIC("Invalid parameter type for 'speed', expected: integer") },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"d\",\"speed\":"
	  "9223372036854775808}}",
	  GENERIC("Invalid parameter type for 'speed', expected: integer") },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":1,\"speed\":1}}",
	  GENERIC("Invalid parameter type for 'device', expected: string") },
	{ "{\"execute\":\"query-jobs\",\"arguments\":{\"x\":1}}",
	  GENERIC("Parameter 'x' is unexpected") },
	{ "{\"execute\":\"query-jobs\",\"arguments\":{}}", "{\"return\": []}" },
	{ ADD("{\"driver\":\"nodriver\",\"node-name\":\"a\"}"),
	  GENERIC("Parameter 'driver' does not accept value 'nodriver'") },
	{ ADD("{}"), GENERIC("Parameter 'driver' is missing") },
	{ ADD("{\"driver\":7}"), GENERIC("Invalid parameter type for 'driver', expected: string") },
	{ ADD("{\"driver\":\"file\",\"node-name\":\"f\"}"),
	  GENERIC("Parameter 'filename' is missing") },
	{ ADD("{\"driver\":\"null-co\",\"size\":\"1M\"}"),
	  GENERIC("Invalid parameter type for 'size', expected: integer") },
	{ ADD("{\"driver\":\"null-co\",\"filename\":\"x\"}"),
	  GENERIC("Parameter 'filename' is unexpected") },
	{ ADD("{\"driver\":\"null-co\",\"latency-ns\":\"1\"}"),
	  GENERIC("Parameter 'latency-ns' expects uint64") },
	{ ADD("{\"driver\":\"null-co\",\"latency-ns\":-1}"),
	  GENERIC("Parameter 'latency-ns' expects uint64") },
	{ ADD("{\"driver\":\"null-co\",\"read-only\":\"on\"}"),
	  GENERIC("Invalid parameter type for 'read-only', expected: boolean") },
	{ ADD("{\"driver\":\"raw\",\"file\":\"f\"}"), GENERIC("Parameter 'file' is unexpected") },
	{ ADD("{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\"}}"),
	  GENERIC("Parameter 'file.filename' is missing") },
	{ ADD("{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"x\",\"zz\":1}}"),
	  GENERIC("Parameter 'file.zz' is unexpected") },
	{ ADD("{\"driver\":\"qcow2\",\"file\":7}"),
	  GENERIC("Invalid parameter type for 'file', expected: BlockdevRef") },
	{ ADD("{\"driver\":\"qcow2\",\"file\":null}"),
	  GENERIC("Invalid parameter type for 'file', expected: BlockdevRef") },
	{ ADD("{\"driver\":\"qcow2\",\"file\":\"f\",\"backing\":null}"),
	  "{\"return\": {\"driver\": \"qcow2\", \"file\": \"f\", \"backing\": null}}" },
	{ ADD("{\"driver\":\"qcow2\",\"file\":\"f\",\"backing\":{\"driver\":\"qcow2\",\"file\":{"
	      "\"driver\":\"qcow2\",\"file\":{\"driver\":\"x\"}}}}"),
	  GENERIC("Parameter 'driver' does not accept value 'x'") },
	{ ACT("{\"actions\":[]}"), "{\"return\": {\"actions\": []}}" },
	{ ACT("{\"actions\":{}}"),
	  GENERIC("Invalid parameter type for 'actions', expected: array") },
	{ ACT("{\"actions\":[{\"type\":\"a\",\"data\":[1]},{\"data\":1}]}"),
	  GENERIC("Parameter 'actions[1].type' is missing") },
	{ ACT("{\"actions\":[7]}"),
	  GENERIC("Invalid parameter type for 'actions[0]', expected: object") },
	{ ACT("{\"actions\":[],\"limit\":4294967296}"),
	  GENERIC("Parameter 'limit' expects uint32_t") },
	{ ACT("{\"actions\":[],\"rate\":\"x\"}"),
	  GENERIC("Invalid parameter type for 'rate', expected: number") },
	{ ACT("{\"actions\":[],\"rate\":2,\"limit\":4294967295}"),
	  "{\"return\": {\"actions\": [], \"rate\": 2, \"limit\": 4294967295}}" },
};

static void test_arguments(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_null(send(cases[i].in));
		assert_string_equal(answer, cases[i].out);
		assert_int_equal(nr_replies, (int)i + 1);
	}
}

static void test_late_answer(void **state)
{
	struct qmp_call *call = send("{\"execute\":\"test-wait\",\"id\":[1]}");

	(void)state;
	assert_non_null(call);
	assert_ptr_equal(call, test_waiting);
	assert_int_equal(nr_replies, 0);
	test_wait_answer();
	assert_string_equal(answer, "{\"return\": {\"waited\": \"yes\"}, \"id\": [1]}");
	/* The client vanishes first: the answer is dropped, nothing is touched. */
	call = send("{\"execute\":\"test-wait\"}");
	qmp_call_abandon(call);
	test_wait_answer();
	assert_int_equal(nr_replies, 1);
}

static void test_quitting(void **state)
{
	(void)state;
	qmp_set_quitting(true);
	send("{\"execute\":\"query-jobs\"}");
	assert_string_equal(answer, GENERIC("The daemon is shutting down"));
	session.negotiated = false;
	send("{\"execute\":\"qmp_capabilities\"}");
	assert_string_equal(answer, "{\"return\": {}}");
}

/* --- from inside, with text from the command line --- */

static void on_done(struct json *ret, const struct err *e, void *arg)
{
	(void)arg;
	assert_true(!ret != !e);
	free(answer);
	answer = e ? xstrdup(e->msg) : json_text(ret);
	nr_replies++;
}

static void test_invoke_keyval(void **state)
{
	static const struct request_case keyval_cases[] = {
		{ "{\"driver\":\"null-co\",\"size\":\"1048576\",\"latency-ns\":\"64k\",\"read-only\":\"on\"}",
		  "{\"driver\": \"null-co\", \"read-only\": true, \"size\": 1048576, \"latency-ns\": "
		  "65536}" },
		{ "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"7\"},\"backing\":\"b\"}",
		  "{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", \"filename\": \"7\"}, "
		  "\"backing\": \"b\"}" },
		{ "{\"driver\":\"null-co\",\"size\":\"1M\"}", "Parameter 'size' expects integer" },
		{ "{\"driver\":\"null-co\",\"latency-ns\":\"1.x\"}",
		  "Parameter 'latency-ns' expects size" },
		{ "{\"driver\":\"null-co\",\"read-only\":\"perhaps\"}",
		  "Parameter 'read-only' expects 'on' or 'off'" },
		{ "{\"driver\":\"null-co\",\"zz\":\"1\"}", "Parameter 'zz' is unexpected" },
		{ "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\"}}",
		  "Parameter 'file.filename' is missing" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(keyval_cases); i++) {
		_cleanup_json_ struct json *args =
			json_parse(keyval_cases[i].in, strlen(keyval_cases[i].in), NULL);

		qmp_invoke("blockdev-add", args, true, on_done, NULL);
		assert_string_equal(answer, keyval_cases[i].out);
	}
	qmp_invoke("nope", NULL, false, on_done, NULL);
	assert_string_equal(answer, "The command nope has not been found");
	qmp_invoke("test-wait", NULL, false, on_done, NULL);
	nr_replies = 0;
	test_wait_answer();
	assert_int_equal(nr_replies, 1);
}

/* --- the schema --- */

static struct json *find(const struct json *schema, const char *name, const char *meta)
{
	for (size_t i = 0; i < json_len(schema); i++) {
		struct json *one = json_at(schema, i);

		if (streq(json_str_of(json_get(one, "name")), name) &&
		    (!meta || streq(json_str_of(json_get(one, "meta-type")), meta)))
			return one;
	}
	return NULL;
}

static const char *field(const struct json *j, const char *key)
{
	const char *s = json_str_of(json_get(j, key));

	assert_non_null(s);
	return s;
}

/* Every name that an entry refers to. */
static void check_reference(const struct json *schema, const struct json *entry, const char *key)
{
	const char *name = json_str_of(json_get(entry, key));

	if (name && !find(schema, name, NULL))
		fail_msg("%s '%s' of '%s' is not described", key, name,
			 json_str_of(json_get(entry, "name")));
}

static void test_schema_is_closed(void **state)
{
	static const char *const lists[] = { "members", "variants" };
	_cleanup_json_ struct json *schema = schema_build();

	(void)state;
	assert_true(json_len(schema) > 20);
	for (size_t i = 0; i < json_len(schema); i++) {
		struct json *one = json_at(schema, i);

		check_reference(schema, one, "arg-type");
		check_reference(schema, one, "ret-type");
		check_reference(schema, one, "element-type");
		for (size_t l = 0; l < 2; l++)
			for (size_t k = 0; k < json_len(json_get(one, lists[l])); k++)
				check_reference(schema, json_at(json_get(one, lists[l]), k),
						"type");
		/* No name twice. */
		assert_ptr_equal(find(schema, field(one, "name"), NULL), one);
	}
}

static struct json *member(const struct json *object, const char *name)
{
	struct json *members = json_get(object, "members");

	for (size_t i = 0; i < json_len(members); i++)
		if (streq(field(json_at(members, i), "name"), name))
			return json_at(members, i);
	return NULL;
}

static void test_schema_says_what_we_accept(void **state)
{
	_cleanup_json_ struct json *schema = schema_build();
	struct json *cmd = find(schema, "blockdev-add", "command");
	struct json *arg = find(schema, field(cmd, "arg-type"), "object");
	struct json *variants = json_get(arg, "variants"), *format, *ref;

	(void)state;
	assert_string_equal(field(arg, "tag"), "driver");
	assert_int_equal(json_len(variants), 4);
	assert_true(json_is_null(json_get(member(arg, "node-name"), "default")));
	assert_null(json_get(member(arg, "driver"), "default"));
	assert_int_equal(
		json_len(json_get(find(schema, field(member(arg, "driver"), "type"), "enum"),
				  "values")),
		4);
	/* raw has no members of its own. */
	assert_string_equal(field(json_at(variants, 3), "case"), "raw");
	assert_string_equal(field(json_at(variants, 3), "type"), "0");
	format = find(schema, field(json_at(variants, 2), "type"), "object");
	ref = find(schema, field(member(format, "file"), "type"), "alternate");
	/* The union refers to itself through the alternate. */
	assert_string_equal(field(json_at(json_get(ref, "members"), 0), "type"),
			    field(arg, "name"));
	arg = find(schema, field(json_at(variants, 1), "type"), "object");
	assert_int_equal(json_len(json_get(member(arg, "latency-ns"), "features")), 1);
	assert_string_equal(field(member(arg, "latency-ns"), "type"), "int");
	cmd = find(schema, "transaction", "command");
	assert_int_equal(json_len(json_get(cmd, "features")), 1);
	assert_non_null(find(schema, "TEST_EVENT", "event"));
	assert_string_equal(field(find(schema, "query-jobs", "command"), "arg-type"), "0");
}

/* Whatever the arguments: one answer, and nothing breaks. */
static void test_fuzz_arguments(void **state)
{
	static const char *const values[] = { "1",
					      "-1",
					      "\"x\"",
					      "null",
					      "true",
					      "[]",
					      "{}",
					      "[{}]",
					      "{\"driver\":\"file\"}",
					      "1.5",
					      "18446744073709551615",
					      "{\"driver\":\"qcow2\",\"file\":{}}",
					      "\"file\"" };
	static const char *const keys[] = { "driver", "file",	"backing",   "size",  "actions",
					    "id",     "device", "node-name", "limit", "zz" };
	static const char *const names[] = { "blockdev-add", "transaction",	 "job-pause",
					     "query-jobs",   "qmp_capabilities", "nope" };
	uint64_t rnd = fuzz_seed("arguments");

	(void)state;
	for (unsigned i = 0; i < fuzz_rounds(20000); i++) {
		_cleanup_strbuf_ struct strbuf sb = STRBUF_INIT;
		int before = nr_replies;

		strbuf_addf(&sb, "{\"execute\":\"%s\",\"arguments\":{",
			    names[fuzz_next(&rnd) % ARRAY_SIZE(names)]);
		for (unsigned k = 0, n = fuzz_next(&rnd) % 4, at = fuzz_next(&rnd); k < n; k++)
			strbuf_addf(&sb, "%s\"%s\":%s", k ? "," : "",
				    keys[(at + k) % ARRAY_SIZE(keys)],
				    values[fuzz_next(&rnd) % ARRAY_SIZE(values)]);
		strbuf_adds(&sb, "}}");
		send(strbuf_str(&sb));
		assert_int_equal(nr_replies, before + 1);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_arguments),	  T(test_late_answer),
		T(test_quitting),	  T(test_invoke_keyval),
		T(test_schema_is_closed), T(test_schema_says_what_we_accept),
		T(test_fuzz_arguments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
