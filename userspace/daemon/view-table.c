// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tables of views. Others may suspend and resume a disk by hand at any moment, and of two resumes
 * at once one may take the new table and throw it away, since the other has made the device live
 * already; so it is looked at whether a new table is the live one. What needs a device that
 * stands still may find that it does not. Either is tried again.
 */
#include <errno.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "../../include/uapi/linux/dm-livechain.h"
#include "../lib/log.h"
#include "ctl.h"
#include "view.h"

#define TRIES_MAX 50

/* As the kernel prints it: without the number of options, of which there are none. */
static void print_table(const struct view *v, struct strbuf *s)
{
	strbuf_addf(s, "%s %u ", v->kname, v->block);
	if (v->active == VIEW_NONE)
		strbuf_adds(s, "-");
	else
		strbuf_addf(s, "%d", v->active);
	strbuf_addf(s, " %u", v->nr_layers);
	for (unsigned i = 0; i < v->nr_layers; i++)
		strbuf_addf(s, " %d %u:%u 0", v->layers[i].id, major(v->layers[i].devno),
			    minor(v->layers[i].devno));
}

int view_make_table(const struct view *v, struct dm_table *ret, struct err *e)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	int r;

	print_table(v, &s);
	strbuf_adds(&s, " 0");
	r = dm_table_set(ret, v->sectors, LIVECHAIN_TARGET_NAME, strbuf_str(&s));
	return r ? err_set(e, -r, "Can't make a table for '%s'", v->dm) : 0;
}

int view_load_table_into(struct view *v, const char *dm, struct err *e)
{
	_cleanup_dm_table_ struct dm_table t = { 0 };
	int r = view_make_table(v, &t, e);

	return r ? r : dm_load(dm, &t, !v->writable, e);
}

int view_load_table(struct view *v, struct err *e)
{
	return view_load_table_into(v, v->dm, e);
}

int view_check_table(struct view *v, struct err *e)
{
	_cleanup_strbuf_ struct strbuf s = STRBUF_INIT;
	_cleanup_dm_table_ struct dm_table t = { 0 };
	int r = dm_live_table(v->dm, &t, e);

	if (r)
		return r;
	print_table(v, &s);
	if (t.params && streq(t.params, strbuf_str(&s)))
		return 0;
	return err_set(e, ESTALE, "'%s' was resumed by somebody else, and its new table is lost", v->dm);
}

int view_disturbed(struct view *v, int r, struct err *e)
{
	if (r != -EINVAL) /* what the kernel says of two at once */
		return r;
	err_clear(e);
	return err_set(e, ESTALE, "'%s' is suspended and resumed by somebody else", v->dm);
}

bool view_try_again(int r, unsigned *tries)
{
	struct timespec nap = { 0, ++*tries * 100000 };

	/* -EPERM: the kernel's, a device that should be suspended is not any more */
	if ((r != -ESTALE && r != -EPERM) || *tries >= TRIES_MAX)
		return false;
	nanosleep(&nap, NULL);
	return true;
}

static int reload_once(struct view *v, struct err *e)
{
	int r = view_load_table(v, e);

	if (r)
		return r;
	r = view_suspend(v, e);
	if (!r)
		r = view_resume(v, e);
	if (!r)
		return view_check_table(v, e);
	/* back to the table that is live still */
	(void)dm_clear(v->dm, NULL);
	(void)view_resume(v, NULL);
	return r;
}

int view_reload(struct view *v, struct err *e)
{
	struct err one = ERR_INIT;
	unsigned tries = 0;
	int r;

	do {
		err_clear(&one);
		r = reload_once(v, &one);
	} while (view_try_again(r, &tries));
	v->stale = v->stale && r;
	return r ? err_set(e, one.code, "%s", one.msg) : 0;
}
