// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * QMP clients over socket pairs: the dialogue that QEMU's storage daemon was seen to have (byte
 * for byte, in pieces of any size), order, half-closed and vanished clients, limits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/monitor.h"
#include "fuzz-seed.h"
#include "lib/util.h"
#include "qmp-commands.h"

static struct ev *ev;
static int closed_clients;

static int setup(void **state)
{
	(void)state;
	test_commands_register();
	ev = ev_new(NULL);
	monitor_init(ev);
	closed_clients = 0;
	test_waiting = NULL;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	monitor_done();
	ev_free(ev);
	qmp_reset();
	return 0;
}

/* What takes over a closed client's descriptor at once, if @heir_wanted: nothing may be sent there.
 */
static int served_fd, heir[2];
static bool heir_wanted;

static void on_closed(void *arg)
{
	(void)arg;
	closed_clients++;
	if (heir_wanted)
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, heir), 0);
}

/* --- a client --- */

struct client {
	int fd;
	struct strbuf in;
	bool eof;
};

static struct client client_new(void)
{
	struct client c = { -1, STRBUF_INIT, false };
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	c.fd = fd[0];
	served_fd = fd[1];
	assert_int_equal(monitor_serve(fd[1], on_closed, NULL, NULL), 0);
	return c;
}

static void client_done(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	strbuf_done(&c->in);
}

static void turns(int n)
{
	while (n--)
		ev_run_once(ev, 0);
}

static void take_input(struct client *c)
{
	char buf[65536];
	ssize_t n;

	while ((n = recv(c->fd, buf, sizeof(buf), 0)) > 0)
		strbuf_add(&c->in, buf, n);
	c->eof = c->eof || n == 0;
}

static void client_write(struct client *c, const char *text, size_t len, size_t piece)
{
	size_t had;

	while (len) {
		size_t n = len < piece ? len : piece;
		ssize_t w = send(c->fd, text, n, MSG_NOSIGNAL);

		if (w > 0) {
			text += w;
			len -= w;
		} else {
			assert_int_equal(errno, EAGAIN);
		}
		ev_run_once(ev, 0);
		take_input(c);
	}
	/* A turn is short: until nothing more comes. */
	do {
		had = c->in.len;
		for (int i = 0; i < 8; i++) {
			ev_run_once(ev, 0);
			take_input(c);
		}
	} while (c->in.len != had);
}

/* What came since the last time, timestamps taken out. Owned by the caller. */
static char *heard(struct client *c)
{
	static const char stamp[] = "{\"timestamp\": {";
	struct strbuf out = STRBUF_INIT;
	const char *p = strbuf_str(&c->in), *nl;

	for (; (nl = strstr(p, "\r\n")); p = nl + 2) {
		assert_null(memchr(p, '\n', nl - p));
		if (str_has_prefix(p, stamp)) {
			strbuf_addc(&out, '{');
			p = strchr(p, '}') + 3;
		}
		strbuf_add(&out, p, nl - p);
		strbuf_addc(&out, '\n');
	}
	assert_int_equal(*p, '\0'); /* whole lines only */
	strbuf_reset(&c->in);
	return strbuf_detach(&out);
}

static void expect(struct client *c, const char *what)
{
	_cleanup_free_ char *text = heard(c);

	assert_string_equal(text, what);
}

static void say(struct client *c, const char *text, const char *answer)
{
	client_write(c, text, strlen(text), 1 << 20);
	expect(c, answer);
}

static void negotiate(struct client *c)
{
	turns(2);
	take_input(c);
	strbuf_reset(&c->in);
	say(c, "{\"execute\":\"qmp_capabilities\"}", "{\"return\": {}}\n");
}

static struct client negotiated(void)
{
	struct client c = client_new();

	negotiate(&c);
	return c;
}

/* --- the dialogue --- */

#define GENERIC(s)    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"" s "\"}}\n"
#define ID(n, cls, s) "{\"id\": " #n ", \"error\": {\"class\": \"" cls "\", \"desc\": \"" s "\"}}\n"
#define G	      "GenericError"
#define N	      "CommandNotFound"

