/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keeping udev's rules out of images that lie on loop devices. They would look for file
 * systems in them, and link what they find in a guest's disk below /dev/disk.
 *
 * dm devices carry flags for that (dm.h); a loop device can't. So a rule of ours sees whether
 * there is a mark of the device's name in /run/livechain/udev, made before the device has its file.
 * The rule is put into /run/udev/rules.d when a running udev does not have it yet.
 *
 * Marks outlive the daemon, as the devices do. Without udev all this does nothing.
 * Context: control thread.
 */
#ifndef LIVECHAIN_BLOCK_UDEV_H
#define LIVECHAIN_BLOCK_UDEV_H

/* Before /dev/loop@number gets the file @path. A failure is logged: the device works all the same.
 */
void udev_hide_loop(int number, const char *path);

/* Takes the mark away, unless the device has still the file that it was made for. */
void udev_loop_gone(int number);

#endif
