// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Exercises one file of a file system at random, and compares each byte that it reads with a
 * model in memory.
 *
 *	fsx [-s SEED] [-n OPERATIONS] [-t SECONDS] [-u FILE] [-l BYTES] [-p MICROSECONDS] PATH
 *
 * -u: ends when FILE appears. -l: the file's largest size. -p: a pause after each operation. Reads
 * and writes go through the page cache, through a mapping, and past the cache; the file
 * grows, shrinks, gets holes; it is synced, dropped from the cache and opened again. Prints
 * the seed and what was done. Status 1: what was read is wrong; the last operations are printed.
 * Status 2: an operation failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/util.h"

#define PAGE   4096u
#define OP_MAX (256u << 10)
#define LOG    60

static struct {
	const char *path, *until;
	uint64_t seed, operations, pause_us;
	double seconds;
	size_t limit;
} opt = { .seed = 1, .operations = UINT64_MAX, .seconds = 1e9, .limit = 4u << 20 };

static int fd = -1, direct = -1;
static unsigned char *model; /* opt.limit bytes; zeros behind size */
static unsigned char *buf;   /* OP_MAX bytes, aligned */
static size_t size;
static uint64_t state, done;

static struct {
	uint64_t number;
	const char *name;
	size_t at, len, size;
} history[LOG];

static void show_history(void)
{
	for (uint64_t i = done > LOG ? done - LOG : 0; i < done; i++) {
		size_t n = i % LOG;

		printf("# %" PRIu64 " %s %zu+%zu, size %zu\n", history[n].number, history[n].name,
		       history[n].at, history[n].len, history[n].size);
	}
}

static void __attribute__((noreturn, format(printf, 2, 3)))
give_up(int status, const char *format, ...)
{
	va_list ap;

	show_history();
	printf("# WRONG: ");
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	printf(" (operation %" PRIu64 ", seed %" PRIu64 ")\n", done, opt.seed);
	fflush(stdout);
	exit(status);
}

/* xorshift64*: the same on every machine. */
static uint64_t rnd(uint64_t below)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (state * 2685821657736338717ull >> 11) % below;
}

static void must(bool fine, const char *what)
{
	if (!fine)
		give_up(2, "%s: %s", what, strerror(errno));
}

/* What was read as [at, at + len) is what the model says. */
static void compare(const char *how, const unsigned char *got, size_t at, size_t len)
{
	size_t i = 0;

	if (!memcmp(got, model + at, len))
		return;
	while (got[i] == model[at + i])
		i++;
	give_up(1, "%s: byte %zu of '%s' is 0x%02x instead of 0x%02x", how, at + i, opt.path,
		got[i], model[at + i]);
}

/* New content of [at, at + len): telling where it belongs, and which operation wrote it. */
static void invent(size_t at, size_t len)
{
	unsigned char tag = 1 + done % 255;

	for (size_t i = 0; i < len; i++)
		model[at + i] = (unsigned char)(tag + (at + i) / 64 * 7 + (i & 1));
	if (at + len > size)
		size = at + len;
}

/* --- operations: at and len are within the limit, len > 0 --- */

static void op_read(size_t at, size_t len)
{
	ssize_t n = pread(fd, buf, len, at);
	size_t want = at >= size ? 0 : at + len > size ? size - at : len;

	must(n >= 0, "read");
	if ((size_t)n != want)
		give_up(1, "a read of %zu+%zu returned %zd bytes instead of %zu", at, len, n, want);
	compare("read", buf, at, n);
}

static void op_write(size_t at, size_t len)
{
	invent(at, len);
	must(pwrite(fd, model + at, len, at) == (ssize_t)len, "write");
}

static void op_direct_read(size_t at, size_t len)
{
	ssize_t n;

	at = at / PAGE * PAGE;
	len = (len + PAGE - 1) / PAGE * PAGE;
	if (at >= size)
		return;
	n = pread(direct, buf, len, at);
	must(n >= 0, "direct read");
	compare("direct read", buf, at, n);
}

static void op_direct_write(size_t at, size_t len)
{
	at = at / PAGE * PAGE;
	len = (len + PAGE - 1) / PAGE * PAGE;
	invent(at, len);
	memcpy(buf, model + at, len);
	must(pwrite(direct, buf, len, at) == (ssize_t)len, "direct write");
}

static unsigned char *map(size_t at, size_t len, int prot)
{
	size_t start = at / PAGE * PAGE;
	unsigned char *m = mmap(NULL, at - start + len, prot, MAP_SHARED, fd, start);

	must(m != MAP_FAILED, "mmap");
	return m + (at - start);
}

static void unmap(unsigned char *m, size_t at, size_t len)
{
	size_t start = at / PAGE * PAGE;

	must(!munmap(m - (at - start), at - start + len), "munmap");
}

static void op_map_read(size_t at, size_t len)
{
	unsigned char *m;

	if (at >= size)
		return;
	if (at + len > size)
		len = size - at;
	m = map(at, len, PROT_READ);
	compare("mapped read", m, at, len);
	unmap(m, at, len);
}

static void op_map_write(size_t at, size_t len)
{
	unsigned char *m;

	if (at + len > size) {
		size = at + len;
		must(!ftruncate(fd, size), "truncate for a mapping");
	}
	invent(at, len);
	m = map(at, len, PROT_READ | PROT_WRITE);
	memcpy(m, model + at, len);
	if (!rnd(4))
		must(!msync(m - at % PAGE, at % PAGE + len, MS_SYNC), "msync");
	unmap(m, at, len);
}