static const struct {
	const char *in, *out;
} dialogue[] = {
	{ "{\"execute\": \"query-commands\"}",
	  "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Expecting capabilities "
	  "negotiation with 'qmp_capabilities'\"}}\n" },
	/* QEMU calls the parameter 'null' here; ours has its name. */
	{ "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"bogus\"]}}\n",
	  GENERIC("Parameter 'enable[0]' does not accept value 'bogus'") },
	{ "{\"exec-oob\":\"query-jobs\"}", GENERIC("QMP input member 'exec-oob' is unexpected") },
	{ "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},\"id\":\"neg\"}\n",
	  "{\"return\": {}, \"id\": \"neg\"}\n" },
	{ "{\"execute\":\"qmp_capabilities\"}\n",
	  "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities negotiation is "
	  "already complete, command ignored\"}}\n" },
	{ "{\"execute\":\"nope\",\"id\":1}\n", ID(1, N, "The command nope has not been found") },
	{ "{\"execute\":\"query-block-jobs\",\"id\":{\"a\":[1,2.5,null,true]}}\n",
	  "{\"return\": [], \"id\": {\"a\": [1, 2.5, null, true]}}\n" },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"d\"},\"id\":2}\n",
	  ID(2, G, "Parameter 'speed' is missing") },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"d\",\"speed\":\"x\"},"
	  "\"id\":3}\n",
	  ID(3, G, "Invalid parameter type for 'speed', expected: integer") },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"d\",\"speed\":1,\"zzz\":1},"
	  "\"id\":4}\n",
	  ID(4, G, "Parameter 'zzz' is unexpected") },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":{\"device\":\"d\",\"speed\":1},\"id\":5}\n",
	  ID(5, "DeviceNotActive", "Block job 'd' not found") },
	{ "{\"execute\":\"block-job-set-speed\",\"arguments\":[],\"id\":6}\n",
	  ID(6, G, "QMP input member 'arguments' must be an object") },
	{ "{\"execute\":\"query-jobs\",\"bogus\":1,\"id\":7}\n",
	  ID(7, G, "QMP input member 'bogus' is unexpected") },
	{ "{\"id\":8}\n", ID(8, G, "QMP input lacks member 'execute'") },
	{ "[1]\n", GENERIC("QMP input must be a JSON object") },
	{ "\"x\"\n", GENERIC("QMP input must be a JSON object") },
	{ "17\n", GENERIC("QMP input must be a JSON object") },
	{ "{\"execute\":1}\n", GENERIC("QMP input member 'execute' must be a string") },
	{ "{\"execute\":\"query-jobs\",\"exec-oob\":\"query-jobs\",\"id\":9}\n",
	  ID(9, G, "QMP input member 'execute' clashes with 'exec-oob'") },
	{ "{\"exec-oob\":\"query-jobs\",\"id\":10}\n",
	  ID(10, G, "The command query-jobs does not support OOB") },
	{ "{\"exec-oob\":\"nope\",\"id\":11}\n", ID(11, N, "The command nope has not been found") },
	{ "{\"execute\":\"job-pause\",\"arguments\":{\"id\":\"nojob\"},\"id\":12}\n",
	  ID(12, G, "Job not found") },
	{ "{\"execute\":\"block-job-cancel\",\"arguments\":{\"device\":\"nojob\"},\"id\":13}\n",
	  ID(13, "DeviceNotActive", "Block job 'nojob' not found") },
	{ "{\"execute\":\"blockdev-add\",\"arguments\":{\"driver\":\"nodriver\",\"node-name\":\"a\"}}\n",
	  GENERIC("Parameter 'driver' does not accept value 'nodriver'") },
	{ "{\"execute\":\"query-jobs\"}{\"execute\":\"query-jobs\",\"id\":\"pipelined\"}\n",
	  "{\"return\": []}\n{\"return\": [], \"id\": \"pipelined\"}\n" },
	{ "{'execute':'query-jobs','id':'single-quoted'}\n",
	  "{\"return\": [], \"id\": \"single-quoted\"}\n" },
	{ "{\"execute\":\"query-jobs\",\"id\":\"dup\",\"id\":\"dup2\"}\n",
	  GENERIC("JSON parse error, duplicate key") },
	{ "{\"execute\" \"query-jobs\"}\n", GENERIC("JSON parse error, missing : in object pair") },
	{ "{\"execute\":}\n", GENERIC("JSON parse error, expecting value") },
	{ "}\n", GENERIC("JSON parse error, expecting value") },
	/* QEMU echoes a bare inf here, which is no JSON. */
	{ "{\"execute\":\"query-jobs\",\"id\":1e400}\n",
	  GENERIC("JSON parse error, number '1e400' is out of range") },
	{ "{\"execute\":\"query-jobs\",\"id\":18446744073709551615}\n",
	  "{\"return\": [], \"id\": 18446744073709551615}\n" },
	{ "{\"execute\":\"query-jobs\",\"id\":-9223372036854775809}\n",
	  "{\"return\": [], \"id\": -9.2233720368547758e+18}\n" },
	{ "{\"execute\":\"query-jobs\",\"id\":\"\\u00e9\\ud83d\\ude00\"}\n",
	  "{\"return\": [], \"id\": \"\\u00E9\\uD83D\\uDE00\"}\n" },
	{ "{\"execute\":\"query-jobs\",\"id\":\"\xc3(\"}\n",
	  GENERIC("JSON parse error, invalid UTF-8 sequence in string") },
	{ "{\"execute\":\"query-jobs\",\"id\":\"\\u0000\"}\n",
	  "{\"return\": [], \"id\": \"\\u0000\"}\n" },
	{ "abc\n", GENERIC("JSON parse error, invalid keyword 'abc'") },
	{ "%s\n", GENERIC("JSON parse error, stray '%'") },
	{ "{\"execute\":\"query-jobs\",\"id\":NaN}\n",
	  GENERIC("JSON parse error, stray 'N'") GENERIC("JSON parse error, expecting value") },
	{ "tru\n", GENERIC("JSON parse error, invalid keyword 'tru'") },
	{ "{\"execute\":\"query-jobs\",\"id\":01}\n",
	  GENERIC("JSON parse error, stray '01'") GENERIC("JSON parse error, expecting value") },
	{ "\xff\n", GENERIC("JSON parse error, stray '\\uFFFD'") },
	{ "{\"execute\":\"query-jobs\",\"id\":\"after-ff\"}\n",
	  "{\"return\": [], \"id\": \"after-ff\"}\n" },
	{ "{\"exec-oob\":\"query-jobs\"}{\"execute\":\"query-jobs\"}\n",
	  GENERIC("The command query-jobs does not support OOB") "{\"return\": []}\n" },
};

