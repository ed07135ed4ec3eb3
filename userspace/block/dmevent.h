/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waiting for dm events on one descriptor for all devices.
 *
 * The descriptor (dmevent_fd()) is readable after any event of any dm device of
 * the machine. The order that loses none: dmevent_rearm(), then
 * dmevent_scan(), then back to epoll; dmevent_scan() does the first itself. Not locked:
 * one thread uses a struct dmevent.
 */
#ifndef LIVECHAIN_BLOCK_DMEVENT_H
#define LIVECHAIN_BLOCK_DMEVENT_H

#include "dm.h"

struct dmevent;

/*
 * Watches devices whose UUID starts with @uuid_prefix (NULL: all). The first
 * dmevent_scan() reports each of them. NULL and a sentence on failure.
 */
struct dmevent *dmevent_new(const char *uuid_prefix, struct err *e);
void dmevent_free(struct dmevent *d);
DEFINE_CLEANUP(struct dmevent, dmevent_free)

/* For EPOLLIN. Belongs to @d. */
int dmevent_fd(const struct dmevent *d);

/* From here on a new event makes the descriptor readable. */
int dmevent_rearm(struct dmevent *d, struct err *e);

enum dmevent_what {
	DMEVENT_NEW,	 /* not seen before (or made again) */
	DMEVENT_CHANGED, /* its event number rose */
	DMEVENT_GONE,	 /* no longer there */
};

typedef void (*dmevent_cb)(void *ctx, enum dmevent_what what, const struct dm_dev_entry *dev);

/*
 * Arms, lists the devices and calls @cb for each that is new, has events
 * since the last scan, or is gone. Returns the number of calls. @cb may call dm.h's functions.
 */
int dmevent_scan(struct dmevent *d, dmevent_cb cb, void *ctx, struct err *e);

#endif
