// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2_map() against qemu-img map, on random images that qemu-io wrote. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2-util.h"

#define MAX_CMDS 24

struct shape {
	unsigned int version, cluster_bits, refcount_bits;
	bool backing;
	uint64_t size;
};

static struct shape random_shape(unsigned int i)
{
	struct shape s = {
		.version = q_rand(3) ? 3 : 2,
		.cluster_bits = 12 + (i < 10 ? i : q_rand(10)),
		.refcount_bits = 16,
		.backing = q_rand(2),
	};

	if (s.version == 3)
		s.refcount_bits = 1u << (i < 7 ? i : q_rand(7));
	s.size = (1 + q_rand(64)) << (s.cluster_bits + q_rand(3));
	s.size += q_rand(3) ? 0 : q_rand(1u << s.cluster_bits) & ~511ull;
	return s;
}

static void make_image(const struct shape *s, const char *name)
{
	char opts[200];

	snprintf(opts, sizeof(opts), "compat=%s,cluster_size=%u%s", s->version == 3 ? "1.1" : "0.10",
		 1u << s->cluster_bits, "");
	if (s->version == 3)
		snprintf(opts + strlen(opts), sizeof(opts) - strlen(opts), ",refcount_bits=%u",
			 s->refcount_bits);
	if (s->backing) {
		q_run("qemu-img create -q -f qcow2 base.qcow2 %llu", (unsigned long long)s->size);
		q_run("qemu-io -f qcow2 -c 'write -P 9 0 %llu' base.qcow2 >/dev/null",
		      (unsigned long long)(s->size / 1024 * 512));
		q_run("qemu-img create -q -f qcow2 -o %s -b base.qcow2 -F qcow2 %s %llu", opts, name,
		      (unsigned long long)s->size);
	} else {
		q_run("qemu-img create -q -f qcow2 -o %s %s %llu", opts, name,
		      (unsigned long long)s->size);
	}
}

/* Data, zeros, discards and zeros that unmap, of any alignment. */
static void scribble(const struct shape *s, const char *name)
{
	static const char *const verbs[] = { "write -P 7", "write -P 8", "write -z", "write -z -u",
					     "discard" };
	char line[8192] = "";
	size_t n = 1 + q_rand(MAX_CMDS);

	for (size_t i = 0; i < n; i++) {
		uint64_t off = q_rand(s->size) & ~511ull, len = q_rand(s->size - off) + 512;
		uint64_t limit = (1 + q_rand(8)) << s->cluster_bits;

		if (q_rand(2)) {
			off &= ~((1ull << s->cluster_bits) - 1);
			len = limit;
		}
		len = len < limit ? len : limit;
		len = len < s->size - off ? len & ~511ull : s->size - off;
		if (len)
			snprintf(line + strlen(line), sizeof(line) - strlen(line),
				 " -c '%s %llu %llu'", verbs[q_rand(5)], (unsigned long long)off,
				 (unsigned long long)len);
	}
	if (*line)
		q_run("qemu-io -d unmap -f qcow2 %s %s >/dev/null 2>&1", line, name);
}

static bool field_true(const char *line, const char *name)
{
	const char *p = strstr(line, name);

	assert_non_null(p);
	return !strncmp(p + strlen(name), "true", 4);
}

static uint64_t field_num(const char *line, const char *name, uint64_t none)
{
	const char *p = strstr(line, name);

	return p ? strtoull(p + strlen(name), NULL, 10) : none;
}

