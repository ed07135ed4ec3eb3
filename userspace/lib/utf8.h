/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UTF-8 with U+0000 as C0 80 ("modified"), so that a C string can hold it. */
#ifndef LIVECHAIN_UTF8_H
#define LIVECHAIN_UTF8_H

#include <stdint.h>

#include "strbuf.h"

/*
 * Decodes the sequence at *@s and moves *@s behind it; *@s < @end. -1 if it is not valid
 * (overlong, surrogate, beyond U+10FFFF, cut off): then behind what belongs to it.
 */
int32_t utf8_next(const char **s, const char *end);
void utf8_append(struct strbuf *sb, uint32_t codepoint);

#endif
