// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of copy jobs: making them, verbs, results, suspend and resume.
 * logic/job-states.h has the states; copy.c does the work.
 */
#include <linux/device-mapper.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "access.h"
#include "job.h"
#include "layer.h"
#include "view.h"

/* --- states and results ------------------------------------------------------------ */

void lc_job_kick(struct lc_job *job)
{
	mod_delayed_work(job->view->wq, &job->work, 0);
}

void lc_job_wake(struct lc_job *job, unsigned long jiffies)
{
	queue_delayed_work(job->view->wq, &job->work, jiffies);
}

/* The one writer of job->state. */
static void __set_state(struct lc_job *job, enum lc_job_state state)
{
	lockdep_assert_held(&job->lock);
	if (job->state == state)
		return;
	if (WARN_ON_ONCE(!lc_job_may_follow(job->state, state)))
		return;
	WRITE_ONCE(job->state, state);
	lc_view_event(job->view);
}

static void __job_pause(struct lc_job *job)
{
	lockdep_assert_held(&job->lock);
	if (job->state == LC_JOB_CREATED)
		job->user_paused = true;
	else if (job->state == LC_JOB_RUNNING)
		__set_state(job, LC_JOB_PAUSED);
	else if (job->state == LC_JOB_READY)
		__set_state(job, LC_JOB_STANDBY);
}

bool lc_job_fail(struct lc_job *job, enum lc_job_side side, int error)
{
	unsigned long flags;
	bool stop;

	spin_lock_irqsave(&job->lock, flags);
	stop = job->stop_on[side] && !job->ending;
	if (stop && !job->stopped) {
		job->stopped = true;
		job->side = side;
		job->error = error;
		__job_pause(job);
		__lc_track_update(job);
		lc_view_event(job->view);
	}
	spin_unlock_irqrestore(&job->lock, flags);
	if (!stop)
		lc_job_end(job, side, error);
	return stop;
}

static void __job_end(struct lc_job *job, enum lc_job_side side, int error)
{
	lockdep_assert_held(&job->lock);
	if (job->ending)
		return;
	WRITE_ONCE(job->ending, true);
	job->side = side;
	job->error = error;
	__lc_track_update(job);
	lc_job_kick(job);
}

void lc_job_end(struct lc_job *job, enum lc_job_side side, int error)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	__job_end(job, side, error);
	spin_unlock_irqrestore(&job->lock, flags);
}

void lc_job_drained(struct lc_job *job)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	if (job->draining)
		__job_end(job, LC_SIDE_WRITE, 0);
	spin_unlock_irqrestore(&job->lock, flags);
}

void lc_job_is_ready(struct lc_job *job)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	job->converge = false;
	__lc_track_update(job);
	if (job->state == LC_JOB_RUNNING)
		__set_state(job, LC_JOB_READY);
	spin_unlock_irqrestore(&job->lock, flags);
}

void lc_job_conclude(struct lc_job *job)
{
	struct lc_view *view = job->view;
	unsigned long flags;

	if (job->error && job->error != -ECANCELED)
		DMERR("%s: job %s failed: error %d while it was to %s", view->name, job->name,
		      job->error, lc_job_side_name(job->side));
	lc_access_end(job);
	spin_lock_irqsave(&job->lock, flags);
	__set_state(job, LC_JOB_CONCLUDED);
	spin_unlock_irqrestore(&job->lock, flags);
}

/* --- lists --------------------------------------------------------------------------- */

struct lc_job *lc_job_find(struct lc_view *view, const char *name)
{
	struct lc_job *job;

	list_for_each_entry(job, &view->jobs->list, list)
		if (!strcmp(job->name, name))
			return job;
	return NULL;
}

static bool job_concluded(struct lc_job *job)
{
	return READ_ONCE(job->state) == LC_JOB_CONCLUDED;
}

bool lc_jobs_use_layer(struct lc_view *view, const struct lc_layer *layer)
{
	struct lc_job *job;

	list_for_each_entry(job, &view->jobs->list, list)
		if (job->dest == layer && !job_concluded(job))
			return true;
	return false;
}

/* --- birth and death -------------------------------------------------------------------- */

/* How often the work item goes on at once before it lets others run. */
#define LC_ROUNDS 16

