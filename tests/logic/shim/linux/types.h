/* SPDX-License-Identifier: GPL-2.0-only */
/* What kernel/logic needs of the kernel's types, in user space. */
#ifndef SHIM_LINUX_TYPES_H
#define SHIM_LINUX_TYPES_H

#include_next <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long s64;
typedef u64 sector_t;

#define U64_MAX (~(u64)0)

#endif
