// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util.h"
#include "tool/tool.h"

static const struct tool_cmd commands[] = {
	{ "attach", cmd_attach, "[OPTION]... IMAGE",
	  "Put an image and its chain on /dev/mapper/NAME",
	  "  -n, --name NAME     the disk's name (default: the file's, without .qcow2, .img, .raw)\n"
	  "  -f, --format F      qcow2 (default) or raw; a raw image is never guessed\n"
	  "  -r, --read-only     no writes\n" },
	{ "detach", cmd_detach, "NAME", "Take a disk away and close its images",
	  "Nobody may have the disk open, and no job may run on it.\n" },
	{ "list", cmd_list, "", "Show the disks", NULL },
	{ "chain", cmd_chain, "[NAME]", "Show the images under a disk (all disks), with sizes",
	  NULL },
	{ "snapshot", cmd_snapshot, "[OPTION]... NAME FILE | --all [OPTION]... FOLDER",
	  "Take a live snapshot: FILE is created and takes all writes from now on",
	  "  -n, --node-name N   name of the new node (default: made up)\n"
	  "  -a, --all           of every disk that is written to, at one point in time: in FOLDER\n"
	  "                      NAME-SUFFIX.qcow2 is created for each; all are taken, or none\n"
	  "      --suffix TEXT   (default: the time)\n"
	  "      --dry-run       say what would be done: chains and tables before and after\n" },
	{ "backup", cmd_backup, "[OPTION]... NAME TARGET",
	  "Copy a disk as it is now to TARGET, while it is used",
	  "  -f, --format F      of TARGET: qcow2 (default) or raw\n"
	  "      --create        TARGET must not exist; it is made (the default when it does not)\n"
	  "      --existing      overwrite TARGET: a file in that format, or a block device\n"
	  "      --force         overwrite a raw TARGET that has a file system or the like on it\n"
	  "      --speed BYTES   at most so many a second (suffixes k, M, G)\n"
	  "      --job-id ID     (default: backup-NAME)\n"
	  "      --no-wait       return when the job has started\n"
	  "      --dry-run       say what would be done: chain and tables before and after\n"
	  "\nWaiting, Ctrl-C cancels the job; once more leaves it to the daemon.\n" },
	{ "mirror", cmd_mirror, "[OPTION]... NAME TARGET",
	  "Move a disk to TARGET while it is used, or keep a copy of it equal until the end",
	  "      --pivot         when both are equal the disk goes on as TARGET\n"
	  "      --finish        when both are equal the job ends: TARGET is the disk of that moment\n"
	  "      --write-blocking  what guests write is on both before it is acknowledged\n"
	  "  -f, --format F      of TARGET: qcow2 (default) or raw\n"
	  "      --create, --existing, --force, --speed BYTES, --job-id ID, --no-wait, --dry-run\n"
	  "                      as for backup; --job-id's default is mirror-NAME\n" },
	{ "stream", cmd_stream, "[OPTION]... NAME",
	  "Copy data of lower images into a higher one; those between leave the chain",
	  "  -t, --top IMAGE     that takes the data (default: the active one)\n"
	  "  -b, --base IMAGE    the image that it is based on then (default: none)\n"
	  "      --speed BYTES, --job-id ID, --no-wait, --dry-run\n"
	  "                      as for backup; --job-id's default is stream-NAME\n" },
	{ "commit", cmd_commit, "[OPTION]... NAME",
	  "Copy data of higher images into a lower one; they leave the chain and are invalid",
	  "  -t, --top IMAGE     the highest that is committed (default: the active one)\n"
	  "  -b, --base IMAGE    that takes the data (default: the lowest)\n"
	  "      --speed BYTES, --job-id ID, --no-wait, --dry-run\n"
	  "                      as for backup; --job-id's default is commit-NAME\n"
	  "\nCommitting the active image, with --no-wait, it waits for livechain job complete.\n" },
	{ "jobs", cmd_jobs, "", "Show the block jobs", NULL },
	{ "job", cmd_job, "VERB JOB [VALUE]",
	  "Control a job: pause, resume, cancel, complete, finish, finalize, dismiss, speed BYTES",
	  "  complete      a ready mirror or commit: the disk goes on as the target\n"
	  "  finish        a ready mirror: it ends, the target is the disk of that moment\n"
	  "  speed BYTES   at most so many bytes a second (suffixes k, M, G; 0: no limit)\n"
	  "  dismiss       forget a concluded job (and the target node that backup made)\n" },
	{ "qmp", cmd_qmp, "COMMAND [ARGUMENTS] | '{...}' | -",
	  "Send a QMP command and print the answer",
	  "  COMMAND [ARGUMENTS]  prints what it returns; ARGUMENTS is a JSON object\n"
	  "  '{\"execute\": ...}'   sent as it is; the whole answer is printed\n"
	  "  -                    the same for each JSON object on standard input\n" },
};

