// SPDX-License-Identifier: GPL-2.0-only
/*
 * Records and the group commit.
 *
 * A unit is unrecorded from the moment its blocks got new entries until the record is
 * durable. A commit, of which one runs at a time:
 *
 *  1. takes those who wait (flushes, FUA writes) and all record pages with unrecorded
 *     units, and reads these pages: nobody else writes them.
 *  2. puts the records into these private copies, from the entries of this moment. Their data is
 *     written already: an entry is set only after that.
 *  3. flushes the layer: that data is durable.
 *  4. writes the pages.
 *  5. flushes again (or has written with FUA): the records are durable.
 *  6. completes those who waited.
 *
 * An entry that changes after step 2 makes its unit unrecorded anew, for the next commit.
 * The values must be those of before step 3: a later one may refer to data that is not durable.
 *
 * A crash after 3: the data is there, nobody refers to it: a leak. Within 4: each sector of a page is old or
 * new, each record in it is whole: each unit is as before or as after. After 5: it is all there.
 *
 * If a step fails for want of space, it is tried again a little later, and who waits
 * goes on waiting. Any other failure is final: the view serves reads only from then on,
 * for a later success would pretend that nothing was lost.
 */
#include <linux/hash.h>
#include <linux/slab.h>
#include "io.h"
#include "job.h"

#define LC_BATCH 256		/* record pages in one round of a commit */
#define LC_IMAGES_MIN 16

struct lc_recpage {
	struct hlist_node node;
	struct list_head list;
	u64 nr;				/* unit / 512 */
	struct page *image;		/* during a commit */
	bool queued;			/* on rec->dirty or in a commit */
	DECLARE_BITMAP(dirty, LIVECHAIN_RECORDS_PER_PAGE); /* unrecorded, not yet in a commit */
	DECLARE_BITMAP(writing, LIVECHAIN_RECORDS_PER_PAGE); /* ... in the running commit */
};

bool lc_record_home(struct lc_layer *layer, u64 page, u64 *ret_sector)
{
	void *v = xa_load(&layer->homes, page);

	if (!v)
		return false;
	*ret_sector = xa_to_value(v);
	return true;
}

/*
 * ---------------------------------------------------------------------------
 * What is unrecorded.
 * ---------------------------------------------------------------------------
 */
static struct lc_recpage *__find(struct lc_records *rec, u64 nr)
{
	struct lc_recpage *p;

	lockdep_assert_held(&rec->lock);
	hlist_for_each_entry(p, &rec->hash[hash_64(nr, ilog2(LC_RECPAGE_BUCKETS))], node)
		if (p->nr == nr)
			return p;
	return NULL;
}

static void __mark(struct lc_records *rec, struct lc_recpage *p, unsigned int i, unsigned int n)
{
	lockdep_assert_held(&rec->lock);
	for (; n; n--, i++)
		if (!__test_and_set_bit(i, p->dirty) && !test_bit(i, p->writing))
			rec->unrecorded++;
	if (p->queued)
		return;
	p->queued = true;
	list_add_tail(&p->list, &rec->dirty);
}

static struct lc_recpage *recpage_new(struct lc_records *rec, u64 nr)
{
	struct lc_recpage *p = mempool_alloc(&rec->recpages, GFP_NOIO);

	memset(p, 0, sizeof(*p));
	p->nr = nr;
	return p;
}

static void mark_page(struct lc_view *view, u64 nr, unsigned int i, unsigned int n)
{
	struct lc_records *rec = &view->rec;
	struct lc_recpage *p, *new = NULL;

	for (;;) {
		spin_lock(&rec->lock);
		p = __find(rec, nr);
		if (!p && new) {
			p = new;
			new = NULL;
			hlist_add_head(&p->node,
				       &rec->hash[hash_64(nr, ilog2(LC_RECPAGE_BUCKETS))]);
		}
		if (p)
			__mark(rec, p, i, n);
		spin_unlock(&rec->lock);
		if (p)
			break;
		new = recpage_new(rec, nr);
	}
	if (new)
		mempool_free(new, &rec->recpages);
}

