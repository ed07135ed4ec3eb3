// SPDX-License-Identifier: GPL-2.0-or-later
/* blockdev-add: options to nodes, and the backing chain that a header names. */
#include <errno.h>
#include <libgen.h>
#include <sys/stat.h>

#include "ctl.h"
#include "fleece.h"
#include "node.h"

static int add(struct json *opts, bool root, bool child_ro, struct node **ret, struct err *e);

int node_check_options(struct json *opts, struct err *e)
{
	const char *s = NULL;
	bool b = false;
	int r;

	if ((r = json_opt_str(opts, "detect-zeroes", &s, e)))
		return r;
	if (s && !streq(s, "off"))
		return err_set(e, EOPNOTSUPP,
			       "Parameter 'detect-zeroes': '%s' is not supported, only 'off'", s);
	if ((r = json_opt_bool(opts, "cache.no-flush", &b, e)))
		return r;
	if (b)
		return err_set(e, EOPNOTSUPP,
			       "Parameter 'cache.no-flush': flushes can not be left out");
	if ((r = json_opt_bool(opts, "force-share", &b, e)))
		return r;
	if (b)
		return err_set(e, EOPNOTSUPP, "Parameter 'force-share' is not supported");
	s = NULL;
	if ((r = json_opt_str(opts, "locking", &s, e)))
		return r;
	if (s && streq(s, "off"))
		return err_set(e, EOPNOTSUPP,
			       "Parameter 'locking': images are always locked ('off' is not supported)");
	return 0;
}

/* A path as a header has it: never a protocol, relative to the image that names it. */
static int backing_path(const struct node *n, char **ret, struct err *e)
{
	const char *name = n->backing_name;
	_cleanup_free_ char *dir = path_dir(n->file->filename);

	if (str_has_prefix(name, "file:"))
		name += 5;
	else if (strchr(name, ':') && (!strchr(name, '/') || strchr(name, ':') < strchr(name, '/')))
		return err_set(e, EINVAL,
			       "Image '%s': backing file '%s' is not a plain path; give the 'backing' node explicitly",
			       n->file->filename, n->backing_name);
	*ret = path_join(dir, name);
	return 0;
}

static int backing_driver(const struct node *n, enum node_driver *ret, struct err *e)
{
	const char *fmt = n->info.backing_format;

	if (!fmt)
		return err_set(e, EINVAL,
			       "Image '%s' does not say the format of its backing file '%s'; formats are not guessed: record it with qemu-img rebase -u -F FORMAT -b %s %s, or give the 'backing' node explicitly",
			       n->file->filename, n->backing_name, n->backing_name,
			       n->file->filename);
	if (streq(fmt, "qcow2"))
		*ret = NODE_QCOW2;
	else if (streq(fmt, "raw") || streq(fmt, "file") || streq(fmt, "host_device"))
		*ret = NODE_RAW;
	else
		return err_set(e, EOPNOTSUPP,
			       "Image '%s': backing format '%s' is not supported (qcow2 and raw are)",
			       n->file->filename, fmt);
	return 0;
}

/* @top's chain so far must not contain the file of @n. */
static int check_loop(const struct node *top, const struct node *n, struct err *e)
{
	for (const struct node *m = top; m; m = m->backing) {
		if (m != n && m->file->dev == n->file->dev && m->file->ino == n->file->ino)
			return err_set(e, ELOOP,
				       "Image '%s' is its own backing file: the chain is a loop",
				       n->file->filename);
	}
	return 0;
}

/* The file may be in use by @top's chain: then a lock is in the way, but the loop is the reason. */
static int check_loop_path(const struct node *top, const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st))
		return 0;
	for (const struct node *m = top; m; m = m->backing) {
		if (m->file->dev == st.st_dev && m->file->ino == st.st_ino)
			return err_set(e, ELOOP,
				       "Image '%s' is its own backing file: the chain is a loop", path);
	}
	return 0;
}

/* Opens the chain that the headers name, below @top. */
int node_open_header_chain(struct node *top, struct err *e)
{
	unsigned depth = 1;
	int r;

	for (struct node *n = top; n->driver == NODE_QCOW2 && n->backing_name; n = n->backing) {
		_cleanup_free_ char *path = NULL;
		enum node_driver driver = NODE_RAW;
		struct node *b;

		if (++depth > NODE_DEPTH_MAX)
			return err_set(e, ELOOP, "The backing chain of '%s' is longer than %u images",
				       top->file->filename, NODE_DEPTH_MAX);
		r = backing_path(n, &path, e);
		if (!r)
			r = backing_driver(n, &driver, e);
		if (!r)
			r = check_loop_path(top, path, e);
		if (!r)
			r = node_open_image(driver, path, NULL, true, &b, e);
		if (r) {
			err_prefix(e, "Could not open backing file");
			return r;
		}
		node_set_backing(n, b);
	}
	return 0;
}

