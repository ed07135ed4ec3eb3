// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block/dm.h and block/dmevent.h. What needs no kernel runs everywhere; the rest needs
 * device-mapper and loop devices (a VM: tests/cases/userspace-block.sh), else it is skipped.
 *
 * LDFLAGS: -Wl,--wrap=dm_task_run,--wrap=dm_task_set_cookie
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/dm.h"
#include "block/dmevent.h"
#include "block/kmod.h"
#include "block/kmsg.h"
#include "block/loop.h"

#define SECTORS 2048

/*
 * Requests that change nodes are those with a cookie. The wrappers make each last a while and
 * see whether two are under way at once: libdevmapper's list of nodes has no lock.
 */
struct dm_task;
int __real_dm_task_run(struct dm_task *t);
int __wrap_dm_task_run(struct dm_task *t);
int __real_dm_task_set_cookie(struct dm_task *t, uint32_t *cookie, uint16_t flags);
int __wrap_dm_task_set_cookie(struct dm_task *t, uint32_t *cookie, uint16_t flags);

static _Thread_local struct dm_task *with_cookie;
static int changing_nodes, collisions;

int __wrap_dm_task_set_cookie(struct dm_task *t, uint32_t *cookie, uint16_t flags)
{
	with_cookie = t;
	return __real_dm_task_set_cookie(t, cookie, flags);
}

int __wrap_dm_task_run(struct dm_task *t)
{
	int r;

	if (t != with_cookie)
		return __real_dm_task_run(t);
	if (__atomic_add_fetch(&changing_nodes, 1, __ATOMIC_SEQ_CST) > 1)
		__atomic_add_fetch(&collisions, 1, __ATOMIC_SEQ_CST);
	r = __real_dm_task_run(t);
	usleep(5000);
	__atomic_sub_fetch(&changing_nodes, 1, __ATOMIC_SEQ_CST);
	with_cookie = NULL;
	return r;
}

static bool have_dm;
static char lower[64], upper[64]; /* names of this run */
static struct loop_dev disk = LOOP_DEV_INIT;

static void need_dm(void)
{
	if (!have_dm || disk.fd < 0)
		skip();
}

static void no_err(int r, const struct err *e)
{
	if (r < 0)
		fail_msg("%s", e->msg);
}

static int setup(void **state)
{
	char path[] = "/var/tmp/livechain-dm-XXXXXX";
	struct loop_options opt = { .path = path, .allow_buffered = true };
	int fd = mkstemp(path);

	(void)state;
	(void)kmod_load("dm_mod", NULL);
	(void)kmod_ensure_loop(NULL);
	have_dm = dm_open_control(NULL) == 0;
	snprintf(lower, sizeof(lower), "lc-test-lower-%d", getpid());
	snprintf(upper, sizeof(upper), "lc-test-upper-%d", getpid());
	if (fd < 0 || ftruncate(fd, SECTORS * 512))
		return -1;
	unlink(path);
	if (have_dm)
		(void)loop_attach(fd, &opt, &disk, NULL);
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	loop_detach(&disk);
	return 0;
}

static int drop_devices(void **state)
{
	(void)state;
	if (!have_dm)
		return 0;
	(void)dm_resume(lower, NULL);
	(void)dm_remove(upper, NULL);
	(void)dm_remove(lower, NULL);
	return 0;
}

/* A linear device over @below. */
static void make_linear(const char *name, const char *below)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	struct err e = ERR_INIT;
	char params[128];
	dev_t devno;

	snprintf(params, sizeof(params), "%s 0", below);
	assert_int_equal(dm_table_set(&t, SECTORS, "linear", params), 0);
	no_err(dm_create(name, name, &t, false, &devno, &e), &e);
}

static char *node_of(const char *name)
{
	static _Thread_local char path[200];

	snprintf(path, sizeof(path), "%s/%s", DM_DEV_DIR, name);
	return path;
}

