// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>

#include "../lib/log.h"
#include "ctl.h"
#include "guard.h"
#include "state.h"
#include "transaction.h"

#define ACTIONS_MAX 256

struct txn {
	struct txn_action *actions;
	size_t n;
	size_t nr_prepared, nr_acted;
	struct view **views; /* each once, in the order of the actions */
	size_t nr_views, nr_suspended;
	uint64_t held_ms; /* when the first was held; then, how long */
	bool stands; /* done, whatever was said of a device that could not be resumed */
};

/* --- the devices --- */

static void collect_views(struct txn *t)
{
	t->views = xcalloc(t->n ? t->n : 1, sizeof(*t->views));
	for (size_t i = 0; i < t->n; i++) {
		struct view *v = t->actions[i].view;
		bool known = !v;

		for (size_t k = 0; k < t->nr_views; k++)
			known |= t->views[k] == v;
		if (!known)
			t->views[t->nr_views++] = v;
	}
}

/* What each has to commit is committed before the first is held. */
static int suspend_all(struct txn *t, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < t->nr_views; i++)
		view_settle(t->views[i]);
	t->held_ms = ev_now_ms();
	while (t->nr_suspended < t->nr_views && !r) {
		r = view_suspend_now(t->views[t->nr_suspended], e);
		t->nr_suspended += !r;
	}
	return r;
}

/* A device that can't be resumed is left to the guard; the others must not wait for it. */
static int resume_all(struct txn *t, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < t->nr_suspended; i++) {
		struct err one = ERR_INIT;

		if (!view_resume_now(t->views[i], &one))
			continue;
		log_error("'%s': %s", t->views[i]->dm, one.msg);
		if (!r)
			r = err_set(e, one.code ? one.code : EIO,
				    "'%s' stays suspended (%s); dmsetup resume lets it go on",
				    t->views[i]->dm, one.msg);
		err_clear(&one);
	}
	t->held_ms = ev_now_ms() - t->held_ms;
	for (size_t i = 0; i < t->nr_suspended; i++)
		view_resume_wait(t->views[i]);
	t->nr_suspended = 0;
	return r;
}

/* --- the actions --- */

static void revert_all(struct txn *t)
{
	while (t->nr_acted > 0) {
		struct txn_action *a = &t->actions[--t->nr_acted];

		if (a->type->revert)
			a->type->revert(a);
	}
	guard_keep(); /* nothing is left for it to revert */
}

static void abort_all(struct txn *t)
{
	while (t->nr_prepared > 0) {
		struct txn_action *a = &t->actions[--t->nr_prepared];

		if (a->type->abort)
			a->type->abort(a);
		if (a->job)
			job_abort_start(a->job);
		a->job = NULL;
	}
}

static int prepare_all(struct txn *t, struct json *const *args, struct err *e)
{
	int r = 0;

	while (t->nr_prepared < t->n && !r) {
		struct txn_action *a = &t->actions[t->nr_prepared];

		r = a->type->prepare(a, args[t->nr_prepared], e);
		t->nr_prepared += !r;
	}
	return r;
}

/* The guard knows how to revert each before it is done. One alone is done or not by itself. */
static int act_all(struct txn *t, struct err *e)
{
	int r = 0;

	while (t->nr_acted < t->n && !r) {
		struct txn_action *a = &t->actions[t->nr_acted];

		if (t->n > 1 && a->view && a->undo[0])
			guard_undo(a->view->dm, a->undo);
		r = a->type->act ? a->type->act(a, e) : 0;
		t->nr_acted += !r;
	}
	return r;
}

static void settle_all(struct txn *t)
{
	guard_keep();
	for (size_t i = 0; i < t->n; i++) {
		if (t->actions[i].type->settle)
			t->actions[i].type->settle(&t->actions[i]);
	}
}

static void commit_all(struct txn *t)
{
	for (size_t i = 0; i < t->n; i++) {
		if (t->actions[i].type->commit)
			t->actions[i].type->commit(&t->actions[i]);
	}
}

/* --- their jobs --- */

static void mark_jobs(struct txn *t, bool starting, bool grouped)
{
	unsigned group = grouped ? job_new_group() : 0;

	for (size_t i = 0; i < t->n; i++) {
		if (!t->actions[i].job)
			continue;
		t->actions[i].job->starting = starting;
		if (grouped)
			t->actions[i].job->group = group;
	}
}

