// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "block/kmsg.h"

#define DM_LOG_PREFIX "device-mapper: "

int kmsg_mark(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && lseek(fd, 0, SEEK_END) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Past "253:0: " of a constructor's error. */
static const char *skip_devno(const char *s)
{
	size_t n = strspn(s, "0123456789");
	size_t m;

	if (!n || s[n] != ':')
		return s;
	m = strspn(s + n + 1, "0123456789");
	if (!m || strncmp(s + n + 1 + m, ": ", 2))
		return s;
	return s + n + 1 + m + 2;
}

/*
 * "prio,seq,usec,flags;device-mapper: table: 253:0: livechain: Sentence (-EINVAL)\n KEY=..."
 * The constructor's sentence weighs most; what the ioctl layer adds, least.
 */
const char *kmsg_parse(char *record, const char *hint, int *ret_weight)
{
	char *text = strchr(record, ';');
	const char *s;

	if (!text)
		return NULL;
	text++;
	text[strcspn(text, "\n")] = '\0';
	s = strstr(text, DM_LOG_PREFIX);
	if (!s)
		return NULL;
	s += strlen(DM_LOG_PREFIX);
	*ret_weight = 2;
	if (strncmp(s, "ioctl: ", 7) == 0) {
		*ret_weight = 1;
		return s + 7;
	}
	if (strncmp(s, "table: ", 7) == 0)
		s = skip_devno(s + 7);
	if (strncmp(s, "livechain: ", 11) == 0)
		s += 11;
	if (hint && *hint && strstr(text, hint))
		*ret_weight = 3;
	return s;
}

const char *kmsg_reason(int mark, const char *hint, char *buf, size_t len)
{
	char record[4096];
	int best = 0;

	buf[0] = '\0';
	while (mark >= 0) {
		ssize_t n = read(mark, record, sizeof(record) - 1);
		const char *s;
		int weight;

		if (n < 0 && (errno == EPIPE || errno == EINTR))
			continue; /* EPIPE: records were overwritten meanwhile */
		if (n <= 0)
			break;
		record[n] = '\0';
		s = kmsg_parse(record, hint, &weight);
		if (!s || weight < best)
			continue;
		best = weight;
		snprintf(buf, len, "%s", s);
	}
	return buf;
}
