// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "ev.h"
#include "util.h"

#define EV_BATCH      32
#define EV_SIGNAL_MAX 65

/*
 * A freed object may still be named by the batch in hand: it is marked dead
 * and lies in the graveyard until the turn is over.
 */
struct ev_source {
	struct ev *ev;
	struct ev_source *prev, *next;
	int fd;
	bool dead;
	ev_fd_fn fn;
	void *arg;
};

struct ev_timer {
	struct ev *ev;
	struct ev_timer *prev, *next; /* all timers */
	struct ev_timer *anext;	      /* armed ones, the earliest first */
	bool armed;
	uint64_t due;
	ev_fn fn;
	void *arg;
};

struct ev_defer {
	struct ev *ev;
	struct ev_defer *prev, *next;
	uint64_t turn; /* when it was deferred */
	ev_fn fn;
	void *arg;
};

struct ev {
	int epfd;
	bool stopped;
	int status;
	struct ev_source *sources, *graves;
	struct ev_timer *timers, *armed;
	struct ev_defer *defers, *defers_tail; /* oldest first */
	uint64_t turn;
	int sigfd;
	struct ev_source *sigsrc;
	sigset_t sigset;
	struct {
		ev_signal_fn fn;
		void *arg;
	} sig[EV_SIGNAL_MAX];
};

uint64_t ev_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

uint64_t ev_now_ms(void)
{
	return ev_now_us() / 1000;
}

struct ev *ev_new(struct err *e)
{
	struct ev *ev = xcalloc(1, sizeof(*ev));

	ev->sigfd = -1;
	sigemptyset(&ev->sigset);
	ev->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (ev->epfd < 0) {
		err_set(e, errno, "Could not create the event loop: %s", strerror(errno));
		free(ev);
		return NULL;
	}
	return ev;
}

static void bury(struct ev *ev)
{
	while (ev->graves) {
		struct ev_source *s = ev->graves;

		ev->graves = s->next;
		free(s);
	}
}

void ev_free(struct ev *ev)
{
	if (!ev)
		return;
	while (ev->sources)
		ev_source_free(ev->sources);
	while (ev->timers)
		ev_timer_free(ev->timers);
	while (ev->defers)
		ev_defer_cancel(ev->defers);
	bury(ev);
	if (ev->sigfd >= 0)
		close(ev->sigfd);
	close(ev->epfd);
	free(ev);
}

static uint32_t to_epoll(unsigned events)
{
	return ((events & EV_IN) ? EPOLLIN : 0) | ((events & EV_OUT) ? EPOLLOUT : 0) |
	       ((events & EV_PRI) ? EPOLLPRI : 0);
}

static unsigned from_epoll(uint32_t events)
{
	return ((events & EPOLLIN) ? EV_IN : 0) | ((events & EPOLLOUT) ? EV_OUT : 0) |
	       ((events & EPOLLPRI) ? EV_PRI : 0) | ((events & EPOLLHUP) ? EV_HUP : 0) |
	       ((events & EPOLLERR) ? EV_ERR : 0);
}

struct ev_source *ev_add_fd(struct ev *ev, int fd, unsigned events, ev_fd_fn fn, void *arg,
			    struct err *e)
{
	struct ev_source *s = xcalloc(1, sizeof(*s));
	struct epoll_event ee = { .events = to_epoll(events), .data.ptr = s };

	if (epoll_ctl(ev->epfd, EPOLL_CTL_ADD, fd, &ee) < 0) {
		err_set(e, errno, "Could not watch descriptor %d: %s", fd, strerror(errno));
		free(s);
		return NULL;
	}
	s->ev = ev;
	s->fd = fd;
	s->fn = fn;
	s->arg = arg;
	s->next = ev->sources;
	if (s->next)
		s->next->prev = s;
	ev->sources = s;
	return s;
}

void ev_source_set(struct ev_source *s, unsigned events)
{
	struct epoll_event ee = { .events = to_epoll(events), .data.ptr = s };

	(void)epoll_ctl(s->ev->epfd, EPOLL_CTL_MOD, s->fd, &ee);
}

void ev_source_free(struct ev_source *s)
{
	if (!s)
		return;
	(void)epoll_ctl(s->ev->epfd, EPOLL_CTL_DEL, s->fd, NULL);
	if (s->prev)
		s->prev->next = s->next;
	else
		s->ev->sources = s->next;
	if (s->next)
		s->next->prev = s->prev;
	s->dead = true;
	s->next = s->ev->graves;
	s->ev->graves = s;
}

struct ev_timer *ev_timer_new(struct ev *ev, ev_fn fn, void *arg)
{
	struct ev_timer *t = xcalloc(1, sizeof(*t));

	t->ev = ev;
	t->fn = fn;
	t->arg = arg;
	t->next = ev->timers;
	if (t->next)
		t->next->prev = t;
	ev->timers = t;
	return t;
}

void ev_timer_clear(struct ev_timer *t)
{
	if (!t->armed)
		return;
	for (struct ev_timer **p = &t->ev->armed; *p; p = &(*p)->anext) {
		if (*p == t) {
			*p = t->anext;
			break;
		}
	}
	t->armed = false;
}

