/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The journal of grants: which image may have clusters that are allocated but not
 * used, because they were granted to the kernel. One small file for each image in the
 * state folder, there from before the first grant until everything unused was given back.
 * After a crash the image is compared with it when it is next opened for writing.
 *
 * A journal is only a reason to look: what is freed is what nothing in the image refers
 * to, whoever changed the image meanwhile (qcow2_reclaim()).
 */
#ifndef LIVECHAIN_JOURNAL_H
#define LIVECHAIN_JOURNAL_H

#include "lib/err.h"
#include "../qcow2/qcow2.h"

/* Where journals live: a folder in @state_dir. Before anything else here. */
void journal_init(const char *state_dir);

/* Calls @fn with each image that has a (readable) journal; @fn may end that. */
void journal_each(void (*fn)(const char *image));

/* Durably notes that @image may have unused clusters from now on. Idempotent and then cheap. */
int journal_open(const char *image, struct err *e);

/* Nothing unused is left. */
void journal_close(const char *image);

/* Frees what a crash left allocated in @img, if there is a journal for it; removes that. */
int journal_recover(const char *image, struct qcow2 *img, struct err *e);

#endif