static void job_work(struct work_struct *work)
{
	struct lc_job *job = container_of(to_delayed_work(work), struct lc_job, work);
	struct lc_jobs *jobs = job->view->jobs;
	unsigned long wake = MAX_SCHEDULE_TIMEOUT;
	unsigned int rounds;

	atomic_inc(&jobs->running);
	/* paired with the one in lc_jobs_quiesce() */
	smp_mb__after_atomic();
	/* A fast device has completed by now what was begun; but others want to run, too. */
	for (rounds = 0; rounds < LC_ROUNDS && READ_ONCE(job->state) != LC_JOB_CONCLUDED; rounds++) {
		wake = job->run(job);
		if (list_empty_careful(&job->done))
			break;
	}
	if (wake != MAX_SCHEDULE_TIMEOUT && READ_ONCE(job->state) != LC_JOB_CONCLUDED)
		lc_job_wake(job, wake);
	if (atomic_dec_and_test(&jobs->running))
		wake_up(&jobs->idle);
}

static void job_free_work(struct work_struct *work)
{
	struct lc_job *job = container_of(to_rcu_work(work), struct lc_job, free_work);

	cancel_delayed_work_sync(&job->work);
	lc_access_put(job->access);
	lc_copy_engine_exit(job);
	lc_promote_exit(job);
	kfree(job);
}

struct lc_job *lc_job_new(struct lc_view *view, const char *name)
{
	unsigned int noio = memalloc_noio_save();
	struct lc_job *job = kzalloc(sizeof(*job), GFP_KERNEL);

	memalloc_noio_restore(noio);
	if (!job)
		return NULL;
	strscpy(job->name, name, sizeof(job->name));
	job->view = view;
	job->nr_sectors = view->nr_sectors;
	atomic64_set(&job->left, 0);
	atomic64_set(&job->remaining, 0);
	spin_lock_init(&job->lock);
	INIT_LIST_HEAD(&job->list);
	INIT_LIST_HEAD(&job->cbw);
	INIT_LIST_HEAD(&job->done);
	INIT_LIST_HEAD(&job->waits_new);
	INIT_LIST_HEAD(&job->waits);
	INIT_LIST_HEAD(&job->syncs_new);
	INIT_LIST_HEAD(&job->syncs);
	INIT_LIST_HEAD(&job->active);
	INIT_LIST_HEAD(&job->retry);
	INIT_LIST_HEAD(&job->pieces);
	INIT_LIST_HEAD(&job->bufs);
	job->run = lc_copy_run;
	INIT_DELAYED_WORK(&job->work, job_work);
	INIT_RCU_WORK(&job->free_work, job_free_work);
	return job;
}

void lc_job_destroy(struct lc_job *job)
{
	lc_access_put(job->access);
	lc_copy_engine_exit(job);
	lc_promote_exit(job);
	kfree(job);
}

/* log2 blocks: what guests' writes must lock for the jobs there are. */
static void set_copy_shift(struct lc_view *view)
{
	unsigned int shift = 0;
	struct lc_job *job;

	list_for_each_entry(job, &view->jobs->list, list)
		if (job->before_write && !job_concluded(job))
			shift = max(shift, job->grain_shift - view->block_shift);
	WRITE_ONCE(view->copy_shift, shift);
}

static void job_go(struct lc_job *job)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	if (job->state == LC_JOB_CREATED && !job->ending)
		__set_state(job, job->user_paused ? LC_JOB_PAUSED : LC_JOB_RUNNING);
	job->completing = job->draining = false;
	__lc_track_update(job);
	spin_unlock_irqrestore(&job->lock, flags);
	lc_job_kick(job);
}

void lc_job_add(struct lc_job *job)
{
	struct lc_view *view = job->view;
	struct lc_jobs *jobs = view->jobs;
	unsigned long flags;

	spin_lock_irqsave(&jobs->lock, flags);
	list_add_tail(&job->list, &jobs->list);
	spin_unlock_irqrestore(&jobs->lock, flags);
	if (job->before_write) {
		set_copy_shift(view);
		lc_cbw_add(job);
	}
	if (job->track)
		lc_track_add(job);
	if (READ_ONCE(jobs->live))
		job_go(job);
	lc_view_event(view);
}

