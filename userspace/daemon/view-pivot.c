// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A guest's device becomes another view: the end of a mirror and of a commit of the active image.
 *
 * Which image is active is in the state folder before the guest goes on. The daemon's memory, and
 * the file, know views by the kernel's names; which of them a device is bound to the device's
 * live table says (view-state.c), so the daemon, or its guard, may die between any two steps.
 */
#include <errno.h>

#include "../lib/ev.h"
#include "../lib/log.h"
#include "ctl.h"
#include "export.h"
#include "guard.h"
#include "journal.h"
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

/*
 * The target's own device lets go of the view: suspended, and without its guard's knowledge, for it
 * must stay so: only one device is live on a view.
 */
static int let_go(struct view *target, struct err *e)
{
	view_settle(target);
	return dm_suspend(target->dm, true, e);
}

static int switch_device(struct view *disk, struct view *target, struct err *e)
{
	int r;

	swap_devices(disk, target);
	r = state_save(e);
	if (!r)
		r = view_load_table(target, e);
	if (!r)
		r = view_resume(target, e);
	if (!r)
		return 0;
	(void)dm_clear(target->dm, NULL);
	swap_devices(disk, target);
	(void)state_save(NULL);
	return r;
}

int view_pivot(struct view *disk, struct view *target, struct err *e)
{
	int r;

	hold(disk, true);
	hold(target, true);
	r = let_go(target, e);
	if (!r)
		r = switch_device(disk, target, e);
	if (r) {
		(void)dm_resume(target->dm, NULL);
		(void)view_resume(disk, NULL);
		hold(disk, false);
	}
	hold(target, false);
	return r;
}

/* Its view is gone from the kernel: what was granted and not used is found by looking at the image. */
int view_end(struct view *v, struct err *e)
{
	const struct qcow2_range all = { 0, UINT64_MAX };
	struct node *top = v->top;
	struct err leaks = ERR_INIT;
	int r;

	pthread_mutex_lock(&v->lock);
	v->dead = true;
	pthread_mutex_unlock(&v->lock);
	r = dm_remove(v->dm, e);
	if (r == -ENXIO)
		r = 0;
	if (top->driver != NODE_QCOW2 || top->read_only)
		;
	else if (qcow2_reclaim(top->img, &all, 1, 0, NULL, &leaks))
		log_warn("'%s': unused space is not given back: %s", top->file->filename, leaks.msg);
	else
		journal_close(top->file->filename);
	view_unlink(v);
	return r;
}
