// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/util.h"
#include "tool/job-run.h"

void job_run_option(struct tool *t, struct job_run *run, int c)
{
	if (c == 'S' && (parse_size(optarg, &run->speed) || run->speed > INT64_MAX))
		tool_usage(t, "speed '%s' is not a number of bytes a second (suffixes k, M, G)",
			   optarg);
	else if (c == 'J')
		run->given_id = optarg;
	run->no_wait |= c == 'w';
	run->dry |= c == 'D';
}

void job_run_name(struct job_run *run, const char *prefix, const struct disk *d)
{
	run->id = run->given_id ? xstrdup(run->given_id) : make_id(prefix, d->name, 63);
}

int job_run_wait(struct tool *t, const struct job_run *run, const char *at_ready,
		 enum wait_end *ret_end, struct err *e)
{
	bool concluded;
	int r = job_wait(t, run->id, at_ready, ret_end, &concluded, e);

	if (concluded) {
		(void)tool_qmp(t, "job-dismiss", json_pack("{s:s}", "id", run->id), NULL, NULL);
		return r;
	}
	if (!r)
		r = err_set(e, ECANCELED, "interrupted: job '%s' was told to cancel", run->id);
	*ret_end = WAIT_LEFT;
	return r;
}

void job_run_say_running(const struct job_run *run)
{
	printf("job %s is running; when it has ended: livechain job dismiss %s\n", run->id,
	       run->id);
}

void job_run_done(struct job_run *run)
{
	free(run->id);
}
