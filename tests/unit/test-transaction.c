// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The order of a transaction's steps, with actions and devices made of words; and what a failure at
 * each step leaves. Then jobs that complete as one.
 *
 * LDFLAGS: -Wl,--wrap=view_settle,--wrap=view_suspend_now,--wrap=view_resume_now,--wrap=view_resume_wait,--wrap=state_save,--wrap=guard_undo,--wrap=guard_keep,--wrap=event_post
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>

#include "daemon/ctl.h"
#include "daemon/guard.h"
#include "daemon/state.h"
#include "daemon/transaction.h"
#include "lib/log.h"

static char story[4096];
static const char *fail_at; /* the word that fails */

static int word(const char *what, const char *whom)
{
	size_t n = strlen(story);

	snprintf(story + n, sizeof(story) - n, "%s%s%s ", what, *whom ? ":" : "", whom);
	return fail_at && !strcmp(fail_at, story + n) ? -EIO : 0;
}

/* 0, or a failure with a sentence, as @fail_at ("act:b ") asks. */
static int step(const char *what, const char *whom, struct err *e)
{
	return word(what, whom) ? err_set(e, EIO, "%s failed", what) : 0;
}

void __wrap_view_settle(struct view *v);
void __wrap_view_settle(struct view *v)
{
	(void)word("settle", v->dm);
}

int __wrap_view_suspend_now(struct view *v, struct err *e);
int __wrap_view_suspend_now(struct view *v, struct err *e)
{
	return step("suspend", v->dm, e);
}

int __wrap_view_resume_now(struct view *v, struct err *e);
int __wrap_view_resume_now(struct view *v, struct err *e)
{
	return step("resume", v->dm, e);
}

void __wrap_view_resume_wait(struct view *v);
void __wrap_view_resume_wait(struct view *v)
{
	(void)v;
}

int __wrap_state_save(struct err *e);
int __wrap_state_save(struct err *e)
{
	return step("save", "", e);
}

void __wrap_guard_undo(const char *dm, const char *text);
void __wrap_guard_undo(const char *dm, const char *text)
{
	(void)dm;
	(void)word("guard", text);
}

void __wrap_guard_keep(void);
void __wrap_guard_keep(void)
{
	(void)word("keep", "");
}

void __wrap_event_post(const char *name, struct json *data);
void __wrap_event_post(const char *name, struct json *data)
{
	const char *status = json_str_of(json_get(data, "status"));
	const char *id = json_str_of(json_get(data, "id"));

	if (!id)
		id = json_str_of(json_get(data, "device"));
	(void)word(status ? status : strrchr(name, '_') + 1, id);
	json_unref(data);
}

/* --- actions: data is {"name": n, "device": d, "job": bool} --------------------------- */

static struct view views[2] = { { .dm = (char *)"v1" }, { .dm = (char *)"v2" } };

static int clean(struct job *j, struct err *e)
{
	return step("clean", j->id, e);
}

static const struct job_type type = { .name = "backup", .block = true, .clean = clean };

static const char *name_of(struct txn_action *a)
{
	return a->state;
}

static int prepare(struct txn_action *a, struct json *args, struct err *e)
{
	const char *name = json_str_of(json_get(args, "name"));
	const char *device = json_str_of(json_get(args, "device"));
	int r = step("prepare", name, e);

	if (r)
		return r;
	a->state = xstrdup(name);
	a->view = !device ? NULL : streq(device, "v1") ? &views[0] : &views[1];
	snprintf(a->undo, sizeof(a->undo), "no-%s", name);
	if (json_bool_of(json_get(args, "job")))
		a->job = job_new(name, &type, !json_bool_of(json_get(args, "by-hand")), false, 0);
	return 0;
}

static int act(struct txn_action *a, struct err *e)
{
	return step("act", name_of(a), e);
}

