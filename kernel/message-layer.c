// SPDX-License-Identifier: GPL-2.0-only
/*
 * The messages about a layer: `layer`, `home`, `grant`, `reclaim`.
 */
#include <linux/log2.h>
#include <linux/slab.h>
#include "logic/grammar.h"
#include "message.h"
#include "table.h"

/*
 * ---------------------------------------------------------------------------
 * layer
 * ---------------------------------------------------------------------------
 */

/* What `layer <id> unit ...` says. */
struct description {
	enum lc_layer_kind kind;
	unsigned int unit_shift;
	struct lc_record_format format;
};

static int parse_unit(struct lc_msg *m, struct description *d)
{
	unsigned int unit;

	if (kstrtouint(m->argv[3], 10, &unit) || !is_power_of_2(unit) ||
	    unit < LIVECHAIN_UNIT_SECTORS_MIN || unit > LIVECHAIN_UNIT_SECTORS_MAX)
		return lc_msg_refuse(m, -EINVAL, "the unit must be a power of two from 8 to 4096 sectors, not %s",
				     m->argv[3]);
	d->unit_shift = ilog2(unit);
	return 0;
}

static int parse_mask(struct lc_msg *m, const char *word, u64 *mask, bool *ret_has)
{
	*ret_has = strcmp(word, "-");
	if (!*ret_has)
		return 0;
	if (strncmp(word, "0x", 2) || kstrtou64(word, 16, mask))
		return lc_msg_refuse(m, -EINVAL, "%s is not a mask: 0x and hexadecimal digits",
				     word);
	return 0;
}

static int parse_record(struct lc_msg *m, struct description *d)
{
	struct lc_record_format *f = &d->format;
	bool has_data;
	int r;

	if (m->argc != 9)
		return lc_msg_refuse(m, -EINVAL, "record needs a shift and three masks");
	if (kstrtouint(m->argv[5], 10, &f->shift) || f->shift > 63 - 40)
		return lc_msg_refuse(m, -EINVAL, "the shift must be 0 to 23, not %s", m->argv[5]);
	r = parse_mask(m, m->argv[6], &f->data_mask, &has_data);
	if (!r && !has_data)
		r = lc_msg_refuse(m, -EINVAL, "the data mask is missing");
	if (!r)
		r = parse_mask(m, m->argv[7], &f->zero_mask, &f->has_zero_space);
	if (!r)
		r = parse_mask(m, m->argv[8], &f->plain_zero, &f->has_plain_zero);
	return r;
}

static int parse_description(struct lc_msg *m, struct description *d)
{
	int r = parse_unit(m, d);

	if (r)
		return r;
	if (m->argc == 5 && !strcmp(m->argv[4], "raw")) {
		d->kind = LC_LAYER_RAW;
		return 0;
	}
	if (m->argc >= 5 && !strcmp(m->argv[4], "record")) {
		d->kind = LC_LAYER_RECORD;
		return parse_record(m, d);
	}
	return lc_msg_refuse(m, -EINVAL, "a layer is raw or record");
}

static bool same(const struct lc_layer *l, const struct description *d)
{
	const struct lc_record_format *a = &l->format, *b = &d->format;

	return l->kind == d->kind && l->unit_shift == d->unit_shift && a->shift == b->shift &&
	       a->data_mask == b->data_mask && a->zero_mask == b->zero_mask &&
	       a->plain_zero == b->plain_zero && a->has_zero_space == b->has_zero_space &&
	       a->has_plain_zero == b->has_plain_zero;
}

static int describe(struct lc_msg *m, struct lc_layer *layer)
{
	struct description d = {};
	unsigned int pages;
	int r;

	r = parse_description(m, &d);
	if (r)
		return r;
	if (layer->kind != LC_LAYER_PLAIN)
		return same(layer, &d) ? 0 :
		       lc_msg_refuse(m, -EBUSY, "layer %u has been described differently",
				     layer->id);
	pages = 1 << (max(d.unit_shift, m->view->block_shift) - PAGE_SECTORS_SHIFT);
	if (lc_buf_grow(&m->view->bufs, pages))
		return lc_msg_refuse(m, -ENOMEM, "no memory for the reserve");
	layer->format = d.format;
	layer->unit_shift = d.unit_shift;
	/* Who sees the kind sees the rest. */
	smp_store_release(&layer->kind, d.kind);
	if (layer == m->view->active)
		lc_park_wake_all(m->view, LC_WANT_POOL);
	return 0;
}

