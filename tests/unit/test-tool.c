// SPDX-License-Identifier: GPL-2.0-or-later
/* The tool's text, and its subcommands for disks; test-tool-jobs.c has those that start jobs. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/util.h"
#include "tool/disk.h"
#include "tool/print.h"
#include "tool/progress.h"
#include "tool-server.h"

/* ---- text ----------------------------------------------------------------------- */

static void sizes_and_times(void **state)
{
	char s[SIZE_TEXT], t[TIME_TEXT];

	(void)state;
	assert_string_equal(print_size(0, s), "0 B");
	assert_string_equal(print_size(1023, s), "1023 B");
	assert_string_equal(print_size(1024, s), "1.00 KiB");
	assert_string_equal(print_size(1536ull << 20, s), "1.50 GiB");
	assert_string_equal(print_size((1ull << 30) - 1, s), "1.00 GiB");
	assert_string_equal(print_size(200ull << 30, s), "200.0 GiB");
	assert_string_equal(print_size(UINT64_MAX, s), "16.00 EiB");
	assert_string_equal(print_time(5, t), "0:05");
	assert_string_equal(print_time(754, t), "12:34");
	assert_string_equal(print_time(11045, t), "3:04:05");
	assert_string_equal(print_time(-1, t), "-");
}

static void progress_has_rate_and_time_left(void **state)
{
	struct progress p;
	char line[200];
	FILE *null = fopen("/dev/null", "w");
	int i;

	(void)state;
	progress_init(&p, "j", null, true);
	for (i = 0; i <= 50; i++)
		progress_update(&p, (uint64_t)i << 20, 200 << 20, 1000 + i * 1000);
	assert_string_equal(progress_line(&p, 50 << 20, 200 << 20, false, line, sizeof(line)),
			    " 25.0%  50.00 MiB of 200.0 MiB  1.00 MiB/s  2:30 left");
	progress_line(&p, 200 << 20, 200 << 20, true, line, sizeof(line));
	assert_non_null(strstr(line, "[########################] 100.0%"));
	assert_null(strstr(line, "left"));
	/* Nothing to copy is all copied; more than all is all. */
	assert_non_null(strstr(progress_line(&p, 0, 0, false, line, sizeof(line)), "100.0%"));
	assert_non_null(strstr(progress_line(&p, 9, 8, false, line, sizeof(line)), "100.0%"));
	fclose(null);
}

static void progress_prints_few_lines_without_a_terminal(void **state)
{
	struct progress p;
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	int i, lines = 0;

	(void)state;
	progress_init(&p, "j", f, false);
	for (i = 0; i <= 1000; i++)
		progress_update(&p, i, 1000, i * 500);
	fclose(f);
	for (char *c = text; *c; c++)
		lines += *c == '\n';
	/* 500 s: each tenth, and one every 30 s in between. */
	assert_in_range(lines, 11, 28);
	assert_non_null(strstr(text, "j: 100.0%"));
	assert_null(strchr(text, '\r'));
	free(text);
}

static void fast_progress_is_two_lines(void **state)
{
	struct progress p;
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	int i;

	(void)state;
	progress_init(&p, "j", f, false);
	for (i = 0; i <= 1000; i++)
		progress_update(&p, i, 1000, i / 10);
	fclose(f);
	assert_string_equal(text, "j:   0.0%  0 B of 1000 B\nj: 100.0%  1000 B of 1000 B\n");
	free(text);
}

static void ids_are_made_of_names(void **state)
{
	_cleanup_free_ char *a = make_id("", "vm1-disk0", 31);
	_cleanup_free_ char *b = make_id("", "0:1+x", 31);
	_cleanup_free_ char *c =
		make_id("backup-", "a-name-that-is-much-longer-than-a-node-may-have", 31);
	_cleanup_free_ char *other =
		make_id("backup-", "a-name-that-is-much-longer-than-a-node-may-be", 31);

	(void)state;
	assert_string_equal(a, "vm1-disk0");
	assert_true(id_wellformed(b, 31));
	assert_true(id_wellformed(c, 31));
	assert_true(id_wellformed(other, 31));
	assert_string_not_equal(c, other);
}

