// SPDX-License-Identifier: GPL-2.0-or-later
/* The hooks of core.h: where the frame and the block core meet. */
#include "daemon/control.h"
#include "daemon/core.h"
#include "daemon/dispatch.h"
#include "lib/util.h"

struct daemon *the_daemon;

void core_register(void)
{
	control_register();
}

void core_start(struct daemon *d, core_done_fn done, void *arg)
{
	(void)d;
	done(NULL, arg);
}

struct apply {
	core_done_fn done;
	void *arg;
};

static void applied(struct json *ret, const struct err *e, void *arg)
{
	struct apply *a = arg;

	(void)ret;
	a->done(e, a->arg);
	free(a);
}

static void apply(const char *command, struct json *opts, bool keyval, core_done_fn done, void *arg)
{
	struct apply *a = xcalloc(1, sizeof(*a));

	a->done = done;
	a->arg = arg;
	qmp_invoke(command, opts, keyval, applied, a);
}

void core_apply_blockdev(struct json *opts, bool keyval, core_done_fn done, void *arg)
{
	apply("blockdev-add", opts, keyval, done, arg);
}

void core_apply_export(struct json *opts, bool keyval, core_done_fn done, void *arg)
{
	apply("block-export-add", opts, keyval, done, arg);
}

void core_quit(struct daemon *d, core_done_fn done, void *arg)
{
	(void)d;
	done(NULL, arg);
}

void core_done(struct daemon *d)
{
	(void)d;
}
