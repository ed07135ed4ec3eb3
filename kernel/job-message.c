// SPDX-License-Identifier: GPL-2.0-only
/* The messages `copy`, `promote` and `job`. */
#include <linux/blkdev.h>
#include <linux/ctype.h>
#include <linux/kstrtox.h>
#include <linux/log2.h>

#include "access.h"
#include "job.h"
#include "layer.h"
#include "message.h"
#include "view.h"

#define DEFAULT_TIMEOUT_MS 30000

/* What the arguments of `copy` say. */
struct copy_args {
	struct dm_target *ti;
	const char *verb;		/* the message */
	const char *name;
	unsigned int layer;
	bool before_write, track, both;
	bool paused, zeroed, new_only, nounmap, on_demand;
	bool access, break_guest;
	bool stop_on[2];
	bool only, filtered;		/* @ids: what is copied, or what is not */
	DECLARE_BITMAP(ids, LC_ENTRY_NO_LAYER + 1);
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
		return lc_refuse(a->ti, -EINVAL, a->verb, "%s is report or stop, not %s", option,
				 value);
	return 0;
}

static int parse_number(struct copy_args *a, const char *option, const char *value, u64 *ret)
{
	if (kstrtou64(value, 10, ret))
		return lc_refuse(a->ti, -EINVAL, a->verb, "%s needs a number, not %s", option,
				 value);
	return 0;
}

/* <id>[,<id>]* */
static int parse_ids(struct copy_args *a, const char *option, char *value)
{
	unsigned int id;
	char *word;

	if (a->filtered)
		return lc_refuse(a->ti, -EINVAL, a->verb, "only and skip are given once, and not both");
	a->filtered = true;
	a->only = !strcmp(option, "only");
	while ((word = strsep(&value, ","))) {
		if (kstrtouint(word, 10, &id) || id > LIVECHAIN_LAYER_ID_MAX)
			return lc_refuse(a->ti, -EINVAL, a->verb, "%s: %s is no layer's id", option,
					 word);
		__set_bit(id, a->ids);
	}
	return 0;
}

/* The copy can be read; and who suffers when it can't be made. */
static int parse_access(struct copy_args *a, const char *value)
{
	a->access = true;
	a->break_guest = !strcmp(value, "break-guest-write");
	if (a->break_guest || !strcmp(value, "break-snapshot"))
		return 0;
	return lc_refuse(a->ti, -EINVAL, a->verb,
			 "access is break-snapshot or break-guest-write, not %s", value);
}

/* One option with its value. */
static int parse_option(struct copy_args *a, const char *option, char *value)
{
	if (!strcmp(option, "only") || !strcmp(option, "skip"))
		return parse_ids(a, option, value);
	if (!strcmp(option, "access"))
		return parse_access(a, value);
	if (!strcmp(option, "grain"))
		return parse_number(a, option, value, &a->grain);
	if (!strcmp(option, "speed"))
		return parse_number(a, option, value, &a->speed);
	if (!strcmp(option, "timeout"))
		return parse_number(a, option, value, &a->timeout_ms);
	if (!strcmp(option, "on-source-error") || !strcmp(option, "on-target-error"))
		return parse_policy(a, option, value);
	return lc_refuse(a->ti, -EINVAL, a->verb, "option %s is unknown", option);
}

/* An option that is a word alone. */
static bool *flag_of(struct copy_args *a, const char *option)
{
	if (!strcmp(option, "paused"))
		return &a->paused;
	if (!strcmp(option, "zeroed"))
		return &a->zeroed;
	if (!strcmp(option, "new-only"))
		return &a->new_only;
	if (!strcmp(option, "nounmap"))
		return &a->nounmap;
	if (!strcmp(option, "on-demand"))
		return &a->on_demand;
	return NULL;
}

