/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What jobs that copy from a view to a target have in common: what they hold, the
 * devices on both sides, and how all that is taken down. Control thread.
 */
#ifndef LIVECHAIN_JOB_COPY_H
#define LIVECHAIN_JOB_COPY_H

#include "job.h"
#include "lib/strbuf.h"

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

/* The same, through a view even if the image is raw: so a disk can become it. */
int job_target_view(struct job *j, struct node *n, dev_t *ret, struct err *e);

/*
 * Only parts of the disk are copied: a target without a backing image is given one later, in which
 * all else is, and zeros of the disk may be none.
 */
int job_copies_part(struct job *j, struct err *e);

/*
 * Is the image, which is open and not yet a job's, known to read as zeros? Then zeros need not
 * be written to it, and holes of the source cost no I/O.
 */
bool job_target_is_zero(const struct node *n);

/* The kernel's concluded job is forgotten there. */
void job_drop_kernel(struct job *j);

/* Ends the views that were made for it: all is in the images then, durably. */
int job_stop_views(struct job *j, struct err *e);

/*
 * For job_type.clean: takes down what the start built. Leaves as little as it can; goes on after
 * an error and tells the first.
 */
int job_copy_clean(struct job *j, struct err *e);

/* For txn_type.abort: takes down what was built for a job that has not begun. */
void job_take_down(struct job *j);

/* In txn_type.prepare: the same, and the job, in `created`, ends. */
void job_undo_start(struct job *j);

/*
 * For job_type.finish of a completable job: catches up, and the disk that it copies from becomes the
 * target's view. Without a disk nothing is left to do.
 */
int job_become_target(struct job *j, struct err *e);

/* BlockdevOnError, all of it. */
extern const struct qapi_type job_on_error;

/* The arguments on-error, or on-source-error and on-target-error; JOB_REPORT without them. */
int job_policies_parse(struct json *args, enum job_policy policy[JOB_NR_SIDES], struct err *e);
/* What the kernel is told of one: the rest of it is the daemon's (job-end.c). */
const char *job_kernel_policy(const struct job *j, enum job_side side);

/* What the commands that start a job have in common. Strings are borrowed. */
struct job_args {
	const char *id, *device;
	int64_t speed;
	bool auto_finalize, auto_dismiss;
	enum job_policy policy[JOB_NR_SIDES];
};

int job_args_parse(struct json *args, struct job_args *a, struct err *e);
/* What QEMU checks when it makes the job, after the command's own checks. Then @a->id is set. */
int job_args_check(struct json *args, struct job_args *a, struct err *e);

/* A job (@what, for the sentence) can copy @n: raw, qcow2 or, for who can read it, a @filter. */
int job_check_image(const struct node *n, bool filter, const char *what, struct err *e);
/* A job can write it: an image that nobody uses and that is not read-only. */
int job_check_target(const struct node *n, const char *what, struct err *e);

/* A job in `created`, announced. */
struct job *job_begin(const struct job_args *a, const struct job_type *type, uint64_t len);
/* Takes down what was built of it; it is gone. Returns @r. */
int job_begin_failed(struct job *j, int r);

/*
 * Gives the kernel its job: @text is the message without speed and policies. On failure the job is
 * gone, with all that was built; else it is in `running`.
 */
int job_start_kernel(struct job *j, const char *text, bool suspended, struct err *e);

/* "3,2": the layers of the source's view for the images from @from down to before @to. */
void job_print_layers(struct job *j, struct node *from, const struct node *to, struct strbuf *out);

#endif
