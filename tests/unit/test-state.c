// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a new daemon makes of the state that a former one left, with a kernel made of words:
 * one device, whose status the test says and whose messages it counts.
 *
 * LDFLAGS: -Wl,--wrap=dm_get_info,--wrap=dm_status,--wrap=dm_message,--wrap=dm_load,--wrap=dm_suspend,--wrap=dm_resume_now,--wrap=dm_resume_wait,--wrap=dm_remove,--wrap=dm_clear,--wrap=loop_attach,--wrap=loop_find,--wrap=loop_set_capacity
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/dm.h"
#include "daemon/core.h"
#include "daemon/ctl.h"
#include "daemon/dispatch.h"
#include "daemon/export.h"
#include "daemon/job.h"
#include "daemon/journal.h"
#include "daemon/state.h"
#include "daemon/view.h"
#include "lib/log.h"
#include "qcow2-util.h"

/* --- the kernel ------------------------------------------------------------------- */

static struct {
	bool there, suspended, inactive, no_table;
	char status[512];
	char log[4096]; /* what was done to the device, a word each */
	char table[512];
} k;

static void note(const char *what, const char *more)
{
	size_t n = strlen(k.log);

	snprintf(k.log + n, sizeof(k.log) - n, "%s%s%s; ", what, *more ? " " : "", more);
}

int __wrap_dm_get_info(const char *name, struct dm_dev_info *ret, struct err *e);
int __wrap_dm_get_info(const char *name, struct dm_dev_info *ret, struct err *e)
{
	(void)e;
	memset(ret, 0, sizeof(*ret));
	if (!k.there || strcmp(name, "vm1"))
		return 0;
	*ret = (struct dm_dev_info){
		.exists = true,
		.suspended = k.suspended,
		.live_table = !k.no_table,
		.inactive_table = k.inactive,
		.uuid = "LIVECHAIN-disk-1",
	};
	return 0;
}

int __wrap_dm_status(const char *name, struct dm_table *ret, struct err *e);
int __wrap_dm_status(const char *name, struct dm_table *ret, struct err *e)
{
	if (!k.there || strcmp(name, "vm1"))
		return err_set(e, ENXIO, "no device %s", name);
	return dm_table_set(ret, 2048, "livechain", k.status);
}

int __wrap_dm_message(const char *name, const char *text, char **reply, struct err *e);
int __wrap_dm_message(const char *name, const char *text, char **reply, struct err *e)
{
	(void)name;
	(void)e;
	if (strncmp(text, "commit", 6))
		note("message", text);
	if (reply)
		*reply = strdup("");
	return 0;
}

int __wrap_dm_load(const char *name, const struct dm_table *t, bool read_only, struct err *e);
int __wrap_dm_load(const char *name, const struct dm_table *t, bool read_only, struct err *e)
{
	(void)name;
	(void)read_only;
	(void)e;
	snprintf(k.table, sizeof(k.table), "%s", t->params);
	note("load", "");
	return 0;
}

#define WORD(fn, word, change)                              \
	int __wrap_##fn(const char *name, struct err *e);   \
	int __wrap_##fn(const char *name, struct err *e)    \
	{                                                   \
		(void)name;                                 \
		(void)e;                                    \
		note(word, "");                             \
		change;                                     \
		return 0;                                   \
	}
WORD(dm_remove, "remove", k.there = false)
WORD(dm_clear, "clear", k.inactive = false)

int __wrap_dm_resume_now(const char *name, uint32_t *ret_cookie, struct err *e);
int __wrap_dm_resume_now(const char *name, uint32_t *ret_cookie, struct err *e)
{
	(void)name;
	(void)e;
	*ret_cookie = 0;
	note("resume", "");
	k.suspended = false;
	return 0;
}

void __wrap_dm_resume_wait(uint32_t cookie);
void __wrap_dm_resume_wait(uint32_t cookie)
{
	(void)cookie;
}

int __wrap_dm_suspend(const char *name, bool noflush, struct err *e);
int __wrap_dm_suspend(const char *name, bool noflush, struct err *e)
{
	(void)name;
	(void)noflush;
	(void)e;
	k.suspended = true;
	return 0;
}

