/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sockets that monitors live on (--chardev socket,...): listening ones, and ones
 * that we connect. Unix sockets only.
 *
 * A listening socket is mode 0660. Its clients must be root, our own user, or of the group
 * that owns the socket file, whatever the file's mode became.
 */
#ifndef LIVECHAIN_CHARDEV_H
#define LIVECHAIN_CHARDEV_H

#include <stdbool.h>

#include "lib/err.h"
#include "lib/ev.h"

struct chardev;

/*
 * Binds and listens (@server), or connects. Clients are queued by the kernel until
 * chardev_start(). A socket file that nobody listens on any more is replaced. With @reconnect_s > 0
 * a lost connection is tried again after so many seconds. NULL and a sentence on failure.
 */
struct chardev *chardev_open(struct ev *ev, const char *id, const char *path, bool server,
			     unsigned reconnect_s, struct err *e);
/* Serves the monitor protocol on it from now on. */
int chardev_start(struct chardev *c, struct err *e);
/* Stops listening and removes the socket file; clients stay until monitor_done(). Accepts NULL. */
void chardev_close(struct chardev *c);
const char *chardev_id(const struct chardev *c);

/*
 * Whether the peer of the connected unix socket @fd may speak to us; @path is the socket
 * file, whose group is let in. For chardev.c and its test.
 */
bool chardev_peer_allowed(int fd, const char *path);

#endif
