// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The only user of json-c: it stores the values. Parsing (jsonstream.c) and writing are our
 * own, because QEMU's dialect and sentences differ from json-c's.
 */
#define json_bool json_c_bool /* json-c has a type of that name */
#include <json-c/json.h>
#undef json_bool
#include <stdarg.h>
#include <string.h>

#include "json.h"
#include "util.h"

/*
 * json-c has no object for null (it is the NULL pointer, the same as "no such key"). Ours is a
 * boolean with this mark as user data.
 */
static char null_mark;

static struct json_object *jc(const struct json *j)
{
	return (struct json_object *)(uintptr_t)j;
}

static struct json *checked(struct json_object *o)
{
	if (!o)
		abort();
	return (struct json *)o;
}

struct json *json_obj(void)
{
	return checked(json_object_new_object());
}

struct json *json_arr(void)
{
	return checked(json_object_new_array());
}

struct json *json_str(const char *s)
{
	return checked(json_object_new_string(s));
}

struct json *json_strn(const char *s, size_t len)
{
	return checked(json_object_new_string_len(s, (int)len));
}

struct json *json_strf(const char *fmt, ...)
{
	_cleanup_strbuf_ struct strbuf sb = STRBUF_INIT;
	va_list ap;

	va_start(ap, fmt);
	strbuf_vaddf(&sb, fmt, ap);
	va_end(ap);
	return json_str(strbuf_str(&sb));
}

struct json *json_int(int64_t v)
{
	return checked(json_object_new_int64(v));
}

struct json *json_u64(uint64_t v)
{
	return checked(json_object_new_uint64(v));
}

struct json *json_bool(bool v)
{
	return checked(json_object_new_boolean(v));
}

struct json *json_double(double v)
{
	return checked(json_object_new_double(v));
}

struct json *json_null(void)
{
	struct json *j = json_bool(false);

	json_object_set_userdata(jc(j), &null_mark, NULL);
	return j;
}

struct json *json_ref(struct json *j)
{
	return (struct json *)json_object_get(jc(j));
}

void json_unref(struct json *j)
{
	json_object_put(jc(j));
}

struct json *json_copy(const struct json *j)
{
	struct json *copy;

	switch (json_kind_of(j)) {
	case JSON_NULL:
		return json_null();
	case JSON_BOOL:
		return json_bool(json_bool_of(j));
	case JSON_INT: {
		uint64_t u;

		return json_u64_of(j, &u) ? json_u64(u) : json_int(json_object_get_int64(jc(j)));
	}
	case JSON_DOUBLE:
		return json_double(json_object_get_double(jc(j)));
	case JSON_STR:
		return json_strn(json_object_get_string(jc(j)), json_object_get_string_len(jc(j)));
	case JSON_OBJ:
		copy = json_obj();
		json_for_each(j, it) json_add(copy, it.key, json_copy(it.val));
		return copy;
	case JSON_ARR:
		copy = json_arr();
		for (size_t i = 0; i < json_len(j); i++)
			json_append(copy, json_copy(json_at(j, i)));
		return copy;
	}
	return NULL;
}

void json_add(struct json *obj, const char *key, struct json *val)
{
	if (val && json_object_object_add(jc(obj), key, jc(val)) != 0)
		abort();
}

void json_append(struct json *arr, struct json *val)
{
	if (val && json_object_array_add(jc(arr), jc(val)) != 0)
		abort();
}

void json_del(struct json *obj, const char *key)
{
	json_object_object_del(jc(obj), key);
}

enum json_kind json_kind_of(const struct json *j)
{
	switch (json_object_get_type(jc(j))) {
	case json_type_boolean:
		return json_object_get_userdata(jc(j)) == &null_mark ? JSON_NULL : JSON_BOOL;
	case json_type_double:
		return JSON_DOUBLE;
	case json_type_int:
		return JSON_INT;
	case json_type_object:
		return JSON_OBJ;
	case json_type_array:
		return JSON_ARR;
	case json_type_string:
		return JSON_STR;
	case json_type_null:
		break;
	}
	return JSON_NULL;
}

