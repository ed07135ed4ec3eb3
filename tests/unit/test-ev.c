// SPDX-License-Identifier: GPL-2.0-or-later
/* The loop and the workers: order, freeing inside callbacks, shutdown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/ev.h"
#include "lib/util.h"
#include "lib/worker.h"

static struct ev *ev;

static int setup(void **state)
{
	(void)state;
	ev = ev_new(NULL);
	return ev ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	ev_free(ev);
	return 0;
}

/* --- descriptors --- */

struct pair {
	int fd[2];
	struct ev_source *src[2];
	int calls;
};

/* Both are ready in the same batch; whoever runs first frees both. */
static void free_both(unsigned events, void *arg)
{
	struct pair *p = arg;

	assert_true(events & EV_OUT);
	p->calls++;
	ev_source_free(p->src[0]);
	ev_source_free(p->src[1]);
}

static void test_free_in_callback(void **state)
{
	struct pair p = { 0 };

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p.fd), 0);
	for (int i = 0; i < 2; i++)
		p.src[i] = ev_add_fd(ev, p.fd[i], EV_OUT, free_both, &p, NULL);
	ev_run_once(ev, 100);
	ev_run_once(ev, 0);
	assert_int_equal(p.calls, 1);
	close(p.fd[0]);
	close(p.fd[1]);
}

static void note_events(unsigned events, void *arg)
{
	*(unsigned *)arg |= events;
}