/* A reference (a string) or options (an object). */
int node_child(struct json *val, bool child_ro, struct node **ret, struct err *e)
{
	const char *name = json_str_of(val);

	if (!name)
		return add(val, false, child_ro, ret, e);
	*ret = node_find(name);
	if (!*ret)
		return err_set(e, ENOENT, "Cannot find device='%s' nor node-name='%s'", name, name);
	return 0;
}

int node_attach_backing(struct node *n, struct node *b, struct err *e)
{
	int r = node_as_image(&b, e);

	if (r)
		return r;
	if (node_is_filter(b))
		r = err_set(e, EINVAL,
			    "Node '%s' is a %s node: 'backing' must be a raw or qcow2 node",
			    b->name, node_driver_name(b->driver));
	else if (node_is_protocol(b))
		r = err_set(e, EINVAL, "Node '%s' is a protocol node: 'backing' must be a format node",
			    b->name);
	if (!r)
		r = check_loop(b, n, e);
	if (!r)
		r = node_check_backing(b, e);
	if (!r && b->users)
		r = err_set(e, EBUSY, "Node '%s' is busy: it is exported", b->name);
	if (!r && !b->read_only)
		r = node_make_read_only(b, e);
	if (!r)
		node_set_backing(n, b);
	return r;
}

static int open_backing(struct node *n, struct json *opts, struct err *e)
{
	struct json *val = json_get(opts, "backing");
	struct node *b;
	int r;

	if (json_is_null(val) || (json_str_of(val) && !*json_str_of(val)))
		return 0;
	if (!val)
		return node_open_header_chain(n, e);
	r = node_child(val, true, &b, e);
	if (r) {
		err_prefix(e, "Could not open backing file");
		return r;
	}
	r = node_attach_backing(n, b, e);
	if (r)
		node_put(b);
	return r;
}

static int add_format(enum node_driver driver, struct json *opts, const char *name, bool ro,
		      struct node **ret, struct err *e)
{
	struct json *val = json_get(opts, "file");
	struct node_open_flags flags = { 0 };
	struct node *file, *n;
	int r;

	if (!val)
		return err_set(e, EINVAL, "A block device must be specified for \"file\"");
	r = node_child(val, ro, &file, e);
	if (r)
		return r;
	/* Once more: the child may have taken the name. */
	r = name ? node_check_name(name, e) : 0;
	if (!r)
		r = node_format_open(driver, file, name, ro, flags, &n, e);
	if (r) {
		node_put(file);
		return r;
	}
	if (driver == NODE_QCOW2) {
		r = open_backing(n, opts, e);
		if (r) {
			node_put(n);
			return r;
		}
	}
	*ret = n;
	return 0;
}

static int add_protocol(enum node_driver driver, struct json *opts, const char *name, bool ro,
			struct node **ret, struct err *e)
{
	struct node_open_flags flags = { 0 };
	const char *filename;
	bool fall_back = false;
	int r;

	if ((r = json_need_str(opts, "filename", &filename, e)) ||
	    (r = json_opt_bool(opts, "auto-read-only", &fall_back, e)))
		return r;
	r = node_file_open(driver, filename, name, ro, flags, ret, e);
	if (ro || !fall_back || (r != -EROFS && r != -EACCES && r != -EPERM))
		return r;
	err_clear(e);
	return node_file_open(driver, filename, name, true, flags, ret, e);
}

static int driver_option(struct json *opts, enum node_driver *ret, struct err *e)
{
	const char *name;
	int r = json_need_str(opts, "driver", &name, e);

	if (r)
		return r;
	for (enum node_driver d = NODE_FILE; d <= NODE_ACCESS; d++) {
		if (streq(name, node_driver_name(d))) {
			*ret = d;
			return 0;
		}
	}
	return err_set(e, EINVAL, "Parameter 'driver' does not accept value '%s'", name);
}

/* @child_ro: what read-only is where @opts does not say: a child takes after its parent. */
static int add(struct json *opts, bool root, bool child_ro, struct node **ret, struct err *e)
{
	const char *name = NULL;
	enum node_driver driver = NODE_RAW;
	bool ro = child_ro;
	int r;

	if ((r = driver_option(opts, &driver, e)) ||
	    (r = json_opt_str(opts, "node-name", &name, e)) ||
	    (r = json_opt_bool(opts, "read-only", &ro, e)) || (r = node_check_options(opts, e)))
		return r;
	if (root && !name)
		return err_set(e, EINVAL, "'node-name' must be specified for the root node");
	if (name && (r = node_check_name(name, e)))
		return r;
	if (driver == NODE_CBW || driver == NODE_ACCESS)
		return fleece_add(driver, opts, name, ret, e);
	return driver == NODE_RAW || driver == NODE_QCOW2 ?
		       add_format(driver, opts, name, ro, ret, e) :
		       add_protocol(driver, opts, name, ro, ret, e);
}

int node_add(struct json *opts, struct node **ret, struct err *e)
{
	struct node *n;
	int r = add(opts, true, false, &n, e);

	if (r)
		return r;
	core_lock();
	n->monitor = true;
	core_unlock();
	*ret = n;
	return 0;
}
