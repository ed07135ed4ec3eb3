// SPDX-License-Identifier: GPL-2.0-or-later
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/dm.h"
#include "lib/util.h"
#include "tool/dry-run.h"

static struct json *image_json(const char *file, const char *format, const char *note)
{
	return json_pack("{s:s?, s:s?, s:s?}", "image", file, "format", format, "note", note);
}

static struct json *chain_json(const struct disk *d, const struct dry_run *p, bool after)
{
	struct json *arr = json_arr();
	const char *note = "active";

	if (after && p->overlay) {
		json_append(arr, image_json(p->overlay, "qcow2", "active, new"));
		note = "read-only from now on";
	}
	for (const struct json *i = d->image; i; i = json_get(i, "backing-image")) {
		json_append(arr, image_json(json_str_of(json_get(i, "filename")),
					    json_str_of(json_get(i, "format")), note));
		note = NULL;
	}
	return arr;
}

/* "<view> <block> <active> <#layers> {<id> <device> <start>}* <#features>", cut into words. */
static unsigned words_of(char *text, char **words, unsigned max)
{
	unsigned n = 0;

	for (char *save, *w = strtok_r(text, " ", &save); w && n < max; w = strtok_r(NULL, " ", &save))
		words[n++] = w;
	return n;
}

/* The table with one layer more, which is the active one (@overlay) or a copy's destination. */
static char *table_with(const struct dm_table *t, const struct dry_run *p)
{
	_cleanup_free_ char *text = xstrdup(t->params);
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	char *w[4 + 3 * 256 + 8];
	unsigned n = words_of(text, w, ARRAY_SIZE(w)), layers, id = 0;

	layers = n > 4 ? (unsigned)strtoul(w[3], NULL, 10) : 0;
	if (!layers || n < 4 + 3 * layers + 1)
		return NULL;
	for (unsigned i = 0; i < layers; i++) {
		unsigned one = (unsigned)strtoul(w[4 + 3 * i], NULL, 10);

		id = one >= id ? one + 1 : id;
	}
	strbuf_addf(&s, "%" PRIu64 " %" PRIu64 " %s %s %s ", t->start, t->length, t->type, w[0], w[1]);
	if (p->overlay)
		strbuf_addf(&s, "%u", id);
	else
		strbuf_adds(&s, w[2]);
	strbuf_addf(&s, " %u", layers + 1);
	for (unsigned i = 4; i < 4 + 3 * layers; i++)
		strbuf_addf(&s, " %s", w[i]);
	strbuf_addf(&s, " %u [%s] 0", id, p->overlay ? p->overlay : p->target);
	for (unsigned i = 4 + 3 * layers; i < n; i++)
		strbuf_addf(&s, " %s", w[i]);
	return xstrdup(strbuf_str(&s));
}

/* NULL where they can't be read (only root can). */
static void tables(const struct disk *d, const struct dry_run *p, char **before, char **after)
{
	struct dm_table t = { 0 };

	*before = *after = NULL;
	if (!dm_live_table(d->name, &t, NULL)) {
		*before = xasprintf("%" PRIu64 " %" PRIu64 " %s %s", t.start, t.length, t.type, t.params);
		*after = table_with(&t, p);
	}
	dm_table_done(&t);
}

struct json *dry_run_json(const struct disk *d, const struct dry_run *p)
{
	_cleanup_free_ char *before = NULL, *after = NULL;

	tables(d, p, &before, &after);
	return json_pack("{s:b, s:s, s:s, s:s?, s:s?, s:o, s:o, s:s?, s:s?, s:[]}", "dry-run", 1, "what",
			 p->what, "name", d->name, "target", p->target, "format",
			 p->target ? p->format : NULL, "chain-before", chain_json(d, p, false),
			 "chain-after", chain_json(d, p, true), "table-before", before,
			 p->overlay ? "table-after" : "table-while-it-runs", after, "deletable");
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

void dry_run_print(const struct disk *d, const struct dry_run *p)
{
	_cleanup_free_ char *before = NULL, *after = NULL;

	tables(d, p, &before, &after);
	printf("%s of %s%s%s: nothing was done\n", p->what, d->name, p->target ? " to " : "",
	       p->target ? p->target : "");
	print_chain("chain now", chain_json(d, p, false));
	print_chain(p->overlay ? "chain then" : "chain then, as now", chain_json(d, p, true));
	printf("  table now:\n    %s\n  table %s:\n    %s\n", before ? before : "(only root can read it)",
	       p->overlay ? "then" : "while it runs", after ? after : "(only root can read it)");
	printf("  may be deleted then: nothing%s\n",
	       p->overlay ? ", the disk needs each image of its chain" : "");
}
