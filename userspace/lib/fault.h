/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Points at which a test lets the daemon die: after each step that somebody else can
 * see (a device-mapper request, a write to an image, a file of the state folder, a loop
 * device). Built in with `make FAULTS=1` only; nothing of it is in another program.
 *
 * The environment's LIVECHAIN_FAULTS names a file that the test made, FAULT_FILE_SIZE bytes of
 * zeros, and shares with the daemon: struct fault_file. Points are counted from when the
 * test sets @count to 0; at the one whose number is @die_at the process gets SIGKILL.
 * LIVECHAIN_SLOW=MS: at each point it waits at random, one time of 16 up to so many milliseconds,
 * else up to a 32nd of that.
 */
#ifndef LIVECHAIN_FAULT_H
#define LIVECHAIN_FAULT_H

#ifdef LIVECHAIN_FAULTS

#include <stdint.h>

#define FAULT_NAMES 4095 /* the last points */

struct fault_file {
	uint64_t count;	 /* points so far */
	uint64_t die_at; /* 0: never */
	uint64_t passed; /* points that nobody dies at any more */
	char pad[40];
	char names[FAULT_NAMES][64]; /* of point N: in [(N - 1) % FAULT_NAMES] */
};

#define FAULT_FILE_SIZE sizeof(struct fault_file)

/* Any thread. @what has been done to @whom. */
void fault_point(const char *what, const char *whom);
#define FAULT_POINT(what, whom) fault_point(what, whom)

#else
#define FAULT_POINT(what, whom) ((void)(what), (void)(whom))
#endif

#endif
