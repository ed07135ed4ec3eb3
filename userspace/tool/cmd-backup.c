// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/util.h"
#include "qcow2/qcow2.h"
#include "tool/disk.h"
#include "tool/dry-run.h"
#include "tool/wait.h"

struct backup {
	struct disk disk;
	const char *shown; /* the target as the user wrote it */
	char *target;	   /* absolute path */
	const char *format;
	const char *job_id;
	uint64_t speed;
	bool existing, create, no_wait, force, dry;
	bool is_device;
	bool created; /* the target file is of our making */
	char *job, *node;
};

static void backup_done(struct backup *b)
{
	disk_done(&b->disk);
	free(b->target);
	free(b->job);
	free(b->node);
}

/* Decides between --create and --existing by what is there, when neither was said. */
static int look_at_target(struct backup *b, struct err *e)
{
	struct stat st;
	bool there = stat(b->target, &st) == 0;

	if (!there && errno != ENOENT)
		return err_set(e, errno, "cannot use '%s': %s", b->shown, strerror(errno));
	b->is_device = there && S_ISBLK(st.st_mode);
	if (!there && b->existing)
		return err_set(e, ENOENT,
			       "the target '%s' does not exist: leave out --existing to create it",
			       b->shown);
	if (there && b->create)
		return err_set(
			e, EEXIST,
			"the target '%s' exists already: give another name, or --existing to overwrite it",
			b->shown);
	if (there && !b->existing)
		return err_set(e, EEXIST,
			       "the target '%s' exists: say --existing to overwrite it%s", b->shown,
			       b->is_device ? "" : ", or give another name");
	return 0;
}

static int fill_target(const struct backup *b, int fd, uint64_t size, struct err *e)
{
	struct qcow2_create_opts opts = { .size = size };
	_cleanup_qio_ struct qio *io = NULL;
	int r;

	if (streq(b->format, "raw")) {
		if (ftruncate(fd, (off_t)size) < 0 || fsync(fd) < 0)
			return err_set(e, errno, "cannot create '%s': %s", b->shown,
				       strerror(errno));
		return 0;
	}
	r = qio_file_new(fd, b->target, &io, e);
	return r ? r : qcow2_create(io, &opts, e);
}

static int create_target(struct backup *b, struct err *e)
{
	uint64_t size = image_size(b->disk.image, "virtual-size");
	_cleanup_close_ int fd = -1;
	int r;

	if (!size)
		return err_set(e, EPROTO, "the daemon does not say how large '%s' is",
			       b->disk.name);
	fd = open(b->target, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(e, errno, "cannot create '%s': %s", b->shown, strerror(errno));
	b->created = true;
	r = fill_target(b, fd, size, e);
	if (r)
		(void)unlink(b->target);
	return r;
}

/* An answer may be lost with the connection: what was asked may have been done all the same. */
static void undo(struct tool *t, const struct backup *b, bool node)
{
	if (node)
		(void)tool_qmp(t, "blockdev-del", json_pack("{s:s}", "node-name", b->node), NULL,
			       NULL);
	if (b->created)
		(void)unlink(b->target);
}

static int start(struct tool *t, struct backup *b, struct err *e)
{
	struct json *args;
	int r;

	if (!b->existing) {
		r = create_target(b, e);
		if (r)
			return r;
	}
	r = tool_qmp(t, "blockdev-add",
		     json_pack("{s:s, s:s, s:{s:s, s:s}}", "driver", b->format, "node-name",
			       b->node, "file", "driver", b->is_device ? "host_device" : "file",
			       "filename", b->target),
		     NULL, e);
	if (r) {
		if (r != -ENOTCONN)
			undo(t, b, false);
		return r;
	}
	args = json_pack("{s:s, s:s, s:s, s:s, s:U, s:b}", "device", b->disk.name, "target",
			 b->node, "sync", "full", "job-id", b->job, "speed", b->speed,
			 "auto-dismiss", 0);
	if (b->force)
		json_add(args, "x-force", json_bool(true));
	r = tool_qmp(t, "blockdev-backup", args, NULL, e);
	if (r && r != -ENOTCONN)
		undo(t, b, true);
	return r;
}

static void report(struct tool *t, const struct backup *b, const char *status)
{
	if (t->json)
		tool_print_json(json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", b->disk.name, "job",
					  b->job, "target", b->target, "format", b->format,
					  "status", status));
	else if (streq(status, "completed"))
		printf("%s is backed up to %s, as it was when the job started\n", b->disk.name,
		       b->shown);
	else
		printf("job %s is running; when it has ended: livechain job dismiss %s\n", b->job,
		       b->job);
}

