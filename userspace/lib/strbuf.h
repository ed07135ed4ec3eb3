/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A growing byte string; always NUL-terminated behind its length.
 * Running out of memory ends the process (see xmalloc() in util.h).
 */
#ifndef LIVECHAIN_STRBUF_H
#define LIVECHAIN_STRBUF_H

#include <stdarg.h>
#include <stddef.h>

struct strbuf {
	char *buf; /* NULL while empty and never used */
	size_t len;
	size_t size;
};

#define STRBUF_INIT        \
	{                  \
		NULL, 0, 0 \
	}
#define _cleanup_strbuf_ __attribute__((cleanup(strbuf_done)))

void strbuf_add(struct strbuf *sb, const void *data, size_t len);
void strbuf_adds(struct strbuf *sb, const char *s);
void strbuf_addc(struct strbuf *sb, char c);
void strbuf_addf(struct strbuf *sb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strbuf_vaddf(struct strbuf *sb, const char *fmt, va_list ap);
/* Drops the first @n bytes. */
void strbuf_consume(struct strbuf *sb, size_t n);
/* Empties it; keeps a small buffer, frees a large one. */
void strbuf_reset(struct strbuf *sb);
/* The string, never NULL; borrowed. */
const char *strbuf_str(const struct strbuf *sb);
/* The string, owned by the caller (free()); @sb is empty afterwards. */
char *strbuf_detach(struct strbuf *sb);
void strbuf_done(struct strbuf *sb);

#endif
