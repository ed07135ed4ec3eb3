/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVECHAIN_SNAPSHOT_H
#define LIVECHAIN_SNAPSHOT_H

#include "dispatch.h"

/* blockdev-snapshot-sync, blockdev-snapshot */
extern const struct qmp_command snapshot_commands[];

#endif
