/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A speed limit: says when the next piece of work may start so that the long
 * run's average is the speed asked for. Time is what the caller says it is
 * (nanoseconds of a clock that does not go back), so the code is pure and
 * tests/logic runs it in user space. The caller serialises calls.
 *
 * How: each piece moves the start of the next one by its own cost, bytes /
 * speed. Time in which nothing was asked for is lost, but for a credit of
 * LC_RATE_CREDIT_NS, so that a late wake-up does not lower the average.
 */
#ifndef LC_LOGIC_RATELIMIT_H
#define LC_LOGIC_RATELIMIT_H

#include <linux/types.h>

#define LC_RATE_CREDIT_NS 100000000ULL
/* A piece should be no more than what the speed allows in so much time. */
#define LC_RATE_SLICE_NS 100000000ULL

struct lc_ratelimit {
	u64 speed;	/* bytes per second; 0: no limit */
	u64 next_ns;	/* the next piece may start then */
};

/** lc_rate_set() - Set the speed; work charged so far is forgiven. */
void lc_rate_set(struct lc_ratelimit *rl, u64 speed, u64 now_ns);

/** lc_rate_delay() - Return: nanoseconds to wait before the next piece; 0: start now. */
u64 lc_rate_delay(const struct lc_ratelimit *rl, u64 now_ns);

/** lc_rate_piece() - Return: bytes that the speed allows in one slice; U64_MAX: no limit. */
u64 lc_rate_piece(const struct lc_ratelimit *rl);

/** lc_rate_charge() - Account for @bytes (at most 1 GiB) that are started now. */
void lc_rate_charge(struct lc_ratelimit *rl, u64 bytes, u64 now_ns);

#endif
