/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVECHAIN_NOTIFY_H
#define LIVECHAIN_NOTIFY_H

/*
 * Tells systemd a state ("READY=1", "STOPPING=1", "STATUS=..."), if it started us with
 * Type=notify. A failure is nobody's error.
 */
void notify(const char *state);

#endif
