// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "qcow2-util.h"

static char dir[256];
static uint64_t seed, rng;

uint64_t q_rand(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return below ? (rng * 0x2545f4914f6cdd1dull >> 11) % below : 0;
}

void q_reseed(uint64_t s)
{
	rng = (s + 1) * 0x9e3779b97f4a7c15ull | 1;
	for (int i = 0; i < 8; i++)
		q_rand(1);
}

uint64_t q_seed(void)
{
	return seed;
}

int q_setup(void **state)
{
	const char *s = getenv("SEED"), *tmp = getenv("TMPDIR");

	(void)state;
	seed = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL);
	q_reseed(seed);
	printf("# seed %llu; again with: SEED=%llu make check-unit T=qcow2\n",
	       (unsigned long long)seed, (unsigned long long)seed);
	fflush(stdout);
	snprintf(dir, sizeof(dir), "%s/livechain-qcow2-XXXXXX", tmp ? tmp : "/var/tmp");
	return mkdtemp(dir) ? 0 : -1;
}

int q_teardown(void **state)
{
	char cmd[320];

	(void)state;
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

const char *q_path(const char *name)
{
	static char paths[16][512];
	static unsigned int next;
	char *p = paths[next++ % 16];

	snprintf(p, sizeof(paths[0]), "%s/%s", dir, name);
	return p;
}

static char *command(const char *fmt, va_list ap)
{
	char *line = NULL, *all = NULL;

	assert_true(vasprintf(&line, fmt, ap) >= 0);
	assert_true(asprintf(&all, "cd '%s' && %s", dir, line) >= 0);
	free(line);
	return all;
}

int q_status(const char *fmt, ...)
{
	char *cmd;
	va_list ap;
	int st;

	va_start(ap, fmt);
	cmd = command(fmt, ap);
	va_end(ap);
	st = system(cmd);
	free(cmd);
	assert_true(WIFEXITED(st));
	return WEXITSTATUS(st);
}

void q_run(const char *fmt, ...)
{
	char *cmd;
	va_list ap;
	int st;

	va_start(ap, fmt);
	cmd = command(fmt, ap);
	va_end(ap);
	st = system(cmd);
	if (st)
		fail_msg("status %d from: %s", st, cmd);
	free(cmd);
}

char *q_output(const char *fmt, ...)
{
	size_t n = 0, cap = 1 << 16;
	char *cmd, *out = malloc(cap);
	va_list ap;
	FILE *p;

	va_start(ap, fmt);
	cmd = command(fmt, ap);
	va_end(ap);
	p = popen(cmd, "r");
	assert_non_null(p);
	for (;;) {
		size_t got = fread(out + n, 1, cap - n - 1, p);

		if (!got)
			break;
		n += got;
		if (n + 1 == cap) {
			char *more = realloc(out, cap *= 2);

			assert_non_null(more);
			out = more;
		}
	}
	out[n] = '\0';
	if (pclose(p))
		fail_msg("failed: %s", cmd);
	free(cmd);
	return out;
}

void q_copy(const char *from, const char *to)
{
	static uint8_t buf[1 << 16];
	int in = open(q_path(from), O_RDONLY | O_CLOEXEC);
	int out = open(q_path(to), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	off_t pos = 0, size = lseek(in, 0, SEEK_END);
	ssize_t n;

	assert_true(in >= 0 && out >= 0);
	assert_int_equal(ftruncate(out, size), 0);
	while (pos < size && (pos = lseek(in, pos, SEEK_DATA)) >= 0) {
		n = pread(in, buf, sizeof(buf), pos);
		assert_true(n > 0);
		assert_int_equal(pwrite(out, buf, n, pos), n);
		pos += n;
	}
	close(in);
	close(out);
}

/* ---- files ------------------------------------------------------------------------ */

static int no_truncate(struct qio *q, uint64_t size, struct err *e)
{
	(void)size;
	return err_set(e, EINVAL, "'%s' is a block device", q->name);
}

static int no_flush(struct qio *q, struct err *e)
{
	(void)q;
	(void)e;
	return 0;
}

struct q_file *q_open_file(const char *name, unsigned int flags)
{
	struct q_file *f = calloc(1, sizeof(*f));
	struct err e = ERR_INIT;
	struct stat st;

	f->fd = open(q_path(name),
		     O_RDWR | O_CLOEXEC | (flags & Q_CREATE ? O_CREAT | O_TRUNC : 0) |
			     (flags & Q_DIRECT ? O_DIRECT : 0),
		     0600);
	if (f->fd < 0)
		fail_msg("cannot open %s: %s", q_path(name), strerror(errno));
	q_ok(qio_file_new(f->fd, name, &f->raw, &e), &e);
	f->io = f->raw;
	if (!(flags & Q_SYNC))
		f->io->flush = no_flush;
	if (flags & Q_BDEV) {
		assert_int_equal(fstat(f->fd, &st), 0);
		/* is_bdev itself would have file I/O ask for the size by an ioctl. */
		f->io->capacity = st.st_size;
		f->io->truncate = no_truncate;
	}
	return f;
}

void q_close_file(struct q_file *f)
{
	qio_free(f->raw);
	close(f->fd);
	free(f);
}

struct qcow2 *q_open(struct q_file *f, unsigned int flags)
{
	struct err e = ERR_INIT;
	struct qcow2 *img = NULL;

	q_ok(qcow2_open(f->io, flags, &img, &e), &e);
	return img;
}

/* ---- checks ------------------------------------------------------------------------- */

int q_qemu_check(const char *name)
{
	return q_status("qemu-img check -q -f qcow2 %s >check.out 2>&1", name);
}

void q_check_clean(const char *name, struct qcow2 *img, int64_t leaks)
{
	struct qcow2_report report;
	struct err e = ERR_INIT;
	int st = q_qemu_check(name);

	if (st && st != 3)
		fail_msg("qemu-img check says %d: %s", st, q_output("head -c 600 check.out"));
	if (leaks >= 0 && st != (leaks ? 3 : 0))
		fail_msg("%lld leaks expected: %s", (long long)leaks,
			 q_output("head -c 600 check.out; qemu-img info -U %s", name));
	q_ok(qcow2_check(img, &report, &e), &e);
	if (report.corruptions)
		fail_msg("our check: %s", report.first);
	if (leaks >= 0)
		assert_int_equal(report.leaks, leaks);
	else
		assert_int_equal(!!report.leaks, st == 3);
}

/* ---- crashes --------------------------------------------------------------------------- */

static struct q_log *to_log(struct qio *q)
{
	return (struct q_log *)q;
}

static int log_op(struct qio *q, int kind, uint64_t off, uint64_t len, const void *data,
		  struct err *e)
{
	struct q_log *l = to_log(q);
	struct q_log_op *op;

	if (l->fail_at >= 0 && l->fail_at-- == 0)
		return err_set(e, l->fail_code, "injected: %s", strerror(l->fail_code));
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 64;
		l->ops = realloc(l->ops, l->cap * sizeof(*l->ops));
		assert_non_null(l->ops);
	}
	op = &l->ops[l->n++];
	*op = (struct q_log_op){ .kind = kind, .off = off, .len = len };
	if (data) {
		op->data = malloc(len);
		memcpy(op->data, data, len);
	}
	return 0;
}

static int log_pread(struct qio *q, void *buf, size_t len, uint64_t off, struct err *e)
{
	return to_log(q)->below->pread(to_log(q)->below, buf, len, off, e);
}

static int log_pwrite(struct qio *q, const void *buf, size_t len, uint64_t off, struct err *e)
{
	int r = log_op(q, Q_OP_WRITE, off, len, buf, e);

	return r ? r : to_log(q)->below->pwrite(to_log(q)->below, buf, len, off, e);
}

static int log_flush(struct qio *q, struct err *e)
{
	int r = log_op(q, Q_OP_FLUSH, 0, 0, NULL, e);

	to_log(q)->flushes++;
	return r; /* the page cache is durable enough for us */
}

static int log_size(struct qio *q, uint64_t *ret, struct err *e)
{
	return to_log(q)->below->size(to_log(q)->below, ret, e);
}

static int log_allocate(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	int r = log_op(q, Q_OP_ALLOCATE, off, len, NULL, e);

	return r ? r : to_log(q)->below->allocate(to_log(q)->below, off, len, e);
}

static int log_zero(struct qio *q, uint64_t off, uint64_t len, struct err *e)
{
	int r = log_op(q, Q_OP_ZERO, off, len, NULL, e);

	return r ? r : to_log(q)->below->zero(to_log(q)->below, off, len, e);
}

static int log_truncate(struct qio *q, uint64_t size, struct err *e)
{
	int r = log_op(q, Q_OP_TRUNCATE, size, 0, NULL, e);

	return r ? r : to_log(q)->below->truncate(to_log(q)->below, size, e);
}

void q_log_init(struct q_log *l, struct qio *below)
{
	*l = (struct q_log){ .io = *below, .below = below, .fail_at = -1, .fail_code = EIO };
	l->io.pread = log_pread;
	l->io.pwrite = log_pwrite;
	l->io.flush = log_flush;
	l->io.size = log_size;
	l->io.allocate = log_allocate;
	l->io.zero = log_zero;
	l->io.truncate = log_truncate;
	l->io.destroy = NULL;
}

void q_log_done(struct q_log *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->ops[i].data);
	free(l->ops);
}