void lc_record_dirty(struct lc_view *view, u64 unit, u64 nr)
{
	while (nr) {
		unsigned int i = unit % LIVECHAIN_RECORDS_PER_PAGE;
		unsigned int n = min_t(u64, nr, LIVECHAIN_RECORDS_PER_PAGE - i);

		mark_page(view, unit / LIVECHAIN_RECORDS_PER_PAGE, i, n);
		unit += n;
		nr -= n;
	}
	/* If it is queued already it stays as it is, perhaps earlier. */
	queue_delayed_work(view->commit_wq, &view->rec.work, LC_COMMIT_PERIOD);
}

static bool __pending(struct lc_recpage *p, unsigned int i, unsigned int n)
{
	for (; n; n--, i++)
		if (test_bit(i, p->dirty) || test_bit(i, p->writing))
			return true;
	return false;
}

bool lc_record_pending(struct lc_view *view, u64 unit, u64 nr)
{
	struct lc_records *rec = &view->rec;
	struct lc_recpage *p;
	bool pending = false;

	while (nr && !pending) {
		unsigned int i = unit % LIVECHAIN_RECORDS_PER_PAGE;
		unsigned int n = min_t(u64, nr, LIVECHAIN_RECORDS_PER_PAGE - i);

		spin_lock(&rec->lock);
		p = __find(rec, unit / LIVECHAIN_RECORDS_PER_PAGE);
		pending = p && __pending(p, i, n);
		spin_unlock(&rec->lock);
		unit += n;
		nr -= n;
	}
	return pending;
}

/*
 * ---------------------------------------------------------------------------
 * I/O of a commit: some bios at once, waited for together.
 * ---------------------------------------------------------------------------
 */
struct lc_sync {
	atomic_t pending;
	blk_status_t status;
	struct completion done;
};

static void sync_init(struct lc_sync *s)
{
	atomic_set(&s->pending, 1);
	s->status = BLK_STS_OK;
	init_completion(&s->done);
}

static void sync_put(struct lc_sync *s)
{
	if (atomic_dec_and_test(&s->pending))
		complete(&s->done);
}

static void sync_endio(struct bio *bio)
{
	struct lc_sync *s = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(s->status, bio->bi_status);
	bio_put(bio);
	sync_put(s);
}

static int sync_wait(struct lc_sync *s)
{
	sync_put(s);
	wait_for_completion_io(&s->done);
	return blk_status_to_errno(s->status);
}

static void sync_send(struct lc_sync *s, struct bio *bio)
{
	bio->bi_private = s;
	bio->bi_end_io = sync_endio;
	atomic_inc(&s->pending);
	submit_bio_noacct(bio);
}

static int flush_layer(struct lc_view *view, struct lc_layer *layer)
{
	struct lc_sync s;
	int r;

	sync_init(&s);
	/* What completes from here on is for the next flush. */
	WRITE_ONCE(layer->dirty, false);
	smp_mb();
	sync_send(&s, bio_alloc_bioset(layer->bdev, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC,
				       GFP_NOIO, &view->bs));
	r = sync_wait(&s);
	if (r)
		WRITE_ONCE(layer->dirty, true);
	return r;
}

static int pages_io(struct lc_view *view, struct lc_layer *layer, struct list_head *batch,
		    blk_opf_t opf)
{
	struct blk_plug plug;
	struct lc_recpage *p;
	struct lc_sync s;
	u64 sector = 0;

	sync_init(&s);
	blk_start_plug(&plug);
	list_for_each_entry(p, batch, list) {
		struct bio *bio = bio_alloc_bioset(layer->bdev, 1, opf, GFP_NOIO, &view->bs);

		WARN_ON_ONCE(!lc_record_home(layer, p->nr, &sector));
		bio->bi_iter.bi_sector = layer->start + sector;
		__bio_add_page(bio, p->image, PAGE_SIZE, 0);
		sync_send(&s, bio);
	}
	blk_finish_plug(&plug);
	return sync_wait(&s);
}

