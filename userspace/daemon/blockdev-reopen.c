// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blockdev-reopen: nodes become writable or read-only, images of no disk get another backing node
 * or none. All else has to be as it is. All of the list is checked before anything is done; what
 * fails after that is undone.
 */
#include <errno.h>
#include <sys/stat.h>

#include "blockdev.h"
#include "ctl.h"
#include "node.h"
#include "state.h"

struct change {
	struct node *node;
	bool read_only;
	bool new_backing;
	struct node *backing; /* with @new_backing: NULL is none */
	/* For the undoing. */
	struct node *old_backing;
	bool old_read_only, turned, attached;
};

static int cannot_change(const char *option, struct err *e)
{
	return err_set(e, EINVAL, "Cannot change the option '%s'", option);
}

static bool same_file(const struct node *n, const char *filename)
{
	const struct node *p = node_protocol((struct node *)n);
	struct stat st;

	return !stat(filename, &st) && st.st_dev == p->dev && st.st_ino == p->ino;
}

/* Options that QEMU does not change either; those of no effect are not looked at. */
static int check_fixed(struct json *opts, struct err *e)
{
	const char *aio = "threads", *locking = "auto";
	bool share = false;
	int r;

	if ((r = json_opt_str(opts, "aio", &aio, e)) ||
	    (r = json_opt_str(opts, "locking", &locking, e)) ||
	    (r = json_opt_bool(opts, "force-share", &share, e)))
		return r;
	if (!streq(aio, "threads"))
		return cannot_change("aio", e);
	if (streq(locking, "off"))
		return cannot_change("locking", e);
	return share ? cannot_change("force-share", e) : 0;
}

/* What the options say of @n itself is what it is. */
static int check_same(const struct node *n, struct json *opts, struct err *e)
{
	const char *driver, *name = NULL, *filename = NULL;
	int r = check_fixed(opts, e);

	if (r || (r = json_need_str(opts, "driver", &driver, e)) ||
	    (r = json_opt_str(opts, "node-name", &name, e)) ||
	    (r = json_opt_str(opts, "filename", &filename, e)) || (r = node_check_options(opts, e)))
		return r;
	if (!streq(driver, node_driver_name(n->driver)))
		return cannot_change("driver", e);
	if (name && !streq(name, n->name))
		return cannot_change("node-name", e);
	if (filename && !same_file(n, filename))
		return cannot_change("filename", e);
	return 0;
}

static int check_file(const struct node *n, struct json *opts, struct err *e)
{
	struct json *file = json_get(opts, "file");
	const char *name = json_str_of(file);

	if (!file || node_is_filter(n))
		return 0;
	if (!name)
		return check_same(n->file, file, e);
	if (!node_find(name))
		return err_set(e, ENOENT, "Cannot find device='' nor node-name='%s'", name);
	return streq(name, n->file->name) ? 0 : cannot_change("file", e);
}

/* Options in place of a name: of the backing node that is there, which stays as it is. */
static int check_backing_options(const struct node *n, struct json *opts, struct err *e)
{
	const struct node *b = n->backing;
	struct json *below = json_get(opts, "backing");
	int r;

	if (!b)
		return cannot_change("backing.driver", e);
	r = check_same(b, opts, e);
	if (!r)
		r = check_file(b, opts, e);
	if (!r && below && !json_is_null(below) && !json_str_of(below))
		r = check_backing_options(b, below, e);
	return r;
}

static int cycle(const struct change *c, struct err *e)
{
	return err_set(e, EINVAL, "Making '%s' a backing child of '%s' would create a cycle",
		       c->backing->name, c->node->name);
}

static int check_backing(struct change *c, struct json *opts, struct err *e)
{
	struct json *val = json_get(opts, "backing");
	struct node *n = c->node;
	const char *name;

	if (n->driver != NODE_QCOW2 || (!val && !n->backing))
		return 0;
	if (!val)
		return err_set(e, EINVAL, "backing is missing for '%s'", n->name);
	name = json_str_of(val);
	if (!name && !json_is_null(val))
		return check_backing_options(n, val, e);
	if (name && !(c->backing = node_find(name)))
		return err_set(e, ENOENT, "Cannot find device='' nor node-name='%s'", name);
	c->new_backing = c->backing != n->backing;
	if (c->new_backing && n->job)
		return node_check_free(n, e);
	if (c->new_backing && (n->users || n->parents))
		return c->backing && node_chain_has(c->backing, n)
			       ? cycle(c, e)
			       : err_set(e, EBUSY,
					 "Node '%s' is in use: its backing node stays; block-stream, block-commit and snapshots change a chain in use",
					 n->name);
	return 0;
}