/* Who waits for space now fails; who comes later asks again. */
static int no_space(struct lc_msg *m, struct lc_layer *layer)
{
	bool error = !strcmp(m->argv[2], "error");

	if (!error && strcmp(m->argv[2], "nospace"))
		return lc_msg_refuse(m, -EINVAL, "needs 3 arguments at least, not 2");
	if (layer != m->view->active)
		return lc_msg_refuse(m, -EINVAL, "layer %u is not the active one", layer->id);
	lc_park_fail(m->view, error ? BLK_STS_IOERR : BLK_STS_NOSPC);
	return 0;
}

static struct lc_layer *record_layer(struct lc_msg *m, int *r)
{
	struct lc_layer *layer = lc_msg_layer(m, m->argv[1], r);

	if (!layer || layer->kind == LC_LAYER_RECORD)
		return layer;
	*r = lc_msg_refuse(m, -EINVAL, "layer %u has not been described as one with records",
			   layer->id);
	return NULL;
}

static int zeros_are(struct lc_msg *m)
{
	bool said = !strcmp(m->argv[3], "said");
	struct lc_layer *layer;
	int r = 0;

	if (!said && strcmp(m->argv[3], "known"))
		return lc_msg_refuse(m, -EINVAL, "that is known or said, not %s", m->argv[3]);
	layer = record_layer(m, &r);
	if (layer)
		WRITE_ONCE(layer->say_zeros, said);
	return r;
}

int lc_msg_describe(struct lc_msg *m)
{
	struct lc_layer *layer;
	u64 low;
	int r = 0;

	layer = lc_msg_layer(m, m->argv[1], &r);
	if (!layer)
		return r;
	if (m->argc == 3)
		return no_space(m, layer);
	if (!strcmp(m->argv[2], "unit"))
		return describe(m, layer);
	if (!strcmp(m->argv[2], "zeros") && m->argc == 4)
		return zeros_are(m);
	if (strcmp(m->argv[2], "low") || m->argc != 4)
		return lc_msg_refuse(m, -EINVAL,
				     "needs unit, low, zeros, nospace or error behind the layer, not %s",
				     m->argv[2]);
	if (kstrtou64(m->argv[3], 10, &low))
		return lc_msg_refuse(m, -EINVAL, "%s is not a number of sectors", m->argv[3]);
	lc_pool_set_low(&layer->pool, low);
	return 0;
}

/*
 * ---------------------------------------------------------------------------
 * home
 * ---------------------------------------------------------------------------
 */
static int check_home(struct lc_msg *m, struct lc_layer *layer, const char *word, u64 first,
		      u64 nr, u64 sector)
{
	const u64 units = ((m->view->nr_sectors - 1) >> layer->unit_shift) + 1;
	u64 page, pages = DIV_ROUND_UP(nr, LIVECHAIN_RECORDS_PER_PAGE), known;

	if (first % LIVECHAIN_RECORDS_PER_PAGE || first >= units || nr > units - first)
		return lc_msg_refuse(m, -EINVAL, "%s: its first unit is not a multiple of 512, or there are not so many units",
				     word);
	if (nr % LIVECHAIN_RECORDS_PER_PAGE && first + nr != units)
		return lc_msg_refuse(m, -EINVAL, "%s: the number of units is not a multiple of 512",
				     word);
	if (sector % PAGE_SECTORS || sector + pages * PAGE_SECTORS > lc_layer_sectors(layer))
		return lc_msg_refuse(m, -EINVAL, "%s: the sector is not a multiple of 8, or lies beyond the device's end",
				     word);
	for (page = 0; page < pages; page++)
		if (lc_record_home(layer, first / LIVECHAIN_RECORDS_PER_PAGE + page, &known) &&
		    known != sector + page * PAGE_SECTORS)
			return lc_msg_refuse(m, -EEXIST, "%s: a home of these units is known, elsewhere",
					     word);
	return 0;
}

