// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/util.h"
#include "qcow2/qcow2.h"
#include "tool/target.h"

void target_option(struct target *g, int c)
{
	if (c == 'f')
		g->format = optarg;
	g->create |= c == 'c';
	g->existing |= c == 'e';
	g->force |= c == 'F';
}

void target_check_options(struct tool *t, const struct target *g)
{
	if (!streq(g->format, "qcow2") && !streq(g->format, "raw"))
		tool_usage(t, "format '%s' is not known: qcow2 or raw", g->format);
	if (g->create && g->existing)
		tool_usage(t, "--create and --existing exclude each other");
}

/* Decides between --create and --existing by what is there, when neither was said. */
int target_look(struct target *g, struct err *e)
{
	int r = absolute_path(g->shown, &g->path, e);
	struct stat st;
	bool there;

	if (r)
		return r;
	there = stat(g->path, &st) == 0;

	if (!there && errno != ENOENT)
		return err_set(e, errno, "cannot use '%s': %s", g->shown, strerror(errno));
	g->is_device = there && S_ISBLK(st.st_mode);
	if (!there && g->existing)
		return err_set(e, ENOENT,
			       "the target '%s' does not exist: leave out --existing to create it",
			       g->shown);
	if (there && g->create)
		return err_set(
			e, EEXIST,
			"the target '%s' exists already: give another name, or --existing to overwrite it",
			g->shown);
	if (there && !g->existing)
		return err_set(e, EEXIST,
			       "the target '%s' exists: say --existing to overwrite it%s", g->shown,
			       g->is_device ? "" : ", or give another name");
	return 0;
}

static int fill_target(const struct target *g, int fd, uint64_t size, struct err *e)
{
	struct qcow2_create_opts opts = { .size = size };
	_cleanup_qio_ struct qio *io = NULL;
	int r;

	if (streq(g->format, "raw")) {
		if (ftruncate(fd, (off_t)size) < 0 || fsync(fd) < 0)
			return err_set(e, errno, "cannot create '%s': %s", g->shown,
				       strerror(errno));
		return 0;
	}
	r = qio_file_new(fd, g->path, &io, e);
	return r ? r : qcow2_create(io, &opts, e);
}

static int create(struct target *g, const struct disk *d, struct err *e)
{
	uint64_t size = image_size(d->image, "virtual-size");
	_cleanup_close_ int fd = -1;
	int r;

	if (!size)
		return err_set(e, EPROTO, "the daemon does not say how large '%s' is", d->name);
	fd = open(g->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(e, errno, "cannot create '%s': %s", g->shown, strerror(errno));
	g->created = true;
	r = fill_target(g, fd, size, e);
	if (r)
		(void)unlink(g->path);
	return r;
}

int target_open(struct tool *t, struct target *g, const struct disk *d, const char *job,
		struct err *e)
{
	int r;

	g->node = make_id("target-", job, 31);
	if (!g->existing) {
		r = create(g, d, e);
		if (r)
			return r;
	}
	r = tool_qmp(t, "blockdev-add",
		     json_pack("{s:s, s:s, s:{s:s, s:s}}", "driver", g->format, "node-name",
			       g->node, "file", "driver", g->is_device ? "host_device" : "file",
			       "filename", g->path),
		     NULL, e);
	if (r && r != -ENOTCONN && g->created)
		(void)unlink(g->path);
	return r;
}

void target_close(struct tool *t, const struct target *g)
{
	(void)tool_qmp(t, "blockdev-del", json_pack("{s:s}", "node-name", g->node), NULL, NULL);
}

void target_undo(struct tool *t, const struct target *g)
{
	target_close(t, g);
	if (g->created)
		(void)unlink(g->path);
}

void target_done(struct target *g)
{
	free(g->path);
	free(g->node);
}