/* QEMU's jobs are paused while their nodes are drained; so are ours while devices are held. */
static void begin_jobs(struct txn *t)
{
	for (size_t i = 0; i < t->n; i++) {
		struct txn_action *a = &t->actions[i];

		if (!a->job)
			continue;
		job_set_status(a->job, JOB_RUNNING);
		if (a->view)
			job_set_status(a->job, JOB_PAUSED);
	}
}

static void let_jobs_run(struct txn *t)
{
	for (size_t i = 0; i < t->n; i++) {
		struct job *j = t->actions[i].job;

		if (j && j->status == JOB_PAUSED)
			job_set_status(j, JOB_RUNNING);
	}
}

/* --- the whole --- */

/* The moment: what the guests wait for. *@late: what was wrong with the resume. */
static int change_once(struct txn *t, int *late, struct err *e)
{
	int r = suspend_all(t, e);

	if (!r)
		r = act_all(t, e);
	if (r)
		revert_all(t);
	else
		settle_all(t);
	t->stands = !r;
	*late = resume_all(t, r ? NULL : e);
	return r;
}

static int change(struct txn *t, struct err *e)
{
	unsigned tries = 0;
	int r, late;

	do {
		err_clear(e);
		r = change_once(t, &late, e);
	} while (view_try_again(r, &tries));
	if (t->nr_views)
		log_info("%zu device%s held for %llu ms: %s", t->nr_views,
			 t->nr_views == 1 ? "" : "s", (unsigned long long)t->held_ms,
			 r ? "nothing changed" : "done");
	if (!r) {
		let_jobs_run(t);
		mark_jobs(t, false, false);
		commit_all(t);
	}
	return r ? r : late;
}

static int run(struct txn *t, struct json *const *args, bool grouped, struct err *e)
{
	int r = prepare_all(t, args, e);

	collect_views(t);
	if (!r) {
		mark_jobs(t, true, grouped);
		r = state_save(e);
	}
	if (!r) {
		begin_jobs(t);
		r = change(t, e);
	}
	if (!t->stands)
		abort_all(t);
	if (!r)
		return state_save(e);
	(void)state_save(NULL);
	return r;
}

int txn_run(const struct txn_type *const *types, struct json *const *args, size_t n, bool grouped,
	    struct err *e)
{
	struct txn t = { .n = n };
	int r;

	t.actions = xcalloc(n ? n : 1, sizeof(*t.actions));
	for (size_t i = 0; i < n; i++)
		t.actions[i].type = types[i];
	r = run(&t, args, grouped, e);
	for (size_t i = 0; i < n; i++)
		free(t.actions[i].state);
	free(t.views);
	free(t.actions);
	return r;
}

int txn_single(const struct txn_type *type, struct json *args, struct err *e)
{
	return txn_run(&type, &args, 1, false, e);
}

/* --- the command --- */

static const struct {
	const struct txn_type *type;
	bool grouped; /* may be in a group: it has a job, or does nothing */
} kinds[] = {
	{ &txn_abort, true },	  { &txn_backup, true },   { &txn_drive_backup, true },
	{ &txn_snapshot, false }, { &txn_snapshot_sync, false },
};

/* QEMU's test of what a failure undoes. */
static int abort_prepare(struct txn_action *a, struct json *args, struct err *e)
{
	(void)a;
	(void)args;
	return err_set(e, ECANCELED, "Transaction aborted using Abort action");
}

const struct txn_type txn_abort = { .name = "abort", .prepare = abort_prepare };

static int look_up(const char *name, bool grouped, const struct txn_type **ret, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!streq(kinds[i].type->name, name))
			continue;
		if (grouped && !kinds[i].grouped)
			return err_set(e, EINVAL,
				       "Action '%s' does not support Transaction property completion-mode = grouped",
				       name);
		*ret = kinds[i].type;
		return 0;
	}
	return err_set(e, EINVAL, "Parameter 'type' does not accept value '%s'", name);
}

