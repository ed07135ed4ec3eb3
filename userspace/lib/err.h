/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One error: a sentence for people, an errno for code, a QMP class for clients.
 *
 * A function that can fail takes a struct err * (may be NULL when the caller
 * wants no sentence), returns -errno and fills it exactly once: the first
 * cause is kept, see err_set(). Library code does not log; the level that
 * gives up does.
 */
#ifndef LIVECHAIN_ERR_H
#define LIVECHAIN_ERR_H

#include <stdarg.h>

#define ERR_MSG_MAX 768

/* QMP's error classes; the list is closed (QEMU: qapi/error.json). */
enum err_class {
	ERR_GENERIC = 0,
	ERR_COMMAND_NOT_FOUND,
	ERR_DEVICE_NOT_ACTIVE,
	ERR_DEVICE_NOT_FOUND,
	ERR_KVM_MISSING_CAP,
};

struct err {
	int code; /* positive errno; 0 while nothing was set */
	enum err_class cls;
	char msg[ERR_MSG_MAX];
};

#define ERR_INIT                   \
	{                          \
		0, ERR_GENERIC, "" \
	}

/*
 * Sets @e to the sentence unless it already holds one, and returns -@code.
 * @code is a positive errno (0 is taken as EIO, so that a caller can not
 * mistake a failure for success).
 */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set(), with a QMP class other than GenericError. */
int err_set_class(struct err *e, enum err_class cls, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

int err_vset(struct err *e, enum err_class cls, int code, const char *fmt, va_list ap);

/* Puts "text: " before the sentence that @e holds. */
void err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Forgets what @e holds. */
void err_clear(struct err *e);

/* The class's name on the wire, e.g. "GenericError". */
const char *err_class_name(enum err_class cls);

#endif
