// SPDX-License-Identifier: GPL-2.0-or-later
#include <string.h>

#include "tool/print.h"
#include "tool/progress.h"

#define BAR	  24
#define SMOOTH_MS 4000.0 /* an old rate's weight is halved or so in this time */

void progress_init(struct progress *p, const char *what, FILE *out, bool terminal)
{
	*p = (struct progress){ .what = what,
				.out = out,
				.terminal = terminal,
				.rate = -1,
				.tenth = -1,
				.start_ms = -1 };
}

static void measure(struct progress *p, uint64_t done, int64_t now_ms)
{
	int64_t dt = now_ms - p->last_ms;
	double now, weight;

	if (p->start_ms < 0) {
		p->start_ms = p->last_ms = now_ms;
		p->first = p->last = done;
		return;
	}
	if (dt < 200 || done < p->last)
		return;
	now = (double)(done - p->last) * 1000.0 / (double)dt;
	weight = (double)dt / ((double)dt + SMOOTH_MS);
	p->rate = p->rate < 0 ? now : p->rate + (now - p->rate) * weight;
	p->last_ms = now_ms;
	p->last = done;
}

const char *progress_line(const struct progress *p, uint64_t done, uint64_t total, bool bar,
			  char *buf, size_t len)
{
	char a[SIZE_TEXT], b[SIZE_TEXT], rate[SIZE_TEXT], left[TIME_TEXT], blocks[BAR + 1];
	double part = !total ? 1.0 : done >= total ? 1.0 : (double)done / (double)total;
	size_t n = 0;

	memset(blocks, '-', BAR);
	memset(blocks, '#', (size_t)(part * BAR));
	blocks[BAR] = '\0';
	if (bar)
		n = snprintf(buf, len, "[%s] ", blocks);
	n += snprintf(buf + n, len - n, "%5.1f%%  %s of %s", part * 100, print_size(done, a),
		      print_size(total, b));
	if (p->rate >= 1 && n < len) {
		uint64_t todo = total > done ? total - done : 0;

		n += snprintf(buf + n, len - n, "  %s/s", print_size((uint64_t)p->rate, rate));
		if (todo && n < len)
			snprintf(buf + n, len - n, "  %s left",
				 print_time((int64_t)((double)todo / p->rate + 0.5), left));
	}
	return buf;
}

void progress_clear(struct progress *p)
{
	if (p->drawn)
		fputs("\r\033[K", p->out);
	p->drawn = false;
	fflush(p->out);
}

void progress_update(struct progress *p, uint64_t done, uint64_t total, int64_t now_ms)
{
	int tenth = !total || done >= total ? 10 : (int)(done * 10.0 / total);
	char line[200];

	measure(p, done, now_ms);
	if (p->terminal) {
		fprintf(p->out, "\r%s  %s\033[K", p->what,
			progress_line(p, done, total, true, line, sizeof(line)));
		p->drawn = true;
	} else if (p->tenth < 0 ||
		   (tenth > p->tenth && (now_ms - p->line_ms >= 1000 || tenth == 10)) ||
		   now_ms - p->line_ms >= 30000) {
		fprintf(p->out, "%s: %s\n", p->what,
			progress_line(p, done, total, false, line, sizeof(line)));
		p->tenth = tenth;
		p->line_ms = now_ms;
	}
	fflush(p->out);
}
