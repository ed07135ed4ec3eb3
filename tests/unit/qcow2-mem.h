/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An image in memory, and everything done to it that can be; for hostile images. */
#ifndef LIVECHAIN_TEST_QCOW2_MEM_H
#define LIVECHAIN_TEST_QCOW2_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "qcow2/qcow2.h"

struct qmem {
	struct qio io;
	uint8_t *data;
	size_t size, cap;
};

/* A copy of @data; a "block device" when @capacity is not 0. */
void qmem_init(struct qmem *m, const void *data, size_t size, uint64_t capacity);
void qmem_done(struct qmem *m);

/*
 * Opens, maps, checks, changes the image every way there is. abort()s with a message
 * when the library breaks what it promises for whatever image:
 * every failure has a sentence; runs are in order, without gaps, inside the file; what
 * is allocated is used by nothing that the map shows. Returns how many of
 * the steps succeeded.
 */
unsigned int qmem_exercise(struct qmem *m);

#endif
