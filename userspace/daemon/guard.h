/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who lets a guest go on when the daemon dies while it holds the guest's device suspended: a
 * small process beside the daemon, which waits for its end and resumes what it held. A new
 * daemon would do the same, but that may take long to come.
 *
 * A resume is right at every moment at which a daemon can die: what is active is for the
 * kernel to say, and a new daemon asks it (view-state.c).
 *
 * Where a device goes on as another view the daemon's state decides (I16): the guard looks whether
 * it was saved.
 *
 * Where several devices are to change as one, it is told how each step is undone: if the
 * daemon dies before all are done, none is.
 */
#ifndef LIVECHAIN_GUARD_H
#define LIVECHAIN_GUARD_H

#include "lib/err.h"

/* Starts it. Before any thread. Without it all works, a guest may have to wait longer. */
int guard_start(const char *state_dir, struct err *e);
/* Our end was clean: it ends too. */
void guard_stop(void);

/* Control thread: @dm is about to be suspended; is resumed, or gone. Nothing if not started. */
void guard_hold(const char *dm);
void guard_release(const char *dm);

/*
 * Control thread. What @dm's target was told from here on is undone by the message @text; "": by
 * emptying the inactive slot of @dm, before it is resumed; ...
 */
void guard_undo(const char *dm, const char *text);
/*
 * @dm is about to get a table in its inactive slot, and the state that says so to be saved: if it
 * was, durably, the table becomes the live one; if not it is dropped. ...
 */
void guard_pivot(const char *dm);
/* ... until this: what was done stands. */
void guard_keep(void);

#endif
