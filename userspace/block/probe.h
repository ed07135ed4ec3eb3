/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What lies on a device or in a file that is about to be overwritten.
 *
 * libblkid looks for file systems, RAID and LVM members, encryption and
 * partition tables; image formats that it does not know (qcow2) are added.
 * Read-only; any thread.
 */
#ifndef LIVECHAIN_BLOCK_PROBE_H
#define LIVECHAIN_BLOCK_PROBE_H

#include "../lib/err.h"

enum probe_kind {
	PROBE_NOTHING = 0,
	PROBE_FILESYSTEM,
	PROBE_RAID,   /* RAID, LVM physical volume, bcache, ... member */
	PROBE_CRYPTO, /* LUKS, BitLocker, ... */
	PROBE_PARTITIONS,
	PROBE_IMAGE,   /* a disk image: qcow2 */
	PROBE_OTHER,   /* swap area, something unnamed */
	PROBE_SEVERAL, /* more than one at once */
};

struct probe_result {
	enum probe_kind kind;
	char type[32];	/* "ext4", "LVM2_member", "gpt", "qcow2"; "" for several */
	char label[64]; /* file system's label, "" if none */
};

/* Fills *@ret; returns 0, or -errno when the device could not be read. */
int probe_signature(int fd, const char *path, struct probe_result *ret, struct err *e);

/* "a file system (ext4, label 'root')": for sentences. Returns @buf. */
const char *probe_describe(const struct probe_result *r, char *buf, unsigned len);

/*
 * 0 if nothing is there, else -EEXIST with "'path' has <it> on it: refusing to
 * overwrite it; wipe it first (wipefs -a path) or ask for it with force"; of an image, which
 * wipefs does not know, the sentence has another command.
 */
int probe_refuse_used(int fd, const char *path, struct err *e);

#endif
