// SPDX-License-Identifier: GPL-2.0-only
/*
 * Target `livechain-point`: a read-only device that shows a view as it was at a before-write
 * job's line in time:
 *
 *	<view> <job> <device> <start>
 *
 * A grain whose bit (job->todo) is clear has been copied: it is read from the destination, which
 * is the device given here. Any other is what it was then still, and is read where the view has it
 * now: no lock is taken, and no writer waits. When the read has completed the bit is looked at
 * again (A2): if it is set still no write to the grain has begun, for a writer waits until the bit
 * is clear (lc_copy_wants()). Else what was read may be anything, and it is read again from the
 * destination, where it is by then (A1).
 *
 * A bio never crosses a grain. Reads of the view count as the job's I/O: it does not conclude
 *before they have ended, and none is in flight while the view's device is suspended: they wait on
 *->reads.
 */
#include <linux/kref.h>
#include <linux/slab.h>

#include "access.h"
#include "job.h"
#include "layer.h"
#include "map.h"
#include "target.h"
#include "view.h"

struct lc_access {
	struct kref ref; /* the job's, and one for each table */
	sector_t nr_sectors, grain;
	unsigned int lbs; /* the largest logical block of the view's layers, bytes */

	spinlock_t lock;	/* irq-safe; the work queue's locks are taken inside it */
	struct lc_job *job;	/* NULL: it has ended */
	struct list_head reads; /* that wait for the job's work item */
};

struct access_table {
	struct lc_access *access;
	struct dm_dev *dev;
	sector_t start;
	char view[LIVECHAIN_NAME_MAX + 1], job[LIVECHAIN_NAME_MAX + 1];
};

/* A bio's per-bio data. */
struct access_io {
	struct list_head list;
	const struct access_table *table;
	struct lc_read read;
};

/*
 * ---------------------------------------------------------------------------
 * The job's side.
 * ---------------------------------------------------------------------------
 */
int lc_access_new(struct lc_job *job)
{
	struct lc_access *a = kzalloc(sizeof(*a), GFP_NOIO);
	struct lc_view *view = job->view;
	unsigned int id;

	if (!a)
		return -ENOMEM;
	kref_init(&a->ref);
	spin_lock_init(&a->lock);
	INIT_LIST_HEAD(&a->reads);
	a->nr_sectors = job->nr_sectors;
	a->grain = 1ULL << job->grain_shift;
	a->lbs = SECTOR_SIZE;
	for (id = 0; id <= LIVECHAIN_LAYER_ID_MAX; id++)
		if (view->layers[id] && view->layers[id]->bdev)
			a->lbs = max(a->lbs, bdev_logical_block_size(view->layers[id]->bdev));
	a->job = job;
	job->access = a;
	return 0;
}

static void access_release(struct kref *ref)
{
	kfree(container_of(ref, struct lc_access, ref));
}

void lc_access_put(struct lc_access *access)
{
	if (access)
		kref_put(&access->ref, access_release);
}

/* Has all that the bio reads been copied? If so, it is on the destination. */
static bool is_copied(struct lc_job *job, const struct lc_read *r)
{
	u64 grain = r->sector >> job->grain_shift;
	u64 end = ((r->sector + r->nr_sectors - 1) >> job->grain_shift) + 1;

	return find_next_bit(job->todo, end, grain) >= end;
}

static void to_destination(struct access_io *io)
{
	struct bio *bio = io->read.bio;

	bio_set_dev(bio, io->table->dev->bdev);
	bio->bi_iter.bi_sector = io->table->start + io->read.sector;
}

