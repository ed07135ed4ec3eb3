// SPDX-License-Identifier: GPL-2.0-or-later
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "block/dm.h"
#include "lib/util.h"
#include "tool/dry-run.h"

static struct json *image_json(const char *file, const char *format, const char *note)
{
	return json_pack("{s:s?, s:s?, s:s?}", "image", file, "format", format, "note", note);
}

static bool leaves(const struct dry_run *p, int i)
{
	return i >= p->leave && i < p->stay;
}

static const char *note_of(const struct dry_run *p, int i, bool after)
{
	if (after && p->overlay && i == 0)
		return "read-only from now on";
	return i == (after && p->leave == 0 ? p->stay : 0) ? "active" : NULL;
}

static struct json *chain_json(const struct disk *d, const struct dry_run *p, bool after)
{
	struct json *arr = json_arr();
	int n = 0;

	if (after && p->overlay)
		json_append(arr, image_json(p->overlay, "qcow2", "active, new"));
	if (after && p->becomes) {
		json_append(arr, image_json(p->target, p->format, "active"));
		return arr;
	}
	for (const struct json *i = d->image; i; i = json_get(i, "backing-image"), n++) {
		if (after && leaves(p, n))
			continue;
		json_append(arr,
			    image_json(json_str_of(json_get(i, "filename")),
				       json_str_of(json_get(i, "format")), note_of(p, n, after)));
	}
	return arr;
}

struct json *dry_run_deletable(const struct disk *d, const struct dry_run *p)
{
	struct json *arr = json_arr();
	int n = 0;

	for (const struct json *i = d->image; i; i = json_get(i, "backing-image"), n++) {
		if (leaves(p, n) || p->becomes)
			json_append(arr, json_str(json_str_of(json_get(i, "filename"))));
	}
	return arr;
}

/* "<view> <block> <active> <#layers> {<id> <device> <start>}* <#features>", cut into words. */
static unsigned words_of(char *text, char **words, unsigned max)
{
	unsigned n = 0;

	for (char *save, *w = strtok_r(text, " ", &save); w && n < max;
	     w = strtok_r(NULL, " ", &save))
		words[n++] = w;
	return n;
}

/* Is the device (major:minor) of a table's layer @file, or a loop device on it? */
static bool is_layer_of(const char *device, const char *file)
{
	_cleanup_free_ char *path = xasprintf("/sys/dev/block/%s/loop/backing_file", device);
	_cleanup_free_ char *text = NULL;
	unsigned maj, min;
	struct stat st;
	size_t len;

	if (!read_file(path, 4096, &text, &len, NULL)) {
		text[strcspn(text, "\n")] = '\0';
		return streq(text, file);
	}
	return !stat(file, &st) && S_ISBLK(st.st_mode) &&
	       sscanf(device, "%u:%u", &maj, &min) == 2 && st.st_rdev == makedev(maj, min);
}

static bool layer_leaves(const char *device, const struct disk *d, const struct dry_run *p)
{
	int n = 0;

	for (const struct json *i = d->image; i; i = json_get(i, "backing-image"), n++) {
		if (leaves(p, n))
			if (is_layer_of(device, json_str_of(json_get(i, "filename"))))
				return true;
	}
	return false;
}

/* Where the disk goes on as another view, of which no table is made yet. */
static char *other_view(const struct dm_table *t, const char *what)
{
	return xasprintf("%" PRIu64 " %" PRIu64 " %s [the view of %s]", t->start, t->length,
			 t->type, what);
}

/*
 * The table then, or while a copy runs: one layer more, which is the active one (@overlay) or the
 * copy's destination; or without the layers of the images that leave.
 */
static char *table_after(const struct dm_table *t, const struct disk *d, const struct dry_run *p)
{
	_cleanup_free_ char *text = xstrdup(t->params);
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT, list = STRBUF_INIT;
	char *w[4 + 3 * 256 + 8];
	unsigned n = words_of(text, w, ARRAY_SIZE(w)), layers, id = 0, kept = 0;

	layers = n > 4 ? (unsigned)strtoul(w[3], NULL, 10) : 0;
	if (!layers || n < 4 + 3 * layers + 1)
		return NULL;
	for (unsigned i = 4; i < 4 + 3 * layers; i += 3) {
		unsigned one = (unsigned)strtoul(w[i], NULL, 10);

		id = one >= id ? one + 1 : id;
		if (layer_leaves(w[i + 1], d, p))
			continue;
		strbuf_addf(&list, " %s %s %s", w[i], w[i + 1], w[i + 2]);
		kept++;
	}
	if (p->overlay || p->target) {
		strbuf_addf(&list, " %u [%s] 0", id, p->overlay ? p->overlay : p->target);
		kept++;
	}
	strbuf_addf(&s, "%" PRIu64 " %" PRIu64 " %s %s %s ", t->start, t->length, t->type, w[0],
		    w[1]);
	if (p->overlay)
		strbuf_addf(&s, "%u", id);
	else
		strbuf_adds(&s, w[2]);
	strbuf_addf(&s, " %u%s", kept, strbuf_str(&list));
	for (unsigned i = 4 + 3 * layers; i < n; i++)
		strbuf_addf(&s, " %s", w[i]);
	return xstrdup(strbuf_str(&s));
}

