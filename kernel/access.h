/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Access to what a view was at a before-write job's line in time: the other side of target
 * `livechain-point` (access.c). Reads are the job's, and hold up no writer.
 */
#ifndef LC_ACCESS_H
#define LC_ACCESS_H

struct lc_access;
struct lc_job;

/**
 * lc_access_new() - the job's copy can be read from now on
 *
 * The job's engine is set up. Under view->mutex. Return: 0 or -ENOMEM.
 */
int lc_access_new(struct lc_job *job);

/* lc_access_serve() - begin the reads that have come, unless suspended. From the work item. */
void lc_access_serve(struct lc_job *job);

/*
 * lc_access_end() - nothing can be read any more; reads that wait fail
 *
 * None is in flight. May be repeated. Context: process.
 */
void lc_access_end(struct lc_job *job);

/* lc_access_put() - the job's reference; NULL is allowed. Context: process. */
void lc_access_put(struct lc_access *access);

#endif
