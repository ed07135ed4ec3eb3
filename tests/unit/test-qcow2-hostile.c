// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hostile images: every field of good ones is replaced by every nasty value, then
 * bytes and words at random. The library must answer with an error or with
 * something sane (see qmem_exercise()), never crash, never hang. What is refused
 * by name is checked by name.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qcow2-mem.h"
#include "qcow2-util.h"

struct sample {
	uint8_t *data;
	size_t size;
};

static struct sample load(const char *name)
{
	struct sample s = { 0 };
	FILE *f = fopen(q_path(name), "rb");

	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	s.size = ftell(f);
	rewind(f);
	s.data = malloc(s.size);
	assert_int_equal(fread(s.data, 1, s.size, f), s.size);
	fclose(f);
	return s;
}

#define N_SAMPLES 6

static struct sample samples[N_SAMPLES];

static int make_samples(void **state)
{
	if (q_setup(state))
		return -1;
	q_run("qemu-img create -q -f qcow2 -o cluster_size=4k s0 2M && "
	      "qemu-io -f qcow2 -c 'write 0 100k' -c 'write -z 200k 64k' -c 'discard 4k 8k' s0 "
	      ">/dev/null");
	q_run("qemu-img create -q -f qcow2 b 2M && "
	      "qemu-img create -q -f qcow2 -o cluster_size=4k,compat=0.10 -b b -F qcow2 s1 && "
	      "qemu-io -f qcow2 -c 'write 0 100k' s1 >/dev/null");
	q_run("cp s0 s2 && qemu-img snapshot -q -c x s2 && qemu-img snapshot -q -c y s2 && "
	      "qemu-io -f qcow2 -c 'write 0 16k' s2 >/dev/null");
	q_run("cp s0 s3 && qemu-img bitmap --add s3 bm && "
	      "qemu-io -f qcow2 -c 'write 1M 64k' s3 >/dev/null");
	q_run("qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=64 s4 20M && "
	      "qemu-io -f qcow2 -c 'write 0 100k' -c 'write 4M 4k' -c 'write 9M 4k' s4 >/dev/null");
	q_run("qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=1 s5 2M && "
	      "qemu-io -f qcow2 -c 'write -c 0 64k' s5 >/dev/null");
	for (int i = 0; i < N_SAMPLES; i++) {
		char name[8];

		snprintf(name, sizeof(name), "s%d", i);
		samples[i] = load(name);
	}
	return 0;
}

static int drop_samples(void **state)
{
	for (int i = 0; i < N_SAMPLES; i++)
		free(samples[i].data);
	return q_teardown(state);
}

static unsigned int try(const uint8_t *data, size_t size, bool bdev)
{
	struct qmem m;
	unsigned int good;

	alarm(240); /* a hang ends the program */
	qmem_init(&m, data, size, bdev ? size : 0);
	good = qmem_exercise(&m);
	qmem_done(&m);
	alarm(0);
	return good;
}

static void good_ones_work(void **state)
{
	(void)state;
	/* Compressed clusters and refcounts of one bit stop some of the steps. */
	for (int i = 0; i < N_SAMPLES; i++)
		assert_true(try(samples[i].data, samples[i].size, false) >= (i == 5 ? 12 : 15));
}

static const uint64_t nasty[] = {
	0, 1, 2, 7, 8, 63, 511, 512, 513, 4095, 4096, 4097, 8192, 12288, 65536, 0x7fffffff,
	0x80000000, 0xffffffff, 0x100000000, 0x100001000, 1ull << 40, (1ull << 56) - 4096,
	1ull << 56, 0x7ffffffffffff000, 0x7fffffffffffffff, 1ull << 62, 1ull << 63, (1ull << 63) | 4096,
	(1ull << 63) | 1, 0xfffffffffffff000, 0xffffffffffffffff,
};

/* Every nasty value into the @width bytes at @off. */
static void poke_all(const struct sample *s, uint64_t off, unsigned int width)
{
	uint8_t *data;

	if (off + width > s->size)
		return;
	data = malloc(s->size);
	for (size_t i = 0; i < ARRAY_SIZE(nasty); i++) {
		memcpy(data, s->data, s->size);
		if (width == 8)
			put64(data + off, nasty[i]);
		else if (width == 4)
			put32(data + off, nasty[i]);
		else
			put16(data + off, nasty[i]);
		try(data, s->size, i & 1);
	}
	free(data);
}

static void every_header_field(void **state)
{
	(void)state;
	/* Plain, version 2, with snapshots, with bitmaps. */
	for (int i = 0; i < 4; i++)
		for (uint64_t off = 0; off < 112; off += 4) {
			poke_all(&samples[i], off, 4);
			if (off % 8 == 0)
				poke_all(&samples[i], off, 8);
		}
}

