// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Disks for power cuts: network block devices /dev/nbd0 and on, in memory, each with a write
 * cache of its own. Every write, flush and mark is logged in the order in which the
 * disks have served them, so a log tells exactly what a cut may have left at any instant.
 * (dm-log-writes knows one device with one cache, and logs a write only when it is flushed.)
 *
 *	disks [-f FAULTS] CONTROL LOG DIR MIB...
 *
 * CONTROL: a socket to be made (SEQPACKET): a text sent there becomes a mark and is echoed.
 * LOG: a file to be made, or "-". DIR: its files nbd0 and on are the content at first, or "-".
 * With -f they are the content itself, which the test may look at and change, and FAULTS is
 * a file that says which requests fail (struct faults); the cache is there to be lost by a
 * flush that fails. Ends when it gets SIGTERM, once nobody has a disk open.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define DISKS_MAX 32
#define CLIENTS	  16
#define CMD_MASK  0xffffu
#define CMD_FUA	  (1u << 16)

enum { LOG_FLUSH = 1, LOG_FUA = 2, LOG_MARK = 8 }; /* as dm-log-writes has them */

struct entry {
	uint64_t off, len;
	uint32_t disk, flags;
};

/* What FAULTS holds; the test sets all but the figures. Requests that are none of @disks' and
 * @kinds, or do not begin below @below, are not counted. Numbers begin at 1; from @first on
 * @count fail. */
#define FAULTS_TOLD 1024
struct faults {
	uint32_t seen, hits;   /* figures: counted requests, failed ones */
	uint32_t disks, kinds; /* masks: 1 << disk; 1 reads, 2 writes, 4 flushes */
	uint32_t first, count;
	uint32_t how; /* what has happened all the same: HOW_* */
	uint32_t below; /* sectors; 0: anywhere */
	struct {
		uint32_t disk, kind;
		uint64_t off, len;
	} hit[FAULTS_TOLD]; /* those that failed, the first of them */
};

enum { KIND_READ = 1, KIND_WRITE = 2, KIND_FLUSH = 4 };
/* A write that fails has written nothing, or its first half, or all of it. A flush that fails may
 * have lost all that came since the last one. */
enum { HOW_HALF = 1, HOW_ALL = 2, HOW_LOSE = 4 };

struct undo {
	struct undo *next;
	uint64_t off, len;
	uint8_t old[];
};

struct disk {
	struct undo *undo; /* since the last flush, newest first; with -f only */
	uint8_t *mem;
	uint64_t size;
	int sock;
	pid_t child;
};

static struct disk disks[DISKS_MAX];
static int nr_disks;
static FILE *out;
static volatile struct faults *faults;
static volatile sig_atomic_t ending;

static void die(const char *what)
{
	fprintf(stderr, "disks: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void note(uint32_t disk, uint32_t flags, uint64_t off, uint64_t len, const void *data)
{
	struct entry e = { off, len, disk, flags };

	if (out && (fwrite(&e, sizeof(e), 1, out) != 1 || (data && fwrite(data, len, 1, out) != 1)))
		die("log");
}

static bool take(int fd, void *buf, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, buf, len, MSG_WAITALL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		buf = (char *)buf + n;
		len -= n;
	}
	return true;
}

static void give(int fd, const void *buf, size_t len)
{
	while (len) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return; /* the kernel has gone: seen at the next request */
		buf = (const char *)buf + n;
		len -= n;
	}
}

static bool hit(int i, uint32_t kind, uint64_t off, uint64_t len)
{
	if (!faults || !(faults->disks & 1u << i) || !(faults->kinds & kind) ||
	    (faults->below && off >= (uint64_t)faults->below * 512))
		return false;
	faults->seen++;
	if (faults->seen < faults->first || faults->seen - faults->first >= faults->count)
		return false;
	if (faults->hits < FAULTS_TOLD) {
		faults->hit[faults->hits].disk = i;
		faults->hit[faults->hits].kind = kind;
		faults->hit[faults->hits].off = off;
		faults->hit[faults->hits].len = len;
	}
	faults->hits++;
	return true;
}

/* Remembers what a write is about to replace. */
static void keep(struct disk *d, uint64_t off, uint64_t len)
{
	struct undo *u = malloc(sizeof(*u) + len);

	if (!u)
		die("memory");
	*u = (struct undo){ d->undo, off, len };
	memcpy(u->old, d->mem + off, len);
	d->undo = u;
}

