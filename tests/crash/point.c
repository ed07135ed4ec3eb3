// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Looks at images as a power cut left them, for replay.py and record.py: is the content what the
 * model allows, and does what the daemon does at an attach and a detach end clean?
 *
 * The model is what the guest (guest.py) noted, one event a line; a line's number is its time:
 *	b BLOCKS		the disk's size, in blocks of 4 KiB
 *	z FIRST N		zeros from the start; all else has sequence number 0
 *	w|o|d SEQ FIRST N	a write, zeros, a discard (zeros or no change) is issued
 *	c SEQ			it has completed
 *	f ID			a flush is issued
 *
 * Commands on stdin, one a line; each is answered by a line "ok" or "bad SENTENCE":
 *	model FILE
 *	bdev 0|1		do the image files stand for block devices?
 *	ack mID | uSEQ		flush ID, the FUA write SEQ has returned; only ever forward
 *	read FORMAT FILE ...	the chain (top first) has what the guest may find
 *	raw FILE		so has the raw file, or device
 *	copy T0 T1 FORMAT FILE ... the chain is the disk at one instant between T0 and T1
 *	settle STATE NAME FILE	as opening image NAME for writing does: its journal in STATE
 *	attach STATE NAME FILE	the same, then tables, space and back again, as attach and detach
 *	undo			takes back what settle and attach have written
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/journal.h"
#include "lib/util.h"
#include "qcow2/qcow2.h"

#define BLOCK	   4096u
#define SECTOR	   512u
#define CHAIN_MAX  32
#define GRANT	   (8u << 20)
#define NEVER	   UINT32_MAX

struct version {
	uint32_t seq, issued, done;
	char kind;
};

struct block {
	struct version *v;
	unsigned int n, floor; /* versions before @floor have been overwritten durably */
};

struct op {
	uint32_t first, n;
};

static struct block *blocks;
static uint32_t nr_blocks;
static struct op *ops; /* by sequence number */
static uint32_t nr_ops;
static uint32_t *flushes; /* by ID: when it was issued */
static uint32_t nr_flushes;
static bool bdev;
static uint8_t *content;

/* ---- the model ----------------------------------------------------------------- */

static void add_version(uint32_t first, uint32_t n, struct version v)
{
	for (uint32_t b = first; b < first + n && b < nr_blocks; b++) {
		blocks[b].v = xreallocarray(blocks[b].v, blocks[b].n + 1, sizeof(v));
		blocks[b].v[blocks[b].n++] = v;
	}
}

static void completed(uint32_t seq, uint32_t now)
{
	for (uint32_t b = ops[seq].first; b < ops[seq].first + ops[seq].n; b++) {
		for (unsigned int i = 0; i < blocks[b].n; i++) {
			if (blocks[b].v[i].seq == seq)
				blocks[b].v[i].done = now;
		}
	}
}

static void issued(char kind, uint32_t seq, uint32_t first, uint32_t n, uint32_t now)
{
	ops = xreallocarray(ops, seq + 1, sizeof(*ops));
	for (; nr_ops <= seq; nr_ops++)
		ops[nr_ops] = (struct op){ 0, 0 };
	ops[seq] = (struct op){ first, n };
	add_version(first, n, (struct version){ seq, now, NEVER, kind });
}

static void model_line(const char *line, uint32_t now)
{
	uint32_t a = 0, b = 0, c = 0;
	char kind = line[0];

	(void)sscanf(line + 1, "%u %u %u", &a, &b, &c);
	if (kind == 'b') {
		nr_blocks = a;
		blocks = xcalloc(a, sizeof(*blocks));
		content = xmalloc((size_t)a * BLOCK);
		add_version(0, a, (struct version){ 0, 0, 0, 'w' });
	} else if (kind == 'z') {
		for (uint32_t i = a; i < a + b; i++)
			blocks[i].v[0].kind = 'o';
	} else if (kind == 'w' || kind == 'o' || kind == 'd') {
		issued(kind, a, b, c, now);
	} else if (kind == 'c') {
		completed(a, now);
	} else if (kind == 'f') {
		flushes = xreallocarray(flushes, a + 1, sizeof(*flushes));
		for (; nr_flushes <= a; nr_flushes++)
			flushes[nr_flushes] = 0;
		flushes[a] = now;
	}
}

