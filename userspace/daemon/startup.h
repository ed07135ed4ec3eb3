/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon from "process is set up" to its end, on the loop:
 *   sockets bound -> core_start() -> blockdevs -> exports -> clients let in, READY
 *   -> quit or signal: core_quit() -> answers delivered -> loop stopped
 * A failure before READY ends the start; what had been started is ended in reverse.
 */
#ifndef LIVECHAIN_STARTUP_H
#define LIVECHAIN_STARTUP_H

#include "daemon/core.h"
#include "daemon/options.h"

/*
 * Runs until the end. @ready (may be NULL) is called when clients are let in. Returns 0 after a
 * clean end, otherwise -errno with a sentence.
 */
int startup_run(struct daemon *d, const struct options *o, void (*ready)(void *arg), void *arg,
		struct err *e);

#endif
