// SPDX-License-Identifier: GPL-2.0-or-later
/* Views: devices of the kernel target, their tables and layers. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "../../include/uapi/linux/dm-livechain.h"
#include "../lib/log.h"
#include "ctl.h"
#include "guard.h"
#include "state.h"
#include "view.h"

#define SLICES_AT_START	 4096
#define TABLES_AT_START	 64
#define TABLES_AHEAD	 512 /* tables that may be made before a write needs them */
#define COMMIT_WAIT_MS	 2000

struct list view_list = LIST_INIT(view_list);
static struct list dead_views = LIST_INIT(dead_views);

struct view *view_find(const char *dm)
{
	struct view *v;

	list_for_each(v, &view_list, link) {
		if (streq(v->dm, dm))
			return v;
	}
	return NULL;
}

struct view *view_of_top(const struct node *n)
{
	struct view *v;

	list_for_each(v, &view_list, link) {
		if (!v->ending && (v->top == n || (n && v->next_top == n)))
			return v;
	}
	return NULL;
}

struct view_layer *view_layer(struct view *v, int id)
{
	for (unsigned i = 0; i < v->nr_layers; i++) {
		if (v->layers[i].id == id)
			return &v->layers[i];
	}
	return NULL;
}

struct view_layer *view_layer_of(struct view *v, const struct node *n)
{
	for (unsigned i = 0; i < v->nr_layers; i++) {
		if (v->layers[i].node == n && !v->layers[i].dest)
			return &v->layers[i];
	}
	return NULL;
}

bool view_has_node(const struct view *v, const struct node *n)
{
	for (const struct node *m = v->top; m; m = m->backing) {
		if (m == n)
			return true;
	}
	return false;
}

struct view *view_of_chain(const struct node *n)
{
	struct view *v;

	list_for_each(v, &view_list, link) {
		if (!v->internal && view_has_node(v, n))
			return v;
	}
	return NULL;
}

int view_message(struct view *v, struct err *e, char **reply, const char *fmt, ...)
{
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;
	va_list ap;

	va_start(ap, fmt);
	strbuf_vaddf(&text, fmt, ap);
	va_end(ap);
	return dm_message(v->dm, strbuf_str(&text), reply, e);
}

int view_get_status(struct view *v, struct view_status *ret, struct err *e)
{
	struct dm_table t = { 0 };
	int r = dm_status(v->dm, &t, e);

	if (!r)
		r = view_status_parse(t.params, ret, e);
	dm_table_done(&t);
	return r;
}

/*
 * The largest block, at most 64 KiB, that every image of the chain can be
 * cut into: no larger than a cluster, and no image ends within a block that
 * another one continues.
 */
static int choose_block(const struct node *top, uint32_t *ret, struct err *e)
{
	uint64_t block = 65536;

	for (const struct node *n = top; n; n = n->backing) {
		if (n->driver == NODE_QCOW2 && n->info.cluster_size < block)
			block = n->info.cluster_size;
		while (n->size < top->size && n->size % block && block >= 512)
			block /= 2;
		if (block < LIVECHAIN_BLOCK_SECTORS_MIN * 512)
			return err_set(e, EINVAL,
				       "Image '%s': its size, %llu bytes, is less than that of the image above it and no multiple of 4096; grow it first (qemu-img resize)",
				       n->file->filename, (unsigned long long)n->size);
	}
	*ret = block / 512;
	return 0;
}