static int cmd_model(char **arg, int n, struct err *e)
{
	FILE *f = n == 1 ? fopen(arg[0], "r") : NULL;
	char line[256];

	if (!f)
		return err_set(e, errno, "no model");
	for (uint32_t now = 1; fgets(line, sizeof(line), f); now++)
		model_line(line, now);
	fclose(f);
	return 0;
}

/* A discard does not raise the floor: what was there before may still be. */
static void raise_floor(struct block *b, uint32_t before)
{
	for (unsigned int i = b->floor; i < b->n && b->v[i].done < before; i++) {
		if (b->v[i].kind != 'd')
			b->floor = i;
	}
}

static int cmd_ack(char **arg, int n, struct err *e)
{
	uint32_t id = n == 1 ? strtoul(arg[0] + 1, NULL, 10) : 0;

	if (n != 1)
		return err_set(e, EINVAL, "ack what?");
	if (arg[0][0] == 'm') {
		for (uint32_t b = 0; id < nr_flushes && b < nr_blocks; b++)
			raise_floor(&blocks[b], flushes[id]);
		return 0;
	}
	for (uint32_t b = ops[id].first; b < ops[id].first + ops[id].n; b++) {
		for (unsigned int i = blocks[b].floor; i < blocks[b].n; i++) {
			if (blocks[b].v[i].seq == id)
				blocks[b].floor = i;
		}
	}
	return 0;
}

/* ---- content against the model ---------------------------------------------------- */

/* What a sector says it is: its number within the disk and the write's sequence number. */
static bool parse_sector(const uint8_t *s, uint64_t *nr, uint64_t *seq)
{
	memcpy(nr, s, 8);
	memcpy(seq, s + 8, 8);
	return !memcmp(s, s + 16, SECTOR - 16);
}

static bool is_zero(const uint8_t *s)
{
	return !*s && !memcmp(s, s + 1, SECTOR - 1);
}

static bool fits(const struct version *v, bool zero, uint64_t seq)
{
	return zero ? v->kind != 'w' : v->kind == 'w' && v->seq == seq;
}

static int wrong(struct err *e, uint64_t sector, bool zero, uint64_t nr, uint64_t seq)
{
	const struct block *b = &blocks[sector / 8];
	const struct version *v = &b->v[b->floor];

	if (zero)
		return err_set(e, EUCLEAN,
			       "sector %llu is zeros; flushed is '%c' %u, last issued '%c' %u",
			       (unsigned long long)sector, v->kind, v->seq, b->v[b->n - 1].kind,
			       b->v[b->n - 1].seq);
	return err_set(e, EUCLEAN,
		       "sector %llu holds sector %llx of write %llx; flushed is '%c' %u, last issued '%c' %u",
		       (unsigned long long)sector, (unsigned long long)nr, (unsigned long long)seq,
		       v->kind, v->seq, b->v[b->n - 1].kind, b->v[b->n - 1].seq);
}

static int verify(struct err *e)
{
	for (uint64_t s = 0; s < (uint64_t)nr_blocks * 8; s++) {
		const struct block *b = &blocks[s / 8];
		const uint8_t *p = content + s * SECTOR;
		uint64_t nr, seq;
		bool whole = parse_sector(p, &nr, &seq), zero = whole && is_zero(p), good = false;

		/* sector 0 of write 0 is zeros too */
		if (zero && s == 0 && b->floor == 0)
			continue;
		for (unsigned int i = b->floor; whole && (zero || nr == s) && i < b->n && !good; i++)
			good = fits(&b->v[i], zero, seq);
		if (!good)
			return wrong(e, s, zero, nr, seq);
	}
	return 0;
}

struct window {
	uint32_t from, to; /* the instants at which the disk was what has been seen so far */
};

