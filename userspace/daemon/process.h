/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the process needs before its loop: background, locks, and rights to go on under pressure. */
#ifndef LIVECHAIN_PROCESS_H
#define LIVECHAIN_PROCESS_H

#include "lib/err.h"

/*
 * Forks; returns in the child, before any thread. The parent waits: it exits with 0 after
 * process_ready(), with 1 if the child ends before (which has then said why on stderr).
 */
int process_daemonize(struct err *e);
/* In the child: lets the parent go, leaves the terminal. Nothing if not daemonized. */
void process_ready(void);

/*
 * Writes our id to the file and locks it for our life: -EBUSY if a living daemon has it.
 * Returns the descriptor.
 */
int process_pidfile(const char *path, struct err *e);
/* Creates the folder (0700) and locks it for our life. Returns the descriptor of the lock. */
int process_lock_state(const char *dir, struct err *e);

/*
 * We serve those who wait for memory to be freed by us: stay in memory, do not start I/O
 * from our own allocations, be the last to be killed. Best effort. Before any thread.
 */
void process_harden(void);

#endif