void view_free(struct view *v)
{
	free(v->layers);
	free(v->lost);
	free(v->dm);
	free(v->kname);
	free(v->uuid);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

void view_reap(void)
{
	struct view *v;

	core_lock();
	list_for_each(v, &dead_views, link) {
		if (v->service_busy)
			continue;
		list_del(&v->link);
		worker_queue_free(v->service);
		ev_timer_free(v->retry);
		view_free(v);
	}
	core_unlock();
}

struct view *view_alloc(const char *dm, const char *kname, const char *uuid)
{
	struct view *v = xcalloc(1, sizeof(*v));

	list_init(&v->link);
	pthread_mutex_init(&v->lock, NULL);
	v->dm = xstrdup(dm);
	v->kname = xstrdup(kname);
	v->uuid = xstrdup(uuid);
	v->active = VIEW_NONE;
	v->ahead_batch = 64;
	v->ahead_tables = TABLES_AHEAD;
	return v;
}

/* A name for the kernel's object: tells whose it is, and is never used twice. */
static struct view *view_new(const char *dm, bool internal)
{
	_cleanup_free_ char *kname = NULL, *uuid = NULL;
	char clean[41];
	uint64_t rnd = 0;
	size_t i;

	if (getrandom(&rnd, sizeof(rnd), 0) != sizeof(rnd))
		rnd = (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();
	for (i = 0; i < sizeof(clean) - 1 && dm[i]; i++)
		clean[i] = isalnum((unsigned char)dm[i]) || strchr("._:+-", dm[i]) ? dm[i] : '_';
	clean[i] = '\0';
	kname = xasprintf("%s.%08x", clean, (unsigned)rnd);
	uuid = xasprintf("%s-%016llx", internal ? "int" : "disk", (unsigned long long)rnd);
	return view_alloc(dm, kname, uuid);
}

int view_push_layer(struct view *v, struct node *node, dev_t devno, bool dest)
{
	int id = v->next_id++;

	v->layers = xreallocarray(v->layers, v->nr_layers + 1, sizeof(*v->layers));
	v->layers[v->nr_layers++] = (struct view_layer){
		.id = id,
		.node = node,
		.devno = devno,
		.dest = dest,
	};
	return id;
}

void view_pop_layer(struct view *v, int id)
{
	for (unsigned i = 0; i < v->nr_layers; i++) {
		if (v->layers[i].id != id)
			continue;
		v->nr_layers--;
		memmove(&v->layers[i], &v->layers[i + 1],
			(v->nr_layers - i) * sizeof(*v->layers));
		return;
	}
}

/* An image on a disk that this daemon serves would wait for itself. */
static int check_not_on_ourselves(const struct node *p, struct err *e)
{
	_cleanup_free_ struct dm_dev_entry *devs = NULL;
	dev_t dev = p->driver == NODE_HOST_DEVICE ? p->rdev : p->dev;
	int n = dm_list_devices(DM_DEV_UUID_PREFIX, &devs, e);

	for (int i = 0; i < n; i++) {
		if (devs[i].devno == dev)
			return err_set(e, ELOOP,
				       "Image '%s' lies on /dev/mapper/%s, a disk that livechain itself serves",
				       p->filename, devs[i].name);
	}
	return n < 0 ? n : 0;
}

static int push_chain(struct view *v, struct node *top, struct err *e)
{
	dev_t devno;
	int r;

	for (struct node *n = top; n; n = n->backing) {
		if (v->nr_layers == LIVECHAIN_LAYERS_MAX)
			return err_set(e, E2BIG, "The chain of '%s' has more than %d images", v->dm,
				       LIVECHAIN_LAYERS_MAX);
		r = check_not_on_ourselves(node_protocol(n), e);
		if (!r)
			r = node_layer_device(n, &devno, e);
		if (r)
			return r;
		view_push_layer(v, n, devno, false);
	}
	return 0;
}

void view_settle(struct view *v)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	uint64_t until = ev_now_ms() + COMMIT_WAIT_MS;
	struct timespec nap = { 0, 1000000 };

	if (v->active == VIEW_NONE || view_message(v, NULL, NULL, "commit"))
		return;
	while (!view_get_status(v, st, NULL) && st->unrecorded > 64 && ev_now_ms() < until)
		nanosleep(&nap, NULL);
}

int view_suspend_now(struct view *v, struct err *e)
{
	int r;

	guard_hold(v->dm);
	v->held_at = ev_now_ms();
	r = dm_suspend(v->dm, true, e);
	if (r) {
		v->held_at = 0;
		guard_release(v->dm);
	}
	return view_disturbed(v, r, e);
}

/* The commit comes first, so that little is left for the time in which the guest waits. */
int view_suspend(struct view *v, struct err *e)
{
	view_settle(v);
	return view_suspend_now(v, e);
}

static bool is_live(const struct view *v)
{
	struct dm_dev_info info;

	return !dm_get_info(v->dm, &info, NULL) && info.live_table && !info.inactive_table &&
	       !info.suspended;
}

int view_resume_now(struct view *v, struct err *e)
{
	int r = view_disturbed(v, dm_resume_now(v->dm, &v->udev, e), e);

	if (r == -ESTALE && is_live(v)) { /* it was resumed, then */
		err_clear(e);
		r = 0;
	}
	if (r)
		return r;
	if (v->held_at)
		log_info("'%s': held for %llu ms", v->dm,
			 (unsigned long long)(ev_now_ms() - v->held_at));
	v->held_at = 0;
	guard_release(v->dm);
	return 0;
}

void view_resume_wait(struct view *v)
{
	dm_resume_wait(v->udev);
	v->udev = 0;
}

int view_resume(struct view *v, struct err *e)
{
	int r = view_resume_now(v, e);

	view_resume_wait(v);
	return r;
}

int view_add_layer(struct view *v, struct node *node, dev_t devno, bool dest, struct err *e)
{
	int id, r;

	pthread_mutex_lock(&v->lock);
	id = view_push_layer(v, node, devno, dest);
	pthread_mutex_unlock(&v->lock);
	r = view_reload(v, e);
	if (!r)
		return id;
	pthread_mutex_lock(&v->lock);
	view_pop_layer(v, id);
	pthread_mutex_unlock(&v->lock);
	v->stale = true; /* others may have made it live all the same */
	return r;
}

int view_drop_layer(struct view *v, int id, struct err *e)
{
	pthread_mutex_lock(&v->lock);
	view_pop_layer(v, id);
	pthread_mutex_unlock(&v->lock);
	v->stale = true;
	return view_drop_unknown_layers(v, e);
}

static int describe_layer(struct view *v, int id, struct err *e)
{
	struct node *n = view_layer(v, id)->node;
	struct qcow2_record rec;
	char zero[48] = "- -";

	if (n->driver == NODE_RAW)
		return view_message(v, e, NULL, "layer %d unit %u raw", id, v->block);
	qcow2_get_record(n->img, &rec);
	if (rec.has_zero)
		snprintf(zero, sizeof(zero), "0x%llx 0x%llx",
			 (unsigned long long)rec.zero_alloc_or,
			 (unsigned long long)rec.zero_plain);
	return view_message(v, e, NULL, "layer %d unit %u record 9 0x%llx %s", id,
			    n->info.cluster_size / 512, (unsigned long long)rec.data_or, zero);
}

/* A header names an image below that was not opened: nobody knows what it holds. */
static bool has_unknown(const struct view *v)
{
	const struct node *n = v->top;

	while (n->backing)
		n = n->backing;
	return n->backing_name;
}

int view_say_zeros(struct view *v, int id, struct err *e)
{
	if (view_layer(v, id)->node->driver != NODE_QCOW2)
		return 0;
	return view_message(v, e, NULL, "layer %d zeros said", id);
}

static int prepare_qcow2(struct view *v, int id, struct err *e)
{
	struct node *n = view_layer(v, id)->node;
	uint64_t bytes = v->sectors * 512, first = n->info.region_size * TABLES_AT_START;
	int r;

	r = qcow2_begin_write(n->img, e);
	if (!r)
		r = node_update_capacity(n, e);
	if (r)
		return r;
	pthread_mutex_lock(&v->lock);
	r = service_homes(v, id, 0, first < bytes ? first : bytes, e);
	if (!r)
		r = service_grant(v, id, bytes / 8 < (8 << 20) ? 8 << 20 : 64 << 20, e);
	pthread_mutex_unlock(&v->lock);
	if (r == -ENOSPC) { /* the first write will wait for it; reading is possible */
		err_clear(e);
		r = 0;
	}
	return r;
}

int view_prepare_active(struct view *v, int id, struct err *e)
{
	int r = describe_layer(v, id, e);

	if (r || view_layer(v, id)->node->driver == NODE_RAW)
		return r;
	r = prepare_qcow2(v, id, e);
	return !r && has_unknown(v) ? view_say_zeros(v, id, e) : r;
}

static uint64_t all_slices(const struct view *v)
{
	uint64_t per = (uint64_t)v->block * LIVECHAIN_SLICE_BLOCKS;

	return (v->sectors + per - 1) / per;
}

/* Loads slices up to @limit now. Damage is an error. */
static int load_up_to(struct view *v, uint64_t limit, struct err *e)
{
	int r = 0;

	if (limit > all_slices(v))
		limit = all_slices(v);
	while (!r && v->ahead < limit) {
		uint64_t n;

		pthread_mutex_lock(&v->lock);
		n = v->ahead_batch < limit - v->ahead ? v->ahead_batch : limit - v->ahead;
		v->strict = true;
		r = service_load(v, v->ahead, n, e);
		v->strict = false;
		if (!r)
			v->ahead += n;
		pthread_mutex_unlock(&v->lock);
	}
	return r;
}

int view_wait_loaded(struct view *v, struct err *e)
{
	return load_up_to(v, UINT64_MAX, e);
}

int view_refresh(struct view *v, struct err *e)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	int r = view_get_status(v, st, e);

	if (r)
		return r;
	pthread_mutex_lock(&v->lock);
	v->generation = st->generation;
	for (unsigned i = 0; i < st->nr_layers; i++) {
		struct view_layer *l = view_layer(v, st->layers[i].id);

		if (l)
			l->last_grant = st->layers[i].last_grant;
	}
	pthread_mutex_unlock(&v->lock);
	return 0;
}