static void every_extension(void **state)
{
	(void)state;
	/* A backing format in version 2; bitmaps. */
	for (int i = 1; i <= 3; i += 2)
		for (uint64_t off = i == 1 ? 72 : 112; off < 200; off += 4)
			poke_all(&samples[i], off, 4);
}

/* The first entries of a table at @off. */
static void poke_table(const struct sample *s, uint64_t off, unsigned int n, unsigned int width)
{
	for (unsigned int i = 0; i < n; i++)
		poke_all(s, off + i * width, width);
}

static void every_table(void **state)
{
	(void)state;
	for (int i = 0; i < N_SAMPLES; i++) {
		const struct sample *s = &samples[i];
		uint64_t l1 = get64(s->data + H_L1_OFFSET), rt = get64(s->data + H_REFTABLE_OFFSET);
		uint64_t snap = get64(s->data + H_SNAPSHOTS_OFFSET);

		poke_table(s, l1, 2, 8);
		poke_table(s, get64(s->data + l1) & ENTRY_OFFSET, 4, 8);
		poke_table(s, rt, 2, 8);
		poke_table(s, get64(s->data + rt), 8, 8);
		if (get32(s->data + H_NB_SNAPSHOTS)) {
			poke_table(s, snap, 5, 8);
			poke_table(s, snap + 8, 8, 4);
			poke_table(s, get64(s->data + snap) & ENTRY_OFFSET, 2, 8);
		}
	}
	/* The bitmap directory, its table. */
	for (uint64_t off = 0; off + 32 < samples[3].size; off += 4096) {
		if (memcmp(samples[3].data + off + 24, "bm", 2))
			continue;
		poke_table(&samples[3], off, 3, 8);
		poke_table(&samples[3], off + 8, 4, 4);
		poke_table(&samples[3], get64(samples[3].data + off), 2, 8);
	}
}

static void truncated(void **state)
{
	(void)state;
	for (int i = 0; i < N_SAMPLES; i++)
		for (size_t size = 0; size < samples[i].size; size += 1 + q_rand(2000))
			try(samples[i].data, size, q_rand(2));
}

/* Where it hurts: near the start, or any table entry of the file. */
static void mutate(uint8_t *data, size_t size)
{
	unsigned int n = 1 + q_rand(4);

	while (n--) {
		uint64_t off = q_rand(2) ? q_rand(size) : q_rand(size < 16384 ? size : 16384);

		switch (q_rand(4)) {
		case 0:
			data[off] ^= 1u << q_rand(8);
			break;
		case 1:
			data[off] = q_rand(256);
			break;
		case 2:
			off &= ~7ull;
			if (off + 8 <= size)
				put64(data + off, nasty[q_rand(ARRAY_SIZE(nasty))]);
			break;
		default:
			/* An offset of the file, with or without flags. */
			off &= ~7ull;
			if (off + 8 <= size)
				put64(data + off, (q_rand(size) & ~4095ull) | q_rand(2) << 63 | q_rand(2));
		}
	}
}

static void random_damage(void **state)
{
	unsigned int good = 0, rounds = 3000;

	(void)state;
	for (unsigned int i = 0; i < rounds; i++) {
		const struct sample *s = &samples[q_rand(N_SAMPLES)];
		uint8_t *data = malloc(s->size);

		memcpy(data, s->data, s->size);
		mutate(data, s->size);
		good += try(data, s->size, q_rand(2)) > 3;
		free(data);
	}
	printf("# %u of %u damaged images could still be changed\n", good, rounds);
	assert_true(good > rounds / 10 && good < rounds);
}

/* ---- refused by name -------------------------------------------------------------------- */

struct refusal {
	uint64_t off;
	unsigned int width;
	uint64_t value;
	unsigned int flags; /* of open */
	int code;
	const char *text;
};

