// SPDX-License-Identifier: GPL-2.0-or-later
/* Nodes: what blockdev-add accepts and refuses, references, locks, the end of a node. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/journal.h"
#include "daemon/node.h"
#include "qcow2-util.h"

/* blockdev-add with the options as JSON in single quotes, paths relative to the scratch folder. */
static int add(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int add(struct err *e, const char *fmt, ...)
{
	_cleanup_json_ struct json *opts = NULL;
	char *text = NULL;
	struct node *n;
	va_list ap;
	int len, r;

	va_start(ap, fmt);
	len = vasprintf(&text, fmt, ap);
	va_end(ap);
	assert_true(len > 0);
	err_clear(e);
	opts = json_parse(text, (size_t)len, e);
	if (!opts)
		fail_msg("%s in %s", e->msg, text);
	free(text);
	r = node_add(opts, &n, e);
	assert_int_equal(r ? -e->code : 0, r);
	return r;
}

static void del(const char *name)
{
	struct err e = ERR_INIT;

	q_ok(node_del(name, &e), &e);
}

/* Refused, with these words, and nothing is left of the attempt. */
#define refused(e, words, ...)                                                      \
	do {                                                                        \
		unsigned _n = count_nodes();                                        \
		assert_true(add(&(e), __VA_ARGS__) < 0);                            \
		if (!strstr((e).msg, words))                                        \
			fail_msg("'%s' instead of '...%s...'", (e).msg, words);     \
		assert_int_equal(count_nodes(), _n);                                \
	} while (0)

static unsigned count_nodes(void)
{
	struct node *n;
	unsigned count = 0;

	list_for_each(n, &node_list, link)
		count++;
	return count;
}

static int teardown_nodes(void **state)
{
	(void)state;
	if (!list_empty(&node_list)) {
		printf("# left: %s\n", list_entry(node_list.next, struct node, link)->name);
		return -1;
	}
	return 0;
}

#define FILE_OF(f) "'file': {'driver': 'file', 'filename': '%s'}}", q_path(f)

static void header_chain(void **state)
{
	struct err e = ERR_INIT;
	struct node *n;

	(void)state;
	q_run("mkdir -p sub; qemu-img create -q -f raw base 1M");
	q_run("qemu-img create -q -f qcow2 -b ../base -F raw sub/mid");
	q_run("qemu-img create -q -f qcow2 -b sub/mid -F qcow2 top");
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'top', " FILE_OF("top")), &e);
	n = node_find("top");
	assert_true(n->monitor);
	assert_int_equal(n->size, 1 << 20);
	assert_int_equal(n->backing->driver, NODE_QCOW2);
	assert_true(n->backing->read_only);
	assert_string_equal(n->backing->file->filename, q_path("sub/mid"));
	assert_int_equal(n->backing->backing->driver, NODE_RAW);
	assert_string_equal(n->backing->backing->file->filename, q_path("base"));
	assert_int_equal(count_nodes(), 6);
	assert_true(node_del(n->backing->name, &e) < 0);
	assert_non_null(strstr(e.msg, "is busy: node is used as backing hd of 'top'"));
	assert_int_equal(count_nodes(), 6);
	del("top");
}

/* The pieces named one by one; each can be ended only when nothing stands on it. */
static void explicit_chain(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_run("qemu-img create -q -f qcow2 a 1M; qemu-img create -q -f qcow2 b 1M");
	q_ok(add(&e, "{'driver': 'file', 'node-name': 'fa', 'filename': '%s'}", q_path("a")), &e);
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'a', 'file': 'fa'}"), &e);
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'b', 'backing': 'a', " FILE_OF("b")), &e);
	assert_true(node_find("a")->read_only);
	assert_int_equal(node_del("a", &e), -EBUSY);
	assert_string_equal(e.msg, "Node 'a' is busy: node is used as backing hd of 'b'");
	err_clear(&e);
	assert_int_equal(node_del("fa", &e), -EBUSY);
	assert_string_equal(e.msg, "Block device fa is in use");
	err_clear(&e);
	del("b");
	del("a");
	assert_non_null(node_find("fa"));
	del("fa");
	assert_int_equal(node_del("fa", &e), -ENOENT);
	assert_string_equal(e.msg, "Failed to find node with node-name='fa'");
}

