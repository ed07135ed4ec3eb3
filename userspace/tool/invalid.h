/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images that a commit has made invalid, where a disk's images lie. */
#ifndef LIVECHAIN_TOOL_INVALID_H
#define LIVECHAIN_TOOL_INVALID_H

#include "tool/disk.h"

/*
 * The marked images (qcow2_set_invalid()) in the folders of @d's chain: an array of objects with
 * "filename" and "reason", owned by the caller. A file that can't be read is left out. Reads the
 * first bytes of each file there.
 */
struct json *invalid_images(const struct disk *d);

#endif
