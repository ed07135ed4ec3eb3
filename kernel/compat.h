/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels that we build for. Kbuild looks for features in the headers
 * and defines HAVE_*; nobody else may use these.
 */
#ifndef LC_COMPAT_H
#define LC_COMPAT_H

#ifdef __KERNEL__

#include <linux/blkdev.h>
#include <linux/version.h>
#include <linux/workqueue.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0) || LINUX_VERSION_CODE >= KERNEL_VERSION(7, 4, 0)
#error "livechain is tested with kernels 6.1 to 7.3 and builds for no other: pick one of them with KDIR="
#endif

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

/* Without it a queue was one for each processor; now it has to be said. */
#ifdef HAVE_WQ_PERCPU
#define LC_WQ_PERCPU		WQ_PERCPU
#else
#define LC_WQ_PERCPU		0
#endif

/* Exported for modules, and declared in no header that they see. They nest. */
void rcu_expedite_gp(void);
void rcu_unexpedite_gp(void);

#endif /* __KERNEL__ */
#endif
