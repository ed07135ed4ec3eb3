/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small helpers: memory that does not fail, numbers, paths, durable files. */
#ifndef LIVECHAIN_UTIL_H
#define LIVECHAIN_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"

#define ARRAY_SIZE(a)		      (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

/*
 * For small, bounded allocations. Out of memory ends the process with a
 * line on stderr: the kernel goes on serving, and a new daemon finds everything
 * again. Sizes that an image or a client chooses go through malloc() and a
 * sentence instead.
 */
void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size); /* zeroed */
void *xreallocarray(void *p, size_t n, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static inline bool streq(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

static inline bool str_has_prefix(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* The whole of @s as a decimal or 0x number without sign or suffix; -EINVAL, -ERANGE. */
int parse_u64(const char *s, uint64_t *ret);
int parse_s64(const char *s, int64_t *ret);
/*
 * As parse_u64() with one of the suffixes b k M G T P E (either case; powers of 1024) and
 * also a decimal fraction before a suffix, as QEMU's sizes: "1.5G".
 */
int parse_size(const char *s, uint64_t *ret);

/*
 * QEMU's rule for ids and node names: a letter, then letters, digits, '-', '.', '_';
 * at most @max bytes.
 */
bool id_wellformed(const char *s, size_t max);

/* dir + "/" + name, or name if that is absolute. Owned by the caller. */
char *path_join(const char *dir, const char *name);
/* The folder part of @path ("." without any). Owned by the caller. */
char *path_dir(const char *path);
/* mkdir -p with @mode for what is missing. */
int path_mkdirs(const char *path, unsigned mode, struct err *e);

/* Whether @fd was opened for writing as well. */
bool fd_can_write(int fd);
/* All of @len bytes, through EINTR and short writes; 0 or -errno. */
int write_all(int fd, const void *buf, size_t len);
/* The whole of a file up to @max bytes, NUL-terminated, owned by the caller; -EFBIG beyond. */
int read_file(const char *path, size_t max, char **ret, size_t *ret_len, struct err *e);
/*
 * Replaces @path by @data: temporary file in the same folder, fsync, rename, fsync of the
 * folder. After success the new content survives a power cut; before it the old. The
 * temporary file has one name, @path and UTIL_NEW_SUFFIX: what a crash leaves is used by the
 * next call. One caller at a time for one @path. Blocks: belongs on a worker.
 */
#define UTIL_NEW_SUFFIX ".new"
int write_file_durably(const char *path, const void *data, size_t len, unsigned mode,
		       struct err *e);

#endif
