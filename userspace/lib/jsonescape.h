/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVECHAIN_JSONESCAPE_H
#define LIVECHAIN_JSONESCAPE_H

#include "err.h"
#include "strbuf.h"

/*
 * Appends to @out what the inside of a JSON string (from @p to @end, without quotes; a
 * backslash is never its last byte) stands for. -EINVAL and a sentence for bad escapes and bad
 * UTF-8. \u0000 becomes C0 80.
 */
int json_unescape(const char *p, const char *end, struct strbuf *out, struct err *e);

#endif
