// SPDX-License-Identifier: GPL-2.0-or-later
/* How views end, and what an image gets back of the space that it was given for one. */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "../lib/log.h"
#include "ctl.h"
#include "guard.h"
#include "journal.h"
#include "view.h"

#define CLOSE_WAIT_MS 3000 /* as long as dm_remove() tries */

static int parse_ranges(const char *text, struct qcow2_range **ret, size_t *ret_n)
{
	unsigned long long off, len;
	int used;

	while (sscanf(text, " %llu+%llu%n", &off, &len, &used) == 2) {
		*ret = xreallocarray(*ret, *ret_n + 1, sizeof(**ret));
		(*ret)[(*ret_n)++] = (struct qcow2_range){ off * 512, len * 512 };
		text += used;
	}
	return 0;
}

int view_reclaim(struct view *v, int id, struct err *e)
{
	struct node *n = view_layer(v, id)->node;
	_cleanup_free_ struct qcow2_range *ranges = NULL;
	_cleanup_free_ char *reply = NULL;
	size_t nr = 0;
	int r;

	if (!n || n->driver != NODE_QCOW2)
		return 0;
	r = view_message(v, e, &reply, "reclaim %d", id);
	if (r)
		return r;
	parse_ranges(reply, &ranges, &nr);
	/* An earlier daemon may have freed them already, and not told the kernel. */
	if (nr && v->adopted)
		r = qcow2_reclaim(n->img, ranges, nr, 0, NULL, e);
	else if (nr)
		r = qcow2_free_clusters(n->img, ranges, nr, 0, e);
	if (!r)
		r = view_message(v, e, NULL, "reclaim %d done", id);
	if (!r && !v->adopted)
		journal_close(n->file->filename);
	return r;
}

int view_recover(struct view *v, struct node *n, struct err *e)
{
	if (!v->adopted || n->driver != NODE_QCOW2)
		return 0;
	return journal_recover(n->file->filename, n->img, e);
}

static void mark_dead(struct view *v, bool dead)
{
	pthread_mutex_lock(&v->lock);
	v->dead = dead;
	pthread_mutex_unlock(&v->lock);
}

/* No guest has, or has had, this device. */
static bool is_ours(const struct view *v)
{
	return v->internal || !v->ready;
}

/*
 * Nobody should have ours open. But who resumes a disk by hand takes its former table down, which
 * may have a copy's target, when the new one is live already; and what is new is looked into by
 * scanners.
 */
static int wait_closed(struct view *v, struct dm_dev_info *info, struct err *e)
{
	uint64_t until = ev_now_ms() + (is_ours(v) && !v->ending ? CLOSE_WAIT_MS : 0);
	struct timespec nap = { 0, 5000000 };
	int r;

	while (!(r = dm_get_info(v->dm, info, e)) && info->exists && info->open_count > 0 &&
	       ev_now_ms() < until)
		nanosleep(&nap, NULL);
	return r;
}

static int busy(const struct view *v, int open_count, struct err *e)
{
	return err_set(e, EBUSY, "'/dev/mapper/%s' is in use (%d open): %s", v->dm, open_count,
		       is_ours(v) ? "it goes with the first command after that"
				  : "unmount it or stop the VM first");
}

static bool is_alone(const struct view *v)
{
	struct view *other;

	list_for_each (other, &view_list, link) {
		if (other != v && other->top == v->top)
			return false;
	}
	return true;
}

/* Suspended, and nothing is granted to it any more: what is unused is the image's again. */
static int wind_up(struct view *v, struct err *e)
{
	struct err leaks = ERR_INIT;
	int r = view_suspend(v, e);

	if (r)
		return r;
	mark_dead(v, true); /* what is granted from here on would be granted to nobody */
	if (v->active != VIEW_NONE && !v->failed && view_reclaim(v, v->active, &leaks))
		log_warn("'%s': unused space is not given back: %s", v->dm, leaks.msg);
	err_clear(&leaks);
	return 0;
}

static void go_on(struct view *v)
{
	(void)view_resume(v, NULL);
	mark_dead(v, false);
}

/*
 * Somebody has the device of one that is wound up open: they can go on reading. The image is
 * nobody's, and may be written through another view, before this one goes.
 */
static void stop_later(struct view *v)
{
	pthread_mutex_lock(&v->lock);
	v->ending = true;
	v->ahead_tables = 0;
	pthread_mutex_unlock(&v->lock);
	go_on(v);
}

/* Of what it could not tell any more the image can. What fails now stays in the journal. */
static void settle_image(struct view *v)
{
	if (v->active != VIEW_NONE && is_alone(v))
		node_settle_unused(v->top);
}

static int remove_device(struct view *v, struct err *e)
{
	int r;

	mark_dead(v, true);
	r = dm_remove(v->dm, e);
	if (r) {
		mark_dead(v, false);
		return r;
	}
	guard_release(v->dm);
	if (!v->ending)
		settle_image(v);
	view_unlink(v);
	return 0;
}

static int wind_up_and_remove(struct view *v, int open_count, struct err *e)
{
	int r = wind_up(v, e);

	if (r)
		return r;
	if (open_count > 0)
		settle_image(v);
	r = open_count > 0 ? busy(v, open_count, e) : remove_device(v, e);
	if (r && is_ours(v))
		stop_later(v);
	else if (r)
		go_on(v);
	return r;
}

int view_stop(struct view *v, struct err *e)
{
	struct dm_dev_info info;
	int r = wait_closed(v, &info, e);

	if (r)
		return r;
	if (info.open_count > 0 && (v->ending || !is_ours(v)))
		return busy(v, info.open_count, e);
	return v->ending ? remove_device(v, e) : wind_up_and_remove(v, info.open_count, e);
}

struct view *view_ending(const struct node *top)
{
	struct view *v;

	list_for_each (v, &view_list, link) {
		if (v->ending && v->top == top)
			return v;
	}
	return NULL;
}

int view_check_ended(const struct node *top, struct err *e)
{
	const struct view *v = view_ending(top);

	return v ? err_set(e, EBUSY,
			   "Node '%s' is busy: somebody has /dev/mapper/%s open still, the device of a job that has ended",
			   top->name, v->dm)
		 : 0;
}

void view_settle_ends(void)
{
	struct view *v;

	list_for_each (v, &view_list, link)
		(void)view_drop_unknown_layers(v, NULL);
	list_for_each (v, &view_list, link) {
		_cleanup_free_ char *dm = v->ending ? xstrdup(v->dm) : NULL;

		if (dm && !view_stop(v, NULL))
			log_notice("'%s': nobody has it open any more, and it is gone", dm);
	}
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

void view_abandon(struct view *v)
{
	mark_dead(v, true);
	view_unlink(v);
}
