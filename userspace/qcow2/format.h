/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2 on disk: where fields lie, what bits mean. All numbers are big endian;
 * get/put below convert at the edge, once.
 */
#ifndef LIVECHAIN_QCOW2_FORMAT_H
#define LIVECHAIN_QCOW2_FORMAT_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define QCOW2_MAGIC 0x514649fbu

/* Offsets of the header's fields. */
enum {
	H_MAGIC = 0,
	H_VERSION = 4,
	H_BACKING_OFFSET = 8,
	H_BACKING_SIZE = 16,
	H_CLUSTER_BITS = 20,
	H_SIZE = 24,
	H_CRYPT_METHOD = 32,
	H_L1_SIZE = 36,
	H_L1_OFFSET = 40,
	H_REFTABLE_OFFSET = 48,
	H_REFTABLE_CLUSTERS = 56,
	H_NB_SNAPSHOTS = 60,
	H_SNAPSHOTS_OFFSET = 64,
	H_V2_LENGTH = 72,
	H_INCOMPATIBLE = 72,
	H_COMPATIBLE = 80,
	H_AUTOCLEAR = 88,
	H_REFCOUNT_ORDER = 96,
	H_HEADER_LENGTH = 100,
	H_V3_MIN_LENGTH = 104,
	H_COMPRESSION_TYPE = 104,
	H_V3_LENGTH = 112, /* as we write it */
};

#define INCOMPAT_DIRTY	     (1ull << 0)
#define INCOMPAT_CORRUPT     (1ull << 1)
#define INCOMPAT_DATA_FILE   (1ull << 2)
#define INCOMPAT_COMPRESSION (1ull << 3)
#define INCOMPAT_EXTL2	     (1ull << 4)
#define INCOMPAT_KNOWN	     0x1full

#define COMPAT_LAZY_REFCOUNTS (1ull << 0)

#define AUTOCLEAR_BITMAPS (1ull << 0)

#define EXT_END		   0x00000000u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURE_NAMES  0x6803f857u
#define EXT_BITMAPS	   0x23852875u
#define EXT_LUKS	   0x0537be77u
#define EXT_DATA_FILE	   0x44415441u
#define EXT_INVALID	   0x4c436976u /* "LCiv", ours: why the content is no longer right */

#define FEATURE_ENTRY_SIZE 48

/* Limits, QEMU's. */
#define MAX_BACKING_NAME   1023u
#define MAX_BACKING_FORMAT 15u
#define MAX_INVALID_TEXT   1023u
#define MAX_L1_BYTES	   (32u << 20)
#define MAX_REFTABLE_BYTES (8u << 20)
#define MAX_SNAPSHOTS	   65536u
#define MAX_SNAPSHOT_TABLE (64u << 20)
#define MAX_SNAPSHOT_EXTRA 1024u
#define MAX_BITMAPS	   65535u
#define MAX_BITMAP_DIR	   (1024ull * 65535)
#define MAX_BITMAP_TABLE   0x8000000u /* entries */

#define ENTRY_COPIED	 (1ull << 63)
#define L2_COMPRESSED	 (1ull << 62)
#define L2_ZERO		 (1ull << 0)
#define ENTRY_OFFSET	 0x00fffffffffffe00ull
#define L1_RESERVED	 0x7f000000000001ffull
#define L2_RESERVED	 0x3f000000000001feull
#define REFTABLE_RESERVED 0x1ffull
#define BITMAP_RESERVED	 0xff000000000001feull

/* No host offset reaches behind this. */
#define MAX_HOST_OFFSET (1ull << 56)

static inline uint16_t get16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline uint32_t get32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t get64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static inline void put16(void *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put32(void *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put64(void *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

#endif
