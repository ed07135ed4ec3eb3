/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What jobs that copy from a view to a target have in common: what they hold, the
 * devices on both sides, and how all that is taken down. Control thread.
 */
#ifndef LIVECHAIN_JOB_COPY_H
#define LIVECHAIN_JOB_COPY_H

#include "job.h"

/* The nodes (set before) and the source view are the job's until job_release(). */
void job_hold(struct job *j);
void job_release(struct job *j);

/* j->source: the disk's view of which @n is the top, or one made for the job. */
int job_source_view(struct job *j, struct node *n, struct err *e);

/*
 * The device that is written: the raw image's own, or that of a view made for the job
 * (j->target), with its map loaded and space for what may come at once.
 */
int job_target_device(struct job *j, struct node *n, dev_t *ret, struct err *e);

/* The kernel's concluded job is forgotten there. */
void job_drop_kernel(struct job *j);

/*
 * For job_type.clean: takes down what the start built. Leaves as little as it can; goes on after
 * an error and tells the first.
 */
int job_copy_clean(struct job *j, struct err *e);

/* For txn_type.abort: takes down what was built for a job that has not begun. */
void job_take_down(struct job *j);

/* In txn_type.prepare: the same, and the job, in `created`, ends. */
void job_undo_start(struct job *j);

#endif
