// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blockdev-create: a new image as a job. It has no BLOCK_JOB_* events and stays until it is
 * dismissed, as in QEMU. What is wrong with the options is the job's error, not the command's.
 *
 * The work is short (metadata only, or one fallocate), so it is done within the command.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../block/probe.h"
#include "../lib/fault.h"
#include "blockdev.h"
#include "ctl.h"
#include "export.h"
#include "image-create.h"
#include "job.h"
#include "state.h"

static int create_clean(struct job *j, struct err *e)
{
	(void)j;
	(void)e;
	return 0;
}

const struct job_type create_job = { .name = "create", .clean = create_clean };

/* --- driver file --- */

static int preallocate(int fd, const char *mode, uint64_t size, struct err *e)
{
	if (streq(mode, "off") || (!size && !streq(mode, "metadata")))
		return ftruncate(fd, (off_t)size) ? -errno : 0;
	if (streq(mode, "falloc") || streq(mode, "full"))
		return -posix_fallocate(fd, 0, (off_t)size);
	return err_set(e, EOPNOTSUPP, "Unsupported preallocation mode: %s", mode);
}

static int create_file(struct json *o, struct err *e)
{
	const char *path, *mode = "off";
	_cleanup_close_ int fd = -1;
	uint64_t size;
	struct stat st;
	int r;

	if ((r = json_need_str(o, "filename", &path, e)) || (r = json_need_u64(o, "size", &size, e)) ||
	    (r = json_opt_str(o, "preallocation", &mode, e)))
		return r;
	if (size > INT64_MAX)
		return err_set(e, EFBIG, "Could not resize file: %s", strerror(EFBIG));
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
	if (fd < 0 || fstat(fd, &st))
		return err_set(e, errno, "Could not create '%s': %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "Could not create '%s': it is no regular file", path);
	if (st.st_size && st.st_blocks)
		return err_set(e, EEXIST,
			       "Could not create '%s': it exists and is not empty; remove it first",
			       path);
	r = preallocate(fd, mode, (size + 511) & ~511ULL, e);
	if (!r && fsync(fd))
		r = -errno;
	FAULT_POINT("create", path);
	return r ? err_set(e, -r, "Could not resize file: %s", strerror(-r)) : 0;
}

/* --- driver qcow2 --- */

static int only(struct json *o, const char *key, const char *why, struct err *e)
{
	return json_get(o, key) ? err_set(e, EOPNOTSUPP, "Parameter '%s' is not supported: %s", key,
					  why) : 0;
}

static int check_features(struct json *o, struct err *e)
{
	const char *prealloc = "off", *compression = "zlib", *version = "v3";
	bool l2 = false, lazy = false;
	int r;

	if ((r = json_opt_str(o, "preallocation", &prealloc, e)) ||
	    (r = json_opt_str(o, "compression-type", &compression, e)) ||
	    (r = json_opt_str(o, "version", &version, e)) ||
	    (r = json_opt_bool(o, "extended-l2", &l2, e)) ||
	    (r = json_opt_bool(o, "lazy-refcounts", &lazy, e)) ||
	    (r = only(o, "data-file", "images with an external data file can't be used here", e)))
		return r;
	if (lazy && streq(version, "v2"))
		return err_set(e, EINVAL,
			       "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)");
	if (lazy || l2)
		return err_set(e, EOPNOTSUPP, "Parameter '%s' is not supported, only false",
			       lazy ? "lazy-refcounts" : "extended-l2");
	if (!streq(prealloc, "off"))
		return err_set(e, EOPNOTSUPP, "Unsupported preallocation mode: %s", prealloc);
	if (!streq(compression, "zlib"))
		return err_set(e, EOPNOTSUPP,
			       "Parameter 'compression-type': '%s' is not supported, only 'zlib'",
			       compression);
	return 0;
}

static bool is_power(uint64_t v)
{
	return v && !(v & (v - 1));
}

static int parse_sizes(struct json *o, struct qcow2_create_opts *c, struct err *e)
{
	uint64_t cluster = 65536;
	int64_t bits = 16;
	int r;

	if ((r = json_need_u64(o, "size", &c->size, e)) ||
	    (r = json_opt_u64(o, "cluster-size", &cluster, e)) ||
	    (r = json_opt_int(o, "refcount-bits", &bits, e)))
		return r;
	if (c->size % 512)
		return err_set(e, EINVAL, "Image size must be a multiple of 512 bytes");
	if (c->size > INT64_MAX)
		return err_set(e, EINVAL, "Could not resize image: Image size cannot be negative");
	if (!is_power(cluster) || cluster < 512 || cluster > 2048 << 10)
		return err_set(e, EINVAL, "Cluster size must be a power of two between 512 and 2048k");
	if (cluster < 1 << QCOW2_MIN_CLUSTER_BITS)
		return err_set(e, EOPNOTSUPP, "Cluster size must be at least 4k here");
	if (bits < 0 || bits > 64 || !is_power((uint64_t)bits))
		return err_set(e, EINVAL,
			       "Refcount width must be a power of two and may not exceed 64 bits");
	if (bits != 16 && c->version == 2)
		return err_set(e, EINVAL,
			       "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)");
	c->cluster_bits = (uint32_t)__builtin_ctzll(cluster);
	c->refcount_bits = (uint32_t)bits;
	return 0;
}

static int parse_qcow2(struct json *o, struct qcow2_create_opts *c, struct err *e)
{
	const char *version = "v3";
	int r;

	if ((r = json_opt_str(o, "version", &version, e)) ||
	    (r = json_opt_str(o, "backing-file", &c->backing_file, e)) ||
	    (r = json_opt_str(o, "backing-fmt", &c->backing_format, e)))
		return r;
	c->version = streq(version, "v2") ? 2 : 3;
	r = parse_sizes(o, c, e);
	if (!r)
		r = check_features(o, e);
	if (r)
		return r;
	if (c->backing_format && !c->backing_file)
		return err_set(e, EINVAL, "Backing format cannot be used without backing file");
	if (c->backing_file && !c->backing_format)
		return err_set(e, EINVAL,
			       "Parameter 'backing-fmt' is missing: formats are not guessed when the image is opened");
	return 0;
}

/* A node that is there, or one for the time of the job. */
static int file_node(struct json *ref, struct node **ret, bool *opened, struct err *e)
{
	struct node_open_flags flags = { 0 };
	const char *driver, *filename;
	int r;

	*opened = false;
	if (json_str_of(ref))
		return node_child(ref, false, ret, e);
	if ((r = json_need_str(ref, "driver", &driver, e)))
		return r;
	if (!streq(driver, "file") && !streq(driver, "host_device"))
		return err_set(e, EINVAL, "'file' must be a file or host_device node");
	if ((r = json_need_str(ref, "filename", &filename, e)))
		return r;
	*opened = true;
	return node_file_open(streq(driver, "file") ? NODE_FILE : NODE_HOST_DEVICE, filename, NULL,
			      false, flags, ret, e);
}

static int check_file_node(struct node *p, struct err *e)
{
	if (!node_is_protocol(p))
		return err_set(e, EINVAL, "Node '%s' is a %s node: 'file' must be a file or host_device node",
			       p->name, node_driver_name(p->driver));
	if (p->read_only)
		return err_set(e, EACCES, "Block node '%s' is read-only", p->name);
	return node_check_free(p, e);
}

static int format_node(struct node *p, const struct qcow2_create_opts *c, struct err *e)
{
	struct image_lock want = { IMAGE_LOCK_ACTIVE_PERM, IMAGE_LOCK_UNSHARED };
	_cleanup_qio_ struct qio *io = NULL;
	int r;

	r = image_lock_change(p->fd, p->filename, &p->lock, want, e);
	if (r)
		return r;
	r = qio_file_new(p->fd, p->filename, &io, e);
	if (!r && !qcow2_is_unfinished(io) && !image_is_same(io, c)) /* it may be given again */
		r = probe_refuse_used(p->fd, p->filename, e);
	if (!r)
		r = qcow2_create(io, c, e);
	image_unlock(p->fd, &p->lock);
	return r;
}

static int create_qcow2(struct json *o, struct err *e)
{
	struct qcow2_create_opts c = { 0 };
	struct node *p = NULL;
	bool opened;
	int r;

	r = file_node(json_get(o, "file"), &p, &opened, e);
	if (r)
		return r;
	r = check_file_node(p, e);
	if (!r)
		r = parse_qcow2(o, &c, e);
	if (!r)
		r = format_node(p, &c, e);
	if (opened)
		node_put(p);
	return r;
}

/* --- the command --- */

static void run(struct job *j, struct json *options, bool qcow2)
{
	struct err e = ERR_INIT;
	int r;

	job_set_status(j, JOB_RUNNING);
	r = qcow2 ? create_qcow2(options, &e) : create_file(options, &e);
	core_lock();
	j->offset = j->len;
	if (r)
		j->error = xstrdup(e.msg[0] ? e.msg : strerror(-r));
	core_unlock();
	if (r)
		job_fail(j);
	else
		job_succeed(j);
}

static int create(struct json *args, struct json **ret, struct err *e)
{
	const char *id, *driver;
	struct json *options;
	struct job *j;
	int r;

	(void)ret;
	if ((r = json_need_str(args, "job-id", &id, e)) ||
	    (r = json_need_obj(args, "options", &options, e)) ||
	    (r = json_need_str(options, "driver", &driver, e)))
		return r;
	if (!streq(driver, "qcow2") && !streq(driver, "file"))
		return err_set(e, EOPNOTSUPP, "Driver does not support blockdev-create");
	r = job_check_id(id, NULL, &id, e);
	if (r)
		return r;
	j = job_new(id, &create_job, true, false, 0);
	j->len = 1;
	event_post("JOB_STATUS_CHANGE", json_pack("{s:s, s:s}", "status", "created", "id", j->id));
	run(j, options, streq(driver, "qcow2"));
	return state_save(e);
}

static void cmd_create(struct qmp_call *call)
{
	ctl_command(call, create);
}

static const char *const prealloc_values[] = { "off", "metadata", "falloc", "full", NULL };
static const char *const version_values[] = { "v2", "v3", NULL };
static const char *const compression_values[] = { "zlib", "zstd", NULL };
static const struct qapi_type prealloc = QAPI_ENUM("PreallocMode", prealloc_values);
static const struct qapi_type version = QAPI_ENUM("BlockdevQcow2Version", version_values);
static const struct qapi_type compression = QAPI_ENUM("Qcow2CompressionType", compression_values);

static const struct qapi_member file_members[] = {
	{ "filename", &qapi_str, 0, NULL },
	{ "size", &qapi_size, 0, NULL },
	{ "preallocation", &prealloc, QAPI_OPT, NULL },
	{ "nocow", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_member qcow2_members[] = {
	{ "file", &blockdev_ref, 0, NULL },
	{ "data-file", &blockdev_ref, QAPI_OPT, NULL },
	{ "data-file-raw", &qapi_bool, QAPI_OPT, NULL },
	{ "extended-l2", &qapi_bool, QAPI_OPT, NULL },
	{ "size", &qapi_size, 0, NULL },
	{ "version", &version, QAPI_OPT, NULL },
	{ "backing-file", &qapi_str, QAPI_OPT, NULL },
	{ "backing-fmt", &blockdev_driver, QAPI_OPT, NULL },
	{ "cluster-size", &qapi_size, QAPI_OPT, NULL },
	{ "preallocation", &prealloc, QAPI_OPT, NULL },
	{ "lazy-refcounts", &qapi_bool, QAPI_OPT, NULL },
	{ "refcount-bits", &qapi_int, QAPI_OPT, NULL },
	{ "compression-type", &compression, QAPI_OPT, NULL },
	{ 0 },
};
static const struct qapi_type file_options =
	QAPI_STRUCT("BlockdevCreateOptionsFile", file_members);
static const struct qapi_type qcow2_options =
	QAPI_STRUCT("BlockdevCreateOptionsQcow2", qcow2_members);
static const struct qapi_branch create_branches[] = {
	{ "file", &file_options },
	{ "qcow2", &qcow2_options },
	{ 0 },
};
static const struct qapi_member driver_members[] = { { "driver", &blockdev_driver, 0, NULL }, { 0 } };
static const struct qapi_type create_options =
	QAPI_UNION("BlockdevCreateOptions", driver_members, "driver", create_branches);
static const struct qapi_member create_members[] = {
	{ "job-id", &qapi_str, 0, NULL },
	{ "options", &create_options, 0, NULL },
	{ 0 },
};

const struct qmp_command create_commands[] = {
	{ .name = "blockdev-create", .handler = cmd_create, .args = create_members },
	{ 0 },
};
