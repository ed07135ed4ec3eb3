// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the kernel asks of the daemon while a device runs: slices of the map,
 * homes of records, space. One thread for each view, so that none waits for
 * another's storage or for a blocking dm call.
 *
 * Order that crash safety rests on (Documentation/design/crash-consistency.rst):
 * I1 a range is granted only when its refcounts and its space are durable;
 * I2 a table becomes a home only when it is reachable, durable and has its space;
 * I3 the journal is there before the first grant.
 */
#include <errno.h>
#include <stdio.h>

#include "../lib/ev.h"
#include "../lib/log.h"
#include "ctl.h"
#include "journal.h"
#include "view.h"

#define SLICE_BLOCKS	  512
#define GRANT_BYTES	  (64ULL << 20)
#define GRANT_MIN	  (1ULL << 20)
#define RETRY_MS	  1000
#define LOST_MS		  10000 /* before what could not be read is read again */
#define BATCH_MAX	  16384 /* slices in one message */
#define BATCH_TEXT	  (128 << 10)
#define TABLE_WINDOW	  4 /* regions made ready with the one that is needed */

void (*service_jobs_changed)(struct view *v);

static uint64_t slice_bytes(const struct view *v)
{
	return (uint64_t)v->block * 512 * SLICE_BLOCKS;
}

static uint64_t slice_count(const struct view *v)
{
	uint64_t sectors = (uint64_t)v->block * SLICE_BLOCKS;

	return (v->sectors + sectors - 1) / sectors;
}

static uint64_t view_bytes(const struct view *v)
{
	return v->sectors * 512;
}

/* Sends the message; 1 if the view's generation had changed, and is known now. */
static int send_map(struct view *v, const struct strbuf *text, struct err *e)
{
	_cleanup_free_ char *reply = NULL;
	unsigned long long generation;
	int r = dm_message(v->dm, strbuf_str(text), &reply, e);

	if (r || !reply || sscanf(reply, "stale %llu", &generation) != 1)
		return r;
	v->generation = generation;
	return 1;
}

static int load_once(struct view *v, uint64_t first, uint64_t n, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;
	uint64_t off = first * slice_bytes(v), len = n * slice_bytes(v);
	int r;

	if (off >= view_bytes(v))
		return 0;
	if (off + len > view_bytes(v))
		len = view_bytes(v) - off;
	strbuf_addf(&text, "map %llu %llu", (unsigned long long)v->generation,
		    (unsigned long long)first * SLICE_BLOCKS);
	r = map_runs(v, off, len, &text, e);
	if (r)
		return r;
	if (text.len > BATCH_TEXT && v->ahead_batch > 16)
		v->ahead_batch /= 2;
	else if (text.len < BATCH_TEXT / 4 && v->ahead_batch < BATCH_MAX)
		v->ahead_batch *= 2;
	return send_map(v, &text, e);
}

int service_load(struct view *v, uint64_t first, uint64_t n, struct err *e)
{
	int r;

	do
		r = load_once(v, first, n, e);
	while (r > 0);
	return r;
}

/*
 * The tables of [@off, +@len), in the image and for sure: I2. Space is reserved for each,
 * not only for new ones: an earlier try may have made the table and found the disk full.
 */
static int ready_tables(struct node *n, uint64_t off, uint64_t len, struct qcow2_table **ret,
			size_t *ret_n, struct err *e)
{
	int r = qcow2_prepare_tables(n->img, off, len, ret, ret_n, e);

	for (size_t i = 0; i < *ret_n && !r; i++)
		r = n->qio->allocate(n->qio, (*ret)[i].host_off, n->info.cluster_size, e);
	if (!r)
		r = n->qio->flush(n->qio, e);
	return r ? r : node_update_capacity(n, e);
}

int service_homes(struct view *v, int id, uint64_t off, uint64_t len, struct err *e)
{
	struct node *n = view_layer(v, id)->node;
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;
	_cleanup_free_ struct qcow2_table *tables = NULL;
	uint64_t units = (view_bytes(v) + n->info.cluster_size - 1) / n->info.cluster_size;
	uint64_t per_table = n->info.region_size / n->info.cluster_size;
	size_t nr = 0;
	int r;

	r = journal_open(n->file->filename, e);
	if (!r)
		r = ready_tables(n, off, len, &tables, &nr, e);
	if (r)
		return r;
	strbuf_addf(&text, "home %d", id);
	for (size_t i = 0; i < nr; i++) {
		uint64_t first = tables[i].guest_off / n->info.cluster_size;
		uint64_t count = first + per_table > units ? units - first : per_table;

		if (tables[i].fresh && v->ahead_tables)
			v->ahead_tables--;
		strbuf_addf(&text, " %llu+%llu@%llu", (unsigned long long)first,
			    (unsigned long long)count,
			    (unsigned long long)tables[i].host_off / 512);
	}
	return nr ? dm_message(v->dm, strbuf_str(&text), NULL, e) : 0;
}

