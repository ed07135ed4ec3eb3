// SPDX-License-Identifier: GPL-2.0-only
/* The two tables of a job's life; job-states.h has the drawing. */
#include <linux/string.h>

#include "logic/job-states.h"

static const char *const state_names[LC_JOB_NR_STATES] = {
	[LC_JOB_CREATED] = "created",
	[LC_JOB_RUNNING] = "running",
	[LC_JOB_PAUSED] = "paused",
	[LC_JOB_READY] = "ready",
	[LC_JOB_STANDBY] = "standby",
	[LC_JOB_CONCLUDED] = "concluded",
};

static const char *const verb_names[LC_JOB_NR_VERBS] = {
	[LC_VERB_PAUSE] = "pause",
	[LC_VERB_RESUME] = "resume",
	[LC_VERB_CANCEL] = "cancel",
	[LC_VERB_COMPLETE] = "complete",
	[LC_VERB_DISMISS] = "dismiss",
	[LC_VERB_SPEED] = "speed",
	[LC_VERB_MODE] = "mode",
};

static const bool follows[LC_JOB_NR_STATES][LC_JOB_NR_STATES] = {
	[LC_JOB_CREATED] = {
		[LC_JOB_RUNNING] = true,
		[LC_JOB_PAUSED] = true,
		[LC_JOB_CONCLUDED] = true,
	},
	[LC_JOB_RUNNING] = {
		[LC_JOB_PAUSED] = true,
		[LC_JOB_READY] = true,
		[LC_JOB_CONCLUDED] = true,
	},
	[LC_JOB_PAUSED] = {
		[LC_JOB_RUNNING] = true,
		[LC_JOB_CONCLUDED] = true,
	},
	[LC_JOB_READY] = {
		[LC_JOB_STANDBY] = true,
		[LC_JOB_CONCLUDED] = true,
	},
	[LC_JOB_STANDBY] = {
		[LC_JOB_READY] = true,
		[LC_JOB_CONCLUDED] = true,
	},
};

static const bool accepts[LC_JOB_NR_STATES][LC_JOB_NR_VERBS] = {
	[LC_JOB_CREATED] = {
		[LC_VERB_PAUSE] = true,
		[LC_VERB_RESUME] = true,
		[LC_VERB_CANCEL] = true,
		[LC_VERB_SPEED] = true,
		[LC_VERB_MODE] = true,
	},
	[LC_JOB_RUNNING] = {
		[LC_VERB_PAUSE] = true,
		[LC_VERB_RESUME] = true,
		[LC_VERB_CANCEL] = true,
		[LC_VERB_SPEED] = true,
		[LC_VERB_MODE] = true,
	},
	[LC_JOB_PAUSED] = {
		[LC_VERB_PAUSE] = true,
		[LC_VERB_RESUME] = true,
		[LC_VERB_CANCEL] = true,
		[LC_VERB_SPEED] = true,
		[LC_VERB_MODE] = true,
	},
	[LC_JOB_READY] = {
		[LC_VERB_PAUSE] = true,
		[LC_VERB_RESUME] = true,
		[LC_VERB_CANCEL] = true,
		[LC_VERB_SPEED] = true,
		[LC_VERB_MODE] = true,
		[LC_VERB_COMPLETE] = true,
	},
	[LC_JOB_STANDBY] = {
		[LC_VERB_PAUSE] = true,
		[LC_VERB_RESUME] = true,
		[LC_VERB_CANCEL] = true,
		[LC_VERB_SPEED] = true,
		[LC_VERB_MODE] = true,
	},
	[LC_JOB_CONCLUDED] = {
		[LC_VERB_CANCEL] = true,
		[LC_VERB_DISMISS] = true,
	},
};

const char *lc_job_state_name(enum lc_job_state state)
{
	return state_names[state];
}

const char *lc_job_verb_name(enum lc_job_verb verb)
{
	return verb_names[verb];
}

const char *lc_job_side_name(enum lc_job_side side)
{
	return side == LC_SIDE_READ ? "read" : "write";
}

bool lc_job_may_follow(enum lc_job_state from, enum lc_job_state to)
{
	return follows[from][to];
}

bool lc_job_accepts(enum lc_job_state state, enum lc_job_verb verb)
{
	return accepts[state][verb];
}

enum lc_job_verb lc_job_parse_verb(const char *word)
{
	unsigned int i;

	for (i = 0; i < LC_JOB_NR_VERBS; i++)
		if (!strcmp(word, verb_names[i]))
			break;
	return i;
}
