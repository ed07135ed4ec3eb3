// SPDX-License-Identifier: GPL-2.0-or-later
#include "utf8.h"

int32_t utf8_next(const char **s, const char *end)
{
	static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
	const unsigned char *p = (const unsigned char *)*s;
	const unsigned char *e = (const unsigned char *)end;
	uint32_t c = *p++;
	unsigned more = 0, got = 0;

	if (c < 0x80) {
		*s = (const char *)p;
		return (int32_t)c;
	}
	if (c >= 0xc0 && c < 0xe0)
		more = 1, c &= 0x1f;
	else if (c >= 0xe0 && c < 0xf0)
		more = 2, c &= 0x0f;
	else if (c >= 0xf0 && c < 0xf8)
		more = 3, c &= 0x07;
	while (got < more && p < e && (*p & 0xc0) == 0x80) {
		c = c << 6 | (*p++ & 0x3f);
		got++;
	}
	*s = (const char *)p;
	if (!more || got < more)
		return -1;
	if (c == 0 && more == 1)
		return 0;
	if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return -1;
	return (int32_t)c;
}

void utf8_append(struct strbuf *sb, uint32_t c)
{
	if (c && c < 0x80) {
		strbuf_addc(sb, (char)c);
	} else if (c < 0x800) {
		strbuf_addc(sb, (char)(0xc0 | c >> 6));
		strbuf_addc(sb, (char)(0x80 | (c & 0x3f)));
	} else if (c < 0x10000) {
		strbuf_addc(sb, (char)(0xe0 | c >> 12));
		strbuf_addc(sb, (char)(0x80 | (c >> 6 & 0x3f)));
		strbuf_addc(sb, (char)(0x80 | (c & 0x3f)));
	} else {
		strbuf_addc(sb, (char)(0xf0 | c >> 18));
		strbuf_addc(sb, (char)(0x80 | (c >> 12 & 0x3f)));
		strbuf_addc(sb, (char)(0x80 | (c >> 6 & 0x3f)));
		strbuf_addc(sb, (char)(0x80 | (c & 0x3f)));
	}
}
