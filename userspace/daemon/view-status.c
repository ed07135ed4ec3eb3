// SPDX-License-Identifier: GPL-2.0-or-later
/* The target's status line, read back. Grammar: admin-guide/dm-livechain.rst, Status. */
#include <errno.h>
#include <stdio.h>

#include "view.h"

struct words {
	char *pos;
	bool bad;
};

static const char *word(struct words *w)
{
	static const char empty[] = "";
	char *s = w->pos, *end;

	while (*s == ' ')
		s++;
	if (!*s) {
		w->bad = true;
		return empty;
	}
	end = strchr(s, ' ');
	if (end)
		*end++ = '\0';
	w->pos = end ? end : s + strlen(s);
	return s;
}

static uint64_t number(struct words *w)
{
	uint64_t v = 0;

	if (parse_u64(word(w), &v))
		w->bad = true;
	return v;
}

static void pair(struct words *w, uint64_t *a, uint64_t *b)
{
	unsigned long long x = 0, y = 0;

	if (sscanf(word(w), "%llu/%llu", &x, &y) != 2)
		w->bad = true;
	*a = x;
	*b = y;
}

static int id_or_none(struct words *w)
{
	const char *s = word(w);
	uint64_t v = 0;

	if (streq(s, "-"))
		return VIEW_NONE;
	if (parse_u64(s, &v))
		w->bad = true;
	return (int)v;
}

static void copy_word(struct words *w, char *to, size_t size)
{
	snprintf(to, size, "%s", word(w));
}

static void parse_layers(struct words *w, struct view_status *st)
{
	uint64_t n = number(w);

	if (n > ARRAY_SIZE(st->layers))
		w->bad = true;
	for (uint64_t i = 0; i < n && !w->bad; i++) {
		st->layers[i].id = (int)number(w);
		st->layers[i].entries = number(w);
		(void)word(w); /* unit */
		st->layers[i].last_grant = number(w);
		st->layers[i].free = number(w);
		st->layers[i].clean = streq(word(w), "clean");
		st->nr_layers = i + 1;
	}
}

static void parse_jobs(struct words *w, struct view_status *st)
{
	uint64_t n = number(w);

	if (n > ARRAY_SIZE(st->jobs))
		w->bad = true;
	for (uint64_t i = 0; i < n && !w->bad; i++) {
		struct view_job *j = &st->jobs[i];

		copy_word(w, j->id, sizeof(j->id));
		copy_word(w, j->state, sizeof(j->state));
		pair(w, &j->done, &j->total);
		j->speed = number(w);
		copy_word(w, j->result, sizeof(j->result));
		(void)word(w); /* layer */
		st->nr_jobs = i + 1;
	}
}

int view_status_parse(const char *text, struct view_status *st, struct err *e)
{
	_cleanup_free_ char *copy = xstrdup(text);
	struct words w = { .pos = copy };

	memset(st, 0, sizeof(*st));
	if (number(&w) != 1)
		return err_set(e, EPROTO, "target livechain: unknown format of status '%s'", text);
	(void)word(&w); /* view */
	st->generation = number(&w);
	copy_word(&w, st->mode, sizeof(st->mode));
	(void)word(&w); /* block */
	st->active = id_or_none(&w);
	pair(&w, &st->loaded, &st->slices);
	st->map_bytes = number(&w);
	st->unrecorded = number(&w);
	st->parked = number(&w);
	parse_layers(&w, st);
	parse_jobs(&w, st);
	if (w.bad)
		return err_set(e, EPROTO, "target livechain: can't understand status '%s'", text);
	return 0;
}
