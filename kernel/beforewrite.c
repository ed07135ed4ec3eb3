// SPDX-License-Identifier: GPL-2.0-only
/*
 * What guests' writes see of before-write jobs: the test in the map path, and the wait of
 * a writer until the old content of what it is going to change is in memory.
 *
 * A writer holds the block lock of all grains that it touches (view->copy_shift), so at most
 * one writer at a time waits for a grain, and none while the background copies it.
 * With several jobs it waits for one after the other.
 */
#include <linux/bitmap.h>
#include <linux/jiffies.h>
#include <linux/rculist.h>

#include "job.h"
#include "view.h"

/* The grains of @job that blocks [first, first + nr) touch. */
static void blocks_to_grains(struct lc_job *job, u64 first, u64 nr, u64 *grain, u64 *end)
{
	unsigned int shift = job->grain_shift - job->view->block_shift;

	*grain = first >> shift;
	*end = min(((first + nr - 1) >> shift) + 1, job->nr_grains);
}

static bool job_wants(struct lc_job *job, u64 first, u64 nr)
{
	u64 grain, end;

	blocks_to_grains(job, first, nr, &grain, &end);
	return find_next_bit(job->todo, end, grain) < end;
}

bool __lc_copy_wants(struct lc_view *view, u64 first, u64 nr)
{
	struct lc_cbw *cbw = rcu_dereference(view->cbw);
	struct lc_job *job;

	if (!cbw)
		return false;
	list_for_each_entry_rcu(job, &cbw->jobs, cbw)
		if (job_wants(job, first, nr))
			return true;
	return false;
}

/* Queue the writer with the job, unless the job is ending. */
static bool wait_for(struct lc_job *job, struct lc_copy_waiter *w)
{
	unsigned long flags;
	bool queued;

	spin_lock_irqsave(&job->lock, flags);
	queued = !job->ending;
	if (queued) {
		w->job = job;
		blocks_to_grains(job, w->first, w->nr, &w->next, &w->end);
		w->inflight = 0;
		w->failed = false;
		w->since = jiffies;
		list_add_tail(&w->list, &job->waits_new);
		lc_job_kick(job);
	}
	spin_unlock_irqrestore(&job->lock, flags);
	return queued;
}

bool lc_copy_before_write(struct lc_view *view, struct lc_copy_waiter *w)
{
	bool waits = false;
	struct lc_cbw *cbw;
	struct lc_job *job;

	w->view = view;
	rcu_read_lock();
	cbw = rcu_dereference(view->cbw);
	if (cbw) {
		list_for_each_entry_rcu(job, &cbw->jobs, cbw) {
			waits = job_wants(job, w->first, w->nr) && wait_for(job, w);
			if (waits)
				break;
		}
	}
	rcu_read_unlock();
	return !waits;
}

/* What the writer is about to change can't be saved, and the job goes before it. */
static void wait_fail(struct lc_copy_waiter *w)
{
	list_del_init(&w->list);
	w->done(w, BLK_STS_IOERR);
}

/* This job has what it needs of the writer's blocks; perhaps another one has not. */
static void wait_done(struct lc_copy_waiter *w)
{
	list_del_init(&w->list);
	if (lc_copy_before_write(w->view, w))
		w->done(w, BLK_STS_OK);
}

static bool wait_is_done(struct lc_copy_waiter *w)
{
	return w->next >= w->end && !w->inflight;
}

/* Begin what the writer needs, as far as there is memory. */
static void wait_begin(struct lc_job *job, struct lc_copy_waiter *w)
{
	u64 run, nr;

	while (!w->failed) {
		w->next = find_next_bit(job->todo, w->end, w->next);
		if (w->next >= w->end)
			return;
		run = find_next_zero_bit(job->todo, w->end, w->next) - w->next;
		nr = lc_copy_grains(job, w, w->next, run);
		if (!nr)
			return;
		w->next += nr;
	}
}

static void take_new(struct lc_job *job)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	list_splice_tail_init(&job->waits_new, &job->waits);
	spin_unlock_irqrestore(&job->lock, flags);
}

void lc_waits_serve(struct lc_job *job)
{
	struct lc_copy_waiter *w, *next;

	take_new(job);
	list_for_each_entry_safe(w, next, &job->waits, list) {
		/* held: a piece of zeros is read at once, and must not end the wait under us */
		w->inflight++;
		wait_begin(job, w);
		w->inflight--;
		if (wait_is_done(w))
			wait_done(w);
		else if (w->failed && job->break_guest && !w->inflight)
			wait_fail(w);
	}
}

void lc_wait_read(struct lc_copy_waiter *w)
{
	w->inflight--;
	if (wait_is_done(w))
		wait_done(w);
}

void lc_waits_release(struct lc_job *job)
{
	struct lc_copy_waiter *w, *next;

	take_new(job);
	list_for_each_entry_safe(w, next, &job->waits, list)
		wait_done(w);
}

void lc_waits_requeue(struct lc_job *job)
{
	struct lc_copy_waiter *w, *next;

	take_new(job);
	list_for_each_entry_safe(w, next, &job->waits, list) {
		if (w->inflight)
			continue;
		list_del_init(&w->list);
		w->done(w, BLK_STS_DM_REQUEUE);
	}
}

unsigned long lc_waits_due(struct lc_job *job)
{
	struct lc_copy_waiter *w = list_first_entry_or_null(&job->waits, typeof(*w), list);
	unsigned long age;

	if (!w || !job->timeout)
		return MAX_SCHEDULE_TIMEOUT;
	age = jiffies - w->since;
	return age < job->timeout ? job->timeout - age : 0;
}

void lc_waits_expire(struct lc_job *job)
{
	struct lc_copy_waiter *w, *next;
	unsigned int i;

	list_for_each_entry_safe(w, next, &job->waits, list) {
		if (jiffies - w->since < job->timeout)
			continue;
		for (i = 0; i < LC_JOB_PIECES; i++)
			if (job->piece_mem[i].wait == w)
				lc_piece_to_background(&job->piece_mem[i]);
		wait_fail(w);
	}
}

void lc_cbw_add(struct lc_job *job)
{
	struct lc_view *view = job->view;
	struct lc_jobs *jobs = view->jobs;
	unsigned long flags;

	spin_lock_irqsave(&jobs->lock, flags);
	list_add_tail_rcu(&job->cbw, &jobs->cbw.jobs);
	job->in_cbw = true;
	rcu_assign_pointer(view->cbw, &jobs->cbw);
	spin_unlock_irqrestore(&jobs->lock, flags);
}

void lc_cbw_remove(struct lc_job *job)
{
	struct lc_view *view = job->view;
	struct lc_jobs *jobs = view->jobs;
	unsigned long flags;

	spin_lock_irqsave(&jobs->lock, flags);
	if (job->in_cbw) {
		list_del_rcu(&job->cbw);
		job->in_cbw = false;
	}
	if (list_empty(&jobs->cbw.jobs))
		RCU_INIT_POINTER(view->cbw, NULL);
	spin_unlock_irqrestore(&jobs->lock, flags);
}
