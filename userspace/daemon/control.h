/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands about the daemon itself: negotiation, versions, lists, run state, quit. */
#ifndef LIVECHAIN_CONTROL_H
#define LIVECHAIN_CONTROL_H

/* Registers them. */
void control_register(void);

#endif