/* Our runs in a range must say what qemu's one line says. */
static void compare_run(struct qcow2 *img, const char *line)
{
	uint64_t start = field_num(line, "\"start\": ", 0), len = field_num(line, "\"length\": ", 0);
	uint64_t offset = field_num(line, "\"offset\": ", 0), n_end;
	bool present = field_true(line, "\"present\": ") && !field_num(line, "\"depth\": ", 0);
	bool data = field_true(line, "\"data\": "), zero = field_true(line, "\"zero\": ");
	struct qcow2_run *runs;
	struct err e = ERR_INIT;
	uint64_t pos = start;
	size_t n;

	q_ok(qcow2_map_array(img, start, len, 0, &runs, &n, &n_end, &e), &e);
	for (size_t i = 0; i < n; i++) {
		const struct qcow2_run *r = &runs[i];

		assert_int_equal(r->guest_off, pos);
		pos += r->len;
		if (!present) {
			assert_int_equal(r->kind, QCOW2_UNALLOCATED);
			continue;
		}
		if (data && !zero)
			assert_int_equal(r->kind, QCOW2_DATA);
		else if (offset)
			assert_true(r->kind == QCOW2_ZERO_ALLOC || r->kind == QCOW2_DATA);
		else
			assert_int_equal(r->kind, QCOW2_ZERO_PLAIN);
		assert_int_equal(r->host_off, offset ? offset + (r->guest_off - start) : 0);
		if (r->host_off)
			assert_true(r->copied);
	}
	assert_int_equal(pos, start + len);
	assert_int_equal(n_end, start + len);
	free(runs);
}

static unsigned int compare_map(struct qcow2 *img, const char *name, uint64_t size)
{
	char *json = q_output("qemu-img map -U --output=json -f qcow2 %s", name), *save = NULL;
	unsigned int lines = 0;
	uint64_t end = 0;

	for (char *line = strtok_r(json, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		compare_run(img, line);
		end = field_num(line, "\"start\": ", 0) + field_num(line, "\"length\": ", 0);
		lines++;
	}
	assert_int_equal(end, size);
	free(json);
	return lines;
}

static void check_info(struct qcow2 *img, const struct shape *s)
{
	struct qcow2_info info;

	qcow2_get_info(img, &info);
	assert_int_equal(info.version, s->version);
	assert_int_equal(info.cluster_bits, s->cluster_bits);
	assert_int_equal(info.virtual_size, s->size);
	assert_int_equal(info.refcount_bits, s->refcount_bits);
	assert_int_equal(info.snapshots, 0);
	assert_int_equal(info.has_zero, s->version == 3);
	if (s->backing) {
		assert_string_equal(info.backing_file, "base.qcow2");
		assert_string_equal(info.backing_format, "qcow2");
	} else {
		assert_null(info.backing_file);
		assert_null(info.backing_format);
	}
}

static void random_images(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 40; i++) {
		struct shape s = random_shape(i);
		struct q_file *f;
		struct qcow2 *img;

		make_image(&s, "map.qcow2");
		scribble(&s, "map.qcow2");
		f = q_open_file("map.qcow2", q_rand(2) ? Q_DIRECT : 0);
		img = q_open(f, q_rand(2) ? QCOW2_WRITABLE : 0);
		check_info(img, &s);
		compare_map(img, "map.qcow2", s.size);
		q_check_clean("map.qcow2", img, -1);
		qcow2_close(img);
		q_close_file(f);
	}
}

/* Images above 2 TiB, written here and there. */
static void huge_sparse(void **state)
{
	const uint64_t size = 16ull << 40;
	struct q_file *f;
	struct qcow2 *img;

	(void)state;
	q_run("qemu-img create -q -f qcow2 huge.qcow2 16T");
	q_run("qemu-io -f qcow2 -c 'write -P 1 3T 200k' -c 'write -P 1 15T 64k' "
	      "-c 'write -P 2 17592181850112 4M' huge.qcow2 >/dev/null");
	f = q_open_file("huge.qcow2", 0);
	img = q_open(f, QCOW2_WRITABLE);
	assert_true(compare_map(img, "huge.qcow2", size) >= 6);
	qcow2_close(img);
	q_close_file(f);
}