static void test_dialogue(void **state)
{
	static const size_t pieces[] = { 1, 2, 3, 7, 64, 1 << 20 };

	(void)state;
	for (size_t p = 0; p < ARRAY_SIZE(pieces); p++) {
		struct client c = client_new();
		_cleanup_free_ char *greeting = NULL;

		take_input(&c);
		greeting = heard(&c);
		assert_true(str_has_prefix(
			greeting,
			"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, "
			"\"major\": 7}, \"package\": \"livechain "));
		assert_non_null(strstr(greeting, "\"}, \"capabilities\": [\"oob\"]}}\n"));
		for (size_t i = 0; i < ARRAY_SIZE(dialogue); i++) {
			client_write(&c, dialogue[i].in, strlen(dialogue[i].in), pieces[p]);
			expect(&c, dialogue[i].out);
		}
		client_done(&c);
		turns(3);
	}
	assert_int_equal(monitor_count(), 0);
	assert_int_equal(closed_clients, ARRAY_SIZE(pieces));
}

/* All at once: the answers in order, none lost. */
static void test_pipelined(void **state)
{
	struct client c = negotiated();
	struct strbuf in = STRBUF_INIT, out = STRBUF_INIT;

	(void)state;
	for (int i = 0; i < 5000; i++) {
		strbuf_addf(&in, "{\"execute\":\"query-jobs\",\"id\":%d}", i);
		strbuf_addf(&out, "{\"return\": [], \"id\": %d}\n", i);
	}
	client_write(&c, in.buf, in.len, 1 << 20);
	for (int i = 0; i < 200; i++) {
		turns(1);
		take_input(&c);
	}
	expect(&c, out.buf);
	strbuf_done(&in);
	strbuf_done(&out);
	client_done(&c);
}

/* One command at a time and in order for a client; others go on meanwhile. */
static void test_late_answer_keeps_order(void **state)
{
	struct client a = negotiated(), b = negotiated();

	(void)state;
	say(&a, "{\"execute\":\"test-wait\",\"id\":1}{\"execute\":\"query-jobs\",\"id\":2}", "");
	say(&a, "}{\"execute\":\"query-jobs\",\"id\":3}", "");
	say(&b, "{\"execute\":\"query-jobs\"}", "{\"return\": []}\n");
	test_wait_answer();
	turns(5);
	take_input(&a);
	expect(&a,
	       "{\"return\": {\"waited\": \"yes\"}, \"id\": 1}\n{\"return\": [], \"id\": 2}\n" GENERIC(
		       "JSON parse error, expecting value") "{\"return\": [], \"id\": 3}\n");
	client_done(&a);
	client_done(&b);
}

