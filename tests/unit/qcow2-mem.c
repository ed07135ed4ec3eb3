// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2-mem.h"

#define MAX_SIZE (64u << 20)

/* ---- I/O -------------------------------------------------------------------------- */

static struct qmem *to_mem(struct qio *q)
{
	return (struct qmem *)q;
}

static int mem_grow(struct qmem *m, uint64_t end, struct err *e)
{
	if (end <= m->size)
		return 0;
	if (m->io.capacity || end > MAX_SIZE)
		return err_set(e, ENOSPC, "no space left");
	if (end > m->cap) {
		m->data = realloc(m->data, end * 2);
		m->cap = end * 2;
	}
	memset(m->data + m->size, 0, end - m->size);
	m->size = end;
	return 0;
}

static int mem_pread(struct qio *q, void *buf, size_t len, uint64_t off, struct err *e)
{
	struct qmem *m = to_mem(q);
	size_t n = off < m->size ? m->size - off : 0;

	(void)e;
	n = n < len ? n : len;
	if (n)
		memcpy(buf, m->data + off, n);
	memset((uint8_t *)buf + n, 0, len - n);
	return 0;
}

static int mem_pwrite(struct qio *q, const void *buf, size_t len, uint64_t off, struct err *e)
{
	struct qmem *m = to_mem(q);
	uint64_t end;

	if (__builtin_add_overflow(off, len, &end))
		return err_set(e, EFBIG, "too large");
	if (mem_grow(m, end, e) < 0)
		return -ENOSPC;
	memcpy(m->data + off, buf, len);
	return 0;
}

static int mem_flush(struct qio *q, struct err *e)
{
	(void)q;
	(void)e;
	return 0;
}

static int mem_size(struct qio *q, uint64_t *ret_size, struct err *e)
{
	(void)e;
	*ret_size = to_mem(q)->size;
	return 0;
}

static int mem_allocate(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	uint64_t end;

	if (__builtin_add_overflow(off, len, &end))
		return err_set(e, EFBIG, "too large");
	return mem_grow(to_mem(q), end, e);
}

static int mem_zero(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	int r = mem_allocate(q, off, len, e);

	if (r == 0)
		memset(to_mem(q)->data + off, 0, len);
	return r;
}

static int mem_truncate(struct qio *q, uint64_t size, struct err *e)
{
	struct qmem *m = to_mem(q);

	if (size >= m->size)
		return mem_grow(m, size, e);
	m->size = size;
	return 0;
}

void qmem_init(struct qmem *m, const void *data, size_t size, uint64_t capacity)
{
	*m = (struct qmem){
		.io = {
			.pread = mem_pread,
			.pwrite = mem_pwrite,
			.flush = mem_flush,
			.size = mem_size,
			.allocate = mem_allocate,
			.zero = mem_zero,
			.truncate = mem_truncate,
			.name = "hostile",
			.capacity = capacity,
			.align = 4096,
		},
		.data = malloc(size ? size : 1),
		.size = size,
		.cap = size,
	};
	if (size)
		memcpy(m->data, data, size);
}

void qmem_done(struct qmem *m)
{
	free(m->data);
}

/* ---- promises ----------------------------------------------------------------------- */

#define MAX_RUNS 8192

