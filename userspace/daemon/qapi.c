// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>

#include "daemon/qapi.h"
#include "lib/strbuf.h"
#include "lib/util.h"

const struct qapi_type qapi_str = { .kind = QAPI_K_STR, .name = "str" };
const struct qapi_type qapi_int = { .kind = QAPI_K_INT, .name = "int" };
const struct qapi_type qapi_size = { .kind = QAPI_K_SIZE, .name = "size" };
const struct qapi_type qapi_uint32 = { .kind = QAPI_K_UINT32, .name = "uint32" };
const struct qapi_type qapi_bool = { .kind = QAPI_K_BOOL, .name = "bool" };
const struct qapi_type qapi_number = { .kind = QAPI_K_NUMBER, .name = "number" };
const struct qapi_type qapi_null = { .kind = QAPI_K_NULL, .name = "null" };
const struct qapi_type qapi_any = { .kind = QAPI_K_ANY, .name = "any" };

/* Where in the value we are: "actions[0].data.device". */
struct path {
	const struct path *up; /* NULL at the top */
	const char *name;      /* NULL: @index of an array */
	size_t index;
};

struct visit {
	bool keyval; /* leaves are strings; results are built */
	struct err *e;
};

static void path_write(const struct path *p, struct strbuf *sb)
{
	if (!p)
		return;
	path_write(p->up, sb);
	if (!p->name)
		strbuf_addf(sb, "[%zu]", p->index);
	else
		strbuf_addf(sb, "%s%s", sb->len ? "." : "", p->name);
}

/* The sentence @fmt, with the path as its first and @arg as its second %s. */
static int complain(struct visit *v, const char *fmt, const struct path *p, const char *arg)
{
	_cleanup_strbuf_ struct strbuf sb = STRBUF_INIT;

	path_write(p, &sb);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
	return err_set(v->e, EINVAL, fmt, strbuf_str(&sb), arg);
#pragma GCC diagnostic pop
}

static int wrong_type(struct visit *v, const struct path *p, const char *expected)
{
	return complain(v, "Invalid parameter type for '%s', expected: %s", p, expected);
}

static int visit_type(struct visit *v, const struct qapi_type *type, struct json *val,
		      const struct path *p, struct json **out);

/* --- leaves --- */

static int text_to_bool(struct visit *v, const char *s, const struct path *p, struct json **out)
{
	static const char *const yes[] = { "on", "yes", "true", "y" };
	static const char *const no[] = { "off", "no", "false", "n" };

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (streq(s, yes[i]) || streq(s, no[i])) {
			*out = json_bool(streq(s, yes[i]));
			return 0;
		}
	}
	return complain(v, "Parameter '%s' expects %s", p, "'on' or 'off'");
}

/* A string from the command line, to what the type asks. */
static int convert_leaf(struct visit *v, const struct qapi_type *type, const char *s,
			const struct path *p, struct json **out)
{
	uint64_t u;
	int64_t i;
	double d;
	char *end;

	switch (type->kind) {
	case QAPI_K_BOOL:
		return text_to_bool(v, s, p, out);
	case QAPI_K_INT:
		if (parse_s64(s, &i) < 0)
			return complain(v, "Parameter '%s' expects %s", p, "integer");
		*out = json_int(i);
		return 0;
	case QAPI_K_SIZE:
		if (parse_size(s, &u) < 0)
			return complain(v, "Parameter '%s' expects %s", p, "size");
		*out = json_u64(u);
		return 0;
	case QAPI_K_UINT32:
		if (parse_u64(s, &u) < 0 || u > UINT32_MAX)
			return complain(v, "Parameter '%s' expects %s", p, "uint32_t");
		*out = json_u64(u);
		return 0;
	case QAPI_K_NUMBER:
		d = strtod(s, &end);
		if (end == s || *end || d - d != 0)
			return complain(v, "Parameter '%s' expects %s", p, "number");
		*out = json_double(d);
		return 0;
	default:
		*out = json_str(s);
		return 0;
	}
}