/* What a FUA write has written is not lost whatever was there before. */
static void keep_fua(struct disk *d, uint64_t off, uint64_t len, const uint8_t *new)
{
	for (struct undo *u = d->undo; u; u = u->next) {
		uint64_t from = off > u->off ? off : u->off;
		uint64_t to = off + len < u->off + u->len ? off + len : u->off + u->len;

		if (from < to)
			memcpy(u->old + (from - u->off), new + (from - off), to - from);
	}
}

static void flush(struct disk *d, bool lose)
{
	struct undo *u;

	while ((u = d->undo)) {
		if (lose)
			memcpy(d->mem + u->off, u->old, u->len);
		d->undo = u->next;
		free(u);
	}
}

/* A write with -f; false when it fails. */
static bool write_faulty(int i, uint64_t off, uint64_t len, const uint8_t *new, bool fua)
{
	struct disk *d = &disks[i];
	bool fail = hit(i, KIND_WRITE, off, len);
	uint64_t done = len;

	if (fail && !(faults->how & HOW_ALL))
		done = faults->how & HOW_HALF ? len / 1024 * 512 : 0;
	if (fua && !fail)
		keep_fua(d, off, done, new);
	else
		keep(d, off, done);
	memcpy(d->mem + off, new, done);
	return !fail;
}

/* Takes a write's data from the socket. */
static bool take_write(int i, uint64_t off, uint64_t len, bool fua, bool *ret_fail)
{
	static uint8_t buf[64 << 20];
	struct disk *d = &disks[i];

	if (!faults)
		return take(d->sock, d->mem + off, len);
	if (len > sizeof(buf) || !take(d->sock, buf, len))
		return false;
	*ret_fail = !write_faulty(i, off, len, buf, fua);
	return true;
}

/* One request; false at the end of the connection. */
static bool serve(int i)
{
	struct disk *d = &disks[i];
	struct nbd_request q;
	struct nbd_reply a = { .magic = htobe32(NBD_REPLY_MAGIC) };
	uint64_t off, len;
	uint32_t type;
	bool fail = false;

	if (!take(d->sock, &q, sizeof(q)) || be32toh(q.magic) != NBD_REQUEST_MAGIC)
		return false;
	memcpy(&a.handle, &q.handle, sizeof(a.handle));
	type = be32toh(q.type);
	off = be64toh(q.from);
	len = be32toh(q.len);
	if ((type & CMD_MASK) == NBD_CMD_DISC)
		return false;
	if ((type & CMD_MASK) != NBD_CMD_FLUSH && (off > d->size || len > d->size - off)) {
		fprintf(stderr, "disks: a request behind the end of disk %d\n", i);
		return false;
	}
	if ((type & CMD_MASK) == NBD_CMD_WRITE) {
		if (!take_write(i, off, len, type & CMD_FUA, &fail))
			return false;
		note(i, type & CMD_FUA ? LOG_FUA : 0, off, len, d->mem + off);
	} else if ((type & CMD_MASK) == NBD_CMD_FLUSH) {
		fail = hit(i, KIND_FLUSH, 0, 0);
		flush(d, fail && (faults->how & HOW_LOSE));
		note(i, LOG_FLUSH, 0, 0, NULL);
	} else if ((type & CMD_MASK) == NBD_CMD_READ) {
		fail = hit(i, KIND_READ, off, len);
	} else {
		a.error = htobe32(EINVAL);
	}
	if (fail)
		a.error = htobe32(EIO);
	give(d->sock, &a, sizeof(a));
	if ((type & CMD_MASK) == NBD_CMD_READ && !fail)
		give(d->sock, d->mem + off, len);
	return true;
}

static void serve_client(int *fd)
{
	char text[4096];
	ssize_t n = recv(*fd, text, sizeof(text), 0);

	if (n <= 0) {
		close(*fd);
		*fd = -1; /* poll passes over it */
		return;
	}
	note(0, LOG_MARK, 0, n, text);
	(void)!send(*fd, text, n, MSG_NOSIGNAL);
}

