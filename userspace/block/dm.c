// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * libdevmapper's process-wide state, and how it is dealt with here:
 *
 * - the control descriptor and the driver's version are set by the first
 *   ioctl and only read later: open_control() makes that first ioctl once;
 * - the list of node operations is filled by create, resume, remove and
 *   rename and emptied by the udev wait: those hold node_lock;
 * - the size of the ioctl buffer only ever grows; two threads that raise it
 *   at once make it larger than needed, no more;
 * - name mangling is switched off once: names are restricted to what needs none.
 */
#include <errno.h>
#include <libdevmapper.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "block/dm.h"
#include "block/holders.h"
#include "block/kmsg.h"
#include "lib/fault.h"

#define UDEV_FLAGS                                                                \
	(DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG | DM_UDEV_DISABLE_DISK_RULES_FLAG | \
	 DM_UDEV_DISABLE_OTHER_RULES_FLAG)
#define UDEV_WAIT_MS	30000 /* then a hung udev is no longer waited for */
#define REMOVE_TRIES	15
#define REMOVE_PAUSE_MS 200

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t node_lock = PTHREAD_MUTEX_INITIALIZER;
static bool control_open;
static _Thread_local char last_log[256]; /* libdm's last error on this thread */

DEFINE_CLEANUP(struct dm_task, dm_task_destroy)

static void unlockp(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

static pthread_mutex_t *lock(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}

#define _locked_(m) __attribute__((unused)) _cleanup_(unlockp) pthread_mutex_t *_held = lock(m)

static void pause_ms(unsigned ms)
{
	struct timespec ts = { ms / 1000, (ms % 1000) * 1000000L };

	nanosleep(&ts, NULL);
}

/* Keeps errors for the sentence; libdm must not write to our stderr. */
static void __attribute__((format(printf, 5, 6)))
keep_log(int level, const char *file, int line, int code, const char *fmt, ...)
{
	va_list ap;

	(void)file;
	(void)line;
	(void)code;
	if ((level & 7) > 3) /* _LOG_ERR of libdm */
		return;
	va_start(ap, fmt);
	vsnprintf(last_log, sizeof(last_log), fmt, ap);
	va_end(ap);
}

static int control_error(int code, struct err *e)
{
	if (code == EPERM || code == EACCES)
		return err_set(
			e, EPERM,
			"no permission for /dev/mapper/control: device-mapper needs root (CAP_SYS_ADMIN)");
	return err_set(
		e, ENOENT,
		"the kernel's device-mapper does not answer (%s): load it with 'modprobe dm_mod'",
		last_log[0] ? last_log : strerror(code));
}

int dm_open_control(struct err *e)
{
	_locked_(&open_lock);
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;

	if (__atomic_load_n(&control_open, __ATOMIC_ACQUIRE))
		return 0;
	dm_log_with_errno_init(keep_log);
	dm_set_name_mangling_mode(DM_STRING_MANGLING_NONE);
	last_log[0] = '\0';
	errno = 0;
	t = dm_task_create(DM_DEVICE_VERSION);
	if (!t || !dm_task_run(t)) {
		int code = t && dm_task_get_errno(t) ? dm_task_get_errno(t) : errno;

		return control_error(code ? code : ENOENT, e);
	}
	__atomic_store_n(&control_open, true, __ATOMIC_RELEASE);
	return 0;
}

static int open_control(struct err *e)
{
	if (__atomic_load_n(&control_open, __ATOMIC_ACQUIRE))
		return 0;
	return dm_open_control(e);
}

int dm_table_set(struct dm_table *t, uint64_t length, const char *type, const char *params)
{
	struct dm_table n = { .length = length };

	n.type = strdup(type);
	n.params = strdup(params);
	if (!n.type || !n.params) {
		dm_table_done(&n);
		return -ENOMEM;
	}
	*t = n;
	return 0;
}

void dm_table_done(struct dm_table *t)
{
	free(t->type);
	free(t->params);
	*t = (struct dm_table){ 0 };
}

int dm_check_name(const char *name, struct err *e)
{
	static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				   "0123456789#+-.:=@_";
	size_t n = strlen(name);

	if (!n || n > DM_DEV_NAME_MAX)
		return err_set(e, EINVAL, "device name '%.140s' must have 1 to %d characters", name,
			       DM_DEV_NAME_MAX);
	if (name[strspn(name, good)])
		return err_set(e, EINVAL,
			       "device name '%s' may only have letters, digits and any of #+-.:=@_",
			       name);
	if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, "control"))
		return err_set(e, EINVAL, "device name '%s' is reserved", name);
	return 0;
}

