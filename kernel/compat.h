/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels that we build for. Kbuild looks for features in the headers
 * and defines HAVE_*; nobody else may use these.
 */
#ifndef LC_COMPAT_H
#define LC_COMPAT_H

#ifdef __KERNEL__

#include <linux/blkdev.h>

#ifndef CONFIG_64BIT
#error "livechain needs a 64-bit kernel: map entries are read and written in one go"
#endif

#ifdef HAVE_BLK_MODE_T
#define lc_mode_t		blk_mode_t
#define LC_MODE_WRITE		BLK_OPEN_WRITE
#else
#define lc_mode_t		fmode_t
#define LC_MODE_WRITE		FMODE_WRITE
#endif

#ifdef HAVE_QUEUE_LIMITS_FEATURES
#define lc_set_max_discard(limits, n)	((limits)->max_hw_discard_sectors = (n))
#else
#define lc_set_max_discard(limits, n) \
	((limits)->max_discard_sectors = (limits)->max_hw_discard_sectors = (n))
#endif

#endif /* __KERNEL__ */
#endif
