/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A view: one mapped device of target `livechain` and what the daemon does for it. The same for a
 * guest's disk, for a backup's target and for a source that nobody has
 * exported; these last two are *internal*: their device has a name that says so.
 *
 * The contract with the kernel is Documentation/admin-guide/dm-livechain.rst.
 *
 * Control thread: all of view.c. Its blocking dm calls (resume, suspend, remove) must not be
 * made with @lock held. The service (service.c) runs on a thread of its own for each view and
 * takes @lock for one batch of work at a time.
 */
#ifndef LIVECHAIN_VIEW_H
#define LIVECHAIN_VIEW_H

#include <pthread.h>

#include "../block/dm.h"
#include "lib/list.h"
#include "lib/worker.h"
#include "node.h"

#define VIEW_JOBS_MAX 16
#define VIEW_NONE (-1) /* no active layer */

struct view_layer {
	int id;
	struct node *node; /* NULL: a destination that is a device (another view's) */
	dev_t devno;
	bool dest; /* a copy's destination, not part of the chain */
	uint64_t last_grant;
};

/* A job as the kernel's status line tells it. */
struct view_job {
	char id[64];
	char state[16];
	uint64_t done, total, speed;
	char result[48];
};

struct view_status {
	uint64_t generation;
	char mode[8];
	int active;
	uint64_t loaded, slices, map_bytes, unrecorded, parked;
	struct {
		int id;
		uint64_t entries, last_grant, free;
		bool clean;
	} layers[256];
	unsigned nr_layers;
	struct view_job jobs[VIEW_JOBS_MAX];
	unsigned nr_jobs;
};

/* Slices that were loaded with errors because an L2 table could not be read. */
struct view_lost {
	uint64_t slice, n;
	uint64_t since; /* ev_now_ms() */
};

struct view {
	struct list link; /* in view_list */
	char *dm;	  /* name under /dev/mapper */
	char *kname;	  /* name of the view in the kernel */
	char *uuid;	  /* without prefix */
	bool internal;
	bool writable;
	bool adopted; /* from an earlier daemon, which may have left clusters allocated */
	uint64_t held_at; /* ev_now_ms() when its device was suspended; 0: it is not, by us */
	uint32_t udev;	  /* dm_resume_now()'s cookie */
	bool stale;   /* its live table has a layer that we do not know */
	struct node *top;
	struct node *next_top; /* the overlay that the transaction under way makes its top */
	uint64_t sectors;
	uint32_t block; /* sectors */
	unsigned jobs;	/* that copy from it */

	pthread_mutex_t lock; /* what follows */
	struct view_layer *layers;
	unsigned nr_layers;
	int active; /* layer id, or VIEW_NONE */
	int next_id;
	uint64_t generation;
	uint64_t ahead;	       /* slices below are loaded, or were asked for */
	uint64_t ahead_batch;  /* slices of the next message */
	uint64_t ahead_tables; /* L2 tables that may still be made ahead of their use */
	bool nospace;	       /* the image's place is full; retried */
	char trouble[ERR_MSG_MAX]; /* last said of a request that could not be served */
	bool failed;	       /* the kernel has made it read-only */
	bool ending;	       /* nobody's any more, but its device was open: view_settle_ends() */
	bool held;	       /* the service leaves it alone: its device changes hands */
	bool strict;	       /* damage ends a load; otherwise it is loaded as errors */
	struct view_lost *lost; /* what could not be read, and is tried again */
	unsigned nr_lost;
	struct view_job seen[VIEW_JOBS_MAX]; /* job states when last asked */
	unsigned nr_seen;

	bool ready; /* set up: the service may look at it; under the core lock */

	/* loop thread */
	struct worker_queue *service;
	bool service_busy, service_again, service_more, service_retry;
	bool dead;
	struct ev_timer *retry;
};

struct strbuf;

extern struct list view_list;