/* Concluded, so nobody but readers under RCU looks at it. */
static void job_remove(struct lc_job *job)
{
	struct lc_jobs *jobs = job->view->jobs;
	unsigned long flags;

	spin_lock_irqsave(&jobs->lock, flags);
	list_del_init(&job->list);
	spin_unlock_irqrestore(&jobs->lock, flags);
	set_copy_shift(job->view);
	queue_rcu_work(job->view->wq, &job->free_work);
	lc_view_event(job->view);
}

int lc_jobs_init(struct lc_view *view, char **error)
{
	struct lc_jobs *jobs = kzalloc(sizeof(*jobs), GFP_KERNEL);
	int r;

	if (!jobs) {
		*error = "Cannot allocate memory for the view's jobs";
		return -ENOMEM;
	}
	INIT_LIST_HEAD(&jobs->list);
	INIT_LIST_HEAD(&jobs->cbw.jobs);
	spin_lock_init(&jobs->lock);
	init_waitqueue_head(&jobs->idle);
	jobs->drained = true;
	r = lc_copy_io_init(jobs);
	if (r) {
		*error = "Cannot allocate memory for the I/O of the view's jobs";
		kfree(jobs);
		return r;
	}
	view->jobs = jobs;
	return 0;
}

void lc_jobs_exit(struct lc_view *view)
{
	struct lc_jobs *jobs = view->jobs;
	struct lc_job *job, *next;

	list_for_each_entry_safe(job, next, &jobs->list, list) {
		lc_cbw_remove(job);
		lc_track_remove(job);
		lc_access_end(job);
		list_del_init(&job->list);
		queue_rcu_work(view->wq, &job->free_work);
	}
	/* rcu_work is queued by the grace period's callback */
	rcu_barrier();
	flush_workqueue(view->wq);
	lc_copy_io_exit(jobs);
	kfree(jobs);
	view->jobs = NULL;
}

/* --- verbs ------------------------------------------------------------------------------- */

static void __job_resume(struct lc_job *job)
{
	lockdep_assert_held(&job->lock);
	job->user_paused = false;
	if (job->state != LC_JOB_PAUSED && job->state != LC_JOB_STANDBY)
		return;
	if (job->stopped) {
		job->stopped = false;
		job->retry_now = true;
		__lc_track_update(job);
	}
	__set_state(job, job->state == LC_JOB_PAUSED ? LC_JOB_RUNNING : LC_JOB_READY);
	lc_job_kick(job);
}

/* While live: have what is left dwindle. While suspended: copy it, and end. */
static void __job_complete(struct lc_job *job)
{
	lockdep_assert_held(&job->lock);
	if (job->view->jobs->drained) {
		job->drain_new = !job->draining;
		job->draining = true;
	} else {
		job->completing = true;
		__lc_track_update(job);
	}
	lc_job_kick(job);
}

void lc_job_set_mode(struct lc_job *job, bool both)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	job->both = both;
	__lc_track_update(job);
	lc_job_kick(job);
	spin_unlock_irqrestore(&job->lock, flags);
}

void lc_job_set_speed(struct lc_job *job, u64 speed)
{
	unsigned long flags;

	spin_lock_irqsave(&job->lock, flags);
	job->speed = speed;
	job->speed_new = true;
	lc_job_kick(job);
	spin_unlock_irqrestore(&job->lock, flags);
}

void lc_job_apply(struct lc_job *job, enum lc_job_verb verb)
{
	unsigned long flags;
	bool ending;

	spin_lock_irqsave(&job->lock, flags);
	ending = job->ending;
	if (!ending && verb == LC_VERB_PAUSE)
		__job_pause(job);
	if (!ending && verb == LC_VERB_RESUME)
		__job_resume(job);
	if (!ending && verb == LC_VERB_COMPLETE)
		__job_complete(job);
	spin_unlock_irqrestore(&job->lock, flags);
	if (verb == LC_VERB_CANCEL) {
		lc_job_end(job, LC_SIDE_WRITE, -ECANCELED);
		/* no I/O can be met there: let the caller see the end at once */
		if (job->view->jobs->drained)
			flush_delayed_work(&job->work);
	}
	if (verb == LC_VERB_DISMISS)
		job_remove(job);
}

/* --- suspend and resume --------------------------------------------------------------------- */

static void for_all_jobs(struct lc_view *view, void (*fn)(struct lc_job *job))
{
	struct lc_jobs *jobs = view->jobs;
	struct lc_job *job;
	unsigned long flags;

	spin_lock_irqsave(&jobs->lock, flags);
	list_for_each_entry(job, &jobs->list, list)
		fn(job);
	spin_unlock_irqrestore(&jobs->lock, flags);
}