/*
 * ---------------------------------------------------------------------------
 * The steps.
 * ---------------------------------------------------------------------------
 */
static void drop_images(struct lc_view *view, struct list_head *pages)
{
	struct lc_recpage *p;

	list_for_each_entry(p, pages, list) {
		if (p->image)
			mempool_free(p->image, &view->rec.images);
		p->image = NULL;
	}
}

/* 1. Moves record pages from @todo to @batch as long as there is memory, and reads them. */
static int load_batch(struct lc_view *view, struct lc_layer *layer, struct list_head *todo,
		      struct list_head *batch)
{
	struct lc_recpage *p, *next;
	unsigned int n = 0;

	list_for_each_entry_safe(p, next, todo, list) {
		/* The first LC_IMAGES_MIN are there: nobody else takes from this pool. */
		p->image = mempool_alloc(&view->rec.images, n < LC_IMAGES_MIN ? GFP_NOIO :
					 GFP_NOWAIT | __GFP_NOWARN);
		if (!p->image)
			break;
		list_move_tail(&p->list, batch);
		if (++n == LC_BATCH)
			break;
	}
	return pages_io(view, layer, batch, REQ_OP_READ | REQ_META);
}

/* 2. */
static void capture_unit(struct lc_view *view, struct lc_layer *layer, struct lc_recpage *p,
			 unsigned int i)
{
	u64 sector = (p->nr * LIVECHAIN_RECORDS_PER_PAGE + i) << layer->unit_shift;
	u64 e = lc_map_entry(view, sector >> view->block_shift), value;
	__be64 *records = page_address(p->image);

	if (WARN_ON_ONCE(lc_entry_layer(e) != layer->id))
		return;
	if (WARN_ON_ONCE(!lc_record_value(&layer->format, e,
					  sector & (lc_block_sectors(view) - 1), &value)))
		return;
	records[i] = cpu_to_be64(value);
}

static void capture(struct lc_view *view, struct lc_layer *layer, struct list_head *batch)
{
	struct lc_records *rec = &view->rec;
	struct lc_recpage *p;
	unsigned int i;

	list_for_each_entry(p, batch, list) {
		spin_lock(&rec->lock);
		bitmap_or(p->writing, p->writing, p->dirty, LIVECHAIN_RECORDS_PER_PAGE);
		bitmap_zero(p->dirty, LIVECHAIN_RECORDS_PER_PAGE);
		spin_unlock(&rec->lock);
		for_each_set_bit(i, p->writing, LIVECHAIN_RECORDS_PER_PAGE)
			capture_unit(view, layer, p, i);
	}
}

/*
 * All of @todo, in rounds; what is written moves to @done. *ret_flush: a flush is still
 * due.
 */
static int commit_pages(struct lc_view *view, struct lc_layer *layer, struct list_head *todo,
			struct list_head *done, bool *ret_flush)
{
	int r = 0;

	while (!r && !list_empty(todo)) {
		blk_opf_t opf = REQ_OP_WRITE | REQ_META | REQ_SYNC;
		LIST_HEAD(batch);

		r = load_batch(view, layer, todo, &batch);
		if (!r) {
			capture(view, layer, &batch);
			r = flush_layer(view, layer);
		}
		/* A single page needs no flush of its own behind it. */
		*ret_flush = !list_is_singular(&batch) || !list_empty(done);
		if (!*ret_flush)
			opf |= REQ_FUA;
		if (!r)
			r = pages_io(view, layer, &batch, opf);
		drop_images(view, &batch);
		list_splice_tail(&batch, done);
	}
	return r;
}

static int commit_layer(struct lc_view *view, struct lc_layer *layer, struct list_head *todo,
			struct list_head *done)
{
	bool flush = true;
	int r;

