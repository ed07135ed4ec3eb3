// SPDX-License-Identifier: GPL-2.0-or-later
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util.h"
#include "tool/print.h"

const char *print_size(uint64_t bytes, char buf[SIZE_TEXT])
{
	static const char units[] = "KMGTPE";
	double v = (double)bytes / 1024;
	int u = 0;

	if (bytes < 1024) {
		snprintf(buf, SIZE_TEXT, "%" PRIu64 " B", bytes);
		return buf;
	}
	while (v >= 1023.995 && units[u + 1]) {
		v /= 1024;
		u++;
	}
	snprintf(buf, SIZE_TEXT, "%.*f %ciB", v < 99.995 ? 2 : 1, v, units[u]);
	return buf;
}

const char *print_time(int64_t seconds, char buf[TIME_TEXT])
{
	int64_t h = seconds / 3600;
	int m = seconds / 60 % 60, s = seconds % 60;

	if (seconds < 0)
		snprintf(buf, TIME_TEXT, "-");
	else if (h)
		snprintf(buf, TIME_TEXT, "%" PRId64 ":%02d:%02d", h, m, s);
	else
		snprintf(buf, TIME_TEXT, "%d:%02d", m, s);
	return buf;
}

struct table {
	int columns;
	size_t rows;
	char **cells; /* rows * columns */
	size_t *width;
};

struct table *table_new(int columns)
{
	struct table *t = xcalloc(1, sizeof(*t));

	t->columns = columns;
	t->width = xcalloc(columns, sizeof(*t->width));
	return t;
}

/* Characters, not bytes, of UTF-8. */
static size_t text_width(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

void table_row(struct table *t, const char *const *cells)
{
	t->cells = xreallocarray(t->cells, (t->rows + 1) * t->columns, sizeof(*t->cells));
	for (int i = 0; i < t->columns; i++) {
		const char *s = cells[i] ? cells[i] : "-";

		t->cells[t->rows * t->columns + i] = xstrdup(s);
		if (text_width(s) > t->width[i])
			t->width[i] = text_width(s);
	}
	t->rows++;
}

void table_print(const struct table *t, FILE *f)
{
	for (size_t r = 0; r < t->rows; r++)
		for (int i = 0; i < t->columns; i++) {
			const char *s = t->cells[r * t->columns + i];

			if (i + 1 == t->columns)
				fprintf(f, "%s\n", s);
			else
				fprintf(f, "%s%*s", s, (int)(t->width[i] - text_width(s) + 2), "");
		}
}

void table_free(struct table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->rows * t->columns; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t->width);
	free(t);
}