static bool all_idle(struct lc_jobs *jobs)
{
	bool idle = !atomic_read(&jobs->running);
	struct lc_job *job;
	unsigned long flags;

	spin_lock_irqsave(&jobs->lock, flags);
	list_for_each_entry(job, &jobs->list, list)
		idle = idle && !atomic_read(&job->inflight);
	spin_unlock_irqrestore(&jobs->lock, flags);
	return idle;
}

/* view->mutex is not held: who holds it may have to serve the destination that is waited for. */
void lc_jobs_quiesce(struct lc_view *view, bool noflush)
{
	struct lc_jobs *jobs = view->jobs;

	WRITE_ONCE(jobs->noflush, noflush);
	WRITE_ONCE(jobs->live, false);
	/* paired with the one in job_work(): a run that missed the flags is waited for */
	smp_mb();
	wait_event(jobs->idle, !atomic_read(&jobs->running));
	for_all_jobs(view, lc_job_kick);
}

void lc_jobs_wait(struct lc_view *view)
{
	wait_event(view->jobs->idle, all_idle(view->jobs));
	view->jobs->drained = true;
}

void lc_jobs_resume(struct lc_view *view)
{
	view->jobs->drained = false;
	WRITE_ONCE(view->jobs->noflush, false);
	WRITE_ONCE(view->jobs->live, true);
	for_all_jobs(view, job_go);
}

/*
 * A job that completes while suspended copies. Its device may go then, layers with it: the
 * job is left as it is, unfinished.
 */
void lc_jobs_stop(struct lc_view *view)
{
	struct lc_jobs *jobs = view->jobs;
	struct lc_job *job;
	unsigned long flags;

	if (READ_ONCE(jobs->live))
		return;
	spin_lock_irqsave(&jobs->lock, flags);
	list_for_each_entry(job, &jobs->list, list) {
		spin_lock(&job->lock);
		WRITE_ONCE(job->draining, false);
		spin_unlock(&job->lock);
	}
	spin_unlock_irqrestore(&jobs->lock, flags);
	/* paired with the one in job_work(), as in lc_jobs_quiesce() */
	smp_mb();
	wait_event(jobs->idle, all_idle(jobs));
}

/* --- status ------------------------------------------------------------------------------------ */

static void __emit_result(struct lc_job *job, char *buf, size_t size)
{
	const char *word = job->state == LC_JOB_CONCLUDED ? "error" : "stopped";

	lockdep_assert_held(&job->lock);
	if (job->state == LC_JOB_CONCLUDED && !job->error)
		strscpy(buf, "ok", size);
	else if (job->state == LC_JOB_CONCLUDED && job->error == -ECANCELED)
		strscpy(buf, "cancelled", size);
	else if (job->state == LC_JOB_CONCLUDED || job->stopped)
		snprintf(buf, size, "%s:%s:%d", word, lc_job_side_name(job->side), -job->error);
	else
		strscpy(buf, "-", size);
}

static u64 __total(struct lc_job *job)
{
	lockdep_assert_held(&job->lock);
	if (job->track)
		return job->copied + atomic64_read(&job->remaining);
	return ((u64)job->nr_sectors << SECTOR_SHIFT) - job->left_out;
}

void lc_jobs_status(struct lc_view *view, char *result, unsigned int maxlen, unsigned int *psz)
{
	unsigned int nr = 0, sz = *psz;
	struct lc_job *job;
	char res[32];

	list_for_each_entry(job, &view->jobs->list, list)
		nr++;
	DMEMIT(" %u", nr);
	list_for_each_entry(job, &view->jobs->list, list) {
		unsigned long flags;
		u64 copied, total, speed;
		enum lc_job_state state;

		spin_lock_irqsave(&job->lock, flags);
		__emit_result(job, res, sizeof(res));
		state = job->state;
		copied = job->copied;
		total = __total(job);
		speed = job->speed;
		spin_unlock_irqrestore(&job->lock, flags);
		DMEMIT(" %s %s %llu/%llu %llu %s %u", job->name, lc_job_state_name(state), copied,
		       total, speed, res, job->dest_id);
	}
	*psz = sz;
}
