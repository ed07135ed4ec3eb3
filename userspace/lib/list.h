/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An intrusive, circular, doubly linked list. The head is a struct list too. */
#ifndef LIVECHAIN_LIST_H
#define LIVECHAIN_LIST_H

#include <stdbool.h>

#include "util.h"

struct list {
	struct list *next, *prev;
};

#define LIST_INIT(name)          \
	{                        \
		&(name), &(name) \
	}

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_add_tail(struct list *head, struct list *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

/* @l is an empty list afterwards. */
static inline void list_del(struct list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

#define list_entry(p, type, member) container_of(p, type, member)

/* The body may delete the entry it is at. */
#define list_for_each(pos, head, member)                                             \
	for (__typeof__(pos) _next,                                                  \
	     _cur = (pos = list_entry((head)->next, __typeof__(*pos), member));      \
	     &(pos = _cur)->member != (head) &&                                      \
	     (_next = list_entry(pos->member.next, __typeof__(*pos), member), true); \
	     _cur = _next)

#endif