static void test_hangup_and_mask(void **state)
{
	unsigned seen = 0;
	struct ev_source *s;
	int fd[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	s = ev_add_fd(ev, fd[0], 0, note_events, &seen, NULL);
	assert_int_equal(write(fd[1], "x", 1), 1);
	ev_run_once(ev, 0);
	assert_int_equal(seen, 0);
	ev_source_set(s, EV_IN);
	ev_run_once(ev, 100);
	assert_int_equal(seen, EV_IN);
	ev_source_set(s, 0);
	close(fd[1]);
	ev_run_once(ev, 100);
	assert_true(seen & EV_HUP);
	ev_source_free(s);
	close(fd[0]);
}

static void test_regular_file_is_refused(void **state)
{
	struct err e = ERR_INIT;
	FILE *f = tmpfile();

	(void)state;
	assert_null(ev_add_fd(ev, fileno(f), EV_IN, note_events, NULL, &e));
	assert_true(e.code == EPERM);
	fclose(f);
}

/* --- timers and deferred calls --- */

/* A callback's argument, which is not const. */
#define W(text) ((char[]){ text })

static char order[32];

static void note(void *arg)
{
	strcat(order, arg);
}

static void stop(void *arg)
{
	note(arg);
	ev_stop(ev, 7);
}

static struct ev_timer *victim;

static void free_victim(void *arg)
{
	note(arg);
	ev_timer_free(victim);
}

static void test_timers(void **state)
{
	struct ev_timer *t[5];
	uint64_t start = ev_now_ms();

	(void)state;
	order[0] = '\0';
	t[0] = ev_timer_new(ev, note, W("c"));
	t[1] = ev_timer_new(ev, note, W("a"));
	t[2] = ev_timer_new(ev, note, W("never"));
	t[3] = ev_timer_new(ev, free_victim, W("b"));
	t[4] = ev_timer_new(ev, stop, W("d"));
	victim = ev_timer_new(ev, note, W("never"));
	/* Far from each other: the process may be kept waiting between two of these. */
	ev_timer_set(t[4], 900);
	ev_timer_set(t[0], 600);
	ev_timer_set(t[1], 5000);
	ev_timer_set(t[1], 5); /* moved */
	ev_timer_set(t[2], 6);
	ev_timer_clear(t[2]);
	ev_timer_set(t[3], 300);
	ev_timer_set(victim, 300);
	assert_int_equal(ev_run(ev), 7);
	assert_string_equal(order, "abcd");
	assert_true(ev_now_ms() - start >= 900);
}

static void defer_more(void *arg)
{
	static char z[] = "z";

	note(arg);
	ev_defer(ev, note, z);
}

static void test_defer(void **state)
{
	struct ev_defer *d;

	(void)state;
	order[0] = '\0';
	ev_defer(ev, defer_more, W("1"));
	d = ev_defer(ev, note, W("never"));
	ev_defer(ev, note, W("2"));
	ev_defer_cancel(d);
	ev_run_once(ev, 0);
	assert_string_equal(order, "12"); /* what these deferred waits for the next turn */
	ev_run_once(ev, -1);
	assert_string_equal(order, "12z");
}

static struct ev_defer *last;

/* Always more to do, as a client has that never ends its request: at most 100 times. */
static void cancel_last_and_go_on(void *arg)
{
	int *n = arg;

	ev_defer_cancel(last);
	last = NULL;
	if (++*n < 100)
		ev_defer(ev, cancel_last_and_go_on, n);
}

/* The last of a turn is cancelled by another of it: the turn ends all the same. */
static void test_defer_cancel_last(void **state)
{
	int n = 0;

	(void)state;
	order[0] = '\0';
	ev_defer(ev, cancel_last_and_go_on, &n);
	last = ev_defer(ev, note, W("never"));
	for (int turn = 1; turn <= 3; turn++) {
		ev_run_once(ev, 0);
		assert_int_equal(n, turn);
	}
	assert_string_equal(order, "");
	while (n < 100)
		ev_run_once(ev, 0);
}

static void on_signal(int signo, void *arg)
{
	*(int *)arg = signo;
	ev_stop(ev, 0);
}

static void test_signal(void **state)
{
	int seen = 0;

	(void)state;
	assert_int_equal(ev_add_signal(ev, SIGUSR1, on_signal, &seen, NULL), 0);
	kill(getpid(), SIGUSR1);
	ev_run(ev);
	assert_int_equal(seen, SIGUSR1);
}

/* --- workers --- */

#define ITEMS 200

struct item {
	int nr;
	struct log *log;
};

/* What ran, in which order; one for each queue. */
struct log {
	int ran[ITEMS], done[ITEMS];
	atomic_int nr_ran, inside;
	int nr_done;
	bool overlapped;
};

static pthread_t loop_thread;

static void item_run(void *arg)
{
	struct item *it = arg;

	assert_false(pthread_equal(pthread_self(), loop_thread));
	if (atomic_fetch_add(&it->log->inside, 1) != 0)
		it->log->overlapped = true;
	if (it->nr % 16 == 0)
		usleep(500);
	it->log->ran[atomic_fetch_add(&it->log->nr_ran, 1)] = it->nr;
	atomic_fetch_sub(&it->log->inside, 1);
}

static void item_done(void *arg)
{
	struct item *it = arg;

	assert_true(pthread_equal(pthread_self(), loop_thread));
	it->log->done[it->log->nr_done++] = it->nr;
	free(it);
}

static void test_queues_keep_order(void **state)
{
	struct worker *w = worker_new(ev, 3, NULL);
	struct worker_queue *q[2] = { worker_queue_new(w, "a", false),
				      worker_queue_new(w, "b", true) };
	struct log *log = calloc(2, sizeof(*log));

	(void)state;
	loop_thread = pthread_self();
	for (int i = 0; i < ITEMS; i++) {
		for (int k = 0; k < 2; k++) {
			struct item *it = malloc(sizeof(*it));

			*it = (struct item){ i, &log[k] };
			worker_submit_to(q[k], item_run, item_done, it);
		}
	}
	/* Freed while busy: goes when its last work is done. */
	worker_queue_free(q[0]);
	worker_queue_free(q[1]);
	worker_free(w);
	for (int k = 0; k < 2; k++) {
		assert_false(log[k].overlapped);
		assert_int_equal(log[k].nr_done, ITEMS);
		for (int i = 0; i < ITEMS; i++) {
			assert_int_equal(log[k].ran[i], i);
			assert_int_equal(log[k].done[i], i);
		}
	}
	free(log);
}

static pthread_barrier_t barrier;

static void meet(void *arg)
{
	(void)arg;
	pthread_barrier_wait(&barrier);
}

/* A reserved queue runs while all pool threads are blocked. */
static void test_reserved_queue_never_waits(void **state)
{
	struct worker *w = worker_new(ev, 1, NULL);
	struct worker_queue *q = worker_queue_new(w, "grants", true);

	(void)state;
	pthread_barrier_init(&barrier, NULL, 2);
	worker_submit(w, meet, NULL, NULL); /* blocks the only thread until the queue has run */
	worker_submit_to(q, meet, NULL, NULL);
	alarm(100);
	while (worker_pending(w))
		ev_run_once(ev, -1);
	alarm(0);
	worker_queue_free(q);
	worker_free(w);
	pthread_barrier_destroy(&barrier);
}

static struct worker *again_worker;
static int again_left;

static void nothing(void *arg)
{
	(void)arg;
}

static void again(void *arg)
{
	if (again_left-- > 0)
		worker_submit(again_worker, nothing, again, arg);
}

static void test_done_may_submit_more(void **state)
{
	(void)state;
	again_worker = worker_new(ev, 2, NULL);
	again_left = 10;
	worker_submit(again_worker, nothing, again, NULL);
	worker_free(again_worker);
	assert_int_equal(again_left, -1);
}

/* The next has run before this returns, as under a guest's load: at most 100 times. */
static void slow_done(void *arg)
{
	int *n = arg;

	if (++*n >= 100)
		return;
	worker_submit(again_worker, nothing, slow_done, n);
	usleep(5000);
}

/* Work that never ends leaves a turn to the others. */
static void test_dones_leave_a_turn(void **state)
{
	int n = 0;

	(void)state;
	again_worker = worker_new(ev, 1, NULL);
	worker_submit(again_worker, nothing, slow_done, &n);
	for (int turn = 1; turn <= 3; turn++) {
		ev_run_once(ev, -1);
		assert_int_equal(n, turn);
	}
	worker_free(again_worker);
	assert_int_equal(n, 100);
}

/* --- helpers of util.h that only this test covers --- */

static void test_numbers(void **state)
{
	static const struct {
		const char *s;
		int r;
		uint64_t v;
	} sizes[] = {
		{ "0", 0, 0 },
		{ "4096", 0, 4096 },
		{ "0x10", 0, 16 },
		{ "1k", 0, 1024 },
		{ "1.5G", 0, 1610612736 },
		{ "64M", 0, 64 << 20 },
		{ "15E", 0, 15ull << 60 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "512b", 0, 512 },
		{ "16E", -ERANGE, 0 },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "1.5", -EINVAL, 0 },
		{ "k", -EINVAL, 0 },
		{ "1kk", -EINVAL, 0 },
		{ "1 k", -EINVAL, 0 },
		{ "0x", -EINVAL, 0 },
		{ "1.G", -EINVAL, 0 },
	};
	int64_t s = 1;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t v = 0;

		assert_int_equal(parse_size(sizes[i].s, &v), sizes[i].r);
		if (!sizes[i].r)
			assert_true(v == sizes[i].v);
	}
	assert_int_equal(parse_s64("-9223372036854775808", &s), 0);
	assert_true(s == INT64_MIN);
	assert_int_equal(parse_s64("9223372036854775808", &s), -ERANGE);
	assert_int_equal(parse_s64("--1", &s), -EINVAL);
	assert_true(id_wellformed("a1-._Z", 31));
	assert_false(id_wellformed("", 31) || id_wellformed("9a", 31) || id_wellformed("a b", 31) ||
		     id_wellformed("#a", 31) || id_wellformed("abcd", 3));
	assert_true(id_wellformed("abc", 3));
}