bool json_is(const struct json *j, enum json_kind kind)
{
	return j && json_kind_of(j) == kind;
}

bool json_is_null(const struct json *j)
{
	return json_is(j, JSON_NULL);
}

struct json *json_get(const struct json *obj, const char *key)
{
	struct json_object *v = NULL;

	if (!json_is(obj, JSON_OBJ) || !json_object_object_get_ex(jc(obj), key, &v))
		return NULL;
	return (struct json *)v;
}

struct json *json_at(const struct json *arr, size_t i)
{
	if (!json_is(arr, JSON_ARR))
		return NULL;
	return (struct json *)json_object_array_get_idx(jc(arr), i);
}

size_t json_len(const struct json *j)
{
	if (json_is(j, JSON_ARR))
		return json_object_array_length(jc(j));
	return json_is(j, JSON_OBJ) ? (size_t)json_object_object_length(jc(j)) : 0;
}

const char *json_str_of(const struct json *j)
{
	return json_is(j, JSON_STR) ? json_object_get_string(jc(j)) : NULL;
}

bool json_bool_of(const struct json *j)
{
	return json_is(j, JSON_BOOL) && json_object_get_boolean(jc(j));
}

bool json_int_of(const struct json *j, int64_t *ret)
{
	if (!json_is(j, JSON_INT) || json_object_get_uint64(jc(j)) > INT64_MAX)
		return false;
	*ret = json_object_get_int64(jc(j));
	return true;
}

bool json_u64_of(const struct json *j, uint64_t *ret)
{
	if (!json_is(j, JSON_INT) || json_object_get_int64(jc(j)) < 0)
		return false;
	*ret = json_object_get_uint64(jc(j));
	return true;
}

bool json_double_of(const struct json *j, double *ret)
{
	if (!json_is(j, JSON_INT) && !json_is(j, JSON_DOUBLE))
		return false;
	*ret = json_object_get_double(jc(j));
	return true;
}

static bool equal_containers(const struct json *a, const struct json *b, enum json_kind kind)
{
	if (json_len(a) != json_len(b))
		return false;
	if (kind == JSON_ARR) {
		for (size_t i = 0; i < json_len(a); i++)
			if (!json_equal(json_at(a, i), json_at(b, i)))
				return false;
		return true;
	}
	json_for_each(a, it) if (!json_equal(it.val, json_get(b, it.key))) return false;
	return true;
}

bool json_equal(const struct json *a, const struct json *b)
{
	enum json_kind kind;
	uint64_t x, y;
	bool big;

	if (!a || !b)
		return a == b;
	kind = json_kind_of(a);
	if (kind != json_kind_of(b))
		return false;
	switch (kind) {
	case JSON_NULL:
		return true;
	case JSON_BOOL:
		return json_bool_of(a) == json_bool_of(b);
	case JSON_INT:
		big = json_u64_of(a, &x);
		if (big != json_u64_of(b, &y))
			return false;
		return big ? x == y : json_object_get_int64(jc(a)) == json_object_get_int64(jc(b));
	case JSON_DOUBLE:
		return json_object_get_double(jc(a)) == json_object_get_double(jc(b));
	case JSON_STR:
		return streq(json_str_of(a), json_str_of(b));
	case JSON_OBJ:
	case JSON_ARR:
		return equal_containers(a, b, kind);
	}
	return false;
}

bool json_next(const struct json *obj, struct json_iter *it)
{
	struct lh_entry *ent;

	if (!it->begun)
		ent = json_is(obj, JSON_OBJ) ? lh_table_head(json_object_get_object(jc(obj)))
					     : NULL;
	else
		ent = lh_entry_next((struct lh_entry *)it->pos);
	it->begun = true;
	it->pos = ent;
	if (!ent)
		return false;
	it->key = lh_entry_k(ent);
	it->val = (struct json *)(uintptr_t)lh_entry_v(ent);
	return true;
}
