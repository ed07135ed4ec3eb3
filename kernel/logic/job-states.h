/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The life of a job: which state may follow which, which verb is legal when,
 * and the words for both. Pure: no locks, no memory, no I/O; also compiled in
 * user space by tests/logic.
 *
 *	         resume of the device        everything copied, or an error
 *	CREATED ----------------------> RUNNING -------------------> CONCLUDED
 *	   |  \                          |   ^  \ both sides are         ^
 *	   |   \ copy ... paused   pause |   |   \ equal (track)        |
 *	   |    `--------------------> PAUSED     `--> READY ---complete-'
 *	   |                                       pause | ^ resume
 *	   |                                         STANDBY
 *	   `---- cancel, error: from every state to CONCLUDED
 *
 * What holds in each state:
 * CREATED	no I/O of the job was ever issued; a before-write job's line in
 *		time is drawn already (the device is suspended).
 * RUNNING	the background copy goes on; guests' writes wait for old content.
 * PAUSED	no background copy is issued; what guests' writes need is copied.
 *		Left by the verb resume only, which also retries what an error stopped.
 * READY	a tracking job: both sides were equal, and what guests' writes change is
 *		copied again. Never left for RUNNING.
 * STANDBY	READY, and paused.
 * CONCLUDED	nothing of the job is in flight and guests' writes no longer look
 *		at it; it has a result. Left by the verb dismiss only.
 */
#ifndef LC_LOGIC_JOB_STATES_H
#define LC_LOGIC_JOB_STATES_H

#include <linux/types.h>

enum lc_job_state {
	LC_JOB_CREATED,
	LC_JOB_RUNNING,
	LC_JOB_PAUSED,
	LC_JOB_READY,
	LC_JOB_STANDBY,
	LC_JOB_CONCLUDED,
	LC_JOB_NR_STATES
};

enum lc_job_verb {
	LC_VERB_PAUSE,
	LC_VERB_RESUME,
	LC_VERB_CANCEL,
	LC_VERB_COMPLETE,
	LC_VERB_DISMISS,
	LC_VERB_SPEED,
	LC_VERB_MODE,
	LC_JOB_NR_VERBS
};

/* Side and cause of what ended or stopped a job. */
enum lc_job_side {
	LC_SIDE_READ,
	LC_SIDE_WRITE,
};

/** lc_job_state_name() - The word that status prints for @state. */
const char *lc_job_state_name(enum lc_job_state state);

/** lc_job_verb_name() - The word by which the message `job` knows @verb. */
const char *lc_job_verb_name(enum lc_job_verb verb);

/** lc_job_side_name() - "read" or "write", as results print it. */
const char *lc_job_side_name(enum lc_job_side side);

/** lc_job_runs() - Does the background copy go on in @state? */
static inline bool lc_job_runs(enum lc_job_state state)
{
	return state == LC_JOB_RUNNING || state == LC_JOB_READY;
}

/** lc_job_may_follow() - May a job go from state @from to state @to? */
bool lc_job_may_follow(enum lc_job_state from, enum lc_job_state to);

/**
 * lc_job_accepts() - Is @verb legal in @state?
 *
 * A verb that asks for what is so already (pause a paused job, cancel a
 * concluded one) is legal and changes nothing: messages may be repeated.
 */
bool lc_job_accepts(enum lc_job_state state, enum lc_job_verb verb);

/**
 * lc_job_parse_verb() - Find the verb called @word.
 *
 * Return: the verb, or LC_JOB_NR_VERBS if there is none of that name.
 */
enum lc_job_verb lc_job_parse_verb(const char *word);

#endif
