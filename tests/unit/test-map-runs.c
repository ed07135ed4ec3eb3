// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The runs of map messages: a disk that is put together from them, sector by sector out of
 * the layers' files, is the disk that qemu-img reads from the chain.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/journal.h"
#include "daemon/view.h"
#include "qcow2-util.h"

#define DEPTH_MAX 5

struct chain {
	struct view v;
	struct node *nodes[DEPTH_MAX]; /* 0: the top */
	int fds[DEPTH_MAX];
	unsigned depth;
};

static void chain_open(struct chain *c, unsigned depth, bool raw_base)
{
	struct err e = ERR_INIT;

	memset(c, 0, sizeof(*c));
	pthread_mutex_init(&c->v.lock, NULL);
	c->depth = depth;
	c->v.dm = xstrdup("vm");
	c->v.layers = xcalloc(depth, sizeof(*c->v.layers));
	c->v.nr_layers = depth;
	for (unsigned i = 0; i < depth; i++) {
		char name[32];
		bool raw = raw_base && i == depth - 1;

		snprintf(name, sizeof(name), "i%u", depth - 1 - i);
		q_ok(node_open_image(raw ? NODE_RAW : NODE_QCOW2, q_path(name), NULL, true,
				     &c->nodes[i], &e), &e);
		c->nodes[i]->users++;
		c->fds[i] = open(q_path(name), O_RDONLY);
		assert_true(c->fds[i] >= 0);
		/* Ids that are not the place in the chain. */
		c->v.layers[i].id = 3 * (int)(depth - i);
		c->v.layers[i].node = c->nodes[i];
		if (i)
			node_set_backing(c->nodes[i - 1], c->nodes[i]);
	}
	c->v.top = c->nodes[0];
	c->v.sectors = c->nodes[0]->size / 512;
}

static void chain_close(struct chain *c)
{
	for (unsigned i = 0; i < c->depth; i++) {
		close(c->fds[i]);
		c->nodes[i]->users--;
	}
	node_put(c->nodes[0]);
	assert_true(list_empty(&node_list));
	free(c->v.layers);
	free(c->v.dm);
	pthread_mutex_destroy(&c->v.lock);
}

/* As view.c chooses it; kept apart on purpose: the test must not ask the code. */
static void choose_block(struct chain *c)
{
	uint64_t b = 65536;

	for (unsigned i = 0; i < c->depth; i++) {
		const struct node *n = c->nodes[i];

		while (n->driver == NODE_QCOW2 && b > n->info.cluster_size)
			b /= 2;
		while (n->size < c->nodes[0]->size && n->size % b)
			b /= 2;
	}
	c->v.block = b / 512;
}

static int fd_of(const struct chain *c, unsigned long id)
{
	for (unsigned i = 0; i < c->depth; i++)
		if ((unsigned long)c->v.layers[i].id == id)
			return c->fds[i];
	fail_msg("layer %lu is none", id);
	return -1;
}

/* Puts what one run says into @disk; returns the number of blocks. */
static uint64_t apply_run(const struct chain *c, const char *run, uint8_t *disk, uint64_t block,
			  uint64_t end)
{
	unsigned long long count, sector;
	unsigned long id;
	uint64_t size = c->v.block * 512ull, len;
	int used = 0;

	if (sscanf(run, "%llu:d:%lu:%llu%n", &count, &id, &sector, &used) == 3 && used) {
		len = count * size;
		if (block * size + len > end)
			len = end - block * size;
		assert_int_equal(pread(fd_of(c, id), disk + block * size, len, sector * 512), len);
		return count;
	}
	if (sscanf(run, "%llu:z%n", &count, &used) != 1 || !used)
		fail_msg("no run: '%s'", run);
	return count;
}