static void names(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_run("qemu-img create -q -f raw r 1M");
	refused(e, "'node-name' must be specified for the root node",
		"{'driver': 'file', 'filename': '%s'}", q_path("r"));
	refused(e, "Invalid node-name: '#a'",
		"{'driver': 'file', 'node-name': '#a', 'filename': '%s'}", q_path("r"));
	refused(e, "Invalid node-name: '9a'",
		"{'driver': 'file', 'node-name': '9a', 'filename': '%s'}", q_path("r"));
	refused(e, "Node name too long",
		"{'driver': 'file', 'node-name': 'a2345678901234567890123456789012', 'filename': '%s'}",
		q_path("r"));
	q_ok(add(&e, "{'driver': 'file', 'node-name': 'r', 'filename': '%s'}", q_path("r")), &e);
	refused(e, "Duplicate nodes with node-name='r'",
		"{'driver': 'file', 'node-name': 'r', 'filename': '%s'}", q_path("r"));
	refused(e, "Duplicate nodes with node-name='r'",
		"{'driver': 'raw', 'node-name': 'x', 'file': {'driver': 'file', 'node-name': 'r', 'filename': '%s'}}",
		q_path("r"));
	/* A name that a child took, and its parent wants too. */
	refused(e, "Duplicate nodes with node-name='x'",
		"{'driver': 'raw', 'node-name': 'x', 'file': {'driver': 'file', 'node-name': 'x', 'filename': '%s'}}",
		q_path("r"));
	refused(e, "Cannot find device='nix' nor node-name='nix'",
		"{'driver': 'raw', 'node-name': 'x', 'file': 'nix'}");
	del("r");
}

static void wrong_files(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	refused(e, "No such file or directory", "{'driver': 'file', 'node-name': 'x', 'filename': '%s'}",
		q_path("missing"));
	refused(e, "Is a directory", "{'driver': 'file', 'node-name': 'x', 'filename': '%s'}", q_path("."));
	q_run("rm -f fifo; mkfifo fifo");
	refused(e, "fifo", "{'driver': 'file', 'node-name': 'x', 'filename': '%s'}", q_path("fifo"));
	q_run("qemu-img create -q -f raw odd 1M; truncate -s 1048500 odd");
	refused(e, "multiple of 512", "{'driver': 'raw', 'node-name': 'x', " FILE_OF("odd"));
	refused(e, "not in qcow2 format", "{'driver': 'qcow2', 'node-name': 'x', " FILE_OF("base"));
	refused(e, "'host_device' driver requires",
		"{'driver': 'host_device', 'node-name': 'x', 'filename': '%s'}", q_path("odd"));
}

static void loops(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_run("qemu-img create -q -f qcow2 l1 1M; qemu-img create -q -f qcow2 -b l1 -F qcow2 l2");
	q_run("qemu-img rebase -u -b l2 -F qcow2 l1");
	refused(e, "loop", "{'driver': 'qcow2', 'node-name': 'x', " FILE_OF("l2"));
	q_run("qemu-img rebase -u -b l1 -F qcow2 l1");
	refused(e, "loop", "{'driver': 'qcow2', 'node-name': 'x', " FILE_OF("l1"));
	q_run("ln -sf l1 l3; qemu-img rebase -u -b l3 -F qcow2 l1");
	refused(e, "loop", "{'driver': 'qcow2', 'node-name': 'x', " FILE_OF("l1"));
}

static void backing_words(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_run("qemu-img create -q -f qcow2 b1 1M; qemu-img create -q -f qcow2 b2 1M");
	q_run("qemu-img rebase -u -b b1 -F vmdk b2");
	refused(e, "'vmdk' is not supported", "{'driver': 'qcow2', 'node-name': 'x', " FILE_OF("b2"));
	q_run("qemu-img rebase -u -b gone -F qcow2 b2");
	refused(e, "Could not open backing file", "{'driver': 'qcow2', 'node-name': 'x', " FILE_OF("b2"));
	q_run("qemu-img rebase -u -b nbd://host/x -F raw b2");
	refused(e, "not a plain path", "{'driver': 'qcow2', 'node-name': 'x', " FILE_OF("b2"));
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'x', 'backing': null, " FILE_OF("b2")), &e);
	assert_null(node_find("x")->backing);
	del("x");
}