/* The image that is active once the active one has left. */
static const char *new_active(const struct disk *d, const struct dry_run *p)
{
	const struct json *i = d->image;

	if (p->becomes)
		return p->target;
	for (int n = 0; i && n < p->stay; n++)
		i = json_get(i, "backing-image");
	return json_str_of(json_get(i, "filename"));
}

/* NULL where they can't be read (only root can). */
static void tables(const struct disk *d, const struct dry_run *p, char **before, char **after)
{
	struct dm_table t = { 0 };

	*before = *after = NULL;
	if (!dm_live_table(d->name, &t, NULL)) {
		*before = xasprintf("%" PRIu64 " %" PRIu64 " %s %s", t.start, t.length, t.type,
				    t.params);
		*after = p->becomes || (p->leave == 0 && p->stay) ? other_view(&t, new_active(d, p))
								  : table_after(&t, d, p);
	}
	dm_table_done(&t);
}

/* Does the disk change for good, or only while a copy of it is made? */
static bool lasting(const struct dry_run *p)
{
	return p->overlay || p->becomes || p->stay;
}

struct json *dry_run_json(const struct disk *d, const struct dry_run *p)
{
	_cleanup_free_ char *before = NULL, *after = NULL;

	tables(d, p, &before, &after);
	return json_pack("{s:b, s:s, s:s, s:s?, s:s?, s:o, s:o, s:s?, s:s?, s:o}", "dry-run", 1,
			 "what", p->what, "name", d->name, "target", p->target, "format",
			 p->target ? p->format : NULL, "chain-before", chain_json(d, p, false),
			 "chain-after", chain_json(d, p, true), "table-before", before,
			 lasting(p) ? "table-after" : "table-while-it-runs", after, "deletable",
			 dry_run_deletable(d, p));
}

static void print_chain(const char *head, struct json *chain)
{
	printf("  %s:\n", head);
	for (size_t i = 0; i < json_len(chain); i++) {
		const char *note = json_str_of(json_get(json_at(chain, i), "note"));

		printf("    %s  %s%s%s\n", json_str_of(json_get(json_at(chain, i), "image")),
		       json_str_of(json_get(json_at(chain, i), "format")), note ? "  " : "",
		       note ? note : "");
	}
	json_unref(chain);
}

void dry_run_print_deletable(const struct disk *d, const struct dry_run *p)
{
	struct json *files = dry_run_deletable(d, p);

	if (!json_len(files))
		printf("  may be deleted then: nothing%s\n",
		       p->overlay ? ", the disk needs each image of its chain" : "");
	else
		printf("  may be deleted then%s:\n",
		       p->invalid ? " (they are the disk of no time any more)" : "");
	for (size_t i = 0; i < json_len(files); i++)
		printf("    %s\n", json_str_of(json_at(files, i)));
	json_unref(files);
}

void dry_run_print(const struct disk *d, const struct dry_run *p)
{
	_cleanup_free_ char *before = NULL, *after = NULL;

	tables(d, p, &before, &after);
	printf("%s of %s%s%s: nothing was done\n", p->what, d->name, p->target ? " to " : "",
	       p->target ? p->target : "");
	print_chain("chain now", chain_json(d, p, false));
	print_chain(lasting(p) ? "chain then" : "chain then, as now", chain_json(d, p, true));
	printf("  table now:\n    %s\n  table %s:\n    %s\n",
	       before ? before : "(only root can read it)", lasting(p) ? "then" : "while it runs",
	       after ? after : "(only root can read it)");
	dry_run_print_deletable(d, p);
}

void dry_run_say(struct tool *t, const struct disk *d, const struct dry_run *p)
{
	if (t->json)
		tool_print_json(dry_run_json(d, p));
	else
		dry_run_print(d, p);
}
