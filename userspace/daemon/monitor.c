// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/dispatch.h"
#include "daemon/monitor.h"
#include "lib/jsonstream.h"
#include "lib/log.h"
#include "lib/util.h"

#define READ_SIZE 16384u
/* Bytes that are parsed at a time. */
#define FEED_SIZE 2048u
/* With more unread output than this, no further command is taken. */
#define OUT_HIGH (1u << 20)
/* Messages of one client in one turn, and the time for them: all others wait, disks too. */
#define TURN_MAX 64
#define TURN_US	 500
/* Messages of a client that is gone. */
#define GONE_MAX 8

struct monitor {
	struct monitor *prev, *next;
	int fd;
	struct ev_source *src;
	struct ev_defer *again; /* more to do in the next turn */
	struct json_stream *stream;
	struct qmp_session session;
	struct qmp_call *call; /* under way */
	struct strbuf out;
	size_t out_pos; /* bytes of @out that are sent */
	size_t held;	/* bytes of memory that this client costs, in @held_by_all */
	char in[READ_SIZE];
	size_t in_pos, in_len;
	bool eof;	/* no more input */
	bool ended;	/* the stream was told so */
	bool no_output; /* nobody reads any more */
	bool gone;	/* the client: @left more messages of it are executed */
	int left;	/* read only if @gone */
	bool pumping;
	bool dead;
	monitor_closed_fn closed;
	void *closed_arg;
};

static struct ev *loop;
static struct monitor *monitors;
static unsigned nr_monitors;
static size_t held_by_all;
static struct {
	ev_fn fn;
	void *arg;
	struct ev_timer *timer;
	struct ev_defer *defer;
} drain;

static void pump(struct monitor *m);

/* --- end of a connection --- */

static void free_later(void *arg)
{
	free(arg);
}

/* What it has made us hold. Not below step(), whose value is still being read. */
static void release(struct monitor *m)
{
	json_stream_free(m->stream);
	m->stream = NULL;
	strbuf_done(&m->out);
	m->out_pos = 0;
}

/*
 * May be called from anywhere, also below pump(): the monitor itself goes with the next turn. What
 * it held goes at once, for until that turn every other client may take more.
 */
static void monitor_close(struct monitor *m)
{
	if (m->dead)
		return;
	m->dead = true;
	if (m->prev)
		m->prev->next = m->next;
	else
		monitors = m->next;
	if (m->next)
		m->next->prev = m->prev;
	nr_monitors--;
	held_by_all -= m->held;
	if (m->call)
		qmp_call_abandon(m->call);
	m->call = NULL;
	ev_source_free(m->src);
	ev_defer_cancel(m->again);
	close(m->fd);
	if (m->closed)
		m->closed(m->closed_arg);
	if (!m->pumping)
		release(m);
	ev_defer(loop, free_later, m);
}

/* --- output --- */

static size_t unread(const struct monitor *m)
{
	return m->out.len - m->out_pos;
}

/* Its requests are counted while read and while under way, its answers until they are taken. */
static void count_held(struct monitor *m)
{
	struct monitor *worst = m;
	size_t held = m->out.size;

	if (m->dead)
		return;
	if (m->call || json_stream_busy(m->stream))
		held += json_stream_cost(m->stream);
	held_by_all += held - m->held;
	m->held = held;
	if (held_by_all <= MONITOR_HELD_MAX)
		return;
	for (struct monitor *o = monitors; o; o = o->next) {
		if (o->held > worst->held)
			worst = o;
	}
	log_warn("QMP clients take more than %u MiB; the one that takes most, %zu MiB, is disconnected",
		 MONITOR_HELD_MAX >> 20, worst->held >> 20);
	monitor_close(worst);
}

static void drained(void *arg)
{
	ev_fn fn = drain.fn;

	(void)arg;
	ev_timer_free(drain.timer);
	ev_defer_cancel(drain.defer);
	drain.timer = NULL;
	drain.defer = NULL;
	drain.fn = NULL;
	if (fn)
		fn(drain.arg);
}

static void drained_deferred(void *arg)
{
	drain.defer = NULL;
	drained(arg);
}

static void check_drained(void)
{
	if (!drain.fn || drain.defer)
		return;
	for (struct monitor *m = monitors; m; m = m->next)
		if (unread(m))
			return;
	drain.defer = ev_defer(loop, drained_deferred, NULL);
}

void monitor_drain(uint64_t ms, ev_fn fn, void *arg)
{
	drain.fn = fn;
	drain.arg = arg;
	drain.timer = ev_timer_new(loop, drained, NULL);
	ev_timer_set(drain.timer, ms);
	check_drained();
}

/*
 * Nobody reads: what is in hand is still executed, as QEMU does, its answers are dropped. Not
 * much of it when the client is gone: it must not keep its place.
 */
static void drop_output(struct monitor *m)
{
	m->no_output = true;
	strbuf_done(&m->out);
	m->out_pos = 0;
	check_drained();
}

static void flush(struct monitor *m)
{
	while (!m->dead && unread(m)) {
		ssize_t n = send(m->fd, m->out.buf + m->out_pos, unread(m),
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n < 0) {
			drop_output(m);
			return;
		}
		m->out_pos += n;
	}
	if (m->dead) /* its descriptor may be somebody else's by now */
		return;
	strbuf_reset(&m->out);
	m->out_pos = 0;
	check_drained();
}

static void queue(struct monitor *m, const struct json *msg)
{
	if (m->no_output || m->dead)
		return;
	if (m->out_pos > m->out.len / 2) {
		strbuf_consume(&m->out, m->out_pos);
		m->out_pos = 0;
	}
	json_write(msg, &m->out);
	strbuf_adds(&m->out, "\r\n");
	count_held(m);
	if (unread(m) <= MONITOR_OUT_MAX)
		return;
	flush(m);
	if (!m->no_output && unread(m) > MONITOR_OUT_MAX) {
		log_warn("A QMP client left %zu bytes unread and is disconnected", unread(m));
		monitor_close(m);
	}
}

