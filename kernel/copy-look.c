// SPDX-License-Identifier: GPL-2.0-only
/*
 * What lies where, as a copy job wants to know it: which grains are zero, which are to be
 * left out, and which slices of the map have to be asked for first.
 */
#include <linux/bitmap.h>

#include "job.h"
#include "map.h"
#include "view.h"

/* --- slices that are absent ---------------------------------------------------------- */

static void slice_came(struct lc_job *job)
{
	/* the job may be gone when its work item has seen the count; it is freed by RCU */
	rcu_read_lock();
	if (atomic_dec_and_test(&job->parked))
		lc_job_kick(job);
	rcu_read_unlock();
}

static void slice_woken(struct lc_waiter *w, bool again)
{
	slice_came(container_of(w, struct lc_job_slice, waiter)->job);
}

static bool slice_there(struct lc_view *view, struct lc_waiter *w)
{
	u64 slice;

	return !lc_map_absent(view, w->key << LC_SLICE_SHIFT, 1, &slice);
}

/* Ask for the slice of @sector and for the next that are absent too. */
static void want_slices(struct lc_job *job, sector_t sector)
{
	struct lc_view *view = job->view;
	u64 block = sector >> view->block_shift, slice;
	unsigned int i;

	/* Suspended nobody can be asked: who completes meanwhile looks again by and by. */
	if (atomic_read(&job->parked) || !READ_ONCE(view->jobs->live))
		return;
	atomic_set(&job->parked, 1);
	for (i = 0; i < LC_JOB_AHEAD && block < view->nr_blocks; i++) {
		if (!lc_map_absent(view, block, min_t(u64, view->nr_blocks - block, 65536), &slice))
			break;
		job->slice[i].job = job;
		job->slice[i].waiter = (struct lc_waiter){
			.want = LC_WANT_SLICE, .key = slice, .wake = slice_woken,
		};
		atomic_inc(&job->parked);
		lc_park(view, &job->slice[i].waiter, slice_there);
		block = (slice + 1) << LC_SLICE_SHIFT;
	}
	slice_came(job);
}

void lc_copy_unpark(struct lc_job *job)
{
	unsigned int i;

	for (i = 0; i < LC_JOB_AHEAD && atomic_read(&job->parked); i++)
		if (job->slice[i].job && lc_unpark(job->view, &job->slice[i].waiter))
			slice_came(job);
}

/* --- kinds -------------------------------------------------------------------------------- */

/* The extent at @sector of which each block is of one kind. */
static enum lc_kind extent_kind(struct lc_job *job, sector_t sector, sector_t max,
				struct lc_extent *ext)
{
	if (job->filtered)
		lc_map_extent_layer(job->view, sector, max, ext);
	else
		lc_map_extent(job->view, sector, max, ext);
	switch (ext->type) {
	case LC_ABSENT:
		return LC_KIND_ABSENT;
	case LC_ERROR:
		return LC_KIND_DATA;
	case LC_ZERO:
	case LC_DATA:
		break;
	}
	if (job->filtered && test_bit(lc_entry_layer(ext->entry), job->skip))
		return LC_KIND_SKIP;
	return ext->type == LC_ZERO ? LC_KIND_ZERO : LC_KIND_DATA;
}

/* The kind of one grain that is not of one extent; @ext is its first: unless all are alike it is read. */
static enum lc_kind mixed_kind(struct lc_job *job, u64 grain, enum lc_kind first,
			       struct lc_extent *ext)
{
	sector_t sector = lc_grain_sector(job, grain), end = lc_grain_sector(job, grain + 1);
	enum lc_kind kind = first, next = first;

	for (;;) {
		if (next == LC_KIND_ABSENT)
			break;
		if (next != kind)
			kind = LC_KIND_DATA;
		sector += ext->len;
		if (sector >= end)
			return kind;
		next = extent_kind(job, sector, end - sector, ext);
	}
	want_slices(job, sector);
	return LC_KIND_ABSENT;
}

/* What the first of @nr grains is, and how many have that in one sweep (>= 1). */
static enum lc_kind kind_of(struct lc_job *job, u64 grain, u64 nr, u64 *run)
{
	sector_t sector = lc_grain_sector(job, grain), end = lc_grain_sector(job, grain + nr);
	struct lc_extent ext;
	enum lc_kind kind;

	kind = extent_kind(job, sector, end - sector, &ext);
	*run = 1;
	if (kind == LC_KIND_ABSENT) {
		want_slices(job, sector);
		return kind;
	}
	if (sector + ext.len == end)
		*run = nr;
	else if (ext.len >> job->grain_shift)
		*run = ext.len >> job->grain_shift;
	else
		return mixed_kind(job, grain, kind, &ext);
	return kind;
}

enum lc_kind lc_copy_look(struct lc_job *job, u64 grain, u64 nr, u64 data_max, u64 *run)
{
	enum lc_kind kind = kind_of(job, grain, nr, run);
	u64 more;

	if (kind == LC_KIND_ABSENT)
		return kind;
	if (kind == LC_KIND_DATA)
		nr = min(nr, data_max);
	while (*run < nr && kind_of(job, grain + *run, nr - *run, &more) == kind)
		*run += more;
	*run = min(*run, nr);
	return kind;
}
