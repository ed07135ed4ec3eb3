/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How far a job is, on stderr: a bar that is drawn over on a terminal, a line for each
 * tenth (at most one a second, at least one every half minute) elsewhere.
 */
#ifndef LIVECHAIN_TOOL_PROGRESS_H
#define LIVECHAIN_TOOL_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
	const char *what; /* the job's id */
	FILE *out;
	bool terminal;
	int64_t start_ms, last_ms; /* of the first and last update */
	uint64_t first, last;	   /* bytes done then */
	double rate;		   /* bytes a second, smoothed; < 0: unknown */
	int64_t line_ms;	   /* when the last plain line went out */
	int tenth;
	bool drawn; /* a bar stands in the terminal's line */
};

void progress_init(struct progress *p, const char *what, FILE *out, bool terminal);

/* @now_ms is any clock that only goes forward. */
void progress_update(struct progress *p, uint64_t done, uint64_t total, int64_t now_ms);

/* The bar's line goes away, so that something else can be printed. */
void progress_clear(struct progress *p);

/* "[#####-----]  50.0%  1.00 GiB of 2.00 GiB  100.0 MiB/s  0:10 left". Returns @buf. */
const char *progress_line(const struct progress *p, uint64_t done, uint64_t total, bool bar,
			  char *buf, size_t len);

#endif
