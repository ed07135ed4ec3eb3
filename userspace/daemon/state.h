/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a restart needs: STATE-DIR/state.json. Written durably before a step that a new
 * daemon could not undo or go on from without it, and after each command that changed something.
 *
 * The kernel is the authority on what runs; the file says what it means. It belongs to one
 * boot of the machine: after a reboot the devices are gone, so are the nodes and jobs in it.
 */
#ifndef LIVECHAIN_STATE_H
#define LIVECHAIN_STATE_H

#include "../lib/err.h"

/* Control thread. 0, or -errno: then the caller undoes what it began. */
int state_save(struct err *e);

/* Control thread, once, before any client. */
int state_restore(struct err *e);

#endif