/* A2: the view has been read. */
static void read_done(struct lc_read *r)
{
	struct access_io *io = container_of(r, struct access_io, read);
	struct lc_access *a = io->table->access;
	unsigned long flags;
	struct lc_job *job;
	bool again;

	spin_lock_irqsave(&a->lock, flags);
	job = a->job;
	/* paired with the one in piece_saved(): the bits are looked at after the data has come */
	smp_mb();
	again = r->status == BLK_STS_DM_REQUEUE || is_copied(job, r);
	if (again)
		list_add_tail(&io->list, &a->reads);
	atomic_dec(&job->inflight);
	/* who waits for the last one has said so before it looked at the count */
	smp_mb__after_atomic();
	if (again || READ_ONCE(job->ending) || !READ_ONCE(job->view->jobs->live))
		lc_job_kick(job);
	spin_unlock_irqrestore(&a->lock, flags);
	if (again)
		return;
	r->bio->bi_status = r->status;
	bio_endio(r->bio);
}

void lc_access_serve(struct lc_job *job)
{
	struct lc_access *a = job->access;
	struct access_io *io, *next;
	LIST_HEAD(reads);

	/* no lock: a read that comes now kicks the work item again */
	if (!a || list_empty_careful(&a->reads) || !READ_ONCE(job->view->jobs->live))
		return;
	spin_lock_irq(&a->lock);
	list_splice_init(&a->reads, &reads);
	spin_unlock_irq(&a->lock);
	list_for_each_entry_safe (io, next, &reads, list) {
		list_del_init(&io->list);
		if (is_copied(job, &io->read)) {
			to_destination(io);
			submit_bio_noacct(io->read.bio);
			continue;
		}
		atomic_inc(&job->inflight);
		lc_map_read(&io->read);
	}
}

void lc_access_end(struct lc_job *job)
{
	struct lc_access *a = job->access;
	struct access_io *io, *next;
	LIST_HEAD(reads);

	if (!a)
		return;
	spin_lock_irq(&a->lock);
	a->job = NULL;
	list_splice_init(&a->reads, &reads);
	spin_unlock_irq(&a->lock);
	list_for_each_entry_safe (io, next, &reads, list) {
		list_del_init(&io->list);
		bio_io_error(io->read.bio);
	}
}

/*
 * ---------------------------------------------------------------------------
 * The target.
 * ---------------------------------------------------------------------------
 */
static int find_access(struct lc_view *view, void *arg)
{
	struct access_table *t = arg;
	struct lc_job *job = lc_job_find(view, t->job);

	if (!job || !job->access)
		return -ENOENT;
	t->access = job->access;
	kref_get(&t->access->ref);
	return 0;
}

static int refuse(struct dm_target *ti, char *why)
{
	ti->error = why;
	return -EINVAL;
}

static int open_destination(struct access_table *t, struct dm_target *ti, const char *path)
{
	lc_mode_t mode = dm_table_get_mode(ti->table) & ~LC_MODE_WRITE;
	int r = dm_get_device(ti, path, mode, &t->dev);

	if (r) {
		ti->error = "Cannot open the destination";
	} else if (t->start > bdev_nr_sectors(t->dev->bdev) ||
		   bdev_nr_sectors(t->dev->bdev) - t->start < ti->len) {
		dm_put_device(ti, t->dev);
		r = refuse(ti, "The destination is smaller than the device");
	}
	return r;
}

static int bind(struct access_table *t, struct dm_target *ti, char **argv)
{
	int r;

	if (strscpy(t->view, argv[0], sizeof(t->view)) < 0 ||
	    strscpy(t->job, argv[1], sizeof(t->job)) < 0)
		return refuse(ti, "A name has at most 63 characters");
	if (kstrtou64(argv[3], 10, &t->start))
		return refuse(ti, "The start must be a number of sectors");
	if (lc_view_call(t->view, find_access, t))
		return refuse(ti, "There is no such job with access");
	if (ti->len != t->access->nr_sectors)
		r = refuse(ti, "The length is not the view's");
	else
		r = open_destination(t, ti, argv[2]);
	if (!r)
		r = dm_set_target_max_io_len(ti, t->access->grain);
	if (r)
		lc_access_put(t->access);
	return r;
}

