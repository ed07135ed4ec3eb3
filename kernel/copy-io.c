// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory and the I/O of a copy job's pieces. Pieces and buffers are made when the
 * job is, so that a guest's write never waits for memory that it would have to free.
 */
#include <linux/bio.h>
#include <linux/bitmap.h>
#include <linux/blkdev.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "job.h"
#include "view.h"

void lc_piece_put_bufs(struct lc_piece *p)
{
	while (p->nr_bufs) {
		list_add(&p->buf[--p->nr_bufs]->list, &p->job->bufs);
		p->job->nr_bufs++;
	}
}

bool lc_piece_get_bufs(struct lc_piece *p, unsigned int nr)
{
	struct lc_job *job = p->job;

	if (job->nr_bufs + p->nr_bufs < nr)
		return false;
	while (p->nr_bufs < nr) {
		struct lc_copy_buf *buf = list_first_entry(&job->bufs, struct lc_copy_buf, list);

		list_del(&buf->list);
		job->nr_bufs--;
		p->buf[p->nr_bufs++] = buf;
	}
	return true;
}

void lc_piece_done(struct lc_piece *p)
{
	struct lc_job *job = p->job;
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	list_add_tail(&p->list, &job->done);
	/* within the lock: the job may be gone when its work item has seen the piece */
	lc_job_kick(job);
	spin_unlock_irqrestore(&job->lock, flags);
}

void lc_piece_bio_end(struct lc_piece *p, blk_status_t status)
{
	if (status)
		cmpxchg(&p->status, BLK_STS_OK, status);
	if (atomic_dec_and_test(&p->pending))
		lc_piece_done(p);
}

static void copy_endio(struct bio *bio)
{
	struct lc_piece *p = bio->bi_private;
	blk_status_t status = bio->bi_status;

	bio_put(bio);
	lc_piece_bio_end(p, status);
}

static struct bio *piece_bio(struct lc_piece *p, struct block_device *bdev, blk_opf_t opf,
			     sector_t sector, unsigned int nr_vecs)
{
	struct bio *bio = bio_alloc_bioset(bdev, nr_vecs, opf, GFP_NOIO, &p->job->view->jobs->bios);

	bio->bi_iter.bi_sector = sector;
	bio->bi_private = p;
	bio->bi_end_io = copy_endio;
	atomic_inc(&p->pending);
	return bio;
}

/* Add what fits of the piece's memory at @off, up to @bytes. Return: the bytes added. */
static unsigned int add_bufs(struct bio *bio, struct lc_piece *p, unsigned int off,
			       unsigned int bytes)
{
	unsigned int added = 0, len, in, room;
	struct lc_copy_buf *buf;

	while (added < bytes) {
		buf = p->buf[(off + added) / LC_BUF_BYTES];
		in = (off + added) % LC_BUF_BYTES;
		room = buf->contiguous ? LC_BUF_BYTES - in : PAGE_SIZE - in % PAGE_SIZE;
		len = min(bytes - added, room);
		if (!bio_add_page(bio, buf->page[in >> PAGE_SHIFT], len, in % PAGE_SIZE))
			break;
		added += len;
	}
	return added;
}

/* The most segments that @bytes at @off are: few if the memory came in whole blocks. */
static unsigned int segments(struct lc_piece *p, unsigned int off, unsigned int bytes)
{
	unsigned int i, n = 0;

	for (i = off / LC_BUF_BYTES; i <= (off + bytes - 1) / LC_BUF_BYTES; i++)
		n += p->buf[i]->contiguous ? 1 : LC_BUF_PAGES;
	return min_t(unsigned int, BIO_MAX_VECS, n);
}

void lc_piece_submit(struct lc_piece *p, blk_opf_t opf, struct block_device *bdev,
		     sector_t sector, unsigned int off, unsigned int bytes)
{
	unsigned int len;
	struct bio *bio;

	while (bytes) {
		bio = piece_bio(p, bdev, opf, sector, segments(p, off, bytes));
		len = add_bufs(bio, p, off, bytes);
		submit_bio_noacct(bio);
		sector += len >> SECTOR_SHIFT;
		off += len;
		bytes -= len;
	}
}

void lc_piece_clear(struct lc_piece *p, unsigned int off, unsigned int bytes)
{
	unsigned int len;

	for (; bytes; off += len, bytes -= len) {
		struct lc_copy_buf *buf = p->buf[off / LC_BUF_BYTES];

		len = min_t(unsigned int, bytes, PAGE_SIZE - off % PAGE_SIZE);
		memset(page_address(buf->page[off % LC_BUF_BYTES >> PAGE_SHIFT]) +
			       off % PAGE_SIZE, 0, len);
	}
}

/* Zeros in bulk for a destination that has no write-zeroes. */
static void submit_zero_pages(struct lc_piece *p, struct block_device *bdev, sector_t sector,
			      sector_t nr)
{
	struct lc_jobs *jobs = p->job->view->jobs;
	struct bio *bio = NULL;
	unsigned int len;

	while (nr) {
		if (!bio)
			bio = piece_bio(p, bdev, REQ_OP_WRITE, sector,
					LC_PIECE_SECTORS / (jobs->zero_bytes >> SECTOR_SHIFT));
		len = min_t(u64, jobs->zero_bytes, (u64)nr << SECTOR_SHIFT);
		len = bio_add_page(bio, jobs->zero_page, len, 0);
		sector += len >> SECTOR_SHIFT;
		nr -= len >> SECTOR_SHIFT;
		if (!len || !nr || bio_sectors(bio) >= LC_PIECE_SECTORS) {
			submit_bio_noacct(bio);
			bio = NULL;
		}
	}
}

