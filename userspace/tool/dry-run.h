/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a subcommand would do to a disk, said and not done: --dry-run. */
#ifndef LIVECHAIN_TOOL_DRY_RUN_H
#define LIVECHAIN_TOOL_DRY_RUN_H

#include "tool/disk.h"

struct dry_run {
	const char *what;    /* "snapshot", "backup" */
	const char *overlay; /* absolute path of what becomes the active image; NULL: none */
	const char *target;  /* absolute path of a copy's destination; NULL: none */
	const char *format;  /* of @target */
};

/* An object with all of it, owned by the caller. */
struct json *dry_run_json(const struct disk *d, const struct dry_run *p);

/* The same as text for people, to stdout. */
void dry_run_print(const struct disk *d, const struct dry_run *p);

#endif
