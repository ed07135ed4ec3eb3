// SPDX-License-Identifier: GPL-2.0-or-later
/* stream, commit: a disk's chain becomes shorter */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/util.h"
#include "tool/dry-run.h"
#include "tool/job-run.h"

struct shorten {
	const char *what; /* "stream", "commit" */
	struct disk disk;
	struct job_run run;
	const char *top, *base; /* files, as the user wrote them; NULL: the default */
	struct json *nodes;	/* names along the chain, active image first */
	int top_at, base_at;	/* in it; @base_at behind its end: no base */
};

static void shorten_done(struct shorten *s)
{
	disk_done(&s->disk);
	job_run_done(&s->run);
	json_unref(s->nodes);
}

/* Where in the chain the image is, by its path or the name of its file alone. */
static int find_image(const struct shorten *s, const char *file, int *ret, struct err *e)
{
	_cleanup_free_ char *path = NULL;
	const struct json *i = s->disk.image;
	struct err none = ERR_INIT;

	(void)absolute_path(file, &path, &none);
	err_clear(&none);
	for (*ret = 0; i; i = json_get(i, "backing-image"), (*ret)++) {
		const char *name = json_str_of(json_get(i, "filename"));

		if (name && (streq(name, file) || (path && streq(name, path))))
			return 0;
	}
	return err_set(e, ESRCH, "'%s' is no image of disk '%s' (livechain chain shows them)", file,
		       s->disk.name);
}

static int find_images(struct tool *t, struct shorten *s, struct err *e)
{
	int depth = image_depth(s->disk.image), r = 0;
	bool commit = streq(s->what, "commit");

	s->base_at = commit ? depth - 1 : depth;
	if (s->top)
		r = find_image(s, s->top, &s->top_at, e);
	if (!r && s->base)
		r = find_image(s, s->base, &s->base_at, e);
	if (r)
		return r;
	if (s->top_at >= s->base_at)
		return err_set(
			e, EINVAL,
			"nothing is between the two images: the base must lie below the top");
	s->nodes = chain_nodes(t, s->disk.image, s->disk.node, e);
	if (!s->nodes)
		return -e->code;
	if ((int)json_len(s->nodes) != depth)
		return err_set(e, EPROTO, "the daemon does not name every image of disk '%s'",
			       s->disk.name);
	return 0;
}

static const char *node_at(const struct shorten *s, int i)
{
	return json_str_of(json_at(s->nodes, (size_t)i));
}

static int start(struct tool *t, const struct shorten *s, struct err *e)
{
	bool commit = streq(s->what, "commit"), based = s->base_at < (int)json_len(s->nodes);
	struct json *args;

	args = json_pack("{s:s, s:s?, s:s?, s:s, s:U, s:b}", "device",
			 commit ? s->disk.node : node_at(s, s->top_at), "base-node",
			 based ? node_at(s, s->base_at) : NULL, "top-node",
			 commit ? node_at(s, s->top_at) : NULL, "job-id", s->run.id, "speed",
			 s->run.speed, "auto-dismiss", 0);
	return tool_qmp(t, commit ? "block-commit" : "block-stream", args, NULL, e);
}

/* The images that leave: stream keeps the top, commit the base. */
static struct dry_run plan(const struct shorten *s)
{
	bool commit = streq(s->what, "commit");

	return (struct dry_run){
		.what = s->what,
		.leave = commit ? s->top_at : s->top_at + 1,
		.stay = s->base_at,
		.invalid = commit,
	};
}

static void report(struct tool *t, const struct shorten *s, const char *status)
{
	struct dry_run p = plan(s);

	if (t->json) {
		tool_print_json(json_pack("{s:s, s:s, s:s, s:o}", "name", s->disk.name, "job",
					  s->run.id, "status", status, "deletable",
					  dry_run_deletable(&s->disk, &p)));
	} else if (streq(status, "completed")) {
		printf("%s has %d images less\n", s->disk.name, p.stay - p.leave);
		dry_run_print_deletable(&s->disk, &p);
	} else {
		job_run_say_running(&s->run);
	}
}

static int finish(struct tool *t, const struct shorten *s, struct err *e)
{
	bool active = streq(s->what, "commit") && s->top_at == 0;
	struct dry_run p = plan(s);
	enum wait_end end;
	int r = job_run_wait(t, &s->run, active ? "block-job-complete" : NULL, &end, e);

	if (end == WAIT_DONE && r)
		fprintf(stderr, "The chain of %s is as it was\n", s->disk.name);
	if (!r || (end == WAIT_LEFT && r == -ECANCELED))
		report(t, s, r ? "running" : "completed");
	return r ? r : nodes_delete(t, s->nodes, p.leave, p.stay, "the chain is shorter", e);
}

static int shorten(struct tool *t, struct shorten *s, const char *name, struct err *e)
{
	_cleanup_free_ char *prefix = xasprintf("%s-", s->what);
	int r = disk_find(t, name, &s->disk, e);

	if (!r)
		r = find_images(t, s, e);
	if (r)
		return r;
	if (s->run.dry) {
		struct dry_run p = plan(s);

		dry_run_say(t, &s->disk, &p);
		return 0;
	}
	job_run_name(&s->run, prefix, &s->disk);
	r = start(t, s, e);
	if (r)
		return r;
	if (!s->run.no_wait)
		return finish(t, s, e);
	report(t, s, "running");
	return 0;
}

static int cmd_shorten(struct tool *t, const char *what, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = {
		{ "top", required_argument, NULL, 't' },
		{ "base", required_argument, NULL, 'b' },
		JOB_RUN_OPTIONS,
		TOOL_OPTIONS,
	};
	_cleanup_(shorten_done) struct shorten s = { .what = what };
	int c;

	while ((c = tool_getopt(t, argc, argv, "t:b:", longs)) != -1) {
		if (c == 't')
			s.top = optarg;
		else if (c == 'b')
			s.base = optarg;
		job_run_option(t, &s.run, c);
	}
	tool_need_args(t, argc, 1, 1);
	return shorten(t, &s, argv[optind], e);
}

int cmd_stream(struct tool *t, int argc, char **argv, struct err *e)
{
	return cmd_shorten(t, "stream", argc, argv, e);
}

int cmd_commit(struct tool *t, int argc, char **argv, struct err *e)
{
	return cmd_shorten(t, "commit", argc, argv, e);
}
