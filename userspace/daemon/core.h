/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the frame (main.c) asks of the block core. Order of the calls:
 *   core_register()  before options are read: commands and events
 *   core_start()     loop and workers exist, no client yet
 *   core_apply_*()   what the command line asks, one after the other
 *   ... clients ...
 *   core_quit()      once; the frame answers no further commands
 *   core_done()      the loop does not run any more, the workers are idle
 * Loop thread only. None may block.
 */
#ifndef LIVECHAIN_CORE_H
#define LIVECHAIN_CORE_H

#include <stdbool.h>

#include "lib/err.h"
#include "lib/ev.h"
#include "lib/json.h"
#include "lib/worker.h"

struct daemon {
	struct ev *ev;
	struct worker *worker;
	const char *state_dir; /* exists, mode 0700; locked by this process */
	const char *name;      /* query-name */
};

/* The one daemon; set before core_start(). */
extern struct daemon *the_daemon;

/* @e is NULL on success; borrowed. Exactly one call, perhaps before the function returns. */
typedef void (*core_done_fn)(const struct err *e, void *arg);

/* Registers the core's command and event tables. */
void core_register(void);
/*
 * Finds again what an earlier daemon left (state folder, devices in the kernel); @done
 * when clients may be let in. An error ends the start.
 */
void core_start(struct daemon *d, core_done_fn done, void *arg);
/*
 * One --blockdev / --export. @opts is borrowed; with @keyval its leaves are strings still to
 * be converted (see qmp_invoke()). Both are the commands blockdev-add and block-export-add.
 */
void core_apply_blockdev(struct json *opts, bool keyval, core_done_fn done, void *arg);
void core_apply_export(struct json *opts, bool keyval, core_done_fn done, void *arg);
/*
 * Clean end, for `quit` and SIGTERM: jobs cancelled (their events raised), exports closed
 * or left (as the core decides), everything flushed; then @done, with what failed, if so.
 */
void core_quit(struct daemon *d, core_done_fn done, void *arg);
/* Frees what the core holds. */
void core_done(struct daemon *d);

/* From the frame, for the `quit` command and signals: starts the clean end. Idempotent. */
void daemon_quit(core_done_fn done, void *arg);

#endif
