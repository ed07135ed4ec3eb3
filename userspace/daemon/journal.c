// SPDX-License-Identifier: GPL-2.0-or-later
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "../lib/fault.h"
#include "../lib/log.h"
#include "../lib/util.h"
#include "journal.h"

#define JOURNAL_MAX (2 * PATH_MAX)

static char *journal_dir;

/* A journal that was being written when an earlier daemon died: nothing was granted yet. */
static void drop_unfinished(const char *name)
{
	size_t len = strlen(name), suffix = strlen(UTIL_NEW_SUFFIX);
	_cleanup_free_ char *path = path_join(journal_dir, name);

	if (len > suffix && streq(name + len - suffix, UTIL_NEW_SUFFIX) && unlink(path))
		log_warn("cannot remove '%s': %s", path, strerror(errno));
}

void journal_init(const char *state_dir)
{
	struct dirent *de;
	DIR *d;

	free(journal_dir);
	journal_dir = path_join(state_dir, "grants");
	d = opendir(journal_dir);
	while (d && (de = readdir(d)))
		drop_unfinished(de->d_name);
	if (d)
		closedir(d);
}

/* The image's path in the journal @name; NULL: it can't be read, or is none. */
static char *image_of(const char *name)
{
	_cleanup_free_ char *path = path_join(journal_dir, name), *text = NULL;
	size_t len;

	if (name[0] == '.' || read_file(path, JOURNAL_MAX, &text, &len, NULL))
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	return xstrdup(text);
}

void journal_each(void (*fn)(const char *image))
{
	struct dirent **names = NULL;
	int n = scandir(journal_dir, &names, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *image = image_of(names[i]->d_name);

		if (image)
			fn(image);
		free(names[i]);
	}
	free(names);
}

/* FNV-1a of the image's path: a name for its journal. The path itself is inside. */
static char *journal_path(const char *image)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	for (const unsigned char *p = (const unsigned char *)image; *p; p++)
		h = (h ^ *p) * 0x100000001b3ULL;
	return xasprintf("%s/%016llx", journal_dir, (unsigned long long)h);
}

int journal_open(const char *image, struct err *e)
{
	_cleanup_free_ char *path = journal_path(image);
	_cleanup_free_ char *text = xasprintf("%s\n", image);
	int r;

	if (!access(path, F_OK))
		return 0;
	r = path_mkdirs(journal_dir, 0700, e);
	return r ? r : write_file_durably(path, text, strlen(text), 0600, e);
}

void journal_close(const char *image)
{
	_cleanup_free_ char *path = journal_path(image);

	if (!unlink(path))
		FAULT_POINT("remove the journal of", image);
	else if (errno != ENOENT)
		log_warn("cannot remove the journal '%s' of '%s': %s", path, image, strerror(errno));
}

int journal_recover(const char *image, struct qcow2 *img, struct err *e)
{
	_cleanup_free_ char *path = journal_path(image);
	const struct qcow2_range all = { 0, UINT64_MAX };
	uint64_t freed = 0;
	int r;

	if (access(path, F_OK))
		return 0;
	r = qcow2_reclaim(img, &all, 1, 0, &freed, e);
	if (r)
		return r;
	if (freed)
		log_notice("'%s': took back %llu bytes that a crash had left allocated", image,
			   (unsigned long long)freed);
	journal_close(image);
	return 0;
}
