// SPDX-License-Identifier: GPL-2.0-only
/* The messages `copy` and `job`. */
#include <linux/blkdev.h>
#include <linux/ctype.h>
#include <linux/kstrtox.h>
#include <linux/log2.h>

#include "job.h"
#include "layer.h"
#include "message.h"
#include "view.h"

#define DEFAULT_TIMEOUT_MS 30000

/* What the arguments of `copy` say. */
struct copy_args {
	struct dm_target *ti;
	const char *name;
	unsigned int layer;
	bool before_write, paused;
	bool stop_on[2];
	u64 grain, speed, timeout_ms;
};

static int parse_policy(struct copy_args *a, const char *option, const char *value)
{
	enum lc_job_side side = !strcmp(option, "on-source-error") ? LC_SIDE_READ : LC_SIDE_WRITE;

	if (!strcmp(value, "report"))
		a->stop_on[side] = false;
	else if (!strcmp(value, "stop"))
		a->stop_on[side] = true;
	else
		return lc_refuse(a->ti, -EINVAL, "copy", "%s is report or stop, not %s", option,
				 value);
	return 0;
}

static int parse_number(struct copy_args *a, const char *option, const char *value, u64 *ret)
{
	if (kstrtou64(value, 10, ret))
		return lc_refuse(a->ti, -EINVAL, "copy", "%s needs a number, not %s", option,
				 value);
	return 0;
}

/* One option with its value. */
static int parse_option(struct copy_args *a, const char *option, const char *value)
{
	if (!strcmp(option, "grain"))
		return parse_number(a, option, value, &a->grain);
	if (!strcmp(option, "speed"))
		return parse_number(a, option, value, &a->speed);
	if (!strcmp(option, "timeout"))
		return parse_number(a, option, value, &a->timeout_ms);
	if (!strcmp(option, "on-source-error") || !strcmp(option, "on-target-error"))
		return parse_policy(a, option, value);
	return lc_refuse(a->ti, -EINVAL, "copy", "option %s is unknown", option);
}

static int parse_options(struct copy_args *a, unsigned int argc, char **argv)
{
	unsigned int i = 0;
	int r;

	while (i < argc) {
		if (!strcmp(argv[i], "paused")) {
			a->paused = true;
			i++;
			continue;
		}
		if (i + 1 == argc)
			return lc_refuse(a->ti, -EINVAL, "copy", "option %s has no value", argv[i]);
		r = parse_option(a, argv[i], argv[i + 1]);
		if (r)
			return r;
		i += 2;
	}
	return 0;
}

static bool name_is_valid(const char *name)
{
	size_t len = strlen(name), i;

	if (!len || len > LIVECHAIN_NAME_MAX)
		return false;
	for (i = 0; i < len; i++)
		if (!isalnum(name[i]) && !strchr("._:+-", name[i]))
			return false;
	return true;
}

static int parse_copy(struct copy_args *a, unsigned int argc, char **argv)
{
	if (argc < 4)
		return lc_refuse(a->ti, -EINVAL, "copy",
				 "needs a job's name, a layer and none or before-write");
	a->name = argv[1];
	if (!name_is_valid(a->name))
		return lc_refuse(a->ti, -EINVAL, "copy",
				 "a job's name is 1 to 63 of A-Za-z0-9._:+-");
	if (kstrtouint(argv[2], 10, &a->layer) || a->layer > LIVECHAIN_LAYER_ID_MAX)
		return lc_refuse(a->ti, -EINVAL, "copy", "%s is no layer's id", argv[2]);
	if (!strcmp(argv[3], "track") || !strcmp(argv[3], "both"))
		return lc_refuse(a->ti, -EOPNOTSUPP, "copy",
				 "this version does not have the mode %s", argv[3]);
	a->before_write = !strcmp(argv[3], "before-write");
	if (!a->before_write && strcmp(argv[3], "none"))
		return lc_refuse(a->ti, -EINVAL, "copy", "mode is none or before-write, not %s",
				 argv[3]);
	return parse_options(a, argc - 4, argv + 4);
}

static int check_job(struct lc_view *view, struct copy_args *a)
{
	struct lc_job *job;
	unsigned int nr = 0;

	if (lc_job_find(view, a->name))
		return lc_refuse(a->ti, -EEXIST, "copy", "there is a job %s already", a->name);
	list_for_each_entry(job, &view->jobs->list, list)
		nr++;
	if (nr >= LIVECHAIN_JOBS_MAX)
		return lc_refuse(a->ti, -ENOSPC, "copy",
				 "the view has %u jobs, which is the most; dismiss one", nr);
	if (a->before_write && !view->jobs->drained)
		return lc_refuse(a->ti, -EBUSY, "copy",
				 "before-write starts only while the device is suspended");
	return 0;
}

