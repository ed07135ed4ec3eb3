/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Messages: `dmsetup message NAME 0 <verb> <argument>*`.
 *
 * They run under view->mutex, one at a time, and don't wait for I/O. What is refused changes nothing.
 */
#ifndef LC_MESSAGE_H
#define LC_MESSAGE_H

#include <linux/device-mapper.h>

struct lc_view;
struct lc_table;
struct lc_layer;

/* A message in hand. */
struct lc_msg {
	struct dm_target *ti;		/* the live one */
	struct lc_table *table;
	struct lc_view *view;
	unsigned int argc;
	char **argv;			/* argv[0] is the verb */
	char *result;			/* for DMEMIT() of a reply; then 1 is returned */
	unsigned int maxlen;
};

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

#define lc_msg_refuse(m, err, fmt, ...) \
	lc_refuse((m)->ti, err, (m)->argv[0], fmt, ##__VA_ARGS__)

/* The layer that @word names, if the live table lists it; else refuses with *ret_err and NULL. */
struct lc_layer *lc_msg_layer(struct lc_msg *m, const char *word, int *ret_err);

/* Verbs; each returns 0, 1 if it has replied, or a negative errno after a refusal. */
int lc_msg_map(struct lc_msg *m);
int lc_msg_forget(struct lc_msg *m);
int lc_msg_remap(struct lc_msg *m);
int lc_msg_describe(struct lc_msg *m);	/* layer */
int lc_msg_home(struct lc_msg *m);
int lc_msg_grant(struct lc_msg *m);
int lc_msg_reclaim(struct lc_msg *m);

#endif
