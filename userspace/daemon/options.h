/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line: qemu-storage-daemon's options and a few of our own. */
#ifndef LIVECHAIN_OPTIONS_H
#define LIVECHAIN_OPTIONS_H

#include <stdbool.h>
#include <stdio.h>

#include "lib/err.h"
#include "lib/json.h"
#include "lib/log.h"

#define DEFAULT_QMP_PATH  "/run/livechain/qmp.sock"
#define DEFAULT_STATE_DIR "/var/lib/livechain"

struct option_chardev {
	char *id, *path;
	bool server;
	unsigned reconnect_s;
};

/* A --blockdev or --export, as it was given. */
struct option_item {
	struct json *opts;
	bool keyval; /* leaves are strings, still to be converted */
	char *text;
};

struct options {
	struct option_chardev *chardevs;
	size_t nr_chardevs;
	char **monitors; /* chardev ids */
	size_t nr_monitors;
	struct option_item *blockdevs;
	size_t nr_blockdevs;
	struct option_item *exports;
	size_t nr_exports;
	char *qmp; /* a listening socket of its own; NULL: none */
	char *pidfile;
	char *state_dir;
	char *name;
	bool daemonize;
	enum log_level log_level;
};

/*
 * Fills @o, checks what can be checked before anything is started (each monitor's
 * chardev exists, ids are unique). Relative paths of ours are made absolute. Returns 0 to go
 * on, 1 if --help or --version was answered on @out, -EINVAL with a sentence.
 */
int options_parse(struct options *o, int argc, char **argv, FILE *out, struct err *e);
void options_done(struct options *o);

#endif
