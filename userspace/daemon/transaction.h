/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transactions: several changes to disks at one point in time, all or none. A command that
 * changes a disk at a point in time (a snapshot, the start of a backup) is a transaction of one.
 *
 *   prepare, each in turn   checks, and all that can be built while guests write
 *   suspend                 every device of every action
 *   act, each in turn       the change itself; a failure reverts those before
 *   settle                  from here on it stands
 *   resume                  every device
 *   commit, each in turn    what is left to do while guests write
 *
 * If the daemon dies before `settle` its guard (guard.h) reverts all; from there on nothing.
 * Control thread.
 */
#ifndef LIVECHAIN_TRANSACTION_H
#define LIVECHAIN_TRANSACTION_H

#include "dispatch.h"
#include "job.h"
#include "view.h"

#define TXN_UNDO_MAX 128

struct txn_action;

/* What a kind of action brings. Hooks may be NULL where there is nothing to do. */
struct txn_type {
	const char *name; /* QEMU's name of the action, and of the command */
	/* Sets @a's view, job, undo and state. On failure nothing of it is left. */
	int (*prepare)(struct txn_action *a, struct json *args, struct err *e);
	/* All devices are suspended. On failure this action changed nothing. */
	int (*act)(struct txn_action *a, struct err *e);
	/* Takes back what act() did: suspended still. */
	void (*revert)(struct txn_action *a);
	/* All have acted, suspended still: what the daemon remembers follows. Memory only. */
	void (*settle)(struct txn_action *a);
	/* All are resumed; it can't fail any more. */
	void (*commit)(struct txn_action *a);
	/* Takes back what prepare() did; resumed. A job is ended by the transaction afterwards. */
	void (*abort)(struct txn_action *a);
};

struct txn_action {
	const struct txn_type *type;
	struct view *view; /* to be suspended; NULL: none */
	struct job *job;   /* which begins with it; NULL: none */
	char undo[TXN_UNDO_MAX]; /* the message to @view's target that reverts act(); "": none */
	void *state;		 /* the type's; freed (free()) by the transaction */
};

/*
 * Runs them as one. @grouped: their jobs complete as one. @args: one for each. 0, or -errno with
 * everything as it was before.
 */
int txn_run(const struct txn_type *const *types, struct json *const *args, size_t n, bool grouped,
	    struct err *e);

/* A transaction of one. */
int txn_single(const struct txn_type *type, struct json *args, struct err *e);

/* The kinds there are, and the types of their arguments: backup.c, drive-backup.c, snapshot.c. */
extern const struct txn_type txn_abort, txn_backup, txn_drive_backup, txn_snapshot,
	txn_snapshot_sync;
extern const struct qapi_type blockdev_backup_type, drive_backup_type, blockdev_snapshot_type,
	blockdev_snapshot_sync_type;

extern const struct qmp_command transaction_commands[];

#endif