/* When a version is gone: a discard may leave it. */
static uint32_t lasted(const struct block *b, unsigned int i)
{
	do
		i++;
	while (i < b->n && b->v[i].kind == 'd');
	return i < b->n ? b->v[i].done : NEVER;
}

/* When did the block look like this? Several versions may (zeros): any that fits the window. */
static bool narrow(const struct block *b, bool zero, uint64_t seq, struct window *w)
{
	for (unsigned int i = 0; i < b->n; i++) {
		uint32_t from = b->v[i].issued, to = lasted(b, i);

		if (!fits(&b->v[i], zero, seq) || from > w->to || to < w->from)
			continue;
		if (!zero) { /* zeros may be of another version too: they say little */
			w->from = from > w->from ? from : w->from;
			w->to = to < w->to ? to : w->to;
		}
		return true;
	}
	return false;
}

static int verify_copy(struct window w, struct err *e)
{
	const struct window asked = w;

	for (uint64_t s = 0; s < (uint64_t)nr_blocks * 8; s++) {
		const uint8_t *p = content + s * SECTOR;
		uint64_t nr, seq;
		bool whole = parse_sector(p, &nr, &seq), zero = whole && is_zero(p);

		if (zero && s == 0)
			continue;
		if (!whole || (!zero && nr != s) || !narrow(&blocks[s / 8], zero, seq, &w))
			return err_set(e, EUCLEAN,
				       "sector %llu of the copy (sector %llx of write %llx) is not of one instant between %u and %u (with what lies before it: %u to %u)",
				       (unsigned long long)s, (unsigned long long)nr,
				       (unsigned long long)seq, asked.from, asked.to, w.from, w.to);
	}
	return 0;
}

/* ---- images ---------------------------------------------------------------------- */

/* A file as the daemon would see it; what is written can be taken back. */
struct place {
	struct qio q;
	struct qio *below;
	int fd;
};

struct saved {
	struct saved *next;
	char *path;
	uint64_t off, len;
	uint8_t data[];
};

static struct saved *saved;

static int save(struct place *p, uint64_t off, uint64_t len, struct err *e)
{
	struct saved *s = xmalloc(sizeof(*s) + len);

	*s = (struct saved){ saved, xstrdup(p->q.name), off, len };
	saved = s;
	return p->below->pread(p->below, s->data, len, off, e);
}

static int place_pread(struct qio *q, void *buf, size_t len, uint64_t off, struct err *e)
{
	struct place *p = (struct place *)q;

	return p->below->pread(p->below, buf, len, off, e);
}

static int place_pwrite(struct qio *q, const void *buf, size_t len, uint64_t off, struct err *e)
{
	struct place *p = (struct place *)q;
	int r = save(p, off, len, e);

	return r ? r : p->below->pwrite(p->below, buf, len, off, e);
}

static int place_zero(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	struct place *p = (struct place *)q;
	int r = save(p, off, len, e);

	return r ? r : p->below->zero(p->below, off, len, e);
}

static int place_flush(struct qio *q, struct err *e)
{
	(void)q;
	(void)e;
	return 0;
}

static int place_size(struct qio *q, uint64_t *ret, struct err *e)
{
	struct place *p = (struct place *)q;

	return p->below->size(p->below, ret, e);
}

static int place_allocate(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	struct place *p = (struct place *)q;

	if (q->capacity && off + len > q->capacity)
		return err_set(e, ENOSPC, "'%s' is full", q->name);
	return q->is_bdev ? 0 : p->below->allocate(p->below, off, len, e);
}

static int place_truncate(struct qio *q, uint64_t size, struct err *e)
{
	struct place *p = (struct place *)q;

	if (q->is_bdev)
		return err_set(e, EINVAL, "'%s' is a block device", q->name);
	return p->below->truncate(p->below, size, e);
}

static void place_done(struct place *p)
{
	qio_free(p->below);
	if (p->fd >= 0)
		close(p->fd);
}