static uint64_t grain_bytes(const struct view *v, const struct node *n)
{
	uint64_t block = (uint64_t)v->block * 512;

	return block > n->info.cluster_size ? block : n->info.cluster_size;
}

int service_grant(struct view *v, int id, uint64_t bytes, struct err *e)
{
	struct view_layer *l = view_layer(v, id);
	struct node *n = l->node;
	uint64_t cs = n->info.cluster_size, grain = grain_bytes(v, n);
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;
	_cleanup_free_ struct qcow2_range *ranges = NULL;
	size_t nr = 0;
	int r;

	bytes = (bytes + grain - 1) / grain * grain;
	r = journal_open(n->file->filename, e); /* I3 */
	if (!r) /* I1 */
		r = qcow2_alloc_clusters(n->img, bytes / cs, grain > cs ? grain / cs : 0, &ranges,
					 &nr, e);
	if (r)
		return r;
	r = node_update_capacity(n, e);
	strbuf_addf(&text, "grant %d %llu", id, (unsigned long long)l->last_grant + 1);
	for (size_t i = 0; i < nr; i++)
		strbuf_addf(&text, " %llu+%llu", (unsigned long long)ranges[i].off / 512,
			    (unsigned long long)ranges[i].len / 512);
	if (!r)
		r = dm_message(v->dm, strbuf_str(&text), NULL, e);
	if (r)
		(void)qcow2_free_clusters(n->img, ranges, nr, QCOW2_KEEP_SIZE, NULL);
	else
		l->last_grant++;
	return r;
}

/* Is space asked for less often than it could be gone? Small images get small grants. */
static uint64_t grant_size(const struct view *v)
{
	uint64_t bytes = view_bytes(v) / 8;

	return bytes < (8ULL << 20) ? 8ULL << 20 : bytes > GRANT_BYTES ? GRANT_BYTES : bytes;
}

/*
 * A guest's writes wait until there is space. A job's fail: what happens then is for its
 * on-target-error to say.
 */
static void no_space(struct view *v, const struct node *n, const struct err *e)
{
	v->service_retry = true;
	if (v->internal)
		(void)view_message(v, NULL, NULL, "layer %d nospace", v->active);
	if (v->nospace)
		return;
	v->nospace = true;
	log_warn("'%s': %s: %s", v->dm,
		 v->internal ? "a job's writes find no space" : "writes wait for space", e->msg);
	if (v->internal)
		return;
	event_post("BLOCK_IO_ERROR",
		   json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:s}", "qom-path", "", "device", v->dm,
			     "node-name", node_shown(n)->name, "operation", "write", "action", "stop",
			     "nospace", 1, "reason", e->msg));
}

static void space_again(struct view *v)
{
	if (v->nospace)
		log_notice("'%s': there is space again, writes go on", v->dm);
	v->nospace = false;
}

/* As QEMU: what is damaged is told once for an image, whatever else is found in it. */
static void tell_error(struct view *v, struct node *n, const char *operation, const struct err *e)
{
	if (e->code != EUCLEAN) {
		event_post("BLOCK_IO_ERROR",
			   json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:s}", "qom-path", "",
				     "device", v->dm, "node-name", node_shown(n)->name, "operation", operation,
				     "action", "report", "nospace", 0, "reason", e->msg));
		return;
	}
	if (!n->damage_told)
		event_post("BLOCK_IMAGE_CORRUPTED",
			   json_pack("{s:s, s:s, s:s, s:b}", "device", v->dm, "node-name", node_shown(n)->name,
				     "msg", e->msg, "fatal", 0));
	n->damage_told = true;
}

/* Tries again in a while. Says it once, not each time. */
static void service_failed(struct view *v, const char *what, const char *operation,
			   const struct err *e)
{
	v->service_retry = true;
	if (streq(v->trouble, e->msg))
		return;
	snprintf(v->trouble, sizeof(v->trouble), "%s", e->msg);
	log_error("'%s': %s: %s", v->dm, what, e->msg);
	tell_error(v, v->top, operation, e);
}

void service_damage(struct view *v, struct node *n, uint64_t off, uint64_t len, const struct err *e)
{
	struct view_lost l = { .slice = off / slice_bytes(v), .since = ev_now_ms() };

	log_error("'%s': guest offsets %llu to %llu can't be used: %s", v->dm,
		  (unsigned long long)off, (unsigned long long)(off + len - 1), e->msg);
	if (e->code == EUCLEAN || !n->damage_told)
		tell_error(v, n, "read", e);
	n->damage_told = true;
	if (e->code == EUCLEAN || e->code == EOPNOTSUPP)
		return; /* stays so */
	l.n = (off + len + slice_bytes(v) - 1) / slice_bytes(v) - l.slice;
	v->lost = xreallocarray(v->lost, v->nr_lost + 1, sizeof(*v->lost));
	v->lost[v->nr_lost++] = l;
}

