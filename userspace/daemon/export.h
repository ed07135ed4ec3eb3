/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block exports of type `dm`: a node as /dev/mapper/NAME. Control thread (ctl.h). */
#ifndef LIVECHAIN_EXPORT_H
#define LIVECHAIN_EXPORT_H

#include "../lib/list.h"
#include "view.h"

struct export {
	struct list link;
	char *id;
	struct view *view;
};

extern struct list export_list;

/* By its id or by the name of its device. */
struct export *export_find(const char *name);

/* NULL: internal, or an export that did not come to be. */
struct export *export_of(const struct view *v);

/*
 * What a `device` argument means: the disk of that name (then its chain's top), an export's
 * id, or a node's name. -ENOENT with QEMU's sentence.
 */
int device_find(const char *name, struct node **ret, struct err *e);
/*
 * The same for a command that has two members for it; the one that is not given is NULL. A disk's
 * name is no node's: after a snapshot a node of that name may be an image below.
 */
int device_lookup(const char *device, const char *node, struct node **ret, struct err *e);

/* Either may be a filter node, which the others refuse. */
int device_lookup_any(const char *device, const char *node, struct node **ret, struct err *e);

struct json *export_save(void);
int export_restore(struct json *exports, struct err *e);

/*
 * For quit: ends every export that nobody has open (@filters: of filter nodes; or all others); what
 * is open stays. Events are posted.
 */
void export_quit(bool filters);

/* The command table of this file. */
extern const struct qmp_command export_commands[];
extern const struct qmp_event_def export_events[];

#endif