/* A task of @type on @name; NULL and a sentence if it can't be made. */
static struct dm_task *new_task(int type, const char *name, int *ret, struct err *e)
{
	struct dm_task *t;

	*ret = open_control(e);
	if (!*ret && name)
		*ret = dm_check_name(name, e);
	if (*ret)
		return NULL;
	last_log[0] = '\0';
	t = dm_task_create(type);
	if (t && (!name || dm_task_set_name(t, name)))
		return t;
	if (t)
		dm_task_destroy(t);
	*ret = err_set(e, ENOMEM, "cannot prepare a device-mapper request for '%s': %s",
		       name ? name : "", last_log[0] ? last_log : strerror(ENOMEM));
	return NULL;
}

/*
 * Runs the task. @doing is a phrase for the sentence: "cannot <doing> 'name': reason". @mark: where
 * the kernel log ended before, or -1.
 */
static int run(struct dm_task *t, const char *doing, const char *name, int mark, struct err *e)
{
	char reason[512];
	int code;

	last_log[0] = '\0';
	errno = 0;
	if (dm_task_run(t))
		return 0;
	code = dm_task_get_errno(t);
	if (!code)
		code = errno ? errno : EIO;
	kmsg_reason(mark, name, reason, sizeof(reason));
	if (code == ENXIO && !reason[0])
		return err_set(e, ENXIO, "cannot %s '%s': there is no such device", doing, name);
	return err_set(e, code, "cannot %s '%s': %s", doing, name,
		       reason[0] ? reason : strerror(code));
}

/* As run(), for what changes something. */
static int change(struct dm_task *t, const char *doing, const char *name, int mark, struct err *e)
{
	int r = run(t, doing, name, mark, e);

	if (!r)
		FAULT_POINT(doing, name);
	return r;
}

/* Waits until udev is done with @cookie, and lets libdm make the nodes that udev did not. */
static void wait_for_udev(uint32_t cookie)
{
	unsigned waited = 0, step = 1;
	int ready = 0;

	/* Without udev nothing is to be waited for (and _immediate never says "ready" then). */
	while (dm_udev_get_sync_support()) {
		pthread_mutex_lock(&node_lock);
		if (!dm_udev_wait_immediate(cookie, &ready))
			ready = 1;
		pthread_mutex_unlock(&node_lock);
		if (ready || waited >= UDEV_WAIT_MS)
			break;
		pause_ms(step);
		waited += step;
		step = step < 16 ? step * 2 : 16;
	}
	if (ready)
		return;
	if (waited)
		(void)dm_udev_complete(cookie);
	pthread_mutex_lock(&node_lock);
	(void)dm_udev_wait(cookie);
	pthread_mutex_unlock(&node_lock);
}

/* As run(), for a request that makes or removes nodes: which is left to wait_for_udev(@ret_cookie). */
static int run_before_udev(struct dm_task *t, const char *doing, const char *name,
			   uint32_t *ret_cookie, struct err *e)
{
	_cleanup_close_ int mark = kmsg_mark();
	int r;

	*ret_cookie = 0;
	last_log[0] = '\0';
	if (!dm_task_set_cookie(t, ret_cookie, UDEV_FLAGS))
		return err_set(e, EIO, "cannot %s '%s': no udev cookie: %s", doing, name, last_log);
	pthread_mutex_lock(&node_lock);
	r = change(t, doing, name, mark, e);
	pthread_mutex_unlock(&node_lock);
	return r;
}

static int run_with_nodes(struct dm_task *t, const char *doing, const char *name, struct err *e)
{
	uint32_t cookie;
	int r = run_before_udev(t, doing, name, &cookie, e);

	wait_for_udev(cookie);
	return r;
}

