// SPDX-License-Identifier: GPL-2.0-only
#include <linux/dm-livechain.h>
#include "grammar.h"

/* A decimal number; moves *p behind it. False: there is none or it is too large. */
static bool number(const char **p, u64 *ret)
{
	const char *s = *p;
	u64 n = 0;

	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++) {
		if (n > (~0ULL - 9) / 10)
			return false;
		n = n * 10 + (*s - '0');
	}
	*p = s;
	*ret = n;
	return true;
}

static bool eat(const char **p, char c)
{
	if (**p != c)
		return false;
	++*p;
	return true;
}

static const char *parse_layer(const char **p, u64 *ret)
{
	if (!number(p, ret))
		return "has no layer";
	if (*ret > LIVECHAIN_LAYER_ID_MAX)
		return "has a layer id above 1022";
	return NULL;
}

static const char *parse_sector(const char **p, const struct lc_run *run, u64 *ret)
{
	if (!number(p, ret))
		return "has no sector";
	if (*ret > LC_ENTRY_SECTOR_MASK - run->count * LIVECHAIN_BLOCK_SECTORS_MAX)
		return "has a sector beyond 2^48";
	return NULL;
}

/* ":s" or nothing, and the end of the word. */
static const char *parse_tail(const char *p, struct lc_run *run)
{
	if (eat(&p, ':')) {
		if (!eat(&p, 's'))
			return "has an unknown flag";
		run->entry |= LC_ENTRY_SHARED;
	}
	return *p ? "has something behind its end" : NULL;
}

static const char *parse_zero(const char *p, struct lc_run *run)
{
	const char *why;
	u64 layer, sector;

	run->entry = lc_entry_zero(LC_ENTRY_NO_LAYER);
	if (!*p)
		return NULL;
	if (!eat(&p, ':'))
		return "has something behind its end";
	why = parse_layer(&p, &layer);
	if (why)
		return why;
	run->entry = lc_entry_zero(layer);
	if (p[0] == ':' && p[1] != 's') {
		p++;
		why = parse_sector(&p, run, &sector);
		if (why)
			return why;
		run->entry = lc_entry_zero_space(layer, sector);
	}
	return parse_tail(p, run);
}

static const char *parse_data(const char *p, struct lc_run *run)
{
	const char *why;
	u64 layer, sector;

	if (!eat(&p, ':'))
		return "has no layer";
	why = parse_layer(&p, &layer);
	if (why)
		return why;
	if (!eat(&p, ':'))
		return "has no sector";
	why = parse_sector(&p, run, &sector);
	if (why)
		return why;
	run->entry = lc_entry_data(layer, sector);
	return parse_tail(p, run);
}

static const char *parse_error(const char *p, struct lc_run *run)
{
	run->entry = lc_entry_error();
	return *p ? "has something behind its end" : NULL;
}

const char *lc_parse_run(const char *p, struct lc_run *run)
{
	if (!number(&p, &run->count) || !run->count)
		return "has no count";
	if (run->count > (1ULL << 35))
		return "has a count above 2^35";
	if (!eat(&p, ':'))
		return "has no type";
	if (eat(&p, 'z'))
		return parse_zero(p, run);
	if (eat(&p, 'd'))
		return parse_data(p, run);
	if (eat(&p, 'e'))
		return parse_error(p, run);
	if (*p == 'p')
		return "is packed, which this version does not support";
	return "is neither zero (z) nor data (d) nor an error (e)";
}

const char *lc_parse_range(const char *p, u64 *first, u64 *nr)
{
	if (!number(&p, first) || !eat(&p, '+') || !number(&p, nr) || *p)
		return "is not <sector>+<sectors>";
	if (!*nr || *first > LC_ENTRY_SECTOR_MASK || *nr > LC_ENTRY_SECTOR_MASK - *first)
		return "is empty or ends beyond 2^48";
	return NULL;
}

const char *lc_parse_home(const char *p, u64 *first, u64 *nr, u64 *sector)
{
	if (!number(&p, first) || !eat(&p, '+') || !number(&p, nr) || !eat(&p, '@') ||
	    !number(&p, sector) || *p)
		return "is not <first unit>+<units>@<sector>";
	if (!*nr || *first > LC_ENTRY_SECTOR_MASK || *nr > LC_ENTRY_SECTOR_MASK - *first)
		return "is empty or too large";
	if (*sector > LC_ENTRY_SECTOR_MASK - *nr)
		return "has a sector beyond 2^48";
	return NULL;
}
