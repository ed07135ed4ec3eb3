/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LIVECHAIN_BLOCKDEV_H
#define LIVECHAIN_BLOCKDEV_H

#include "dispatch.h"

/* blockdev-add, blockdev-del; and the types of their arguments */
extern const struct qmp_command blockdev_commands[];
/* blockdev-reopen */
extern const struct qmp_command reopen_commands[];
/* query-named-block-nodes, query-block, query-blockstats */
extern const struct qmp_command query_commands[];
extern const struct qmp_event_def blockdev_events[];
/* blockdev-create; change-backing-file; block_resize */
extern const struct qmp_command create_commands[], backing_file_commands[], resize_commands[];

/* Types that other commands' arguments have, too. */
extern const struct qapi_type blockdev_driver, blockdev_ref, blockdev_options;

#endif