static int parse_options(struct copy_args *a, unsigned int argc, char **argv)
{
	unsigned int i = 0;
	bool *flag;
	int r;

	while (i < argc) {
		flag = flag_of(a, argv[i]);
		if (flag) {
			*flag = true;
			i++;
			continue;
		}
		if (i + 1 == argc)
			return lc_refuse(a->ti, -EINVAL, a->verb, "option %s has no value", argv[i]);
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

static int parse_mode(struct copy_args *a, const char *word)
{
	a->before_write = !strcmp(word, "before-write");
	a->both = !strcmp(word, "both");
	a->track = a->both || !strcmp(word, "track");
	if (a->before_write || a->track || !strcmp(word, "none"))
		return 0;
	return lc_refuse(a->ti, -EINVAL, a->verb,
			 "mode is none, before-write, track or both, not %s", word);
}

static int parse_name(struct copy_args *a, const char *name)
{
	a->name = name;
	if (!name_is_valid(name))
		return lc_refuse(a->ti, -EINVAL, a->verb,
				 "a job's name is 1 to 63 of A-Za-z0-9._:+-");
	return 0;
}

static int parse_copy(struct copy_args *a, unsigned int argc, char **argv)
{
	int r;

	if (argc < 4)
		return lc_refuse(a->ti, -EINVAL, a->verb,
				 "needs a job's name, a layer and a mode");
	r = parse_name(a, argv[1]);
	if (r)
		return r;
	if (kstrtouint(argv[2], 10, &a->layer) || a->layer > LIVECHAIN_LAYER_ID_MAX)
		return lc_refuse(a->ti, -EINVAL, a->verb, "%s is no layer's id", argv[2]);
	r = parse_mode(a, argv[3]) ?: parse_options(a, argc - 4, argv + 4);
	if (r)
		return r;
	if (a->track && a->only)
		return lc_refuse(a->ti, -EINVAL, a->verb,
				 "only does not go with %s, which copies what guests write", argv[3]);
	if (!a->track && a->new_only)
		return lc_refuse(a->ti, -EINVAL, a->verb, "new-only goes with track and both only");
	if ((a->access || a->on_demand) && !a->before_write)
		return lc_refuse(a->ti, -EINVAL, a->verb, "%s goes with before-write only",
				 a->access ? "access" : "on-demand");
	if (a->access && (a->filtered || a->stop_on[LC_SIDE_READ] || a->stop_on[LC_SIDE_WRITE]))
		return lc_refuse(a->ti, -EINVAL, a->verb,
				 "access goes without only, skip and the policy stop");
	return 0;
}

static int check_name(struct lc_view *view, struct copy_args *a)
{
	struct lc_job *job;
	unsigned int nr = 0;

	if (lc_job_find(view, a->name))
		return lc_refuse(a->ti, -EEXIST, a->verb, "there is a job %s already", a->name);
	list_for_each_entry(job, &view->jobs->list, list)
		nr++;
	if (nr >= LIVECHAIN_JOBS_MAX)
		return lc_refuse(a->ti, -ENOSPC, a->verb,
				 "the view has %u jobs, which is the most; dismiss one", nr);
	return 0;
}

static int check_job(struct lc_view *view, struct copy_args *a)
{
	struct lc_job *job;
	int r = check_name(view, a);

	if (r)
		return r;
	list_for_each_entry(job, &view->jobs->list, list)
		if (a->track && job->track && READ_ONCE(job->state) != LC_JOB_CONCLUDED)
			return lc_refuse(a->ti, -EBUSY, a->verb,
					 "job %s tracks the view's writes already", job->name);
	if (a->track && view->active && test_bit(view->active->id, a->ids))
		return lc_refuse(a->ti, -EINVAL, a->verb,
				 "skip names layer %u, which takes what guests write",
				 view->active->id);
	if ((a->before_write || a->track) && !view->jobs->drained)
		return lc_refuse(a->ti, -EPERM, a->verb,
				 "this mode starts only while the device is suspended");
	return 0;
}

static int check_layer(struct lc_view *view, struct copy_args *a, struct lc_layer **ret_layer)
{
	struct lc_layer *layer = lc_layer_find(view, a->layer);

	if (!layer || !layer->bdev)
		return lc_refuse(a->ti, -ENOENT, "copy", "the live table has no layer %u",
				 a->layer);
	if (layer == view->active)
		return lc_refuse(a->ti, -EINVAL, a->verb, "layer %u is the active one", a->layer);
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

/* In sectors; writers lock what a before-write job copies. */
static u64 grain_least(struct lc_view *view, struct copy_args *a)
{
	return a->before_write ? max_t(u64, LC_BUF_SECTORS, 1ULL << lc_grain_shift(view)) :
				 LIVECHAIN_UNIT_SECTORS_MIN;
}

static u64 grain_default_of(struct lc_view *view)
{
	return max_t(u64, LC_BUF_SECTORS, 1ULL << lc_grain_shift(view));
}

static u64 grain_default(struct lc_view *view, struct copy_args *a)
{
	if (a->filtered && !a->before_write)
		return lc_block_sectors(view);
	return grain_default_of(view);
}

static int check_grain(struct lc_view *view, struct copy_args *a)
{
	u64 least = grain_least(view, a);

	if (!a->grain)
		a->grain = grain_default(view, a);
	if (!is_power_of_2(a->grain) || a->grain < least || a->grain > LC_GRAIN_MAX_SECTORS)
		return lc_refuse(a->ti, -EINVAL, a->verb,
				 "grain is a power of two from %llu to %u sectors, not %llu",
				 least, LC_GRAIN_MAX_SECTORS, a->grain);
	return 0;
}

/* What is copied, and how. */
static void set_up(struct lc_job *job, const struct copy_args *a)
{
	job->before_write = a->before_write;
	job->track = a->track;
	job->both = a->both;
	job->zeroed = a->zeroed;
	job->new_only = a->new_only;
	job->on_demand = a->on_demand || a->access;
	job->break_guest = a->break_guest;
	job->nounmap = a->nounmap;
	job->filtered = a->filtered;
	if (a->only)
		bitmap_complement(job->skip, a->ids, LC_ENTRY_NO_LAYER + 1);
	else
		bitmap_copy(job->skip, a->ids, LC_ENTRY_NO_LAYER + 1);
	__set_bit(LC_ENTRY_NO_LAYER, job->skip);
	job->grain_shift = ilog2(a->grain);
	job->nr_grains = (job->nr_sectors + a->grain - 1) >> job->grain_shift;
	job->timeout = msecs_to_jiffies(min_t(u64, a->timeout_ms, INT_MAX));
	job->user_paused = a->paused;
	memcpy(job->stop_on, a->stop_on, sizeof(job->stop_on));
}

int lc_message_copy(struct lc_view *view, struct dm_target *ti, unsigned int argc, char **argv)
{
	struct copy_args a = { .ti = ti, .verb = argv[0], .timeout_ms = DEFAULT_TIMEOUT_MS };
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
	set_up(job, &a);
	if (lc_copy_engine_init(job) || (a.access && lc_access_new(job))) {
		lc_job_destroy(job);
		return lc_refuse(ti, -ENOMEM, "copy", "no memory for a job's buffers");
	}
	lc_job_set_speed(job, a.speed);
	lc_job_add(job);
	return 0;
}

static int parse_promote(struct copy_args *a, unsigned int argc, char **argv)
{
	int r = parse_name(a, argv[1]);

	if (!r && strcmp(argv[2], "only") && strcmp(argv[2], "skip"))
		r = lc_refuse(a->ti, -EINVAL, a->verb, "needs only or skip behind the job's name");
	r = r ?: parse_options(a, argc - 2, argv + 2);
	if (r)
		return r;
	if (a->grain || a->timeout_ms || a->zeroed || a->new_only || a->nounmap || a->access ||
	    a->on_demand)
		return lc_refuse(a->ti, -EINVAL, a->verb,
				 "options are speed, on-source-error, on-target-error and paused");
	return 0;
}

static int check_promote(struct lc_view *view, struct copy_args *a)
{
	struct lc_layer *active = view->active;

	if (!active || active->kind != LC_LAYER_RECORD)
		return lc_refuse(a->ti, -EINVAL, a->verb,
				 "needs an active layer that has been described with records");
	if (a->only && test_bit(active->id, a->ids))
		return lc_refuse(a->ti, -EINVAL, a->verb, "layer %u is the active one", active->id);
	if (lc_jobs_use_layer(view, active))
		return lc_refuse(a->ti, -EBUSY, a->verb, "another job promotes into layer %u",
				 active->id);
	a->grain = grain_default_of(view);
	return 0;
}

int lc_message_promote(struct lc_view *view, struct dm_target *ti, unsigned int argc, char **argv)
{
	struct copy_args a = { .ti = ti, .verb = argv[0] };
	struct lc_job *job;
	int r;

	r = parse_promote(&a, argc, argv) ?: check_name(view, &a) ?: check_promote(view, &a);
	if (r)
		return r;
	job = lc_job_new(view, a.name);
	if (!job)
		return lc_refuse(ti, -ENOMEM, a.verb, "no memory for a job");
	job->dest = view->active;
	job->dest_id = view->active->id;
	set_up(job, &a);
	__set_bit(view->active->id, job->skip);
	if (lc_promote_init(job)) {
		lc_job_destroy(job);
		return lc_refuse(ti, -ENOMEM, a.verb, "no memory for a job");
	}
	lc_job_set_speed(job, a.speed);
	lc_job_add(job);
	return 0;
}

/* The argument that a verb takes, or none. */
static int parse_verb_argument(struct dm_target *ti, enum lc_job_verb verb, unsigned int argc,
			       char **argv, u64 *ret)
{
	const char *what = verb == LC_VERB_SPEED ? "bytes per second" :
			   verb == LC_VERB_MODE ? "track or both" : NULL;

	if (argc != (what ? 4 : 3))
		return lc_refuse(ti, -EINVAL, "job", "%s takes %s", argv[2], what ?: "no argument");
	if (verb == LC_VERB_SPEED && kstrtou64(argv[3], 10, ret))
		return lc_refuse(ti, -EINVAL, "job", "%s is no number of bytes per second",
				 argv[3]);
	if (verb == LC_VERB_MODE) {
		*ret = !strcmp(argv[3], "both");
		if (!*ret && strcmp(argv[3], "track"))
			return lc_refuse(ti, -EINVAL, "job", "mode is track or both, not %s",
					 argv[3]);
	}
	return 0;
}

int lc_message_job(struct lc_view *view, struct dm_target *ti, unsigned int argc, char **argv)
{
	enum lc_job_verb verb;
	struct lc_job *job;
	u64 argument = 0;
	int r;

	if (argc < 3)
		return lc_refuse(ti, -EINVAL, "job", "needs a job's name and a verb");
	verb = lc_job_parse_verb(argv[2]);
	if (verb == LC_JOB_NR_VERBS)
		return lc_refuse(ti, -EINVAL, "job", "verb %s is unknown", argv[2]);
	r = parse_verb_argument(ti, verb, argc, argv, &argument);
	if (r)
		return r;
	job = lc_job_find(view, argv[1]);
	if (!job)
		return lc_refuse(ti, -ENOENT, "job", "there is no job %s", argv[1]);
	if (!lc_job_accepts(READ_ONCE(job->state), verb))
		return lc_refuse(ti, -EPERM, "job", "job %s in state %s does not accept %s",
				 job->name, lc_job_state_name(job->state), argv[2]);
	if (verb == LC_VERB_MODE && !job->track)
		return lc_refuse(ti, -EINVAL, "job", "job %s does not track", job->name);
	if (verb == LC_VERB_SPEED)
		lc_job_set_speed(job, argument);
	else if (verb == LC_VERB_MODE)
		lc_job_set_mode(job, argument);
	else
		lc_job_apply(job, verb);
	return 0;
}