static void names_are_checked(void **state)
{
	char name[DM_DEV_NAME_MAX + 2];
	struct err e = ERR_INIT;

	(void)state;
	memset(name, 'a', sizeof(name));
	name[DM_DEV_NAME_MAX + 1] = '\0';
	assert_int_equal(dm_check_name(name, NULL), -EINVAL);
	name[DM_DEV_NAME_MAX] = '\0';
	assert_int_equal(dm_check_name(name, NULL), 0);
	assert_int_equal(dm_check_name("vm1-disk0", NULL), 0);
	assert_int_equal(dm_check_name("", NULL), -EINVAL);
	assert_int_equal(dm_check_name("..", NULL), -EINVAL);
	assert_int_equal(dm_check_name("control", NULL), -EINVAL);
	assert_int_equal(dm_check_name("a b", NULL), -EINVAL);
	assert_int_equal(dm_check_name("a/b", &e), -EINVAL);
	assert_non_null(strstr(e.msg, "'a/b'"));
}

static void kernel_log_lines_are_understood(void **state)
{
	char ctr[] =
		"3,901,5140900,-;device-mapper: table: 253:12: livechain: Layer 3 is listed twice (-EINVAL)\n SUBSYSTEM=block";
	char ioctl_line[] = "3,902,5140900,-;device-mapper: ioctl: error adding target to table";
	char msg[] = "3,903,5140900,-;device-mapper: livechain: vm1: no such job 'b'";
	char other[] = "6,904,5140900,-;EXT4-fs (dm-0): mounted";
	char broken[] = "no separator";
	int weight = 0;

	(void)state;
	assert_string_equal(kmsg_parse(ctr, "x", &weight), "Layer 3 is listed twice (-EINVAL)");
	assert_int_equal(weight, 2);
	assert_string_equal(kmsg_parse(msg, "vm1", &weight), "vm1: no such job 'b'");
	assert_int_equal(weight, 3);
	assert_non_null(kmsg_parse(ioctl_line, "x", &weight));
	assert_int_equal(weight, 1);
	assert_null(kmsg_parse(other, "x", &weight));
	assert_null(kmsg_parse(broken, "x", &weight));
}

static void without_device_mapper_there_is_a_sentence(void **state)
{
	struct err e = ERR_INIT;
	struct dm_dev_info info;

	(void)state;
	if (have_dm)
		skip();
	assert_true(dm_get_info("x", &info, &e) < 0);
	assert_non_null(strstr(e.msg, "device-mapper"));
	err_clear(&e);
	assert_true(kmod_ensure_livechain(NULL, &e) < 0);
	assert_non_null(strstr(e.msg, "modprobe dm_mod"));
}

static void a_missing_module_is_named(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(kmod_load("livechain-no-such-module", &e), -ENOENT);
	assert_non_null(strstr(e.msg, "livechain-no-such-module"));
	assert_non_null(strstr(e.msg, "/lib/modules/"));
	err_clear(&e);
	assert_int_equal(kmod_load_file("/nonexistent/x.ko", &e), -ENOENT);
	assert_non_null(strstr(e.msg, "'/nonexistent/x.ko'"));
	assert_non_null(strstr(e.msg, "make module"));
}

static void create_info_rename_remove(void **state)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	struct dm_dev_info info;
	struct err e = ERR_INIT;
	struct stat st;
	char uuid[200];

	(void)state;
	need_dm();
	make_linear(lower, disk.path);
	no_err(dm_get_info(lower, &info, &e), &e);
	assert_true(info.exists && info.live_table);
	assert_false(info.suspended || info.inactive_table || info.read_only);
	assert_int_equal(stat(node_of(lower), &st), 0);
	assert_int_equal(st.st_rdev, info.devno);
	snprintf(uuid, sizeof(uuid), "LIVECHAIN-%s", lower);
	assert_string_equal(info.uuid, uuid);
	no_err(dm_live_table(lower, &t, &e), &e);
	assert_string_equal(t.type, "linear");
	assert_int_equal(t.length, SECTORS);
	no_err(dm_rename(lower, upper, &e), &e);
	assert_int_equal(stat(node_of(upper), &st), 0);
	assert_int_equal(stat(node_of(lower), &st), -1);
	no_err(dm_get_info(lower, &info, &e), &e);
	assert_false(info.exists);
	no_err(dm_remove(upper, &e), &e);
	assert_int_equal(stat(node_of(upper), &st), -1);
	assert_int_equal(dm_remove(upper, &e), -ENXIO);
	assert_non_null(strstr(e.msg, "no such device"));
}

