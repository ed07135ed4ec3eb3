// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * drive-mirror with sync=none to an overlay of its own source. What guests write while it runs is
 * in the source, and the source is below the target: so nothing is copied, and the job is ready at
 * once. Completed, the disk goes on in the overlay, as after blockdev-snapshot; cancelled, it stays
 * empty.
 */
#include <errno.h>

#include "ctl.h"
#include "job-copy.h"
#include "mirror.h"
#include "state.h"
#include "transaction.h"

static void lend(struct job *j, struct node *n, int by)
{
	n->users += by;
	n->job = by < 0 ? NULL : j->id;
	n->job_type = by < 0 ? NULL : j->type->name;
}

/* The snapshot finds both nodes free; they are the job's again for its end. */
static void lend_all(struct job *j, int by)
{
	core_lock();
	lend(j, j->source_node, by);
	lend(j, j->target_node, by);
	j->source->jobs += by;
	core_unlock();
}

static int overlay_finish(struct job *j, struct err *e)
{
	_cleanup_json_ struct json *args = NULL;
	int r;

	if (!j->source || !j->source_node || !j->target_node)
		return err_set(e, ENODEV, "its disk is gone");
	if (view_of_top(j->target_node)) /* an earlier daemon's work */
		return 0;
	args = json_pack("{s:s, s:s}", "node", j->source_node->name, "overlay",
			 j->target_node->name);
	lend_all(j, -1);
	r = txn_single(&txn_snapshot, args, e);
	lend_all(j, 1);
	return r;
}

const struct job_type overlay_mirror_job = {
	.name = "mirror", .block = true,
	.kind = "overlay-mirror",
	.completable = true,
	.clean = job_copy_clean,
	.finish = overlay_finish,
};

int mirror_overlay_start(const struct job_args *args, struct node *source, struct node *dest,
			 struct err *e)
{
	struct job *j = job_begin(args, &overlay_mirror_job, 0);

	core_lock();
	j->source = j->disk = view_of_top(source);
	j->source_node = source;
	j->target_node = dest;
	j->kernel_gone = true;
	core_unlock();
	job_hold(j);
	job_set_status(j, JOB_RUNNING);
	job_become_ready(j);
	return state_save(e);
}
