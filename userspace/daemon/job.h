/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Block jobs: QEMU's states, verbs and events over the kernel's primitives.
 *
 *   created -> running <-> paused
 *   running -> ready <-> standby		 mirror, commit of the active image
 *   running, ready -> waiting -> pending -> concluded -> null
 *   any before concluded -> aborting -> concluded
 *
 * (Full tables: job.c; meaning: Documentation/design/jobs.rst.) The kernel does the copying and knows
 * how far it is; the daemon owns the state that clients see. All changes on the
 * control thread; queries on the loop under core_lock().
 */
#ifndef LIVECHAIN_JOB_H
#define LIVECHAIN_JOB_H

#include "../lib/list.h"
#include "dispatch.h"
#include "view.h"

enum job_status {
	JOB_CREATED,
	JOB_RUNNING,
	JOB_PAUSED,
	JOB_READY,
	JOB_STANDBY,
	JOB_WAITING,
	JOB_PENDING,
	JOB_ABORTING,
	JOB_CONCLUDED,
	JOB_NULL,
	JOB_NR_STATUS,
};

enum job_verb {
	JOB_VERB_CANCEL,
	JOB_VERB_PAUSE,
	JOB_VERB_RESUME,
	JOB_VERB_SET_SPEED,
	JOB_VERB_COMPLETE,
	JOB_VERB_FINALIZE,
	JOB_VERB_DISMISS,
	JOB_VERB_CHANGE,
	JOB_NR_VERBS,
};

struct job;

/* What a type of job brings. Control thread. */
struct job_type {
	const char *name; /* QEMU's: "backup" */
	bool block;	  /* known to block-job-*, query-block-jobs; has BLOCK_JOB_* events */
	const char *kind; /* where one name has several: how the state folder calls it; or NULL */
	bool hidden;	  /* a node's, not a user's: in no list, without events, not for verbs */
	bool completable; /* gets ready, then waits for complete or cancel */
	/* Undoes what the start built; the kernel's job has concluded. Posts nothing. */
	int (*clean)(struct job *j, struct err *e);
	/*
	 * What makes the result count: backing pointers, the switch of a disk. Before clean(); may be
	 * NULL. Repeatable: a daemon that dies in it is followed by one that calls it again.
	 */
	int (*finish)(struct job *j, struct err *e);
};

/* What an error on one side of a job does. */
enum job_policy { JOB_REPORT, JOB_IGNORE, JOB_ENOSPC, JOB_STOP };
enum job_side { JOB_READ, JOB_WRITE, JOB_NR_SIDES };

struct job {
	struct list link;
	char *id;
	const struct job_type *type;
	enum job_status status;
	bool auto_finalize, auto_dismiss;
	bool user_paused;
	bool cancelled;
	bool cleaned;
	bool starting;	 /* saved, and not known to have begun: a daemon's death may undo it */
	bool finalizing; /* told to, or all were ready: goes on after a restart */
	unsigned group;	 /* of a transaction that completes as one; 0: none */
	bool kernel_gone;  /* the kernel has nothing of it any more */
	int64_t speed;	   /* bytes a second; 0: no limit */
	uint64_t len, offset;
	const char *io_status; /* "ok", "failed", "nospace" */
	char *error;	   /* NULL: none */

	struct view *source;	 /* has the kernel's job */
	struct view *target;	 /* NULL: the destination is a device or file itself */
	struct node *source_node, *target_node;
	int dest; /* layer in @source */
	bool source_internal; /* @source was made for this job */

	bool held;	     /* job_hold() was called */
	struct node **chain; /* more images that it holds: job_hold_node() */
	unsigned nr_chain;
	struct view *disk;   /* whose chain it changes; may be @source; NULL: no disk has it */
	char *backing_file;  /* what a header shall say in place of the base's path; or NULL */
	char *base;	     /* name of the node with which the chain goes on; NULL: none */
	char *top;	     /* commit: name of the topmost image that is committed */
	enum job_policy policy[JOB_NR_SIDES];
	uint64_t ignored_at;  /* ev_now_ms() when an error was ignored; 0: none waits */
	bool should_complete; /* asked for, by complete or ... */
	bool soft_cancel;     /* ... by a cancel in ready, which ends it without finish() */
	unsigned tries;	      /* to complete it */
	bool finished;	      /* finish() has done its work */
	bool write_blocking;  /* mirror: guests' writes go to both sides */
};