void lc_piece_submit_zeroes(struct lc_piece *p, struct block_device *bdev, sector_t sector,
			    sector_t nr)
{
	sector_t max = bdev_write_zeroes_sectors(bdev), len;
	struct bio *bio;

	if (p->job->no_write_zeroes || !max) {
		p->job->no_write_zeroes = true;
		submit_zero_pages(p, bdev, sector, nr);
		return;
	}
	for (; nr; sector += len, nr -= len) {
		len = min(nr, max);
		bio = piece_bio(p, bdev, REQ_OP_WRITE_ZEROES |
				(p->job->nounmap ? REQ_NOUNMAP : 0), sector, 0);
		bio->bi_iter.bi_size = len << SECTOR_SHIFT;
		submit_bio_noacct(bio);
	}
}

void lc_piece_submit_flush(struct lc_piece *p, struct block_device *bdev)
{
	submit_bio_noacct(piece_bio(p, bdev, REQ_OP_WRITE | REQ_PREFLUSH, 0, 0));
}

/* --- memory -------------------------------------------------------------------------------- */

static bool buf_alloc(struct lc_copy_buf *buf)
{
	struct page *page = alloc_pages(GFP_NOIO | __GFP_NOWARN | __GFP_NORETRY | __GFP_COMP,
					LC_BUF_ORDER);
	unsigned int i;

	buf->contiguous = page;
	for (i = 0; i < LC_BUF_PAGES; i++) {
		buf->page[i] = page ? page + i : alloc_page(GFP_NOIO);
		if (!buf->page[i])
			return false;
	}
	return true;
}

static void buf_free(struct lc_copy_buf *buf)
{
	unsigned int i;

	if (buf->contiguous) {
		__free_pages(buf->page[0], LC_BUF_ORDER);
		return;
	}
	for (i = 0; i < LC_BUF_PAGES && buf->page[i]; i++)
		__free_page(buf->page[i]);
}

static void everything(struct lc_job *job)
{
	bitmap_set(job->todo, 0, job->nr_grains);
	atomic64_set(&job->left, job->nr_grains);
	atomic64_set(&job->remaining, (u64)job->nr_sectors << SECTOR_SHIFT);
}

int lc_copy_engine_init(struct lc_job *job)
{
	unsigned int i, noio = memalloc_noio_save();
	int r = -ENOMEM;

	job->todo = kvcalloc(BITS_TO_LONGS(job->nr_grains), sizeof(long), GFP_KERNEL);
	job->piece_mem = kvcalloc(LC_JOB_PIECES, sizeof(*job->piece_mem), GFP_KERNEL);
	job->buf_mem = kvcalloc(LC_JOB_BUFS, sizeof(*job->buf_mem), GFP_KERNEL);
	if (job->zeroed)
		job->written = kvcalloc(BITS_TO_LONGS(job->nr_grains), sizeof(long), GFP_KERNEL);
	if (!job->todo || !job->piece_mem || !job->buf_mem || (job->zeroed && !job->written))
		goto out;
	for (i = 0; i < LC_JOB_BUFS; i++) {
		if (!buf_alloc(&job->buf_mem[i]))
			goto out;
		list_add_tail(&job->buf_mem[i].list, &job->bufs);
	}
	job->nr_bufs = LC_JOB_BUFS;
	for (i = 0; i < LC_JOB_PIECES; i++) {
		job->piece_mem[i].job = job;
		INIT_LIST_HEAD(&job->piece_mem[i].active);
		list_add_tail(&job->piece_mem[i].list, &job->pieces);
	}
	job->skipped = job->turn = U64_MAX;
	if (!job->new_only)
		everything(job);
	r = 0;
out:
	memalloc_noio_restore(noio);
	return r;
}

void lc_copy_engine_exit(struct lc_job *job)
{
	unsigned int i;

	for (i = 0; job->buf_mem && i < LC_JOB_BUFS; i++)
		buf_free(&job->buf_mem[i]);
	kvfree(job->buf_mem);
	kvfree(job->piece_mem);
	kvfree(job->todo);
	kvfree(job->written);
	job->buf_mem = NULL;
	job->piece_mem = NULL;
	job->todo = NULL;
	job->written = NULL;
}

int lc_copy_io_init(struct lc_jobs *jobs)
{
	int r = bioset_init(&jobs->bios, BIO_POOL_SIZE, 0, BIOSET_NEED_BVECS);

	if (r)
		return r;
	jobs->zero_bytes = LC_BUF_BYTES;
	jobs->zero_page = alloc_pages(GFP_KERNEL | __GFP_NOWARN | __GFP_ZERO | __GFP_COMP,
				      LC_BUF_ORDER);
	if (!jobs->zero_page) {
		jobs->zero_bytes = PAGE_SIZE;
		jobs->zero_page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	}
	if (jobs->zero_page)
		return 0;
	bioset_exit(&jobs->bios);
	return -ENOMEM;
}

void lc_copy_io_exit(struct lc_jobs *jobs)
{
	__free_pages(jobs->zero_page, get_order(jobs->zero_bytes));
	bioset_exit(&jobs->bios);
}