static void a_taken_name_is_refused(void **state)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	struct dm_dev_info info;
	struct err e = ERR_INIT;
	dev_t devno = 0;

	(void)state;
	need_dm();
	make_linear(lower, disk.path);
	assert_int_equal(dm_table_set(&t, SECTORS, "zero", ""), 0);
	assert_int_equal(dm_create(lower, "other", &t, false, &devno, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "is taken"));
	assert_int_equal(devno, 0);
	/* The UUID, too; and the first device is as it was. */
	assert_int_equal(dm_create(upper, lower, &t, false, &devno, NULL), -EEXIST);
	no_err(dm_get_info(lower, &info, NULL), &e);
	assert_true(info.exists && info.live_table);
}

static void a_bad_table_gives_the_kernels_sentence(void **state)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	struct dm_dev_info info;
	struct err e = ERR_INIT;
	dev_t devno;

	(void)state;
	need_dm();
	assert_int_equal(dm_table_set(&t, SECTORS, "linear", "just-one-argument"), 0);
	assert_int_equal(dm_create(lower, lower, &t, false, &devno, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "Invalid argument count"));
	no_err(dm_get_info(lower, &info, &e), &e);
	assert_false(info.exists);
}

static void load_clear_suspend_resume(void **state)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	struct dm_table now = { 0 };
	struct dm_dev_info info;
	struct err e = ERR_INIT;

	(void)state;
	need_dm();
	make_linear(lower, disk.path);
	assert_int_equal(dm_table_set(&t, SECTORS, "zero", ""), 0);
	no_err(dm_load(lower, &t, false, &e), &e);
	no_err(dm_get_info(lower, &info, &e), &e);
	assert_true(info.inactive_table);
	no_err(dm_clear(lower, &e), &e);
	no_err(dm_get_info(lower, &info, &e), &e);
	assert_false(info.inactive_table);
	no_err(dm_suspend(lower, true, &e), &e);
	no_err(dm_suspend(lower, true, &e), &e);
	no_err(dm_get_info(lower, &info, &e), &e);
	assert_true(info.suspended);
	no_err(dm_resume(lower, &e), &e);
	/* A resume alone makes a loaded table live. */
	no_err(dm_load(lower, &t, false, &e), &e);
	no_err(dm_resume(lower, &e), &e);
	no_err(dm_live_table(lower, &now, &e), &e);
	assert_string_equal(now.type, "zero");
	dm_table_done(&now);
}

static void a_device_in_use_says_by_whom(void **state)
{
	struct err e = ERR_INIT;
	char me[64];
	int fd;

	(void)state;
	need_dm();
	make_linear(lower, disk.path);
	make_linear(upper, node_of(lower));
	fd = open(node_of(upper), O_RDONLY | O_CLOEXEC);
	assert_int_equal(dm_remove(lower, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "in use by /dev/dm-"));
	err_clear(&e);
	assert_int_equal(dm_remove(upper, &e), -EBUSY);
	snprintf(me, sizeof(me), "used by process %d (", getpid());
	assert_non_null(strstr(e.msg, me));
	close(fd);
	err_clear(&e);
	no_err(dm_remove(upper, &e), &e);
	no_err(dm_remove(lower, &e), &e);
}

static void *close_later(void *arg)
{
	usleep(400000);
	close(*(int *)arg);
	return NULL;
}

static void a_short_opener_is_waited_for(void **state)
{
	struct err e = ERR_INIT;
	pthread_t t;
	int fd;

	(void)state;
	need_dm();
	make_linear(lower, disk.path);
	fd = open(node_of(lower), O_RDONLY | O_CLOEXEC);
	assert_int_equal(pthread_create(&t, NULL, close_later, &fd), 0);
	no_err(dm_remove(lower, &e), &e);
	pthread_join(t, NULL);
}

/* dm-stats answers messages on any target: its auxiliary text is a long argument and a long answer.
 */
static void long_messages_and_long_answers(void **state)
{
	enum { LEN = 900 * 1024 };
	_cleanup_free_ char *text = NULL; /* a skip runs no cleanup */
	_cleanup_free_ char *reply = NULL;
	struct err e = ERR_INIT;
	int head;

	(void)state;
	need_dm();
	text = malloc(LEN + 64);
	assert_non_null(text);
	make_linear(lower, disk.path);
	no_err(dm_message(lower, "@stats_create - /1", &reply, &e), &e);
	assert_string_equal(reply, "0");
	head = sprintf(text, "@stats_set_aux 0 ");
	memset(text + head, 'x', LEN);
	text[head + LEN] = '\0';
	no_err(dm_message(lower, text, NULL, &e), &e);
	free(take_ptr(reply));
	no_err(dm_message(lower, "@stats_list", &reply, &e), &e);
	assert_true(strlen(reply) > LEN);
	assert_non_null(strstr(reply, text + head));
	assert_int_equal(dm_message(lower, "nonsense a b", NULL, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "cannot do 'nonsense' on"));
}