static void options(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	refused(e, "detect-zeroes", "{'driver': 'raw', 'node-name': 'x', 'detect-zeroes': 'on', " FILE_OF("base"));
	refused(e, "no-flush", "{'driver': 'raw', 'node-name': 'x', 'cache': {'no-flush': true}, " FILE_OF("base"));
	refused(e, "force-share", "{'driver': 'raw', 'node-name': 'x', 'force-share': true, " FILE_OF("base"));
	refused(e, "locking", "{'driver': 'raw', 'node-name': 'x', 'file': {'driver': 'file', 'locking': 'off', 'filename': '%s'}}",
		q_path("base"));
}

/* QEMU's tools refuse what we have open, and we what they have open. */
static void locks(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_run("qemu-img create -q -f qcow2 k 1M");
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'k', " FILE_OF("k")), &e);
	refused(e, "Failed to get \"write\" lock", "{'driver': 'qcow2', 'node-name': 'k2', " FILE_OF("k"));
	refused(e, "lock", "{'driver': 'qcow2', 'node-name': 'k2', 'read-only': true, " FILE_OF("k"));
	assert_int_equal(q_status("qemu-io -f qcow2 -c 'write 0 64k' k >/dev/null 2>&1"), 1);
	del("k");
	q_run("qemu-io -f qcow2 -c 'write 0 64k' k >/dev/null");
	/* Read-only users share. */
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'k', 'read-only': true, " FILE_OF("k")), &e);
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'k2', 'read-only': true, " FILE_OF("k")), &e);
	q_run("qemu-img info k >/dev/null");
	assert_int_equal(q_status("qemu-io -f qcow2 -c 'write 0 64k' k >/dev/null 2>&1"), 1);
	del("k2");
	del("k");
}

/* A file node outlives its format node, which must not leave its locks behind. */
static void locks_of_named_file(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_run("qemu-img create -q -f qcow2 m 1M");
	q_ok(add(&e, "{'driver': 'file', 'node-name': 'fm', 'filename': '%s'}", q_path("m")), &e);
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'm', 'file': 'fm'}"), &e);
	refused(e, "is busy", "{'driver': 'raw', 'node-name': 'm2', 'file': 'fm'}");
	del("m");
	q_run("qemu-io -f qcow2 -c 'write 0 64k' m >/dev/null");
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'm', 'read-only': true, 'file': 'fm'}"), &e);
	q_run("qemu-img info m >/dev/null");
	del("m");
	del("fm");
}

/* A writable image that becomes a backing file lets others read it from then on. */
static void becomes_backing(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_run("for i in n o p; do qemu-img create -q -f qcow2 $i 1M; done");
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'n', " FILE_OF("n")), &e);
	assert_int_equal(q_status("qemu-img info n >/dev/null 2>&1"), 1);
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'o', 'backing': 'n', " FILE_OF("o")), &e);
	q_run("qemu-img info n >/dev/null");
	assert_int_equal(q_status("qemu-io -f qcow2 -c 'write 0 64k' n >/dev/null 2>&1"), 1);
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'p', 'backing': 'n', " FILE_OF("p")), &e);
	del("o");
	assert_int_equal(node_del("n", &e), -EBUSY);
	err_clear(&e);
	del("p");
	del("n");
}

static bool qemu_reads(const char *image)
{
	char cmd[80];

	snprintf(cmd, sizeof(cmd), "qemu-img info %s >/dev/null 2>&1", image);
	return q_status(cmd) == 0;
}

