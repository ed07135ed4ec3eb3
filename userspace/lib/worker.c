// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util.h"
#include "worker.h"

struct work {
	struct work *next;
	struct worker_queue *q; /* NULL: no order */
	worker_fn fn, done;
	void *arg;
};

struct list {
	struct work *head, **tail;
};

/*
 * A queue has at most one piece of work among the ready or running ones; the rest waits
 * in @waiting, and the thread that finishes one readies the next.
 */
struct worker_queue {
	struct worker *w;
	char *name;
	struct list waiting;
	bool active;	   /* under the lock: one is ready or running */
	unsigned users;	   /* loop thread: submitted, done not yet run */
	bool freed;	   /* loop thread */
	bool reserved;	   /* has its own thread and ready list */
	struct list ready; /* reserved only */
	pthread_cond_t cond;
	pthread_t thread;
	bool stop;
};

struct worker {
	struct ev *ev;
	struct ev_source *src;
	int efd;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct list ready, finished; /* under the lock */
	unsigned nr_finished;	     /* under the lock */
	bool stop;
	unsigned nr_threads;
	pthread_t *threads;
	unsigned pending; /* loop thread */
};

static void list_init(struct list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

static void list_push(struct list *l, struct work *work)
{
	work->next = NULL;
	*l->tail = work;
	l->tail = &work->next;
}

static struct work *list_pop(struct list *l)
{
	struct work *work = l->head;

	if (work) {
		l->head = work->next;
		if (!l->head)
			l->tail = &l->head;
	}
	return work;
}

/* Under the lock. */
static void make_ready(struct worker *w, struct work *work)
{
	if (work->q && work->q->reserved) {
		list_push(&work->q->ready, work);
		pthread_cond_signal(&work->q->cond);
	} else {
		list_push(&w->ready, work);
		pthread_cond_signal(&w->cond);
	}
}

/* Under the lock, which is dropped while the work runs. */
static void run_one(struct worker *w, struct work *work)
{
	struct work *next;
	uint64_t one = 1;

	pthread_mutex_unlock(&w->lock);
	work->fn(work->arg);
	pthread_mutex_lock(&w->lock);
	/* Finished before the next is readied: the @dones keep the order. */
	list_push(&w->finished, work);
	w->nr_finished++;
	if (work->q) {
		next = list_pop(&work->q->waiting);
		if (next)
			make_ready(w, next);
		else
			work->q->active = false;
	}
	if (write(w->efd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		abort();
}

static void *thread_main(void *arg)
{
	struct worker *w = arg;
	struct work *work;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		work = list_pop(&w->ready);
		if (work)
			run_one(w, work);
		else if (w->stop)
			break;
		else
			pthread_cond_wait(&w->cond, &w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static void *queue_main(void *arg)
{
	struct worker_queue *q = arg;
	struct worker *w = q->w;
	struct work *work;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		work = list_pop(&q->ready);
		if (work)
			run_one(w, work);
		else if (q->stop)
			break;
		else
			pthread_cond_wait(&q->cond, &w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static void queue_destroy(struct worker_queue *q)
{
	if (q->reserved) {
		pthread_mutex_lock(&q->w->lock);
		q->stop = true;
		pthread_cond_signal(&q->cond);
		pthread_mutex_unlock(&q->w->lock);
		pthread_join(q->thread, NULL);
	}
	pthread_cond_destroy(&q->cond);
	free(q->name);
	free(q);
}

/* Of what has finished by now: what finishes meanwhile comes in the next turn, after others. */
static void run_dones(struct worker *w)
{
	struct worker_queue *q;
	struct work *work;
	unsigned n;

	pthread_mutex_lock(&w->lock);
	n = w->nr_finished;
	pthread_mutex_unlock(&w->lock);
	while (n--) {
		pthread_mutex_lock(&w->lock);
		work = list_pop(&w->finished);
		w->nr_finished -= work != NULL;
		pthread_mutex_unlock(&w->lock);
		if (!work) /* a turn within one of these had them all */
			return;
		q = work->q;
		w->pending--;
		if (work->done)
			work->done(work->arg);
		if (q && --q->users == 0 && q->freed)
			queue_destroy(q);
		free(work);
	}
}

static void on_efd(unsigned events, void *arg)
{
	struct worker *w = arg;
	uint64_t n;

	(void)events;
	if (read(w->efd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		abort();
	run_dones(w);
}

/* Signals are the loop's: they stay blocked in every thread. */
static int start_thread(pthread_t *t, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(t, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

struct worker *worker_new(struct ev *ev, unsigned threads, struct err *e)
{
	struct worker *w = xcalloc(1, sizeof(*w));
	int r = 0;

	w->ev = ev;
	list_init(&w->ready);
	list_init(&w->finished);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
	w->threads = xcalloc(threads, sizeof(*w->threads));
	w->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->efd < 0)
		r = err_set(e, errno, "Could not create an eventfd: %s", strerror(errno));
	else if (!(w->src = ev_add_fd(ev, w->efd, EV_IN, on_efd, w, e)))
		r = -EIO;
	for (; r == 0 && w->nr_threads < threads; w->nr_threads++) {
		r = start_thread(&w->threads[w->nr_threads], thread_main, w);
		if (r < 0) {
			err_set(e, -r, "Could not start a thread: %s", strerror(-r));
			break;
		}
	}
	if (r < 0) {
		worker_free(w);
		return NULL;
	}
	return w;
}

void worker_free(struct worker *w)
{
	if (!w)
		return;
	while (w->pending)
		ev_run_once(w->ev, -1);
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->nr_threads; i++)
		pthread_join(w->threads[i], NULL);
	ev_source_free(w->src);
	if (w->efd >= 0)
		close(w->efd);
	pthread_cond_destroy(&w->cond);
	pthread_mutex_destroy(&w->lock);
	free(w->threads);
	free(w);
}

static void submit(struct worker *w, struct worker_queue *q, worker_fn fn, worker_fn done,
		   void *arg)
{
	struct work *work = xcalloc(1, sizeof(*work));

	work->q = q;
	work->fn = fn;
	work->done = done;
	work->arg = arg;
	w->pending++;
	if (q)
		q->users++;
	pthread_mutex_lock(&w->lock);
	if (q && q->active) {
		list_push(&q->waiting, work);
	} else {
		if (q)
			q->active = true;
		make_ready(w, work);
	}
	pthread_mutex_unlock(&w->lock);
}

void worker_submit(struct worker *w, worker_fn fn, worker_fn done, void *arg)
{
	submit(w, NULL, fn, done, arg);
}

void worker_submit_to(struct worker_queue *q, worker_fn fn, worker_fn done, void *arg)
{
	submit(q->w, q, fn, done, arg);
}

struct worker_queue *worker_queue_new(struct worker *w, const char *name, bool reserved)
{
	struct worker_queue *q = xcalloc(1, sizeof(*q));

	q->w = w;
	q->name = xstrdup(name);
	list_init(&q->waiting);
	list_init(&q->ready);
	pthread_cond_init(&q->cond, NULL);
	/* Without a thread of its own it still works, from the pool. */
	q->reserved = reserved && start_thread(&q->thread, queue_main, q) == 0;
	return q;
}

void worker_queue_free(struct worker_queue *q)
{
	if (!q)
		return;
	if (q->users)
		q->freed = true;
	else
		queue_destroy(q);
}

unsigned worker_pending(const struct worker *w)
{
	return w->pending;
}
