// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/util.h"
#include "tool/dry-run.h"
#include "tool/job-run.h"
#include "tool/target.h"

struct backup {
	struct disk disk;
	struct target target;
	struct job_run run;
};

static void backup_done(struct backup *b)
{
	disk_done(&b->disk);
	target_done(&b->target);
	job_run_done(&b->run);
}

static int start(struct tool *t, struct backup *b, struct err *e)
{
	struct json *args;
	int r = target_open(t, &b->target, &b->disk, b->run.id, e);

	if (r)
		return r;
	args = json_pack("{s:s, s:s, s:s, s:s, s:U, s:b}", "device", b->disk.name, "target",
			 b->target.node, "sync", "full", "job-id", b->run.id, "speed", b->run.speed,
			 "auto-dismiss", 0);
	if (b->target.force)
		json_add(args, "x-force", json_bool(true));
	r = tool_qmp(t, "blockdev-backup", args, NULL, e);
	/* An answer may be lost with the connection: what was asked may have been done all the
	 * same. */
	if (r && r != -ENOTCONN)
		target_undo(t, &b->target);
	return r;
}

static void report(struct tool *t, const struct backup *b, const char *status)
{
	if (t->json)
		tool_print_json(json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", b->disk.name, "job",
					  b->run.id, "target", b->target.path, "format",
					  b->target.format, "status", status));
	else if (streq(status, "completed"))
		printf("%s is backed up to %s, as it was when the job started\n", b->disk.name,
		       b->target.shown);
	else
		job_run_say_running(&b->run);
}

static int finish(struct tool *t, const struct backup *b, struct err *e)
{
	enum wait_end end;
	int r = job_run_wait(t, &b->run, NULL, &end, e);

	if (end == WAIT_DONE)
		target_close(t, &b->target);
	if (end == WAIT_DONE && r)
		fprintf(stderr, "'%s' is incomplete: it is no backup\n", b->target.shown);
	if (!r || (end == WAIT_LEFT && r == -ECANCELED))
		report(t, b, r ? "running" : "completed");
	return r;
}

static int backup(struct tool *t, struct backup *b, const char *name, struct err *e)
{
	int r = disk_find(t, name, &b->disk, e);

	if (!r)
		r = target_look(&b->target, e);
	if (r)
		return r;
	if (b->run.dry) {
		struct dry_run p = {
			.what = "backup",
			.target = b->target.path,
			.format = b->target.format,
		};

		dry_run_say(t, &b->disk, &p);
		return 0;
	}
	job_run_name(&b->run, "backup-", &b->disk);
	r = start(t, b, e);
	if (r)
		return r;
	if (!b->run.no_wait)
		return finish(t, b, e);
	report(t, b, "running");
	return 0;
}

int cmd_backup(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = { TARGET_OPTIONS, JOB_RUN_OPTIONS, TOOL_OPTIONS };
	_cleanup_(backup_done) struct backup b = { .target.format = "qcow2" };
	int c;

	while ((c = tool_getopt(t, argc, argv, "f:", longs)) != -1) {
		target_option(&b.target, c);
		job_run_option(t, &b.run, c);
	}
	tool_need_args(t, argc, 2, 2);
	target_check_options(t, &b.target);
	b.target.shown = argv[optind + 1];
	return backup(t, &b, argv[optind], e);
}
