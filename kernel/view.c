// SPDX-License-Identifier: GPL-2.0-only
/*
 * Views: their list, life and events.
 */
#include <linux/slab.h>
#include "buf.h"
#include "copy.h"
#include "view.h"

static DEFINE_MUTEX(lc_views_mutex);
static LIST_HEAD(lc_views);

static void event_work(struct work_struct *work)
{
	struct lc_view *view = container_of(work, struct lc_view, event_work);

	mutex_lock(&view->event_lock);
	if (view->live)
		dm_table_event(view->live->table);
	mutex_unlock(&view->event_lock);
}

void lc_view_event(struct lc_view *view)
{
	queue_work(view->wq, &view->event_work);
}

void lc_view_set_live(struct lc_view *view, struct dm_target *ti)
{
	mutex_lock(&view->event_lock);
	view->live = ti;
	mutex_unlock(&view->event_lock);
}

bool lc_view_not_live(struct lc_view *view, struct dm_target *ti)
{
	bool live;

	mutex_lock(&view->event_lock);
	live = view->live == ti;
	if (live)
		view->live = NULL;
	mutex_unlock(&view->event_lock);
	return live;
}

static int init_io(struct lc_view *view, char **error)
{
	int r = -ENOMEM;

	*error = "No memory for the view's work queues and reserves";
	/* More bios than a few grains' worth of pieces: each is sent as soon as it is made. */
	if (bioset_init(&view->bs, 64, 0, BIOSET_NEED_BVECS))
		return r;
	view->wq = alloc_workqueue("livechain/%s", WQ_MEM_RECLAIM | LC_WQ_PERCPU, 0, view->name);
	if (!view->wq)
		goto out_free_bs;
	view->commit_wq = alloc_ordered_workqueue("livechain-commit/%s", WQ_MEM_RECLAIM,
						  view->name);
	if (!view->commit_wq)
		goto out_free_wq;
	r = lc_buf_init(&view->bufs, lc_block_sectors(view) >> PAGE_SECTORS_SHIFT);
	if (r)
		goto out_free_commit_wq;
	return 0;

out_free_commit_wq:
	destroy_workqueue(view->commit_wq);
out_free_wq:
	destroy_workqueue(view->wq);
out_free_bs:
	bioset_exit(&view->bs);
	return r;
}

static void exit_io(struct lc_view *view)
{
	lc_buf_exit(&view->bufs);
	destroy_workqueue(view->commit_wq);
	destroy_workqueue(view->wq);
	bioset_exit(&view->bs);
}

static struct lc_view *view_alloc(const char *name, sector_t nr_sectors, unsigned int block_shift)
{
	struct lc_view *view = kvzalloc(sizeof(*view), GFP_KERNEL);

	if (!view)
		return NULL;
	strscpy(view->name, name, sizeof(view->name));
	view->nr_sectors = nr_sectors;
	view->block_shift = block_shift;
	view->nr_blocks = (nr_sectors + lc_block_sectors(view) - 1) >> block_shift;
	view->nr_slices = (view->nr_blocks + LC_SLICE_MASK) >> LC_SLICE_SHIFT;
	view->generation = 1;
	mutex_init(&view->mutex);
	mutex_init(&view->event_lock);
	INIT_WORK(&view->event_work, event_work);
	lc_locks_init(&view->locks);
	lc_park_init(&view->park);
	return view;
}

static struct lc_view *view_new(const char *name, sector_t nr_sectors, unsigned int block_shift,
				char **error)
{
	struct lc_view *view = view_alloc(name, nr_sectors, block_shift);
	int r = -ENOMEM;

	if (!view) {
		*error = "No memory for a view";
		return ERR_PTR(r);
	}
	r = init_io(view, error);
	if (r)
		goto out_free_view;
	r = lc_map_init(view, error);
	if (r)
		goto out_exit_io;
	r = lc_records_init(view, error);
	if (r)
		goto out_exit_map;
	r = lc_jobs_init(view, error);
	if (r)
		goto out_exit_records;
	return view;

out_exit_records:
	lc_records_exit(view);
out_exit_map:
	lc_map_exit(view);
out_exit_io:
	exit_io(view);
out_free_view:
	kvfree(view);
	return ERR_PTR(r);
}

static void view_free(struct lc_view *view)
{
	unsigned int id;

	lc_jobs_exit(view);
	lc_records_exit(view);
	flush_workqueue(view->wq);
	for (id = 0; id <= LIVECHAIN_LAYER_ID_MAX; id++)
		if (view->layers[id])
			lc_layer_free(view->layers[id]);
	lc_map_exit(view);
	exit_io(view);
	kvfree(view);
}

static struct lc_view *__view_find(const char *name)
{
	struct lc_view *view;

	lockdep_assert_held(&lc_views_mutex);
	list_for_each_entry(view, &lc_views, list)
		if (!strcmp(view->name, name))
			return view;
	return NULL;
}

struct lc_view *lc_view_get(const char *name, sector_t nr_sectors, unsigned int block_shift,
			    char **error)
{
	struct lc_view *view;

	mutex_lock(&lc_views_mutex);
	view = __view_find(name);
	if (view && view->nr_sectors != nr_sectors) {
		*error = "The view exists and has another length";
		view = ERR_PTR(-EINVAL);
	} else if (view && view->block_shift != block_shift) {
		*error = "The view exists and has another block size";
		view = ERR_PTR(-EINVAL);
	} else if (!view) {
		view = view_new(name, nr_sectors, block_shift, error);
		if (!IS_ERR(view))
			list_add_tail(&view->list, &lc_views);
	}
	if (!IS_ERR(view))
		view->tables++;
	mutex_unlock(&lc_views_mutex);
	return view;
}

int lc_view_call(const char *name, int (*fn)(struct lc_view *view, void *arg), void *arg)
{
	struct lc_view *view;
	int r = -ENOENT;

	mutex_lock(&lc_views_mutex);
	view = __view_find(name);
	if (view) {
		mutex_lock(&view->mutex);
		r = fn(view, arg);
		mutex_unlock(&view->mutex);
	}
	mutex_unlock(&lc_views_mutex);
	return r;
}

void lc_view_put(struct lc_view *view)
{
	bool last;

	mutex_lock(&lc_views_mutex);
	last = !--view->tables;
	if (last)
		list_del(&view->list);
	mutex_unlock(&lc_views_mutex);
	if (last)
		view_free(view);
}