static int access_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct access_table *t;
	int r;

	if (argc != 4)
		return refuse(ti, "Arguments are: view, job, device, start");
	if (ti->begin)
		return refuse(ti, "The target must start at sector 0");
	t = kzalloc(sizeof(*t), GFP_KERNEL);
	if (!t) {
		ti->error = "No memory for a table";
		return -ENOMEM;
	}
	r = bind(t, ti, argv);
	if (r) {
		kfree(t);
		return r;
	}
	ti->per_io_data_size = sizeof(struct access_io);
	ti->private = t;
	return 0;
}

static void access_dtr(struct dm_target *ti)
{
	struct access_table *t = ti->private;

	dm_put_device(ti, t->dev);
	lc_access_put(t->access);
	kfree(t);
}

static struct access_io *init_io(const struct access_table *t, struct bio *bio)
{
	struct access_io *io = dm_per_bio_data(bio, sizeof(*io));

	INIT_LIST_HEAD(&io->list);
	io->table = t;
	io->read.sector = bio->bi_iter.bi_sector;
	io->read.nr_sectors = bio_sectors(bio);
	io->read.pages = NULL;
	io->read.bio = bio;
	io->read.done = read_done;
	return io;
}

static int access_map(struct dm_target *ti, struct bio *bio)
{
	const struct access_table *t = ti->private;
	struct lc_access *a = t->access;
	int r = DM_MAPIO_SUBMITTED;
	struct access_io *io;
	unsigned long flags;

	if (bio_op(bio) != REQ_OP_READ)
		return DM_MAPIO_KILL;
	io = init_io(t, bio);
	spin_lock_irqsave(&a->lock, flags);
	if (!a->job || READ_ONCE(a->job->ending)) {
		r = DM_MAPIO_KILL;
	} else if (is_copied(a->job, &io->read)) {
		to_destination(io);
		r = DM_MAPIO_REMAPPED;
	} else if (!(bio->bi_opf & REQ_NOWAIT)) {
		io->read.view = a->job->view;
		list_add_tail(&io->list, &a->reads);
		lc_job_kick(a->job);
	} else {
		r = -EAGAIN;
	}
	spin_unlock_irqrestore(&a->lock, flags);
	if (r != -EAGAIN)
		return r;
	bio_wouldblock_error(bio);
	return DM_MAPIO_SUBMITTED;
}

static void access_status(struct dm_target *ti, status_type_t type, unsigned int flags,
			  char *result, unsigned int maxlen)
{
	const struct access_table *t = ti->private;
	unsigned int sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		spin_lock_irq(&t->access->lock);
		DMEMIT("%u %s", LIVECHAIN_STATUS_FORMAT,
		       t->access->job && !READ_ONCE(t->access->job->ending) ? "live" : "ended");
		spin_unlock_irq(&t->access->lock);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s %s %s %llu", t->view, t->job, t->dev->name, (u64)t->start);
		break;
	case STATUSTYPE_IMA:
		*result = '\0';
		break;
	}
}

static int access_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	const struct access_table *t = ti->private;

	return fn(ti, t->dev, t->start, ti->len, data);
}

/* Reads go to the view's layers, too. */
static void access_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	const struct access_table *t = ti->private;

	limits->logical_block_size = max(limits->logical_block_size, t->access->lbs);
	limits->physical_block_size = max(limits->physical_block_size, t->access->lbs);
}

struct target_type lc_access_target = {
	.name = LIVECHAIN_POINT_TARGET_NAME,
	.version = { LIVECHAIN_VERSION_MAJOR, LIVECHAIN_VERSION_MINOR, LIVECHAIN_VERSION_PATCH },
	.features = DM_TARGET_SINGLETON | DM_TARGET_NOWAIT,
	.module = THIS_MODULE,
	.ctr = access_ctr,
	.dtr = access_dtr,
	.map = access_map,
	.status = access_status,
	.iterate_devices = access_iterate_devices,
	.io_hints = access_io_hints,
};
