// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/util.h"
#include "qcow2/qcow2.h"
#include "tool/invalid.h"

static bool is_qcow2(int fd)
{
	char magic[4];

	return pread(fd, magic, sizeof(magic), 0) == sizeof(magic) && !memcmp(magic, "QFI\xfb", 4);
}

/* An object for @path if the image there is marked, else NULL. */
static struct json *look_at(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	struct json *found = NULL;
	struct qcow2_info info;
	struct qcow2 *img = NULL;
	struct qio *io = NULL;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || !is_qcow2(fd) ||
	    qio_file_new(fd, path, &io, NULL))
		return NULL;
	if (!qcow2_open(io, 0, &img, NULL)) {
		qcow2_get_info(img, &info);
		if (info.invalid)
			found = json_pack("{s:s, s:s}", "filename", path, "reason", info.invalid);
	}
	qcow2_close(img);
	qio_free(io);
	return found;
}

static void look_into(const char *dir, struct json *found)
{
	_cleanup_(closedirp) DIR *d = opendir(dir);
	struct dirent *de;

	while (d && (de = readdir(d))) {
		_cleanup_free_ char *path = path_join(dir, de->d_name);
		struct json *one =
			de->d_type == DT_REG || de->d_type == DT_UNKNOWN ? look_at(path) : NULL;

		if (one)
			json_append(found, one);
	}
}

/* Does an image of the chain above @image lie in @dir? Then that has been looked into. */
static bool seen(const struct disk *d, const struct json *image, const char *dir)
{
	for (const struct json *i = d->image; i && i != image; i = json_get(i, "backing-image")) {
		const char *file = json_str_of(json_get(i, "filename"));
		_cleanup_free_ char *its = file ? path_dir(file) : NULL;

		if (its && streq(its, dir))
			return true;
	}
	return false;
}

struct json *invalid_images(const struct disk *d)
{
	struct json *found = json_arr();

	for (const struct json *i = d->image; i; i = json_get(i, "backing-image")) {
		const char *file = json_str_of(json_get(i, "filename"));
		_cleanup_free_ char *dir = file ? path_dir(file) : NULL;

		if (dir && !str_has_prefix(dir, "/dev") && !seen(d, i, dir))
			look_into(dir, found);
	}
	return found;
}
