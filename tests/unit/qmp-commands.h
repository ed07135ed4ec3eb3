/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands to test the frame with, shaped as QEMU's: job commands without any job, a
 * blockdev-add that only checks, and ones that answer late or raise events.
 */
#ifndef LIVECHAIN_TEST_QMP_COMMANDS_H
#define LIVECHAIN_TEST_QMP_COMMANDS_H

#include "daemon/dispatch.h"

/* Registers these beside the control commands. */
void test_commands_register(void);

extern const struct qapi_type test_blockdev_options;
extern const struct qapi_type test_blockdev_ref;

/* "test-wait" does not answer: the call is here until test_wait_answer(). */
extern struct qmp_call *test_waiting;
void test_wait_answer(void);

#endif
