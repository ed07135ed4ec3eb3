// SPDX-License-Identifier: GPL-2.0-or-later
/* The text form, as QEMU writes it. */
#include <math.h>
#include <string.h>

#include "json.h"
#include "utf8.h"

static void write_codepoint(uint32_t c, struct strbuf *out)
{
	if (c >= 0x10000) {
		c -= 0x10000;
		strbuf_addf(out, "\\u%04X\\u%04X", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff));
	} else {
		strbuf_addf(out, "\\u%04X", c);
	}
}

/* The letter of a two-character escape; 0: there is none. */
static char short_escape(unsigned char c)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	const char *at = c ? strchr(from, c) : NULL;

	return at ? to[at - from] : 0;
}

static void write_string(const char *s, size_t len, struct strbuf *out)
{
	const char *end = s + len;

	strbuf_addc(out, '"');
	while (s < end) {
		unsigned char c = *s;
		const char *plain = s;
		int32_t cp;

		while (s < end && (unsigned char)*s >= ' ' && (unsigned char)*s < 0x7f &&
		       *s != '"' && *s != '\\')
			s++;
		if (s > plain) {
			strbuf_add(out, plain, s - plain);
			continue;
		}
		if (short_escape(c)) {
			strbuf_addc(out, '\\');
			strbuf_addc(out, short_escape(c));
			s++;
		} else {
			cp = utf8_next(&s, end);
			write_codepoint(cp < 0 ? 0xfffd : (uint32_t)cp, out);
		}
	}
	strbuf_addc(out, '"');
}

static void write_int(const struct json *j, struct strbuf *out)
{
	uint64_t u;
	int64_t i;

	if (json_u64_of(j, &u))
		strbuf_addf(out, "%llu", (unsigned long long)u);
	else if (json_int_of(j, &i))
		strbuf_addf(out, "%lld", (long long)i);
}

/* JSON has no infinity and no NaN. */
static void write_double(const struct json *j, struct strbuf *out)
{
	double v;

	if (json_double_of(j, &v) && isfinite(v))
		strbuf_addf(out, "%.17g", v);
	else
		strbuf_adds(out, "null");
}

void json_write(const struct json *j, struct strbuf *out)
{
	const char *sep = "";

	switch (json_kind_of(j)) {
	case JSON_NULL:
		strbuf_adds(out, "null");
		break;
	case JSON_BOOL:
		strbuf_adds(out, json_bool_of(j) ? "true" : "false");
		break;
	case JSON_INT:
		write_int(j, out);
		break;
	case JSON_DOUBLE:
		write_double(j, out);
		break;
	case JSON_STR:
		write_string(json_str_of(j), strlen(json_str_of(j)), out);
		break;
	case JSON_OBJ:
		strbuf_addc(out, '{');
		json_for_each(j, it)
		{
			strbuf_adds(out, sep);
			write_string(it.key, strlen(it.key), out);
			strbuf_adds(out, ": ");
			json_write(it.val, out);
			sep = ", ";
		}
		strbuf_addc(out, '}');
		break;
	case JSON_ARR:
		strbuf_addc(out, '[');
		for (size_t i = 0; i < json_len(j); i++) {
			strbuf_adds(out, sep);
			json_write(json_at(j, i), out);
			sep = ", ";
		}
		strbuf_addc(out, ']');
		break;
	}
}

char *json_text(const struct json *j)
{
	struct strbuf sb = STRBUF_INIT;

	json_write(j, &sb);
	return strbuf_detach(&sb);
}