#define LIVECHAIN_JOB_ID_MAX 63 /* bytes: the kernel's limit for a name */

extern struct list job_list;

const char *job_status_name(enum job_status s);

struct job *job_find(const char *id);

/* The ids of the jobs that copy from @v (NULL: of all), for who may end others while it looks at one. */
size_t job_ids(const struct view *v, char ***ret);
void job_ids_free(char **ids, size_t n);

/* A number for a new group. */
unsigned job_new_group(void);
/* The jobs that complete with @j, itself included, newest first. *@ret is the caller's to free. */
size_t job_members(struct job *j, struct job ***ret);

/* @id NULL: @fallback (the disk's name, may be NULL too). -EINVAL, -EEXIST with QEMU's sentences. */
int job_check_id(const char *id, const char *fallback, const char **ret, struct err *e);

/* A new job in `created`, announced. */
struct job *job_new(const char *id, const struct job_type *type, bool auto_finalize,
		    bool auto_dismiss, int64_t speed);
/* The only way a state changes: checks the table, posts JOB_STATUS_CHANGE. */
void job_set_status(struct job *j, enum job_status status);
/* Frees it: it is in `null`, or never was announced. */
void job_forget(struct job *j);
/* Ends a job that was announced and has not begun, as QEMU does when its transaction fails. */
void job_abort_start(struct job *j);

bool job_uses_view(const struct view *v);

/* One more image that is the job's until job_release(). */
void job_hold_node(struct job *j, struct node *n);

struct json *job_save(void);
int job_restore(struct json *jobs, struct err *e);
void job_drop_leftovers(void);
/* After a restart, last: what a job's end was in the middle of is done. */
void job_go_on(void);

/* For quit: cancels all; each is gone afterwards. */
void job_quit(void);

/* Loop: the kernel has news of a view's jobs. */
void job_kernel_news(struct view *v);

/* job-kernel.c */
/* Waits (bounded) until the kernel's job has concluded; false if it has not. */
bool job_wait_kernel(struct view *v, const char *id);
/* Looks at what the kernel says of all jobs of @dm and goes on with them. */
void job_advance_view(const char *dm);
/* The job in what the kernel says of a view's; NULL: it has none of that name. */
struct view_job *job_in_status(struct view_status *st, const char *id);
void job_take_progress(struct job *j, const struct view_job *k);
/* "error:write:5" or "stopped:read:28": its errno, and the side in @side. */
int job_parse_result(const char *result, char side[8]);
void job_post_error(struct job *j, const char *side, const char *action);

/* job-end.c */
/* Why it ends, if nothing else was first. */
void job_set_error(struct job *j, const char *text);
/* The kernel's job is cancelled, and waited for; it may have gone already. */
int job_stop_kernel(struct job *j, struct err *e);
/* From paused or standby, before it ends. */
void job_leave_pause(struct job *j);
/* Saves the state after a change that can't fail any more. */
void job_keep_result(void);
/* It, and what completes with it. */
int job_finalize(struct job *j, struct err *e);
/* What it was to do is done: it waits for those that complete with it, then all go on. */
void job_succeed(struct job *j);
/* ready, and the event that says so. */
void job_become_ready(struct job *j);
/* With @j->error set, or cancelled: it ends, and so does what completes with it. */
void job_fail(struct job *j);
void job_dismiss(struct job *j);
/* Cancels a job in any state before concluded and sees it to its end. */
int job_cancel(struct job *j, struct err *e);

/*
 * For a ready job: what is left is copied and the kernel's job concluded while the disk stands
 * still. On success it is suspended still if @hold. -EAGAIN: not within the bound; all as before.
 */
int job_catch_up(struct job *j, bool hold, struct err *e);

extern const struct job_type backup_job, create_job, stream_job, commit_job, active_commit_job,
	mirror_job, overlay_mirror_job, fleece_job;
extern const struct job_type *const job_types[]; /* NULL ends it */
extern const struct qmp_command job_commands[], backup_commands[], drive_backup_commands[],
	stream_commands[], commit_commands[], mirror_commands[];
extern const struct qmp_event_def job_events[];

#endif