static const struct refusal refusals[] = {
	{ H_MAGIC, 4, 0x12345678, 0, EINVAL, "not in qcow2 format" },
	{ H_VERSION, 4, 1, 0, EOPNOTSUPP, "version 1 " },
	{ H_VERSION, 4, 4, 0, EOPNOTSUPP, "version 4 " },
	{ H_CLUSTER_BITS, 4, 9, 0, EOPNOTSUPP, "clusters of 512 bytes" },
	{ H_CLUSTER_BITS, 4, 11, 0, EOPNOTSUPP, "clusters of 2048 bytes" },
	{ H_CLUSTER_BITS, 4, 8, 0, EINVAL, "cluster_bits is 8" },
	{ H_CLUSTER_BITS, 4, 22, 0, EINVAL, "cluster_bits is 22" },
	{ H_CRYPT_METHOD, 4, 1, 0, EOPNOTSUPP, "encryption (AES)" },
	{ H_CRYPT_METHOD, 4, 2, 0, EOPNOTSUPP, "encryption (LUKS)" },
	{ H_SIZE, 8, 1ull << 40, 0, EINVAL, "L1 table is too small" },
	{ H_SIZE, 8, 1ull << 63, 0, EFBIG, "too large" },
	{ H_L1_SIZE, 4, 5000000, 0, EFBIG, "L1 table is too large" },
	{ H_L1_OFFSET, 8, 0x3001, 0, EINVAL, "L1 table's offset" },
	{ H_L1_OFFSET, 8, 0, 0, EINVAL, "L1 table overlaps the header" },
	{ H_L1_OFFSET, 8, 1ull << 40, 0, EINVAL, "L1 table (" },
	{ H_L1_OFFSET, 8, 0x1000, 0, EUCLEAN, "overlaps other metadata" },
	{ H_REFTABLE_OFFSET, 8, 0x1001, 0, EINVAL, "refcount table's offset" },
	{ H_REFTABLE_OFFSET, 8, 0xfffffffffffff000, 0, EINVAL, "refcount table (" },
	{ H_REFTABLE_CLUSTERS, 4, 0, 0, EINVAL, "no refcount table" },
	{ H_REFTABLE_CLUSTERS, 4, 0x10000000, 0, EFBIG, "refcount table is too large" },
	{ H_NB_SNAPSHOTS, 4, 65537, 0, EFBIG, "snapshots" },
	{ H_NB_SNAPSHOTS, 4, 1, 0, EINVAL, "snapshot table" },
	{ H_REFCOUNT_ORDER, 4, 7, 0, EINVAL, "refcount_order" },
	{ H_HEADER_LENGTH, 4, 96, 0, EINVAL, "header's length" },
	{ H_HEADER_LENGTH, 4, 105, 0, EINVAL, "header's length" },
	{ H_BACKING_OFFSET, 8, 5000, 0, EINVAL, "backing file's name" },
	{ H_BACKING_OFFSET, 8, 8, 0, EINVAL, "backing file's name" },
	{ H_V3_LENGTH, 8, 0xe2792aca00000f91, 0, EINVAL, "goes behind the header's end" },
	{ H_V3_LENGTH, 8, 0xe2792aca00000010, 0, EINVAL, "backing format's name is too long" },
	{ H_INCOMPATIBLE, 8, 4, 0, EOPNOTSUPP, "external data file" },
	{ H_INCOMPATIBLE, 8, 16, 0, EOPNOTSUPP, "extended L2" },
	{ H_INCOMPATIBLE, 8, 8, 0, EINVAL, "compression type" },
	{ H_INCOMPATIBLE, 8, 1ull << 33, 0, EOPNOTSUPP, "incompatible bit 33" },
	{ H_INCOMPATIBLE, 8, 1, QCOW2_WRITABLE, EUCLEAN, "qemu-img check -r" },
	{ H_INCOMPATIBLE, 8, 2, QCOW2_WRITABLE, EUCLEAN, "corrupt" },
};

static void refused_by_name(void **state)
{
	const struct sample *s = &samples[0];
	uint8_t *data = malloc(s->size);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		const struct refusal *x = &refusals[i];
		struct err e = ERR_INIT;
		struct qcow2 *img = NULL;
		struct qmem m;
		int r;

		memcpy(data, s->data, s->size);
		if (x->width == 8)
			put64(data + x->off, x->value);
		else
			put32(data + x->off, x->value);
		qmem_init(&m, data, s->size, 0);
		r = qcow2_open(&m.io, x->flags, &img, &e);
		if (r != -x->code || !strstr(e.msg, x->text) || !strstr(e.msg, "'hostile'"))
			fail_msg("field %llu = %#llx: %d \"%s\", not %d \"%s\"",
				 (unsigned long long)x->off, (unsigned long long)x->value, r, e.msg,
				 -x->code, x->text);
		qmem_done(&m);
	}
	free(data);
}