/* Events: before the answer of the command that raised them; to negotiated clients only. */
static void test_events(void **state)
{
	struct client a = negotiated(), b = negotiated(), c = client_new();

	(void)state;
	take_input(&c);
	strbuf_reset(&c.in);
	say(&a, "{\"execute\":\"test-flood\",\"arguments\":{\"count\":2,\"size\":1}}",
	    "{\"event\": \"TEST_EVENT\", \"data\": {\"text\": \"x\"}}\n"
	    "{\"event\": \"TEST_EVENT\", \"data\": {\"text\": \"x\"}}\n{\"return\": {}}\n");
	take_input(&b);
	expect(&b, "{\"event\": \"TEST_EVENT\", \"data\": {\"text\": \"x\"}}\n"
		   "{\"event\": \"TEST_EVENT\", \"data\": {\"text\": \"x\"}}\n");
	take_input(&c);
	expect(&c, "");
	say(&a, "{\"execute\":\"stop\"}{\"execute\":\"stop\"}",
	    "{\"event\": \"STOP\"}\n{\"return\": {}}\n{\"return\": {}}\n");
	say(&a, "{\"execute\":\"cont\"}", "{\"event\": \"RESUME\"}\n{\"return\": {}}\n");
	client_done(&a);
	client_done(&b);
	client_done(&c);
}

/* echo ... | nc -N: the sending side is closed at once, the answers still come. */
static void test_half_closed(void **state)
{
	struct client c = client_new();
	static const char text[] = "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"test-wait\"}"
				   "{\"execute\":\"query-jobs\"} 17";

	(void)state;
	take_input(&c);
	strbuf_reset(&c.in);
	assert_int_equal(send(c.fd, text, sizeof(text) - 1, 0), sizeof(text) - 1);
	shutdown(c.fd, SHUT_WR);
	turns(5);
	take_input(&c);
	expect(&c, "{\"return\": {}}\n");
	assert_false(c.eof);
	test_wait_answer();
	turns(5);
	take_input(&c);
	/* The last number is complete because the input ends. */
	expect(&c, "{\"return\": {\"waited\": \"yes\"}}\n{\"return\": []}\n" GENERIC(
			   "QMP input must be a JSON object"));
	assert_true(c.eof);
	assert_int_equal(monitor_count(), 0);
	client_done(&c);
}

/* A client that is gone altogether: what it asked is done, nothing spins, nothing is touched late.
 */
static void test_vanished(void **state)
{
	struct client c = negotiated(), watch = negotiated();

	(void)state;
	say(&c, "{\"execute\":\"test-wait\"}", "");
	assert_int_equal(send(c.fd, "{\"execute\":\"stop\"}", 18, 0), 18);
	client_done(&c);
	turns(5);
	assert_int_equal(monitor_count(), 2);
	test_wait_answer();
	turns(5);
	assert_int_equal(monitor_count(), 1);
	take_input(&watch);
	expect(&watch, "{\"event\": \"STOP\"}\n");
	say(&watch, "{\"execute\":\"cont\"}", "{\"event\": \"RESUME\"}\n{\"return\": {}}\n");
	/* The daemon ends while a command is under way. */
	say(&watch, "{\"execute\":\"test-wait\"}", "");
	monitor_done();
	test_wait_answer();
	monitor_init(ev);
	client_done(&watch);
}

/* --- limits --- */

static void test_too_many_clients(void **state)
{
	struct client c[MONITOR_CLIENTS_MAX];
	struct err e = ERR_INIT;
	int fd[2];
	char x;

	(void)state;
	for (unsigned i = 0; i < MONITOR_CLIENTS_MAX; i++)
		c[i] = client_new();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	assert_int_equal(monitor_serve(fd[1], NULL, NULL, &e), -EMFILE);
	assert_int_equal(read(fd[0], &x, 1), 0); /* closed */
	close(fd[0]);
	client_done(&c[5]);
	turns(3);
	c[5] = client_new();
	for (unsigned i = 0; i < MONITOR_CLIENTS_MAX; i++)
		client_done(&c[i]);
	turns(10);
	assert_int_equal(monitor_count(), 0);
}

