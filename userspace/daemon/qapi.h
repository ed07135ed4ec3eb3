/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Descriptions of QMP types, after QEMU's schema language: what a command accepts is
 * written once, as constant tables; the argument checker, query-qmp-schema and the command line
 * all read these.
 *
 *	static const char *const on_error_values[] = { "report", "stop", NULL };
 *	static const struct qapi_type on_error = QAPI_ENUM("BlockdevOnError", on_error_values);
 *	static const struct qapi_member backup_args[] = {
 *		{ "device", &qapi_str },
 *		{ "speed", &qapi_int, QAPI_OPT },
 *		{ "on-source-error", &on_error, QAPI_OPT },
 *		{ NULL },
 *	};
 *
 * Tagged union (BlockdevOptions): common members (with the tag among them, its type an
 * enum), then per tag value a struct of further members:
 *	static const struct qapi_branch drivers[] = {
 *		{ "qcow2", &options_qcow2 }, { "raw", &options_raw }, { NULL },
 *	};
 *	const struct qapi_type blockdev_options =
 *		QAPI_UNION("BlockdevOptions", common_members, "driver", drivers);
 * A tag value without a branch has no further members.
 *
 * Alternate (BlockdevRef: string or object), told apart by JSON kind:
 *	static const struct qapi_branch ref_kinds[] = {
 *		{ NULL, &blockdev_options }, { NULL, &qapi_str }, { 0 } };
 *	const struct qapi_type blockdev_ref = QAPI_ALTERNATE("BlockdevRef", ref_kinds);
 */
#ifndef LIVECHAIN_QAPI_H
#define LIVECHAIN_QAPI_H

#include "lib/err.h"
#include "lib/json.h"

enum qapi_kind {
	QAPI_K_STR,
	QAPI_K_INT,   /* int64 */
	QAPI_K_SIZE,  /* uint64; on the command line also with a suffix */
	QAPI_K_UINT32,
	QAPI_K_BOOL,
	QAPI_K_NUMBER,
	QAPI_K_NULL,
	QAPI_K_ANY,
	QAPI_K_ENUM,
	QAPI_K_STRUCT,
	QAPI_K_UNION,
	QAPI_K_ALTERNATE,
	QAPI_K_ARRAY,
};

struct qapi_type;

enum { QAPI_OPT = 1 };

struct qapi_member {
	const char *name; /* NULL ends a list */
	const struct qapi_type *type;
	unsigned flags;
	const char *const *features; /* NULL-terminated; or NULL */
};

struct qapi_branch {
	const char *value; /* union: the tag's value; alternate: NULL */
	const struct qapi_type *type; /* union: a struct */
};

struct qapi_type {
	enum qapi_kind kind;
	const char *name; /* QEMU's name of the type; unique */
	const char *const *values; /* enum: NULL-terminated */
	const struct qapi_member *members; /* struct; union: the common ones */
	const char *tag;		   /* union */
	/* union: until value is NULL; alternate: until type is */
	const struct qapi_branch *branches;
	const struct qapi_type *element; /* array */
};

#define QAPI_ENUM(n, v)	       { .kind = QAPI_K_ENUM, .name = n, .values = v }
#define QAPI_STRUCT(n, m)      { .kind = QAPI_K_STRUCT, .name = n, .members = m }
#define QAPI_UNION(n, m, t, b) \
	{ .kind = QAPI_K_UNION, .name = n, .members = m, .tag = t, .branches = b }
#define QAPI_ALTERNATE(n, b)   { .kind = QAPI_K_ALTERNATE, .name = n, .branches = b }
#define QAPI_ARRAY(of)	       { .kind = QAPI_K_ARRAY, .name = "list", .element = of }

extern const struct qapi_type qapi_str;
extern const struct qapi_type qapi_int;
extern const struct qapi_type qapi_size;
extern const struct qapi_type qapi_uint32;
extern const struct qapi_type qapi_bool;
extern const struct qapi_type qapi_number;
extern const struct qapi_type qapi_null;
extern const struct qapi_type qapi_any;

/*
 * Checks the object @args against @members: unknown, missing and wrongly typed members, at any
 * depth, with QEMU's sentences and dotted names. 0 or -EINVAL. @members NULL: no member
 * is allowed.
 */
int qapi_check(const struct qapi_member *members, const struct json *args, struct err *e);
/* The same against one type; @name is what sentences call it ("" for the top). */
int qapi_check_type(const struct qapi_type *type, const struct json *val, const char *name,
		    struct err *e);

/*
 * As qapi_check() for what came from key=value text: all leaves are strings,
 * converted as the types ask ("on"/"off" to bool, numbers, sizes with suffix). *@ret is a new
 * object, owned by the caller.
 */
int qapi_convert_keyval(const struct qapi_member *members, const struct json *args,
			struct json **ret, struct err *e);
/* The same for an object that is one struct or union type. */
int qapi_convert_keyval_type(const struct qapi_type *type, const struct json *args,
			     struct json **ret, struct err *e);

#endif
