// SPDX-License-Identifier: GPL-2.0-or-later
/* The tool's subcommands that start jobs, wait for them and clean up, and the job's verbs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/util.h"
#include "tool-server.h"

#define JOB(status, offset, more)                                                                \
	"{\"return\": [{\"device\": \"backup-vm1\", \"type\": \"backup\", \"status\": \"" status \
	"\", \"len\": 8388608, \"offset\": " offset ", \"speed\": 0, \"io-status\": \"ok\"" more \
	"}]}"

/* ---- backup ------------------------------------------------------------------------ */

static void backup_makes_its_target_and_cleans_up(void **state)
{
	struct err e = ERR_INIT;
	char cmd[300];

	(void)state;
	ts_has_disk();
	ts_says("query-block-jobs", JOB("running", "0", ""), JOB("running", "4194304", ""),
		JOB("concluded", "8388608", ""));
	assert_int_equal(TS_RUN(cmd_backup, true, &e, "vm1", ts_path("b.qcow2"), "--speed", "2M"),
			 0);
	ts_sent("\"node-name\": \"target-backup-vm1\", \"file\": {\"driver\": \"file\"");
	ts_sent("{\"device\": \"vm1\", \"target\": \"target-backup-vm1\", \"sync\": \"full\", \"job-id\": \"backup-vm1\", \"speed\": 2097152, \"auto-dismiss\": false}");
	ts_sent("{\"execute\": \"job-dismiss\", \"arguments\": {\"id\": \"backup-vm1\"}}");
	ts_sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"target-backup-vm1\"}}");
	ts_not_sent("job-cancel");
	assert_non_null(strstr(ts_out, "\"status\": \"completed\""));
	snprintf(cmd, sizeof(cmd),
		 "qemu-img check -q %s && qemu-img info %s | grep -q '8 MiB (8388608'",
		 ts_path("b.qcow2"), ts_path("b.qcow2"));
	assert_int_equal(system(cmd), 0);
	/* It is there now: not overwritten without being told. */
	ts_forget();
	assert_int_equal(TS_RUN(cmd_backup, false, &e, "vm1", ts_path("b.qcow2")), -EEXIST);
	assert_non_null(strstr(e.msg, "--existing"));
	ts_not_sent("blockdev-");
	unlink(ts_path("b.qcow2"));
}

static void a_refused_backup_leaves_no_file(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	ts_says("blockdev-backup", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}",
		NULL, NULL);
	assert_int_equal(TS_RUN(cmd_backup, false, &e, "vm1", ts_path("r.raw"), "-f", "raw"),
			 -EREMOTEIO);
	ts_sent("{\"execute\": \"blockdev-del\"");
	assert_int_equal(access(ts_path("r.raw"), F_OK), -1);
	err_clear(&e);
	assert_int_equal(TS_RUN(cmd_backup, false, &e, "vm1", ts_path("r.raw"), "--existing"),
			 -ENOENT);
}

static void an_existing_target_is_not_made_again(void **state)
{
	struct err e = ERR_INIT;
	struct stat st;

	(void)state;
	ts_has_disk();
	ts_says("query-block-jobs", JOB("concluded", "8388608", ""), NULL, NULL);
	assert_int_equal(write_file_durably(ts_path("x.raw"), "keep", 4, 0600, &e), 0);
	assert_int_equal(
		TS_RUN(cmd_backup, false, &e, "vm1", ts_path("x.raw"), "-f", "raw", "--existing"),
		0);
	ts_not_sent("x-force");
	assert_int_equal(TS_RUN(cmd_backup, false, &e, "vm1", ts_path("x.raw"), "-f", "raw",
				"--existing", "--force"),
			 0);
	ts_sent("\"x-force\": true");
	assert_int_equal(stat(ts_path("x.raw"), &st), 0);
	assert_int_equal(st.st_size, 4);
	unlink(ts_path("x.raw"));
}

static void a_failed_job_is_a_failure(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	ts_says("query-block-jobs",
		JOB("concluded", "4096", ", \"error\": \"No space left on device\""), NULL, NULL);
	assert_int_equal(TS_RUN(cmd_backup, false, &e, "vm1", ts_path("f.qcow2")), -EREMOTEIO);
	assert_string_equal(e.msg, "job 'backup-vm1' failed: No space left on device");
	ts_sent("job-dismiss");
	ts_sent("blockdev-del");
	unlink(ts_path("f.qcow2"));
}

