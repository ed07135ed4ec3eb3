/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Block nodes: QEMU's word for an opened image layer. A *protocol* node (file,
 * host_device) is where bytes are: a descriptor, its image locks, the block device that
 * the kernel target is given. A *format* node (qcow2, raw) gives them a meaning
 * and has a protocol node as its child `file` and, qcow2 only, a
 * format node as its child `backing`. A *filter* node (fleece.h) shows a format node as it was,
 * and has neither.
 *
 * Owned by the control thread (ctl.h). A node lives as long as someone refers to it:
 * blockdev-add (`monitor`), a parent, an export, a job.
 */
#ifndef LIVECHAIN_NODE_H
#define LIVECHAIN_NODE_H

#include <sys/types.h>

#include "../block/loop.h"
#include "../image/lock.h"
#include "lib/err.h"
#include "lib/json.h"
#include "lib/list.h"
#include "../qcow2/qcow2.h"

#define NODE_NAME_MAX 31
#define NODE_DEPTH_MAX 200 /* images in one chain */

enum node_driver {
	NODE_FILE,
	NODE_HOST_DEVICE,
	NODE_RAW,
	NODE_QCOW2,
	NODE_CBW,    /* copy-before-write */
	NODE_ACCESS, /* snapshot-access */
};

struct node {
	struct list link;	      /* in node_list */
	char name[NODE_NAME_MAX + 1]; /* "#block12" when made up */
	enum node_driver driver;
	bool monitor;	  /* added by blockdev-add, so blockdev-del may end it */
	bool implicit;	  /* raw, made for the use of its file node, as which clients see it */
	bool read_only;
	unsigned parents; /* nodes that have it as child */
	unsigned users;	  /* exports and jobs */
	const char *job;  /* id and ... */
	const char *job_type; /* type of the job that holds it; NULL: none */
	char *filename;	  /* absolute path of the protocol node's file */
	struct node *file, *backing;

	/* protocol nodes */
	int fd;
	dev_t dev; /* identity of the file: against loops in a chain */
	ino_t ino;
	dev_t rdev; /* host_device: the device */
	struct image_lock lock;
	bool lock_adopted; /* the loop device of an earlier daemon holds the locks */
	struct loop_dev loop; /* set up when first used as a layer */
	/* Reopened for writing: what the node was before, for its return (node-reopen.c). */
	bool reopened;
	int ro_fd; /* -1: @fd itself, which can be written through */
	struct loop_dev ro_loop;
	struct image_lock ro_lock;

	/* format nodes */
	uint64_t size; /* virtual, bytes; of protocol nodes: the file's at open */
	struct qio *qio;
	struct qcow2 *img;
	struct qcow2_info info;
	char *backing_name; /* as the header has it; NULL: none */
	bool damage_told;   /* by an event */

	/* filter nodes: what QEMU calls their file; copy-before-write: where the old content goes
	 */
	struct node *filtered, *target;
	bool break_snapshot;
	int64_t cbw_timeout; /* seconds; 0: none; -1: not said */
};

extern struct list node_list;

static inline bool node_is_protocol(const struct node *n)
{
	return n->driver == NODE_FILE || n->driver == NODE_HOST_DEVICE;
}

static inline bool node_is_filter(const struct node *n)
{
	return n->driver == NODE_CBW || n->driver == NODE_ACCESS;
}

/*
 * A protocol node that is used as an image is a raw one: *@n becomes the implicit node above it, made if
 * there is none. Others, and those that have another parent, stay. The new one lives as long as it is used:
 * node_drop_unused() ends those of which that did not come.
 */
int node_as_image(struct node **n, struct err *e);
void node_drop_unused(void);

/* What clients know @n by. */
static inline const struct node *node_shown(const struct node *n)
{
	return n->implicit ? n->file : n;
}

/* The protocol node under @n (itself, if it is one). */
static inline struct node *node_protocol(struct node *n)
{
	while (node_is_filter(n))
		n = n->filtered;
	return node_is_protocol(n) ? n : n->file;
}

const char *node_driver_name(enum node_driver d);

/* NULL if there is none. */
struct node *node_find(const char *name);

struct node_open_flags {
	bool adopt; /* after a restart: the kernel may still hold locks and loop devices */
	dev_t loop; /* ... which of these the state names; 0: none */
};

/*
 * Opens what @opts (BlockdevOptions) describes, with its children. A root of blockdev-add has
 * a name and is marked so. *@ret has no reference yet. On failure nothing is left.
 */
int node_add(struct json *opts, struct node **ret, struct err *e);

/*
 * Of an image that no device of the kernel writes any more: frees what was allocated for one and is
 * not used, if anything is left of that. What fails is logged, and tried at the next opportunity.
 */
void node_settle_unused(struct node *n);

/* As blockdev-del: ends a node that nobody uses. */
int node_del(const char *name, struct err *e);

/* A child as @val says: the name of a node, or options, which @child_ro completes. */
int node_child(struct json *val, bool child_ro, struct node **ret, struct err *e);

