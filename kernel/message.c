// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table of messages, and those that are about the view as a whole.
 */
#include "copy.h"
#include "message.h"
#include "table.h"

/* Only root sends messages, and an errno alone does not tell the reason: 20 a second, not 2. */
static DEFINE_RATELIMIT_STATE(refusals, DEFAULT_RATELIMIT_INTERVAL, 100);

int lc_refuse(struct dm_target *ti, int err, const char *verb, const char *fmt, ...)
{
	struct va_format vaf;
	va_list args;

	va_start(args, fmt);
	vaf.fmt = fmt;
	vaf.va = &args;
	if (__ratelimit(&refusals))
		DMWARN("%s: %s: %pV", dm_device_name(dm_table_get_md(ti->table)), verb, &vaf);
	va_end(args);
	return err;
}

struct lc_layer *lc_msg_layer(struct lc_msg *m, const char *word, int *ret_err)
{
	struct lc_layer *layer;
	unsigned int id;

	if (kstrtouint(word, 10, &id)) {
		*ret_err = lc_msg_refuse(m, -EINVAL, "%s is not a layer's id", word);
		return NULL;
	}
	layer = lc_layer_find(m->view, id);
	if (layer && lc_table_has(m->table, layer))
		return layer;
	*ret_err = lc_msg_refuse(m, -ENOENT, "layer %u is not in the live table", id);
	return NULL;
}

/*
 * ---------------------------------------------------------------------------
 * activate, commit.
 * ---------------------------------------------------------------------------
 */
static bool others_have_entries(struct lc_view *view, const struct lc_layer *layer)
{
	bool others = false;
	unsigned int id;

	spin_lock(&view->map.lock);
	for (id = 0; id <= LIVECHAIN_LAYER_ID_MAX && !others; id++)
		others = view->layers[id] && view->layers[id] != layer &&
			 view->layers[id]->entries;
	spin_unlock(&view->map.lock);
	return others;
}

static int check_activate(struct lc_msg *m, struct lc_layer *layer)
{
	struct lc_view *view = m->view;

	if (!dm_suspended(m->ti))
		return lc_msg_refuse(m, -EPERM, "suspend the device first");
	if (layer->kind == LC_LAYER_PLAIN)
		return lc_msg_refuse(m, -EINVAL, "layer %u has not been described (message layer)",
				     layer->id);
	if (!layer->writable)
		return lc_msg_refuse(m, -EROFS, "the device of layer %u is read-only", layer->id);
	if (lc_jobs_use_layer(view, layer))
		return lc_msg_refuse(m, -EBUSY, "layer %u is the destination of a job", layer->id);
	if (view->active && lc_jobs_use_layer(view, view->active))
		return lc_msg_refuse(m, -EBUSY, "a job promotes into layer %u", view->active->id);
	if (layer->kind == LC_LAYER_RAW && others_have_entries(view, layer))
		return lc_msg_refuse(m, -EINVAL, "layer %u is raw, and others hold blocks",
				     layer->id);
	if (READ_ONCE(view->fail))
		return lc_msg_refuse(m, -EROFS, "a record could not be written: the view is read-only; make it anew");
	if (!lc_commit_clean(view))
		return lc_msg_refuse(m, -EBUSY, "the active layer has something unrecorded or unflushed: resume, commit and suspend again");
	return 0;
}

static int msg_activate(struct lc_msg *m)
{
	struct lc_view *view = m->view;
	struct lc_layer *layer;
	int r = 0;

	layer = lc_msg_layer(m, m->argv[1], &r);
	if (!layer || view->active == layer)
		return r;
	r = check_activate(m, layer);
	if (r)
		return r;
	view->active = layer;
	view->generation++;
	lc_park_wake_all(view, LC_WANT_HOME);
	lc_park_wake_all(view, LC_WANT_POOL);
	return 0;
}

static int msg_commit(struct lc_msg *m)
{
	lc_commit_start(m->view);
	return 0;
}

/*
 * ---------------------------------------------------------------------------
 * requests: a look at who waits for what.
 * ---------------------------------------------------------------------------
 */
#define LC_REQUEST_KEYS 64

/* "<word> <key>...": nothing without keys. @scale: what a key stands for. */
static unsigned int emit_keys(struct lc_msg *m, unsigned int sz, const char *head, enum lc_want want,
			      u64 scale)
{
	u64 keys[LC_REQUEST_KEYS];
	unsigned int i, n = lc_park_keys(m->view, want, keys, LC_REQUEST_KEYS);
	unsigned int maxlen = m->maxlen;
	char *result = m->result;

	if (!n)
		return sz;
	DMEMIT("%s", head);
	for (i = 0; i < n; i++)
		DMEMIT(" %llu", keys[i] * scale);
	DMEMIT("\n");
	return sz;
}

