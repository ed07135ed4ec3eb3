/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fleecing: nodes of driver copy-before-write, which keep what a disk held when they were added,
 * and snapshot-access, which show it. Control thread.
 *
 * Behind a copy-before-write node is a job of the kernel, like a backup's with sync=none, that no
 * client sees (job_type.hidden); behind a snapshot-access node a device of target
 * `livechain-point`.
 */
#ifndef LIVECHAIN_FLEECE_H
#define LIVECHAIN_FLEECE_H

#include "node.h"

/* blockdev-add: makes the node, linked, without a reference. On failure nothing is left. */
int fleece_add(enum node_driver driver, struct json *opts, const char *name, struct node **ret,
	       struct err *e);

/*
 * Takes down what is behind the node; repeatable. On failure the node is as it was, or may be
 * ended again.
 */
int fleece_end(struct node *n, struct err *e);

/* node.c: a node that was freed lets go of its children. */
void fleece_put_children(struct node *filtered, struct node *target);

/* The device of a snapshot-access node. */
int fleece_device(const struct node *n, dev_t *ret, struct err *e);

/* The members that node_save() adds, and the node made of them; then, after the jobs, the rest. */
void fleece_save(const struct node *n, struct json *o);
int fleece_restore(enum node_driver driver, struct json *o, const char *name, struct node **ret,
		   struct err *e);
void fleece_settle(void);

/* For quit: ends what nobody reads from. */
void fleece_quit(void);

#endif