static void ctrl_c_cancels(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	ts_says("query-block-jobs", TS_SIGINT_FIRST JOB("running", "0", ""),
		JOB("running", "4096", ""),
		JOB("concluded", "4096", ", \"error\": \"Operation canceled\""));
	assert_int_equal(TS_RUN(cmd_backup, false, &e, "vm1", ts_path("c.qcow2")), -ECANCELED);
	ts_sent("{\"execute\": \"job-cancel\", \"arguments\": {\"id\": \"backup-vm1\"}}");
	ts_sent("job-dismiss");
	assert_int_equal(tool_exit_status(&e), TOOL_EXIT_CANCELLED);
	unlink(ts_path("c.qcow2"));
}

static void a_second_ctrl_c_leaves_the_job(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	ts_says("query-block-jobs", TS_SIGINT_FIRST JOB("running", "0", ""),
		TS_SIGINT_FIRST JOB("running", "0", ""), JOB("running", "0", ""));
	assert_int_equal(TS_RUN(cmd_backup, true, &e, "vm1", ts_path("l.qcow2")), -ECANCELED);
	ts_sent("job-cancel");
	ts_not_sent("job-dismiss");
	ts_not_sent("blockdev-del");
	assert_non_null(strstr(ts_out, "\"status\": \"running\""));
	unlink(ts_path("l.qcow2"));
}

static void a_restarted_daemon_is_found_again(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	ts_says("query-block-jobs", JOB("running", "0", ""), TS_HANG_UP,
		JOB("concluded", "8388608", ""));
	assert_int_equal(TS_RUN(cmd_backup, false, &e, "vm1", ts_path("h.qcow2")), 0);
	ts_sent("job-dismiss");
	unlink(ts_path("h.qcow2"));
}

static void no_wait_returns_at_once(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	assert_int_equal(TS_RUN(cmd_backup, true, &e, "vm1", ts_path("w.qcow2"), "--no-wait",
				"--job-id", "j"),
			 0);
	assert_non_null(strstr(ts_out, "\"job\": \"j\""));
	ts_not_sent("query-block-jobs");
	unlink(ts_path("w.qcow2"));
}

/* ---- stream, commit, mirror ------------------------------------------------------------ */

static void stream_names_nodes(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	ts_says("query-block-jobs", JOB("running", "0", ""), JOB("concluded", "8388608", ""), NULL);
	assert_int_equal(
		TS_RUN(cmd_stream, true, &e, "vm1", "--top", "/i/b", "--job-id", "backup-vm1"), 0);
	ts_sent("{\"execute\": \"block-stream\", \"arguments\": {\"device\": \"#block7\", \"job-id\": \"backup-vm1\", \"speed\": 0, \"auto-dismiss\": false}}");
	assert_non_null(strstr(ts_out, "\"status\": \"completed\", \"deletable\": [\"/i/a\"]"));
	ts_forget();
	assert_int_equal(TS_RUN(cmd_stream, false, &e, "vm1", "--base", "/i/c"), -EINVAL);
	err_clear(&e);
	assert_int_equal(TS_RUN(cmd_stream, false, &e, "vm1", "--base", "/i/x"), -ESRCH);
	ts_not_sent("block-stream");
}

static void commit_completes_when_ready(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	ts_says("query-block-jobs", JOB("running", "0", ""), JOB("ready", "8388608", ""),
		JOB("concluded", "8388608", ""));
	assert_int_equal(
		TS_RUN(cmd_commit, true, &e, "vm1", "--base", "/i/b", "--job-id", "backup-vm1"), 0);
	ts_sent("{\"device\": \"top\", \"base-node\": \"#block7\", \"top-node\": \"top\"");
	ts_sent("{\"execute\": \"block-job-complete\", \"arguments\": {\"device\": \"backup-vm1\"}}");
	assert_non_null(strstr(ts_out, "\"deletable\": [\"/i/c\"]"));
	ts_sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"top\"}}");
	ts_not_sent("\"node-name\": \"root\"");
}

static void mirror_ready(const char *then)
{
	struct err e = ERR_INIT;

	ts_has_disk();
	ts_says("query-block-jobs", JOB("ready", "8388608", ""), JOB("concluded", "8388608", ""),
		NULL);
	assert_int_equal(TS_RUN(cmd_mirror, true, &e, "vm1", ts_path("m.qcow2"), then, "--job-id",
				"backup-vm1"),
			 0);
	unlink(ts_path("m.qcow2"));
}

