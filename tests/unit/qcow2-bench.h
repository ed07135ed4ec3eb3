/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An image on the bench: a.qcow2 of the scratch folder, opened, to be changed and checked. */
#ifndef LIVECHAIN_TEST_QCOW2_BENCH_H
#define LIVECHAIN_TEST_QCOW2_BENCH_H

#include "qcow2-util.h"

struct bench {
	struct q_file *f;
	struct qcow2 *img;
	struct qcow2_info info; /* as of the last opening here */
	struct err e;
};

/*
 * A new image made by qcow2_create() itself, on a file or (Q_BDEV) on a "block device" of
 * @dev_size that has old content where metadata will be. Open for writing; found clean.
 */
void bench_new(struct bench *b, const struct qcow2_create_opts *o, unsigned int file_flags,
	       uint64_t dev_size);
/* The image that is there; flags as of q_open_file() and of qcow2_open(). */
void bench_open(struct bench *b, unsigned int file_flags, unsigned int flags);
/* Another handle on the same file. */
void bench_reopen(struct bench *b, unsigned int flags);
void bench_done(struct bench *b);

/* Writes an L2 entry as the kernel does. */
void bench_write_record(struct bench *b, const struct qcow2_table *t, uint64_t index, uint64_t v);

/*
 * Random options that qcow2_create() takes. Rounds @i from 0 on have each cluster size and, in
 * version 3, each width of refcounts in turn. The backing file, if any, is base.raw.
 */
struct qcow2_create_opts bench_random_opts(unsigned int i);

#endif
