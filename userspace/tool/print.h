/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Text for people: sizes, times, tables. */
#ifndef LIVECHAIN_TOOL_PRINT_H
#define LIVECHAIN_TOOL_PRINT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* "0 B", "512 B", "64.00 KiB", "1.50 GiB": three or four digits that count. Returns @buf. */
#define SIZE_TEXT 16
const char *print_size(uint64_t bytes, char buf[SIZE_TEXT]);

/* "0:05", "12:34", "3:04:05"; "-" below 0. */
#define TIME_TEXT 24
const char *print_time(int64_t seconds, char buf[TIME_TEXT]);

/* A table with left-aligned columns, as wide as their widest cell. */
struct table;

struct table *table_new(int columns);
/* The next row's cells, @columns strings, copied; NULL is "-". */
void table_row(struct table *t, const char *const *cells);
void table_print(const struct table *t, FILE *f);
void table_free(struct table *t);

#endif