/* A backing image is written for a job: others are kept out, read and write, until it is back. */
static void reopened(void **state)
{
	struct err e = ERR_INIT;
	struct node *n;
	int fd;

	(void)state;
	q_run("qemu-img create -q -f qcow2 q 1M; qemu-img create -q -f qcow2 -b q -F qcow2 r 1M");
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'r', " FILE_OF("r")), &e);
	n = node_find("r")->backing;
	fd = n->file->fd;
	assert_true(qemu_reads("q"));
	q_ok(node_make_writable(n, &e), &e);
	assert_false(n->read_only);
	assert_false(qemu_reads("q"));
	q_ok(qcow2_begin_write(n->img, &e), &e);
	q_ok(node_return(n, &e), &e);
	assert_true(n->read_only);
	assert_int_equal(n->file->fd, fd);
	assert_true(qemu_reads("q"));
	assert_int_equal(q_status("qemu-io -f qcow2 -c 'write 0 64k' q >/dev/null 2>&1"), 1);
	q_ok(node_return(n, &e), &e); /* again: nothing to do */
	q_ok(node_make_writable(n, &e), &e);
	node_stay_writable(n);
	q_ok(node_return(n, &e), &e);
	assert_false(n->read_only);
	del("r");
	q_run("qemu-io -f qcow2 -c 'write 0 64k' q >/dev/null");
}

/* Someone else reads it as his backing image: it is not ours to write, and stays what it was. */
static void not_reopened(void **state)
{
	struct err e = ERR_INIT;
	struct node *n;

	(void)state;
	q_run("qemu-img create -q -f qcow2 s 1M; qemu-img create -q -f qcow2 -b s -F qcow2 t 1M");
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 't', " FILE_OF("t")), &e);
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 's', 'read-only': true, " FILE_OF("s")), &e);
	n = node_find("t")->backing;
	assert_int_equal(node_make_writable(n, &e), -EAGAIN);
	assert_non_null(strstr(e.msg, "Failed to get \"write\" lock"));
	assert_true(n->read_only);
	del("s");
	assert_true(qemu_reads("s"));
	assert_int_equal(q_status("qemu-io -f qcow2 -c 'write 0 64k' s >/dev/null 2>&1"), 1);
	del("t");
}

static void header_names_backing(void **state)
{
	struct err e = ERR_INIT;
	struct node *n;
	char *out;

	(void)state;
	q_run("qemu-img create -q -f raw base 1M; qemu-img create -q -f qcow2 -b base -F raw v 1M; qemu-img create -q -f qcow2 -b v -F qcow2 w 1M");
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'w', " FILE_OF("w")), &e);
	n = node_find("w");
	assert_ptr_equal(node_find_backing(n, "v"), n->backing);
	assert_ptr_equal(node_find_backing(n, q_path("base")), n->backing->backing);
	assert_null(node_find_backing(n, "w"));
	assert_true(node_is_file(n, "w"));
	q_ok(node_write_backing(n, n->backing->backing, NULL, &e), &e);
	assert_string_equal(n->info.backing_format, "raw");
	out = q_output("qemu-img info -U w | sed -n 's/^backing file: //p'");
	assert_non_null(strstr(out, q_path("base")));
	free(out);
	q_ok(node_write_backing(n, NULL, NULL, &e), &e);
	assert_null(n->backing_name);
	del("w");
	out = q_output("qemu-img info w | grep -c backing || :");
	assert_int_equal(out[0], '0');
	free(out);
}

static void leaves_images_alone(void **state)
{
	struct err e = ERR_INIT;
	char *before, *after;

	(void)state;
	q_run("qemu-img create -q -f qcow2 u1 1M; qemu-img create -q -f qcow2 -b u1 -F qcow2 u2");
	before = q_output("sha256sum u1 u2; stat -c '%%s %%y' u1 u2");
	q_ok(add(&e, "{'driver': 'qcow2', 'node-name': 'u', " FILE_OF("u2")), &e);
	del("u");
	after = q_output("sha256sum u1 u2; stat -c '%%s %%y' u1 u2");
	assert_string_equal(before, after);
	free(before);
	free(after);
}

static int setup(void **state)
{
	int r = q_setup(state);

	journal_init(q_path("state"));
	if (!r)
		q_run("qemu-img create -q -f raw base 1M");
	return r;
}

#define TEST(f) cmocka_unit_test_teardown(f, teardown_nodes)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(header_chain), TEST(explicit_chain), TEST(names), TEST(wrong_files),
		TEST(loops), TEST(backing_words), TEST(options), TEST(locks),
		TEST(locks_of_named_file), TEST(becomes_backing), TEST(leaves_images_alone),
		TEST(reopened), TEST(not_reopened), TEST(header_names_backing),
	};

	return cmocka_run_group_tests(tests, setup, q_teardown);
}
