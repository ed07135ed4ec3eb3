// SPDX-License-Identifier: GPL-2.0-only
#include "space.h"

u64 lc_space_whole(u64 first, u64 nr, unsigned int grain_shift, u64 end, u64 *ret_first)
{
	u64 mask = ((u64)1 << grain_shift) - 1;
	u64 last = first + nr;

	first = (first + mask) & ~mask;
	if (last < end)
		last &= ~mask;
	*ret_first = first;
	return last > first ? last - first : 0;
}

u64 lc_space_cover(u64 first, u64 nr, unsigned int grain_shift, u64 end, u64 *ret_first)
{
	u64 mask = ((u64)1 << grain_shift) - 1;
	u64 last = (first + nr + mask) & ~mask;

	if (last > end)
		last = end;
	*ret_first = first & ~mask;
	return last - *ret_first;
}