static void apply(const struct q_log_op *op, struct qio *io)
{
	struct err e = ERR_INIT;

	switch (op->kind) {
	case Q_OP_WRITE:
		q_ok(io->pwrite(io, op->data, op->len, op->off, &e), &e);
		return;
	case Q_OP_ZERO:
		q_ok(io->zero(io, op->off, op->len, &e), &e);
		return;
	case Q_OP_TRUNCATE:
		q_ok(io->truncate(io, op->off, &e), &e);
		return;
	case Q_OP_ALLOCATE:
		q_ok(io->allocate(io, op->off, op->len, &e), &e);
		return;
	case Q_OP_FLUSH:
		return;
	}
}

void q_log_replay(const struct q_log *l, size_t n, const char *name)
{
	struct q_file *f = q_open_file(name, 0);
	size_t durable = 0;

	for (size_t i = 0; i < n; i++)
		if (l->ops[i].kind == Q_OP_FLUSH)
			durable = i;
	for (size_t i = 0; i < n; i++)
		if (i < durable || q_rand(2))
			apply(&l->ops[i], f->io);
	q_close_file(f);
}

void q_log_replay_torn(const struct q_log *l, size_t n, const char *name)
{
	struct q_file *f = q_open_file(name, 0);
	size_t durable = 0;

	for (size_t i = 0; i < n; i++)
		if (l->ops[i].kind == Q_OP_FLUSH)
			durable = i;
	for (size_t i = 0; i < n; i++) {
		const struct q_log_op *op = &l->ops[i];

		if (i < durable || op->kind != Q_OP_WRITE) {
			apply(op, f->io);
			continue;
		}
		for (uint64_t at = op->off, next; at < op->off + op->len; at = next) {
			struct q_log_op part = { .kind = Q_OP_WRITE, .off = at };

			next = at / 512 * 512 + 512;
			next = next < op->off + op->len ? next : op->off + op->len;
			part.len = next - at;
			part.data = op->data + (at - op->off);
			if (q_rand(2))
				apply(&part, f->io);
		}
	}
	q_close_file(f);
}
