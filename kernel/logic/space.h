/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Arithmetic of ranges and space. Pure code: tests/logic compiles it in user space.
 */
#ifndef LC_LOGIC_SPACE_H
#define LC_LOGIC_SPACE_H

#include <linux/types.h>

/* Sectors to take from a range of @nr: whole grains (a power of two), at most @want. */
static inline u64 lc_space_fit(u64 nr, u64 grain, u64 want)
{
	u64 whole = nr & ~(grain - 1);

	return whole < want ? whole : want;
}

/*
 * The whole grains (a power of two of blocks) inside blocks [first, first + nr) of a view that
 * ends at @end. The grain that the view's end cuts counts as whole. Returns how many blocks,
 * *ret_first is their first.
 */
u64 lc_space_whole(u64 first, u64 nr, unsigned int grain_shift, u64 end, u64 *ret_first);

/* [first, first + nr) made as large as the grains that it touches, cut at @end. */
u64 lc_space_cover(u64 first, u64 nr, unsigned int grain_shift, u64 end, u64 *ret_first);

#endif