static int check_layer(struct lc_view *view, struct copy_args *a, struct lc_layer **ret_layer)
{
	struct lc_layer *layer = lc_layer_find(view, a->layer);

	if (!layer || !layer->bdev)
		return lc_refuse(a->ti, -ENOENT, "copy", "the live table has no layer %u",
				 a->layer);
	if (layer == view->active)
		return lc_refuse(a->ti, -EINVAL, "copy", "layer %u is the active one", a->layer);
	if (layer->entries)
		return lc_refuse(a->ti, -EBUSY, "copy",
				 "layer %u holds %llu blocks of the view itself", a->layer,
				 layer->entries);
	if (lc_jobs_use_layer(view, layer))
		return lc_refuse(a->ti, -EBUSY, "copy", "another job writes to layer %u",
				 a->layer);
	if (!layer->writable)
		return lc_refuse(a->ti, -EROFS, "copy", "layer %u is not open for writing",
				 a->layer);
	if (lc_layer_sectors(layer) < view->nr_sectors)
		return lc_refuse(a->ti, -ENOSPC, "copy",
				 "layer %u has %llu sectors, the view %llu; make it larger",
				 a->layer, (u64)lc_layer_sectors(layer), (u64)view->nr_sectors);
	*ret_layer = layer;
	return 0;
}

/* The smallest grain that the view allows, in bytes. */
static u64 grain_min(struct lc_view *view)
{
	return max_t(u64, LC_BUF_BYTES, 1ULL << (lc_grain_shift(view) + SECTOR_SHIFT));
}

static int check_grain(struct lc_view *view, struct copy_args *a)
{
	u64 least = grain_min(view) >> SECTOR_SHIFT;

	if (!a->grain)
		a->grain = least;
	if (!is_power_of_2(a->grain) || a->grain < least || a->grain > LC_GRAIN_MAX_SECTORS)
		return lc_refuse(a->ti, -EINVAL, "copy",
				 "grain is a power of two from %llu to %u sectors, not %llu",
				 least, LC_GRAIN_MAX_SECTORS, a->grain);
	return 0;
}

int lc_message_copy(struct lc_view *view, struct dm_target *ti, unsigned int argc, char **argv)
{
	struct copy_args a = { .ti = ti, .timeout_ms = DEFAULT_TIMEOUT_MS };
	struct lc_layer *layer;
	struct lc_job *job;
	int r;

	r = parse_copy(&a, argc, argv);
	r = r ?: check_job(view, &a);
	r = r ?: check_layer(view, &a, &layer);
	r = r ?: check_grain(view, &a);
	if (r)
		return r;
	job = lc_job_new(view, a.name);
	if (!job)
		return lc_refuse(ti, -ENOMEM, "copy", "no memory for a job");
	job->dest = layer;
	job->dest_id = layer->id;
	job->before_write = a.before_write;
	job->grain_shift = ilog2(a.grain);
	job->nr_grains = (view->nr_sectors + a.grain - 1) >> job->grain_shift;
	job->timeout = msecs_to_jiffies(min_t(u64, a.timeout_ms, INT_MAX));
	job->user_paused = a.paused;
	memcpy(job->stop_on, a.stop_on, sizeof(job->stop_on));
	if (lc_copy_engine_init(job)) {
		lc_job_destroy(job);
		return lc_refuse(ti, -ENOMEM, "copy", "no memory for a job's buffers");
	}
	lc_job_set_speed(job, a.speed);
	lc_job_add(job);
	return 0;
}

int lc_message_job(struct lc_view *view, struct dm_target *ti, unsigned int argc, char **argv)
{
	enum lc_job_verb verb;
	struct lc_job *job;
	u64 speed = 0;

	if (argc < 3)
		return lc_refuse(ti, -EINVAL, "job", "needs a job's name and a verb");
	verb = lc_job_parse_verb(argv[2]);
	if (verb == LC_JOB_NR_VERBS)
		return lc_refuse(ti, -EINVAL, "job", "verb %s is unknown", argv[2]);
	if (argc != (verb == LC_VERB_SPEED ? 4 : 3))
		return lc_refuse(ti, -EINVAL, "job", "%s takes %s", argv[2],
				 verb == LC_VERB_SPEED ? "bytes per second" : "no argument");
	if (verb == LC_VERB_SPEED && kstrtou64(argv[3], 10, &speed))
		return lc_refuse(ti, -EINVAL, "job", "%s is no number of bytes per second",
				 argv[3]);
	job = lc_job_find(view, argv[1]);
	if (!job)
		return lc_refuse(ti, -ENOENT, "job", "there is no job %s", argv[1]);
	if (!lc_job_accepts(READ_ONCE(job->state), verb))
		return lc_refuse(ti, -EPERM, "job", "job %s in state %s does not accept %s",
				 job->name, lc_job_state_name(job->state), argv[2]);
	if (verb == LC_VERB_SPEED)
		lc_job_set_speed(job, speed);
	else
		lc_job_apply(job, verb);
	return 0;
}