/* An unknown feature is called what the image calls it. */
static void feature_named(void **state)
{
	struct qcow2_create_opts o = { .size = 1 << 20 };
	struct err e = ERR_INIT;
	struct qcow2 *img;
	struct qmem m;
	uint8_t *p;

	(void)state;
	qmem_init(&m, "", 0, 0);
	q_ok(qcow2_create(&m.io, &o, &e), &e);
	p = memmem(m.data, 4096, "dirty bit", 9);
	assert_non_null(p);
	p[-1] = 9;
	memcpy(p, "time travel\n", 13);
	put64(m.data + H_INCOMPATIBLE, 1 << 9);
	assert_int_equal(qcow2_open(&m.io, 0, &img, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "'time travel?'"));
	qmem_done(&m);
}

static void expect_map(const struct sample *s, const uint8_t *data, unsigned int flags, int code,
		       const char *text)
{
	struct err e = ERR_INIT;
	struct qcow2 *img;
	struct qcow2_run *runs;
	struct qmem m;
	uint64_t end;
	size_t n;

	qmem_init(&m, data, s->size, 0);
	q_ok(qcow2_open(&m.io, flags, &img, &e), &e);
	assert_int_equal(qcow2_map_array(img, 0, UINT64_MAX, 0, &runs, &n, &end, &e), -code);
	if (!strstr(e.msg, text))
		fail_msg("\"%s\" has no \"%s\"", e.msg, text);
	qcow2_close(img);
	qmem_done(&m);
}

static void bad_entries_named(void **state)
{
	const struct sample *s = &samples[0];
	uint8_t *data = malloc(s->size);
	uint64_t l2 = get64(s->data + get64(s->data + H_L1_OFFSET)) & ENTRY_OFFSET;
	uint64_t l1_off = get64(s->data + H_L1_OFFSET), rb;
	const struct {
		uint64_t value;
		const char *text;
	} bad[] = {
		{ 0x8000000000000000 | l2, "overlaps metadata" },
		{ 0x8000000000000000 | l1_off, "overlaps metadata" },
		{ 0x8000000000001200, "Cluster allocation offset 0x1200 unaligned (L2 offset: 0x" },
		{ 0x8000000000001200, ", L2 index: 0x5); " },
		{ 0x8000000000001201, "Preallocated zero cluster offset 0x1200 unaligned" },
		{ 0x8000000100000000, "is not inside the file" },
		{ 0x8000000000005002, "has reserved bits" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		memcpy(data, s->data, s->size);
		put64(data + l2 + 5 * 8, bad[i].value);
		expect_map(s, data, 0, EUCLEAN, bad[i].text);
		expect_map(s, data, 0, EUCLEAN, "guest offset 20480 ");
	}
	/* A data cluster with refcount 0, or shared without saying so. */
	rb = get64(s->data + get64(s->data + H_REFTABLE_OFFSET));
	memcpy(data, s->data, s->size);
	put16(data + rb + ((get64(data + l2) & ENTRY_OFFSET) >> 12) * 2, 0);
	expect_map(s, data, QCOW2_WRITABLE, EUCLEAN, "has refcount 0");
	put16(data + rb + ((get64(data + l2) & ENTRY_OFFSET) >> 12) * 2, 2);
	expect_map(s, data, QCOW2_WRITABLE, EUCLEAN, "is shared");
	free(data);
	expect_map(&samples[5], samples[5].data, 0, EOPNOTSUPP, "guest offset 0 is compressed");
}

/* Refcounts that call metadata free do not get it handed out. */
static void metadata_is_never_allocated(void **state)
{
	const struct sample *s = &samples[0];
	uint8_t *data = malloc(s->size);
	uint64_t rb = get64(s->data + get64(s->data + H_REFTABLE_OFFSET));
	struct err e = ERR_INIT;
	struct qcow2_range *v;
	struct qcow2 *img;
	struct qmem m;
	size_t n;

	(void)state;
	memcpy(data, s->data, s->size);
	memset(data + rb, 0, 4096);
	qmem_init(&m, data, s->size, 0);
	q_ok(qcow2_open(&m.io, QCOW2_WRITABLE, &img, &e), &e);
	assert_int_equal(qcow2_alloc_clusters(img, 1, 1, &v, &n, &e), -EUCLEAN);
	assert_non_null(strstr(e.msg, "holds metadata"));
	qcow2_close(img);
	qmem_done(&m);
	free(data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_ones_work),
		cmocka_unit_test(refused_by_name),
		cmocka_unit_test(feature_named),
		cmocka_unit_test(bad_entries_named),
		cmocka_unit_test(metadata_is_never_allocated),
		cmocka_unit_test(every_header_field),
		cmocka_unit_test(every_extension),
		cmocka_unit_test(every_table),
		cmocka_unit_test(truncated),
		cmocka_unit_test(random_damage),
	};

	return cmocka_run_group_tests(tests, make_samples, drop_samples);
}
