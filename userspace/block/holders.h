/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who has a block device open: for the sentence that says it is busy. */
#ifndef LIVECHAIN_BLOCK_HOLDERS_H
#define LIVECHAIN_BLOCK_HOLDERS_H

#include <stddef.h>
#include <sys/types.h>

/*
 * Writes "mounted on /mnt, used by process 12 (qemu), ..." into @buf: mounts and swap,
 * block devices on top, processes; at most a few of each. "" when nothing was found
 * (another mount namespace, a user inside the kernel). Reads all of /proc/PID/fd: slow, for
 * failures only. Returns @buf.
 */
const char *holders_describe(dev_t devno, char *buf, size_t len);

#endif