static int check_leaf(struct visit *v, const struct qapi_type *type, const struct json *val,
		      const struct path *p)
{
	uint64_t u;
	int64_t i;
	double d;

	switch (type->kind) {
	case QAPI_K_STR:
		return json_is(val, JSON_STR) ? 0 : wrong_type(v, p, "string");
	case QAPI_K_INT:
		return json_int_of(val, &i) ? 0 : wrong_type(v, p, "integer");
	case QAPI_K_SIZE:
		return json_u64_of(val, &u) ? 0 : complain(v, "Parameter '%s' expects %s", p, "uint64");
	case QAPI_K_UINT32:
		if (!json_is(val, JSON_INT))
			return complain(v, "Parameter '%s' expects %s", p, "uint64");
		if (json_u64_of(val, &u) && u <= UINT32_MAX)
			return 0;
		return complain(v, "Parameter '%s' expects %s", p, "uint32_t");
	case QAPI_K_BOOL:
		return json_is(val, JSON_BOOL) ? 0 : wrong_type(v, p, "boolean");
	case QAPI_K_NUMBER:
		return json_double_of(val, &d) ? 0 : wrong_type(v, p, "number");
	case QAPI_K_NULL:
		return json_is_null(val) ? 0 : wrong_type(v, p, "null");
	default:
		return 0;
	}
}

static int visit_leaf(struct visit *v, const struct qapi_type *type, struct json *val,
		      const struct path *p, struct json **out)
{
	const char *s = json_str_of(val);
	int r;

	if (v->keyval && s && type->kind != QAPI_K_NULL)
		return convert_leaf(v, type, s, p, out);
	r = check_leaf(v, type, val, p);
	if (r == 0 && v->keyval)
		*out = json_copy(val);
	return r;
}

static int visit_enum(struct visit *v, const struct qapi_type *type, struct json *val,
		      const struct path *p, struct json **out)
{
	const char *s = json_str_of(val);

	if (!s)
		return wrong_type(v, p, "string");
	for (size_t i = 0; type->values[i]; i++) {
		if (streq(type->values[i], s)) {
			if (v->keyval)
				*out = json_str(s);
			return 0;
		}
	}
	if (!p || !p->name)
		return complain(v, "Parameter '%s' does not accept value '%s'", p, s);
	/* As QEMU: not where it is, for the value tells. */
	return err_set(v->e, EINVAL, "Parameter '%s' does not accept value '%s'", p->name, s);
}

/* --- containers --- */

static int visit_members(struct visit *v, const struct qapi_member *m, struct json *obj,
			 const struct path *p, struct json *out)
{
	for (; m && m->name; m++) {
		struct path here = { p, m->name, 0 };
		struct json *val = json_get(obj, m->name), *built = NULL;
		int r;

		if (!val && (m->flags & QAPI_OPT))
			continue;
		if (!val)
			return complain(v, "Parameter '%s' is missing", &here, NULL);
		r = visit_type(v, m->type, val, &here, &built);
		if (r < 0)
			return r;
		if (out)
			json_add(out, m->name, built);
	}
	return 0;
}

static bool has_member(const struct qapi_member *m, const char *name)
{
	for (; m && m->name; m++)
		if (streq(m->name, name))
			return true;
	return false;
}

static const struct qapi_member *branch_members(const struct qapi_type *type, struct json *obj)
{
	const char *tag = type->tag ? json_str_of(json_get(obj, type->tag)) : NULL;

	for (const struct qapi_branch *b = type->branches; tag && b && b->value; b++)
		if (streq(b->value, tag))
			return b->type->members;
	return NULL;
}

static int visit_object(struct visit *v, const struct qapi_type *type, struct json *obj,
			const struct path *p, struct json **out)
{
	_cleanup_json_ struct json *built = v->keyval ? json_obj() : NULL;
	const struct qapi_member *more;
	int r;

	if (!json_is(obj, JSON_OBJ))
		return wrong_type(v, p, "object");
	r = visit_members(v, type->members, obj, p, built);
	if (r < 0)
		return r;
	more = branch_members(type, obj);
	r = visit_members(v, more, obj, p, built);
	if (r < 0)
		return r;
	json_for_each(obj, it)
	{
		struct path here = { p, it.key, 0 };

		if (!has_member(type->members, it.key) && !has_member(more, it.key))
			return complain(v, "Parameter '%s' is unexpected", &here, NULL);
	}
	if (v->keyval)
		*out = take_ptr(built);
	return 0;
}