/* By name of its device; NULL if there is none. */
struct view *view_find(const char *dm);
/* The view whose chain's top is @n, or is about to be; NULL. Not one that ends. */
struct view *view_of_top(const struct node *n);
/* One of @top that ends, as soon as nobody has its device open; NULL. */
struct view *view_ending(const struct node *top);
/* -EBUSY, with a sentence, if there is one. */
int view_check_ended(const struct node *top, struct err *e);

/*
 * Makes /dev/mapper/@dm from the chain under @top, writable or not, with its first slices
 * loaded and, when writable, space granted. @top gets a user. On failure nothing is left.
 */
int view_start(struct node *top, const char *dm, bool writable, bool internal, struct view **ret,
	       struct err *e);

/*
 * Ends it: commits, takes unused grants back, removes the device. -EBUSY while someone has the
 * device open: a disk is as it was; an internal one, after a moment's wait, is @ending: it can be
 * read, its image is free for others, its owner may forget it.
 */
int view_stop(struct view *v, struct err *e);

/* Tries again what could not be taken down: layers that are in live tables still, views that end.
 */
void view_settle_ends(void);

/* Forgets the view and leaves the device as it is (the daemon ends, the guest goes on). */
void view_abandon(struct view *v);

/* Loop thread: frees ended views whose service is idle. */
void view_reap(void);

/* Adds a layer and makes a table with it live. The layer's id is >= 0. */
int view_add_layer(struct view *v, struct node *node, dev_t devno, bool dest, struct err *e);
/* Makes a table without the layer live (no entry may name it). */
int view_drop_layer(struct view *v, int id, struct err *e);

/*
 * Zeros that are written to the layer are to be found in its image, though they would be read
 * without that: it has, or will be given, a backing file that @v does not know.
 */
int view_say_zeros(struct view *v, int id, struct err *e);

/* Tells the kernel how @id is written, with its tables and a first grant. */
int view_prepare_active(struct view *v, int id, struct err *e);

/*
 * Suspends with little left to commit; resumes. Where several are held together each is
 * settled first, so that none is held while another one commits.
 */
void view_settle(struct view *v);
int view_suspend_now(struct view *v, struct err *e);
int view_suspend(struct view *v, struct err *e);
int view_resume(struct view *v, struct err *e);
/* In two steps: the guest goes on when the first returns; the second may wait for udev. */
int view_resume_now(struct view *v, struct err *e);
void view_resume_wait(struct view *v);

/* With @r of a suspend or resume: -ESTALE, and a sentence, if somebody else did one just then. */
int view_disturbed(struct view *v, int r, struct err *e);
/*
 * Is @r the doing of others who suspend and resume the device, so that it may be tried again, now?
 * Not for ever: *@tries counts, from 0 on.
 */
bool view_try_again(int r, unsigned *tries);

/* Makes a table with the layers as they are now live, though others may suspend and resume too. */
int view_reload(struct view *v, struct err *e);

/* Takes what the kernel has not used of the layer's grants and frees it. */
int view_reclaim(struct view *v, int id, struct err *e);

/*
 * For an image that nobody writes any more: frees what an earlier daemon had
 * allocated and not granted. Nothing to do if there was none.
 */
int view_recover(struct view *v, struct node *n, struct err *e);

/* Waits until every slice of the map is loaded (the service loads it). */
int view_wait_loaded(struct view *v, struct err *e);