#define HOOK(fn)                              \
	static void fn(struct txn_action *a)  \
	{                                     \
		(void)word(#fn, name_of(a));  \
	}
HOOK(revert)
HOOK(settled)
HOOK(commit)
HOOK(abort_)

static const struct txn_type kind = {
	.name = "test",
	.prepare = prepare,
	.act = act,
	.revert = revert,
	.settle = settled,
	.commit = commit,
	.abort = abort_,
};

static int run(const char *actions, bool grouped, const char *fail, struct err *e)
{
	const struct txn_type *types[4] = { &kind, &kind, &kind, &kind };
	_cleanup_json_ struct json *list = json_parse(actions, strlen(actions), e);
	struct json *args[4] = { 0 };

	assert_non_null(list);
	for (size_t i = 0; i < json_len(list); i++)
		args[i] = json_at(list, i);
	story[0] = '\0';
	fail_at = fail;
	err_clear(e);
	return txn_run(types, args, json_len(list), grouped, e);
}

#define TWO "[{'name': 'a', 'device': 'v1'}, {'name': 'b', 'device': 'v2'}]"

static void all_is_well(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(run(TWO, false, NULL, &e), 0);
	assert_string_equal(story, "prepare:a prepare:b save settle:v1 settle:v2 suspend:v1 suspend:v2 "
				   "guard:no-a act:a guard:no-b act:b keep settled:a settled:b "
				   "resume:v1 resume:v2 commit:a commit:b save ");
	/* One alone needs no undoing; one device is suspended once; none need be. */
	assert_int_equal(run("[{'name': 'a', 'device': 'v1'}]", false, NULL, &e), 0);
	assert_string_equal(story, "prepare:a save settle:v1 suspend:v1 act:a keep settled:a "
				   "resume:v1 commit:a save ");
	assert_int_equal(run("[{'name': 'a', 'device': 'v1'}, {'name': 'b', 'device': 'v1'}, {'name': 'c'}]",
			     false, NULL, &e), 0);
	assert_string_equal(story, "prepare:a prepare:b prepare:c save settle:v1 suspend:v1 guard:no-a "
				   "act:a guard:no-b act:b act:c keep settled:a settled:b settled:c "
				   "resume:v1 commit:a commit:b commit:c save ");
}

static void a_failure_undoes_all(void **state)
{
	static const struct {
		const char *at, *story;
	} cases[] = {
		{ "prepare:b ", "prepare:a prepare:b abort_:a save " },
		{ "save ", "prepare:a prepare:b save abort_:b abort_:a save " },
		{ "suspend:v2 ", "prepare:a prepare:b save settle:v1 settle:v2 suspend:v1 suspend:v2 "
				 "keep resume:v1 abort_:b abort_:a save " },
		{ "act:a ", "prepare:a prepare:b save settle:v1 settle:v2 suspend:v1 suspend:v2 "
			    "guard:no-a act:a keep resume:v1 resume:v2 abort_:b abort_:a save " },
		{ "act:b ", "prepare:a prepare:b save settle:v1 settle:v2 suspend:v1 suspend:v2 "
			    "guard:no-a act:a guard:no-b act:b revert:a keep resume:v1 resume:v2 "
			    "abort_:b abort_:a save " },
	};
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(run(TWO, false, cases[i].at, &e), -EIO);
		assert_string_equal(story, cases[i].story);
		assert_non_null(strstr(e.msg, "failed"));
	}
}

/* It is done; the others must not wait for the one that can't go on. */
static void a_device_that_stays_suspended(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	log_set_level(0);
	assert_int_equal(run(TWO, false, "resume:v1 ", &e), -EIO);
	assert_non_null(strstr(story, "resume:v1 resume:v2 commit:a commit:b save "));
	assert_null(strstr(story, "abort_"));
	assert_non_null(strstr(e.msg, "'v1' stays suspended"));
}

/* --- jobs ------------------------------------------------------------------------------ */

