/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QEMU's key=value,key.sub=value text. */
#ifndef LIVECHAIN_KEYVAL_H
#define LIVECHAIN_KEYVAL_H

#include "lib/err.h"
#include "lib/json.h"

enum {
	/* "key" alone is key=on, "nokey" is key=off (old --chardev habits). */
	KEYVAL_FLAGS = 1,
};

/*
 * Parses @text to an object whose leaves are strings; owned by the caller. Dots nest
 * ("file.driver=file"); keys that are all numbers make an array ("hosts.0.x=..."). ",," is a
 * comma in a value. @implied, or NULL: the key of a first value that comes without
 * one. A key given twice: the last counts. NULL and a sentence on failure.
 */
struct json *keyval_parse(const char *text, const char *implied, unsigned flags, struct err *e);

#endif
