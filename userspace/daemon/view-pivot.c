// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A guest's device becomes another view: the end of a mirror and of a commit of the active image.
 *
 * Which image is active is in the state folder before the guest goes on (I16), whoever lets it: the
 * guard resumes the table that goes with the state. The daemon's memory, and the file, know views
 * by the kernel's names; which of them a device is bound to the device's live table says
 * (view-state.c), so the daemon, or its guard, may die between any two steps.
 */
#include <errno.h>

#include "../lib/ev.h"
#include "../lib/log.h"
#include "ctl.h"
#include "export.h"
#include "guard.h"
#include "state.h"
#include "view.h"

static void hold(struct view *v, bool held)
{
	pthread_mutex_lock(&v->lock);
	v->held = held;
	pthread_mutex_unlock(&v->lock);
}

#define SWAP(a, b)                 \
	do {                       \
		typeof(a) _t = a;  \
		a = b;             \
		b = _t;            \
	} while (0)

/* The device of each becomes the other's. */
static void swap_devices(struct view *a, struct view *b)
{
	struct export *x;

	pthread_mutex_lock(&a->lock);
	pthread_mutex_lock(&b->lock);
	core_lock();
	SWAP(a->dm, b->dm);
	SWAP(a->uuid, b->uuid);
	SWAP(a->internal, b->internal);
	SWAP(a->held_at, b->held_at);
	list_for_each(x, &export_list, link) {
		if (x->view == a)
			x->view = b;
		else if (x->view == b)
			x->view = a;
	}
	core_unlock();
	pthread_mutex_unlock(&b->lock);
	pthread_mutex_unlock(&a->lock);
}

int view_pivot_prepare(struct view *disk, struct view *target, struct err *e)
{
	int r;

	guard_undo(disk->dm, "");
	r = view_load_table_into(target, disk->dm, e);
	if (r)
		view_pivot_cancel(disk);
	return r;
}

void view_pivot_cancel(struct view *disk)
{
	/* A resume would switch it, without the last writes. */
	if (dm_clear(disk->dm, NULL))
		(void)view_load_table(disk, NULL);
	guard_keep();
}

/*
 * The target's own device lets go of the view: suspended, and without its guard's knowledge, for
 * it must stay so: only one device is live on a view. The job has flushed it: nothing is left to
 * commit.
 */
static int let_go(struct view *target, struct err *e)
{
	return dm_suspend(target->dm, true, e);
}

static int switch_device(struct view *disk, struct view *target, struct err *e)
{
	int r;

	swap_devices(disk, target);
	guard_pivot(target->dm);
	r = state_save(e);
	if (!r) {
		guard_keep(); /* from here on a resume by anybody switches it */
		r = view_resume_now(target, e);
		if (!r)
			r = view_check_table(target, e);
	}
	if (!r)
		return 0;
	swap_devices(disk, target);
	(void)state_save(NULL);
	/* The new table may be the live one already. */
	(void)view_load_table(disk, NULL);
	return r;
}

int view_pivot(struct view *disk, struct view *target, struct err *e)
{
	int r;

	hold(disk, true);
	hold(target, true);
	r = let_go(target, e);
	if (r)
		view_pivot_cancel(disk);
	else
		r = switch_device(disk, target, e);
	if (r) {
		guard_keep();
		(void)dm_resume(target->dm, NULL);
		(void)view_resume(disk, NULL);
		hold(disk, false);
	}
	hold(target, false);
	view_resume_wait(target);
	return r;
}