static void queue_error(struct monitor *m, const struct err *e)
{
	_cleanup_json_ struct json *msg = qmp_error_object(e);

	queue(m, msg);
}

static void update_events(struct monitor *m)
{
	bool read_more = !m->call && !m->eof && !m->again && unread(m) <= OUT_HIGH;

	if (m->src)
		ev_source_set(m->src, (read_more ? EV_IN : 0) | (unread(m) ? EV_OUT : 0));
}

/* --- input --- */

static void on_reply(struct json *reply, void *arg)
{
	struct monitor *m = arg;

	m->call = NULL;
	queue(m, reply);
	json_unref(reply);
	if (!m->pumping)
		pump(m);
}

static void handle(struct monitor *m, int r, struct json *request, const struct err *e)
{
	if (r > 0)
		m->call = qmp_dispatch(&m->session, request, on_reply, m);
	/* The command's own events may have been too much for the client. */
	if (m->dead && m->call) {
		qmp_call_abandon(m->call);
		m->call = NULL;
	}
	if (r < 0)
		queue_error(m, e);
	json_unref(request);
}

/* Reads once. False: nothing there now. */
static bool fill(struct monitor *m)
{
	ssize_t n;

	do {
		n = recv(m->fd, m->in, sizeof(m->in), MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	/* Without a source nobody would wake us again: what is not there now never comes. */
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && m->src)
		return false;
	m->in_pos = 0;
	m->in_len = n > 0 ? (size_t)n : 0;
	m->eof = n <= 0;
	return true;
}

/* One step. False: wait for the client or for the command. */
static bool step(struct monitor *m)
{
	struct err e = ERR_INIT;
	struct json *request = NULL;
	size_t used, n = m->in_len - m->in_pos;
	int r;

	if (m->dead || m->call || unread(m) > OUT_HIGH)
		return false;
	if (m->gone && m->left <= 0) {
		m->eof = m->ended = true;
		return false;
	}
	if (m->in_pos < m->in_len) {
		r = json_stream_feed(m->stream, m->in + m->in_pos, n < FEED_SIZE ? n : FEED_SIZE,
				     &used, &request, &e);
		m->in_pos += used;
		m->left -= r != 0;
		handle(m, r, request, &e);
		return true;
	}
	if (m->eof) {
		if (m->ended)
			return false;
		m->ended = true;
		r = json_stream_end(m->stream, &request, &e);
		handle(m, r, request, &e);
		return true;
	}
	return fill(m);
}

static void pump_again(void *arg)
{
	struct monitor *m = arg;

	m->again = NULL;
	pump(m);
}

static void pump(struct monitor *m)
{
	uint64_t end;
	int turns = 0;

	if (m->dead || m->again)
		return;
	end = ev_now_us() + TURN_US;
	m->pumping = true;
	while (step(m)) {
		if (unread(m) > OUT_HIGH)
			flush(m);
		if ((++turns == TURN_MAX || ev_now_us() > end) && !m->dead) {
			m->again = ev_defer(loop, pump_again, m);
			break;
		}
	}
	m->pumping = false;
	if (m->dead) {
		release(m);
		return;
	}
	flush(m);
	count_held(m);
	if (m->dead)
		return;
	if (m->ended && !m->call && !unread(m))
		monitor_close(m);
	else
		update_events(m);
}

static void on_socket(unsigned events, void *arg)
{
	struct monitor *m = arg;

	if (events & (EV_HUP | EV_ERR)) {
		/* Would be reported again and again while a command is under way. */
		ev_source_free(m->src);
		m->src = NULL;
		m->gone = true;
		m->left = GONE_MAX;
		drop_output(m);
	} else if (events & EV_OUT) {
		flush(m);
	}
	pump(m);
}

static void on_event(struct json *event, void *arg)
{
	(void)arg;
	for (struct monitor *m = monitors, *next; m; m = next) {
		next = m->next;
		if (!m->session.negotiated)
			continue;
		queue(m, event);
		if (m->dead || m->pumping)
			continue;
		flush(m);
		update_events(m);
	}
}

/* --- life --- */

void monitor_init(struct ev *ev)
{
	loop = ev;
	qmp_set_event_sink(on_event, NULL);
}

void monitor_done(void)
{
	qmp_set_event_sink(NULL, NULL);
	while (monitors)
		monitor_close(monitors);
	if (loop)
		drained(NULL);
	if (loop)
		ev_run_once(loop, 0);
	loop = NULL;
}

unsigned monitor_count(void)
{
	return nr_monitors;
}

int monitor_serve(int fd, monitor_closed_fn closed, void *arg, struct err *e)
{
	_cleanup_json_ struct json *greeting = NULL;
	_cleanup_close_ int owned = fd;
	struct ev_source *src;
	struct monitor *m;

	if (nr_monitors >= MONITOR_CLIENTS_MAX)
		return err_set(e, EMFILE, "There are %u QMP clients already", nr_monitors);
	m = xcalloc(1, sizeof(*m));
	src = ev_add_fd(loop, fd, EV_IN, on_socket, m, e);
	if (!src) {
		free(m);
		return -EIO;
	}
	m->fd = take_fd(owned);
	m->src = src;
	m->stream = json_stream_new(NULL);
	m->closed = closed;
	m->closed_arg = arg;
	m->next = monitors;
	if (m->next)
		m->next->prev = m;
	monitors = m;
	nr_monitors++;
	greeting = qmp_greeting();
	queue(m, greeting);
	flush(m);
	update_events(m);
	return 0;
}