static void the_list_has_what_the_prefix_says(void **state)
{
	_cleanup_free_ struct dm_dev_entry *list = NULL;
	struct err e = ERR_INIT;
	char prefix[100];
	int n;

	(void)state;
	need_dm();
	make_linear(lower, disk.path);
	make_linear(upper, node_of(lower));
	snprintf(prefix, sizeof(prefix), "LIVECHAIN-lc-test-lower-%d", getpid());
	n = dm_list_devices(prefix, &list, &e);
	no_err(n, &e);
	assert_int_equal(n, 1);
	assert_string_equal(list[0].name, lower);
	assert_string_equal(list[0].uuid, prefix);
	free(take_ptr(list));
	assert_int_equal(dm_list_devices("LIVECHAIN-lc-test-none", &list, &e), 0);
	free(take_ptr(list));
	assert_true(dm_list_devices(NULL, &list, &e) >= 2);
}

static void target_versions(void **state)
{
	unsigned v[3] = { 0 };
	struct err e = ERR_INIT;

	(void)state;
	need_dm();
	no_err(dm_target_version("linear", v, &e), &e);
	assert_int_equal(v[0], 1);
	assert_int_equal(dm_target_version("no-such-target", v, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "no-such-target"));
}

static void *read_upper(void *arg)
{
	static char buf[4096] __attribute__((aligned(4096)));
	int fd = open(node_of(upper), O_RDONLY | O_DIRECT | O_CLOEXEC);

	*(ssize_t *)arg = pread(fd, buf, sizeof(buf), 0);
	close(fd);
	return NULL;
}

/* Requests that the device has begun and not ended. */
static unsigned int inflight(const char *name)
{
	unsigned int reads = 0, writes = 0;
	struct dm_dev_info info;
	struct err e = ERR_INIT;
	char path[64];
	FILE *f;

	no_err(dm_get_info(name, &info, &e), &e);
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/inflight", major(info.devno),
		 minor(info.devno));
	f = fopen(path, "re");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%u %u", &reads, &writes), 2);
	fclose(f);
	return reads + writes;
}

static int suspended_upper;

static void *suspend_upper(void *arg)
{
	(void)arg;
	__atomic_store_n(&suspended_upper, dm_suspend(upper, false, NULL) ? -1 : 1,
			 __ATOMIC_SEQ_CST);
	return NULL;
}

/* Bio in flight in the suspended lower device: a flush-suspend of the upper one blocks. */
static void a_blocked_suspend_blocks_nothing_else(void **state)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	struct dm_dev_info info;
	struct err e = ERR_INIT;
	pthread_t reader, suspender;
	ssize_t got = -1;

	(void)state;
	need_dm();
	make_linear(lower, disk.path);
	make_linear(upper, node_of(lower));
	suspended_upper = 0;
	no_err(dm_suspend(lower, true, &e), &e);
	assert_int_equal(pthread_create(&reader, NULL, read_upper, &got), 0);
	for (int tries = 0; !inflight(upper) && tries < 3000; tries++)
		usleep(20000);
	assert_int_equal(inflight(upper), 1);
	assert_int_equal(pthread_create(&suspender, NULL, suspend_upper, NULL), 0);
	usleep(300000);
	assert_int_equal(__atomic_load_n(&suspended_upper, __ATOMIC_SEQ_CST), 0);
	no_err(dm_message(lower, "@stats_list", NULL, &e), &e);
	no_err(dm_status(lower, &t, &e), &e);
	no_err(dm_get_info(upper, &info, &e), &e);
	no_err(dm_resume(lower, &e), &e); /* and this takes node_lock */
	pthread_join(reader, NULL);
	pthread_join(suspender, NULL);
	assert_int_equal(got, 4096);
	assert_int_equal(suspended_upper, 1);
	no_err(dm_resume(upper, &e), &e);
}

#define CHURNERS 4

