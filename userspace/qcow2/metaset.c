// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The set of host clusters that hold metadata: open addressing, linear
 * probing, at most half full, deletion by shifting back.
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

static size_t home_of(const struct metaset *m, uint64_t key)
{
	return (size_t)((key * 0x9e3779b97f4a7c15ull) >> 20) & m->mask;
}

/* Where @key is, or the empty slot where it would go. */
static size_t find(const struct metaset *m, uint64_t key)
{
	size_t i = home_of(m, key);

	while (m->slots[i] && m->slots[i] != key)
		i = (i + 1) & m->mask;
	return i;
}

static int resize(struct metaset *m, size_t size)
{
	struct metaset old = *m;
	uint64_t *slots = calloc(size, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	m->slots = slots;
	m->mask = size - 1;
	for (size_t i = 0; old.slots && i <= old.mask; i++)
		if (old.slots[i])
			m->slots[find(m, old.slots[i])] = old.slots[i];
	free(old.slots);
	return 0;
}

void metaset_done(struct metaset *m)
{
	free(m->slots);
	*m = (struct metaset){ 0 };
}

int metaset_reserve(struct metaset *m, size_t n)
{
	size_t size = m->slots ? m->mask + 1 : 64;

	while (size / 2 < m->used + n)
		size *= 2;
	if (m->slots && size == m->mask + 1)
		return 0;
	return resize(m, size);
}

int metaset_add(struct metaset *m, uint64_t cluster, uint64_t n)
{
	if (metaset_reserve(m, n) < 0)
		return -ENOMEM;
	for (; n; n--, cluster++) {
		size_t i = find(m, cluster + 1);

		if (m->slots[i])
			return -EEXIST;
		m->slots[i] = cluster + 1;
		m->used++;
	}
	return 0;
}

/* Empties slot @i and moves back what would no longer be found. */
static void vacate(struct metaset *m, size_t i)
{
	size_t j = i;

	for (;;) {
		size_t home;

		j = (j + 1) & m->mask;
		if (!m->slots[j])
			break;
		home = home_of(m, m->slots[j]);
		/* Stays when its home lies cyclically in (i, j]. */
		if (i <= j ? (i < home && home <= j) : (i < home || home <= j))
			continue;
		m->slots[i] = m->slots[j];
		i = j;
	}
	m->slots[i] = 0;
	m->used--;
}

void metaset_del(struct metaset *m, uint64_t cluster, uint64_t n)
{
	for (; n && m->slots; n--, cluster++) {
		size_t i = find(m, cluster + 1);

		if (m->slots[i])
			vacate(m, i);
	}
}

bool metaset_has(const struct metaset *m, uint64_t cluster)
{
	return m->slots && m->slots[find(m, cluster + 1)];
}
