/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Map entries: what a view knows about one block, in 63 bits.
 *
 *   62..61 type      absent, zero, data, error
 *   60     shared    the space must not be overwritten in place
 *   59     space     there is a sector (always for data, at will for zero)
 *   58     0
 *   57..48 layer     id; LC_ENTRY_NO_LAYER for an error, and a zero that nobody in particular says
 *   47..0  sector    relative to the layer's start; 0 without space
 *
 * The sector is in the low bits, so the entry of the block that follows
 * contiguously is "entry + block sectors". A slot of the map's slice table holds
 * either a whole slice as one run (tagged by bit 0) or a pointer to an array.
 *
 * Pure code: tests/logic compiles it in user space.
 */
#ifndef LC_LOGIC_ENTRY_H
#define LC_LOGIC_ENTRY_H

#include <linux/types.h>

enum lc_type {
	LC_ABSENT = 0,		/* not loaded */
	LC_ZERO = 1,
	LC_DATA = 2,
	LC_ERROR = 3,		/* nobody knows what is there: I/O fails */
};

#define LC_ENTRY_SECTOR_BITS	48
#define LC_ENTRY_SECTOR_MASK	((1ULL << LC_ENTRY_SECTOR_BITS) - 1)
#define LC_ENTRY_LAYER_SHIFT	48
#define LC_ENTRY_LAYER_MASK	(0x3ffULL << LC_ENTRY_LAYER_SHIFT)
#define LC_ENTRY_NO_LAYER	0x3ffU
#define LC_ENTRY_SPACE		(1ULL << 59)
#define LC_ENTRY_SHARED		(1ULL << 60)
#define LC_ENTRY_TYPE_SHIFT	61

static inline enum lc_type lc_entry_type(u64 e)
{
	return (enum lc_type)(e >> LC_ENTRY_TYPE_SHIFT);
}

static inline unsigned int lc_entry_layer(u64 e)
{
	return (e & LC_ENTRY_LAYER_MASK) >> LC_ENTRY_LAYER_SHIFT;
}

static inline u64 lc_entry_sector(u64 e)
{
	return e & LC_ENTRY_SECTOR_MASK;
}

static inline bool lc_entry_shared(u64 e)
{
	return e & LC_ENTRY_SHARED;
}

static inline bool lc_entry_has_space(u64 e)
{
	return e & LC_ENTRY_SPACE;
}

static inline u64 lc_entry_data(unsigned int layer, u64 sector)
{
	return ((u64)LC_DATA << LC_ENTRY_TYPE_SHIFT) | LC_ENTRY_SPACE |
	       ((u64)layer << LC_ENTRY_LAYER_SHIFT) | sector;
}

static inline u64 lc_entry_zero(unsigned int layer)
{
	return ((u64)LC_ZERO << LC_ENTRY_TYPE_SHIFT) | ((u64)layer << LC_ENTRY_LAYER_SHIFT);
}

static inline u64 lc_entry_zero_space(unsigned int layer, u64 sector)
{
	return lc_entry_zero(layer) | LC_ENTRY_SPACE | sector;
}

static inline u64 lc_entry_error(void)
{
	return ((u64)LC_ERROR << LC_ENTRY_TYPE_SHIFT) |
	       ((u64)LC_ENTRY_NO_LAYER << LC_ENTRY_LAYER_SHIFT);
}

/* What is to be added to an entry for each following block of its run. */
static inline u64 lc_entry_step(u64 e, u64 block_sectors)
{
	return lc_entry_has_space(e) ? block_sectors : 0;
}

/* Data of layer @id that may be overwritten where it is. */
static inline bool lc_entry_in_place(u64 e, unsigned int id)
{
	const u64 mask = (3ULL << LC_ENTRY_TYPE_SHIFT) | LC_ENTRY_SHARED | LC_ENTRY_LAYER_MASK;

	return (e & mask) == (((u64)LC_DATA << LC_ENTRY_TYPE_SHIFT) |
			      ((u64)id << LC_ENTRY_LAYER_SHIFT));
}

/* A zero of layer @id with space that may be written. */
static inline bool lc_entry_reusable(u64 e, unsigned int id)
{
	const u64 mask = (3ULL << LC_ENTRY_TYPE_SHIFT) | LC_ENTRY_SHARED | LC_ENTRY_SPACE |
			 LC_ENTRY_LAYER_MASK;

	return (e & mask) == (((u64)LC_ZERO << LC_ENTRY_TYPE_SHIFT) | LC_ENTRY_SPACE |
			      ((u64)id << LC_ENTRY_LAYER_SHIFT));
}

/* Slots of the slice table: 0 is an absent slice. */
static inline unsigned long lc_slot_run(u64 first_entry)
{
	return (unsigned long)((first_entry << 1) | 1);
}

static inline bool lc_slot_is_run(unsigned long slot)
{
	return slot & 1;
}

/* Entry @i of a slice that is one run. */
static inline u64 lc_slot_entry(unsigned long slot, unsigned int i, u64 block_sectors)
{
	u64 e = (u64)slot >> 1;

	return e + i * lc_entry_step(e, block_sectors);
}

/*
 * A record: how a layer's format remembers where a unit lies. CPU order; who
 * writes it converts.
 */
struct lc_record_format {
	unsigned int shift;	/* of the sector */
	u64 data_mask;		/* or-ed into a record of data */
	u64 zero_mask;		/* ... of a zero that keeps its space */
	u64 plain_zero;		/* the record of a zero without space */
	bool has_zero_space;	/* zero_mask is meant */
	bool has_plain_zero;	/* plain_zero is meant */
};

/*
 * The record of a unit whose first block has entry @e and which starts @offset
 * sectors into that block. Returns false if the format can't say it.
 */
bool lc_record_value(const struct lc_record_format *f, u64 e, u64 offset, u64 *ret_value);

#endif
