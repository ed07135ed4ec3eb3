/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Randomness that can be repeated: the seed is printed; SEED=n in the environment sets it. */
#ifndef LIVECHAIN_TEST_FUZZ_SEED_H
#define LIVECHAIN_TEST_FUZZ_SEED_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t fuzz_next(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static inline uint64_t fuzz_seed(const char *what)
{
	const char *s = getenv("SEED");
	uint64_t seed = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();

	fprintf(stderr, "# %s: SEED=%llu\n", what, (unsigned long long)seed);
	return seed;
}

/* How many rounds; ROUNDS=n in the environment sets it. */
static inline unsigned fuzz_rounds(unsigned usual)
{
	const char *s = getenv("ROUNDS");

	return s ? (unsigned)strtoul(s, NULL, 0) : usual;
}

#endif
