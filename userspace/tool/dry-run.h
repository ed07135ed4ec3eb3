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
	bool becomes;	     /* the disk goes on as @target */
	/* The images of the chain, counted from the active one, that leave it: [@leave, @stay). */
	int leave, stay;
	bool invalid; /* they are of no time then */
};

/* An object with all of it, owned by the caller. */
struct json *dry_run_json(const struct disk *d, const struct dry_run *p);

/* The same as text for people, to stdout. */
void dry_run_print(const struct disk *d, const struct dry_run *p);

/* What may be deleted then: an array of file names, or text. */
struct json *dry_run_deletable(const struct disk *d, const struct dry_run *p);
void dry_run_print_deletable(const struct disk *d, const struct dry_run *p);

/* dry_run_json() or dry_run_print(), as the user wants it. */
void dry_run_say(struct tool *t, const struct disk *d, const struct dry_run *p);

#endif
