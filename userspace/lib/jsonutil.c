// SPDX-License-Identifier: GPL-2.0-or-later
/* Building values from a format, and getters with QEMU's sentences. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "util.h"

/* --- building --- */

static const char *skip(const char *f)
{
	while (*f == ' ' || *f == ',' || *f == ':')
		f++;
	return f;
}

struct pack {
	const char *fmt;
	va_list ap;
};

static struct json *pack_value(struct pack *p, bool *skipped);

static struct json *pack_object(struct pack *p)
{
	struct json *obj = json_obj();

	for (;;) {
		struct json *val;
		const char *key;
		bool skipped;

		p->fmt = skip(p->fmt);
		if (*p->fmt == '}') {
			p->fmt++;
			return obj;
		}
		if (*p->fmt++ != 's')
			abort();
		key = va_arg(p->ap, const char *);
		val = pack_value(p, &skipped);
		if (!skipped)
			json_add(obj, key, val);
	}
}

static struct json *pack_array(struct pack *p)
{
	struct json *arr = json_arr();

	for (;;) {
		struct json *val;
		bool skipped;

		p->fmt = skip(p->fmt);
		if (*p->fmt == ']') {
			p->fmt++;
			return arr;
		}
		val = pack_value(p, &skipped);
		if (!skipped)
			json_append(arr, val);
	}
}

/* A pointer argument; *@skipped if it is NULL and the format allows that with '?'. */
static void *pack_pointer(struct pack *p, bool *skipped)
{
	void *v = va_arg(p->ap, void *);

	if (*p->fmt == '?') {
		p->fmt++;
		*skipped = !v;
	} else if (!v) {
		abort();
	}
	return v;
}

static struct json *pack_value(struct pack *p, bool *skipped)
{
	void *v;

	*skipped = false;
	p->fmt = skip(p->fmt);
	switch (*p->fmt++) {
	case '{':
		return pack_object(p);
	case '[':
		return pack_array(p);
	case 's':
		v = pack_pointer(p, skipped);
		return v ? json_str(v) : NULL;
	case 'o':
		return pack_pointer(p, skipped);
	case 'O':
		v = pack_pointer(p, skipped);
		return v ? json_ref(v) : NULL;
	case 'i':
		return json_int(va_arg(p->ap, int));
	case 'I':
		return json_int(va_arg(p->ap, int64_t));
	case 'U':
		return json_u64(va_arg(p->ap, uint64_t));
	case 'b':
		return json_bool(va_arg(p->ap, int));
	case 'f':
		return json_double(va_arg(p->ap, double));
	case 'n':
		return json_null();
	}
	abort();
}

struct json *json_pack(const char *fmt, ...)
{
	struct pack p = { .fmt = fmt };
	struct json *j;
	bool skipped;

	va_start(p.ap, fmt);
	j = pack_value(&p, &skipped);
	va_end(p.ap);
	if (*skip(p.fmt))
		abort();
	return j;
}

/* --- getters with sentences --- */

/* Follows a dotted path. NULL if any part is absent. */
static struct json *walk(const struct json *obj, const char *path)
{
	const char *dot;
	char part[256];

	while ((dot = strchr(path, '.'))) {
		if ((size_t)(dot - path) >= sizeof(part))
			return NULL;
		memcpy(part, path, dot - path);
		part[dot - path] = '\0';
		obj = json_get(obj, part);
		path = dot + 1;
	}
	return json_get(obj, path);
}

static int wrong_type(const char *path, const char *expected, struct err *e)
{
	return err_set(e, EINVAL, "Invalid parameter type for '%s', expected: %s", path, expected);
}

static int missing(const char *path, struct err *e)
{
	return err_set(e, EINVAL, "Parameter '%s' is missing", path);
}

int json_opt_str(const struct json *obj, const char *path, const char **ret, struct err *e)
{
	struct json *v = walk(obj, path);

	if (!v)
		return 0;
	if (!json_is(v, JSON_STR))
		return wrong_type(path, "string", e);
	*ret = json_str_of(v);
	return 0;
}

int json_opt_int(const struct json *obj, const char *path, int64_t *ret, struct err *e)
{
	struct json *v = walk(obj, path);

	return !v || json_int_of(v, ret) ? 0 : wrong_type(path, "integer", e);
}

int json_opt_u64(const struct json *obj, const char *path, uint64_t *ret, struct err *e)
{
	struct json *v = walk(obj, path);

	return !v || json_u64_of(v, ret) ? 0 : wrong_type(path, "integer", e);
}

int json_opt_bool(const struct json *obj, const char *path, bool *ret, struct err *e)
{
	struct json *v = walk(obj, path);

	if (!v)
		return 0;
	if (!json_is(v, JSON_BOOL))
		return wrong_type(path, "boolean", e);
	*ret = json_bool_of(v);
	return 0;
}

static int opt_container(const struct json *obj, const char *path, enum json_kind kind,
			 struct json **ret, struct err *e)
{
	struct json *v = walk(obj, path);

	if (!v)
		return 0;
	if (!json_is(v, kind))
		return wrong_type(path, kind == JSON_OBJ ? "object" : "array", e);
	*ret = v;
	return 0;
}

int json_opt_obj(const struct json *obj, const char *path, struct json **ret, struct err *e)
{
	return opt_container(obj, path, JSON_OBJ, ret, e);
}

int json_opt_arr(const struct json *obj, const char *path, struct json **ret, struct err *e)
{
	return opt_container(obj, path, JSON_ARR, ret, e);
}

#define DEFINE_NEED(suffix, type)                                                                  \
	int json_need_##suffix(const struct json *obj, const char *path, type *ret, struct err *e) \
	{                                                                                          \
		return walk(obj, path) ? json_opt_##suffix(obj, path, ret, e) : missing(path, e);  \
	}
DEFINE_NEED(str, const char *)
DEFINE_NEED(int, int64_t)
DEFINE_NEED(u64, uint64_t)
DEFINE_NEED(bool, bool)
DEFINE_NEED(obj, struct json *)
DEFINE_NEED(arr, struct json *)

int json_only_keys(const struct json *obj, const char *const *keys, struct err *e)
{
	json_for_each(obj, it)
	{
		size_t i = 0;

		while (keys[i] && !streq(keys[i], it.key))
			i++;
		if (!keys[i])
			return err_set(e, EINVAL, "Parameter '%s' is unexpected", it.key);
	}
	return 0;
}
