// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <string.h>

#include "jsonescape.h"
#include "utf8.h"

/* Four hex digits at @p; -1 if they are not all there. */
static int32_t hex4(const char *p, const char *end)
{
	int32_t v = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = p[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (c - '0');
		else if ((c | 32) >= 'a' && (c | 32) <= 'f')
			v = v << 4 | ((c | 32) - 'a' + 10);
		else
			return -1;
	}
	return v;
}

/* *@p is behind "\u". */
static int decode_hex(const char **p, const char *end, struct strbuf *out, struct err *e)
{
	const char *start = *p;
	int32_t c = hex4(start, end), low;
	int shown = end - start < 4 ? (int)(end - start) : 4;

	if (c < 0)
		return err_set(e, EINVAL, "invalid hex escape '\\u%.*s' in string", shown, start);
	*p += 4;
	if (c >= 0xd800 && c < 0xdc00 && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u') {
		low = hex4(*p + 2, end);
		if (low >= 0xdc00 && low < 0xe000) {
			c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
			*p += 6;
		}
	}
	if (c >= 0xd800 && c < 0xe000)
		return err_set(e, EINVAL, "'\\u%.4s' is not a valid Unicode character", start);
	utf8_append(out, (uint32_t)c);
	return 0;
}

static int decode_escape(const char **p, const char *end, struct strbuf *out, struct err *e)
{
	static const char from[] = "bfnrt\"'\\/", to[] = "\b\f\n\r\t\"'\\/";
	char c = *(*p)++;
	const char *at;

	if (c == 'u')
		return decode_hex(p, end, out, e);
	at = c ? strchr(from, c) : NULL;
	if (!at)
		return err_set(e, EINVAL, "invalid escape sequence '\\%c' in string", c);
	strbuf_addc(out, to[at - from]);
	return 0;
}

int json_unescape(const char *p, const char *end, struct strbuf *out, struct err *e)
{
	while (p < end) {
		const char *start = p;
		int r;

		while (p < end && *p != '\\' && !(*p & 0x80))
			p++;
		strbuf_add(out, start, p - start);
		if (p == end)
			break;
		if (*p == '\\') {
			p++;
			r = decode_escape(&p, end, out, e);
			if (r < 0)
				return r;
			continue;
		}
		start = p;
		if (utf8_next(&p, end) < 0)
			return err_set(e, EINVAL, "invalid UTF-8 sequence in string");
		strbuf_add(out, start, p - start);
	}
	return 0;
}
