/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the qcow2 tests share: scratch files, qemu's tools, crashes. */
#ifndef LIVECHAIN_TEST_QCOW2_UTIL_H
#define LIVECHAIN_TEST_QCOW2_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "qcow2/internal.h"
#include "qcow2/qcow2.h"

/* Group set-up: a scratch folder, and the random seed ($SEED or the time), printed. */
int q_setup(void **state);
int q_teardown(void **state);

uint64_t q_rand(uint64_t below); /* 0 .. below - 1 */
void q_reseed(uint64_t seed);
uint64_t q_seed(void);

/* A path in the scratch folder; valid for the next 16 calls. */
const char *q_path(const char *name);
/* Runs a shell command in the scratch folder; returns its exit status. */
int q_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same, must succeed. */
void q_run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Its output; must succeed; to be freed. */
char *q_output(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A sparse copy of a file. */
void q_copy(const char *from, const char *to);

/* An image of the scratch folder behind file I/O, or one dressed as a block device. */
struct q_file {
	struct qio *io;	 /* to be used */
	struct qio *raw; /* the file's own */
	int fd;
};

enum {
	Q_CREATE = 1,
	Q_DIRECT = 2,
	Q_BDEV = 4, /* claims to be a block device of the file's size */
	Q_SYNC = 8, /* flushes are real; otherwise they cost nothing */
};

struct q_file *q_open_file(const char *name, unsigned int flags);
void q_close_file(struct q_file *f);

/* Opens or dies with the sentence. */
struct qcow2 *q_open(struct q_file *f, unsigned int flags);

/* Asserts r >= 0, printing the sentence. */
#define q_ok(expr, e)                                                                  \
	do {                                                                           \
		int _r = (expr);                                                       \
		if (_r < 0)                                                            \
			fail_msg("%s: %d: %s", #expr, _r, (e)->msg);                   \
	} while (0)

/* Both checks say: no corruption; leaks as told (-1: any). */
void q_check_clean(const char *name, struct qcow2 *img, int64_t leaks);
/* qemu-img check's verdict: 0 clean, 2 corrupt, 3 leaks. */
int q_qemu_check(const char *name);

/* ---- crashes ------------------------------------------------------------------- */

/* Passes I/O on and remembers every change, in order. */
struct q_log_op {
	enum { Q_OP_WRITE, Q_OP_ZERO, Q_OP_TRUNCATE, Q_OP_ALLOCATE, Q_OP_FLUSH } kind;
	uint64_t off, len;
	uint8_t *data;
};

struct q_log {
	struct qio io;
	struct qio *below;
	struct q_log_op *ops;
	size_t n, cap;
	unsigned int flushes;
	long fail_at; /* this many changes on, fail with ... ; -1: never */
	int fail_code;
};

void q_log_init(struct q_log *l, struct qio *below);
void q_log_done(struct q_log *l);
/*
 * Applies to the file @name what is on it if power fails after @n operations: all
 * before the last flush among them, and of the later ones each with
 * one chance in two (an allocate never tells).
 */
void q_log_replay(const struct q_log *l, size_t n, const char *name);
/* Of writes after the last flush each sector has that chance. */
void q_log_replay_torn(const struct q_log *l, size_t n, const char *name);

#endif