static int store_home(struct lc_msg *m, struct lc_layer *layer, u64 first, u64 nr, u64 sector)
{
	u64 page = first / LIVECHAIN_RECORDS_PER_PAGE;
	u64 end = page + DIV_ROUND_UP(nr, LIVECHAIN_RECORDS_PER_PAGE);
	int r;

	for (; page < end; page++, sector += PAGE_SECTORS) {
		r = xa_err(xa_store(&layer->homes, page, xa_mk_value(sector), GFP_NOIO));
		if (r)
			return lc_msg_refuse(m, r, "no memory for homes");
		if (layer == m->view->active)
			lc_park_wake(m->view, LC_WANT_HOME, page);
	}
	return 0;
}

int lc_msg_home(struct lc_msg *m)
{
	struct lc_layer *layer;
	u64 first, nr, sector;
	const char *why;
	unsigned int i;
	int r = 0;

	layer = record_layer(m, &r);
	if (!layer)
		return r;
	for (i = 2; i < m->argc && !r; i++) {
		why = lc_parse_home(m->argv[i], &first, &nr, &sector);
		if (why)
			return lc_msg_refuse(m, -EINVAL, "%s %s", m->argv[i], why);
		r = check_home(m, layer, m->argv[i], first, nr, sector);
	}
	for (i = 2; i < m->argc && !r; i++) {
		lc_parse_home(m->argv[i], &first, &nr, &sector);
		r = store_home(m, layer, first, nr, sector);
	}
	return r;
}

/*
 * ---------------------------------------------------------------------------
 * grant, reclaim
 * ---------------------------------------------------------------------------
 */
static int parse_ranges(struct lc_msg *m, struct lc_layer *layer, struct list_head *list)
{
	const u64 unit = 1ULL << layer->unit_shift;
	struct lc_range *range;
	const char *why;
	unsigned int i;

	for (i = 3; i < m->argc; i++) {
		range = kzalloc(sizeof(*range), GFP_NOIO);
		if (!range)
			return lc_msg_refuse(m, -ENOMEM, "no memory for the grant");
		list_add_tail(&range->list, list);
		why = lc_parse_range(m->argv[i], &range->sector, &range->nr);
		if (why)
			return lc_msg_refuse(m, -EINVAL, "%s %s", m->argv[i], why);
		if ((range->sector | range->nr) & (unit - 1))
			return lc_msg_refuse(m, -EINVAL, "%s does not consist of whole units",
					     m->argv[i]);
		if (range->sector + range->nr > lc_layer_sectors(layer))
			return lc_msg_refuse(m, -EINVAL, "%s ends beyond the device's end",
					     m->argv[i]);
	}
	return 0;
}

int lc_msg_grant(struct lc_msg *m)
{
	unsigned int sz = 0, maxlen = m->maxlen;
	char *result = m->result;
	struct lc_layer *layer;
	LIST_HEAD(list);
	u64 number;
	int r = 0;

	layer = record_layer(m, &r);
	if (!layer)
		return r;
	if (kstrtou64(m->argv[2], 10, &number) || !number)
		return lc_msg_refuse(m, -EINVAL, "%s is not the number of a grant", m->argv[2]);
	r = parse_ranges(m, layer, &list);
	if (!r && lc_pool_grant(&layer->pool, number, &list) && layer == m->view->active)
		lc_park_wake_all(m->view, LC_WANT_POOL);
	lc_range_free_list(&list);
	if (r)
		return r;
	DMEMIT("granted %llu", layer->pool.last_grant);
	return 1;
}

int lc_msg_reclaim(struct lc_msg *m)
{
	unsigned int sz = 0, maxlen = m->maxlen;
	char *result = m->result;
	struct lc_layer *layer;
	struct lc_range *range;
	int r = 0;

	layer = record_layer(m, &r);
	if (!layer)
		return r;
	if (m->argc == 3) {
		if (strcmp(m->argv[2], "done"))
			return lc_msg_refuse(m, -EINVAL, "done or nothing behind the layer, not %s",
					     m->argv[2]);
		lc_pool_offer_done(&layer->pool);
		return 0;
	}
	lc_pool_offer(&layer->pool);
	/* Offered ranges are changed by messages only. */
	list_for_each_entry(range, &layer->pool.offered, list)
		DMEMIT("%s%llu+%llu", sz ? " " : "", range->sector, range->nr);
	if (!sz)
		DMEMIT("\n");
	return 1;
}
