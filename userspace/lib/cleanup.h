/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Scope-bound cleanup: what a function acquires is released on every way out.
 *
 * Declare with _cleanup_free_ / _cleanup_close_ / _cleanup_(fn) and initialise
 * at once; hand ownership on with take_ptr() / take_fd(). A function that
 * uses these has no unwinding labels.
 */
#ifndef LIVECHAIN_CLEANUP_H
#define LIVECHAIN_CLEANUP_H

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))

static inline void freep(void *p)
{
	free(*(void **)p);
}

static inline void closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define _cleanup_free_	_cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)

/* Defines x_freep() for use with _cleanup_() from a destructor of type T *. */
#define DEFINE_CLEANUP(T, destroy)           \
	static inline void destroy##p(T **p) \
	{                                    \
		if (*p)                      \
			destroy(*p);         \
	}

DEFINE_CLEANUP(DIR, closedir)

/* The value of @p; @p is NULL afterwards, so its cleanup does nothing. */
#define take_ptr(p)                     \
	({                              \
		__typeof__(p) _v = (p); \
		(p) = NULL;             \
		_v;                     \
	})

/* The descriptor in @fd; @fd is -1 afterwards. */
#define take_fd(fd)            \
	({                     \
		int _v = (fd); \
		(fd) = -1;     \
		_v;            \
	})

#endif
