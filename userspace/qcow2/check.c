// SPDX-License-Identifier: GPL-2.0-or-later
/* Compares refcounts with references, as `qemu-img check` does. Writes nothing. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct check {
	struct qcow2 *img;
	struct qcow2_report *report;
	uint32_t *refs; /* by cluster */
	uint64_t n;
};

static __attribute__((format(printf, 2, 3))) void corrupt(struct check *c, const char *fmt, ...)
{
	va_list ap;

	if (!c->report->corruptions++) {
		va_start(ap, fmt);
		vsnprintf(c->report->first, sizeof(c->report->first), fmt, ap);
		va_end(ap);
	}
}

static int count_bad(void *opaque, const char *sentence, struct err *e)
{
	(void)e;
	corrupt(opaque, "%s", sentence);
	return 0;
}

/* Data may share a cluster with data (a snapshot's), nothing else may. */
static int count_ref(void *opaque, const struct ref *ref, struct err *e)
{
	struct check *c = opaque;
	unsigned int bits = c->img->hdr.cluster_bits;
	uint64_t first = ref->off >> bits, last = (ref->off + ref->len - 1) >> bits, rc;
	int r;

	for (uint64_t i = first; i <= last && i < c->n; i++)
		c->refs[i]++;
	if (ref->kind == REF_DATA || ref->kind == REF_COMPRESSED) {
		c->report->allocated++;
		if (ref->kind == REF_COMPRESSED)
			c->report->compressed++;
		else if (metaset_has(&c->img->meta, first))
			corrupt(c, "the data cluster at %#llx overlaps metadata",
				(unsigned long long)ref->off);
	}
	if (!ref->has_copied)
		return 0;
	r = __rc_get(c->img, first, &rc, e);
	if (r == 0 && ref->copied != (rc == 1))
		corrupt(c, "the entry of the cluster at %#llx says %s, its refcount is %llu",
			(unsigned long long)ref->off, ref->copied ? "copied" : "shared",
			(unsigned long long)rc);
	return r;
}

static int compare(struct check *c, struct err *e)
{
	struct qcow2 *img = c->img;
	uint64_t end = img->rc.entries << img->rc.block_bits, rc;
	int r = 0;

	if (end < c->n)
		end = c->n;
	for (uint64_t i = 0; i < end && r == 0; i++) {
		uint64_t refs = i < c->n ? c->refs[i] : 0;

		if (i >= c->n && !rc_has_block(img, i)) {
			i |= (1ull << img->rc.block_bits) - 1;
			continue;
		}
		r = __rc_get(img, i, &rc, e);
		if (rc > refs)
			c->report->leaks++;
		if (rc < refs)
			corrupt(c, "the cluster at %#llx has refcount %llu and %llu references",
				(unsigned long long)(i * img->cluster_size),
				(unsigned long long)rc, (unsigned long long)refs);
		if (rc || refs)
			c->report->image_end = (i + 1) * img->cluster_size;
	}
	return r;
}

static int __check(struct check *c, struct err *e)
{
	const struct ref_walk w = { .opaque = c, .ref = count_ref, .bad = count_bad };
	int r = __rc_load(c->img, e);

	if (r < 0)
		return r;
	c->n = DIV_ROUND_UP(c->img->file_size, c->img->cluster_size);
	c->refs = calloc(c->n, sizeof(*c->refs));
	if (!c->refs)
		return err_set(e, ENOMEM, "out of memory (%llu refcounts)",
			       (unsigned long long)c->n);
	r = refs_walk(c->img, &w, e);
	return r < 0 ? r : compare(c, e);
}

int qcow2_check(struct qcow2 *img, struct qcow2_report *ret, struct err *e)
{
	struct qcow2_report report = { 0 };
	struct check c = { .img = img, .report = &report };
	int r;

	pthread_mutex_lock(&img->lock);
	r = __check(&c, e);
	pthread_mutex_unlock(&img->lock);
	free(c.refs);
	if (r == 0)
		*ret = report;
	return r;
}