static void test_durable_file(void **state)
{
	char dir[] = "/tmp/livechain-test.XXXXXX";
	_cleanup_free_ char *path = NULL, *deep = NULL, *text = NULL;
	struct err e = ERR_INIT;
	size_t len;

	(void)state;
	assert_non_null(mkdtemp(dir));
	path = path_join(dir, "state");
	assert_int_equal(write_file_durably(path, "one", 3, 0600, &e), 0);
	assert_int_equal(write_file_durably(path, "second", 6, 0600, &e), 0);
	assert_int_equal(read_file(path, 6, &text, &len, &e), 0);
	assert_string_equal(text, "second");
	assert_true(read_file(path, 5, &deep, &len, &e) == -EFBIG);
	unlink(path);
	/* Nothing is left behind, nor on failure. */
	assert_int_equal(rmdir(dir), 0);
	assert_true(write_file_durably(path, "x", 1, 0600, NULL) == -ENOENT);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_free_in_callback),
		T(test_hangup_and_mask),
		T(test_regular_file_is_refused),
		T(test_timers),
		T(test_defer),
		T(test_defer_cancel_last),
		T(test_signal),
		T(test_queues_keep_order),
		T(test_reserved_queue_never_waits),
		T(test_done_may_submit_more),
		T(test_dones_leave_a_turn),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_durable_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
