// SPDX-License-Identifier: GPL-2.0-or-later
#include "qcow2-bench.h"

static void open_image(struct bench *b, unsigned int flags)
{
	b->img = q_open(b->f, flags);
	qcow2_get_info(b->img, &b->info);
}

void bench_new(struct bench *b, const struct qcow2_create_opts *o, unsigned int file_flags,
	       uint64_t dev_size)
{
	*b = (struct bench){ 0 };
	if (file_flags & Q_BDEV) {
		/* Old content where metadata will be. */
		q_run("head -c 6M /dev/zero | tr '\\0' '\\245' >a.qcow2 && truncate -s %llu a.qcow2",
		      (unsigned long long)dev_size);
		b->f = q_open_file("a.qcow2", file_flags);
	} else {
		b->f = q_open_file("a.qcow2", file_flags | Q_CREATE);
	}
	q_ok(qcow2_create(b->f->io, o, &b->e), &b->e);
	open_image(b, QCOW2_WRITABLE);
	q_check_clean("a.qcow2", b->img, 0);
}

void bench_open(struct bench *b, unsigned int file_flags, unsigned int flags)
{
	*b = (struct bench){ .f = q_open_file("a.qcow2", file_flags) };
	open_image(b, flags);
}

void bench_reopen(struct bench *b, unsigned int flags)
{
	qcow2_close(b->img);
	open_image(b, flags);
}

void bench_done(struct bench *b)
{
	qcow2_close(b->img);
	q_close_file(b->f);
}

void bench_write_record(struct bench *b, const struct qcow2_table *t, uint64_t index, uint64_t v)
{
	uint8_t rec[8];

	put64(rec, v);
	q_ok(b->f->io->pwrite(b->f->io, rec, 8, t->host_off + index * 8, &b->e), &b->e);
}

struct qcow2_create_opts bench_random_opts(unsigned int i)
{
	struct qcow2_create_opts o = {
		.cluster_bits = 12 + (i < 10 ? i : q_rand(10)),
		.version = q_rand(4) ? 3 : 2,
	};

	o.size = q_rand(8) ? (1 + q_rand(40)) << (o.cluster_bits + q_rand(12)) : 512 * q_rand(10);
	if (o.version == 3)
		o.refcount_bits = 1u << (i < 7 ? 6 - i : q_rand(7));
	if (q_rand(2)) {
		o.backing_file = "base.raw";
		o.backing_format = "raw";
	}
	return o;
}