static int check(struct change *c, struct json *opts, struct err *e)
{
	const char *name = NULL;
	int r = json_opt_str(opts, "node-name", &name, e);

	if (r)
		return r;
	if (!name)
		return err_set(e, EINVAL, "node-name not specified");
	c->node = node_find(name);
	if (!c->node)
		return err_set(e, ENOENT, "Failed to find node with node-name='%s'", name);
	if ((r = check_same(c->node, opts, e)) || (r = check_file(c->node, opts, e)) ||
	    (r = json_opt_bool(opts, "read-only", &c->read_only, e)))
		return r;
	c->old_read_only = c->node->read_only;
	c->old_backing = c->node->backing;
	return check_backing(c, opts, e);
}

/* ---- doing ---------------------------------------------------------------------------------- */

static int make_writable(struct node *n, struct err *e)
{
	int r = node_check_valid(n, e);

	if (!r)
		r = node_make_writable(n, e);
	if (!r && !n->parents && !n->users)
		node_stay_writable(n);
	return r;
}

static int make_read_only(struct node *n, struct err *e)
{
	if (n->users && !n->parents)
		return err_set(e, EBUSY,
			       "Cannot make block node read-only, there is a writer on it");
	return node_protocol(n)->reopened ? node_return(n, e) : node_make_read_only(n, e);
}

static int turn(struct change *c, bool read_only, struct err *e)
{
	struct node *n = c->node;
	int r;

	/* Files are opened by what is above them; a filter is what its file is. */
	if (n->read_only == read_only || node_is_protocol(n) || node_is_filter(n))
		return 0;
	if (n->job)
		return node_check_free(n, e);
	r = read_only ? make_read_only(n, e) : make_writable(n, e);
	c->turned |= !r;
	return r;
}

static int attach(struct change *c, struct node *backing, struct err *e)
{
	int r = 0;

	if (c->old_backing) { /* it is to be there still for an undoing */
		core_lock();
		c->old_backing->users++;
		core_unlock();
	}
	if (!backing)
		node_set_backing(c->node, NULL);
	else
		r = node_attach_backing(c->node, backing, e);
	c->attached = !r;
	if (c->old_backing) {
		core_lock();
		c->old_backing->users--;
		core_unlock();
	}
	return r;
}

/* Before anything is attached, so that two nodes can change places. */
static int detach(struct change *c, struct err *e)
{
	return c->new_backing && c->old_backing ? attach(c, NULL, e) : 0;
}

static int apply(struct change *c, struct err *e)
{
	int r = c->read_only ? 0 : turn(c, false, e);

	if (!r && c->new_backing && c->backing && node_chain_has(c->backing, c->node))
		r = cycle(c, e);
	if (!r && c->new_backing && c->backing)
		r = attach(c, c->backing, e);
	if (!r && c->read_only)
		r = turn(c, true, e);
	return r;
}

static void revert(struct change *c)
{
	if (c->turned)
		(void)turn(c, c->old_read_only, NULL);
	if (c->attached && c->node->backing != c->old_backing)
		node_set_backing(c->node, c->old_backing);
}

static int reopen_all(struct change *all, size_t n, struct json *list, struct err *e)
{
	size_t done = 0;
	int r = 0;

	for (size_t i = 0; i < n && !r; i++)
		r = check(&all[i], json_at(list, i), e);
	for (size_t i = 0; i < n && !r; i++)
		r = detach(&all[i], e);
	while (!r && done < n)
		r = apply(&all[done++], e);
	for (size_t i = n; r && i-- > 0;)
		revert(&all[i]);
	return r;
}

static int blockdev_reopen(struct json *args, struct json **ret, struct err *e)
{
	struct json *list = json_get(args, "options");
	size_t n = json_len(list);
	_cleanup_free_ struct change *all = xcalloc(n ? n : 1, sizeof(*all));
	int r = reopen_all(all, n, list, e);

	(void)ret;
	for (size_t i = 0; i < n && !r; i++) {
		if (all[i].attached && all[i].old_backing)
			node_put(all[i].old_backing);
	}
	return r ? r : state_save(e);
}

static void cmd_reopen(struct qmp_call *call)
{
	ctl_command(call, blockdev_reopen);
}

static const struct qapi_type options_list = QAPI_ARRAY(&blockdev_options);
static const struct qapi_member reopen_members[] = {
	{ "options", &options_list, 0, NULL },
	{ 0 },
};

const struct qmp_command reopen_commands[] = {
	{ .name = "blockdev-reopen", .handler = cmd_reopen, .args = reopen_members },
	{ 0 },
};
