// SPDX-License-Identifier: GPL-2.0-or-later
/* list, chain */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/util.h"
#include "tool/disk.h"
#include "tool/invalid.h"
#include "tool/print.h"

static const char *or_dash(const char *s)
{
	return s ? s : "-";
}

static struct json *disk_json(const struct disk *d)
{
	return json_pack("{s:s, s:o, s:s, s:s, s:b, s:U, s:i, s:s?}", "name", d->name, "device",
			 json_strf("/dev/mapper/%s", d->name), "export", d->id, "node-name",
			 d->node, "writable", d->writable, "size",
			 image_size(d->image, "virtual-size"), "depth", image_depth(d->image),
			 "image", json_str_of(json_get(d->image, "filename")));
}

static void print_list(const struct disk *d, int n)
{
	static const char *const head[] = { "NAME", "SIZE", "MODE", "IMAGES", "ACTIVE IMAGE" };
	struct table *table;

	if (!n)
		return;
	table = table_new(ARRAY_SIZE(head));
	table_row(table, head);
	for (int i = 0; i < n; i++) {
		char size[SIZE_TEXT], depth[16];
		const char *cells[ARRAY_SIZE(head)] = {
			d[i].name,
			print_size(image_size(d[i].image, "virtual-size"), size),
			d[i].writable ? "rw" : "ro",
			depth,
			json_str_of(json_get(d[i].image, "filename")),
		};

		snprintf(depth, sizeof(depth), "%d", image_depth(d[i].image));
		table_row(table, cells);
	}
	table_print(table, stdout);
	table_free(table);
}

int cmd_list(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = { TOOL_OPTIONS };
	struct disk *d;
	int n;

	while (tool_getopt(t, argc, argv, "", longs) != -1)
		;
	tool_need_args(t, argc, 0, 0);
	n = disks_query(t, &d, e);
	if (n < 0)
		return n;
	if (t->json) {
		struct json *all = json_arr();

		for (int i = 0; i < n; i++)
			json_append(all, disk_json(&d[i]));
		tool_print_json(all);
	} else {
		print_list(d, n);
	}
	disks_free(d, n);
	return 0;
}

static void print_invalid(const struct disk *d)
{
	struct json *files = invalid_images(d);

	for (size_t i = 0; i < json_len(files); i++)
		printf("may be deleted: %s  (%s)\n",
		       json_str_of(json_get(json_at(files, i), "filename")),
		       json_str_of(json_get(json_at(files, i), "reason")));
	json_unref(files);
}

/* One image per level, the active one first: it lies on top of the next. */
static void print_tree(const struct disk *d)
{
	char size[SIZE_TEXT], used[SIZE_TEXT];
	const struct json *image = d->image;
	int level = 0;

	printf("%s  %s  %s\n", d->name, print_size(image_size(image, "virtual-size"), size),
	       d->writable ? "rw" : "ro");
	for (; image; image = json_get(image, "backing-image"), level++)
		printf("%*s└─ %s  %s, %s on disk%s\n", level * 3, "",
		       or_dash(json_str_of(json_get(image, "filename"))),
		       or_dash(json_str_of(json_get(image, "format"))),
		       print_size(image_size(image, "actual-size"), used),
		       level == 0 && d->writable ? "  (active)" : "");
	print_invalid(d);
}

static struct json *chain_json(const struct disk *d)
{
	struct json *images = json_arr();
	const struct json *image = d->image;

	for (; image; image = json_get(image, "backing-image"))
		json_append(images, json_pack("{s:s?, s:s?, s:U, s:U}", "filename",
					      json_str_of(json_get(image, "filename")), "format",
					      json_str_of(json_get(image, "format")),
					      "virtual-size", image_size(image, "virtual-size"),
					      "actual-size", image_size(image, "actual-size")));
	return json_pack("{s:s, s:s, s:b, s:o, s:o}", "name", d->name, "node-name", d->node,
			 "writable", d->writable, "images", images, "deletable", invalid_images(d));
}

int cmd_chain(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = { TOOL_OPTIONS };
	struct json *all = json_arr();
	struct disk *d = NULL;
	int n, r = 0;

	while (tool_getopt(t, argc, argv, "", longs) != -1)
		;
	tool_need_args(t, argc, 0, 1);
	if (argv[optind]) {
		d = xcalloc(1, sizeof(*d));
		r = disk_find(t, argv[optind], d, e);
		n = r ? 0 : 1;
	} else {
		n = disks_query(t, &d, e);
		r = n < 0 ? n : 0;
	}
	for (int i = 0; i < n; i++) {
		if (t->json)
			json_append(all, chain_json(&d[i]));
		else
			print_tree(&d[i]);
	}
	if (t->json && !r)
		tool_print_json(json_ref(all));
	json_unref(all);
	disks_free(d, n > 0 ? n : 0);
	return r;
}
