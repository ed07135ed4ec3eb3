/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device-mapper devices: everything that livechain asks of libdevmapper.
 *
 * dm.c is the only file that includes libdevmapper.h. Every call is
 * synchronous. Calls may be made from any thread, several at once: a suspend
 * that waits for I/O on one thread delays no message, status or suspend on
 * another. Only calls that make or remove nodes in /dev/mapper (create,
 * resume, remove, rename) take turns among each other, since libdevmapper
 * keeps one list of nodes for the process.
 *
 * Errors: -errno; @e gets a sentence that ends with the kernel's own reason
 * when the kernel log has one. -ENXIO: there is no such device.
 * Nothing here logs.
 */
#ifndef LIVECHAIN_BLOCK_DM_H
#define LIVECHAIN_BLOCK_DM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../lib/cleanup.h"
#include "../lib/err.h"

#define DM_DEV_NAME_MAX	   127 /* bytes in a device's name */
#define DM_DEV_UUID_MAX	   128 /* bytes in a UUID, prefix included */
#define DM_DEV_UUID_PREFIX "LIVECHAIN-"
#define DM_DEV_DIR	   "/dev/mapper"

/* One target that covers a whole device. */
struct dm_table {
	uint64_t start;	 /* sectors; 0 */
	uint64_t length; /* sectors */
	char *type;	 /* e.g. "livechain" */
	char *params;	 /* table arguments, or what status says */
};

struct dm_dev_info {
	bool exists;
	bool suspended;
	bool live_table;
	bool inactive_table;
	bool read_only;
	int open_count;	   /* users: mounts, other dm devices, VMMs */
	uint32_t event_nr; /* rises with each dm event of the device */
	dev_t devno;
	char uuid[DM_DEV_UUID_MAX + 1]; /* with prefix; "" if it has none */
};

/* One entry of dm_list_devices(). */
struct dm_dev_entry {
	char name[DM_DEV_NAME_MAX + 1];
	char uuid[DM_DEV_UUID_MAX + 1];
	dev_t devno;
	uint32_t event_nr;
};

/*
 * Opens the control node and checks the driver's version. Made by every call
 * here when needed; call it once at start-up, before memory is short, to get the
 * sentence early (-ENOENT: no device-mapper in the kernel, -EPERM, ...).
 */
int dm_open_control(struct err *e);

/* Fills @t from strings that it copies; dm_table_done() frees them. -ENOMEM. */
int dm_table_set(struct dm_table *t, uint64_t length, const char *type, const char *params);
void dm_table_done(struct dm_table *t);
#define _cleanup_dm_table_ _cleanup_(dm_table_done)

/* 0 if @name may be a device's name, else -EINVAL and a sentence. */
int dm_check_name(const char *name, struct err *e);

/*
 * Makes /dev/mapper/@name with @table live, and waits until its node exists.
 * Its UUID is DM_DEV_UUID_PREFIX and @uuid. udev is told not to look into
 * the device (see dm_resume()). On failure nothing is left. Writes *@ret_devno.
 * -EEXIST: the name or the UUID is taken.
 */
int dm_create(const char *name, const char *uuid, const struct dm_table *table, bool read_only,
	      dev_t *ret_devno, struct err *e);

/*
 * Puts @table into the inactive slot (the constructor runs, so the target checks it);
 * dm_resume() makes it live. A table that was there before is replaced.
 */
int dm_load(const char *name, const struct dm_table *table, bool read_only, struct err *e);

/* Empties the inactive slot. 0 also when it was empty. */
int dm_clear(const char *name, struct err *e);

/*
 * Suspends: no file system is frozen (nolockfs), I/O in flight is completed
 * or, with @noflush, may be handed back by the target and queued. May block until
 * the target lets go of its I/O: call it on a worker. 0 also if it is
 * suspended already.
 */
int dm_suspend(const char *name, bool noflush, struct err *e);

/*
 * Makes an inactive table live, if there is one, and lets I/O go on. Waits for udev where udev
 * runs (not with DM_DISABLE_UDEV set), with flags that keep the host from scanning
 * a guest's disk: no file system, partition or LVM rules.
 */
int dm_resume(const char *name, struct err *e);
/*
 * The same in two steps, where others are held meanwhile: I/O goes on when the first returns;
 * the second, which always follows, waits for udev.
 */
int dm_resume_now(const char *name, uint32_t *ret_cookie, struct err *e);
void dm_resume_wait(uint32_t cookie);

/*
 * Removes the device. A short-lived opener (udev, blkid) is waited for, for
 * about 3 s; then -EBUSY with a sentence that says who has it open, as far as
 * /proc and /sys tell. -ENXIO when there is no such device.
 */
int dm_remove(const char *name, struct err *e);

/*
 * Without udev: takes the node in /dev/mapper away if there is no device of that name. It stays
 * when a process dies after it has removed the device, and would lead to whatever device gets the
 * number next.
 */
void dm_settle_node(const char *name);

/* Gives the device another name; its UUID and users stay. */
int dm_rename(const char *name, const char *new_name, struct err *e);

/*
 * Sends the message to the device's target (sector 0). @text may be MiBs long. *@ret_reply (may be
 * NULL: not wanted) is the caller's to free: the answer, "" if there was none.
 *
 * A message whose answer did not fit is sent again with a larger buffer, so
 * it must be repeatable.
 */
int dm_message(const char *name, const char *text, char **ret_reply, struct err *e);

/*
 * What the target's status (dm_status) or table (dm_live_table) line says. No flush is
 * made, nothing waits for I/O. The caller calls dm_table_done(@ret). -ENODATA: no live table.
 */
int dm_status(const char *name, struct dm_table *ret, struct err *e);
int dm_live_table(const char *name, struct dm_table *ret, struct err *e);

/* 0 with ret->exists false when there is no such device. */
int dm_get_info(const char *name, struct dm_dev_info *ret, struct err *e);

/*
 * All devices whose UUID starts with @uuid_prefix (NULL: all). *@ret is the
 * caller's to free; returns how many.
 */
int dm_list_devices(const char *uuid_prefix, struct dm_dev_entry **ret, struct err *e);

/* The version of a loaded target; -ENOENT when no such target is loaded. */
int dm_target_version(const char *target, unsigned ret_version[3], struct err *e);

#endif
