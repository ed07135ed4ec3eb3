/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP clients: one struct monitor per connection, all served by the loop.
 *
 *   greeting sent -> [negotiation] -> reading <-> command under way -> draining -> closed
 *
 * A client's input is not read while its command is under way or while it leaves too
 * much output unread, so it can not make us hold more than one read buffer and one message. A
 * client that closes its sending side still gets its answers. None can block the loop.
 */
#ifndef LIVECHAIN_MONITOR_H
#define LIVECHAIN_MONITOR_H

#include "lib/err.h"
#include "lib/ev.h"

#define MONITOR_CLIENTS_MAX 100u
/* Unread output at which a client is disconnected. */
#define MONITOR_OUT_MAX (16u << 20)
/* Bytes that all clients together may make us hold; beyond, who takes most is disconnected. */
#define MONITOR_HELD_MAX (128u << 20)

struct monitor;

/* The connection ended; the monitor is gone after this. */
typedef void (*monitor_closed_fn)(void *arg);

/* Once, before the first client: becomes the sink of events. */
void monitor_init(struct ev *ev);
/* Disconnects everybody. */
void monitor_done(void);

/*
 * Serves the connected socket @fd (non-blocking; taken over, also on failure). @closed may be NULL.
 * -EMFILE with a sentence when there are MONITOR_CLIENTS_MAX already.
 */
int monitor_serve(int fd, monitor_closed_fn closed, void *arg, struct err *e);
unsigned monitor_count(void);

/* Runs @fn from the loop when all output has been taken by the clients, at the latest after @ms. */
void monitor_drain(uint64_t ms, ev_fn fn, void *arg);

#endif
