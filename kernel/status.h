/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef LC_STATUS_H
#define LC_STATUS_H

#include <linux/device-mapper.h>

struct lc_table;

/* All of device-mapper's status types. Never waits for I/O or a job. */
void lc_status(struct lc_table *t, status_type_t type, char *result, unsigned int maxlen);

#endif