static int make_device(const char *name, const char *full_uuid, bool read_only, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	_locked_(&node_lock);
	int r;

	t = new_task(DM_DEVICE_CREATE, name, &r, e);
	if (!t)
		return r;
	if (!dm_task_set_uuid(t, full_uuid) || (read_only && !dm_task_set_ro(t)))
		return err_set(e, EINVAL, "cannot create '%s': %s", name, last_log);
	errno = 0;
	if (dm_task_run(t)) {
		FAULT_POINT("create", name);
		return 0;
	}
	r = dm_task_get_errno(t) ? dm_task_get_errno(t) : errno;
	if (r == EBUSY)
		return err_set(
			e, EEXIST,
			"cannot create '%s': the name or its UUID '%s' is taken (see dmsetup info -c)",
			name, full_uuid);
	return err_set(e, r, "cannot create '%s': %s", name, strerror(r ? r : EIO));
}

int dm_create(const char *name, const char *uuid, const struct dm_table *table, bool read_only,
	      dev_t *ret_devno, struct err *e)
{
	char full[DM_DEV_UUID_MAX + 1];
	struct dm_dev_info info;
	int r;

	r = open_control(e);
	if (r)
		return r;
	if (snprintf(full, sizeof(full), DM_DEV_UUID_PREFIX "%s", uuid) >= (int)sizeof(full))
		return err_set(e, EINVAL, "UUID '%s%s' has more than %d characters",
			       DM_DEV_UUID_PREFIX, uuid, DM_DEV_UUID_MAX);
	r = make_device(name, full, read_only, e);
	if (r)
		return r;
	r = dm_load(name, table, read_only, e);
	if (!r)
		r = dm_resume(name, e);
	if (!r)
		r = dm_get_info(name, &info, e);
	if (r) {
		(void)dm_remove(name, NULL);
		return r;
	}
	*ret_devno = info.devno;
	return 0;
}

int dm_load(const char *name, const struct dm_table *table, bool read_only, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	_cleanup_close_ int mark = -1;
	int r;

	t = new_task(DM_DEVICE_RELOAD, name, &r, e);
	if (!t)
		return r;
	if (!dm_task_add_target(t, table->start, table->length, table->type, table->params) ||
	    (read_only && !dm_task_set_ro(t)))
		return err_set(e, ENOMEM, "cannot load a table into '%s': %s", name, last_log);
	mark = kmsg_mark();
	return change(t, "load a table into", name, mark, e);
}

static int simple(int type, const char *doing, const char *name, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	int r;

	t = new_task(type, name, &r, e);
	return t ? change(t, doing, name, -1, e) : r;
}

int dm_clear(const char *name, struct err *e)
{
	return simple(DM_DEVICE_CLEAR, "clear the inactive table of", name, e);
}

int dm_suspend(const char *name, bool noflush, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	_cleanup_close_ int mark = -1;
	struct err why = ERR_INIT;
	int r;

	t = new_task(DM_DEVICE_SUSPEND, name, &r, e);
	if (!t)
		return r;
	if (!dm_task_skip_lockfs(t) || (noflush && !dm_task_no_flush(t)))
		return err_set(e, ENOMEM, "cannot suspend '%s': %s", name, last_log);
	mark = kmsg_mark();
	do { /* a signal ends the kernel's wait for I/O */
		err_clear(&why);
		r = change(t, "suspend", name, mark, &why);
	} while (r == -EINTR);
	return r ? err_set(e, why.code, "%s", why.msg) : 0;
}

int dm_resume_now(const char *name, uint32_t *ret_cookie, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	struct dm_dev_info info;
	int r;

	*ret_cookie = 0;
	/*
	 * With a new table the resume of a running device suspends it first; that
	 * may wait for I/O and must not happen under node_lock.
	 */
	r = dm_get_info(name, &info, e);
	if (!r && info.live_table && info.inactive_table && !info.suspended)
		r = dm_suspend(name, true, e);
	if (r)
		return r;
	t = new_task(DM_DEVICE_RESUME, name, &r, e);
	return t ? run_before_udev(t, "resume", name, ret_cookie, e) : r;
}

/* Without udev there is no cookie, and it is here that libdm makes the nodes. */
void dm_resume_wait(uint32_t cookie)
{
	wait_for_udev(cookie);
}

int dm_resume(const char *name, struct err *e)
{
	uint32_t cookie;
	int r = dm_resume_now(name, &cookie, e);

	dm_resume_wait(cookie);
	return r;
}

static int remove_once(const char *name, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	int r;

	t = new_task(DM_DEVICE_REMOVE, name, &r, e);
	return t ? run_with_nodes(t, "remove", name, e) : r;
}

