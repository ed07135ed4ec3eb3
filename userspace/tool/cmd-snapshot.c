// SPDX-License-Identifier: GPL-2.0-or-later
/* snapshot: of one disk, or of all at one point in time */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "lib/util.h"
#include "tool/disk.h"
#include "tool/dry-run.h"

struct snapshots {
	struct disk *disks; /* those to be done */
	char **files;	    /* absolute paths of their overlays */
	int n;
	const char *node; /* name for the overlay of a single one */
	bool dry;
};

static void snapshots_done(struct snapshots *s)
{
	for (int i = 0; i < s->n; i++)
		free(s->files[i]);
	free(s->files);
	disks_free(s->disks, s->n);
}

/* The daemon refuses it as well; here it is said before anything begins. */
static int check_file(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size)
		return err_set(e, EEXIST, "the file '%s' exists already: give another name", path);
	return 0;
}

static int one_disk(struct tool *t, struct snapshots *s, const char *name, const char *file,
		    struct err *e)
{
	s->disks = xcalloc(1, sizeof(*s->disks));
	s->files = xcalloc(1, sizeof(*s->files));
	s->n = 1;
	if (absolute_path(file, &s->files[0], e))
		return -e->code;
	return disk_find(t, name, &s->disks[0], e);
}

static char *now_text(void)
{
	char buf[32];
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(buf, sizeof(buf), "%Y%m%dT%H%M%SZ", &tm);
	return xstrdup(buf);
}

/* FOLDER/DISK-SUFFIX.qcow2 for each disk that is written to. */
static int all_disks(struct tool *t, struct snapshots *s, const char *folder, const char *suffix,
		     struct err *e)
{
	_cleanup_free_ char *when = suffix ? xstrdup(suffix) : now_text();
	int n = disks_query(t, &s->disks, e), r = 0;

	if (n < 0)
		return n;
	s->n = n;
	s->files = xcalloc((size_t)n + 1, sizeof(*s->files));
	for (int i = 0; i < n && !r; i++) {
		_cleanup_free_ char *file = xasprintf("%s/%s-%s.qcow2", folder, s->disks[i].name, when);

		if (s->disks[i].writable)
			r = absolute_path(file, &s->files[i], e);
		else
			fprintf(stderr, "%s is read-only: left out\n", s->disks[i].name);
	}
	return r;
}

static struct json *arguments(const struct snapshots *s, int i)
{
	return json_pack("{s:s, s:s, s:s, s:s?}", "device", s->disks[i].name, "snapshot-file",
			 s->files[i], "format", "qcow2", "snapshot-node-name", s->node);
}

static int do_one(struct tool *t, struct snapshots *s, struct err *e)
{
	_cleanup_disk_ struct disk after = { 0 };
	int r = tool_qmp(t, "blockdev-snapshot-sync", arguments(s, 0), NULL, e);

	if (!r)
		r = disk_find(t, s->disks[0].name, &after, e);
	if (r)
		return r;
	if (t->json)
		tool_print_json(json_pack("{s:s, s:s, s:s}", "name", s->disks[0].name, "image",
					  s->files[0], "node-name", after.node));
	else
		printf("%s writes to %s now; the images below it stay as they are\n",
		       s->disks[0].name, s->files[0]);
	return 0;
}

static void report(struct tool *t, const struct snapshots *s)
{
	struct json *arr = json_arr();

	for (int i = 0; i < s->n; i++) {
		if (!s->files[i])
			continue;
		json_append(arr, json_pack("{s:s, s:s}", "name", s->disks[i].name, "image",
					   s->files[i]));
		if (!t->json)
			printf("%s writes to %s now\n", s->disks[i].name, s->files[i]);
	}
	if (t->json)
		tool_print_json(arr);
	else
		json_unref(arr);
}

static int do_all(struct tool *t, struct snapshots *s, struct err *e)
{
	struct json *actions = json_arr();
	int r;

	for (int i = 0; i < s->n; i++) {
		if (s->files[i])
			json_append(actions, json_pack("{s:s, s:o}", "type", "blockdev-snapshot-sync",
						       "data", arguments(s, i)));
	}
	if (!json_len(actions)) {
		json_unref(actions);
		return err_set(e, ESRCH, "there is no disk that is written to");
	}
	r = tool_qmp(t, "transaction", json_pack("{s:o}", "actions", actions), NULL, e);
	if (!r)
		report(t, s);
	return r;
}

static void do_nothing(struct tool *t, const struct snapshots *s)
{
	struct json *arr = json_arr();

	for (int i = 0; i < s->n; i++) {
		struct dry_run p = { .what = "snapshot", .overlay = s->files[i] };

		if (s->files[i] && t->json)
			json_append(arr, dry_run_json(&s->disks[i], &p));
		else if (s->files[i])
			dry_run_print(&s->disks[i], &p);
	}
	if (t->json)
		tool_print_json(arr);
	else
		json_unref(arr);
}

static int snapshot(struct tool *t, struct snapshots *s, bool all, struct err *e)
{
	int r = 0;

	for (int i = 0; i < s->n && !r; i++) {
		if (s->files[i])
			r = check_file(s->files[i], e);
	}
	if (r)
		return r;
	if (s->dry) {
		do_nothing(t, s);
		return 0;
	}
	return all ? do_all(t, s, e) : do_one(t, s, e);
}

int cmd_snapshot(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = {
		{ "node-name", required_argument, NULL, 'n' },
		{ "all", no_argument, NULL, 'a' },
		{ "suffix", required_argument, NULL, 'x' },
		{ "dry-run", no_argument, NULL, 'D' },
		TOOL_OPTIONS,
	};
	_cleanup_(snapshots_done) struct snapshots s = { 0 };
	const char *suffix = NULL;
	bool all = false;
	int c, r;

	while ((c = tool_getopt(t, argc, argv, "an:", longs)) != -1) {
		if (c == 'n')
			s.node = optarg;
		else if (c == 'x')
			suffix = optarg;
		all |= c == 'a';
		s.dry |= c == 'D';
	}
	tool_need_args(t, argc, all ? 1 : 2, all ? 1 : 2);
	if (all && s.node)
		tool_usage(t, "--node-name is for one disk, not for --all");
	if (!all && suffix)
		tool_usage(t, "--suffix goes with --all");
	r = all ? all_disks(t, &s, argv[optind], suffix, e) :
		  one_disk(t, &s, argv[optind], argv[optind + 1], e);
	return r ? r : snapshot(t, &s, all, e);
}