/* Any part of a range gives the same answer as the whole. */
static void partial_ranges(void **state)
{
	struct shape s = { 3, 12, 16, false, 4 << 20 };
	struct qcow2_run *runs, *part;
	struct err e = ERR_INIT;
	size_t n, pn;
	uint64_t end;
	struct q_file *f;
	struct qcow2 *img;

	(void)state;
	make_image(&s, "part.qcow2");
	for (int i = 0; i < 6; i++)
		scribble(&s, "part.qcow2");
	f = q_open_file("part.qcow2", Q_DIRECT);
	img = q_open(f, 0);
	q_ok(qcow2_map_array(img, 0, UINT64_MAX, 0, &runs, &n, &end, &e), &e);
	assert_int_equal(end, s.size);
	for (int i = 0; i < 400; i++) {
		uint64_t off = q_rand(s.size), len = 1 + q_rand(s.size - off);
		size_t k = 0;

		q_ok(qcow2_map_array(img, off, len, 0, &part, &pn, &end, &e), &e);
		assert_int_equal(end, off + len);
		for (size_t j = 0; j < pn; j++) {
			while (runs[k].guest_off + runs[k].len <= part[j].guest_off)
				k++;
			assert_int_equal(part[j].kind, runs[k].kind);
			assert_true(part[j].guest_off + part[j].len <=
				    runs[k].guest_off + runs[k].len);
			if (runs[k].host_off)
				assert_int_equal(part[j].host_off,
						 runs[k].host_off + part[j].guest_off -
							 runs[k].guest_off);
		}
		free(part);
	}
	q_ok(qcow2_map_array(img, 0, UINT64_MAX, 2, &part, &pn, &end, &e), &e);
	assert_int_equal(pn, n < 2 ? n : 2);
	assert_int_equal(end, part[pn - 1].guest_off + part[pn - 1].len);
	free(part);
	q_ok(qcow2_map_array(img, s.size, 1, 0, &part, &pn, &end, &e), &e);
	assert_int_equal(pn, 0);
	free(runs);
	qcow2_close(img);
	q_close_file(f);
}

/* Clusters that an internal snapshot shares are not ours to overwrite. */
static void snapshot_shares(void **state)
{
	struct qcow2_run *runs;
	struct err e = ERR_INIT;
	struct q_file *f;
	struct qcow2 *img;
	uint64_t end;
	size_t n;

	(void)state;
	q_run("qemu-img create -q -f qcow2 snap.qcow2 8M");
	q_run("qemu-io -f qcow2 -c 'write -P 1 0 1M' snap.qcow2 >/dev/null");
	q_run("qemu-img snapshot -q -c one snap.qcow2");
	q_run("qemu-io -f qcow2 -c 'write -P 2 64k 64k' snap.qcow2 >/dev/null");
	f = q_open_file("snap.qcow2", 0);
	assert_int_equal(qcow2_open(f->io, QCOW2_WRITABLE, &img, &e), -EOPNOTSUPP);
	assert_non_null(strstr(e.msg, "internal snapshots"));
	img = q_open(f, QCOW2_WRITABLE | QCOW2_SNAPSHOTS_OK);
	err_clear(&e);
	q_ok(qcow2_map_array(img, 0, 8 << 20, 0, &runs, &n, &end, &e), &e);
	assert_int_equal(n, 4);
	assert_false(runs[0].copied);
	assert_true(runs[1].copied);
	assert_int_equal(runs[1].guest_off, 65536);
	assert_int_equal(runs[1].len, 65536);
	assert_false(runs[2].copied);
	assert_int_equal(runs[3].kind, QCOW2_UNALLOCATED);
	free(runs);
	q_check_clean("snap.qcow2", img, 0);
	qcow2_close(img);
	q_close_file(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_images),
		cmocka_unit_test(huge_sparse),
		cmocka_unit_test(partial_ranges),
		cmocka_unit_test(snapshot_shares),
	};

	return cmocka_run_group_tests(tests, q_setup, q_teardown);
}
