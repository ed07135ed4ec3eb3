// SPDX-License-Identifier: GPL-2.0-or-later
#include <pthread.h>

#include "../lib/list.h"
#include "ctl.h"
#include "node.h"
#include "view.h"

void (*ctl_after)(void);

static struct worker_queue *ctl_queue;
static pthread_mutex_t the_core_lock = PTHREAD_MUTEX_INITIALIZER;

struct queued_event {
	struct list link;
	const char *name;
	struct json *data;
};

static struct list events = LIST_INIT(events);
static pthread_mutex_t events_lock = PTHREAD_MUTEX_INITIALIZER;

struct ctl_call {
	struct qmp_call *call;
	ctl_fn fn;
	struct json *args, *ret;
	struct err err;
	int r;
};

void core_lock(void)
{
	pthread_mutex_lock(&the_core_lock);
}

void core_unlock(void)
{
	pthread_mutex_unlock(&the_core_lock);
}

void ctl_init(struct daemon *d)
{
	ctl_queue = worker_queue_new(d->worker, "control", true);
}

void ctl_done(void)
{
	worker_queue_free(ctl_queue);
	ctl_queue = NULL;
}

void event_post(const char *name, struct json *data)
{
	struct queued_event *q = xcalloc(1, sizeof(*q));

	q->name = name;
	q->data = data;
	pthread_mutex_lock(&events_lock);
	list_add_tail(&events, &q->link);
	pthread_mutex_unlock(&events_lock);
}

static struct queued_event *event_pop(void)
{
	struct queued_event *q = NULL;

	pthread_mutex_lock(&events_lock);
	if (!list_empty(&events)) {
		q = list_entry(events.next, struct queued_event, link);
		list_del(&q->link);
	}
	pthread_mutex_unlock(&events_lock);
	return q;
}

void event_flush(void)
{
	struct queued_event *q;

	while ((q = event_pop())) {
		qmp_event(q->name, q->data);
		free(q);
	}
}

void ctl_answer(struct qmp_call *call, struct json *ret)
{
	event_flush();
	qmp_return(call, ret);
}

static void after_work(void)
{
	event_flush();
	if (ctl_after)
		ctl_after();
}

static void command_work(void *arg)
{
	struct ctl_call *c = arg;

	view_settle_ends();
	node_drop_unused(); /* of an earlier daemon */
	c->r = c->fn(c->args, &c->ret, &c->err);
	node_drop_unused();
}

static void command_done(void *arg)
{
	struct ctl_call *c = arg;

	after_work();
	if (c->r < 0) {
		err_set(&c->err, -c->r, "%s failed", qmp_command_name(c->call));
		json_unref(c->ret);
		qmp_error(c->call, &c->err);
	} else {
		qmp_return(c->call, c->ret);
	}
	json_unref(c->args);
	free(c);
}

void ctl_command(struct qmp_call *call, ctl_fn fn)
{
	struct ctl_call *c = xcalloc(1, sizeof(*c));

	c->call = call;
	c->fn = fn;
	c->args = json_copy(qmp_args(call));
	worker_submit_to(ctl_queue, command_work, command_done, c);
}

struct ctl_task {
	worker_fn work, done;
	void *arg;
};

static void task_work(void *arg)
{
	struct ctl_task *t = arg;

	t->work(t->arg);
}

static void task_done(void *arg)
{
	struct ctl_task *t = arg;

	after_work();
	if (t->done)
		t->done(t->arg);
	free(t);
}

void ctl_submit(worker_fn work, worker_fn done, void *arg)
{
	struct ctl_task *t = xcalloc(1, sizeof(*t));

	*t = (struct ctl_task){ work, done, arg };
	worker_submit_to(ctl_queue, task_work, task_done, t);
}
