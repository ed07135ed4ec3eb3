/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kernel modules: loaded with libkmod when what they provide is not there yet.
 * Blocking; call at start-up or on a worker.
 */
#ifndef LIVECHAIN_BLOCK_KMOD_H
#define LIVECHAIN_BLOCK_KMOD_H

#include "../lib/err.h"

/*
 * Loads module @name (and what it depends on) as modprobe does; 0 also when it
 * is loaded or built in. -ENOENT: the running kernel's module
 * folder has none. -EPERM, -ENOEXEC (built for another kernel), -EKEYREJECTED (signature).
 */
int kmod_load(const char *name, struct err *e);

/* Loads the file @ko. 0 also when a module of that name is loaded already. */
int kmod_load_file(const char *ko, struct err *e);

/*
 * Makes sure that the kernel has device-mapper and a target `livechain` that this
 * program understands (same major, at least our minor version). @ko, or else the
 * environment's LIVECHAIN_MODULE, names a .ko file to load; without, the
 * installed module is loaded. Each failure says what to do about it.
 */
int kmod_ensure_livechain(const char *ko, struct err *e);

/* Makes sure that loop devices exist (/dev/loop-control). */
int kmod_ensure_loop(struct err *e);

#endif