static void mirror_ends_as_it_was_told(void **state)
{
	(void)state;
	mirror_ready("--finish");
	ts_sent("\"sync\": \"full\", \"copy-mode\": \"background\"");
	ts_sent("{\"execute\": \"block-job-cancel\", \"arguments\": {\"device\": \"backup-vm1\"}}");
	ts_sent("{\"execute\": \"blockdev-del\"");
}

static void a_pivot_keeps_the_node(void **state)
{
	(void)state;
	mirror_ready("--pivot");
	ts_sent("block-job-complete");
	ts_not_sent("\"node-name\": \"target-backup-vm1\"}}");
	ts_sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"top\"}}");
}

static void dry_runs_show_what_leaves(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_has_disk();
	assert_int_equal(TS_RUN(cmd_commit, true, &e, "vm1", "--top", "/i/b", "--dry-run"), 0);
	assert_non_null(strstr(
		ts_out,
		"\"chain-after\": [{\"image\": \"/i/c\", \"format\": \"qcow2\", \"note\": \"active\"}, {\"image\": \"/i/a\""));
	assert_non_null(strstr(ts_out, "\"deletable\": [\"/i/b\"]"));
	assert_int_equal(TS_RUN(cmd_commit, true, &e, "vm1", "--base", "/i/b", "--dry-run"), 0);
	assert_non_null(strstr(
		ts_out,
		"\"chain-after\": [{\"image\": \"/i/b\", \"format\": \"qcow2\", \"note\": \"active\"}"));
	assert_int_equal(TS_RUN(cmd_stream, false, &e, "vm1", "--base", "/i/a", "--dry-run"), 0);
	assert_non_null(strstr(ts_out, "may be deleted then:\n    /i/b\n"));
	assert_int_equal(
		TS_RUN(cmd_mirror, false, &e, "vm1", "/tmp/n.qcow2", "--pivot", "--dry-run"), 0);
	assert_non_null(strstr(ts_out, "chain then:\n    /tmp/n.qcow2  qcow2  active\n"));
	ts_not_sent("block-stream");
	ts_not_sent("block-commit");
	ts_not_sent("blockdev-");
}

/* ---- jobs ---------------------------------------------------------------------------- */

static void verbs_reach_the_job(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	ts_says("query-block-jobs", JOB("running", "4194304", ""), NULL, NULL);
	assert_int_equal(TS_RUN(cmd_job, false, &e, "pause", "backup-vm1"), 0);
	ts_sent("{\"execute\": \"job-pause\", \"arguments\": {\"id\": \"backup-vm1\"}}");
	assert_int_equal(TS_RUN(cmd_job, false, &e, "speed", "backup-vm1", "1.5M"), 0);
	ts_sent("{\"execute\": \"block-job-set-speed\", \"arguments\": {\"device\": \"backup-vm1\", \"speed\": 1572864}}");
	assert_int_equal(TS_RUN(cmd_job, false, &e, "dismiss", "backup-vm1"), 0);
	ts_sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"target-backup-vm1\"}}");
	assert_int_equal(TS_RUN(cmd_job, false, &e, "pause", "other"), -ESRCH);
	assert_int_equal(TS_RUN(cmd_jobs, false, &e), 0);
	assert_non_null(strstr(ts_out, "backup-vm1  backup  running   50.0% of 8.00 MiB"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TS_WITH_SERVER(backup_makes_its_target_and_cleans_up),
		TS_WITH_SERVER(a_refused_backup_leaves_no_file),
		TS_WITH_SERVER(an_existing_target_is_not_made_again),
		TS_WITH_SERVER(a_failed_job_is_a_failure),
		TS_WITH_SERVER(ctrl_c_cancels),
		TS_WITH_SERVER(a_second_ctrl_c_leaves_the_job),
		TS_WITH_SERVER(a_restarted_daemon_is_found_again),
		TS_WITH_SERVER(no_wait_returns_at_once),
		TS_WITH_SERVER(stream_names_nodes),
		TS_WITH_SERVER(commit_completes_when_ready),
		TS_WITH_SERVER(mirror_ends_as_it_was_told),
		TS_WITH_SERVER(a_pivot_keeps_the_node),
		TS_WITH_SERVER(dry_runs_show_what_leaves),
		TS_WITH_SERVER(verbs_reach_the_job),
	};

	return cmocka_run_group_tests(tests, ts_setup, ts_teardown);
}
