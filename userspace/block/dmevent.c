// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "block/dmevent.h"

/*
 * An own descriptor of the control node: the kernel keeps the armed event number per open file, and
 * libdevmapper has no way to its own. ARM_POLL is the one ioctl made
 * on it; all others go through libdevmapper.
 */
struct dmevent {
	int fd;
	char *prefix;
	struct dm_dev_entry *known; /* as of the last scan */
	int nr_known;
};

struct dmevent *dmevent_new(const char *uuid_prefix, struct err *e)
{
	_cleanup_(dmevent_freep) struct dmevent *d = NULL;

	if (dm_open_control(e))
		return NULL;
	d = calloc(1, sizeof(*d));
	if (!d) {
		err_set(e, ENOMEM, "no memory to watch device-mapper events");
		return NULL;
	}
	d->fd = open(DM_DEV_DIR "/control", O_RDWR | O_CLOEXEC);
	if (d->fd < 0) {
		err_set(e, errno, "cannot open '%s/control': %s", DM_DEV_DIR, strerror(errno));
		return NULL;
	}
	if (uuid_prefix) {
		d->prefix = strdup(uuid_prefix);
		if (!d->prefix) {
			err_set(e, ENOMEM, "no memory to watch device-mapper events");
			return NULL;
		}
	}
	return take_ptr(d);
}

void dmevent_free(struct dmevent *d)
{
	if (!d)
		return;
	closep(&d->fd);
	free(d->prefix);
	free(d->known);
	free(d);
}

int dmevent_fd(const struct dmevent *d)
{
	return d->fd;
}

int dmevent_rearm(struct dmevent *d, struct err *e)
{
	struct dm_ioctl arg = {
		.version = { DM_VERSION_MAJOR, 37, 0 }, /* 4.37 has ARM_POLL */
		.data_size = sizeof(arg),
		.data_start = sizeof(arg),
	};

	if (ioctl(d->fd, DM_DEV_ARM_POLL, &arg) < 0)
		return err_set(e, errno, "cannot wait for device-mapper events: %s",
			       strerror(errno));
	return 0;
}

static const struct dm_dev_entry *find(const struct dm_dev_entry *list, int nr,
				       const struct dm_dev_entry *dev)
{
	int i;

	for (i = 0; i < nr; i++)
		if (list[i].devno == dev->devno && !strcmp(list[i].uuid, dev->uuid))
			return &list[i];
	return NULL;
}

int dmevent_scan(struct dmevent *d, dmevent_cb cb, void *ctx, struct err *e)
{
	_cleanup_free_ struct dm_dev_entry *old = NULL;
	struct dm_dev_entry *now = NULL;
	int nr_old, nr, i, r, calls = 0;

	r = dmevent_rearm(d, e);
	if (r)
		return r;
	nr = dm_list_devices(d->prefix, &now, e);
	if (nr < 0)
		return nr;
	old = d->known;
	nr_old = d->nr_known;
	d->known = now;
	d->nr_known = nr;
	for (i = 0; i < nr_old; i++)
		if (!find(now, nr, &old[i])) {
			cb(ctx, DMEVENT_GONE, &old[i]);
			calls++;
		}
	for (i = 0; i < nr; i++) {
		const struct dm_dev_entry *was = find(old, nr_old, &now[i]);

		if (was && was->event_nr == now[i].event_nr)
			continue;
		cb(ctx, was && now[i].event_nr > was->event_nr ? DMEVENT_CHANGED : DMEVENT_NEW,
		   &now[i]);
		calls++;
	}
	return calls;
}
