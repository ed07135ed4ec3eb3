// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Types are found by walking from the commands and events; each gets a number as its name
 * when first met, and is written when its turn comes, so that types may refer to themselves.
 */
#include <stdlib.h>

#include "daemon/dispatch.h"
#include "daemon/schema.h"
#include "lib/util.h"

struct entry {
	const void
		*key; /* the member list of a struct, otherwise the type; NULL: the empty object */
	const struct qapi_type *type; /* NULL: a struct, of these members: */
	const struct qapi_member *members;
	char *name;
};

struct builder {
	struct json *out;
	struct json *written; /* names of arrays and built-in types that are in @out */
	struct entry *entries;
	size_t nr;
};

static const char *add_entry(struct builder *b, const void *key, const struct qapi_type *type,
			     const struct qapi_member *members)
{
	for (size_t i = 0; i < b->nr; i++)
		if (b->entries[i].key == key)
			return b->entries[i].name;
	b->entries = xreallocarray(b->entries, b->nr + 1, sizeof(*b->entries));
	b->entries[b->nr] = (struct entry){ key, type, members, xasprintf("%zu", b->nr) };
	return b->entries[b->nr++].name;
}

static const char *object_name(struct builder *b, const struct qapi_member *members)
{
	if (!members || !members->name)
		return add_entry(b, NULL, NULL, NULL);
	return add_entry(b, members, NULL, members);
}

static void builtin(struct builder *b, const char *name, const char *json_type)
{
	if (json_get(b->written, name))
		return;
	json_add(b->written, name, json_bool(true));
	json_append(b->out, json_pack("{s:s, s:s, s:s}", "name", name, "json-type", json_type,
				      "meta-type", "builtin"));
}

static char *type_name(struct builder *b, const struct qapi_type *type);

static char *array_name(struct builder *b, const struct qapi_type *type)
{
	_cleanup_free_ char *element = type_name(b, type->element);
	char *name = xasprintf("[%s]", element);

	if (!json_get(b->written, name)) {
		json_add(b->written, name, json_bool(true));
		json_append(b->out, json_pack("{s:s, s:s, s:s}", "name", name, "element-type",
					      element, "meta-type", "array"));
	}
	return name;
}

/* The name that refers to @type; the type is noted to be written. Owned by the caller. */
static char *type_name(struct builder *b, const struct qapi_type *type)
{
	static const struct {
		const char *name, *json_type;
	} builtins[] = {
		[QAPI_K_STR] = { "str", "string" },    [QAPI_K_INT] = { "int", "int" },
		[QAPI_K_SIZE] = { "int", "int" },      [QAPI_K_UINT32] = { "int", "int" },
		[QAPI_K_BOOL] = { "bool", "boolean" }, [QAPI_K_NUMBER] = { "number", "number" },
		[QAPI_K_NULL] = { "null", "null" },    [QAPI_K_ANY] = { "any", "value" },
	};

	if (type->kind <= QAPI_K_ANY) {
		builtin(b, builtins[type->kind].name, builtins[type->kind].json_type);
		return xstrdup(builtins[type->kind].name);
	}
	if (type->kind == QAPI_K_ARRAY)
		return array_name(b, type);
	if (type->kind == QAPI_K_STRUCT)
		return xstrdup(object_name(b, type->members));
	return xstrdup(add_entry(b, type, type, NULL));
}

static struct json *string_list(const char *const *s)
{
	struct json *arr = json_arr();

	while (*s)
		json_append(arr, json_str(*s++));
	return arr;
}

static struct json *member_list(struct builder *b, const struct qapi_member *m)
{
	struct json *arr = json_arr();

	for (; m && m->name; m++) {
		_cleanup_free_ char *type = type_name(b, m->type);
		struct json *one = json_pack("{s:s, s:s}", "name", m->name, "type", type);

		/* QEMU's mark of an optional member. */
		if (m->flags & QAPI_OPT)
			json_add(one, "default", json_null());
		if (m->features)
			json_add(one, "features", string_list(m->features));
		json_append(arr, one);
	}
	return arr;
}