	if (!lc_layer_get(layer))
		return -ENOSPC;	/* no table has it now: later */
	r = commit_pages(view, layer, todo, done, &flush);
	if (!r && flush)
		r = flush_layer(view, layer);
	lc_layer_put(layer);
	return r;
}

/* Puts a record page back after a commit: gone, or dirty. */
static void __settle(struct lc_records *rec, struct lc_recpage *p, bool written)
{
	lockdep_assert_held(&rec->lock);
	if (written) {
		/* What became dirty again meanwhile goes on being counted. */
		bitmap_andnot(p->writing, p->writing, p->dirty, LIVECHAIN_RECORDS_PER_PAGE);
		rec->unrecorded -= bitmap_weight(p->writing, LIVECHAIN_RECORDS_PER_PAGE);
	} else {
		bitmap_or(p->dirty, p->dirty, p->writing, LIVECHAIN_RECORDS_PER_PAGE);
	}
	bitmap_zero(p->writing, LIVECHAIN_RECORDS_PER_PAGE);
	if (bitmap_empty(p->dirty, LIVECHAIN_RECORDS_PER_PAGE)) {
		list_del(&p->list);
		hlist_del(&p->node);
		mempool_free(p, &rec->recpages);
	} else {
		list_move_tail(&p->list, &rec->dirty);
	}
}

static void settle(struct lc_view *view, struct list_head *pages, bool written)
{
	struct lc_records *rec = &view->rec;
	struct lc_recpage *p, *next;

	list_for_each_entry_safe(p, next, pages, list) {
		spin_lock(&rec->lock);
		__settle(rec, p, written);
		spin_unlock(&rec->lock);
	}
}

/*
 * ---------------------------------------------------------------------------
 * The commit.
 * ---------------------------------------------------------------------------
 */
static void complete_waiters(struct list_head *waiters, blk_status_t status)
{
	struct lc_io *io, *next;

	list_for_each_entry_safe(io, next, waiters, list) {
		io->status = status;
		lc_io_finish(io);
	}
}

static void fail_view(struct lc_view *view, struct lc_layer *layer, int r)
{
	DMERR("%s: cannot commit records of layer %u, error %d: the view is read-only from now on",
	      view->name, layer->id, -r);
	WRITE_ONCE(view->fail, -r);
	lc_park_wake_all(view, LC_WANT_HOME);
	lc_park_wake_all(view, LC_WANT_POOL);
	lc_view_event(view);
}

/* The suspend waits for jobs' ios, which can begin again; guests' may wait on. */
static void send_jobs_off(struct lc_view *view, struct list_head *waiters)
{
	struct lc_io *io, *next;
	LIST_HEAD(jobs);

	if (READ_ONCE(view->jobs->live))
		return;
	list_for_each_entry_safe(io, next, waiters, list)
		if (io->done)
			list_move_tail(&io->list, &jobs);
	complete_waiters(&jobs, BLK_STS_DM_REQUEUE);
}

/* No space: keeps @waiters waiting, or sends them off if the view is being suspended. */
static void commit_later(struct lc_view *view, struct list_head *waiters)
{
	struct lc_records *rec = &view->rec;

	DMWARN_LIMIT("%s: no space to write records; trying again", view->name);
	send_jobs_off(view, waiters);
	if (READ_ONCE(view->park.closed)) {
		complete_waiters(waiters, BLK_STS_DM_REQUEUE);
	} else {
		spin_lock(&rec->lock);
		list_splice(waiters, &rec->waiters);
		spin_unlock(&rec->lock);
	}
	queue_delayed_work(view->commit_wq, &rec->work, LC_COMMIT_PERIOD);
}

/* Takes what there is to do. False: nothing; who only asked needs no flush of what is clean. */
static bool commit_begin(struct lc_view *view, struct list_head *waiters, struct list_head *todo)
{
	struct lc_records *rec = &view->rec;

	spin_lock(&rec->lock);
	list_splice_init(&rec->waiters, waiters);
	list_splice_init(&rec->dirty, todo);
	rec->running = !list_empty(waiters) || !list_empty(todo) ||
		       (rec->asked && view->active && READ_ONCE(view->active->dirty));
	rec->asked = false;
	spin_unlock(&rec->lock);
	return rec->running;
}