/* What makes a fresh device useful: how it is written, space, the first of its map. */
static int start_service(struct view *v, struct err *e)
{
	int r = view_refresh(v, e);

	if (!r && v->active != VIEW_NONE)
		r = view_prepare_active(v, v->active, e);
	if (!r)
		r = load_up_to(v, SLICES_AT_START, e);
	return r;
}

static int create_device(struct view *v, struct err *e)
{
	struct dm_table t = { 0 };
	dev_t devno;
	int r;

	r = view_make_table(v, &t, e);
	if (!r)
		r = dm_create(v->dm, v->uuid, &t, !v->writable, &devno, e);
	dm_table_done(&t);
	if (r)
		return r;
	r = start_service(v, e);
	if (r)
		(void)view_stop(v, NULL);
	return r;
}

static void set_ready(struct view *v)
{
	core_lock();
	v->ready = true;
	core_unlock();
}

void view_link(struct view *v, struct node *top)
{
	core_lock();
	v->top = top;
	top->users++;
	list_add_tail(&view_list, &v->link);
	core_unlock();
}

/* The loop frees it, once its service is idle: view_reap(). */
void view_unlink(struct view *v)
{
	struct node *top = v->top;

	core_lock();
	list_del(&v->link);
	list_add_tail(&dead_views, &v->link);
	v->top = NULL;
	top->users--;
	core_unlock();
	node_drop_cache(top);
	node_retake_locks(top);
	node_put(top);
}

int view_start(struct node *top, const char *dm, bool writable, bool internal, struct view **ret,
	       struct err *e)
{
	struct view *v = view_new(dm, internal);
	int r;

	v->writable = writable;
	v->internal = internal;
	v->sectors = top->size / 512;
	v->top = top;
	r = choose_block(top, &v->block, e);
	if (!r)
		r = push_chain(v, top, e);
	if (!r && !v->sectors)
		r = err_set(e, EINVAL, "Image '%s' has size 0: there is nothing to make a device of",
			    top->file->filename);
	if (r) {
		view_free(v);
		return r;
	}
	if (writable)
		v->active = v->layers[0].id;
	view_link(v, top);
	r = state_save(e); /* a device that no state knows would stay for ever */
	if (!r)
		r = create_device(v, e);
	if (r) {
		if (!v->dead && !v->ending)
			view_abandon(v);
		return r;
	}
	set_ready(v);
	*ret = v;
	return 0;
}
