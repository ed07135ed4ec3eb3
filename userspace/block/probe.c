// SPDX-License-Identifier: GPL-2.0-or-later
#include <blkid/blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/probe.h"
#include "lib/cleanup.h"

#define QCOW2_MAGIC "QFI\xfb"

static void free_probep(blkid_probe *pr)
{
	blkid_free_probe(*pr);
}

static enum probe_kind kind_of_usage(const char *usage)
{
	if (!strcmp(usage, "filesystem"))
		return PROBE_FILESYSTEM;
	if (!strcmp(usage, "raid"))
		return PROBE_RAID;
	if (!strcmp(usage, "crypto"))
		return PROBE_CRYPTO;
	return PROBE_OTHER;
}

static void copy_value(blkid_probe pr, const char *key, char *buf, size_t len)
{
	const char *v;

	if (blkid_probe_lookup_value(pr, key, &v, NULL) == 0)
		snprintf(buf, len, "%s", v);
}

static void read_values(blkid_probe pr, struct probe_result *ret)
{
	char usage[32] = "";

	copy_value(pr, "USAGE", usage, sizeof(usage));
	copy_value(pr, "TYPE", ret->type, sizeof(ret->type));
	copy_value(pr, "LABEL", ret->label, sizeof(ret->label));
	if (ret->type[0]) {
		ret->kind = kind_of_usage(usage);
		return;
	}
	copy_value(pr, "PTTYPE", ret->type, sizeof(ret->type));
	ret->kind = ret->type[0] ? PROBE_PARTITIONS : PROBE_OTHER;
}

/* What libblkid does not know. */
static bool probe_image(int fd, struct probe_result *ret)
{
	char magic[4];

	if (pread(fd, magic, sizeof(magic), 0) != sizeof(magic) ||
	    memcmp(magic, QCOW2_MAGIC, sizeof(magic)))
		return false;
	ret->kind = PROBE_IMAGE;
	snprintf(ret->type, sizeof(ret->type), "qcow2");
	return true;
}

static int run_probe(blkid_probe pr, struct probe_result *ret)
{
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE |
						      BLKID_SUBLKS_LABEL | BLKID_SUBLKS_BADCSUM);
	blkid_probe_enable_partitions(pr, 1);
	blkid_probe_set_partitions_flags(pr, BLKID_PARTS_FORCE_GPT);
	errno = 0;
	switch (blkid_do_safeprobe(pr)) {
	case 0:
		read_values(pr, ret);
		return 0;
	case 1:
		return 0;
	case -2:
		ret->kind = PROBE_SEVERAL;
		return 0;
	default:
		return -(errno ? errno : EIO);
	}
}

/* libblkid reads as it likes, which a descriptor for direct I/O refuses. */
static int reopen_buffered(int fd)
{
	char self[40];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return open(self, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

int probe_signature(int direct_fd, const char *path, struct probe_result *ret, struct err *e)
{
	_cleanup_(free_probep) blkid_probe pr = blkid_new_probe();
	_cleanup_close_ int fd = reopen_buffered(direct_fd);
	struct probe_result res = { PROBE_NOTHING, "", "" };
	struct stat st;
	int r;

	if (!pr)
		return err_set(e, ENOMEM, "no memory to look at '%s'", path);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(e, errno, "cannot look at '%s': %s", path, strerror(errno));
	/* libblkid refuses what is too small to hold anything. */
	if (S_ISREG(st.st_mode) && st.st_size < 512) {
		probe_image(fd, &res);
		*ret = res;
		return 0;
	}
	errno = 0;
	if (blkid_probe_set_device(pr, fd, 0, 0))
		return err_set(e, errno ? errno : EIO, "cannot look at '%s': %s", path,
			       strerror(errno ? errno : EIO));
	if (!probe_image(fd, &res)) {
		r = run_probe(pr, &res);
		if (r)
			return err_set(e, -r, "cannot see what is on '%s': %s", path, strerror(-r));
	}
	*ret = res;
	return 0;
}

const char *probe_describe(const struct probe_result *r, char *buf, unsigned len)
{
	static const char *const what[] = {
		[PROBE_NOTHING] = "nothing known",
		[PROBE_FILESYSTEM] = "a file system",
		[PROBE_RAID] = "a member of a RAID or volume group",
		[PROBE_CRYPTO] = "an encrypted volume",
		[PROBE_PARTITIONS] = "a partition table",
		[PROBE_IMAGE] = "a disk image",
		[PROBE_OTHER] = "a known signature",
		[PROBE_SEVERAL] = "signatures of several kinds",
	};

	if (!r->type[0])
		snprintf(buf, len, "%s", what[r->kind]);
	else if (r->label[0])
		snprintf(buf, len, "%s (%s, label '%s')", what[r->kind], r->type, r->label);
	else
		snprintf(buf, len, "%s (%s)", what[r->kind], r->type);
	return buf;
}

/* wipefs knows what libblkid knows. */
static int refuse_image(const char *path, const char *what, struct err *e)
{
	return err_set(
		e, EEXIST,
		"'%s' has %s on it: refusing to overwrite it; blank its first sector first (dd if=/dev/zero of='%s' bs=512 count=1 conv=notrunc) or ask for it with force",
		path, what, path);
}

int probe_refuse_used(int fd, const char *path, struct err *e)
{
	struct probe_result res;
	char what[160];
	int r;

	r = probe_signature(fd, path, &res, e);
	if (r)
		return r;
	if (res.kind == PROBE_NOTHING)
		return 0;
	probe_describe(&res, what, sizeof(what));
	if (res.kind == PROBE_IMAGE)
		return refuse_image(path, what, e);
	return err_set(
		e, EEXIST,
		"'%s' has %s on it: refusing to overwrite it; wipe it first (wipefs -a '%s') or ask for it with force",
		path, what, path);
}
