// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <libkmod.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "block/dm.h"
#include "block/kmod.h"
#include "uapi/linux/dm-livechain.h"

#define MODULE	   "dm-livechain"
#define HOW_TO_GET "build it with 'make module' and load it with insmod, or install it with DKMS"

static void free_ctxp(struct kmod_ctx **ctx)
{
	if (*ctx)
		kmod_unref(*ctx);
}

static void free_modulep(struct kmod_module **mod)
{
	if (*mod)
		kmod_module_unref(*mod);
}

static void free_listp(struct kmod_list **list)
{
	kmod_module_unref_list(*list);
}

static void no_log(void *data, int priority, const char *file, int line, const char *fn,
		   const char *format, va_list args)
{
	(void)data;
	(void)priority;
	(void)file;
	(void)line;
	(void)fn;
	(void)format;
	(void)args;
}

static struct kmod_ctx *new_ctx(struct err *e)
{
	const char *config = NULL;
	struct kmod_ctx *ctx = kmod_new(NULL, &config);

	if (ctx)
		kmod_set_log_fn(ctx, no_log, NULL);
	else
		err_set(e, ENOMEM, "no memory to load kernel modules");
	return ctx;
}

static const char *release(void)
{
	static _Thread_local struct utsname u;

	return uname(&u) ? "unknown" : u.release;
}

static int load_error(int code, const char *what, struct err *e)
{
	switch (code) {
	case EPERM:
	case EACCES:
		return err_set(
			e, EPERM,
			"no permission to load the kernel module %s: root (CAP_SYS_MODULE) can",
			what);
	case ENOEXEC:
		return err_set(
			e, ENOEXEC,
			"the kernel module %s was built for another kernel than the running %s: build it again for this one",
			what, release());
	case EKEYREJECTED:
	case ENOKEY:
		return err_set(
			e, EKEYREJECTED,
			"the kernel refuses the module %s: it is not signed with a key that it trusts (Secure Boot: enrol the key with mokutil)",
			what);
	case ENOENT:
		return err_set(
			e, ENOENT,
			"the kernel module %s does not load: a symbol or a module that it needs is missing (see dmesg)",
			what);
	default:
		return err_set(e, code, "cannot load the kernel module %s: %s (see dmesg)", what,
			       strerror(code));
	}
}

static bool is_there(struct kmod_module *mod)
{
	int state = kmod_module_get_initstate(mod);

	return state == KMOD_MODULE_BUILTIN || state == KMOD_MODULE_LIVE;
}

static bool in_sysfs(const char *name)
{
	char path[160];
	char *p;

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	for (p = path; *p; p++)
		if (*p == '-')
			*p = '_';
	return access(path, F_OK) == 0;
}

int kmod_load(const char *name, struct err *e)
{
	_cleanup_(free_ctxp) struct kmod_ctx *ctx = NULL;
	_cleanup_(free_listp) struct kmod_list *list = NULL;
	struct kmod_list *i;
	int r;

	if (in_sysfs(name))
		return 0;
	ctx = new_ctx(e);
	if (!ctx)
		return -ENOMEM;
	r = kmod_module_new_from_lookup(ctx, name, &list);
	if (r < 0 || !list)
		return err_set(e, ENOENT, "the kernel module %s is not installed (looked in %s)",
			       name, kmod_get_dirname(ctx));
	kmod_list_foreach(i, list)
	{
		_cleanup_(free_modulep) struct kmod_module *mod = kmod_module_get_module(i);

		if (is_there(mod))
			continue;
		r = kmod_module_probe_insert_module(mod, KMOD_PROBE_IGNORE_LOADED, NULL, NULL, NULL,
						    NULL);
		if (r < 0 && r != -EEXIST)
			return load_error(-r, name, e);
	}
	return 0;
}

int kmod_load_file(const char *ko, struct err *e)
{
	_cleanup_(free_ctxp) struct kmod_ctx *ctx = NULL;
	_cleanup_(free_modulep) struct kmod_module *mod = NULL;
	int r;

	if (access(ko, R_OK) < 0)
		return err_set(e, errno, "cannot read the kernel module '%s': %s: %s", ko,
			       strerror(errno), HOW_TO_GET);
	ctx = new_ctx(e);
	if (!ctx)
		return -ENOMEM;
	r = kmod_module_new_from_path(ctx, ko, &mod);
	if (r == -EEXIST) /* libkmod knows a module of this name already, at another path */
		return in_sysfs(MODULE) ? 0 : load_error(EEXIST, ko, e);
	if (r < 0)
		return load_error(-r, ko, e);
	if (is_there(mod))
		return 0;
	r = kmod_module_insert_module(mod, 0, NULL);
	return r < 0 && r != -EEXIST ? load_error(-r, ko, e) : 0;
}

static int check_version(const unsigned v[3], struct err *e)
{
	if (v[0] == LIVECHAIN_VERSION_MAJOR && (int)v[1] >= LIVECHAIN_VERSION_MINOR)
		return 0;
	return err_set(
		e, EPROTO,
		"the loaded kernel module %s has version %u.%u.%u, but %d.%d or a newer %d.x is needed: detach all devices, 'rmmod dm_livechain', then load the module that belongs to this program",
		MODULE, v[0], v[1], v[2], LIVECHAIN_VERSION_MAJOR, LIVECHAIN_VERSION_MINOR,
		LIVECHAIN_VERSION_MAJOR);
}

/* Not an error by itself: dm_open_control() says it in the end. */
static void try_load(const char *name)
{
	(void)kmod_load(name, NULL);
}

int kmod_ensure_livechain(const char *ko, struct err *e)
{
	struct err why = ERR_INIT;
	unsigned v[3];
	int r;

	try_load("dm_mod");
	r = dm_open_control(e);
	if (r)
		return r;
	if (dm_target_version(LIVECHAIN_TARGET_NAME, v, NULL) == 0)
		return check_version(v, e);
	if (!ko || !*ko)
		ko = getenv("LIVECHAIN_MODULE");
	if (ko && *ko)
		r = kmod_load_file(ko, e);
	else
		r = kmod_load(MODULE, &why);
	if (why.code == ENOENT)
		return err_set(e, ENOENT, "%s: %s", why.msg, HOW_TO_GET);
	if (why.code)
		return err_set(e, why.code, "%s", why.msg);
	if (r)
		return r;
	if (dm_target_version(LIVECHAIN_TARGET_NAME, v, NULL))
		return err_set(e, ENOENT, "'%s' was loaded but has no device-mapper target '%s'",
			       ko ? ko : MODULE, LIVECHAIN_TARGET_NAME);
	return check_version(v, e);
}

int kmod_ensure_loop(struct err *e)
{
	int r;

	if (access("/dev/loop-control", F_OK) == 0)
		return 0;
	r = kmod_load("loop", e);
	if (r)
		return r;
	if (access("/dev/loop-control", F_OK))
		return err_set(
			e, ENOENT,
			"the module loop is loaded but /dev/loop-control is missing: is udev or devtmpfs there?");
	return 0;
}