static int commit_once(struct lc_view *view, struct list_head *todo)
{
	struct lc_layer *layer = view->active;
	LIST_HEAD(done);
	int r;

	/* Set here only, by this one work item. */
	if (view->fail)
		r = -view->fail;
	else if (!layer)
		r = 0;
	else
		r = commit_layer(view, layer, todo, &done);
	settle(view, &done, !r);
	settle(view, todo, false);
	if (r && r != -ENOSPC && !view->fail)
		fail_view(view, layer, r);
	return r;
}

static void commit_end(struct lc_view *view)
{
	spin_lock(&view->rec.lock);
	view->rec.running = false;
	spin_unlock(&view->rec.lock);
}

static void commit_work(struct work_struct *work)
{
	struct lc_view *view = container_of(to_delayed_work(work), struct lc_view, rec.work);
	LIST_HEAD(waiters);
	LIST_HEAD(todo);
	int r = 0;

	while (!r && commit_begin(view, &waiters, &todo)) {
		r = commit_once(view, &todo);
		commit_end(view);
		if (r == -ENOSPC)
			commit_later(view, &waiters);
		else
			complete_waiters(&waiters, errno_to_blk_status(r));
		INIT_LIST_HEAD(&waiters);
	}
}

void lc_commit_start(struct lc_view *view)
{
	struct lc_records *rec = &view->rec;

	spin_lock(&rec->lock);
	rec->asked = true;
	spin_unlock(&rec->lock);
	mod_delayed_work(view->commit_wq, &rec->work, 0);
}

void lc_commit_join(struct lc_view *view, struct lc_io *io)
{
	struct lc_records *rec = &view->rec;

	spin_lock(&rec->lock);
	list_add_tail(&io->list, &rec->waiters);
	spin_unlock(&rec->lock);
	mod_delayed_work(view->commit_wq, &rec->work, 0);
}

void lc_commit_wait(struct lc_view *view)
{
	lc_commit_start(view);
	flush_delayed_work(&view->rec.work);
}

bool lc_commit_clean(struct lc_view *view)
{
	struct lc_records *rec = &view->rec;
	bool clean;

	spin_lock(&rec->lock);
	clean = !rec->unrecorded && !rec->running && list_empty(&rec->waiters) &&
		!(view->active && READ_ONCE(view->active->dirty));
	spin_unlock(&rec->lock);
	return clean;
}

/*
 * ---------------------------------------------------------------------------
 * Life.
 * ---------------------------------------------------------------------------
 */
int lc_records_init(struct lc_view *view, char **error)
{
	struct lc_records *rec = &view->rec;
	int r;

	spin_lock_init(&rec->lock);
	INIT_LIST_HEAD(&rec->dirty);
	INIT_LIST_HEAD(&rec->waiters);
	INIT_DELAYED_WORK(&rec->work, commit_work);
	*error = "No memory for records";
	r = mempool_init_kmalloc_pool(&rec->recpages, 64, sizeof(struct lc_recpage));
	if (r)
		return r;
	r = mempool_init_page_pool(&rec->images, LC_IMAGES_MIN, 0);
	if (r)
		mempool_exit(&rec->recpages);
	return r;
}

void lc_records_exit(struct lc_view *view)
{
	struct lc_records *rec = &view->rec;
	struct lc_recpage *p;
	struct hlist_node *next;
	unsigned int i;

	cancel_delayed_work_sync(&rec->work);
	for (i = 0; i < LC_RECPAGE_BUCKETS; i++)
		hlist_for_each_entry_safe(p, next, &rec->hash[i], node)
			mempool_free(p, &rec->recpages);
	mempool_exit(&rec->images);
	mempool_exit(&rec->recpages);
}