/* The disk, from messages over pieces of random length. */
static uint8_t *disk_of(struct chain *c)
{
	uint64_t size = c->v.block * 512ull, end = c->v.sectors * 512, pos = 0;
	uint64_t slice = 512 * size;
	uint8_t *disk = calloc(1, end + size);
	struct err e = ERR_INIT;

	while (pos < end) {
		_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
		uint64_t len = (1 + q_rand(4)) * slice, block = pos / size, blocks = 0;
		char *save, *w;

		if (len > end - pos)
			len = end - pos;
		q_ok(map_runs(&c->v, pos, len, &s, &e), &e);
		for (w = strtok_r(s.buf, " ", &save); w; w = strtok_r(NULL, " ", &save))
			blocks += apply_run(c, w, disk, block + blocks, end);
		assert_int_equal(blocks, (len + size - 1) / size);
		pos += len;
	}
	return disk;
}

static void compare(struct chain *c)
{
	uint64_t end = c->v.sectors * 512;
	uint8_t *ours = disk_of(c), *theirs = malloc(end);
	int fd;

	q_run("qemu-img convert -U -O raw i%u want.raw", c->depth - 1);
	fd = open(q_path("want.raw"), O_RDONLY);
	assert_int_equal(pread(fd, theirs, end, 0), end);
	close(fd);
	for (uint64_t i = 0; i < end; i += 512)
		if (memcmp(ours + i, theirs + i, 512))
			fail_msg("sector %llu differs", (unsigned long long)i / 512);
	free(ours);
	free(theirs);
}

static void scribble(unsigned i, const char *fmt, uint64_t size)
{
	static const char *const verbs[] = { "write -P 17", "write -P 99", "write -z",
					     "write -z -u", "discard" };
	char line[4096] = "";

	for (unsigned k = 0; k < 10; k++) {
		uint64_t off = q_rand(size / 512) * 512, len = (1 + q_rand(400)) * 512;
		const char *verb = verbs[q_rand(strcmp(fmt, "raw") ? 5 : 2)];

		if (off + len > size)
			len = size - off;
		snprintf(line + strlen(line), sizeof(line) - strlen(line), " -c '%s %llu %llu'",
			 verb, (unsigned long long)off, (unsigned long long)len);
	}
	q_run("qemu-io -f %s %s i%u >/dev/null", fmt, line, i);
}

static void make_chain(unsigned depth, bool raw_base)
{
	uint64_t size = (2 + q_rand(40)) << 18;

	for (unsigned i = 0; i < depth; i++) {
		const char *fmt = raw_base && !i ? "raw" : "qcow2";
		char opts[200] = "", backing[64] = "";

		if (strcmp(fmt, "raw"))
			snprintf(opts, sizeof(opts), "-o compat=%s,cluster_size=%u",
				 q_rand(4) ? "1.1" : "0.10", 4096u << q_rand(10));
		if (i)
			snprintf(backing, sizeof(backing), "-b i%u -F %s", i - 1,
				 raw_base && i == 1 ? "raw" : "qcow2");
		/* Shorter and longer backing images, in multiples of 4 KiB; the top ends anywhere. */
		if (q_rand(2))
			size += (q_rand(3) << 18) + (q_rand(64) << 12);
		else if (size > 1 << 20)
			size -= q_rand(64) << 12;
		if (i == depth - 1 && q_rand(2))
			size += q_rand(8) * 512;
		q_run("qemu-img create -q -f %s %s %s i%u %llu", fmt, opts, backing, i,
		      (unsigned long long)size);
		scribble(i, fmt, size);
	}
}

static void random_chains(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 12; i++) {
		unsigned depth = 1 + q_rand(DEPTH_MAX);
		bool raw = q_rand(2);
		struct chain c;

		make_chain(depth, raw);
		chain_open(&c, depth, raw);
		choose_block(&c);
		compare(&c);
		chain_close(&c);
	}
}

/* A 64 KiB block over 4 KiB clusters: what does not fit is refused by a sentence. */
static void misfit(void **state)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct chain c;

	(void)state;
	q_run("qemu-img create -q -f qcow2 -o cluster_size=4096 i0 1M");
	q_run("qemu-io -f qcow2 -c 'write 4k 4k' i0 >/dev/null");
	chain_open(&c, 1, false);
	c.v.block = 128;
	assert_int_equal(map_runs(&c.v, 0, 1 << 20, &s, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "blocks of 65536 bytes"));
	chain_close(&c);
}

