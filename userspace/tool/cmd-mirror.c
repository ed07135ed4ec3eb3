// SPDX-License-Identifier: GPL-2.0-or-later
/* mirror: a disk moves to another image, or a copy of it is kept equal until the end */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/util.h"
#include "tool/dry-run.h"
#include "tool/job-run.h"
#include "tool/target.h"

struct mirror {
	struct disk disk;
	struct target target;
	struct job_run run;
	struct json *nodes; /* of the chain that the disk is on before */
	bool pivot, finish, both;
};

static void mirror_done(struct mirror *m)
{
	disk_done(&m->disk);
	target_done(&m->target);
	job_run_done(&m->run);
	json_unref(m->nodes);
}

static int start(struct tool *t, struct mirror *m, struct err *e)
{
	struct json *args;
	int r = target_open(t, &m->target, &m->disk, m->run.id, e);

	if (r)
		return r;
	args = json_pack("{s:s, s:s, s:s, s:s, s:s, s:U, s:b}", "device", m->disk.name, "target",
			 m->target.node, "sync", "full", "copy-mode",
			 m->both ? "write-blocking" : "background", "job-id", m->run.id, "speed",
			 m->run.speed, "auto-dismiss", 0);
	if (m->target.force)
		json_add(args, "x-force", json_bool(true));
	r = tool_qmp(t, "blockdev-mirror", args, NULL, e);
	if (r && r != -ENOTCONN)
		target_undo(t, &m->target);
	return r;
}

static void report(struct tool *t, const struct mirror *m, const char *status)
{
	if (t->json)
		tool_print_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "name", m->disk.name,
					  "job", m->run.id, "target", m->target.path, "format",
					  m->target.format, "status", status, "pivot", m->pivot));
	else if (!streq(status, "completed"))
		printf("job %s is running; when it is ready: livechain job complete|finish %s\n",
		       m->run.id, m->run.id);
	else if (m->pivot)
		printf("%s is on %s now; the images that it was on before stay as they are\n",
		       m->disk.name, m->target.shown);
	else
		printf("%s is a copy of %s, as it is now\n", m->target.shown, m->disk.name);
}

static int wait_for_end(struct tool *t, const struct mirror *m, struct err *e)
{
	enum wait_end end;
	int r = job_run_wait(t, &m->run, m->pivot ? "block-job-complete" : "block-job-cancel", &end,
			     e);

	if (end == WAIT_DONE && !(m->pivot && !r))
		target_close(t, &m->target);
	if (end == WAIT_DONE && r)
		fprintf(stderr, "'%s' is incomplete; %s is on the images that it was on\n",
			m->target.shown, m->disk.name);
	if (!r || (end == WAIT_LEFT && r == -ECANCELED))
		report(t, m, r ? "running" : "completed");
	if (!r && m->pivot)
		r = nodes_delete(t, m->nodes, 0, json_len(m->nodes), "the disk is on its target",
				 e);
	return r;
}

static int mirror(struct tool *t, struct mirror *m, const char *name, struct err *e)
{
	int r = disk_find(t, name, &m->disk, e);

	if (!r)
		r = target_look(&m->target, e);
	if (r)
		return r;
	if (m->run.dry) {
		struct dry_run p = {
			.what = "mirror",
			.target = m->target.path,
			.format = m->target.format,
			.becomes = m->pivot,
		};

		dry_run_say(t, &m->disk, &p);
		return 0;
	}
	job_run_name(&m->run, "mirror-", &m->disk);
	m->nodes = chain_nodes(t, m->disk.image, m->disk.node, e);
	r = m->nodes ? start(t, m, e) : -e->code;
	if (r)
		return r;
	if (!m->run.no_wait)
		return wait_for_end(t, m, e);
	report(t, m, "running");
	return 0;
}

int cmd_mirror(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = {
		{ "pivot", no_argument, NULL, 'p' },
		{ "finish", no_argument, NULL, 'i' },
		{ "write-blocking", no_argument, NULL, 'B' },
		TARGET_OPTIONS,
		JOB_RUN_OPTIONS,
		TOOL_OPTIONS,
	};
	_cleanup_(mirror_done) struct mirror m = { .target.format = "qcow2" };
	int c;

	while ((c = tool_getopt(t, argc, argv, "f:", longs)) != -1) {
		target_option(&m.target, c);
		job_run_option(t, &m.run, c);
		m.pivot |= c == 'p';
		m.finish |= c == 'i';
		m.both |= c == 'B';
	}
	tool_need_args(t, argc, 2, 2);
	target_check_options(t, &m.target);
	if (m.pivot + m.finish + m.run.no_wait != 1)
		tool_usage(t,
			   "one of --pivot, --finish and --no-wait is needed: how shall it end?");
	m.target.shown = argv[optind + 1];
	return mirror(t, &m, argv[optind], e);
}
