/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Waiting for a block job, with progress and Ctrl-C. */
#ifndef LIVECHAIN_TOOL_WAIT_H
#define LIVECHAIN_TOOL_WAIT_H

#include "tool/tool.h"

enum wait_end {
	WAIT_DONE, /* the job succeeded */
	WAIT_LEFT, /* it goes on without us: the second Ctrl-C */
};

/*
 * Waits until the job is concluded (it must have been started with auto-dismiss false); it is not
 * dismissed. Ctrl-C cancels the job, a second one leaves it to the daemon. A daemon that
 * goes away is waited for, for half a minute: jobs outlive it. When the job gets ready, the
 * command @at_ready (NULL: none) is sent to it.
 *
 * A failed job is -EREMOTEIO with its error, a cancelled one -ECANCELED. Then
 * *@ret_concluded says whether the job is there to be dismissed.
 */
int job_wait(struct tool *t, const char *id, const char *at_ready, enum wait_end *ret_end,
	     bool *ret_concluded, struct err *e);

/* The job's entry of query-block-jobs; -ESRCH when there is none. *@ret is owned by the caller. */
int job_query(struct tool *t, const char *id, struct json **ret, struct err *e);

#endif
