/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A stream of JSON values, recognised as soon as each is complete, in QEMU's
 * dialect: 'single' quotes too, no comments; duplicate keys, lone surrogates, numbers
 * out of a double's range and invalid UTF-8 are errors; integers up to 2^64-1 exact, beyond as
 * double. \u0000 is kept as the bytes C0 80, so that strings never end early.
 *
 * After an error in the grammar the rest up to the balanced end is skipped; after one in a
 * token (stray character) everything up to the next of { } [ ] : , or control character
 * (0xFE, 0xFF: always). Each gives one sentence, "JSON parse error, ...".
 */
#ifndef LIVECHAIN_JSONSTREAM_H
#define LIVECHAIN_JSONSTREAM_H

#include "json.h"

struct json_stream;

struct json_limits {
	size_t depth;  /* nested objects and arrays */
	size_t bytes;  /* of one top-level value */
	size_t tokens; /* of one top-level value */
};
#define JSON_LIMITS_DEFAULT                 \
	{                                   \
		1024, 16u << 20, 512u << 10 \
	}

struct json_stream *json_stream_new(const struct json_limits *limits);
void json_stream_free(struct json_stream *s); /* accepts NULL */

/*
 * Consumes bytes of @buf until a value or an error is complete. *@used is how many.
 * Returns 1 with a value in *@ret (owned by the caller), -EINVAL with a sentence in @e, 0 when
 * all @len bytes are consumed and nothing is complete.
 */
int json_stream_feed(struct json_stream *s, const char *buf, size_t len, size_t *used,
		     struct json **ret, struct err *e);
/* The input ends here: completes a last number or word; results as above (0: nothing). */
int json_stream_end(struct json_stream *s, struct json **ret, struct err *e);
/* Bytes of an unfinished value were consumed. */
bool json_stream_busy(const struct json_stream *s);
/* About how many bytes of memory the unfinished value takes; else those of the last one. */
size_t json_stream_cost(const struct json_stream *s);

#endif
