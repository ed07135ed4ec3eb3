/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the daemon says of disks (exports of type dm), their nodes and images. */
#ifndef LIVECHAIN_TOOL_DISK_H
#define LIVECHAIN_TOOL_DISK_H

#include "tool/tool.h"

struct disk {
	char *name; /* /dev/mapper/<name> */
	char *id;   /* the export's */
	char *node; /* its chain's active image */
	bool writable;
	struct json *image; /* ImageInfo of that node: nested backing-image; NULL: unknown */
};

/* All disks; *@ret is freed by disks_free(). Returns how many. */
int disks_query(struct tool *t, struct disk **ret, struct err *e);
void disks_free(struct disk *d, int n);

/* The disk of that name (or export id); -ESRCH. *@ret is freed by disk_done(). */
int disk_find(struct tool *t, const char *name, struct disk *ret, struct err *e);
void disk_done(struct disk *d);
#define _cleanup_disk_ _cleanup_(disk_done)

/* Of an ImageInfo: bytes, 0 if absent. */
uint64_t image_size(const struct json *image, const char *key);
/* Number of images in its chain. */
int image_depth(const struct json *image);

/*
 * The names of the nodes along @image's chain, active image first; those
 * not known by name are left out. Array of strings.
 */
struct json *chain_nodes(struct tool *t, const struct json *image, const char *top, struct err *e);

/*
 * Closes the nodes [@from, @to) of chain_nodes(), which no disk uses any more. @done: what was
 * achieved all the same, for the sentence.
 */
int nodes_delete(struct tool *t, const struct json *names, size_t from, size_t to, const char *done,
		 struct err *e);

/*
 * An id that QEMU's rule allows (a letter, then letters, digits and -._), at most @max bytes,
 * made of @prefix (may be "") and @name: as it is if possible, else shortened with a checksum.
 * Owned by the caller.
 */
char *make_id(const char *prefix, const char *name, size_t max);

/* The absolute path of a file that need not exist (its folder must). Owned by the caller. */
int absolute_path(const char *path, char **ret, struct err *e);

#endif
