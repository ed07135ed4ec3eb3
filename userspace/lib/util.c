// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "fault.h"
#include "strbuf.h"
#include "util.h"

static void *checked(void *p)
{
	static const char text[] = "<2>out of memory\n";

	if (!p) {
		if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
			abort();
		abort();
	}
	return p;
}

void *xmalloc(size_t size)
{
	return checked(malloc(size ? size : 1));
}

void *xcalloc(size_t n, size_t size)
{
	return checked(calloc(n ? n : 1, size ? size : 1));
}

void *xreallocarray(void *p, size_t n, size_t size)
{
	return checked(reallocarray(p, n ? n : 1, size ? size : 1));
}

char *xstrdup(const char *s)
{
	return checked(strdup(s));
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return checked(s);
}

int parse_u64(const char *s, uint64_t *ret)
{
	unsigned base = 10;
	uint64_t v = 0;

	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		base = 16;
		s += 2;
	}
	if (!*s)
		return -EINVAL;
	for (; *s; s++) {
		unsigned d;

		if (*s >= '0' && *s <= '9')
			d = *s - '0';
		else if (base == 16 && ((*s | 32) >= 'a' && (*s | 32) <= 'f'))
			d = (*s | 32) - 'a' + 10;
		else
			return -EINVAL;
		if (__builtin_mul_overflow(v, (uint64_t)base, &v) ||
		    __builtin_add_overflow(v, (uint64_t)d, &v))
			return -ERANGE;
	}
	*ret = v;
	return 0;
}

int parse_s64(const char *s, int64_t *ret)
{
	bool neg = *s == '-';
	uint64_t v;
	int r;

	if (neg)
		s++;
	r = parse_u64(s, &v);
	if (r < 0)
		return r;
	if (v > (uint64_t)INT64_MAX + neg)
		return -ERANGE;
	*ret = neg ? (int64_t)(0 - v) : (int64_t)v;
	return 0;
}

/* The power of two that a suffix stands for; -1 if it is none. */
static int suffix_shift(char c)
{
	static const char letters[] = "bkmgtpe";
	const char *p = c ? strchr(letters, c | 32) : NULL;

	return p ? 10 * (int)(p - letters) : -1;
}

int parse_size(const char *s, uint64_t *ret)
{
	char num[32], *dot;
	size_t len = strlen(s);
	uint64_t v, frac = 0;
	int shift = 0, r;

	if (!len || len >= sizeof(num))
		return -EINVAL;
	if (parse_u64(s, ret) == 0)
		return 0;
	memcpy(num, s, len + 1);
	shift = suffix_shift(num[len - 1]);
	if (shift >= 0)
		num[len - 1] = '\0';
	else
		shift = 0;
	dot = strchr(num, '.');
	if (dot) {
		uint64_t digits;
		double scale = 1;

		*dot++ = '\0';
		if (!shift || strlen(dot) > 9 || strchr(dot, 'x'))
			return -EINVAL;
		r = parse_u64(dot, &digits);
		if (r < 0)
			return r;
		for (size_t i = strlen(dot); i; i--)
			scale *= 10;
		frac = (uint64_t)((double)digits / scale * (double)(1ull << shift));
	}
	r = parse_u64(num, &v);
	if (r < 0)
		return r;
	if (__builtin_mul_overflow(v, 1ull << shift, &v) || __builtin_add_overflow(v, frac, &v))
		return -ERANGE;
	*ret = v;
	return 0;
}

static bool is_alpha(char c)
{
	return (c | 32) >= 'a' && (c | 32) <= 'z';
}

bool id_wellformed(const char *s, size_t max)
{
	size_t i;

	if (!is_alpha(s[0]))
		return false;
	for (i = 1; s[i]; i++)
		if (i >= max ||
		    (!is_alpha(s[i]) && !(s[i] >= '0' && s[i] <= '9') && !strchr("-._", s[i])))
			return false;
	return i <= max;
}

char *path_join(const char *dir, const char *name)
{
	size_t len = strlen(dir);

	if (name[0] == '/' || len == 0)
		return xstrdup(name);
	return xasprintf("%s%s%s", dir, dir[len - 1] == '/' ? "" : "/", name);
}

char *path_dir(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return xstrdup(".");
	if (slash == path)
		return xstrdup("/");
	return xasprintf("%.*s", (int)(slash - path), path);
}

int path_mkdirs(const char *path, unsigned mode, struct err *e)
{
	_cleanup_free_ char *p = xstrdup(path);
	struct stat st;

	for (char *c = p + 1; *p; c++) {
		char old = *c;

		if (old != '/' && old != '\0')
			continue;
		*c = '\0';
		if (mkdir(p, mode) < 0 && errno != EEXIST)
			return err_set(e, errno, "Could not create folder '%s': %s", p,
				       strerror(errno));
		*c = old;
		if (!old)
			break;
	}
	if (stat(path, &st) < 0)
		return err_set(e, errno, "Could not open folder '%s': %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return err_set(e, ENOTDIR, "'%s' is not a folder", path);
	return 0;
}

bool fd_can_write(int fd)
{
	return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

int write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		len -= n;
	}
	return 0;
}

int read_file(const char *path, size_t max, char **ret, size_t *ret_len, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	_cleanup_strbuf_ struct strbuf sb = STRBUF_INIT;
	char buf[8192];

	if (fd < 0)
		return err_set(e, errno, "Could not open '%s': %s", path, strerror(errno));
	for (;;) {
		ssize_t n = read(fd, buf, sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(e, errno, "Could not read '%s': %s", path, strerror(errno));
		if (n == 0)
			break;
		if ((size_t)n > max - sb.len)
			return err_set(e, EFBIG, "'%s' is larger than %zu bytes", path, max);
		strbuf_add(&sb, buf, n);
	}
	if (ret_len)
		*ret_len = sb.len;
	*ret = strbuf_detach(&sb);
	return 0;
}

static int fsync_dir_of(const char *path, struct err *e)
{
	_cleanup_free_ char *dir = path_dir(path);
	_cleanup_close_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return err_set(e, errno, "Could not make the folder '%s' durable: %s", dir,
			       strerror(errno));
	return 0;
}

int write_file_durably(const char *path, const void *data, size_t len, unsigned mode, struct err *e)
{
	_cleanup_free_ char *tmp = xasprintf("%s" UTIL_NEW_SUFFIX, path);
	_cleanup_close_ int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r;

	if (fd < 0)
		return err_set(e, errno, "Could not create '%s': %s", tmp, strerror(errno));
	r = write_all(fd, data, len);
	if (r == 0 && (fchmod(fd, mode) < 0 || fsync(fd) < 0))
		r = -errno;
	FAULT_POINT("write", tmp);
	if (r == 0 && rename(tmp, path) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlink(tmp);
		return err_set(e, -r, "Could not write '%s': %s", path, strerror(-r));
	}
	FAULT_POINT("rename to", path);
	return fsync_dir_of(path, e);
}