static void paths_become_absolute(void **state)
{
	_cleanup_free_ char *a = NULL;
	char want[PATH_MAX + 10], here[PATH_MAX];

	(void)state;
	assert_int_equal(absolute_path("new.qcow2", &a, NULL), 0);
	assert_non_null(getcwd(here, sizeof(here)));
	snprintf(want, sizeof(want), "%s/new.qcow2", here);
	assert_string_equal(a, want);
	free(take_ptr(a));
	assert_int_equal(absolute_path("/x", &a, NULL), 0);
	assert_string_equal(a, "/x");
	free(take_ptr(a));
	assert_int_equal(absolute_path("/nonexistent/dir/x", &a, NULL), -ENOENT);
	assert_int_equal(absolute_path("/tmp/", &a, NULL), -EINVAL);
}

/* ---- subcommands ---------------------------------------------------------------- */

static void no_daemon_is_said(void **state)
{
	struct tool t = { .socket = "/nonexistent/qmp" };
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(tool_qmp(&t, "query-jobs", NULL, NULL, &e), -ENOTCONN);
	assert_non_null(strstr(e.msg, "'/nonexistent/qmp'"));
	assert_non_null(strstr(e.msg, "is livechaind running?"));
	assert_int_equal(tool_exit_status(&e), TOOL_EXIT_NO_DAEMON);
}

static void errors_keep_their_class(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_says("x",
		"{\"error\": {\"class\": \"DeviceNotActive\", \"desc\": \"Block job 'x' not found\"}}",
		NULL, NULL);
	assert_int_equal(TS_RUN(cmd_qmp, false, &e, "x"), -ESRCH);
	assert_int_equal(e.cls, ERR_DEVICE_NOT_ACTIVE);
	assert_string_equal(e.msg, "Block job 'x' not found");
	assert_int_equal(tool_exit_status(&e), TOOL_EXIT_NOT_FOUND);
}

static void qmp_sends_what_it_is_given(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_says("y",
		"{\"timestamp\": {}, \"event\": \"E\"}\r\n{\"return\": {\"v\": 18446744073709551615}}",
		NULL, NULL);
	assert_int_equal(TS_RUN(cmd_qmp, false, &e, "y", "{'a': 1}"), 0);
	assert_string_equal(ts_out, "{\"v\": 18446744073709551615}\n");
	ts_sent("{\"execute\": \"y\", \"arguments\": {\"a\": 1}}");
	assert_int_equal(TS_RUN(cmd_qmp, false, &e, "{\"execute\": \"y\"}"), 0);
	assert_string_equal(ts_out, "{\"return\": {\"v\": 18446744073709551615}}\n");
}

static char *image_file(void)
{
	char *path = ts_path("vm1.qcow2");

	close(open(path, O_WRONLY | O_CREAT, 0600));
	return path;
}

static void attach_adds_node_and_export(void **state)
{
	struct err e = ERR_INIT;
	char want[300];

	(void)state;
	assert_int_equal(TS_RUN(cmd_attach, false, &e, image_file()), 0);
	assert_string_equal(ts_out, "/dev/mapper/vm1\n");
	snprintf(
		want, sizeof(want),
		"{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"qcow2\", \"node-name\": \"vm1\", \"read-only\": false, \"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}}",
		image_file());
	ts_sent(want);
	ts_sent("{\"type\": \"dm\", \"id\": \"vm1\", \"node-name\": \"vm1\", \"name\": \"vm1\", \"writable\": true}");
	unlink(image_file());
	assert_int_equal(TS_RUN(cmd_attach, false, &e, "/nonexistent.qcow2"), -ENOENT);
}