void ev_timer_set(struct ev_timer *t, uint64_t ms)
{
	struct ev_timer **p = &t->ev->armed;

	ev_timer_clear(t);
	t->due = ev_now_ms() + ms;
	while (*p && (*p)->due <= t->due)
		p = &(*p)->anext;
	t->anext = *p;
	*p = t;
	t->armed = true;
}

void ev_timer_free(struct ev_timer *t)
{
	if (!t)
		return;
	ev_timer_clear(t);
	if (t->prev)
		t->prev->next = t->next;
	else
		t->ev->timers = t->next;
	if (t->next)
		t->next->prev = t->prev;
	free(t);
}

struct ev_defer *ev_defer(struct ev *ev, ev_fn fn, void *arg)
{
	struct ev_defer *d = xcalloc(1, sizeof(*d));

	d->ev = ev;
	d->turn = ev->turn;
	d->fn = fn;
	d->arg = arg;
	d->prev = ev->defers_tail;
	if (d->prev)
		d->prev->next = d;
	else
		ev->defers = d;
	ev->defers_tail = d;
	return d;
}

void ev_defer_cancel(struct ev_defer *d)
{
	if (!d)
		return;
	if (d->prev)
		d->prev->next = d->next;
	else
		d->ev->defers = d->next;
	if (d->next)
		d->next->prev = d->prev;
	else
		d->ev->defers_tail = d->prev;
	free(d);
}

/*
 * What was deferred before this turn; what these defer comes in the next, after descriptors. Each
 * may cancel any other, the last of this turn too.
 */
static void run_defers(struct ev *ev)
{
	uint64_t turn = ev->turn++;

	while (ev->defers && ev->defers->turn <= turn && !ev->stopped) {
		struct ev_defer *d = ev->defers;
		ev_fn fn = d->fn;
		void *arg = d->arg;

		ev_defer_cancel(d);
		fn(arg);
	}
}

static void run_timers(struct ev *ev)
{
	uint64_t now = ev_now_ms();

	while (ev->armed && ev->armed->due <= now && !ev->stopped) {
		struct ev_timer *t = ev->armed;

		ev_timer_clear(t);
		t->fn(t->arg);
	}
}

static int wait_ms(const struct ev *ev, int timeout_ms)
{
	uint64_t now, left;

	if (ev->defers)
		return 0;
	if (!ev->armed)
		return timeout_ms;
	now = ev_now_ms();
	left = ev->armed->due > now ? ev->armed->due - now : 0;
	if (left > 1000 * 3600)
		left = 1000 * 3600;
	if (timeout_ms >= 0 && (uint64_t)timeout_ms < left)
		return timeout_ms;
	return (int)left;
}

void ev_run_once(struct ev *ev, int timeout_ms)
{
	struct epoll_event ee[EV_BATCH];
	int n;

	ev->stopped = false;
	n = epoll_wait(ev->epfd, ee, EV_BATCH, wait_ms(ev, timeout_ms));
	for (int i = 0; i < n && !ev->stopped; i++) {
		struct ev_source *s = ee[i].data.ptr;

		if (!s->dead)
			s->fn(from_epoll(ee[i].events), s->arg);
	}
	run_timers(ev);
	run_defers(ev);
	bury(ev);
}

int ev_run(struct ev *ev)
{
	do {
		ev_run_once(ev, -1);
	} while (!ev->stopped);
	return ev->status;
}

void ev_stop(struct ev *ev, int status)
{
	ev->stopped = true;
	ev->status = status;
}

static void on_sigfd(unsigned events, void *arg)
{
	struct ev *ev = arg;
	struct signalfd_siginfo si;

	(void)events;
	while (read(ev->sigfd, &si, sizeof(si)) == sizeof(si))
		if (si.ssi_signo < EV_SIGNAL_MAX && ev->sig[si.ssi_signo].fn)
			ev->sig[si.ssi_signo].fn(si.ssi_signo, ev->sig[si.ssi_signo].arg);
}

int ev_add_signal(struct ev *ev, int signo, ev_signal_fn fn, void *arg, struct err *e)
{
	int fd;

	if (signo <= 0 || signo >= EV_SIGNAL_MAX)
		return err_set(e, EINVAL, "%d is not a signal", signo);
	sigaddset(&ev->sigset, signo);
	if (sigprocmask(SIG_BLOCK, &ev->sigset, NULL) < 0)
		return err_set(e, errno, "Could not block signal %d: %s", signo, strerror(errno));
	fd = signalfd(ev->sigfd, &ev->sigset, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return err_set(e, errno, "Could not watch signal %d: %s", signo, strerror(errno));
	ev->sigfd = fd;
	ev->sig[signo].fn = fn;
	ev->sig[signo].arg = arg;
	if (!ev->sigsrc)
		ev->sigsrc = ev_add_fd(ev, fd, EV_IN, on_sigfd, ev, e);
	return ev->sigsrc ? 0 : -EIO;
}
