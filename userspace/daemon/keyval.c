// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>

#include "daemon/keyval.h"
#include "lib/util.h"

#define KEY_DEPTH_MAX 32
#define INDEX_MAX     1024 /* an array longer than this is a typing error */

static bool is_name_char(char c)
{
	return ((c | 32) >= 'a' && (c | 32) <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
	       c == '_';
}

/* The length of the key at @s (up to '=' or ','), checked part by part; -EINVAL. */
static int key_length(const char *s, struct err *e)
{
	size_t len = strcspn(s, "=,");
	size_t depth = 1, part = 0;

	for (size_t i = 0; i <= len; i++) {
		if (i == len || s[i] == '.') {
			if (!part || ++depth > KEY_DEPTH_MAX)
				break;
			part = 0;
			if (i == len)
				return (int)len;
		} else if (is_name_char(s[i])) {
			part++;
		} else {
			break;
		}
	}
	return err_set(e, EINVAL, "Invalid parameter '%.*s'", (int)len, s);
}

/* The value at *@s up to a single comma, with ",," undone; *@s moves behind it. */
static struct json *take_value(const char **s)
{
	_cleanup_strbuf_ struct strbuf sb = STRBUF_INIT;
	const char *p = *s;

	while (*p) {
		if (*p == ',') {
			p++;
			if (*p != ',')
				break;
		}
		strbuf_addc(&sb, *p++);
	}
	*s = p;
	return json_str(strbuf_str(&sb));
}

/* Stores @val (taken over) under the dotted key. */
static int store(struct json *top, const char *key, size_t len, struct json *val, struct err *e)
{
	_cleanup_json_ struct json *owned = val;
	const char *part = key, *end = key + len, *dot;

	while ((dot = memchr(part, '.', end - part))) {
		_cleanup_free_ char *name = xasprintf("%.*s", (int)(dot - part), part);
		struct json *sub = json_get(top, name);

		if (!sub) {
			sub = json_obj();
			json_add(top, name, sub);
		}
		if (!json_is(sub, JSON_OBJ))
			goto mixed;
		top = sub;
		part = dot + 1;
	}
	{
		_cleanup_free_ char *name = xasprintf("%.*s", (int)(end - part), part);

		if (json_is(json_get(top, name), JSON_OBJ))
			goto mixed;
		json_add(top, name, take_ptr(owned));
	}
	return 0;
mixed:
	return err_set(e, EINVAL, "Parameters '%.*s' and '%.*s.*' are used inconsistently",
		       (int)(end - key), key, (int)(end - key), key);
}

/* 1 if all keys are numbers, 0 if none is. */
static int all_indexes(const struct json *obj, const char *name, struct err *e)
{
	size_t numbers = 0;
	uint64_t i;

	json_for_each(obj, it) numbers +=
		it.key[0] >= '0' && it.key[0] <= '9' && parse_u64(it.key, &i) == 0;
	if (numbers && numbers < json_len(obj))
		return err_set(e, EINVAL, "Parameters '%s.*' are used inconsistently", name);
	return numbers > 0;
}

/* The elements of @obj, whose keys are all numbers, in their order. */
static int make_array(struct json *obj, const char *name, struct json **ret, struct err *e)
{
	_cleanup_json_ struct json *arr = json_arr();
	size_t n = json_len(obj);

	if (n > INDEX_MAX)
		return err_set(e, EINVAL, "Parameter '%s' has more than %d elements", name,
			       INDEX_MAX);
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *key = xasprintf("%zu", i);
		struct json *val = json_get(obj, key);

		if (!val)
			return err_set(e, EINVAL, "Parameter '%s.%zu' missing", name, i);
		json_append(arr, json_ref(val));
	}
	*ret = take_ptr(arr);
	return 0;
}

/* Objects whose keys are all numbers become arrays, from the leaves up. @obj itself stays. */
static int make_arrays(struct json *obj, struct err *e)
{
	_cleanup_json_ struct json *replace = json_obj();
	int r;

	json_for_each(obj, it)
	{
		struct json *arr = NULL;

		if (!json_is(it.val, JSON_OBJ))
			continue;
		r = make_arrays(it.val, e);
		if (r == 0)
			r = all_indexes(it.val, it.key, e);
		if (r > 0)
			r = make_array(it.val, it.key, &arr, e);
		if (r < 0)
			return r;
		json_add(replace, it.key, arr);
	}
	json_for_each(replace, it) json_add(obj, it.key, json_ref(it.val));
	return 0;
}

/* One "key=value" (or what the flags and @implied allow instead) at *@s. */
static int take_pair(struct json *top, const char **s, const char *implied, unsigned flags,
		     struct err *e)
{
	size_t word = strcspn(*s, "=,");
	const char *key = *s;
	int len;

	if (implied && (*s)[word] != '=')
		return store(top, implied, strlen(implied), take_value(s), e);
	len = key_length(key, e);
	if (len < 0)
		return len;
	*s += len;
	if (**s == '=') {
		++*s;
		return store(top, key, len, take_value(s), e);
	}
	if (!(flags & KEYVAL_FLAGS))
		return err_set(e, EINVAL, "Expected '=' after parameter '%.*s'", len, key);
	if (**s == ',')
		++*s;
	if (len > 2 && str_has_prefix(key, "no"))
		return store(top, key + 2, len - 2, json_str("off"), e);
	return store(top, key, len, json_str("on"), e);
}

struct json *keyval_parse(const char *text, const char *implied, unsigned flags, struct err *e)
{
	_cleanup_json_ struct json *top = json_obj();
	const char *s = text;

	while (*s) {
		if (take_pair(top, &s, implied, flags, e) < 0)
			return NULL;
		implied = NULL;
	}
	if (make_arrays(top, e) < 0)
		return NULL;
	return take_ptr(top);
}
