/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mirrors; the one that copies nothing: drive-mirror with sync=none to an overlay of its source. */
#ifndef LIVECHAIN_MIRROR_H
#define LIVECHAIN_MIRROR_H

#include "job-copy.h"

/* MirrorCopyMode, of the commands that start a mirror or change one. */
extern const struct qapi_type mirror_copy_mode;

/*
 * @source: a disk's active image; @dest: an overlay of it that was just made, opened without
 * backing node. Control thread.
 */
int mirror_overlay_start(const struct job_args *args, struct node *source, struct node *dest,
			 struct err *e);

#endif
