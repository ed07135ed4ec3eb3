/* SPDX-License-Identifier: GPL-2.0-only */
/* What every test program here includes. */
#ifndef LOGIC_CHECK_H
#define LOGIC_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/types.h>

/* cmocka hands each test a state, which none here needs. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
