/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef LC_TARGET_H
#define LC_TARGET_H

#include <linux/device-mapper.h>

extern struct target_type lc_target, lc_access_target;

#endif
