// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "../lib/log.h"
#include "core.h"
#include "ctl.h"
#include "export.h"
#include "fleece.h"
#include "job.h"
#include "journal.h"
#include "node.h"
#include "state.h"
#include "view.h"

#define STATE_FORMAT 1
#define STATE_MAX    (64u << 20)

static char boot[64] = "unknown";

static void read_boot_id(void)
{
	_cleanup_free_ char *id = NULL;
	size_t len;

	if (!read_file("/proc/sys/kernel/random/boot_id", sizeof(boot) - 1, &id, &len, NULL))
		snprintf(boot, sizeof(boot), "%.*s", (int)strcspn(id, "\n"), id);
}

static const char *boot_id(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, read_boot_id);
	return boot;
}

int state_save(struct err *e)
{
	_cleanup_free_ char *path = path_join(the_daemon->state_dir, "state.json");
	_cleanup_free_ char *text = NULL;
	_cleanup_json_ struct json *j =
		json_pack("{s:i, s:s, s:o, s:o, s:o, s:o}", "format", STATE_FORMAT, "boot",
			  boot_id(), "nodes", node_save(), "views", view_save(), "exports",
			  export_save(), "jobs", job_save());
	int r;

	text = json_text(j);
	r = write_file_durably(path, text, strlen(text), 0600, e);
	if (r)
		err_prefix(e, "Can't keep the state");
	return r;
}

static int check_state(struct json *j, struct err *e)
{
	int64_t format = 0;

	if (!json_int_of(json_get(j, "format"), &format) || format != STATE_FORMAT)
		return err_set(e, EINVAL,
			       "state.json is of another version; end what runs with the daemon that wrote it, or remove the file");
	return 0;
}

/*
 * The file has an overlay's backing node before the overlay is active. One that did not
 * become that has none, as before the command: else it could never be an overlay again.
 */
static void undo_backing(void)
{
	struct node *n;

	list_for_each(n, &node_list, link) {
		struct view *v = n->backing ? view_of_top(n->backing) : NULL;

		if (v && v->writable && !v->internal)
			node_set_backing(n, NULL);
	}
}

/* An image that a job had opened for writing is a backing image again, if there is no such job. */
static void return_nodes(void)
{
	struct node *n;

	list_for_each(n, &node_list, link) {
		struct err e = ERR_INIT;

		if (n->file && n->file->reopened && !n->job && node_return(n, &e))
			log_warn("'%s': %s", n->file->filename, e.msg);
		err_clear(&e);
	}
}

/* What a command was about to do when the daemon died, and can't be gone on with. */
static void drop_leftovers(void)
{
	struct node *n;
	struct view *v;

	job_drop_leftovers();
	list_for_each(v, &view_list, link) {
		struct err e = ERR_INIT;

		if (view_drop_unknown_layers(v, &e))
			log_warn("'%s': %s", v->dm, e.msg);
		err_clear(&e);
		if (!export_of(v) && !job_uses_view(v) && view_stop(v, &e))
			log_warn("leftover device '%s': %s", v->dm, e.msg);
	}
	return_nodes();
	undo_backing();
	for (bool again = true; again;) {
		again = false;
		list_for_each(n, &node_list, link) {
			if (n->monitor || n->parents || n->users)
				continue;
			/* the daemon died after its device was gone, and before this */
			node_settle_unused(n);
			node_put(n);
			again = true;
			break;
		}
	}
}

/* The daemon died before its file named the image's node: a snapshot that was about to be made. */
static void settle_unknown(const char *image)
{
	struct err e = ERR_INIT;
	struct node *n;

	list_for_each (n, &node_list, link) {
		if (n->filename && streq(n->filename, image))
			return;
	}
	if (!node_open_image(NODE_QCOW2, image, NULL, false, &n, &e)) /* which recovers it */
		node_put(n);
	else
		log_notice(
			"space that a crash left allocated is given back when '%s' is next used: %s",
			image, e.msg);
	err_clear(&e);
}

static int restore_all(struct json *j, struct err *e)
{
	struct node *n;
	int r;

	r = node_restore(json_get(j, "nodes"), e);
	if (!r)
		r = view_restore(json_get(j, "views"), e);
	if (!r)
		r = export_restore(json_get(j, "exports"), e);
	if (!r)
		r = job_restore(json_get(j, "jobs"), e);
	if (!r) {
		drop_leftovers();
		job_go_on();
		fleece_settle();
		list_for_each(n, &node_list, link) {
			if (!n->users && !n->parents)
				node_settle_unused(n);
		}
		journal_each(settle_unknown);
	}
	return r;
}

static struct json *entry(struct json *arr, const char *key, const char *value)
{
	for (size_t i = 0; value && i < json_len(arr); i++) {
		const char *got = json_str_of(json_get(json_at(arr, i), key));

		if (got && streq(got, value))
			return json_at(arr, i);
	}
	return NULL;
}

static const char *member(struct json *j, const char *key)
{
	return j ? json_str_of(json_get(j, key)) : NULL;
}

/* After a pivot that no client was told of the file alone says which image is active (I16). */
static void tell_images(struct json *j)
{
	struct json *exports = json_get(j, "exports"), *nodes = json_get(j, "nodes");

	for (size_t i = 0; i < json_len(exports); i++) {
		struct json *x = json_at(exports, i);
		struct json *view = entry(json_get(j, "views"), "dm", member(x, "dm"));
		struct json *top = entry(nodes, "name", member(view, "top"));
		const char *file = member(entry(nodes, "name", member(top, "file")), "filename");

		if (file)
			log_notice("the disk '%s' was on '%s'", member(x, "dm"), file);
	}
}

int state_restore(struct err *e)
{
	_cleanup_free_ char *path = path_join(the_daemon->state_dir, "state.json");
	_cleanup_free_ char *text = NULL;
	_cleanup_json_ struct json *j = NULL;
	const char *saved;
	size_t len;
	int r;

	if (access(path, F_OK))
		return 0;
	r = read_file(path, STATE_MAX, &text, &len, e);
	if (r)
		return r;
	j = json_parse(text, len, e);
	if (!j) {
		err_prefix(e, "'%s'", path);
		return -EINVAL;
	}
	saved = json_str_of(json_get(j, "boot"));
	if (!saved || !streq(saved, boot_id())) {
		log_notice("the machine was started anew: nodes and devices of the last run are gone");
		tell_images(j);
		return 0;
	}
	r = check_state(j, e);
	return r ? r : restore_all(j, e);
}