static unsigned int emit_pool(struct lc_msg *m, unsigned int sz, struct lc_layer *active)
{
	struct lc_pool *pool = &active->pool;
	unsigned int waiting = READ_ONCE(m->view->park.nr[LC_WANT_POOL]);
	/* guests' writes take from it meanwhile */
	u64 free = READ_ONCE(pool->free_sectors);
	unsigned int maxlen = m->maxlen;
	char *result = m->result;

	if (!waiting && (active->kind != LC_LAYER_RECORD || free >= pool->low))
		return sz;
	DMEMIT("pool %u %llu %llu %u\n", active->id, free, pool->low, waiting);
	return sz;
}

static int msg_requests(struct lc_msg *m)
{
	struct lc_layer *active = m->view->active;
	int fail = READ_ONCE(m->view->fail);
	unsigned int sz = 0, maxlen = m->maxlen;
	char *result = m->result;
	char head[24];

	sz = emit_keys(m, sz, "slice", LC_WANT_SLICE, LIVECHAIN_SLICE_BLOCKS);
	if (active) {
		snprintf(head, sizeof(head), "home %u", active->id);
		sz = emit_keys(m, sz, head, LC_WANT_HOME, LIVECHAIN_RECORDS_PER_PAGE);
		sz = emit_pool(m, sz, active);
		if (fail)
			DMEMIT("fail %u %d\n", active->id, fail);
	}
	if (!sz)
		DMEMIT("\n");
	return 1;
}

/*
 * ---------------------------------------------------------------------------
 * Dispatch.
 * ---------------------------------------------------------------------------
 */
static int msg_copy(struct lc_msg *m)
{
	return lc_message_copy(m->view, m->ti, m->argc, m->argv);
}

static int msg_promote(struct lc_msg *m)
{
	return lc_message_promote(m->view, m->ti, m->argc, m->argv);
}

static int msg_job(struct lc_msg *m)
{
	return lc_message_job(m->view, m->ti, m->argc, m->argv);
}

static int msg_reserved(struct lc_msg *m)
{
	return lc_msg_refuse(m, -EOPNOTSUPP, "is reserved: this version does not support it");
}

struct lc_verb {
	const char *name;
	unsigned int min, max;		/* arguments, without the verb */
	int (*fn)(struct lc_msg *m);
};

static const struct lc_verb lc_verbs[] = {
	{ LIVECHAIN_MSG_MAP, 3, UINT_MAX, lc_msg_map },
	{ LIVECHAIN_MSG_FORGET, 2, 2, lc_msg_forget },
	{ LIVECHAIN_MSG_LAYER, 2, 8, lc_msg_describe },
	{ LIVECHAIN_MSG_HOME, 2, UINT_MAX, lc_msg_home },
	{ LIVECHAIN_MSG_GRANT, 2, UINT_MAX, lc_msg_grant },
	{ LIVECHAIN_MSG_RECLAIM, 1, 2, lc_msg_reclaim },
	{ LIVECHAIN_MSG_ACTIVATE, 1, 1, msg_activate },
	{ LIVECHAIN_MSG_COMMIT, 0, 0, msg_commit },
	{ LIVECHAIN_MSG_REQUESTS, 0, 0, msg_requests },
	{ LIVECHAIN_MSG_COPY, 3, UINT_MAX, msg_copy },
	{ LIVECHAIN_MSG_JOB, 2, UINT_MAX, msg_job },
	{ LIVECHAIN_MSG_REMAP, 5, UINT_MAX, lc_msg_remap },
	{ LIVECHAIN_MSG_BITMAP, 0, UINT_MAX, msg_reserved },
	{ LIVECHAIN_MSG_PROMOTE, 3, UINT_MAX, msg_promote },
};

static int run_verb(struct lc_msg *m, const struct lc_verb *v)
{
	int r;

	if (m->argc - 1 < v->min)
		return lc_msg_refuse(m, -EINVAL, "needs %u arguments at least, not %u", v->min,
				     m->argc - 1);
	if (m->argc - 1 > v->max)
		return lc_msg_refuse(m, -EINVAL, "takes %u arguments at most, not %u", v->max,
				     m->argc - 1);
	mutex_lock(&m->view->mutex);
	r = v->fn(m);
	mutex_unlock(&m->view->mutex);
	return r;
}

int lc_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
	       unsigned int maxlen)
{
	struct lc_table *t = ti->private;
	struct lc_msg m = {
		.ti = ti, .table = t, .view = t->view,
		.argc = argc, .argv = argv, .result = result, .maxlen = maxlen,
	};
	unsigned int i, noio;
	int r;

	for (i = 0; i < ARRAY_SIZE(lc_verbs); i++) {
		if (strcmp(argv[0], lc_verbs[i].name))
			continue;
		/* Who serves the device's memory reclaim must not wait for it. */
		noio = memalloc_noio_save();
		r = run_verb(&m, &lc_verbs[i]);
		memalloc_noio_restore(noio);
		return r;
	}
	return lc_refuse(ti, -EINVAL, argv[0], "there is no such message");
}
