/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which QEMU's QMP we speak, and who we are. */
#ifndef LIVECHAIN_VERSION_H
#define LIVECHAIN_VERSION_H

#ifndef LIVECHAIN_VERSION
#define LIVECHAIN_VERSION "unknown"
#endif

#define QMP_MAJOR 7
#define QMP_MINOR 2
#define QMP_MICRO 22

#endif