static void attach_takes_back_what_it_did(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_says("block-export-add",
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no module\"}}", NULL, NULL);
	assert_int_equal(
		TS_RUN(cmd_attach, false, &e, image_file(), "-r", "-n", "d:1", "-f", "raw"),
		-EREMOTEIO);
	assert_string_equal(e.msg, "no module");
	ts_sent("\"driver\": \"raw\"");
	ts_sent("\"read-only\": true");
	ts_sent("\"name\": \"d:1\", \"writable\": false");
	ts_sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"d_1-");
	assert_int_equal(tool_exit_status(&e), TOOL_EXIT_FAILED);
	unlink(image_file());
}

static void list_shows_dm_exports(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	assert_int_equal(TS_RUN(cmd_list, true, &e), 0);
	assert_string_equal(
		ts_out,
		"[{\"name\": \"vm1\", \"device\": \"/dev/mapper/vm1\", \"export\": \"e1\", \"node-name\": \"top\", \"writable\": true, \"size\": 8388608, \"depth\": 3, \"image\": \"/i/c\"}]\n");
	assert_int_equal(TS_RUN(cmd_list, false, &e), 0);
	assert_string_equal(ts_out, "NAME  SIZE      MODE  IMAGES  ACTIVE IMAGE\n"
				    "vm1   8.00 MiB  rw    3       /i/c\n");
}

static void chain_is_a_tree(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	assert_int_equal(TS_RUN(cmd_chain, false, &e, "vm1"), 0);
	assert_string_equal(ts_out, "vm1  8.00 MiB  rw\n"
				    "└─ /i/c  qcow2, 1.50 KiB on disk  (active)\n"
				    "   └─ /i/b  qcow2, 1.50 KiB on disk\n"
				    "      └─ /i/a  qcow2, 1.50 KiB on disk\n");
	assert_int_equal(TS_RUN(cmd_chain, false, &e, "other"), -ESRCH);
	assert_non_null(strstr(e.msg, "'other'"));
}

static void detach_ends_export_then_nodes(void **state)
{
	struct err e = ERR_INIT;
	const char *del;

	(void)state;
	ts_has_disk();
	ts_says("blockdev-del",
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"Failed to find node with node-name='top'\"}}",
		TS_EMPTY, NULL);
	assert_int_equal(TS_RUN(cmd_detach, false, &e, "vm1"), 0);
	del = strstr(ts_log(),
		     "{\"execute\": \"block-export-del\", \"arguments\": {\"id\": \"e1\"}}");
	assert_non_null(del);
	assert_non_null(strstr(del, "{\"node-name\": \"top\"}"));
	assert_non_null(strstr(del, "{\"node-name\": \"root\"}"));
	ts_not_sent("{\"node-name\": \"#block7\"}"); /* a child that nobody named */
}

static void a_busy_disk_stays(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	ts_says("block-export-del",
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"in use\"}}", NULL, NULL);
	assert_int_equal(TS_RUN(cmd_detach, false, &e, "vm1"), -EREMOTEIO);
	ts_not_sent("blockdev-del");
	assert_int_equal(TS_RUN(cmd_detach, false, &e, "vm2"), -ESRCH);
}

static void snapshot_names_disk_and_file(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	assert_int_equal(TS_RUN(cmd_snapshot, true, &e, "vm1", "/tmp/e.qcow2", "-n", "n5"), 0);
	ts_sent("{\"device\": \"vm1\", \"snapshot-file\": \"/tmp/e.qcow2\", \"format\": \"qcow2\", \"snapshot-node-name\": \"n5\"}");
	assert_string_equal(
		ts_out,
		"{\"name\": \"vm1\", \"image\": \"/tmp/e.qcow2\", \"node-name\": \"top\"}\n");
}

static void snapshot_of_all_is_one_transaction(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	assert_int_equal(TS_RUN(cmd_snapshot, true, &e, "--all", "/tmp", "--suffix", "x"), 0);
	ts_sent("{\"execute\": \"transaction\", \"arguments\": {\"actions\": [{\"type\": \"blockdev-snapshot-sync\", \"data\": {\"device\": \"vm1\", \"snapshot-file\": \"/tmp/vm1-x.qcow2\", \"format\": \"qcow2\"}}]}}");
	assert_string_equal(ts_out, "[{\"name\": \"vm1\", \"image\": \"/tmp/vm1-x.qcow2\"}]\n");
}

