// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A chain becomes shorter under a running device.
 *
 * The entries of the images that leave it are replaced (`remap`) by what the chain says without them;
 * the content is the same. What is not loaded yet is loaded from the new chain: the
 * change of the chain is made with every view's lock held, so no answer of the old one is on its way.
 */
#include <errno.h>
#include <stdio.h>

#include "../../include/uapi/linux/dm-livechain.h"
#include "../lib/log.h"
#include "ctl.h"
#include "view.h"

#define REMAP_SLICES 256 /* in one message, to begin with */
#define REMAP_TEXT   (128 << 10)

void views_lock_all(void)
{
	struct view *v;

	list_for_each(v, &view_list, link)
		pthread_mutex_lock(&v->lock);
}

void views_unlock_all(void)
{
	struct view *v;

	list_for_each(v, &view_list, link)
		pthread_mutex_unlock(&v->lock);
}

void views_set_backing(struct node *n, struct node *backing)
{
	struct node *old = n->backing;

	views_lock_all();
	core_lock();
	n->backing = backing;
	if (backing)
		backing->parents++;
	if (old)
		old->parents--;
	core_unlock();
	views_unlock_all();
	node_put(old);
}

static unsigned layers_of(struct view *v, struct node *const *nodes, unsigned n, int *ret)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < n; i++) {
		struct view_layer *l = view_layer_of(v, nodes[i]);

		if (l)
			ret[nr++] = l->id;
	}
	return nr;
}

/* How many blocks' entries name one of @ids. */
static int count_entries(struct view *v, const int *ids, unsigned n, uint64_t *ret, struct err *e)
{
	_cleanup_free_ struct view_status *st = xmalloc(sizeof(*st));
	int r = view_get_status(v, st, e);

	*ret = 0;
	for (unsigned i = 0; !r && i < st->nr_layers; i++) {
		for (unsigned k = 0; k < n; k++) {
			if (st->layers[i].id == ids[k])
				*ret += st->layers[i].entries;
		}
	}
	return r;
}

/* 1 if the view's generation had changed, and is known now. With @v->lock held. */
static int remap_once(struct view *v, const char *ids, uint64_t first, uint64_t n,
		      size_t *ret_len, struct err *e)
{
	_cleanup_strbuf_ struct strbuf text = STRBUF_INIT;
	_cleanup_free_ char *reply = NULL;
	uint64_t slice = (uint64_t)v->block * 512 * LIVECHAIN_SLICE_BLOCKS;
	uint64_t off = first * slice, len = n * slice, bytes = v->sectors * 512;
	unsigned long long generation, blocks;
	int r;

	if (off + len > bytes)
		len = bytes - off;
	strbuf_addf(&text, "remap %llu %llu if-layer %s", (unsigned long long)v->generation,
		    (unsigned long long)first * LIVECHAIN_SLICE_BLOCKS, ids);
	v->strict = true;
	r = map_runs_below(v, v->top->backing, off, len, &text, e);
	v->strict = false;
	if (!r)
		r = dm_message(v->dm, strbuf_str(&text), &reply, e);
	*ret_len = text.len;
	if (r)
		return r;
	if (sscanf(reply, "remapped %llu %llu", &blocks, &generation) == 2)
		r = 0;
	else if (sscanf(reply, "stale %llu", &generation) == 1)
		r = 1;
	else
		return err_set(e, EPROTO, "'%s': can't understand the answer '%s'", v->dm, reply);
	v->generation = generation;
	return r;
}

static int remap(struct view *v, const char *ids, struct err *e)
{
	uint64_t per = (uint64_t)v->block * LIVECHAIN_SLICE_BLOCKS;
	uint64_t slices = (v->sectors + per - 1) / per, n = REMAP_SLICES;
	size_t len = 0;
	int r = 0;

	for (uint64_t at = 0; at < slices && r >= 0;) {
		n = n < slices - at ? n : slices - at;
		pthread_mutex_lock(&v->lock);
		r = remap_once(v, ids, at, n, &len, e);
		pthread_mutex_unlock(&v->lock);
		if (r)
			continue;
		at += n;
		if (len > REMAP_TEXT && n > 16)
			n /= 2;
		else if (len < REMAP_TEXT / 4)
			n *= 2;
	}
	return r < 0 ? r : 0;
}

static void print_ids(const int *ids, unsigned n, struct strbuf *out)
{
	for (unsigned i = 0; i < n; i++)
		strbuf_addf(out, "%s%d", i ? "," : "", ids[i]);
}

/* The table without these layers; as before if that can't be. */
static int drop_layers(struct view *v, const int *ids, unsigned n, struct err *e)
{
	struct view_layer *old;
	unsigned nr_old;
	int r;

	pthread_mutex_lock(&v->lock);
	nr_old = v->nr_layers;
	old = xreallocarray(NULL, nr_old, sizeof(*old));
	memcpy(old, v->layers, nr_old * sizeof(*old));
	for (unsigned i = 0; i < n; i++)
		view_pop_layer(v, ids[i]);
	pthread_mutex_unlock(&v->lock);
	r = view_reload(v, e);
	if (r) {
		pthread_mutex_lock(&v->lock);
		memcpy(v->layers, old, nr_old * sizeof(*old));
		v->nr_layers = nr_old;
		pthread_mutex_unlock(&v->lock);
	}
	free(old);
	return r;
}

int view_forget_nodes(struct view *v, struct node *const *nodes, unsigned n, struct err *e)
{
	_cleanup_free_ int *ids = xcalloc(n + 1, sizeof(*ids));
	_cleanup_strbuf_ struct strbuf names = STRBUF_INIT;
	uint64_t left = 0;
	unsigned nr = layers_of(v, nodes, n, ids);
	int r;

	if (!nr)
		return 0;
	print_ids(ids, nr, &names);
	r = count_entries(v, ids, nr, &left, e);
	if (!r && left)
		r = remap(v, strbuf_str(&names), e);
	if (!r && left)
		r = count_entries(v, ids, nr, &left, e);
	if (!r && left)
		r = err_set(e, EUCLEAN, "'%s': %llu blocks still come from images that left the chain",
			    v->dm, (unsigned long long)left);
	return r ? r : drop_layers(v, ids, nr, e);
}

int views_forget_nodes(const struct node *in, struct node *const *nodes, unsigned n, struct err *e)
{
	struct view *v;
	int r = 0;

	list_for_each(v, &view_list, link) {
		if (!r && view_has_node(v, in))
			r = view_forget_nodes(v, nodes, n, e);
	}
	return r;
}
