// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * From a chain of images to the runs of a map message.
 *
 * A range is looked up in the top image; what that leaves unallocated is looked
 * up in the image below, and so on. A backing image that is shorter than its
 * overlay reads as zeros behind its end.
 *
 * What an image's metadata does not tell, being damaged, is an error run: as little as
 * can be named, the cluster or what the L2 table maps. While a device is being
 * made (strict) damage is an error of the whole.
 */
#include <errno.h>
#include <string.h>

#include "view.h"

struct runs {
	struct view *v;
	struct strbuf *out;
	struct err *e;
	uint64_t block; /* bytes */
	uint64_t end;	/* of the view, bytes: the last block may be cut there */
	uint64_t pos;	/* what lies before it is in a run */
	/* the run that is being collected; count 0: none */
	uint64_t count;
	/* 'd', 'z' (no layer), 'l' (zero of a layer), 'k' (zero that keeps space), 'e' */
	char kind;
	int layer;
	uint64_t sector;
	bool shared;
};

struct level {
	struct runs *r;
	struct node *node;
	int layer;
};

static int lookup(struct runs *r, struct node *n, uint64_t off, uint64_t len);

static void flush_run(struct runs *r)
{
	if (!r->count)
		return;
	strbuf_addf(r->out, " %llu:%c", (unsigned long long)r->count,
		    strchr("de", r->kind) ? r->kind : 'z');
	if (!strchr("ze", r->kind))
		strbuf_addf(r->out, ":%d", r->layer);
	if (r->kind == 'd' || r->kind == 'k')
		strbuf_addf(r->out, ":%llu", (unsigned long long)r->sector);
	if (r->shared)
		strbuf_adds(r->out, ":s");
	r->count = 0;
}

static int emit(struct runs *r, uint64_t off, uint64_t len, char kind, int layer, uint64_t host,
		bool shared)
{
	uint64_t sectors = r->block / 512, count;
	bool place = kind == 'd' || kind == 'k';

	r->pos = off + len;
	if (off + len == r->end)
		len = (len + r->block - 1) / r->block * r->block;
	if (off % r->block || len % r->block || host % 512)
		return err_set(r->e, EINVAL,
			       "'%s': data at offset %llu does not fit the blocks of %llu bytes that the device has; detach and attach it again",
			       r->v->dm, (unsigned long long)off, (unsigned long long)r->block);
	count = len / r->block;
	if (r->count && r->kind == kind && r->layer == layer && r->shared == shared &&
	    (!place || r->sector + r->count * sectors == host / 512)) {
		r->count += count;
		return 0;
	}
	flush_run(r);
	r->count = count;
	r->kind = kind;
	r->layer = layer;
	r->sector = place ? host / 512 : 0;
	r->shared = shared;
	return 0;
}

static int on_run(void *arg, const struct qcow2_run *q)
{
	struct level *l = arg;
	struct runs *r = l->r;

	switch (q->kind) {
	case QCOW2_UNALLOCATED:
		return lookup(r, l->node->backing, q->guest_off, q->len);
	case QCOW2_ZERO_PLAIN:
		return emit(r, q->guest_off, q->len, 'l', l->layer, 0, false);
	case QCOW2_ZERO_ALLOC:
		return emit(r, q->guest_off, q->len, 'k', l->layer, q->host_off, !q->copied);
	case QCOW2_DATA:
		return emit(r, q->guest_off, q->len, 'd', l->layer, q->host_off, !q->copied);
	}
	return -EINVAL;
}

/* Damage, and not something that is wrong with us. */
static bool is_damage(int ret)
{
	return ret < 0 && ret != -ENOMEM && ret != -EINVAL;
}

/* How far the damage found at r->pos goes: a bad entry is one cluster, else no entry can be read.
 */
static uint64_t damage_end(const struct runs *r, const struct node *n, int ret)
{
	bool entry = ret == -EUCLEAN || ret == -EOPNOTSUPP;
	uint64_t size = entry ? n->info.cluster_size : n->info.region_size;

	return (r->pos / size + 1) * size;
}

static int lookup_qcow2(struct level *l, uint64_t end)
{
	struct runs *r = l->r;
	uint64_t seen = UINT64_MAX, stop;
	int ret = 0;

	while (r->pos < end && !ret) {
		ret = qcow2_map(l->node->img, r->pos, end - r->pos, on_run, l, r->e);
		if (r->v->strict || !is_damage(ret))
			return ret;
		if (seen == r->pos) { /* twice: it has not only been changing while it was read */
			stop = damage_end(r, l->node, ret);
			stop = stop < end ? stop : end;
			service_damage(r->v, l->node, r->pos, stop - r->pos, r->e);
			ret = emit(r, r->pos, stop - r->pos, 'e', 0, 0, false);
		} else {
			seen = r->pos;
			ret = 0;
		}
		err_clear(r->e);
	}
	return ret;
}

static int lookup_in(struct runs *r, struct node *n, uint64_t off, uint64_t len)
{
	struct view_layer *vl = view_layer_of(r->v, n);
	struct level l = { r, n, vl ? vl->id : 0 };

	if (!vl)
		return err_set(r->e, EINVAL, "'%s': image '%s' is not a layer of the device",
			       r->v->dm, n->file->filename);
	if (n->driver != NODE_QCOW2)
		return emit(r, off, len, 'd', l.layer, off, false);
	return lookup_qcow2(&l, off + len);
}

/*
 * Zeros behind the end of a backing image hide what lies below: so it is that image that says
 * them, and they are copied with what it has.
 */
static int behind_end(struct runs *r, struct node *n, uint64_t off, uint64_t len)
{
	struct view_layer *vl = n && n->backing ? view_layer_of(r->v, n) : NULL;

	return vl ? emit(r, off, len, 'l', vl->id, 0, false) : emit(r, off, len, 'z', 0, 0, false);
}

static int lookup(struct runs *r, struct node *n, uint64_t off, uint64_t len)
{
	uint64_t inside;
	int ret;

	if (!n || off >= n->size)
		return behind_end(r, n, off, len);
	inside = n->size - off < len ? n->size - off : len;
	ret = lookup_in(r, n, off, inside);
	if (ret || inside == len)
		return ret;
	return behind_end(r, n, off + inside, len - inside);
}

int map_runs(struct view *v, uint64_t off, uint64_t len, struct strbuf *out, struct err *e)
{
	return map_runs_below(v, v->top, off, len, out, e);
}

int map_runs_below(struct view *v, struct node *n, uint64_t off, uint64_t len, struct strbuf *out,
		   struct err *e)
{
	struct runs r = {
		.v = v,
		.out = out,
		.e = e,
		.block = (uint64_t)v->block * 512,
		.end = v->sectors * 512,
		.pos = off,
	};
	int ret = lookup(&r, n, off, len);

	flush_run(&r);
	return ret;
}