/* Has slices loaded anew that could not be read some time ago, when somebody asks for them. */
static void try_lost(struct view *v)
{
	uint64_t blocks = (v->sectors + v->block - 1) / v->block, first, n;

	for (unsigned i = v->nr_lost; i-- > 0;) {
		if (v->lost[i].since + LOST_MS > ev_now_ms())
			continue;
		first = v->lost[i].slice * SLICE_BLOCKS;
		n = v->lost[i].n * SLICE_BLOCKS;
		n = first + n > blocks ? blocks - first : n;
		if (view_message(v, NULL, NULL, "forget %llu %llu", (unsigned long long)first,
				 (unsigned long long)n))
			continue;
		v->generation++;
		v->lost[i] = v->lost[--v->nr_lost];
	}
	v->service_retry |= v->nr_lost > 0;
}

/* As in QEMU, a write that finds the image's metadata damaged fails. */
static void no_grant(struct view *v, const struct err *e)
{
	(void)view_message(v, NULL, NULL, "layer %d error", v->active);
	service_failed(v, "can't grant space", "write", e);
}

/*
 * A write may wait for a grant or for a table: both are space. A grant that is not @awaited yet is for
 * the writes to come: it is tried again, and nobody hears of it.
 */
static int serve_space(struct view *v, int id, int (*fn)(struct view *, int, uint64_t, struct err *),
		       uint64_t arg, bool awaited)
{
	struct view_layer *l = view_layer(v, id);
	struct err e = ERR_INIT;
	int r;

	if (!l || !l->node || l->node->driver != NODE_QCOW2)
		return 0;
	if (v->ending) /* who has its device open reads; what they write has no place */
		return view_message(v, NULL, NULL, "layer %d error", v->active);
	r = fn(v, id, arg, &e);
	if (r == -ENOSPC && !awaited)
		v->service_retry = true;
	else if (r == -ENOSPC)
		no_space(v, l->node, &e);
	else if (r)
		no_grant(v, &e);
	else
		space_again(v);
	return r;
}

/* Where there is no room for a grant as large as we like, a smaller one will do. */
static int serve_pool(struct view *v, int id, uint64_t bytes, struct err *e)
{
	int r = service_grant(v, id, bytes, e);

	while (r == -ENOSPC && bytes > GRANT_MIN) {
		err_clear(e);
		bytes /= 2;
		r = service_grant(v, id, bytes, e);
	}
	return r;
}

static int serve_home(struct view *v, int id, uint64_t unit, struct err *e)
{
	struct node *n = view_layer(v, id)->node;
	uint64_t off = unit * n->info.cluster_size;
	uint64_t first = off / n->info.region_size * n->info.region_size;
	uint64_t len = n->info.region_size * TABLE_WINDOW;

	if (first >= view_bytes(v))
		return 0;
	if (first + len > view_bytes(v))
		len = view_bytes(v) - first;
	return service_homes(v, id, first, len, e);
}

static void serve_slices(struct view *v, char *args)
{
	uint64_t next = 0, n = 0, slice;
	struct err e = ERR_INIT;
	char *save, *w;
	int r = 0;

	for (w = strtok_r(args, " ", &save);; w = strtok_r(NULL, " ", &save)) {
		if (w && parse_u64(w, &slice))
			continue;
		slice /= SLICE_BLOCKS;
		if (w && n && slice == next + n) {
			n++;
			continue;
		}
		if (n && !r)
			r = service_load(v, next, n, &e);
		next = slice;
		n = 1;
		if (!w)
			break;
	}
	if (r)
		service_failed(v, "can't load the map", "read", &e);
}

static void serve_homes(struct view *v, char *args)
{
	char *save, *w = strtok_r(args, " ", &save);
	uint64_t id, unit;

	if (!w || parse_u64(w, &id))
		return;
	while ((w = strtok_r(NULL, " ", &save))) {
		if (!parse_u64(w, &unit))
			serve_space(v, (int)id, serve_home, unit, true);
	}
}

static void serve_fail(struct view *v, const char *args)
{
	if (v->failed)
		return;
	v->failed = true;
	log_error("'%s': a record could not be written (layer, error: %s): the device takes no more writes; detach it, look at the image's storage, attach it again",
		  v->dm, args);
	event_post("BLOCK_IO_ERROR",
		   json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:s}", "qom-path", "", "device", v->dm,
			     "node-name", node_shown(v->top)->name, "operation", "write", "action", "report",
			     "nospace", 0, "reason", "a mapping record could not be written"));
}

/* Of "<layer> <free sectors> <low> <waiting>": whether any do. */
static bool writes_wait(const char *args)
{
	const char *last = strrchr(args, ' ');

	return last && !streq(last, " 0");
}