/* The kernel's side: the ioctl lasts as long as the device. */
static void run_device(int i, int sock)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/dev/nbd%d", i);
	fd = open(path, O_RDWR);
	if (fd < 0)
		die(path);
	if (ioctl(fd, NBD_SET_BLKSIZE, 512ul) ||
	    ioctl(fd, NBD_SET_SIZE_BLOCKS, (unsigned long)(disks[i].size / 512)) ||
	    ioctl(fd, NBD_SET_FLAGS,
		  (unsigned long)(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA)) ||
	    ioctl(fd, NBD_SET_SOCK, (unsigned long)sock))
		die("NBD ioctl");
	ioctl(fd, NBD_DO_IT);
	ioctl(fd, NBD_CLEAR_SOCK);
	_exit(0);
}

static void *map_file(const char *path, uint64_t size)
{
	int fd = open(path, O_RDWR);
	void *mem;

	if (fd < 0)
		die(path);
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		die(path);
	close(fd);
	return mem;
}

static void load(struct disk *d, const char *dir, int i)
{
	char path[4096];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/nbd%d", dir, i);
	if (faults) {
		d->mem = map_file(path, d->size);
		return;
	}
	fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	for (uint64_t at = 0; at < d->size; at += n) {
		n = pread(fd, d->mem + at, d->size - at, at);
		if (n < 0)
			die(path);
		if (n == 0)
			break;
	}
	close(fd);
}

static void start(int i, const char *mib, const char *dir)
{
	struct disk *d = &disks[i];
	int sv[2];

	d->size = strtoull(mib, NULL, 10) << 20;
	d->mem = mmap(NULL, d->size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (d->mem == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM, 0, sv))
		die("start");
	if (strcmp(dir, "-"))
		load(d, dir, i);
	d->sock = sv[0];
	d->child = fork();
	if (d->child < 0)
		die("fork");
	if (!d->child) {
		signal(SIGTERM, SIG_IGN);
		for (int k = 0; k <= i; k++)
			close(disks[k].sock);
		run_device(i, sv[1]);
	}
	close(sv[1]);
}

static int listen_at(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, CLIENTS))
		die(path);
	return fd;
}

static void end(int sig)
{
	(void)sig;
	ending = 1;
}

static void loop(int listener)
{
	struct pollfd p[1 + DISKS_MAX + CLIENTS];
	int clients[CLIENTS], nr_clients = 0, alive = nr_disks;

	while (alive && !ending) {
		int n = 0;

		p[n++] = (struct pollfd){ listener, POLLIN, 0 };
		for (int i = 0; i < nr_disks; i++)
			p[n++] = (struct pollfd){ disks[i].sock, POLLIN, 0 };
		for (int i = 0; i < nr_clients; i++)
			p[n++] = (struct pollfd){ clients[i], POLLIN, 0 };
		if (poll(p, n, -1) < 0)
			continue;
		if (p[0].revents && nr_clients < CLIENTS)
			clients[nr_clients++] = accept(listener, NULL, NULL);
		for (int i = 0; i < nr_disks; i++) {
			if (!p[1 + i].revents || serve(i))
				continue;
			close(disks[i].sock);
			disks[i].sock = -1;
			alive--;
		}
		for (int i = 0; i < n - 1 - nr_disks; i++) {
			if (p[1 + nr_disks + i].revents)
				serve_client(&clients[i]);
		}
	}
}

int main(int argc, char **argv)
{
	int listener;

	if (argc > 2 && !strcmp(argv[1], "-f")) {
		faults = map_file(argv[2], sizeof(*faults));
		argv += 2;
		argc -= 2;
	}
	if (argc < 5 || argc - 4 > DISKS_MAX) {
		fprintf(stderr, "usage: disks [-f FAULTS] CONTROL LOG|- DIR|- MIB...\n");
		return 2;
	}
	if (strcmp(argv[2], "-") && !(out = fopen(argv[2], "w")))
		die(argv[2]);
	sigaction(SIGTERM, &(struct sigaction){ .sa_handler = end }, NULL);
	nr_disks = argc - 4;
	for (int i = 0; i < nr_disks; i++)
		start(i, argv[4 + i], argv[3]);
	listener = listen_at(argv[1]);
	loop(listener);
	for (int i = 0; i < nr_disks; i++)
		shutdown(disks[i].sock, SHUT_RDWR); /* NBD_DO_IT of the child returns */
	while (wait(NULL) > 0)
		;
	if (out && fclose(out))
		die("log");
	return 0;
}
