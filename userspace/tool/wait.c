// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/util.h"
#include "tool/progress.h"
#include "tool/wait.h"

#define POLL_MS	     500
#define RECONNECT_MS 30000

static volatile sig_atomic_t interrupts;

static void count_interrupt(int sig)
{
	(void)sig;
	interrupts++;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

int job_query(struct tool *t, const char *id, struct json **ret, struct err *e)
{
	_cleanup_json_ struct json *jobs = NULL;
	int r = tool_qmp(t, "query-block-jobs", NULL, &jobs, e);

	if (r)
		return r;
	for (size_t i = 0; i < json_len(jobs); i++) {
		const char *name = json_str_of(json_get(json_at(jobs, i), "device"));

		if (name && streq(name, id)) {
			*ret = json_ref(json_at(jobs, i));
			return 0;
		}
	}
	return err_set(e, ESRCH, "there is no job '%s' (livechain jobs shows all)", id);
}

/* The daemon went away: its jobs go on in the kernel, and it may come back. */
static int reconnect(struct tool *t, const char *id, struct progress *p, struct err *e)
{
	int64_t end = now_ms() + RECONNECT_MS;
	struct err why = ERR_INIT;
	struct timespec pause = { 0, POLL_MS * 1000000L };
	struct qmp_client *c;

	progress_clear(p);
	fprintf(stderr,
		"The connection to the daemon broke; job '%s' goes on. Trying to reach it again ...\n",
		id);
	qmp_client_close(take_ptr(t->client));
	while (!interrupts) {
		err_clear(&why);
		if (tool_client(t, &c, &why) == 0)
			return 0;
		if (now_ms() >= end)
			return err_set(e, ENOTCONN, "%s", why.msg);
		nanosleep(&pause, NULL);
	}
	return err_set(
		e, ENOTCONN,
		"interrupted while the daemon was away; what became of job '%s' is not known", id);
}

/* What a concluded job came to. */
static int result_of(const struct json *job, const char *id, struct err *e)
{
	const char *error = json_str_of(json_get(job, "error"));

	if (!error)
		return 0;
	if (streq(error, "Operation canceled"))
		return err_set(e, ECANCELED, "job '%s' was cancelled", id);
	return err_set(e, EREMOTEIO, "job '%s' failed: %s", id, error);
}

static void say_stopped(struct progress *p, const struct json *job, const char *id, bool *said)
{
	const char *status = json_str_of(json_get(job, "io-status"));
	bool stopped = status && !streq(status, "ok");

	if (stopped && !*said) {
		progress_clear(p);
		fprintf(stderr,
			"Job '%s' stopped at an I/O error (%s): when the cause is gone, 'livechain job resume %s'\n",
			id, status, id);
	}
	*said = stopped;
}

static int cancel(struct tool *t, const char *id, struct progress *p)
{
	progress_clear(p);
	fprintf(stderr,
		"Interrupted: cancelling job '%s' and waiting for its end (Ctrl-C again: leave it to the daemon)\n",
		id);
	return tool_qmp(t, "job-cancel", json_pack("{s:s}", "id", id), NULL, NULL);
}

/* Until something happens to the job, or it is time to ask again. */
static void wait_for_news(struct tool *t, const char *id, int seen)
{
	int64_t end = now_ms() + POLL_MS;

	while (interrupts == seen) {
		_cleanup_json_ struct json *event = NULL;
		int64_t left = end - now_ms();
		const char *about;

		if (left <= 0 || qmp_client_event(t->client, (int)left, &event, NULL) != 1)
			return;
		about = json_str_of(json_get(json_get(event, "data"), "id"));
		if (about && streq(about, id))
			return;
	}
}

/* Both sides are equal: it goes on as it was told, by a command that names it. Once. */
static int at_ready_say(struct tool *t, const char *id, const char *command, const char *status,
			bool *said, struct err *e)
{
	struct err why = ERR_INIT;
	int r;

	if (!command || *said || !status || !streq(status, "ready"))
		return 0;
	r = tool_qmp(t, command, json_pack("{s:s}", "device", id), NULL, &why);
	*said = !r;
	return r && r != -ENOTCONN ? err_set_class(e, why.cls, why.code, "%s", why.msg) : r;
}

/* What is known of the job that is waited for. */
struct waiting {
	const char *id, *at_ready;
	struct progress progress;
	bool said_stopped, said_ready;
	int cancels;
};

/* How far it is. -ENOTCONN with @e not set: the daemon is away. */
static int look(struct tool *t, struct waiting *w, int seen, bool *ret_concluded, struct err *e)
{
	_cleanup_json_ struct json *job = NULL;
	struct err why = ERR_INIT;
	uint64_t done = 0, total = 0;
	const char *status;
	int r = job_query(t, w->id, &job, &why);

	if (r == -ENOTCONN && !seen)
		return r;
	if (r)
		return err_set_class(e, why.cls, why.code, "%s", why.msg);
	(void)json_u64_of(json_get(job, "offset"), &done);
	(void)json_u64_of(json_get(job, "len"), &total);
	status = json_str_of(json_get(job, "status"));
	progress_update(&w->progress, done, total, now_ms());
	if (status && streq(status, "concluded")) {
		*ret_concluded = true;
		return result_of(job, w->id, e);
	}
	say_stopped(&w->progress, job, w->id, &w->said_stopped);
	return seen ? 0 : at_ready_say(t, w->id, w->at_ready, status, &w->said_ready, e);
}

static int wait_loop(struct tool *t, struct waiting *w, enum wait_end *ret_end, bool *ret_concluded,
		     struct err *e)
{
	for (;;) {
		int seen = interrupts;
		int r = look(t, w, seen, ret_concluded, e);

		if (r == -ENOTCONN && !seen) {
			r = reconnect(t, w->id, &w->progress, e);
			if (r)
				return r;
			continue;
		}
		if (r || *ret_concluded)
			return r;
		if (seen >= 2) {
			progress_clear(&w->progress);
			fprintf(stderr,
				"Leaving: job '%s' is the daemon's now; see 'livechain jobs'\n",
				w->id);
			*ret_end = WAIT_LEFT;
			return 0;
		}
		if (seen && !w->cancels++)
			(void)cancel(t, w->id, &w->progress);
		wait_for_news(t, w->id, seen);
	}
}

int job_wait(struct tool *t, const char *id, const char *at_ready, enum wait_end *ret_end,
	     bool *ret_concluded, struct err *e)
{
	struct sigaction sa = { .sa_handler = count_interrupt }, old;
	struct waiting w = { .id = id, .at_ready = at_ready };
	struct progress *p = &w.progress;
	bool bar = isatty(STDERR_FILENO);
	int r;

	interrupts = 0;
	*ret_end = WAIT_DONE;
	*ret_concluded = false;
	sigaction(SIGINT, &sa, &old);
	progress_init(p, id, stderr, bar);
	r = wait_loop(t, &w, ret_end, ret_concluded, e);
	if (p->drawn && !r)
		fputc('\n', stderr);
	else
		progress_clear(p);
	sigaction(SIGINT, &old, NULL);
	return r;
}