static int place_open(struct place *p, const char *path, bool writable, struct err *e)
{
	int r;

	*p = (struct place){ .fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC) };
	if (p->fd < 0)
		return err_set(e, errno, "'%s': %s", path, strerror(errno));
	r = qio_file_new(p->fd, path, &p->below, e);
	if (r)
		return r;
	p->q = (struct qio){ .pread = place_pread, .pwrite = place_pwrite, .flush = place_flush,
			     .size = place_size, .allocate = place_allocate, .zero = place_zero,
			     .truncate = place_truncate, .name = p->below->name,
			     .is_bdev = bdev, .align = p->below->align };
	return bdev ? place_size(&p->q, &p->q.capacity, e) : 0;
}

struct chain {
	struct place place[CHAIN_MAX];
	struct qcow2 *img[CHAIN_MAX]; /* NULL: raw */
	int n;
};

static int read_layer(struct chain *c, int i, uint64_t off, uint64_t len, struct err *e);

static int read_run(struct chain *c, int i, const struct qcow2_run *run, struct err *e)
{
	uint8_t *to = content + run->guest_off;

	if (run->kind == QCOW2_UNALLOCATED && i + 1 < c->n)
		return read_layer(c, i + 1, run->guest_off, run->len, e);
	if (run->kind == QCOW2_DATA)
		return c->place[i].q.pread(&c->place[i].q, to, run->len, run->host_off, e);
	memset(to, 0, run->len);
	return 0;
}

static int read_layer(struct chain *c, int i, uint64_t off, uint64_t len, struct err *e)
{
	_cleanup_free_ struct qcow2_run *runs = NULL;
	uint64_t end;
	size_t n;
	int r;

	if (!c->img[i])
		return c->place[i].q.pread(&c->place[i].q, content + off, len, off, e);
	r = qcow2_map_array(c->img[i], off, len, 0, &runs, &n, &end, e);
	for (size_t k = 0; k < n && !r; k++)
		r = read_run(c, i, &runs[k], e);
	return r;
}

static void chain_done(struct chain *c)
{
	for (int i = 0; i < c->n; i++) {
		qcow2_close(c->img[i]);
		place_done(&c->place[i]);
	}
}

static int chain_open(struct chain *c, char **arg, int n, struct err *e)
{
	int r = 0;

	for (int i = 0; i + 1 < n && c->n < CHAIN_MAX && !r; i += 2, c->n++) {
		r = place_open(&c->place[c->n], arg[i + 1], false, e);
		if (!r && streq(arg[i], "qcow2"))
			r = qcow2_open(&c->place[c->n].q, 0, &c->img[c->n], e);
	}
	return r;
}

static int read_chain(char **arg, int n, struct err *e)
{
	struct chain c = { .n = 0 };
	int r = chain_open(&c, arg, n, e);

	if (!r)
		r = read_layer(&c, 0, 0, (uint64_t)nr_blocks * BLOCK, e);
	chain_done(&c);
	return r;
}

static int cmd_read(char **arg, int n, struct err *e)
{
	int r = read_chain(arg, n, e);

	return r ? r : verify(e);
}

static int cmd_copy(char **arg, int n, struct err *e)
{
	struct window w;
	int r;

	if (n < 4)
		return err_set(e, EINVAL, "copy of what?");
	w = (struct window){ strtoul(arg[0], NULL, 10), strtoul(arg[1], NULL, 10) };
	r = read_chain(arg + 2, n - 2, e);
	return r ? r : verify_copy(w, e);
}

static int cmd_raw(char **arg, int n, struct err *e)
{
	_cleanup_close_ int fd = open(n == 1 ? arg[0] : "", O_RDONLY | O_CLOEXEC);
	size_t len = (size_t)nr_blocks * BLOCK, at = 0;

	if (fd < 0)
		return err_set(e, errno, "'%s': %s", arg[0], strerror(errno));
	while (at < len) {
		ssize_t got = pread(fd, content + at, len - at, at);

		if (got <= 0)
			return err_set(e, EIO, "'%s' can't be read at %zu: %s", arg[0], at,
				       got ? strerror(errno) : "it ends");
		at += got;
	}
	return verify(e);
}