static void *churn(void *arg)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	char name[64];
	long bad = 0;
	int i;

	dm_table_set(&t, 64, "zero", "");
	snprintf(name, sizeof(name), "lc-test-churn%ld-%d", (long)(intptr_t)arg, getpid());
	for (i = 0; i < 5; i++) {
		dev_t devno = 0;
		struct stat st;

		bad += !!dm_create(name, name, &t, false, &devno, NULL);
		bad += stat(node_of(name), &st) || st.st_rdev != devno;
		bad += !!dm_remove(name, NULL);
	}
	return (void *)(intptr_t)bad;
}

static void nodes_are_right_when_threads_make_devices_at_once(void **state)
{
	pthread_t t[CHURNERS];
	void *bad;
	long i;

	(void)state;
	need_dm();
	for (i = 0; i < CHURNERS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, churn, (void *)(intptr_t)i), 0);
	for (i = 0; i < CHURNERS; i++) {
		pthread_join(t[i], &bad);
		assert_null(bad);
	}
	assert_int_equal(collisions, 0);
}

struct seen {
	int nr[3];
};

static void count(void *ctx, enum dmevent_what what, const struct dm_dev_entry *dev)
{
	struct seen *s = ctx;

	if (!strcmp(dev->name, lower))
		s->nr[what]++;
}

/* An event of dm-mirror when its (core) log is in sync. */
static void events_reach_the_descriptor(void **state)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	_cleanup_(dmevent_freep) struct dmevent *d = NULL;
	struct seen s = { { 0 } };
	struct err e = ERR_INIT;
	struct dm_dev_info info;
	struct pollfd p;
	char params[200];
	dev_t devno;
	int tries;

	(void)state;
	need_dm();
	if (kmod_load("dm_mirror", NULL))
		skip();
	d = dmevent_new("LIVECHAIN-", &e);
	assert_non_null(d);
	no_err(dmevent_scan(d, count, &s, &e), &e);
	p = (struct pollfd){ .fd = dmevent_fd(d), .events = POLLIN };
	assert_int_equal(poll(&p, 1, 0), 0);
	snprintf(params, sizeof(params), "core 1 64 2 %s 0 %s 1024", disk.path, disk.path);
	assert_int_equal(dm_table_set(&t, 1024, "mirror", params), 0);
	no_err(dm_create(lower, lower, &t, false, &devno, &e), &e);
	assert_int_equal(poll(&p, 1, 10000), 1);
	/* Its event may come before the first scan sees the device, or after. */
	for (tries = 0; tries < 30 && !s.nr[DMEVENT_CHANGED]; tries++) {
		no_err(dmevent_scan(d, count, &s, &e), &e);
		poll(&p, 1, 100);
	}
	assert_int_equal(s.nr[DMEVENT_NEW], 1);
	no_err(dm_get_info(lower, &info, &e), &e);
	assert_true(info.event_nr >= 1);
	assert_int_equal(poll(&p, 1, 0), 0);
	no_err(dm_remove(lower, &e), &e);
	no_err(dmevent_scan(d, count, &s, &e), &e);
	assert_int_equal(s.nr[DMEVENT_GONE], 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_checked),
		cmocka_unit_test(kernel_log_lines_are_understood),
		cmocka_unit_test(without_device_mapper_there_is_a_sentence),
		cmocka_unit_test(a_missing_module_is_named),
		cmocka_unit_test_teardown(create_info_rename_remove, drop_devices),
		cmocka_unit_test_teardown(a_taken_name_is_refused, drop_devices),
		cmocka_unit_test_teardown(a_bad_table_gives_the_kernels_sentence, drop_devices),
		cmocka_unit_test_teardown(load_clear_suspend_resume, drop_devices),
		cmocka_unit_test_teardown(a_device_in_use_says_by_whom, drop_devices),
		cmocka_unit_test_teardown(a_short_opener_is_waited_for, drop_devices),
		cmocka_unit_test_teardown(the_list_has_what_the_prefix_says, drop_devices),
		cmocka_unit_test(target_versions),
		cmocka_unit_test_teardown(a_blocked_suspend_blocks_nothing_else, drop_devices),
		cmocka_unit_test(nodes_are_right_when_threads_make_devices_at_once),
		cmocka_unit_test_teardown(events_reach_the_descriptor, drop_devices),
		/* Last: libdevmapper's ioctl buffer stays as large as the answer. */
		cmocka_unit_test_teardown(long_messages_and_long_answers, drop_devices),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
