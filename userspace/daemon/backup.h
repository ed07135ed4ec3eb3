/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What blockdev-backup and drive-backup have in common. Control thread. */
#ifndef LIVECHAIN_BACKUP_H
#define LIVECHAIN_BACKUP_H

#include "transaction.h"

/* Strings are borrowed from the command's arguments, or are literals. */
struct backup_args {
	const char *id, *device, *target, *sync;
	enum job_policy policy[JOB_NR_SIDES];
	int64_t speed;
	bool auto_finalize, auto_dismiss, force, compress;
	bool on_demand; /* sync=none */
	bool top_only;	/* sync=top, and there is something below */
	bool zeroed;	/* the target reads as zeros */
	struct node *source, *dest;
};

/* Fills and checks all but @a->dest and, which is QEMU's order, the job's id. */
int backup_parse(struct json *args, struct backup_args *a, struct err *e);
int backup_check_id(struct backup_args *a, struct err *e);
/* The preparation of an action once @a, its state, is complete. On failure @dest is as it was. */
int backup_start(struct txn_action *t, struct backup_args *a, struct err *e);

/* Sectors: what one guest's write has the kernel save, where it saves nothing else. */
unsigned backup_grain(const struct job *j);

int backup_act(struct txn_action *t, struct err *e);
void backup_revert(struct txn_action *t);
void backup_abort(struct txn_action *t);
#define BACKUP_HOOKS .act = backup_act, .revert = backup_revert, .abort = backup_abort

/* Types of arguments. */
extern const struct qapi_type backup_sync_mode, backup_perf;

#endif
