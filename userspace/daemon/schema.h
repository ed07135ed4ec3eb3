/* SPDX-License-Identifier: GPL-2.0-or-later */
/* query-qmp-schema: QEMU's introspection format, made from the registered tables. */
#ifndef LIVECHAIN_SCHEMA_H
#define LIVECHAIN_SCHEMA_H

#include "lib/json.h"

/* The array of SchemaInfo. Owned by the caller. */
struct json *schema_build(void);

#endif