/* Whoever does not read is disconnected; the others are not held up. */
static void test_slow_reader(void **state)
{
	struct client slow = negotiated(), quick = negotiated();
	static const char flood[] =
		"{\"execute\":\"test-flood\",\"arguments\":{\"count\":4,\"size\":1000000}}";

	(void)state;
	for (int i = 0; i < 10 && !closed_clients; i++) {
		client_write(&quick, flood, strlen(flood), 1 << 20);
		for (int k = 0; k < 100; k++) {
			turns(1);
			take_input(&quick);
		}
		strbuf_reset(&quick.in);
	}
	assert_int_equal(closed_clients, 1);
	say(&quick, "{\"execute\":\"query-jobs\"}", "{\"return\": []}\n");
	client_done(&slow);
	client_done(&quick);
}

/* None leaves enough unread to be disconnected for that, all together do. */
static void test_slow_readers_together(void **state)
{
	static const char flood[] =
		"{\"execute\":\"test-flood\",\"arguments\":{\"count\":1,\"size\":1000000}}";
	struct client slow[20], quick = negotiated();
	int n = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(slow); i++)
		slow[i] = negotiated();
	while (n < 14 && !closed_clients) {
		client_write(&quick, flood, strlen(flood), 1 << 20);
		strbuf_reset(&quick.in);
		n++;
	}
	assert_true(closed_clients > 0);
	assert_true(n > 3); /* the size of buffers doubles */
	assert_true(n * 1000000 * ARRAY_SIZE(slow) < 2 * MONITOR_HELD_MAX);
	say(&quick, "{\"execute\":\"query-jobs\"}", "{\"return\": []}\n");
	for (size_t i = 0; i < ARRAY_SIZE(slow); i++)
		client_done(&slow[i]);
	client_done(&quick);
}

/* A client that is gone, with very many commands unread, soon gives its place back. */
static void test_vanished_with_many(void **state)
{
	static const char request[] =
		"{\"execute\":\"test-flood\",\"arguments\":{\"count\":1,\"size\":1}}";
	struct client c = negotiated(), watch = negotiated();
	unsigned int sent = 0, seen = 0;

	(void)state;
	while (send(c.fd, request, strlen(request), MSG_DONTWAIT) == (ssize_t)strlen(request))
		sent++;
	client_done(&c);
	for (int i = 0; i < 400 && monitor_count() > 1; i++) {
		turns(1);
		take_input(&watch);
	}
	assert_int_equal(monitor_count(), 1);
	for (const char *p = strbuf_str(&watch.in); (p = strstr(p, "\r\n")); p += 2)
		seen++;
	assert_true(seen > 0 && seen < sent);
	strbuf_reset(&watch.in);
	client_done(&watch);
}

/* Who sends a command and leaves has it executed, however long it is. */
static void test_vanished_with_long(void **state)
{
	static const char head[] =
		"{\"execute\":\"test-flood\",\"arguments\":{\"count\":1,\"size\":1},\"id\":\"";
	struct client c = negotiated(), watch = negotiated();
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;

	(void)state;
	strbuf_adds(&text, head);
	for (int i = 0; i < 60000; i++)
		strbuf_addc(&text, 'x');
	strbuf_adds(&text, "\"}");
	assert_int_equal(send(c.fd, strbuf_str(&text), text.len, 0), text.len);
	client_done(&c);
	for (int i = 0; i < 100; i++) {
		turns(1);
		take_input(&watch);
	}
	assert_int_equal(monitor_count(), 1);
	assert_true(watch.in.len > 0);
	strbuf_reset(&watch.in);
	client_done(&watch);
}

/* The flood comes from the client's own command, which answers after the client was dropped. */
static void test_drowned_by_itself(void **state)
{
	static const char *const floods[] = {
		"{\"execute\":\"test-flood\",\"arguments\":{\"count\":20,\"size\":1000000}}",
		"{\"execute\":\"test-flood\",\"arguments\":{\"count\":20,\"size\":1000000,\"wait\":true}}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(floods); i++) {
		struct client c = negotiated();
		char byte;

		heir_wanted = true;
		assert_true(send(c.fd, floods[i], strlen(floods[i]), 0) > 0);
		turns(3);
		assert_int_equal(monitor_count(), 0);
		if (i == 1)
			test_wait_answer();
		heir_wanted = false;
		assert_int_equal(heir[0], served_fd);
		assert_int_equal(recv(heir[1], &byte, 1, 0), -1);
		assert_int_equal(errno, EAGAIN);
		close(heir[0]);
		close(heir[1]);
		client_done(&c);
	}
}