/* ---- what the daemon does ----------------------------------------------------------- */

static int attach_and_detach(struct qcow2 *img, const char *name, struct err *e)
{
	_cleanup_free_ struct qcow2_range *granted = NULL;
	_cleanup_free_ struct qcow2_table *tables = NULL;
	struct qcow2_info info;
	size_t nt, nr;
	int r;

	qcow2_get_info(img, &info);
	r = qcow2_begin_write(img, e);
	if (!r)
		r = journal_open(name, e);
	if (!r)
		r = qcow2_prepare_tables(img, 0, info.virtual_size, &tables, &nt, e);
	if (!r)
		r = qcow2_alloc_clusters(img, GRANT / info.cluster_size, 0, &granted, &nr, e);
	if (r == -ENOSPC) { /* the device is small: writes would wait */
		err_clear(e);
		r = nr = 0;
	}
	if (!r && granted)
		r = qcow2_free_clusters(img, granted, nr, 0, e);
	if (!r)
		journal_close(name);
	return r;
}

static int recover(char **arg, int n, bool attach, struct err *e)
{
	struct place p = { .fd = -1 };
	struct qcow2 *img = NULL;
	int r;

	if (n != 3)
		return err_set(e, EINVAL, "STATE NAME FILE");
	journal_init(arg[0]);
	r = place_open(&p, arg[2], true, e);
	if (!r)
		r = qcow2_open(&p.q, QCOW2_WRITABLE, &img, e);
	if (!r)
		r = journal_recover(arg[1], img, e);
	if (!r && attach)
		r = attach_and_detach(img, arg[1], e);
	qcow2_close(img);
	place_done(&p);
	return r;
}

static int cmd_settle(char **arg, int n, struct err *e)
{
	return recover(arg, n, false, e);
}

static int cmd_attach(char **arg, int n, struct err *e)
{
	return recover(arg, n, true, e);
}

static int cmd_undo(char **arg, int n, struct err *e)
{
	int r = 0;

	(void)arg;
	(void)n;
	while (saved) {
		struct saved *s = saved;
		_cleanup_close_ int fd = open(s->path, O_WRONLY | O_CLOEXEC);

		if (fd < 0 || pwrite(fd, s->data, s->len, s->off) != (ssize_t)s->len)
			r = err_set(e, errno, "can't undo: %s", strerror(errno));
		saved = s->next;
		free(s->path);
		free(s);
	}
	return r;
}

static int cmd_bdev(char **arg, int n, struct err *e)
{
	(void)e;
	bdev = n == 1 && streq(arg[0], "1");
	return 0;
}

static const struct {
	const char *name;
	int (*fn)(char **arg, int n, struct err *e);
} commands[] = {
	{ "model", cmd_model }, { "bdev", cmd_bdev },	  { "ack", cmd_ack },
	{ "read", cmd_read },	{ "raw", cmd_raw },	  { "copy", cmd_copy },
	{ "settle", cmd_settle }, { "attach", cmd_attach }, { "undo", cmd_undo },
};

static int run(char *line, struct err *e)
{
	char *word[2 * CHAIN_MAX + 4], *rest = NULL;
	int n = 0;

	for (char *w = strtok_r(line, " \n", &rest); w && n < 2 * CHAIN_MAX + 4;
	     w = strtok_r(NULL, " \n", &rest))
		word[n++] = w;
	for (size_t i = 0; n && i < sizeof(commands) / sizeof(*commands); i++) {
		if (streq(word[0], commands[i].name))
			return commands[i].fn(word + 1, n - 1, e);
	}
	return err_set(e, EINVAL, "unknown command");
}

int main(void)
{
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	while (getline(&line, &size, stdin) > 0) {
		struct err e = ERR_INIT;

		if (run(line, &e))
			printf("bad %s\n", e.msg);
		else
			puts("ok");
		fflush(stdout);
		err_clear(&e);
	}
	return 0;
}