static void die(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

/* Counts a success; a failure must have its sentence. */
static unsigned int step(int r, struct err *e)
{
	if (r < 0 && r != -EOVERFLOW && (e->code != -r || strlen(e->msg) < 10))
		die("a failure without its sentence");
	err_clear(e);
	return r >= 0;
}

struct mapped {
	struct qcow2_range *v;
	size_t n;
	uint64_t pos, file_end, cluster;
};

static int take_run(void *opaque, const struct qcow2_run *run)
{
	struct mapped *m = opaque;

	if (run->guest_off != m->pos || !run->len)
		die("runs with a gap");
	m->pos += run->len;
	if (run->kind == QCOW2_DATA || run->kind == QCOW2_ZERO_ALLOC) {
		if (run->host_off < m->cluster || run->host_off + run->len < run->host_off ||
		    run->host_off + run->len > m->file_end)
			die("a run outside the file");
		m->v[m->n++] = (struct qcow2_range){ run->host_off, run->len };
	} else if (run->host_off) {
		die("a host offset without a cluster");
	}
	return m->n == MAX_RUNS ? -EOVERFLOW : 0;
}

static void no_overlap(const struct mapped *m, const struct qcow2_range *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (v[i].off < m->cluster || !v[i].len)
			die("allocated the header");
		for (size_t k = 0; k < m->n; k++)
			if (v[i].off < m->v[k].off + m->v[k].len &&
			    m->v[k].off < v[i].off + v[i].len)
				die("allocated what is in use");
	}
}

static int map_all(struct qcow2 *img, struct mapped *m, struct err *e)
{
	struct qcow2_info info;

	qcow2_get_info(img, &info);
	m->n = 0;
	m->pos = 0;
	m->cluster = info.cluster_size;
	m->file_end = (info.host_size + info.cluster_size - 1) & ~(uint64_t)(info.cluster_size - 1);
	return qcow2_map(img, 0, UINT64_MAX, take_run, m, e);
}

static unsigned int read_steps(struct qmem *m, struct mapped *map)
{
	struct qcow2_report report;
	struct qcow2 *img;
	struct err e = ERR_INIT;
	unsigned int good;
	int r = qcow2_open(&m->io, 0, &img, &e);

	if (!step(r, &e))
		return 0;
	good = 1 + step(map_all(img, map, &e), &e);
	good += step(qcow2_check(img, &report, &e), &e);
	qcow2_close(img);
	return good;
}

static unsigned int change_steps(struct qcow2 *img, const struct mapped *map, bool known)
{
	struct qcow2_range *v = NULL, all = { 0, UINT64_MAX };
	struct qcow2_table *t = NULL;
	struct err e = ERR_INIT;
	unsigned int good = 0;
	size_t n, nt = 0;
	int r;

	for (int i = 0; i < 3; i++) {
		r = qcow2_alloc_clusters(img, 1 + 7 * i, i, &v, &n, &e);
		good += step(r, &e);
		if (r < 0)
			continue;
		if (known)
			no_overlap(map, v, n);
		good += step(qcow2_free_clusters(img, v, n, i & 1, &e), &e);
		free(v);
	}
	r = qcow2_prepare_tables(img, 0, 8 << 20, &t, &nt, &e);
	good += step(r, &e);
	for (size_t i = 0; r == 0 && i < nt; i++) {
		struct qcow2_range where = { t[i].host_off, map->cluster };

		if (known)
			no_overlap(map, &where, 1);
	}
	free(t);
	good += step(qcow2_reclaim(img, &all, 1, 0, NULL, &e), &e);
	good += step(qcow2_set_backing(img, "other", "raw", &e), &e);
	good += step(qcow2_set_backing(img, NULL, NULL, &e), &e);
	return good;
}

unsigned int qmem_exercise(struct qmem *m)
{
	static struct qcow2_range runs[MAX_RUNS];
	struct mapped map = { .v = runs };
	struct err e = ERR_INIT;
	struct qcow2 *img;
	unsigned int good = read_steps(m, &map);
	int r = qcow2_open(&m->io, QCOW2_WRITABLE | QCOW2_SNAPSHOTS_OK, &img, &e);

	if (step(r, &e)) {
		bool known;

		r = map_all(img, &map, &e);
		known = r == 0;
		good += 1 + step(r, &e);
		good += change_steps(img, &map, known);
		/* What was mapped is still so (tables may have been copied). */
		if (known && map_all(img, &map, &e) < 0)
			die(e.msg);
		qcow2_close(img);
	}
	return good;
}