int view_message(struct view *v, struct err *e, char **reply, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int view_get_status(struct view *v, struct view_status *ret, struct err *e);

struct view_layer *view_layer(struct view *v, int id);
struct view_layer *view_layer_of(struct view *v, const struct node *n);

/* Has @n's chain anything to do with @v? */
bool view_has_node(const struct view *v, const struct node *n);
/* The disk (not internal) in whose chain @n is; NULL. The first, if there are several. */
struct view *view_of_chain(const struct node *n);

/* view-chain.c ------------------------------------------------------------ */

/* No service thread looks at any chain in between. Held for memory accesses only. */
void views_lock_all(void);
void views_unlock_all(void);

/* Makes @backing the backing child of @n, for all views at one instant. */
void views_set_backing(struct node *n, struct node *backing);

/*
 * The images of @nodes have left the chain of @v (views_set_backing()): entries that still name
 * them are replaced by what the chain says now, then the live table loses them.
 */
int view_forget_nodes(struct view *v, struct node *const *nodes, unsigned n, struct err *e);
/* For every view in whose chain @in is. */
int views_forget_nodes(const struct node *in, struct node *const *nodes, unsigned n, struct err *e);

/* view-pivot.c ------------------------------------------------------------ */

/*
 * While the guest works still: the table with which the disk goes on. Then either
 * view_pivot() or view_pivot_cancel(), before anything else resumes the disk.
 */
int view_pivot_prepare(struct view *disk, struct view *target, struct err *e);
void view_pivot_cancel(struct view *disk);
/*
 * @disk, which is suspended and prepared, becomes @target: the guest's device goes on with the
 * target's map and layers. All of the target is loaded and durable, and its content is the disk's.
 * On success @target is the disk (name, export) and is live, and @disk is left to view_end(). On
 * failure both are live as before.
 */
int view_pivot(struct view *disk, struct view *target, struct err *e);
/* The end of what view_pivot() left. */
int view_end(struct view *v, struct err *e);

struct json *view_save(void);
/* Takes up what a former daemon left; a device that is gone is skipped, with a line in the log. */
int view_restore(struct json *views, struct err *e);

/* Drops what the live table has and we do not know, if there is any. */
int view_drop_unknown_layers(struct view *v, struct err *e);

/* For view-state.c. */
struct view *view_alloc(const char *dm, const char *kname, const char *uuid);
void view_free(struct view *v);
int view_push_layer(struct view *v, struct node *node, dev_t devno, bool dest);
void view_pop_layer(struct view *v, int id);
void view_link(struct view *v, struct node *top);
int view_refresh(struct view *v, struct err *e);
void view_unlink(struct view *v);

/* view-table.c ------------------------------------------------------------ */

/* @ret: to be ended with dm_table_done(). */
int view_make_table(const struct view *v, struct dm_table *ret, struct err *e);
/* Puts a table with the layers as they are now into the inactive slot. */
int view_load_table(struct view *v, struct err *e);
/* ... of the device @dm. */
int view_load_table_into(struct view *v, const char *dm, struct err *e);
/* Is the live table the one with the layers as they are now? -ESTALE: another. */
int view_check_table(struct view *v, struct err *e);

/* service.c ------------------------------------------------------------- */

/* Loop thread. Has the service look what the kernel wants. */
void service_kick(struct view *v);
/* The same for every view, those included that have just been made. */
void service_kick_all(void);

/* The steps of it that view.c needs at once; with @v->lock held. */
int service_load(struct view *v, uint64_t first_slice, uint64_t n, struct err *e);
int service_homes(struct view *v, int id, uint64_t guest_off, uint64_t len, struct err *e);
int service_grant(struct view *v, int id, uint64_t bytes, struct err *e);

/*
 * The metadata of @n for [@off, @off + @len) of the guest's disk is damaged (EUCLEAN), or could not
 * be read: it is loaded as an error. Tells clients, once for an image. What could not be read is
 * tried again. With @v->lock held.
 */
void service_damage(struct view *v, struct node *n, uint64_t off, uint64_t len,
		    const struct err *e);

/* What service.c tells of a view's jobs: called on the loop after each look. */
extern void (*service_jobs_changed)(struct view *v);

/* map-runs.c -------------------------------------------------------------- */

/* Appends the runs of the map message for a range (bytes) to @out. @v->lock is held. */
int map_runs(struct view *v, uint64_t off, uint64_t len, struct strbuf *out, struct err *e);
/* The same as seen from @n, an image of the chain. */
int map_runs_below(struct view *v, struct node *n, uint64_t off, uint64_t len, struct strbuf *out,
		   struct err *e);

/* status-parse.c: the words of a status line. -EPROTO and a sentence on what does not fit. */
int view_status_parse(const char *text, struct view_status *ret, struct err *e);

#endif