static void write_enum(struct builder *b, const char *name, const struct qapi_type *type)
{
	struct json *members = json_arr();

	for (size_t i = 0; type->values[i]; i++)
		json_append(members, json_pack("{s:s}", "name", type->values[i]));
	json_append(b->out, json_pack("{s:s, s:o, s:s, s:o}", "name", name, "members", members,
				      "meta-type", "enum", "values", string_list(type->values)));
}

static void write_alternate(struct builder *b, const char *name, const struct qapi_type *type)
{
	struct json *members = json_arr();

	for (const struct qapi_branch *br = type->branches; br->type; br++) {
		_cleanup_free_ char *t = type_name(b, br->type);

		json_append(members, json_pack("{s:s}", "type", t));
	}
	json_append(b->out, json_pack("{s:s, s:o, s:s}", "name", name, "members", members,
				      "meta-type", "alternate"));
}

static const struct qapi_type *tag_type(const struct qapi_type *type)
{
	for (const struct qapi_member *m = type->members; m->name; m++)
		if (streq(m->name, type->tag))
			return m->type;
	abort(); /* a union without its tag is a bug in the table */
}

/* One variant for each value of the tag; without a branch: the empty object. */
static struct json *variants(struct builder *b, const struct qapi_type *type)
{
	const struct qapi_type *tag = tag_type(type);
	struct json *arr = json_arr();

	for (size_t i = 0; tag->values[i]; i++) {
		const struct qapi_member *members = NULL;

		for (const struct qapi_branch *br = type->branches; br->value; br++)
			if (streq(br->value, tag->values[i]))
				members = br->type->members;
		json_append(arr, json_pack("{s:s, s:s}", "case", tag->values[i], "type",
					   object_name(b, members)));
	}
	return arr;
}

static void write_entry(struct builder *b, struct entry en)
{
	const struct qapi_member *members = en.type ? en.type->members : en.members;
	struct json *one;

	if (en.type && en.type->kind == QAPI_K_ENUM) {
		write_enum(b, en.name, en.type);
		return;
	}
	if (en.type && en.type->kind == QAPI_K_ALTERNATE) {
		write_alternate(b, en.name, en.type);
		return;
	}
	one = json_pack("{s:s, s:o, s:s}", "name", en.name, "members", member_list(b, members),
			"meta-type", "object");
	if (en.type) {
		json_add(one, "tag", json_str(en.type->tag));
		json_add(one, "variants", variants(b, en.type));
	}
	json_append(b->out, one);
}

static void write_command(struct builder *b, const struct qmp_command *cmd)
{
	_cleanup_free_ char *ret =
		cmd->ret ? type_name(b, cmd->ret) : xstrdup(object_name(b, NULL));
	_cleanup_free_ char *arg =
		cmd->arg_type ? type_name(b, cmd->arg_type) : xstrdup(object_name(b, cmd->args));
	struct json *one = json_pack("{s:s, s:s, s:s, s:s}", "name", cmd->name, "ret-type", ret,
				     "meta-type", "command", "arg-type", arg);

	if (cmd->features)
		json_add(one, "features", string_list(cmd->features));
	json_append(b->out, one);
}

struct json *schema_build(void)
{
	struct builder b = { .out = json_arr(), .written = json_obj() };

	(void)object_name(&b, NULL); /* "0" is the empty object, as in QEMU's */
	for (const struct qmp_command *c = NULL; (c = qmp_next_command(c));)
		write_command(&b, c);
	for (const struct qmp_event_def *ev = NULL; (ev = qmp_next_event(ev));)
		json_append(b.out, json_pack("{s:s, s:s, s:s}", "name", ev->name, "meta-type",
					     "event", "arg-type", object_name(&b, ev->data)));
	for (size_t i = 0; i < b.nr; i++)
		write_entry(&b, b.entries[i]);
	for (size_t i = 0; i < b.nr; i++)
		free(b.entries[i].name);
	free(b.entries);
	json_unref(b.written);
	return b.out;
}
