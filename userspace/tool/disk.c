// SPDX-License-Identifier: GPL-2.0-or-later
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util.h"
#include "tool/disk.h"

/* The node's description in query-named-block-nodes' answer; borrowed. */
static struct json *find_node(const struct json *nodes, const char *name)
{
	for (size_t i = 0; i < json_len(nodes); i++) {
		const char *s = json_str_of(json_get(json_at(nodes, i), "node-name"));

		if (s && streq(s, name))
			return json_at(nodes, i);
	}
	return NULL;
}

static int fill(struct disk *d, const struct json *export, const struct json *nodes)
{
	const char *id = json_str_of(json_get(export, "id"));
	const char *node = json_str_of(json_get(export, "node-name"));
	const char *name = json_str_of(json_get(export, "name"));
	struct json *image;

	if (!id || !node)
		return -EPROTO;
	image = json_get(find_node(nodes, node), "image");
	*d = (struct disk){
		.name = xstrdup(name ? name : id),
		.id = xstrdup(id),
		.node = xstrdup(node),
		.writable = json_bool_of(json_get(export, "writable")),
		.image = image ? json_ref(image) : NULL,
	};
	return 0;
}

int disks_query(struct tool *t, struct disk **ret, struct err *e)
{
	_cleanup_json_ struct json *exports = NULL;
	_cleanup_json_ struct json *nodes = NULL;
	struct disk *d;
	int n = 0, r;

	r = tool_qmp(t, "query-block-exports", NULL, &exports, e);
	if (!r)
		r = tool_qmp(t, "query-named-block-nodes", NULL, &nodes, e);
	if (r)
		return r;
	d = xcalloc(json_len(exports) + 1, sizeof(*d));
	for (size_t i = 0; i < json_len(exports); i++) {
		const char *type = json_str_of(json_get(json_at(exports, i), "type"));

		if (type && streq(type, "dm") && fill(&d[n], json_at(exports, i), nodes) == 0)
			n++;
	}
	*ret = d;
	return n;
}

void disks_free(struct disk *d, int n)
{
	for (int i = 0; i < n; i++)
		disk_done(&d[i]);
	free(d);
}

void disk_done(struct disk *d)
{
	free(d->name);
	free(d->id);
	free(d->node);
	json_unref(d->image);
	*d = (struct disk){ 0 };
}

int disk_find(struct tool *t, const char *name, struct disk *ret, struct err *e)
{
	struct disk *all;
	int n = disks_query(t, &all, e);
	int i;

	if (n < 0)
		return n;
	for (i = 0; i < n; i++)
		if (streq(all[i].name, name) || streq(all[i].id, name))
			break;
	if (i < n) {
		*ret = all[i];
		all[i] = (struct disk){ 0 };
	}
	disks_free(all, n);
	if (i == n)
		return err_set(e, ESRCH, "there is no disk '%s' (livechain list shows all)", name);
	return 0;
}

uint64_t image_size(const struct json *image, const char *key)
{
	uint64_t v = 0;

	(void)json_u64_of(json_get(image, key), &v);
	return v;
}

int image_depth(const struct json *image)
{
	int n = 0;

	for (; image; image = json_get(image, "backing-image"))
		n++;
	return n;
}

struct json *chain_nodes(struct tool *t, const struct json *image, const char *top, struct err *e)
{
	_cleanup_json_ struct json *nodes = NULL;
	_cleanup_json_ struct json *names = json_arr();

	if (tool_qmp(t, "query-named-block-nodes", NULL, &nodes, e))
		return NULL;
	json_append(names, json_str(top));
	for (image = json_get(image, "backing-image"); image;
	     image = json_get(image, "backing-image")) {
		const char *file = json_str_of(json_get(image, "filename"));
		const char *format = json_str_of(json_get(image, "format"));

		for (size_t i = 0; i < json_len(nodes) && file && format; i++) {
			struct json *n = json_at(nodes, i);
			const char *f = json_str_of(json_get(n, "file"));
			const char *drv = json_str_of(json_get(n, "drv"));
			const char *name = json_str_of(json_get(n, "node-name"));

			if (f && drv && name && streq(f, file) && streq(drv, format)) {
				json_append(names, json_str(name));
				break;
			}
		}
	}
	return take_ptr(names);
}

/* A node that the daemon let go with the export, or that it owns itself, is no error here. */
int nodes_delete(struct tool *t, const struct json *names, size_t from, size_t to, const char *done,
		 struct err *e)
{
	int r = 0;

	for (size_t i = from; i < to && i < json_len(names); i++) {
		const char *name = json_str_of(json_at(names, i));
		struct err why = ERR_INIT;

		if (name[0] == '#')
			continue;
		if (!tool_qmp(t, "blockdev-del", json_pack("{s:s}", "node-name", name), NULL,
			      &why) ||
		    strstr(why.msg, "Failed to find node") ||
		    strstr(why.msg, "is not owned by the monitor"))
			continue;
		if (!r)
			r = err_set_class(e, why.cls, why.code, "%s, but its node '%s' stays: %s",
					  done, name, why.msg);
	}
	return r;
}

char *make_id(const char *prefix, const char *name, size_t max)
{
	char *id = xasprintf("%s%s", prefix, name);
	char *old = id;
	unsigned sum = 5381;
	char *p;

	if (id_wellformed(id, max))
		return id;
	for (p = id; *p; p++) {
		sum = sum * 33 + (unsigned char)*p;
		if (!isalnum((unsigned char)*p) && !strchr("-._", *p))
			*p = '_';
	}
	id = xasprintf("%s%.*s-%04x", isalpha((unsigned char)*old) ? "" : "d", (int)max - 6, old,
		       sum & 0xffff);
	free(old);
	return id;
}

int absolute_path(const char *path, char **ret, struct err *e)
{
	_cleanup_free_ char *dir = path_dir(path);
	_cleanup_free_ char *real = realpath(dir, NULL);
	const char *base = strrchr(path, '/');

	base = base ? base + 1 : path;
	if (!*base || streq(base, ".") || streq(base, ".."))
		return err_set(e, EINVAL, "'%s' does not name a file", path);
	if (!real)
		return err_set(e, errno, "the folder of '%s' can't be used: %s", path,
			       strerror(errno));
	*ret = xasprintf("%s/%s", streq(real, "/") ? "" : real, base);
	return 0;
}