/* One line of the answer to `requests`; returns whether somebody waits for it. */
static bool serve_line(struct view *v, char *line)
{
	char *args = strchr(line, ' ');

	if (!args)
		return false;
	*args++ = '\0';
	if (streq(line, "slice"))
		serve_slices(v, args);
	else if (streq(line, "home"))
		serve_homes(v, args);
	else if (streq(line, "pool"))
		serve_space(v, atoi(args), serve_pool, grant_size(v), writes_wait(args));
	else if (streq(line, "fail"))
		serve_fail(v, args);
	return !streq(line, "fail");
}

static bool serve_requests(struct view *v, struct err *e)
{
	_cleanup_free_ char *reply = NULL;
	char *save, *line;
	bool any = false;

	if (dm_message(v->dm, "requests", &reply, e))
		return false;
	for (line = strtok_r(reply, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		any |= serve_line(v, line);
	return any;
}

/* The tables of what is about to be loaded, as far as they may be made ahead of use. */
static int ahead_homes(struct view *v, uint64_t n, struct err *e)
{
	struct view_layer *l = v->active >= 0 ? view_layer(v, v->active) : NULL;
	uint64_t off = v->ahead * slice_bytes(v), len = n * slice_bytes(v);

	if (!l || !l->node || l->node->driver != NODE_QCOW2 || !v->ahead_tables || v->nospace)
		return 0;
	if (len > l->node->info.region_size * v->ahead_tables)
		len = l->node->info.region_size * v->ahead_tables;
	if (off + len > view_bytes(v))
		len = view_bytes(v) - off;
	return service_homes(v, l->id, off, len, e);
}

/* Loads the next part of the map before anybody asks. */
static void load_ahead(struct view *v)
{
	uint64_t n = v->ahead_batch;
	struct err e = ERR_INIT;
	int r;

	if (v->ahead >= slice_count(v))
		return;
	r = ahead_homes(v, n, &e);
	if (r) { /* nobody waits for it yet: the write that does will say it */
		v->ahead_tables = 0;
		err_clear(&e);
	}
	r = service_load(v, v->ahead, n, &e);
	if (r) {
		service_failed(v, "can't load the map ahead", "read", &e);
		return;
	}
	v->ahead += n;
	v->service_more = v->ahead < slice_count(v);
}

static void look_at_jobs(struct view *v)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));

	if (view_get_status(v, st, NULL))
		return;
	memcpy(v->seen, st->jobs, sizeof(v->seen));
	v->nr_seen = st->nr_jobs;
	/* What waits for the daemon (job-end.c): an error that is ignored, the end of a ready one. */
	for (unsigned i = 0; i < st->nr_jobs; i++)
		v->service_retry |= str_has_prefix(st->jobs[i].result, "stopped") ||
				    streq(st->jobs[i].state, "ready");
}

static void service_work(void *arg)
{
	struct view *v = arg;
	struct err e = ERR_INIT;
	bool any;

	pthread_mutex_lock(&v->lock);
	v->service_more = v->service_retry = false;
	if (v->held)
		v->service_retry = true;
	if (!v->dead && !v->held) {
		try_lost(v);
		any = serve_requests(v, &e);
		if (e.code)
			log_debug("'%s': requests: %s", v->dm, e.msg);
		if (any && !v->service_retry)
			v->service_more = true;
		else
			load_ahead(v);
		look_at_jobs(v);
	}
	pthread_mutex_unlock(&v->lock);
}

static void service_done(void *arg)
{
	struct view *v = arg;

	event_flush();
	log_debug("'%s': service: loaded up to %llu, %u jobs%s%s", v->dm,
		  (unsigned long long)v->ahead, v->nr_seen, v->service_again ? ", again" : "",
		  v->service_more ? ", more" : "");
	v->service_busy = false;
	if (v->dead) {
		view_reap();
		return;
	}
	if (service_jobs_changed)
		service_jobs_changed(v);
	if (v->service_again || v->service_more)
		service_kick(v);
	else if (v->service_retry)
		ev_timer_set(v->retry, RETRY_MS);
}

static void retry_due(void *arg)
{
	service_kick(arg);
}

void service_kick(struct view *v)
{
	if (v->dead || !v->ready)
		return;
	if (!v->service) {
		v->service = worker_queue_new(the_daemon->worker, v->dm, true);
		v->retry = ev_timer_new(the_daemon->ev, retry_due, v);
	}
	v->service_again = v->service_busy;
	if (v->service_busy)
		return;
	v->service_busy = true;
	worker_submit_to(v->service, service_work, service_done, v);
}

void service_kick_all(void)
{
	struct view *v;

	core_lock();
	list_for_each(v, &view_list, link)
		service_kick(v);
	core_unlock();
}
