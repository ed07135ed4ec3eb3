// SPDX-License-Identifier: GPL-2.0-or-later
/* The command line: key=value text, qemu-storage-daemon's options, and wrong use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/keyval.h"
#include "daemon/options.h"
#include "fuzz-seed.h"
#include "lib/util.h"

/* --- key=value --- */

struct text_case {
	const char *in, *out; /* "!" before an error's sentence */
};

static void check_keyval(const struct text_case *c, const char *implied, unsigned flags)
{
	struct err e = ERR_INIT;
	_cleanup_json_ struct json *j = keyval_parse(c->in, implied, flags, &e);
	_cleanup_free_ char *text = j ? json_text(j) : xasprintf("!%s", e.msg);

	assert_string_equal(text, c->out);
}

static void test_keyval(void **state)
{
	static const struct text_case cases[] = {
		{ "", "{}" },
		{ "a=1", "{\"a\": \"1\"}" },
		{ "a=1,b-c_2=x", "{\"a\": \"1\", \"b-c_2\": \"x\"}" },
		{ "a=1,a=2", "{\"a\": \"2\"}" },
		{ "a=,b=", "{\"a\": \"\", \"b\": \"\"}" },
		{ "a=x,,y,,,b=1", "{\"a\": \"x,y,\", \"b\": \"1\"}" },
		{ "a=b=c", "{\"a\": \"b=c\"}" },
		{ "file.driver=file,file.filename=/x.y", "{\"file\": {\"driver\": \"file\", "
							 "\"filename\": \"/x.y\"}}" },
		{ "a.b.c=1,a.b.d=2,a.e=3",
		  "{\"a\": {\"b\": {\"c\": \"1\", \"d\": \"2\"}, \"e\": \"3\"}}" },
		{ "l.1=b,l.0=a", "{\"l\": [\"a\", \"b\"]}" },
		{ "l.0.x=1,l.1.x.0=2", "{\"l\": [{\"x\": \"1\"}, {\"x\": [\"2\"]}]}" },
		{ "l.0=a,l.2=b", "!Parameter 'l.1' missing" },
		{ "l.0=a,l.x=b", "!Parameters 'l.*' are used inconsistently" },
		{ "a=1,a.b=2", "!Parameters 'a.b' and 'a.b.*' are used inconsistently" },
		{ "a.b=1,a=2", "!Parameters 'a' and 'a.*' are used inconsistently" },
		{ "=1", "!Invalid parameter ''" },
		{ ".a=1", "!Invalid parameter '.a'" },
		{ "a.=1", "!Invalid parameter 'a.'" },
		{ "a..b=1", "!Invalid parameter 'a..b'" },
		{ "a b=1", "!Invalid parameter 'a b'" },
		{ "a", "!Expected '=' after parameter 'a'" },
		{ "a=1,b", "!Expected '=' after parameter 'b'" },
	};
	static const struct text_case implied[] = {
		{ "qcow2,node-name=a", "{\"driver\": \"qcow2\", \"node-name\": \"a\"}" },
		{ "driver=raw", "{\"driver\": \"raw\"}" },
		{ "node-name=a,qcow2", "!Expected '=' after parameter 'qcow2'" },
	};
	static const struct text_case flags[] = {
		{ "socket,server,nowait,id=a",
		  "{\"driver\": \"socket\", \"server\": \"on\", \"wait\": \"off\", \"id\": \"a\"}" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		check_keyval(&cases[i], NULL, 0);
	for (size_t i = 0; i < ARRAY_SIZE(implied); i++)
		check_keyval(&implied[i], "driver", 0);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		check_keyval(&flags[i], "driver", KEYVAL_FLAGS);
}

static void test_keyval_fuzz(void **state)
{
	static const char spice[] = "ab01.,=-_ \"";
	uint64_t rnd = fuzz_seed("keyval");

	(void)state;
	for (unsigned i = 0; i < fuzz_rounds(20000); i++) {
		char text[40];
		size_t len = fuzz_next(&rnd) % (sizeof(text) - 1);
		struct err e = ERR_INIT;
		struct json *j;

		for (size_t k = 0; k < len; k++)
			text[k] = spice[fuzz_next(&rnd) % (sizeof(spice) - 1)];
		text[len] = '\0';
		j = keyval_parse(text, i % 2 ? "a" : NULL, i % 3 ? KEYVAL_FLAGS : 0, &e);
		assert_true(!j == !!e.code);
		json_unref(j);
	}
}

/* --- options --- */

static int parse(struct options *o, FILE *out, struct err *e, const char *const *args)
{
	char *argv[24] = { (char[]){ "livechaind" } };
	int argc = 1, r;

	for (; args[argc - 1]; argc++)
		argv[argc] = xstrdup(args[argc - 1]);
	r = options_parse(o, argc, argv, out, e);
	for (int i = 1; i < argc; i++)
		free(argv[i]);
	return r;
}

#define PARSE(o, e, ...) parse(o, NULL, e, (const char *[]){ __VA_ARGS__, NULL })

static void test_as_storage_daemon(void **state)
{
	struct options o;
	struct err e = ERR_INIT;

	(void)state;
	/* Monitors before the chardev they name: the order does not matter. */
	assert_int_equal(
		PARSE(&o, &e, "--export", "type=dm,id=e0,node-name=n,writable=on", "--monitor",
		      "chardev=qmp0", "--chardev", "socket,path=/s,server=on,wait=off,id=qmp0",
		      "--blockdev", "{\"driver\":\"file\",\"filename\":\"x\"}", "--blockdev",
		      "driver=qcow2,node-name=n,file.driver=file,file.filename=y", "--pidfile",
		      "/p", "--daemonize", "--object", "iothread,id=i", "--chardev",
		      "socket,id=c,path=rel,reconnect=3", "--log-level=debug"),
		0);
	assert_int_equal(o.nr_chardevs, 2);
	assert_string_equal(o.chardevs[0].path, "/s");
	assert_true(o.chardevs[0].server && !o.chardevs[1].server);
	assert_int_equal(o.chardevs[1].reconnect_s, 3);
	assert_true(o.chardevs[1].path[0] == '/'); /* we may change our folder */
	assert_int_equal(o.nr_monitors, 1);
	assert_string_equal(o.monitors[0], "qmp0");
	assert_null(o.qmp);
	assert_int_equal(o.nr_blockdevs, 2);
	assert_false(o.blockdevs[0].keyval);
	assert_true(o.blockdevs[1].keyval);
	assert_string_equal(
		json_str_of(json_get(json_get(o.blockdevs[1].opts, "file"), "filename")), "y");
	assert_int_equal(o.nr_exports, 1);
	assert_string_equal(json_str_of(json_get(o.exports[0].opts, "type")), "dm");
	assert_string_equal(o.pidfile, "/p");
	assert_true(o.daemonize);
	assert_int_equal(o.log_level, LOG_LVL_DEBUG);
	assert_string_equal(o.state_dir, DEFAULT_STATE_DIR);
	options_done(&o);
}

static void test_defaults(void **state)
{
	struct options o;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(PARSE(&o, &e, NULL), 0);
	assert_string_equal(o.qmp, DEFAULT_QMP_PATH);
	assert_false(o.daemonize);
	options_done(&o);
	assert_int_equal(PARSE(&o, &e, "--chardev", "socket,id=a,path=/a", "--monitor", "a",
			       "--qmp", "/q", "--qmp", "/r"),
			 0);
	assert_string_equal(o.qmp, "/r");
	options_done(&o);
}

static void test_wrong_use(void **state)
{
	static const struct {
		const char *args[6], *msg;
	} cases[] = {
		{ { "--nope" }, "Unknown or ambiguous option '--nope'; see --help" },
		{ { "-x" }, "Unknown option '-x'; see --help" },
		{ { "--blockdev" }, "Option '--blockdev' needs a value" },
		{ { "image.qcow2" }, "Unexpected argument 'image.qcow2'; see --help" },
		{ { "--blockdev", "{" }, "--blockdev: JSON parse error, unexpected end" },
		{ { "--blockdev", "driver=a,b" }, "--blockdev: Expected '=' after parameter 'b'" },
		{ { "--blockdev={\"a\":1,}" },
		  "--blockdev={\"a\":1,}: JSON parse error, expecting value" },
		{ { "--chardev", "socket,id=a" }, "--chardev: Parameter 'path' is missing" },
		{ { "--chardev", "pty,id=a,path=b" },
		  "--chardev: Parameter 'backend' does not accept value 'pty'" },
		{ { "--chardev", "socket,id=a,path=b,host=c" },
		  "--chardev: Parameter 'host' is unexpected" },
		{ { "--chardev", "socket,id=a,path=b,server=perhaps" },
		  "--chardev: Parameter 'server' expects 'on' or 'off'" },
		{ { "--chardev", "socket,id=a,path=b,server=on,reconnect=1" },
		  "--chardev: 'reconnect' option is incompatible with socket in server listen mode" },
		{ { "--chardev", "socket,id=a,path=b", "--chardev", "socket,id=a,path=c" },
		  "--chardev: Duplicate ID 'a' for chardev" },
		{ { "--monitor", "chardev=zz" }, "chardev \"zz\" not found" },
		{ { "--monitor", "chardev=zz,mode=readline" },
		  "--monitor: Parameter 'mode' does not accept value 'readline'" },
		{ { "--chardev", "socket,id=a,path=b", "--monitor", "a", "--monitor=chardev=a" },
		  "Device 'a' is in use" },
		{ { "--object", "secret,id=a,data=b" },
		  "--object: Objects of type 'secret' are not supported: only 'iothread' is accepted "
		  "(without effect)" },
		{ { "--nbd-server", "addr.type=unix,addr.path=x" },
		  "--nbd-server: NBD exports are not supported by this version: use --export type=dm" },
		{ { "--log-level", "loud" },
		  "--log-level: 'loud' is not a log level: error, warning, notice, info or debug" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = ERR_INIT;
		struct options o;

		assert_true(parse(&o, NULL, &e, cases[i].args) < 0);
		assert_string_equal(e.msg, cases[i].msg);
		options_done(&o);
	}
}

static void test_help_and_version(void **state)
{
	static const char *const asks[] = { "--help", "-h", "--version", "-V" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(asks); i++) {
		_cleanup_free_ char *text = NULL;
		struct err e = ERR_INIT;
		struct options o;
		size_t len;
		FILE *out = open_memstream(&text, &len);

		assert_int_equal(parse(&o, out, &e, (const char *[]){ asks[i], NULL }), 1);
		fclose(out);
		assert_non_null(strstr(text, i < 2 ? "--state-dir DIR" : "livechaind "));
		options_done(&o);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_keyval),
		cmocka_unit_test(test_keyval_fuzz),
		cmocka_unit_test(test_as_storage_daemon),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_wrong_use),
		cmocka_unit_test(test_help_and_version),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
