/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON values, and QEMU's dialect of the text form.
 *
 * A struct json * is one counted reference. A JSON null is an object as any other: the
 * NULL pointer means "there is none", nothing else. Not for two threads at once, not even
 * the count: to hand a value to a worker, serialise it or make a json_copy().
 * Running out of memory ends the process.
 *
 * "Borrowed" results belong to the container and live as long as it keeps them.
 */
#ifndef LIVECHAIN_JSON_H
#define LIVECHAIN_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cleanup.h"
#include "err.h"
#include "strbuf.h"

struct json;

enum json_kind {
	JSON_NULL,
	JSON_BOOL,
	JSON_INT, /* int64 or uint64, kept exactly */
	JSON_DOUBLE,
	JSON_STR,
	JSON_OBJ,
	JSON_ARR,
};

/* Constructors: the caller owns the result. */
struct json *json_obj(void);
struct json *json_arr(void);
struct json *json_str(const char *s);
struct json *json_strn(const char *s, size_t len);
struct json *json_strf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
struct json *json_int(int64_t v);
struct json *json_u64(uint64_t v);
struct json *json_bool(bool v);
struct json *json_double(double v);
struct json *json_null(void);

struct json *json_ref(struct json *j);
void json_unref(struct json *j);	      /* accepts NULL */
struct json *json_copy(const struct json *j); /* deep, shares nothing */
DEFINE_CLEANUP(struct json, json_unref)
#define _cleanup_json_ _cleanup_(json_unrefp)

/*
 * Builds a value from a format, e.g.
 *   json_pack("{s:s, s:I, s:[i, i], s:o}", "id", id, "len", (int64_t)len, "v", 1, 2, "x", val)
 * { } [ ] as they are; keys: s. Values: s const char *; i int; I int64_t; U uint64_t; b int
 * as bool; f double; n null; o struct json *, taken over; O struct json *, referenced.
 * After s, o, O a '?' leaves the pair or element out when the pointer is NULL. Blanks, ',' and ':'
 * are skipped. A wrong format ends the process (it is a bug).
 */
struct json *json_pack(const char *fmt, ...);

/* Take @val over (a NULL @val is ignored). json_add() replaces an older value of @key. */
void json_add(struct json *obj, const char *key, struct json *val);
void json_append(struct json *arr, struct json *val);
void json_del(struct json *obj, const char *key); /* no such key: nothing */

/* Asking. All accept NULL and other kinds (then: NULL, 0, false). */
enum json_kind json_kind_of(const struct json *j); /* not NULL */
bool json_is(const struct json *j, enum json_kind kind);
bool json_is_null(const struct json *j);			/* a JSON null; false for NULL */
struct json *json_get(const struct json *obj, const char *key); /* borrowed */
struct json *json_at(const struct json *arr, size_t i);		/* borrowed */
size_t json_len(const struct json *j);				/* of an array or object */
const char *json_str_of(const struct json *j);			/* borrowed; NULL if not a string */
bool json_bool_of(const struct json *j);
/* False if not an integer in the range of the type; @ret is not touched then. */
bool json_int_of(const struct json *j, int64_t *ret);
bool json_u64_of(const struct json *j, uint64_t *ret);
bool json_double_of(const struct json *j, double *ret); /* of integers too */
bool json_equal(const struct json *a, const struct json *b);

/*
 * Iteration in the order of insertion; the object must not change meanwhile.
 *   struct json_iter it = JSON_ITER_INIT;
 *   while (json_next(obj, &it)) ... it.key, it.val (borrowed)
 */
struct json_iter {
	const char *key;
	struct json *val;
	void *pos;
	bool begun;
};
#define JSON_ITER_INIT                  \
	{                               \
		NULL, NULL, NULL, false \
	}
bool json_next(const struct json *obj, struct json_iter *it);
#define json_for_each(obj, it) for (struct json_iter it = JSON_ITER_INIT; json_next(obj, &it);)

/*
 * Getters with QEMU's sentences. @path may be dotted ("file.filename"): it
 * leads through nested objects. need: -EINVAL "Parameter 'x' is missing"; both: -EINVAL "Invalid
 * parameter type for 'x', expected: integer". opt: leaves *ret alone when absent and
 * returns 0. Results are borrowed.
 */
int json_need_str(const struct json *obj, const char *path, const char **ret, struct err *e);
int json_need_int(const struct json *obj, const char *path, int64_t *ret, struct err *e);
int json_need_u64(const struct json *obj, const char *path, uint64_t *ret, struct err *e);
int json_need_bool(const struct json *obj, const char *path, bool *ret, struct err *e);
int json_need_obj(const struct json *obj, const char *path, struct json **ret, struct err *e);
int json_need_arr(const struct json *obj, const char *path, struct json **ret, struct err *e);
int json_opt_str(const struct json *obj, const char *path, const char **ret, struct err *e);
int json_opt_int(const struct json *obj, const char *path, int64_t *ret, struct err *e);
int json_opt_u64(const struct json *obj, const char *path, uint64_t *ret, struct err *e);
int json_opt_bool(const struct json *obj, const char *path, bool *ret, struct err *e);
int json_opt_obj(const struct json *obj, const char *path, struct json **ret, struct err *e);
int json_opt_arr(const struct json *obj, const char *path, struct json **ret, struct err *e);
/* "Parameter 'zzz' is unexpected" for the first key that is not in the NULL-terminated list. */
int json_only_keys(const struct json *obj, const char *const *keys, struct err *e);

/*
 * Text. One line, pure ASCII (\uXXXX, surrogate pairs, broken UTF-8 as \uFFFD), a space behind
 * ':' and ',', doubles with 17 digits: as QEMU writes it.
 */
void json_write(const struct json *j, struct strbuf *out);
char *json_text(const struct json *j); /* owned by the caller (free()) */

/*
 * One complete text (blanks around it allowed), QEMU's dialect; NULL and a
 * sentence otherwise. @len bytes.
 */
struct json *json_parse(const char *text, size_t len, struct err *e);

#endif
