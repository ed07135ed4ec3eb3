// SPDX-License-Identifier: GPL-2.0-only
/* Speed limits; ratelimit.h says how. */
#include <linux/math64.h>

#include "logic/ratelimit.h"

#define NS_PER_SEC 1000000000ULL

void lc_rate_set(struct lc_ratelimit *rl, u64 speed, u64 now_ns)
{
	rl->speed = speed;
	rl->next_ns = now_ns;
}

u64 lc_rate_delay(const struct lc_ratelimit *rl, u64 now_ns)
{
	if (!rl->speed || rl->next_ns <= now_ns)
		return 0;
	return rl->next_ns - now_ns;
}

u64 lc_rate_piece(const struct lc_ratelimit *rl)
{
	return rl->speed ? div64_u64(rl->speed, NS_PER_SEC / LC_RATE_SLICE_NS) : U64_MAX;
}

void lc_rate_charge(struct lc_ratelimit *rl, u64 bytes, u64 now_ns)
{
	u64 cost;

	if (!rl->speed)
		return;
	if (rl->next_ns + LC_RATE_CREDIT_NS < now_ns)
		rl->next_ns = now_ns - LC_RATE_CREDIT_NS;
	cost = div64_u64(bytes * NS_PER_SEC, rl->speed);
	/* At 1 byte/s the cost of large pieces is years: do not wrap. */
	if (cost > U64_MAX - rl->next_ns)
		rl->next_ns = U64_MAX;
	else
		rl->next_ns += cost;
}
