/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The types of what queries return, as QEMU's schema has them: the members that our answers
 * have, no others. tests/cases/daemon-schema.sh compares both.
 */
#ifndef LIVECHAIN_QUERY_TYPES_H
#define LIVECHAIN_QUERY_TYPES_H

#include "daemon/qapi.h"

extern const struct qapi_type query_block_nodes; /* [BlockDeviceInfo] */
extern const struct qapi_type query_blocks;	 /* [BlockInfo] */
extern const struct qapi_type query_block_stats; /* [BlockStats] */
extern const struct qapi_type query_schema;	 /* [SchemaInfo] */

#endif
