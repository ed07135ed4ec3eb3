/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's own sentence for a failure that its ioctl reports as a number only.
 */
#ifndef LIVECHAIN_BLOCK_KMSG_H
#define LIVECHAIN_BLOCK_KMSG_H

#include <stddef.h>

/*
 * Remembers where the kernel log ends now: a descriptor for kmsg_reason(), or -1 when the log can't
 * be read (then there are no reasons). The caller closes it.
 */
int kmsg_mark(void);

/*
 * The last device-mapper error that was logged since kmsg_mark(), without the prefixes; one that
 * names @hint is preferred. Returns @buf, "" when there is none. The log is the
 * whole machine's: use it to explain, never to decide.
 */
const char *kmsg_reason(int mark, const char *hint, char *buf, size_t len);

/* The sentence in one line of the log's text, or NULL if it is none. For kmsg_reason() and its
 * test. */
const char *kmsg_parse(char *record, const char *hint, int *ret_weight);

#endif