static int busy(const char *name, struct err *e)
{
	struct dm_dev_info info;
	char who[400];

	if (dm_get_info(name, &info, NULL) || !info.exists)
		return err_set(e, EBUSY, "cannot remove '%s': device or resource busy", name);
	holders_describe(info.devno, who, sizeof(who));
	return err_set(
		e, EBUSY,
		"cannot remove '%s': it is in use (open count %d)%s%s: close or unmount it first",
		name, info.open_count, who[0] ? ": " : "", who);
}

int dm_remove(const char *name, struct err *e)
{
	struct err why = ERR_INIT;
	int r, try;

	for (try = 0; try < REMOVE_TRIES; try++) {
		err_clear(&why);
		r = remove_once(name, &why);
		if (r != -EBUSY)
			return r ? err_set(e, why.code, "%s", why.msg) : 0;
		pause_ms(REMOVE_PAUSE_MS);
	}
	return busy(name, e);
}

void dm_settle_node(const char *name)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	int r;

	if (dm_udev_get_sync_support())
		return;
	t = new_task(DM_DEVICE_MKNODES, name, &r, NULL);
	if (t)
		(void)run_with_nodes(t, "settle the node of", name, NULL);
}

int dm_rename(const char *name, const char *new_name, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	struct err why = ERR_INIT;
	int r;

	r = dm_check_name(new_name, e);
	if (r)
		return r;
	t = new_task(DM_DEVICE_RENAME, name, &r, e);
	if (!t)
		return r;
	if (!dm_task_set_newname(t, new_name))
		return err_set(e, EINVAL, "cannot rename '%s' to '%s': %s", name, new_name,
			       last_log);
	r = run_with_nodes(t, "rename", name, &why);
	if (r == -EBUSY)
		return err_set(e, EEXIST, "cannot rename '%s': the name '%s' is taken", name,
			       new_name);
	return r ? err_set(e, why.code, "%s", why.msg) : 0;
}

int dm_message(const char *name, const char *text, char **ret_reply, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	_cleanup_close_ int mark = -1;
	const char *reply;
	char doing[64];
	size_t verb;
	int r;

	t = new_task(DM_DEVICE_TARGET_MSG, name, &r, e);
	if (!t)
		return r;
	verb = strcspn(text, " ");
	snprintf(doing, sizeof(doing), "do '%.*s' on", verb < 40 ? (int)verb : 40, text);
	if (!dm_task_set_sector(t, 0) || !dm_task_set_message(t, text))
		return err_set(e, ENOMEM, "cannot %s '%s': %s", doing, name, last_log);
	mark = kmsg_mark();
	r = change(t, doing, name, mark, e);
	if (r || !ret_reply)
		return r;
	reply = dm_task_get_message_response(t);
	*ret_reply = strdup(reply ? reply : "");
	if (!*ret_reply)
		return err_set(e, ENOMEM, "no memory for the answer of '%s'", name);
	return 0;
}

static int get_line(int type, const char *name, struct dm_table *ret, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	char *target = NULL, *params = NULL;
	uint64_t start, length;
	int r;

	t = new_task(type, name, &r, e);
	if (!t)
		return r;
	if (!dm_task_no_flush(t))
		return err_set(e, ENOMEM, "no memory to ask '%s'", name);
	r = run(t, type == DM_DEVICE_TABLE ? "read the table of" : "read the status of", name, -1,
		e);
	if (r)
		return r;
	dm_get_next_target(t, NULL, &start, &length, &target, &params);
	if (!target)
		return err_set(e, ENODATA, "'%s' has no live table", name);
	if (dm_table_set(ret, length, target, params ? params : ""))
		return err_set(e, ENOMEM, "no memory for the answer of '%s'", name);
	ret->start = start;
	return 0;
}

int dm_status(const char *name, struct dm_table *ret, struct err *e)
{
	return get_line(DM_DEVICE_STATUS, name, ret, e);
}

int dm_live_table(const char *name, struct dm_table *ret, struct err *e)
{
	return get_line(DM_DEVICE_TABLE, name, ret, e);
}

