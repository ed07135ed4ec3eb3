// SPDX-License-Identifier: GPL-2.0-or-later
/* attach, detach */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/util.h"
#include "tool/disk.h"

struct attach_args {
	const char *name, *format;
	char *image; /* absolute path */
	bool read_only, is_device;
};

/* "disks/vm1-disk0.qcow2" -> "vm1-disk0". */
static char *default_name(const char *image)
{
	static const char *const endings[] = { ".qcow2", ".img", ".raw", ".qcow" };
	const char *base = strrchr(image, '/');
	char *name = xstrdup(base ? base + 1 : image);
	size_t len = strlen(name);

	for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
		size_t n = strlen(endings[i]);

		if (len > n && streq(name + len - n, endings[i])) {
			name[len - n] = '\0';
			break;
		}
	}
	return name;
}

static int look_at_image(const char *path, struct attach_args *a, struct err *e)
{
	struct stat st;
	int r = absolute_path(path, &a->image, e);

	if (r)
		return r;
	if (stat(a->image, &st) < 0)
		return err_set(e, errno, "cannot attach '%s': %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, EINVAL,
			       "cannot attach '%s': it is neither a file nor a block device", path);
	a->is_device = S_ISBLK(st.st_mode);
	return 0;
}

static int attach(struct tool *t, const struct attach_args *a, struct err *e)
{
	_cleanup_free_ char *node = make_id("", a->name, 31);
	_cleanup_free_ char *id = make_id("", a->name, 127);
	int r;

	r = tool_qmp(t, "blockdev-add",
		     json_pack("{s:s, s:s, s:b, s:{s:s, s:s}}", "driver", a->format, "node-name",
			       node, "read-only", a->read_only, "file", "driver",
			       a->is_device ? "host_device" : "file", "filename", a->image),
		     NULL, e);
	if (r)
		return r;
	r = tool_qmp(t, "block-export-add",
		     json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "dm", "id", id, "node-name",
			       node, "name", a->name, "writable", !a->read_only),
		     NULL, e);
	if (r) {
		(void)tool_qmp(t, "blockdev-del", json_pack("{s:s}", "node-name", node), NULL,
			       NULL);
		return r;
	}
	if (t->json)
		tool_print_json(json_pack("{s:s, s:o, s:s, s:s, s:s, s:b}", "name", a->name,
					  "device", json_strf("/dev/mapper/%s", a->name), "image",
					  a->image, "export", id, "node-name", node, "read-only",
					  a->read_only));
	else
		printf("/dev/mapper/%s\n", a->name);
	return 0;
}

int cmd_attach(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = {
		{ "name", required_argument, NULL, 'n' },
		{ "format", required_argument, NULL, 'f' },
		{ "read-only", no_argument, NULL, 'r' },
		TOOL_OPTIONS,
	};
	struct attach_args a = { .format = "qcow2" };
	_cleanup_free_ char *image = NULL;
	_cleanup_free_ char *name = NULL;
	int c, r;

	while ((c = tool_getopt(t, argc, argv, "n:f:r", longs)) != -1) {
		if (c == 'n')
			a.name = optarg;
		else if (c == 'f')
			a.format = optarg;
		else
			a.read_only = true;
	}
	tool_need_args(t, argc, 1, 1);
	if (!streq(a.format, "qcow2") && !streq(a.format, "raw"))
		tool_usage(t, "format '%s' is not known: qcow2 or raw", a.format);
	r = look_at_image(argv[optind], &a, e);
	image = a.image;
	if (r)
		return r;
	name = default_name(a.image);
	if (!a.name)
		a.name = name;
	return attach(t, &a, e);
}

int cmd_detach(struct tool *t, int argc, char **argv, struct err *e)
{
	static const struct option longs[] = { TOOL_OPTIONS };
	_cleanup_disk_ struct disk d = { 0 };
	_cleanup_json_ struct json *names = NULL;
	int r;

	while (tool_getopt(t, argc, argv, "", longs) != -1)
		;
	tool_need_args(t, argc, 1, 1);
	r = disk_find(t, argv[optind], &d, e);
	if (r)
		return r;
	names = chain_nodes(t, d.image, d.node, e);
	if (!names)
		return -e->code;
	r = tool_qmp(t, "block-export-del", json_pack("{s:s}", "id", d.id), NULL, e);
	if (!r)
		r = nodes_delete(t, names, 0, json_len(names), "the disk is detached", e);
	if (r)
		return r;
	if (t->json)
		tool_print_json(json_pack("{s:s}", "name", d.name));
	return 0;
}