static void op_truncate(size_t at, size_t len)
{
	(void)len;
	must(!ftruncate(fd, at), "truncate");
	if (at < size)
		memset(model + at, 0, size - at);
	size = at;
}

static void op_punch(size_t at, size_t len)
{
	must(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len), "punch");
	memset(model + at, 0, len);
}

static void op_zero(size_t at, size_t len)
{
	if (fallocate(fd, FALLOC_FL_ZERO_RANGE, at, len)) {
		must(errno == EOPNOTSUPP, "zero range");
		return;
	}
	memset(model + at, 0, len);
	if (at + len > size)
		size = at + len;
}

static void op_allocate(size_t at, size_t len)
{
	must(!fallocate(fd, 0, at, len), "fallocate");
	if (at + len > size)
		size = at + len;
}

static void op_sync(size_t at, size_t len)
{
	(void)at;
	must(!(len & 1 ? fsync(fd) : fdatasync(fd)), "fsync");
}

static void open_file(int flags)
{
	fd = open(opt.path, O_RDWR | O_CLOEXEC | flags, 0600);
	must(fd >= 0, "open");
	direct = open(opt.path, O_RDWR | O_DIRECT | O_CLOEXEC);
	must(direct >= 0, "open for direct I/O");
}

/* What is read next comes from the device. */
static void op_reopen(size_t at, size_t len)
{
	(void)at;
	(void)len;
	must(!fsync(fd), "fsync");
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	must(!close(fd) && !close(direct), "close");
	open_file(0);
}

static void check_all(void)
{
	struct stat st;

	op_reopen(0, 0);
	must(!fstat(fd, &st), "stat");
	if ((size_t)st.st_size != size)
		give_up(1, "the size of '%s' is %lld instead of %zu", opt.path,
			(long long)st.st_size, size);
	for (size_t at = 0; at < size; at += OP_MAX)
		op_read(at, OP_MAX);
}

static void op_check_all(size_t at, size_t len)
{
	(void)at;
	(void)len;
	check_all();
}

static const struct {
	const char *name;
	unsigned int weight;
	void (*fn)(size_t at, size_t len);
} ops[] = {
	{ "read", 10, op_read },
	{ "write", 14, op_write },
	{ "direct read", 6, op_direct_read },
	{ "direct write", 8, op_direct_write },
	{ "mapped read", 8, op_map_read },
	{ "mapped write", 10, op_map_write },
	{ "truncate", 3, op_truncate },
	{ "punch", 5, op_punch },
	{ "zero range", 4, op_zero },
	{ "fallocate", 3, op_allocate },
	{ "fsync", 5, op_sync },
	{ "reopen", 2, op_reopen },
	{ "check all", 1, op_check_all },
};
static uint64_t counts[ARRAY_SIZE(ops)];

static void one(void)
{
	size_t i = 0, n = done % LOG, at, len;
	unsigned int total = 0, pick;

	for (size_t k = 0; k < ARRAY_SIZE(ops); k++)
		total += ops[k].weight;
	for (pick = rnd(total); pick >= ops[i].weight; i++)
		pick -= ops[i].weight;
	at = rnd(opt.limit - OP_MAX);
	len = 1 + rnd(rnd(4) ? 4 * PAGE : OP_MAX);
	history[n].number = done;
	history[n].name = ops[i].name;
	history[n].at = at;
	history[n].len = len;
	history[n].size = size;
	done++;
	counts[i]++;
	ops[i].fn(at, len);
}

static double now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int parse(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "s:n:t:u:l:p:")) >= 0) {
		switch (c) {
		case 's':
			opt.seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			opt.operations = strtoull(optarg, NULL, 0);
			break;
		case 't':
			opt.seconds = strtod(optarg, NULL);
			break;
		case 'u':
			opt.until = optarg;
			break;
		case 'l':
			opt.limit = strtoull(optarg, NULL, 0);
			break;
		case 'p':
			opt.pause_us = strtoull(optarg, NULL, 0);
			break;
		default:
			return -1;
		}
	}
	if (optind + 1 != argc || opt.limit <= OP_MAX)
		return -1;
	opt.path = argv[optind];
	return 0;
}

int main(int argc, char **argv)
{
	double end;

	if (parse(argc, argv) < 0) {
		fprintf(stderr, "usage: fsx [-s SEED] [-n OPERATIONS] [-t SECONDS] [-u FILE] "
				"[-l BYTES] [-p MICROSECONDS] PATH\n");
		return 2;
	}
	state = opt.seed * 0x9e3779b97f4a7c15ull | 1;
	model = calloc(1, opt.limit + OP_MAX);
	must(model && !posix_memalign((void **)&buf, PAGE, OP_MAX + PAGE), "memory");
	open_file(O_CREAT | O_TRUNC);
	end = now() + opt.seconds;
	while (done < opt.operations && now() < end && !(opt.until && !access(opt.until, F_OK))) {
		one();
		if (opt.pause_us)
			(void)usleep(opt.pause_us);
	}
	check_all();
	printf("# seed %" PRIu64 ", %" PRIu64 " operations:", opt.seed, done);
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		printf(" %s %" PRIu64 "%s", ops[i].name, counts[i],
		       i + 1 < ARRAY_SIZE(ops) ? "," : "\n");
	return 0;
}