#define JOBS(by_hand) "[{'name': 'a', 'device': 'v1', 'job': true}, " \
		      "{'name': 'b', 'device': 'v2', 'job': true, 'by-hand': " by_hand "}]"

static void jobs_begin_as_qemus(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(run(JOBS("false"), false, NULL, &e), 0);
	assert_string_equal(story, "prepare:a prepare:b save running:a paused:a running:b paused:b "
				   "settle:v1 settle:v2 suspend:v1 suspend:v2 guard:no-a act:a "
				   "guard:no-b act:b keep settled:a settled:b resume:v1 resume:v2 "
				   "running:a running:b commit:a commit:b save ");
	assert_int_equal(job_find("a")->group, 0);
	assert_false(job_find("a")->starting);
	job_forget(job_find("a"));
	job_forget(job_find("b"));
	assert_int_equal(run(JOBS("false"), false, "act:b ", &e), -EIO);
	assert_non_null(strstr(story, "abort_:b running:b aborting:b concluded:b null:b abort_:a running:a aborting:a concluded:a null:a "));
	assert_true(list_empty(&job_list));
}

static void each_by_itself(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(run(JOBS("false"), false, NULL, &e), 0);
	story[0] = '\0';
	job_succeed(job_find("a"));
	assert_string_equal(story, "waiting:a pending:a save clean:a COMPLETED:a concluded:a ");
	assert_int_equal(job_find("b")->status, JOB_RUNNING);
}

static void a_group_ends_together(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(run(JOBS("false"), true, NULL, &e), 0);
	story[0] = '\0';
	job_succeed(job_find("a"));
	assert_string_equal(story, "waiting:a ");
	job_succeed(job_find("b"));
	assert_string_equal(story, "waiting:a waiting:b pending:b pending:a save clean:b COMPLETED:b "
				   "concluded:b clean:a COMPLETED:a concluded:a ");
}

/* tests/transcripts of QEMU: pending for all, PENDING for those by hand; one word for all. */
static void a_group_by_hand(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(run(JOBS("true"), true, NULL, &e), 0);
	story[0] = '\0';
	job_succeed(job_find("b"));
	job_succeed(job_find("a"));
	assert_string_equal(story, "waiting:b waiting:a pending:b PENDING:b pending:a ");
	story[0] = '\0';
	assert_int_equal(job_finalize(job_find("a"), &e), 0);
	assert_string_equal(story, "save clean:b COMPLETED:b concluded:b clean:a COMPLETED:a concluded:a ");
}

static void one_takes_the_others(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(run(JOBS("false"), true, NULL, &e), 0);
	job_succeed(job_find("a"));
	story[0] = '\0';
	assert_int_equal(job_cancel(job_find("b"), &e), 0);
	assert_string_equal(story, "aborting:b save clean:b CANCELLED:b concluded:b aborting:a clean:a "
				   "CANCELLED:a concluded:a ");
	assert_string_equal(job_find("a")->error, "Operation canceled");
	job_forget(job_find("a"));
	job_forget(job_find("b"));
	/* a failure: COMPLETED with its error, the others are cancelled */
	assert_int_equal(run(JOBS("false"), true, NULL, &e), 0);
	job_find("a")->error = xstrdup("Input/output error");
	story[0] = '\0';
	job_fail(job_find("a"));
	assert_string_equal(story, "aborting:a save aborting:b clean:b CANCELLED:b concluded:b clean:a "
				   "COMPLETED:a concluded:a ");
}

static int forget(void **state)
{
	struct job *j;

	(void)state;
	list_for_each(j, &job_list, link)
		job_forget(j);
	return 0;
}

#define TEST(f) cmocka_unit_test_teardown(f, forget)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_is_well),	   TEST(a_failure_undoes_all),
		TEST(a_device_that_stays_suspended), TEST(jobs_begin_as_qemus),
		TEST(each_by_itself),	   TEST(a_group_ends_together),
		TEST(a_group_by_hand),	   TEST(one_takes_the_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