/*
 * Opens @filename as format @driver above an unnamed file node, as a child or an overlay
 * would be: @name NULL makes one up; its backing file is not opened. Not a monitor's node.
 */
int node_open_image(enum node_driver driver, const char *filename, const char *name,
		    bool read_only, struct node **ret, struct err *e);

/* Is @n @top or an image below it? */
bool node_chain_has(const struct node *top, const struct node *n);
/*
 * The image below @top that a command means by a file's name: absolute, or relative to the image
 * above it. NULL.
 */
struct node *node_find_backing(struct node *top, const char *file);

/* Does a command mean @n by @file? A relative one is taken from its own folder, or from ours. */
bool node_is_file(const struct node *n, const char *file);
/*
 * Makes a writable image (in use or not) at least @size bytes large; what it gains reads as zeros. -EINVAL,
 * -EOPNOTSUPP: that can't be done with this one.
 */
int node_check_grow(const struct node *n, uint64_t size, struct err *e);
int node_grow(struct node *n, uint64_t size, struct err *e);

/* Opens the chain that the headers below @top name, as blockdev-add does. */
int node_open_header_chain(struct node *top, struct err *e);

/* Makes @backing (NULL: none) the backing child of @n. */
void node_set_backing(struct node *n, struct node *backing);

/* The same for a node that a user names: it must be free, and becomes read-only. */
int node_attach_backing(struct node *n, struct node *backing, struct err *e);

/* Are those of BlockdevOptions that are known, and make no difference, what they have to be? */
int node_check_options(struct json *opts, struct err *e);

/*
 * Drops @n if nobody refers to it any more, and then its children likewise.
 */
void node_put(struct node *n);

/*
 * Turns a format node read-only (it became a backing image): others may read the file from
 * now on, nobody may write it.
 */
int node_make_read_only(struct node *n, struct err *e);

/*
 * The kernel reads and writes a block device past its page cache. Before it begins, what others have
 * written there and not synced is written; when it has ended, or the image is to stay as it is, what
 * they have read meanwhile is forgotten: it may be old. Nothing for files, whose loop devices keep
 * to the rules of direct I/O (I22). May sleep.
 */
void node_drop_cache(struct node *n);

/*
 * No device is made of @top any more. Nodes of its chain that are not in use otherwise give up
 * the loop devices of an earlier daemon, and the locks that came with these, for their own.
 */
void node_retake_locks(struct node *top);

/*
 * The other way, for a job that changes a backing image. Devices that have it as a layer go
 * on with what they have. node_return() undoes it, if it was done; node_stay_writable() keeps it.
 */
int node_make_writable(struct node *n, struct err *e);
int node_return(struct node *n, struct err *e);
void node_stay_writable(struct node *n);
/* For the state folder; @second: it had been read-only before, through a descriptor of its own. */
int node_restore_reopened(struct node *n, bool second, dev_t loop, struct err *e);

/*
 * Writes into the header of @n, which is writable, that @backing (NULL: nothing) is its backing
 * image; as @name instead of the path if that is not NULL. Durable. The chain stays.
 */
int node_write_backing(struct node *n, const struct node *backing, const char *name,
		       struct err *e);

/* The device that the kernel target uses for @n: its own, or a loop device set up now. */
int node_layer_device(struct node *n, dev_t *ret, struct err *e);

/* Tells the loop device under @n that its file has grown. */
int node_update_capacity(struct node *n, struct err *e);

/* A node that has @n as its file, backing file, filtered node or target, and is not @but; or NULL. */
const struct node *node_parent(const struct node *n, const struct node *but);

/*
 * 'Node X is busy: ...' with -EBUSY if a job has it or it is somebody's backing file; -EINVAL if
 * it is not valid any more.
 */
int node_check_free(const struct node *n, struct err *e);

/* The same for what is to be a backing file: of that there may be more users, as nobody writes it. */
int node_check_backing(const struct node *n, struct err *e);

/* -EINVAL with the reason if a commit has made the image invalid. */
int node_check_valid(const struct node *n, struct err *e);

/*
 * Marks the image of @n, which no chain has any more, as invalid, durably: it is refused from now
 * on. A raw image has no place for a mark. What fails is logged.
 */
void node_mark_invalid(struct node *n, const char *why);

/* For the state folder: all nodes, and making them again. */
struct json *node_save(void);
int node_restore(struct json *nodes, struct err *e);

/* For the other node-*.c files. */
struct node *node_new(enum node_driver driver, const char *name);
void node_link(struct node *n);
int node_check_name(const char *name, struct err *e);
int node_file_open(enum node_driver driver, const char *filename, const char *name,
		   bool read_only, struct node_open_flags flags, struct node **ret, struct err *e);
int node_format_open(enum node_driver driver, struct node *file, const char *name, bool read_only,
		     struct node_open_flags flags, struct node **ret, struct err *e);

#endif
