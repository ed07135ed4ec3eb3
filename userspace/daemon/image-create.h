/* SPDX-License-Identifier: GPL-2.0-or-later */
/* New, empty images: overlays, targets of backups. Control thread; may block for long. */
#ifndef LIVECHAIN_IMAGE_CREATE_H
#define LIVECHAIN_IMAGE_CREATE_H

#include "node.h"

/*
 * Makes @path (created if it is not there; or a block device) an empty image of format @driver,
 * raw or qcow2; of @opts raw takes the size. Durable on return.
 *
 * Nothing is ever written over: -EEXIST unless the file is empty, or is what this call, or a daemon
 * that died in it, has left with the same arguments. (Block devices: raw is left as it is, it
 * must be large enough; qcow2 is written.) Errors: "Could not create '...': ...".
 */
int image_create(const char *path, enum node_driver driver, const struct qcow2_create_opts *opts,
		 struct err *e);

/* It is an image as @opts would make it, and without data: holds nothing that could be lost. */
bool image_is_same(struct qio *io, const struct qcow2_create_opts *opts);

#endif
