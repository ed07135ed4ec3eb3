/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file or device that a job copies a disk to: made if it has to be, and opened by the daemon.
 */
#ifndef LIVECHAIN_TOOL_TARGET_H
#define LIVECHAIN_TOOL_TARGET_H

#include "tool/disk.h"

struct target {
	const char *shown;	      /* as the user wrote it */
	const char *format;	      /* "qcow2" or "raw" */
	bool existing, create, force; /* options; the last goes to the job as x-force */
	char *path;		      /* absolute */
	char *node;		      /* the daemon's name for it */
	bool is_device;
	bool created; /* the file is of our making */
};

#define TARGET_OPTIONS                                                                    \
	{ "format", required_argument, NULL, 'f' }, { "create", no_argument, NULL, 'c' }, \
		{ "existing", no_argument, NULL, 'e' },                                   \
	{                                                                                 \
		"force", no_argument, NULL, 'F'                                           \
	}

/* Takes what tool_getopt() returned, if it is one of TARGET_OPTIONS. */
void target_option(struct target *g, int c);
/* Ends with tool_usage() if the options make no sense. */
void target_check_options(struct tool *t, const struct target *g);

/* Sets @path and looks at what is there: -EEXIST, -ENOENT with the way out. */
int target_look(struct target *g, struct err *e);

/* Makes the file, as large as the disk, unless it exists; opens it in the daemon for job @job. */
int target_open(struct tool *t, struct target *g, const struct disk *d, const char *job,
		struct err *e);
/* The job did not start: the node goes, and the file if it is ours. */
void target_undo(struct tool *t, const struct target *g);
/* The job has ended; the node stays where the daemon still uses it. */
void target_close(struct tool *t, const struct target *g);

void target_done(struct target *g);

#endif