static void print_overview(FILE *f)
{
	fputs("Usage: livechain [-s SOCKET] [--json] COMMAND ...\n\n"
	      "Live block operations on disks of qcow2 chains, by livechaind.\n\n",
	      f);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(f, "  %-10s%s\n", commands[i].name, commands[i].summary);
	fputs("\n  -s, --socket PATH   the daemon's QMP socket (" TOOL_DEFAULT_SOCKET ")\n"
	      "      --json          print one line of JSON\n"
	      "  -V, --version\n"
	      "  -h, --help          also after a command\n\n"
	      "Exit status: 0 done, 1 failed, 2 wrong use, 3 job cancelled, 4 not found,\n"
	      "5 the daemon can't be reached.\n",
	      f);
}

static int usage_error(const char *what, const char *arg)
{
	fprintf(stderr, "livechain: %s%s%s%s (see livechain --help)\n", what, arg ? " '" : "",
		arg ? arg : "", arg ? "'" : "");
	return TOOL_EXIT_USAGE;
}

/* Options before the subcommand. -1 to go on, else the exit status. */
static int global_options(struct tool *t, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "version", no_argument, NULL, 'V' },
		TOOL_OPTIONS,
	};
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:s:hV", longs, NULL)) != -1) {
		if (c == 's') {
			t->socket = optarg;
		} else if (c == 'j') {
			t->json = true;
		} else if (c == 'h') {
			print_overview(stdout);
			return TOOL_EXIT_OK;
		} else if (c == 'V') {
			puts("livechain " LIVECHAIN_VERSION);
			return TOOL_EXIT_OK;
		} else {
			return usage_error(c == ':' ? "no value for option" : "unknown option",
					   argv[optind - 1]);
		}
	}
	return -1;
}

static void print_error(const struct tool *t, const struct err *e)
{
	if (e->code == EREMOTEIO || e->cls != ERR_GENERIC)
		fprintf(stderr, "livechain: %s: %s\n", err_class_name(e->cls), e->msg);
	else
		fprintf(stderr, "livechain: %s\n", e->msg);
	if (t->json)
		tool_print_json(json_pack("{s:{s:s, s:s}, s:i}", "error", "class",
					  err_class_name(e->cls), "desc", e->msg, "exit-status",
					  tool_exit_status(e)));
}

int main(int argc, char **argv)
{
	struct tool t = { .socket = TOOL_DEFAULT_SOCKET };
	struct err e = ERR_INIT;
	int r = global_options(&t, argc, argv);

	if (r >= 0)
		return r;
	if (optind >= argc)
		return usage_error("no command given", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (streq(argv[optind], commands[i].name))
			t.cmd = &commands[i];
	if (!t.cmd)
		return usage_error("unknown command", argv[optind]);
	argc -= optind;
	argv += optind;
	optind = 0; /* start over in the subcommand's own arguments */
	r = t.cmd->run(&t, argc, argv, &e);
	qmp_client_close(t.client);
	if (!r)
		return fflush(stdout) || ferror(stdout) ? TOOL_EXIT_FAILED : TOOL_EXIT_OK;
	if (!e.code)
		err_set(&e, -r, "%s", strerror(-r));
	print_error(&t, &e);
	return tool_exit_status(&e);
}
