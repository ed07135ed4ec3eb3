/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Names and numbers that the device-mapper target `livechain` and its users
 * share. The grammar of table, status and messages is written down once, in
 * Documentation/admin-guide/dm-livechain.rst; this file has its constants.
 */
#ifndef _UAPI_LINUX_DM_LIVECHAIN_H
#define _UAPI_LINUX_DM_LIVECHAIN_H

#define LIVECHAIN_TARGET_NAME "livechain"
#define LIVECHAIN_POINT_TARGET_NAME "livechain-point"

/* major: an incompatible table or message; minor: an addition; patch: a fix */
#define LIVECHAIN_VERSION_MAJOR 1
#define LIVECHAIN_VERSION_MINOR 3
#define LIVECHAIN_VERSION_PATCH 0

/* First word of the status line: the format of the rest. */
#define LIVECHAIN_STATUS_FORMAT 1

/* Limits */
#define LIVECHAIN_NAME_MAX 63		/* bytes in a view's or a job's name */
#define LIVECHAIN_LAYERS_MAX 256	/* layers in one table */
#define LIVECHAIN_LAYER_ID_MAX 1022	/* ids are 0..1022 */
#define LIVECHAIN_BLOCK_SECTORS_MIN 8	/* 4 KiB */
#define LIVECHAIN_BLOCK_SECTORS_MAX 4096 /* 2 MiB */
#define LIVECHAIN_UNIT_SECTORS_MIN 8
#define LIVECHAIN_UNIT_SECTORS_MAX 4096
#define LIVECHAIN_SLICE_BLOCKS 512	/* the map is loaded in slices of so many blocks */
#define LIVECHAIN_RECORDS_PER_PAGE 512	/* 8-byte records in one 4 KiB record page */
#define LIVECHAIN_JOBS_MAX 16		/* jobs of one view */

/* Message verbs */
#define LIVECHAIN_MSG_MAP "map"
#define LIVECHAIN_MSG_FORGET "forget"
#define LIVECHAIN_MSG_LAYER "layer"
#define LIVECHAIN_MSG_HOME "home"
#define LIVECHAIN_MSG_GRANT "grant"
#define LIVECHAIN_MSG_RECLAIM "reclaim"
#define LIVECHAIN_MSG_ACTIVATE "activate"
#define LIVECHAIN_MSG_COMMIT "commit"
#define LIVECHAIN_MSG_REQUESTS "requests"
#define LIVECHAIN_MSG_COPY "copy"
#define LIVECHAIN_MSG_JOB "job"

#define LIVECHAIN_MSG_REMAP "remap"
#define LIVECHAIN_MSG_PROMOTE "promote"

/* Reserved: part of the grammar, refused with a sentence by this version. */
#define LIVECHAIN_MSG_BITMAP "bitmap"

#endif
