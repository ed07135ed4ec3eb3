/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Messages: `dmsetup message NAME 0 <verb> <argument>*`.
 */
#ifndef LC_MESSAGE_H
#define LC_MESSAGE_H

#include <linux/device-mapper.h>

struct lc_view;

/* The target_type's method. */
int lc_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
	       unsigned int maxlen);

/**
 * lc_refuse() - say in the kernel log, rate-limited, why a message is refused
 *
 * Prints "<device>: <verb>: <sentence>". Returns @err, so that it can be returned at once.
 */
__printf(4, 5)
int lc_refuse(struct dm_target *ti, int err, const char *verb, const char *fmt, ...);

#endif