static int finish(struct tool *t, const struct backup *b, struct err *e)
{
	enum wait_end end;
	bool concluded;
	int r = job_wait(t, b->job, &end, &concluded, e);

	if (concluded) {
		(void)tool_qmp(t, "job-dismiss", json_pack("{s:s}", "id", b->job), NULL, NULL);
		(void)tool_qmp(t, "blockdev-del", json_pack("{s:s}", "node-name", b->node), NULL,
			       NULL);
	}
	if (concluded && r)
		fprintf(stderr, "'%s' is incomplete: it is no backup\n", b->shown);
	if (r)
		return r;
	report(t, b, end == WAIT_LEFT ? "running" : "completed");
	return end == WAIT_LEFT
		       ? err_set(e, ECANCELED, "interrupted: job '%s' was told to cancel", b->job)
		       : 0;
}

static int backup(struct tool *t, struct backup *b, const char *name, struct err *e)
{
	int r = absolute_path(b->shown, &b->target, e);

	if (!r)
		r = disk_find(t, name, &b->disk, e);
	if (!r)
		r = look_at_target(b, e);
	if (r)
		return r;
	if (b->dry) {
		struct dry_run p = { .what = "backup", .target = b->target, .format = b->format };

		if (t->json)
			tool_print_json(dry_run_json(&b->disk, &p));
		else
			dry_run_print(&b->disk, &p);
		return 0;
	}
	b->job = b->job_id ? xstrdup(b->job_id) : make_id("backup-", b->disk.name, 63);
	b->node = make_id("target-", b->job, 31);
	r = start(t, b, e);
	if (r)
		return r;
	if (!b->no_wait)
		return finish(t, b, e);
	report(t, b, "running");
	return 0;
}

int cmd_backup(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' },
		{ "speed", required_argument, NULL, 'S' },
		{ "job-id", required_argument, NULL, 'J' },
		{ "create", no_argument, NULL, 'c' },
		{ "existing", no_argument, NULL, 'e' },
		{ "force", no_argument, NULL, 'F' },
		{ "no-wait", no_argument, NULL, 'w' },
		{ "dry-run", no_argument, NULL, 'D' },
		TOOL_OPTIONS,
	};
	_cleanup_(backup_done) struct backup b = { .format = "qcow2" };
	int c;

	while ((c = tool_getopt(t, argc, argv, "f:", longs)) != -1) {
		if (c == 'f')
			b.format = optarg;
		else if (c == 'S' && (parse_size(optarg, &b.speed) || b.speed > INT64_MAX))
			tool_usage(
				t,
				"speed '%s' is not a number of bytes a second (suffixes k, M, G)",
				optarg);
		else if (c == 'J')
			b.job_id = optarg;
		b.create |= c == 'c';
		b.existing |= c == 'e';
		b.force |= c == 'F';
		b.no_wait |= c == 'w';
		b.dry |= c == 'D';
	}
	tool_need_args(t, argc, 2, 2);
	if (!streq(b.format, "qcow2") && !streq(b.format, "raw"))
		tool_usage(t, "format '%s' is not known: qcow2 or raw", b.format);
	if (b.create && b.existing)
		tool_usage(t, "--create and --existing exclude each other");
	b.shown = argv[optind + 1];
	return backup(t, &b, argv[optind], e);
}
