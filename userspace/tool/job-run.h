/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What subcommands that start a block job have in common. */
#ifndef LIVECHAIN_TOOL_JOB_RUN_H
#define LIVECHAIN_TOOL_JOB_RUN_H

#include "tool/disk.h"
#include "tool/wait.h"

struct job_run {
	char *id;
	const char *given_id; /* --job-id */
	uint64_t speed;
	bool no_wait, dry;
};

#define JOB_RUN_OPTIONS                                                                        \
	{ "speed", required_argument, NULL, 'S' }, { "job-id", required_argument, NULL, 'J' }, \
		{ "no-wait", no_argument, NULL, 'w' },                                         \
	{                                                                                      \
		"dry-run", no_argument, NULL, 'D'                                              \
	}

/* Takes what tool_getopt() returned, if it is one of JOB_RUN_OPTIONS. */
void job_run_option(struct tool *t, struct job_run *run, int c);

/* Decides on the id: what was given, or @prefix and the disk's name. */
void job_run_name(struct job_run *run, const char *prefix, const struct disk *d);

/*
 * job_wait(), and the job is dismissed when it has ended. *@ret_end is WAIT_LEFT whenever it
 * has not, as far as is known: with an error, which says why. -ECANCELED then: by Ctrl-C.
 */
int job_run_wait(struct tool *t, const struct job_run *run, const char *at_ready,
		 enum wait_end *ret_end, struct err *e);

/* "job ID is running; ...", for people. */
void job_run_say_running(const struct job_run *run);

void job_run_done(struct job_run *run);

#endif
