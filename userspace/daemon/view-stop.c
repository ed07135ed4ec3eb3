// SPDX-License-Identifier: GPL-2.0-or-later
/* How views end, and what an image gets back of the space that it was given for one. */
#include <errno.h>
#include <stdio.h>

#include "../lib/log.h"
#include "ctl.h"
#include "guard.h"
#include "journal.h"
#include "view.h"

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

/* No one has it open: nothing is written any more, what is unused can be taken back. */
static int quiesce(struct view *v, struct err *e)
{
	struct dm_dev_info info;
	int r = dm_get_info(v->dm, &info, e);

	if (r || !info.exists)
		return r;
	if (info.open_count > 0)
		return err_set(e, EBUSY,
			       "'/dev/mapper/%s' is in use (%d open): unmount it or stop the VM first",
			       v->dm, info.open_count);
	return view_suspend(v, e);
}

/* What is granted from here on would be granted to nobody: the service stops first. */
int view_stop(struct view *v, struct err *e)
{
	struct err leaks = ERR_INIT;
	int r = quiesce(v, e);

	if (r)
		return r;
	mark_dead(v, true);
	if (v->active != VIEW_NONE && !v->failed && view_reclaim(v, v->active, &leaks))
		log_warn("'%s': unused space is not given back: %s", v->dm, leaks.msg);
	err_clear(&leaks);
	r = dm_remove(v->dm, e);
	if (r) {
		(void)view_resume(v, NULL);
		mark_dead(v, false);
		return r;
	}
	guard_release(v->dm);
	/* Of what it could not tell any more the image can. What fails now stays in the journal. */
	if (v->active != VIEW_NONE)
		node_settle_unused(v->top);
	view_unlink(v);
	return 0;
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