int __wrap_loop_attach(int fd, const struct loop_options *o, struct loop_dev *ret, struct err *e);
int __wrap_loop_attach(int fd, const struct loop_options *o, struct loop_dev *ret, struct err *e)
{
	static int next;

	(void)o;
	(void)e;
	*ret = (struct loop_dev){ .number = next, .devno = 0x700 + next, .fd = dup(fd) };
	next++;
	return 0;
}

int __wrap_loop_find(dev_t dev, ino_t ino, uint64_t off, struct loop_dev *ret, struct err *e);
int __wrap_loop_find(dev_t dev, ino_t ino, uint64_t off, struct loop_dev *ret, struct err *e)
{
	(void)dev;
	(void)ino;
	(void)off;
	(void)ret;
	(void)e;
	return -ENOENT;
}

int __wrap_loop_set_capacity(const struct loop_dev *dev, struct err *e);
int __wrap_loop_set_capacity(const struct loop_dev *dev, struct err *e)
{
	(void)dev;
	(void)e;
	return 0;
}

/* --- the daemon --------------------------------------------------------------------- */

static char state_dir[512];
static struct daemon d = { .state_dir = state_dir, .name = "test" };

static void write_state(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void write_state(const char *fmt, ...)
{
	FILE *f = fopen(q_path("state/state.json"), "w");
	va_list ap;

	assert_non_null(f);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fclose(f);
}

static char *boot(void)
{
	static char id[64];
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");

	assert_non_null(fgets(id, sizeof(id), f));
	fclose(f);
	id[strcspn(id, "\n")] = '\0';
	return id;
}

static void nodes_and(const char *rest)
{
	write_state("{\"format\": 1, \"boot\": \"%s\", \"nodes\": ["
		    "{\"name\": \"#block7\", \"driver\": \"file\", \"read-only\": false, \"monitor\": false, \"filename\": \"%s\"},"
		    "{\"name\": \"#block8\", \"driver\": \"file\", \"read-only\": false, \"monitor\": false, \"filename\": \"%s\"},"
		    "{\"name\": \"a\", \"driver\": \"qcow2\", \"read-only\": false, \"monitor\": true, \"file\": \"#block7\"},"
		    "{\"name\": \"s\", \"driver\": \"qcow2\", \"read-only\": false, \"monitor\": false, \"file\": \"#block8\", \"backing\": \"a\"}"
		    "], %s}",
		    boot(), q_path("a"), q_path("s"), rest);
}

#define VIEW "\"views\": [{\"dm\": \"vm1\", \"kname\": \"vm1.1\", \"uuid\": \"disk-1\", \"internal\": false, " \
	     "\"writable\": true, \"top\": \"a\", \"sectors\": 2048, \"block\": 128, \"active\": 0, " \
	     "\"next-id\": 2, \"layers\": [{\"id\": 0, \"node\": \"a\", \"device\": 1792, \"dest\": false}, " \
	     "{\"id\": 1, \"node\": \"s\", \"device\": 1793, \"dest\": false}]}]"
#define EXPORT "\"exports\": [{\"id\": \"x\", \"dm\": \"vm1\"}]"
#define NO_JOBS "\"jobs\": []"

#define STATUS(active, layers) "1 vm1.1 5 rw 128 " active " 2/2 0 0 0 " layers " 0"
#define LAYER(id) " " id " 0 128 1 0 clean"

static void kernel(const char *status)
{
	memset(&k, 0, sizeof(k));
	k.there = true;
	snprintf(k.status, sizeof(k.status), "%s", status);
}

static int restore(struct err *e)
{
	err_clear(e);
	return state_restore(e);
}

/* Ends everything; the next test starts with nothing. */
static int forget(void **state)
{
	struct job *j;
	struct export *x;
	struct view *v;
	struct node *n;
	bool again = true;

	(void)state;
	list_for_each(j, &job_list, link)
		job_forget(j);
	list_for_each(x, &export_list, link) {
		list_del(&x->link);
		free(x->id);
		free(x);
	}
	list_for_each(v, &view_list, link)
		view_abandon(v);
	view_reap();
	list_for_each(n, &node_list, link)
		n->monitor = false;
	while (again) {
		again = false;
		list_for_each(n, &node_list, link) {
			n->users = 0;
			if (n->parents)
				continue;
			node_put(n);
			again = true;
			break;
		}
	}
	event_flush();
	unlink(q_path("state/state.json"));
	return list_empty(&node_list) ? 0 : -1;
}

/* --- tests ----------------------------------------------------------------------------- */

static void round_trip(void **state)
{
	_cleanup_json_ struct json *opts = NULL, *before = NULL, *after = NULL;
	_cleanup_free_ char *text = NULL;
	struct err e = ERR_INIT;
	struct node *n;

	(void)state;
	assert_true(asprintf(&text, "{'driver': 'qcow2', 'node-name': 'top', 'file': {'driver': 'file', 'filename': '%s'}}",
			     q_path("s")) > 0);
	opts = json_parse(text, strlen(text), &e);
	q_ok(node_add(opts, &n, &e), &e);
	before = node_save();
	q_ok(state_save(&e), &e);
	n->monitor = false;
	node_put(n);
	assert_true(list_empty(&node_list));
	q_ok(restore(&e), &e);
	after = node_save();
	/* Protocol nodes come first, so the order may differ: each is there. */
	assert_int_equal(json_len(after), json_len(before));
	for (size_t i = 0; i < json_len(before); i++) {
		bool found = false;

		for (size_t m = 0; m < json_len(after); m++)
			found |= json_equal(json_at(before, i), json_at(after, m));
		assert_true(found);
	}
	assert_string_equal(node_find("top")->backing->file->filename, q_path("a"));
}

/* Made-up names go on behind those that are there. */
static void numbers_go_on(void **state)
{
	struct err e = ERR_INIT;
	struct node *n;

	(void)state;
	write_state("{\"format\": 1, \"boot\": \"%s\", \"nodes\": [{\"name\": \"#block4711\", \"driver\": \"file\", \"read-only\": true, \"monitor\": true, \"filename\": \"%s\"}]}",
		    boot(), q_path("a"));
	q_ok(restore(&e), &e);
	assert_non_null(node_find("#block4711"));
	q_ok(node_open_image(NODE_QCOW2, q_path("s"), NULL, true, &n, &e), &e);
	assert_non_null(node_find("#block4712"));
}

static void not_this_boot(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	write_state("{\"format\": 1, \"boot\": \"other\", \"nodes\": [{\"name\": 5}]}");
	q_ok(restore(&e), &e);
	assert_true(list_empty(&node_list));
	unlink(q_path("state/state.json"));
	q_ok(restore(&e), &e);
}

static void damaged(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	write_state("{\"format\": 1, \"boot\"");
	assert_int_equal(restore(&e), -EINVAL);
	assert_non_null(strstr(e.msg, "state.json"));
	write_state("{\"format\": 2, \"boot\": \"%s\"}", boot());
	assert_int_equal(restore(&e), -EINVAL);
	assert_non_null(strstr(e.msg, "another version"));
	write_state("{\"format\": 1, \"boot\": \"%s\", \"nodes\": [{\"name\": \"x\"}]}", boot());
	assert_true(restore(&e) < 0);
}

/* The kernel says that the snapshot was made: its overlay is the disk. */
static void snapshot_was_made(void **state)
{
	struct err e = ERR_INIT;
	struct view *v;

	(void)state;
	kernel(STATUS("1", "2" LAYER("0") LAYER("1")));
	nodes_and(VIEW ", " EXPORT ", " NO_JOBS);
	q_ok(restore(&e), &e);
	v = view_find("vm1");
	assert_non_null(v);
	assert_string_equal(v->top->name, "s");
	assert_int_equal(v->active, 1);
	assert_int_equal(v->generation, 5);
	assert_string_equal(v->top->backing->name, "a");
	assert_true(v->top->backing->read_only);
	assert_int_equal(v->top->users, 1);
	assert_int_equal(node_find("a")->users, 0);
	assert_non_null(export_find("x"));
	assert_non_null(strstr(k.log, "message reclaim 0"));
}

/* It was not made: the overlay is let go, the table is made without it. */
static void snapshot_was_not_made(void **state)
{
	struct err e = ERR_INIT;
	struct view *v;

	(void)state;
	kernel(STATUS("0", "2" LAYER("0") LAYER("1")));
	nodes_and(VIEW ", " EXPORT ", " NO_JOBS);
	q_ok(restore(&e), &e);
	v = view_find("vm1");
	assert_string_equal(v->top->name, "a");
	assert_int_equal(v->nr_layers, 1);
	assert_false(node_find("a")->read_only);
	assert_null(node_find("s"));
	assert_non_null(strstr(k.log, "load; "));
	assert_memory_equal(k.table, "vm1.1 128 0 1 0 7:", 18);
	assert_null(strstr(k.table, " 1 7:"));
}

/* The table was never loaded: the layer is only in the file. */
static void layer_never_came(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	kernel(STATUS("0", "1" LAYER("0")));
	nodes_and(VIEW ", " EXPORT ", " NO_JOBS);
	q_ok(restore(&e), &e);
	assert_int_equal(view_find("vm1")->nr_layers, 1);
	assert_null(node_find("s"));
}

/* The table was loaded, the file not written: the layer is dropped, its number not used again. */
static void unknown_layer(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	kernel(STATUS("0", "3" LAYER("0") LAYER("1") LAYER("9")));
	nodes_and(VIEW ", " EXPORT ", " NO_JOBS);
	q_ok(restore(&e), &e);
	assert_int_equal(view_find("vm1")->next_id, 10);
	assert_null(strstr(k.table, " 9 "));
	assert_non_null(strstr(k.log, "load; "));
}

static void left_suspended(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	kernel(STATUS("1", "2" LAYER("0") LAYER("1")));
	k.suspended = k.inactive = true;
	nodes_and(VIEW ", " EXPORT ", " NO_JOBS);
	q_ok(restore(&e), &e);
	assert_false(k.suspended);
	assert_non_null(strstr(k.log, "clear; "));
}

/* A device that no export has is one whose start was not finished. */
static void start_not_finished(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	kernel(STATUS("0", "1" LAYER("0")));
	nodes_and(VIEW ", \"exports\": [], " NO_JOBS);
	q_ok(restore(&e), &e);
	assert_false(k.there);
	assert_true(list_empty(&view_list));
	assert_non_null(node_find("a"));
}

static void device_gone(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	kernel("");
	k.there = false;
	nodes_and(VIEW ", " EXPORT ", " NO_JOBS);
	q_ok(restore(&e), &e);
	assert_true(list_empty(&view_list));
	assert_true(list_empty(&export_list));
	assert_non_null(node_find("a"));
	/* One that was made but never got a table goes too. */
	forget(NULL);
	kernel("");
	k.no_table = true;
	nodes_and(VIEW ", " EXPORT ", " NO_JOBS);
	q_ok(restore(&e), &e);
	assert_false(k.there);
	assert_true(list_empty(&view_list));
}

#define JOB(status, more) "\"jobs\": [{\"id\": \"b0\", \"type\": \"backup\", \"status\": \"" status "\", " \
	"\"speed\": 0, \"len\": 10, \"offset\": 5, \"dest\": -1, \"source\": \"vm1\", \"io-status\": \"ok\"" more "}]"

static struct job *after(const char *jobs)
{
	struct err e = ERR_INIT;
	char text[2048];

	forget(NULL);
	kernel(STATUS("0", "1" LAYER("0")));
	snprintf(text, sizeof(text), VIEW ", " EXPORT ", %s", jobs);
	nodes_and(text);
	q_ok(restore(&e), &e);
	return job_find("b0");
}

/* What a job's end was in the middle of is done; its result is not forgotten. */
static void job_ends(void **state)
{
	struct job *j;

	(void)state;
	j = after(JOB("pending", ", \"auto-finalize\": true, \"auto-dismiss\": false"));
	assert_int_equal(j->status, JOB_CONCLUDED);
	assert_null(j->error);
	assert_null(after(JOB("pending", ", \"auto-finalize\": true, \"auto-dismiss\": true")));
	assert_int_equal(after(JOB("pending", ""))->status, JOB_PENDING);
	j = after(JOB("aborting", ", \"cancelled\": true, \"error\": \"Operation canceled\""));
	assert_int_equal(j->status, JOB_CONCLUDED);
	assert_true(j->cancelled);
	assert_int_equal(after(JOB("concluded", ", \"cleaned\": true"))->status, JOB_CONCLUDED);
	/* Started in the file only: it failed, and says so. */
	j = after(JOB("running", ""));
	assert_int_equal(j->status, JOB_CONCLUDED);
	assert_non_null(j->error);
	assert_int_equal(view_find("vm1")->jobs, 0);
}

/* A backup that a user or an error had paused when the file was written. */
static void file_has_job(void)
{
	nodes_and("\"views\": [{\"dm\": \"vm1\", \"kname\": \"vm1.1\", \"uuid\": \"disk-1\", \"writable\": true, "
		  "\"top\": \"a\", \"sectors\": 2048, \"block\": 128, \"active\": 0, \"next-id\": 2, \"layers\": "
		  "[{\"id\": 0, \"node\": \"a\", \"device\": 1792}, {\"id\": 1, \"device\": 1793, \"dest\": true}]}], " EXPORT
		  ", \"jobs\": [{\"id\": \"b0\", \"type\": \"backup\", \"status\": \"paused\", \"user-paused\": true, \"speed\": 7, "
		  "\"len\": 10, \"offset\": 5, \"dest\": 1, \"source\": \"vm1\", \"source-node\": \"a\", \"io-status\": \"nospace\"}]");
}

#define JOB_REST ", \"type\": \"backup\", \"speed\": 7, \"len\": 10, \"offset\": 5, \"dest\": 1, " \
		 "\"source\": \"vm1\", \"source-node\": \"a\", \"io-status\": \"ok\"}"
#define OTHER	 JOB_REST ", {"

static void file_has(const char *jobs)
{
	_cleanup_free_ char *text = NULL;

	assert_true(asprintf(&text, "\"views\": [{\"dm\": \"vm1\", \"kname\": \"vm1.1\", \"uuid\": \"disk-1\", \"writable\": true, "
		  "\"top\": \"a\", \"sectors\": 2048, \"block\": 128, \"active\": 0, \"next-id\": 2, \"layers\": "
		  "[{\"id\": 0, \"node\": \"a\", \"device\": 1792}, {\"id\": 1, \"device\": 1793, \"dest\": true}]}], " EXPORT
		  ", \"jobs\": [{%s%s]", jobs, JOB_REST) > 0);
	nodes_and(text);
}

/* A mirror that the file has as @status, and what the kernel says of its job now. */
static struct job *mirror_after(const char *status, const char *more, const char *now)
{
	struct err e = ERR_INIT;
	char text[2048];

	forget(NULL);
	snprintf(text, sizeof(text), "1 vm1.1 5 rw 128 0 2/2 0 0 0 2" LAYER("0") " 1 0 - 0 0 clean 1 b0 %s 1",
		 now);
	kernel(text);
	snprintf(text, sizeof(text),
		 "\"views\": [{\"dm\": \"vm1\", \"kname\": \"vm1.1\", \"uuid\": \"disk-1\", \"writable\": true, "
		 "\"top\": \"a\", \"sectors\": 2048, \"block\": 128, \"active\": 0, \"next-id\": 2, \"layers\": "
		 "[{\"id\": 0, \"node\": \"a\", \"device\": 1792}, {\"id\": 1, \"device\": 1793, \"dest\": true}]}], " EXPORT
		 ", \"jobs\": [{\"id\": \"b0\", \"type\": \"mirror\", \"status\": \"%s\", \"speed\": 0, %s"
		 "\"len\": 10, \"offset\": 5, \"dest\": 1, \"source\": \"vm1.1\", \"source-node\": \"a\"}]",
		 status, more);
	nodes_and(text);
	q_ok(restore(&e), &e);
	return job_find("b0");
}

static void mirror_goes_on(void **state)
{
	struct job *j;

	(void)state;
	assert_int_equal(mirror_after("running", "", "running 5/10 0 -")->status, JOB_RUNNING);
	assert_int_equal(mirror_after("running", "", "ready 10/10 0 -")->status, JOB_READY);
	assert_int_equal(mirror_after("ready", "", "ready 10/10 0 -")->status, JOB_READY);
	/* paused, and the file does not know it yet; and the reverse */
	assert_int_equal(mirror_after("ready", "", "standby 10/10 0 -")->status, JOB_STANDBY);
	assert_int_equal(mirror_after("standby", "\"user-paused\": true, ", "ready 10/10 0 -")->status,
			 JOB_READY);
	/* Errors, as the job's policy wants it. */
	j = mirror_after("ready", "\"on-write-error\": 3, ", "standby 10/12 0 stopped:write:5");
	assert_int_equal(j->status, JOB_STANDBY);
	assert_string_equal(j->io_status, "failed");
	j = mirror_after("ready", "\"on-write-error\": 1, ", "standby 10/12 0 stopped:write:5");
	assert_int_equal(j->status, JOB_READY);
	assert_true(j->ignored_at);
	assert_int_equal(mirror_after("running", "\"on-write-error\": 2, ",
				      "paused 10/12 0 stopped:write:28")->status, JOB_PAUSED);
	/* It ended with the disk as it was: that is what a cancel wanted, and not what complete did. */
	j = mirror_after("ready", "\"should-complete\": true, \"soft-cancel\": true, \"auto-finalize\": true, ",
			 "concluded 10/10 0 ok");
	assert_int_equal(j->status, JOB_CONCLUDED);
	assert_null(j->error);
	j = mirror_after("ready", "\"should-complete\": true, ", "concluded 10/10 0 ok");
	assert_int_equal(j->status, JOB_CONCLUDED);
	assert_non_null(strstr(j->error, "the disk, which goes on as before"));
	assert_int_equal(view_find("vm1")->jobs, 0);
	assert_null(node_find("a")->job);
}

static void job_runs_on(void **state)
{
	struct err e = ERR_INIT;
	struct job *j;

	(void)state;
	kernel("1 vm1.1 5 rw 128 0 2/2 0 0 0 2" LAYER("0") " 1 0 - 0 0 clean 1 b0 paused 65536/1048576 7 stopped:write:28 1");
	file_has_job();
	q_ok(restore(&e), &e);
	j = job_find("b0");
	assert_int_equal(j->status, JOB_PAUSED);
	assert_true(j->user_paused);
	assert_string_equal(j->io_status, "nospace");
	assert_int_equal(j->offset, 65536);
	assert_int_equal(view_find("vm1")->nr_layers, 2);
	assert_int_equal(view_find("vm1")->jobs, 1);
	assert_string_equal(node_find("a")->job, "b0");
	assert_null(strstr(k.log, "cancel"));
	/* The daemon died after it had told the kernel, before it told the file. */
	forget(NULL);
	kernel("1 vm1.1 5 rw 128 0 2/2 0 0 0 2" LAYER("0") " 1 0 - 0 0 clean 1 b0 running 65536/1048576 9 - 1");
	file_has_job();
	q_ok(restore(&e), &e);
	j = job_find("b0");
	assert_int_equal(j->status, JOB_RUNNING);
	assert_false(j->user_paused);
	assert_string_equal(j->io_status, "ok");
	assert_int_equal(j->speed, 9);
	/* A job of the kernel's that nobody knows is ended. */
	forget(NULL);
	kernel("1 vm1.1 5 rw 128 0 2/2 0 0 0 1" LAYER("0") " 1 zz concluded 1/2 0 cancelled 1");
	nodes_and(VIEW ", " EXPORT ", " NO_JOBS);
	q_ok(restore(&e), &e);
	assert_non_null(strstr(k.log, "message job zz cancel; message job zz dismiss"));
}

#define KERNEL_JOB "1 vm1.1 5 rw 128 0 2/2 0 0 0 2" LAYER("0") " 1 0 - 0 0 clean "

/* A job that was about to begin: it runs, or the guard has cancelled it, or it never came to be. */
static void job_was_starting(void **state)
{
	static const char *const gone[] = { KERNEL_JOB "0", KERNEL_JOB "1 b0 concluded 0/1048576 7 cancelled 1" };
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(gone); i++) {
		forget(NULL);
		kernel(gone[i]);
		file_has("\"id\": \"b0\", \"status\": \"running\", \"starting\": true");
		q_ok(restore(&e), &e);
		assert_null(job_find("b0"));
		assert_int_equal(view_find("vm1")->nr_layers, 1);
		assert_int_equal(view_find("vm1")->jobs, 0);
		assert_null(node_find("a")->job);
	}
	forget(NULL);
	kernel(KERNEL_JOB "1 b0 running 0/1048576 7 - 1");
	file_has("\"id\": \"b0\", \"status\": \"running\", \"starting\": true");
	q_ok(restore(&e), &e);
	assert_int_equal(job_find("b0")->status, JOB_RUNNING);
	assert_false(job_find("b0")->starting);
}