static int transaction(struct json *args, struct json **ret, struct err *e)
{
	_cleanup_free_ const struct txn_type **types = NULL;
	_cleanup_free_ struct json **data = NULL;
	const char *mode = "individual", *name;
	struct json *list = NULL;
	bool grouped;
	size_t n;
	int r;

	(void)ret;
	if ((r = json_need_arr(args, "actions", &list, e)) ||
	    (r = json_opt_str(args, "properties.completion-mode", &mode, e)))
		return r;
	n = json_len(list);
	if (n > ACTIONS_MAX)
		return err_set(e, E2BIG, "A transaction has at most %d actions", ACTIONS_MAX);
	grouped = streq(mode, "grouped");
	types = xcalloc(n + 1, sizeof(*types));
	data = xcalloc(n + 1, sizeof(*data));
	for (size_t i = 0; i < n && !r; i++) {
		r = json_need_str(json_at(list, i), "type", &name, e);
		if (!r)
			r = look_up(name, grouped, &types[i], e);
		data[i] = json_get(json_at(list, i), "data");
	}
	return r || !n ? r : txn_run(types, data, n, grouped, e);
}

static void cmd_transaction(struct qmp_call *call)
{
	ctl_command(call, transaction);
}

static const struct qapi_type abort_data = QAPI_STRUCT("Abort", NULL);
static const struct qapi_member abort_wrapper_members[] = { { "data", &abort_data, 0, NULL }, { 0 } };
static const struct qapi_member backup_wrapper_members[] = {
	{ "data", &blockdev_backup_type, 0, NULL },
	{ 0 },
};
static const struct qapi_member drive_wrapper_members[] = {
	{ "data", &drive_backup_type, 0, NULL },
	{ 0 },
};
static const struct qapi_member snapshot_wrapper_members[] = {
	{ "data", &blockdev_snapshot_type, 0, NULL },
	{ 0 },
};
static const struct qapi_member sync_wrapper_members[] = {
	{ "data", &blockdev_snapshot_sync_type, 0, NULL },
	{ 0 },
};
static const struct qapi_type abort_wrapper = QAPI_STRUCT("AbortWrapper", abort_wrapper_members);
static const struct qapi_type backup_wrapper =
	QAPI_STRUCT("BlockdevBackupWrapper", backup_wrapper_members);
static const struct qapi_type drive_wrapper =
	QAPI_STRUCT("DriveBackupWrapper", drive_wrapper_members);
static const struct qapi_type snapshot_wrapper =
	QAPI_STRUCT("BlockdevSnapshotWrapper", snapshot_wrapper_members);
static const struct qapi_type sync_wrapper =
	QAPI_STRUCT("BlockdevSnapshotSyncWrapper", sync_wrapper_members);

static const char *const kind_values[] = { "abort",	  "blockdev-backup",
					   "blockdev-snapshot", "blockdev-snapshot-sync",
					   "drive-backup",	NULL };
static const struct qapi_type kind_enum = QAPI_ENUM("TransactionActionKind", kind_values);
static const struct qapi_member action_members[] = { { "type", &kind_enum, 0, NULL }, { 0 } };
static const struct qapi_branch action_branches[] = {
	{ "abort", &abort_wrapper },
	{ "blockdev-backup", &backup_wrapper },
	{ "blockdev-snapshot", &snapshot_wrapper },
	{ "blockdev-snapshot-sync", &sync_wrapper },
	{ "drive-backup", &drive_wrapper },
	{ 0 },
};
static const struct qapi_type action_type =
	QAPI_UNION("TransactionAction", action_members, "type", action_branches);
static const struct qapi_type action_list = QAPI_ARRAY(&action_type);
static const char *const mode_values[] = { "individual", "grouped", NULL };
static const struct qapi_type completion_mode = QAPI_ENUM("ActionCompletionMode", mode_values);
static const struct qapi_member property_members[] = {
	{ "completion-mode", &completion_mode, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type properties = QAPI_STRUCT("TransactionProperties", property_members);
static const struct qapi_member transaction_members[] = {
	{ "actions", &action_list, 0, NULL },
	{ "properties", &properties, QAPI_OPT, NULL },
	{ 0 },
};

const struct qmp_command transaction_commands[] = {
	{ .name = "transaction", .handler = cmd_transaction, .args = transaction_members },
	{ 0 },
};