static void dry_runs_ask_only(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	assert_int_equal(TS_RUN(cmd_snapshot, true, &e, "vm1", "/tmp/e.qcow2", "--dry-run"), 0);
	ts_not_sent("blockdev-snapshot-sync");
	assert_non_null(strstr(
		ts_out,
		"\"chain-after\": [{\"image\": \"/tmp/e.qcow2\", \"format\": \"qcow2\", \"note\": \"active, new\"}, {"));
	assert_non_null(strstr(ts_out, "\"deletable\": []"));
	assert_int_equal(TS_RUN(cmd_snapshot, false, &e, "--all", "/tmp", "--dry-run"), 0);
	ts_not_sent("transaction");
	assert_non_null(strstr(ts_out, "read-only from now on"));
	assert_int_equal(TS_RUN(cmd_backup, false, &e, "vm1", "/tmp/none.qcow2", "--dry-run"), 0);
	ts_not_sent("blockdev-");
	assert_int_equal(access("/tmp/none.qcow2", F_OK), -1);
	assert_non_null(strstr(ts_out, "backup of vm1 to /tmp/none.qcow2: nothing was done"));
}

/* ---- wrong use ------------------------------------------------------------------- */

static int usage_status(int (*cmd)(struct tool *, int, char **, struct err *), const char *a,
			const char *b)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct err e = ERR_INIT;
		int null = open("/dev/null", O_WRONLY);

		dup2(null, 1);
		dup2(null, 2);
		TS_RUN(cmd, false, &e, a, b);
		_exit(99);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WEXITSTATUS(status);
}

static void wrong_use_is_status_2(void **state)
{
	(void)state;
	assert_int_equal(usage_status(cmd_backup, "vm1", NULL), 2);
	assert_int_equal(usage_status(cmd_backup, "--frob", NULL), 2);
	assert_int_equal(usage_status(cmd_backup, "--speed", NULL), 2);
	assert_int_equal(usage_status(cmd_backup, "--speed=x", "vm1"), 2);
	assert_int_equal(usage_status(cmd_attach, "--format=vmdk", "x"), 2);
	assert_int_equal(usage_status(cmd_job, "frob", "j"), 2);
	assert_int_equal(usage_status(cmd_job, "speed", "j"), 2);
	assert_int_equal(usage_status(cmd_list, "x", NULL), 2);
	assert_int_equal(usage_status(cmd_list, "--help", NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_and_times),
		cmocka_unit_test(progress_has_rate_and_time_left),
		cmocka_unit_test(progress_prints_few_lines_without_a_terminal),
		cmocka_unit_test(fast_progress_is_two_lines),
		cmocka_unit_test(ids_are_made_of_names),
		cmocka_unit_test(paths_become_absolute),
		cmocka_unit_test(no_daemon_is_said),
		TS_WITH_SERVER(errors_keep_their_class),
		TS_WITH_SERVER(qmp_sends_what_it_is_given),
		TS_WITH_SERVER(attach_adds_node_and_export),
		TS_WITH_SERVER(attach_takes_back_what_it_did),
		TS_WITH_SERVER(list_shows_dm_exports),
		TS_WITH_SERVER(chain_is_a_tree),
		TS_WITH_SERVER(detach_ends_export_then_nodes),
		TS_WITH_SERVER(a_busy_disk_stays),
		TS_WITH_SERVER(snapshot_names_disk_and_file),
		TS_WITH_SERVER(snapshot_of_all_is_one_transaction),
		TS_WITH_SERVER(dry_runs_ask_only),
		cmocka_unit_test(wrong_use_is_status_2),
	};

	return cmocka_run_group_tests(tests, ts_setup, ts_teardown);
}