/* Space that an internal snapshot shares must not be written in place. */
static void shared_space(void **state)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct chain c;

	(void)state;
	q_run("qemu-img create -q -f qcow2 i0 1M");
	q_run("qemu-io -f qcow2 -c 'write -P 1 0 128k' i0 >/dev/null");
	q_run("qemu-img snapshot -c s i0");
	q_run("qemu-io -f qcow2 -c 'write -P 2 64k 64k' i0 >/dev/null");
	chain_open(&c, 1, false);
	c.v.block = 128;
	q_ok(map_runs(&c.v, 0, 1 << 20, &s, &e), &e);
	assert_non_null(strstr(strbuf_str(&s), ":s 1:d:"));
	assert_null(strstr(strbuf_str(&s) + 1, ":s 1:d:3:0"));
	chain_close(&c);
}

/* The words of the grammar, on a chain whose every run is known. */
static void words(void **state)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct chain c;

	(void)state;
	q_run("qemu-img create -q -f raw i0 256k");
	q_run("qemu-img create -q -f qcow2 -b i0 -F raw i1 768k");
	q_run("qemu-io -f qcow2 -c 'write -z -u 64k 64k' -c 'write -z -u 192k 128k' i1 >/dev/null");
	chain_open(&c, 2, true);
	c.v.block = 128;
	q_ok(map_runs(&c.v, 0, 768 << 10, &s, &e), &e);
	assert_string_equal(strbuf_str(&s), " 1:d:3:0 1:z:6 1:d:3:256 2:z:6 7:z");
	chain_close(&c);
}

/* A cluster that nobody can find is an error, and nothing else is; a device is not begun with one.
 */
static void damage(void **state)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct chain c;

	(void)state;
	q_run("qemu-img create -q -f qcow2 i0 512k");
	q_run("qemu-io -f qcow2 -c 'write -P 1 0 512k' i0 >/dev/null");
	q_run("qemu-img create -q -f qcow2 -b i0 -F qcow2 i1 512k");
	q_run("qemu-io -f qcow2 -c 'write -P 2 64k 64k' i1 >/dev/null");
	q_run("printf '\\200\\0\\0\\0\\0\\005\\002\\0' | "
	      "dd of=i0 bs=1 seek=$((0x40000 + 3 * 8)) conv=notrunc status=none");
	chain_open(&c, 2, false);
	c.v.block = 128;
	q_ok(map_runs(&c.v, 0, 512 << 10, &s, &e), &e);
	assert_string_equal(strbuf_str(&s), " 1:d:3:640 1:d:6:640 1:d:3:896 1:e 4:d:3:1152");
	c.v.strict = true;
	assert_int_equal(map_runs(&c.v, 0, 512 << 10, &s, &e), -EUCLEAN);
	assert_non_null(
		strstr(e.msg, "offset 0x50200 unaligned (L2 offset: 0x40000, L2 index: 0x3)"));
	chain_close(&c);
}

/* A chain whose view lacks a layer is a bug that must not become wrong data. */
static void missing_layer(void **state)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct chain c;

	(void)state;
	q_run("qemu-img create -q -f raw i0 256k");
	q_run("qemu-img create -q -f qcow2 -b i0 -F raw i1 256k");
	chain_open(&c, 2, true);
	c.v.block = 128;
	c.v.nr_layers = 1;
	assert_int_equal(map_runs(&c.v, 0, 256 << 10, &s, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "is not a layer"));
	chain_close(&c);
}

static int setup(void **state)
{
	int r = q_setup(state);

	journal_init(q_path("state"));
	return r;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_chains), cmocka_unit_test(misfit),
		cmocka_unit_test(shared_space),	 cmocka_unit_test(words),
		cmocka_unit_test(damage),	 cmocka_unit_test(missing_layer),
	};

	return cmocka_run_group_tests(tests, setup, q_teardown);
}