int dm_get_info(const char *name, struct dm_dev_info *ret, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	struct dm_info info;
	const char *uuid;
	int r;

	t = new_task(DM_DEVICE_INFO, name, &r, e);
	if (!t)
		return r;
	r = run(t, "ask about", name, -1, e);
	if (r)
		return r;
	if (!dm_task_get_info(t, &info))
		return err_set(e, EIO, "cannot ask about '%s': %s", name, last_log);
	*ret = (struct dm_dev_info){ .exists = info.exists };
	if (!info.exists)
		return 0;
	ret->suspended = info.suspended;
	ret->live_table = info.live_table;
	ret->inactive_table = info.inactive_table;
	ret->read_only = info.read_only;
	ret->open_count = info.open_count;
	ret->event_nr = info.event_nr;
	ret->devno = makedev(info.major, info.minor);
	uuid = dm_task_get_uuid(t);
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", uuid ? uuid : "");
	return 0;
}

/*
 * What the kernel puts behind a list entry's name: see linux/dm-ioctl.h. libdm 1.02.185 has no
 * accessor, and does not ask for UUIDs (without either flag the kernel was not asked).
 */
struct name_tail {
	uint32_t event_nr;
	uint32_t flags;
	char uuid[];
};
#define TAIL_HAS_UUID	 1
#define TAIL_HAS_NO_UUID 2

/* False if the device has gone meanwhile. */
static bool fill_entry(const struct dm_names *n, struct dm_dev_entry *ret)
{
	uintptr_t end = (uintptr_t)n->name + strlen(n->name) + 1;
	const struct name_tail *tail = (const void *)((end + 7) & ~(uintptr_t)7);
	struct dm_dev_info info;

	*ret = (struct dm_dev_entry){ 0 };
	snprintf(ret->name, sizeof(ret->name), "%s", n->name);
	ret->devno = makedev(major(n->dev), minor(n->dev));
	ret->event_nr = tail->event_nr;
	if (tail->flags & TAIL_HAS_UUID)
		snprintf(ret->uuid, sizeof(ret->uuid), "%s", tail->uuid);
	if (tail->flags & (TAIL_HAS_UUID | TAIL_HAS_NO_UUID) || dm_check_name(n->name, NULL))
		return true;
	if (dm_get_info(n->name, &info, NULL) || !info.exists)
		return false;
	memcpy(ret->uuid, info.uuid, sizeof(ret->uuid));
	return true;
}

/* Adds @n to the list if its UUID fits. */
static int add_entry(const struct dm_names *n, const char *uuid_prefix, struct dm_dev_entry **list,
		     size_t *nr, struct err *e)
{
	struct dm_dev_entry one, *more;

	if (!fill_entry(n, &one))
		return 0;
	if (uuid_prefix && strncmp(one.uuid, uuid_prefix, strlen(uuid_prefix)))
		return 0;
	more = reallocarray(*list, *nr + 1, sizeof(one));
	if (!more)
		return err_set(e, ENOMEM, "no memory for the list of devices");
	more[(*nr)++] = one;
	*list = more;
	return 0;
}

int dm_list_devices(const char *uuid_prefix, struct dm_dev_entry **ret, struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	_cleanup_free_ struct dm_dev_entry *list = NULL;
	struct dm_names *n;
	size_t nr = 0;
	int r;

	t = new_task(DM_DEVICE_LIST, NULL, &r, e);
	r = t ? run(t, "list", "all devices", -1, e) : r;
	if (r)
		return r;
	n = dm_task_get_names(t);
	for (; n && n->dev; n = n->next ? (void *)((char *)n + n->next) : NULL) {
		r = add_entry(n, uuid_prefix, &list, &nr, e);
		if (r)
			return r;
	}
	*ret = take_ptr(list);
	return (int)nr;
}

int dm_target_version(const char *target, unsigned ret_version[3], struct err *e)
{
	_cleanup_(dm_task_destroyp) struct dm_task *t = NULL;
	struct dm_versions *v;
	int r;

	t = new_task(DM_DEVICE_LIST_VERSIONS, NULL, &r, e);
	r = t ? run(t, "list", "all targets", -1, e) : r;
	if (r)
		return r;
	v = dm_task_get_versions(t);
	while (v) {
		if (!strcmp(v->name, target)) {
			memcpy(ret_version, v->version, 3 * sizeof(unsigned));
			return 0;
		}
		v = v->next ? (void *)((char *)v + v->next) : NULL;
	}
	return err_set(e, ENOENT, "the kernel has no device-mapper target '%s'", target);
}