/* The groups of a transaction are what they were. */
static void groups_go_on(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	/* One waits for another, whose kernel job runs. */
	kernel(KERNEL_JOB "1 b0 running 0/1048576 7 - 1");
	file_has("\"id\": \"w\", \"group\": 3, \"status\": \"waiting\", \"kernel-gone\": true, \"cleaned\": true, \"auto-finalize\": true"
		 OTHER "\"id\": \"b0\", \"status\": \"running\", \"group\": 3");
	q_ok(restore(&e), &e);
	assert_int_equal(job_find("w")->status, JOB_WAITING);
	assert_int_equal(job_find("b0")->group, 3);
	/* One had failed when the daemon died: the other one goes with it. */
	forget(NULL);
	kernel(KERNEL_JOB "1 b0 concluded 0/1048576 7 cancelled 1");
	file_has("\"id\": \"w\", \"group\": 3, \"status\": \"aborting\", \"cleaned\": true, \"error\": \"x\""
		 OTHER "\"id\": \"b0\", \"status\": \"running\", \"group\": 3, \"cancelled\": true");
	q_ok(restore(&e), &e);
	assert_int_equal(job_find("w")->status, JOB_CONCLUDED);
	assert_int_equal(job_find("b0")->status, JOB_CONCLUDED);
	assert_string_equal(job_find("b0")->error, "Operation canceled");
	/* One wants to be told by hand: the other one, pending too, does not go on alone. */
	forget(NULL);
	kernel(KERNEL_JOB "1 b0 concluded 10/10 7 ok 1");
	file_has("\"id\": \"w\", \"group\": 3, \"status\": \"pending\", \"cleaned\": true, \"auto-finalize\": true"
		 OTHER "\"id\": \"b0\", \"status\": \"pending\", \"group\": 3");
	q_ok(restore(&e), &e);
	assert_int_equal(job_find("w")->status, JOB_PENDING);
	assert_int_equal(job_find("b0")->status, JOB_PENDING);
	/* It had been told when the daemon died. */
	forget(NULL);
	kernel(KERNEL_JOB "1 b0 concluded 10/10 7 ok 1");
	file_has("\"id\": \"w\", \"group\": 3, \"status\": \"concluded\", \"cleaned\": true, \"finalizing\": true"
		 OTHER "\"id\": \"b0\", \"status\": \"pending\", \"group\": 3, \"finalizing\": true");
	q_ok(restore(&e), &e);
	assert_int_equal(job_find("b0")->status, JOB_CONCLUDED);
	assert_null(job_find("b0")->error);
}

static int setup(void **state)
{
	int r = q_setup(state);

	if (r)
		return r;
	snprintf(state_dir, sizeof(state_dir), "%s", q_path("state"));
	q_run("mkdir state; qemu-img create -q -f qcow2 a 1M; qemu-img create -q -f qcow2 -b a -F qcow2 s");
	the_daemon = &d;
	journal_init(state_dir);
	core_register();
	return 0;
}

#define TEST(f) cmocka_unit_test_teardown(f, forget)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(round_trip),	 TEST(numbers_go_on),	  TEST(not_this_boot),
		TEST(damaged),		 TEST(snapshot_was_made), TEST(snapshot_was_not_made),
		TEST(layer_never_came),	 TEST(unknown_layer),	  TEST(left_suspended),
		TEST(start_not_finished), TEST(device_gone),	  TEST(job_ends),
		TEST(job_runs_on),	 TEST(job_was_starting),  TEST(groups_go_on),
		TEST(mirror_goes_on),
	};

	return cmocka_run_group_tests(tests, setup, q_teardown);
}