static int visit_array(struct visit *v, const struct qapi_type *type, struct json *arr,
		       const struct path *p, struct json **out)
{
	_cleanup_json_ struct json *built = v->keyval ? json_arr() : NULL;

	if (!json_is(arr, JSON_ARR))
		return wrong_type(v, p, "array");
	for (size_t i = 0; i < json_len(arr); i++) {
		struct path here = { p, NULL, i };
		struct json *one = NULL;
		int r = visit_type(v, type->element, json_at(arr, i), &here, &one);

		if (r < 0)
			return r;
		if (built)
			json_append(built, one);
	}
	if (v->keyval)
		*out = take_ptr(built);
	return 0;
}

/* Whether a value of kind @kind can be one of @type; text from the command line can be any leaf. */
static bool accepts_kind(const struct qapi_type *type, enum json_kind kind, bool keyval)
{
	bool text = keyval && kind == JSON_STR;

	switch (type->kind) {
	case QAPI_K_STR:
	case QAPI_K_ENUM:
		return kind == JSON_STR;
	case QAPI_K_INT:
	case QAPI_K_SIZE:
	case QAPI_K_UINT32:
		return kind == JSON_INT || text;
	case QAPI_K_NUMBER:
		return kind == JSON_INT || kind == JSON_DOUBLE || text;
	case QAPI_K_BOOL:
		return kind == JSON_BOOL || text;
	case QAPI_K_NULL:
		return kind == JSON_NULL;
	case QAPI_K_STRUCT:
	case QAPI_K_UNION:
		return kind == JSON_OBJ;
	case QAPI_K_ARRAY:
		return kind == JSON_ARR;
	case QAPI_K_ANY:
	case QAPI_K_ALTERNATE:
		return true;
	}
	return false;
}

static int visit_alternate(struct visit *v, const struct qapi_type *type, struct json *val,
			   const struct path *p, struct json **out)
{
	enum json_kind kind = json_kind_of(val);
	/* A string that may stay one does, also from the command line. */
	int passes = v->keyval && kind == JSON_STR ? 2 : 1;

	for (int pass = 0; pass < passes; pass++)
		for (const struct qapi_branch *b = type->branches; b->type; b++)
			if (accepts_kind(b->type, kind, pass == 1))
				return visit_type(v, b->type, val, p, out);
	if (!p || !p->name)
		return wrong_type(v, p, type->name);
	return err_set(v->e, EINVAL, "Invalid parameter type for '%s', expected: %s", p->name,
		       type->name);
}

static int visit_type(struct visit *v, const struct qapi_type *type, struct json *val,
		      const struct path *p, struct json **out)
{
	switch (type->kind) {
	case QAPI_K_STR:
	case QAPI_K_INT:
	case QAPI_K_SIZE:
	case QAPI_K_UINT32:
	case QAPI_K_BOOL:
	case QAPI_K_NUMBER:
	case QAPI_K_NULL:
		return visit_leaf(v, type, val, p, out);
	case QAPI_K_ANY:
		if (v->keyval)
			*out = json_copy(val);
		return 0;
	case QAPI_K_ENUM:
		return visit_enum(v, type, val, p, out);
	case QAPI_K_STRUCT:
	case QAPI_K_UNION:
		return visit_object(v, type, val, p, out);
	case QAPI_K_ALTERNATE:
		return visit_alternate(v, type, val, p, out);
	case QAPI_K_ARRAY:
		return visit_array(v, type, val, p, out);
	}
	return -EINVAL;
}

int qapi_check(const struct qapi_member *members, const struct json *args, struct err *e)
{
	struct qapi_type type = QAPI_STRUCT("arguments", members);

	return qapi_check_type(&type, args, "", e);
}

int qapi_check_type(const struct qapi_type *type, const struct json *val, const char *name,
		    struct err *e)
{
	struct visit v = { false, e };
	struct path top = { NULL, name, 0 };
	struct json *none = NULL;

	/* Nothing is changed or kept without keyval. */
	return visit_type(&v, type, (struct json *)(uintptr_t)val, *name ? &top : NULL, &none);
}

int qapi_convert_keyval(const struct qapi_member *members, const struct json *args,
			struct json **ret, struct err *e)
{
	struct qapi_type type = QAPI_STRUCT("arguments", members);

	return qapi_convert_keyval_type(&type, args, ret, e);
}

int qapi_convert_keyval_type(const struct qapi_type *type, const struct json *args,
			     struct json **ret, struct err *e)
{
	struct visit v = { true, e };
	struct json *built = NULL;
	int r = visit_type(&v, type, (struct json *)(uintptr_t)args, NULL, &built);

	if (r == 0)
		*ret = built;
	return r;
}