/* Requests whose answers nobody reads are not even taken: memory stays bounded, nobody is dropped.
 */
static void test_backpressure(void **state)
{
	struct client c = negotiated();
	static const char big[] =
		"{\"execute\":\"test-flood\",\"arguments\":{\"count\":1,\"size\":100000}}";
	size_t sent = 0, answers = 0;
	const char *p;

	(void)state;
	for (int idle = 0; idle < 50;) {
		ssize_t n = send(c.fd, big, strlen(big), 0);

		idle = n < 0 ? idle + 1 : 0;
		assert_true(n < 0 || (size_t)n == strlen(big));
		sent += n > 0;
		turns(1);
	}
	assert_int_equal(monitor_count(), 1);
	for (int i = 0; i < 20000 && answers < sent; i++) {
		turns(1);
		take_input(&c);
		answers = 0;
		for (p = strbuf_str(&c.in); i % 100 == 99 && (p = strstr(p, "{\"return")); p++)
			answers++;
	}
	assert_int_equal(answers, sent);
	client_done(&c);
}

static bool drained;

static void on_drained(void *arg)
{
	(void)arg;
	drained = true;
}

static void test_drain(void **state)
{
	static const char flood[] =
		"{\"execute\":\"test-flood\",\"arguments\":{\"count\":3,\"size\":1000000}}";
	struct client c = negotiated();

	(void)state;
	assert_true(send(c.fd, flood, strlen(flood), 0) > 0);
	turns(3);
	drained = false;
	monitor_drain(60000, on_drained, NULL);
	turns(5);
	assert_false(drained);
	for (int i = 0; i < 1000 && !drained; i++) {
		take_input(&c);
		turns(1);
	}
	assert_true(drained);
	/* Nobody reads: at the latest after the time given. */
	strbuf_reset(&c.in);
	assert_true(send(c.fd, flood, strlen(flood), 0) > 0);
	turns(3);
	drained = false;
	monitor_drain(30, on_drained, NULL);
	for (int i = 0; i < 100 && !drained; i++)
		ev_run_once(ev, 30);
	assert_true(drained);
	client_done(&c);
}

/* Any bytes: the daemon lives, and a client that resynchronises gets its answer. */
static void test_fuzz(void **state)
{
	static const char spice[] = "{}[]:,\"'\\u0123456789abcdef \n\xff\xfe\xc3";
	static const char last[] = "\xff\n{\"execute\":\"query-jobs\",\"id\":\"end\"}\n";
	uint64_t rnd = fuzz_seed("monitor");

	(void)state;
	for (unsigned i = 0; i < fuzz_rounds(400); i++) {
		struct client c = negotiated();
		char buf[600];
		size_t n = 0;

		while (n < sizeof(buf) - 100) {
			const char *req = dialogue[fuzz_next(&rnd) % ARRAY_SIZE(dialogue)].in;
			size_t len = strlen(req),
			       keep = fuzz_next(&rnd) % 3 ? len : fuzz_next(&rnd) % len;

			if (keep > 90)
				keep = 90;
			memcpy(buf + n, req, keep);
			n += keep;
			if (fuzz_next(&rnd) % 4 == 0)
				buf[n++] = spice[fuzz_next(&rnd) % (sizeof(spice) - 1)];
		}
		client_write(&c, buf, n, 1 + fuzz_next(&rnd) % 100);
		client_write(&c, last, sizeof(last) - 1, 1 << 20);
		assert_non_null(strstr(strbuf_str(&c.in), "{\"return\": [], \"id\": \"end\"}\r\n"));
		client_done(&c);
		turns(2);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_dialogue),
		T(test_pipelined),
		T(test_late_answer_keeps_order),
		T(test_events),
		T(test_half_closed),
		T(test_vanished),
		T(test_too_many_clients),
		T(test_slow_reader),
		T(test_drowned_by_itself),
		T(test_backpressure),
		T(test_drain),
		T(test_fuzz),
		T(test_slow_readers_together),
		T(test_vanished_with_many),
		T(test_vanished_with_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
