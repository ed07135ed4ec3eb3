// SPDX-License-Identifier: GPL-2.0-or-later
/* The journal of grants: what a crash left allocated is found and freed, nothing else is. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/journal.h"
#include "qcow2-util.h"

static unsigned journals(void)
{
	char *out = q_output("ls state/grants 2>/dev/null | wc -l");
	unsigned n = (unsigned)atoi(out);

	free(out);
	return n;
}

static void make_image(const char *name)
{
	q_run("qemu-img create -q -f qcow2 %s 64M", name);
	q_run("qemu-io -f qcow2 -c 'write -P 5 1M 1M' %s >/dev/null", name);
}

/* As a daemon that was killed: allocated, granted, never used. */
static void leak(const char *name, unsigned clusters)
{
	struct q_file *f = q_open_file(name, 0);
	struct qcow2 *img = q_open(f, QCOW2_WRITABLE);
	struct qcow2_range *ranges;
	struct err e = ERR_INIT;
	size_t n;

	q_ok(journal_open(q_path(name), &e), &e);
	q_ok(qcow2_alloc_clusters(img, clusters, 0, &ranges, &n, &e), &e);
	free(ranges);
	qcow2_close(img);
	q_close_file(f);
}

static int recover(const char *name)
{
	struct q_file *f = q_open_file(name, 0);
	struct qcow2 *img = q_open(f, QCOW2_WRITABLE);
	struct err e = ERR_INIT;
	int r = journal_recover(q_path(name), img, &e);

	qcow2_close(img);
	q_close_file(f);
	return r;
}

static void takes_back(void **state)
{
	(void)state;
	make_image("a");
	leak("a", 40);
	assert_int_equal(journals(), 1);
	assert_int_equal(q_qemu_check("a"), 3);
	assert_int_equal(recover("a"), 0);
	assert_int_equal(q_qemu_check("a"), 0);
	assert_int_equal(journals(), 0);
	q_run("qemu-io -f qcow2 -r -c 'read -P 5 1M 1M' -c 'read -P 0 2M 1M' a | grep -vq fail");
}

/* Without a journal nothing is looked for: leaks of others are theirs. */
static void not_ours(void **state)
{
	(void)state;
	make_image("b");
	leak("b", 3);
	journal_close(q_path("b"));
	assert_int_equal(recover("b"), 0);
	assert_int_equal(q_qemu_check("b"), 3);
}

/* The journal of one image is not another's. */
static void each_its_own(void **state)
{
	(void)state;
	make_image("c");
	make_image("d");
	leak("c", 3);
	leak("d", 3);
	assert_int_equal(journals(), 2);
	assert_int_equal(recover("c"), 0);
	assert_int_equal(journals(), 1);
	assert_int_equal(q_qemu_check("c"), 0);
	assert_int_equal(q_qemu_check("d"), 3);
	assert_int_equal(recover("d"), 0);
	assert_int_equal(journals(), 0);
}

/* What QEMU put into the leaked clusters' place meanwhile stays. */
static void used_since(void **state)
{
	(void)state;
	make_image("e");
	leak("e", 20);
	q_run("qemu-io -f qcow2 -c 'write -P 6 8M 4M' e >/dev/null");
	assert_int_equal(recover("e"), 0);
	assert_int_equal(q_qemu_check("e"), 0);
	q_run("qemu-io -f qcow2 -r -c 'read -P 6 8M 4M' -c 'read -P 5 1M 1M' e >out");
	assert_int_equal(q_status("grep -q -i 'verification failed' out"), 1);
}

static void twice_is_once(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_ok(journal_open(q_path("f"), &e), &e);
	q_ok(journal_open(q_path("f"), &e), &e);
	assert_int_equal(journals(), 1);
	journal_close(q_path("f"));
	journal_close(q_path("f"));
	assert_int_equal(journals(), 0);
}

/* No grant without a journal: it says why it can't be written. */
static void no_folder(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	q_run("touch nofolder");
	journal_init(q_path("nofolder"));
	assert_true(journal_open(q_path("g"), &e) < 0);
	assert_non_null(strstr(e.msg, "nofolder"));
	journal_init(q_path("state"));
}

static int setup(void **state)
{
	int r = q_setup(state);

	journal_init(q_path("state"));
	return r;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_back), cmocka_unit_test(not_ours),
		cmocka_unit_test(each_its_own), cmocka_unit_test(used_since),
		cmocka_unit_test(twice_is_once), cmocka_unit_test(no_folder),
	};

	return cmocka_run_group_tests(tests, setup, q_teardown);
}
