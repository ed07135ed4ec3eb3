/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Words of messages: runs of the map, ranges, homes. Pure code: tests/logic compiles it in user space.
 *
 * Each parser returns NULL, or why the word is refused: a part of a sentence that follows
 * the word itself ("has no count").
 */
#ifndef LC_LOGIC_GRAMMAR_H
#define LC_LOGIC_GRAMMAR_H

#include <linux/types.h>
#include "entry.h"

/* Blocks that follow each other: block i has @entry + i * lc_entry_step(). */
struct lc_run {
	u64 count;
	u64 entry;
};

/* <count>:z[:<layer>[:<sector>][:s]] or <count>:d:<layer>:<sector>[:s] */
const char *lc_parse_run(const char *word, struct lc_run *run);

/* <sector>+<sectors> */
const char *lc_parse_range(const char *word, u64 *first, u64 *nr);

/* <first unit>+<units>@<sector> */
const char *lc_parse_home(const char *word, u64 *first, u64 *nr, u64 *sector);

#endif
