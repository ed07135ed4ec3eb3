// SPDX-License-Identifier: GPL-2.0-or-later
/* The tool's subcommands against a daemon that says what the test tells it to. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/jsonstream.h"
#include "lib/util.h"
#include "tool/disk.h"
#include "tool/print.h"
#include "tool/progress.h"

/* ---- the daemon ------------------------------------------------------------ */

#define GREETING     "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0}}, \"capabilities\": []}}\r\n"
#define EMPTY	     "{\"return\": {}}"
#define HANG_UP	     "hang up" /* instead of an answer: the connection breaks */
#define SIGINT_FIRST "^C"      /* before an answer: the user's Ctrl-C */

/* The answers to a command, one after the other; the last one again and again. */
struct answers {
	const char *command;
	const char *text[8];
	int next;
};

static struct {
	char path[100];
	int listener;
	pthread_t thread, user;
	struct answers answers[16];
	char log[16384]; /* the requests, one per line */
} d;

static char dir[] = "/var/tmp/livechain-tool-XXXXXX";

static const char *answer_for(const char *command)
{
	for (struct answers *a = d.answers; a->command; a++) {
		const char *text = a->text[a->next];

		if (!streq(a->command, command))
			continue;
		if (a->next + 1 < 8 && a->text[a->next + 1])
			a->next++;
		return text;
	}
	return EMPTY;
}

/* False: the connection is to end. */
static bool serve_one(int fd, const struct json *request)
{
	const char *command = json_str_of(json_get(request, "execute"));
	_cleanup_free_ char *text = json_text(request);
	const char *answer;

	if (!streq(command, "qmp_capabilities")) {
		strcat(d.log, text);
		strcat(d.log, "\n");
	}
	answer = answer_for(command);
	if (streq(answer, HANG_UP))
		return false;
	if (str_has_prefix(answer, SIGINT_FIRST)) {
		pthread_kill(d.user, SIGINT);
		answer += strlen(SIGINT_FIRST);
	}
	return write_all(fd, answer, strlen(answer)) == 0 && write_all(fd, "\r\n", 2) == 0;
}

static void serve_client(int fd)
{
	static const struct json_limits limits = JSON_LIMITS_DEFAULT;
	struct json_stream *s = json_stream_new(&limits);
	bool go_on = write_all(fd, GREETING, strlen(GREETING)) == 0;
	char c;

	while (go_on && read(fd, &c, 1) == 1) {
		_cleanup_json_ struct json *request = NULL;
		size_t used;

		if (json_stream_feed(s, &c, 1, &used, &request, NULL) == 1)
			go_on = serve_one(fd, request);
	}
	json_stream_free(s);
	close(fd);
}

static void *serve(void *arg)
{
	int fd;

	(void)arg;
	while ((fd = accept(d.listener, NULL, NULL)) >= 0)
		serve_client(fd);
	return NULL;
}

static int setup(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	(void)state;
	memset(&d, 0, sizeof(d));
	snprintf(d.path, sizeof(d.path), "%s/qmp", dir);
	strcpy(addr.sun_path, d.path);
	unlink(d.path);
	d.user = pthread_self();
	d.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(d.listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(d.listener, 4))
		return -1;
	return pthread_create(&d.thread, NULL, serve, NULL);
}

static int teardown(void **state)
{
	(void)state;
	shutdown(d.listener, SHUT_RDWR);
	pthread_join(d.thread, NULL);
	close(d.listener);
	unlink(d.path);
	return 0;
}

static void says(const char *command, const char *first, const char *then, const char *last)
{
	struct answers *a = d.answers;

	while (a->command && !streq(a->command, command))
		a++;
	*a = (struct answers){ command, { first, then, last }, 0 };
}

#define EXPORTS                                                                                        \
	"{\"return\": [{\"id\": \"e1\", \"type\": \"dm\", \"node-name\": \"top\", \"name\": \"vm1\", " \
	"\"shutting-down\": false, \"writable\": true}, {\"id\": \"n\", \"type\": \"nbd\", \"node-name\": \"x\", \"shutting-down\": false}]}"
#define IMAGE(file, size, below)                                                      \
	"{\"filename\": \"" file "\", \"format\": \"qcow2\", \"virtual-size\": " size \
	", \"actual-size\": 1536" below "}"
#define NODE(name, file, image)                                               \
	"{\"node-name\": \"" name "\", \"drv\": \"qcow2\", \"file\": \"" file \
	"\", \"image\": " image "}"
#define BASE IMAGE("/i/a", "8388608", "")
#define NODES                                                                                                       \
	"{\"return\": [" NODE("#block7", "/i/b", IMAGE("/i/b", "8388608", ", \"backing-image\": " BASE)) ", " NODE( \
		"top", "/i/c",                                                                                      \
		IMAGE("/i/c", "8388608",                                                                            \
		      ", \"backing-image\": " IMAGE(                                                                \
			      "/i/b", "8388608",                                                                    \
			      ", \"backing-image\": " BASE))) ", " NODE("root", "/i/a", BASE) "]}"
#define JOB(status, offset, more)                                                                \
	"{\"return\": [{\"device\": \"backup-vm1\", \"type\": \"backup\", \"status\": \"" status \
	"\", \"len\": 8388608, \"offset\": " offset ", \"speed\": 0, \"io-status\": \"ok\"" more \
	"}]}"

static void has_disk(void)
{
	says("query-block-exports", EXPORTS, NULL, NULL);
	says("query-named-block-nodes", NODES, NULL, NULL);
}

/* ---- running a subcommand ---------------------------------------------------- */

static char out[8192]; /* what it wrote to stdout */

static int run_tool(int (*cmd)(struct tool *, int, char **, struct err *), bool json, struct err *e,
		    ...)
{
	static const struct tool_cmd info = { "test", NULL, "", "", NULL };
	struct tool t = { .socket = d.path, .json = json, .cmd = &info };
	char *argv[12] = { (char *)(uintptr_t) "test" };
	int argc = 1, r, saved = dup(1), fd;
	char path[] = "/tmp/livechain-tool-out-XXXXXX";
	ssize_t n;
	va_list ap;

	va_start(ap, e);
	while ((argv[argc] = va_arg(ap, char *)))
		argc++;
	va_end(ap);
	fd = mkstemp(path);
	unlink(path);
	fflush(stdout);
	dup2(fd, 1);
	optind = 0;
	r = cmd(&t, argc, argv, e);
	qmp_client_close(t.client);
	fflush(stdout);
	dup2(saved, 1);
	close(saved);
	n = pread(fd, out, sizeof(out) - 1, 0);
	out[n < 0 ? 0 : n] = '\0';
	close(fd);
	return r;
}

#define RUN(cmd, json, e, ...) run_tool(cmd, json, e, ##__VA_ARGS__, NULL)

static void sent(const char *what)
{
	if (!strstr(d.log, what))
		fail_msg("not sent: %s\nsent:\n%s", what, d.log);
}

static void not_sent(const char *what)
{
	if (strstr(d.log, what))
		fail_msg("sent: %s\n%s", what, d.log);
}

/* ---- text ----------------------------------------------------------------------- */

static void sizes_and_times(void **state)
{
	char s[SIZE_TEXT], t[TIME_TEXT];

	(void)state;
	assert_string_equal(print_size(0, s), "0 B");
	assert_string_equal(print_size(1023, s), "1023 B");
	assert_string_equal(print_size(1024, s), "1.00 KiB");
	assert_string_equal(print_size(1536ull << 20, s), "1.50 GiB");
	assert_string_equal(print_size((1ull << 30) - 1, s), "1.00 GiB");
	assert_string_equal(print_size(200ull << 30, s), "200.0 GiB");
	assert_string_equal(print_size(UINT64_MAX, s), "16.00 EiB");
	assert_string_equal(print_time(5, t), "0:05");
	assert_string_equal(print_time(754, t), "12:34");
	assert_string_equal(print_time(11045, t), "3:04:05");
	assert_string_equal(print_time(-1, t), "-");
}

static void progress_has_rate_and_time_left(void **state)
{
	struct progress p;
	char line[200];
	FILE *null = fopen("/dev/null", "w");
	int i;

	(void)state;
	progress_init(&p, "j", null, true);
	for (i = 0; i <= 50; i++)
		progress_update(&p, (uint64_t)i << 20, 200 << 20, 1000 + i * 1000);
	assert_string_equal(progress_line(&p, 50 << 20, 200 << 20, false, line, sizeof(line)),
			    " 25.0%  50.00 MiB of 200.0 MiB  1.00 MiB/s  2:30 left");
	progress_line(&p, 200 << 20, 200 << 20, true, line, sizeof(line));
	assert_non_null(strstr(line, "[########################] 100.0%"));
	assert_null(strstr(line, "left"));
	/* Nothing to copy is all copied; more than all is all. */
	assert_non_null(strstr(progress_line(&p, 0, 0, false, line, sizeof(line)), "100.0%"));
	assert_non_null(strstr(progress_line(&p, 9, 8, false, line, sizeof(line)), "100.0%"));
	fclose(null);
}

static void progress_prints_few_lines_without_a_terminal(void **state)
{
	struct progress p;
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	int i, lines = 0;

	(void)state;
	progress_init(&p, "j", f, false);
	for (i = 0; i <= 1000; i++)
		progress_update(&p, i, 1000, i * 500);
	fclose(f);
	for (char *c = text; *c; c++)
		lines += *c == '\n';
	/* 500 s: each tenth, and one every 30 s in between. */
	assert_in_range(lines, 11, 28);
	assert_non_null(strstr(text, "j: 100.0%"));
	assert_null(strchr(text, '\r'));
	free(text);
}

static void fast_progress_is_two_lines(void **state)
{
	struct progress p;
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	int i;

	(void)state;
	progress_init(&p, "j", f, false);
	for (i = 0; i <= 1000; i++)
		progress_update(&p, i, 1000, i / 10);
	fclose(f);
	assert_string_equal(text, "j:   0.0%  0 B of 1000 B\nj: 100.0%  1000 B of 1000 B\n");
	free(text);
}

static void ids_are_made_of_names(void **state)
{
	_cleanup_free_ char *a = make_id("", "vm1-disk0", 31);
	_cleanup_free_ char *b = make_id("", "0:1+x", 31);
	_cleanup_free_ char *c =
		make_id("backup-", "a-name-that-is-much-longer-than-a-node-may-have", 31);
	_cleanup_free_ char *other =
		make_id("backup-", "a-name-that-is-much-longer-than-a-node-may-be", 31);

	(void)state;
	assert_string_equal(a, "vm1-disk0");
	assert_true(id_wellformed(b, 31));
	assert_true(id_wellformed(c, 31));
	assert_true(id_wellformed(other, 31));
	assert_string_not_equal(c, other);
}

static void paths_become_absolute(void **state)
{
	_cleanup_free_ char *a = NULL;
	char want[PATH_MAX + 10], here[PATH_MAX];

	(void)state;
	assert_int_equal(absolute_path("new.qcow2", &a, NULL), 0);
	assert_non_null(getcwd(here, sizeof(here)));
	snprintf(want, sizeof(want), "%s/new.qcow2", here);
	assert_string_equal(a, want);
	free(take_ptr(a));
	assert_int_equal(absolute_path("/x", &a, NULL), 0);
	assert_string_equal(a, "/x");
	free(take_ptr(a));
	assert_int_equal(absolute_path("/nonexistent/dir/x", &a, NULL), -ENOENT);
	assert_int_equal(absolute_path("/tmp/", &a, NULL), -EINVAL);
}

/* ---- subcommands ---------------------------------------------------------------- */

static void no_daemon_is_said(void **state)
{
	struct tool t = { .socket = "/nonexistent/qmp" };
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(tool_qmp(&t, "query-jobs", NULL, NULL, &e), -ENOTCONN);
	assert_non_null(strstr(e.msg, "'/nonexistent/qmp'"));
	assert_non_null(strstr(e.msg, "is livechaind running?"));
	assert_int_equal(tool_exit_status(&e), TOOL_EXIT_NO_DAEMON);
}

static void errors_keep_their_class(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	says("x",
	     "{\"error\": {\"class\": \"DeviceNotActive\", \"desc\": \"Block job 'x' not found\"}}",
	     NULL, NULL);
	assert_int_equal(RUN(cmd_qmp, false, &e, "x"), -ESRCH);
	assert_int_equal(e.cls, ERR_DEVICE_NOT_ACTIVE);
	assert_string_equal(e.msg, "Block job 'x' not found");
	assert_int_equal(tool_exit_status(&e), TOOL_EXIT_NOT_FOUND);
}

static void qmp_sends_what_it_is_given(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	says("y",
	     "{\"timestamp\": {}, \"event\": \"E\"}\r\n{\"return\": {\"v\": 18446744073709551615}}",
	     NULL, NULL);
	assert_int_equal(RUN(cmd_qmp, false, &e, "y", "{'a': 1}"), 0);
	assert_string_equal(out, "{\"v\": 18446744073709551615}\n");
	sent("{\"execute\": \"y\", \"arguments\": {\"a\": 1}}");
	assert_int_equal(RUN(cmd_qmp, false, &e, "{\"execute\": \"y\"}"), 0);
	assert_string_equal(out, "{\"return\": {\"v\": 18446744073709551615}}\n");
}

static char *image_file(void)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/vm1.qcow2", dir);
	close(open(path, O_WRONLY | O_CREAT, 0600));
	return path;
}

static void attach_adds_node_and_export(void **state)
{
	struct err e = ERR_INIT;
	char want[300];

	(void)state;
	assert_int_equal(RUN(cmd_attach, false, &e, image_file()), 0);
	assert_string_equal(out, "/dev/mapper/vm1\n");
	snprintf(
		want, sizeof(want),
		"{\"execute\": \"blockdev-add\", \"arguments\": {\"driver\": \"qcow2\", \"node-name\": \"vm1\", \"read-only\": false, \"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}}",
		image_file());
	sent(want);
	sent("{\"type\": \"dm\", \"id\": \"vm1\", \"node-name\": \"vm1\", \"name\": \"vm1\", \"writable\": true}");
	unlink(image_file());
	assert_int_equal(RUN(cmd_attach, false, &e, "/nonexistent.qcow2"), -ENOENT);
}

static void attach_takes_back_what_it_did(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	says("block-export-add",
	     "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no module\"}}", NULL, NULL);
	assert_int_equal(RUN(cmd_attach, false, &e, image_file(), "-r", "-n", "d:1", "-f", "raw"),
			 -EREMOTEIO);
	assert_string_equal(e.msg, "no module");
	sent("\"driver\": \"raw\"");
	sent("\"read-only\": true");
	sent("\"name\": \"d:1\", \"writable\": false");
	sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"d_1-");
	assert_int_equal(tool_exit_status(&e), TOOL_EXIT_FAILED);
	unlink(image_file());
}

static void list_shows_dm_exports(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	assert_int_equal(RUN(cmd_list, true, &e), 0);
	assert_string_equal(
		out,
		"[{\"name\": \"vm1\", \"device\": \"/dev/mapper/vm1\", \"export\": \"e1\", \"node-name\": \"top\", \"writable\": true, \"size\": 8388608, \"depth\": 3, \"image\": \"/i/c\"}]\n");
	assert_int_equal(RUN(cmd_list, false, &e), 0);
	assert_string_equal(out, "NAME  SIZE      MODE  IMAGES  ACTIVE IMAGE\n"
				 "vm1   8.00 MiB  rw    3       /i/c\n");
}

static void chain_is_a_tree(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	assert_int_equal(RUN(cmd_chain, false, &e, "vm1"), 0);
	assert_string_equal(out, "vm1  8.00 MiB  rw\n"
				 "└─ /i/c  qcow2, 1.50 KiB on disk  (active)\n"
				 "   └─ /i/b  qcow2, 1.50 KiB on disk\n"
				 "      └─ /i/a  qcow2, 1.50 KiB on disk\n");
	assert_int_equal(RUN(cmd_chain, false, &e, "other"), -ESRCH);
	assert_non_null(strstr(e.msg, "'other'"));
}

static void detach_ends_export_then_nodes(void **state)
{
	struct err e = ERR_INIT;
	const char *del;

	(void)state;
	has_disk();
	says("blockdev-del",
	     "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Failed to find node with node-name='top'\"}}",
	     EMPTY, NULL);
	assert_int_equal(RUN(cmd_detach, false, &e, "vm1"), 0);
	del = strstr(d.log, "{\"execute\": \"block-export-del\", \"arguments\": {\"id\": \"e1\"}}");
	assert_non_null(del);
	assert_non_null(strstr(del, "{\"node-name\": \"top\"}"));
	assert_non_null(strstr(del, "{\"node-name\": \"root\"}"));
	not_sent("{\"node-name\": \"#block7\"}"); /* a child that nobody named */
}

static void a_busy_disk_stays(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("block-export-del", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"in use\"}}",
	     NULL, NULL);
	assert_int_equal(RUN(cmd_detach, false, &e, "vm1"), -EREMOTEIO);
	not_sent("blockdev-del");
	assert_int_equal(RUN(cmd_detach, false, &e, "vm2"), -ESRCH);
}

static void snapshot_names_disk_and_file(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	assert_int_equal(RUN(cmd_snapshot, true, &e, "vm1", "/tmp/e.qcow2", "-n", "n5"), 0);
	sent("{\"device\": \"vm1\", \"snapshot-file\": \"/tmp/e.qcow2\", \"format\": \"qcow2\", \"snapshot-node-name\": \"n5\"}");
	assert_string_equal(
		out, "{\"name\": \"vm1\", \"image\": \"/tmp/e.qcow2\", \"node-name\": \"top\"}\n");
}

static void snapshot_of_all_is_one_transaction(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	assert_int_equal(RUN(cmd_snapshot, true, &e, "--all", "/tmp", "--suffix", "x"), 0);
	sent("{\"execute\": \"transaction\", \"arguments\": {\"actions\": [{\"type\": \"blockdev-snapshot-sync\", \"data\": {\"device\": \"vm1\", \"snapshot-file\": \"/tmp/vm1-x.qcow2\", \"format\": \"qcow2\"}}]}}");
	assert_string_equal(out, "[{\"name\": \"vm1\", \"image\": \"/tmp/vm1-x.qcow2\"}]\n");
}

static void dry_runs_ask_only(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	assert_int_equal(RUN(cmd_snapshot, true, &e, "vm1", "/tmp/e.qcow2", "--dry-run"), 0);
	not_sent("blockdev-snapshot-sync");
	assert_non_null(strstr(out, "\"chain-after\": [{\"image\": \"/tmp/e.qcow2\", \"format\": \"qcow2\", \"note\": \"active, new\"}, {"));
	assert_non_null(strstr(out, "\"deletable\": []"));
	assert_int_equal(RUN(cmd_snapshot, false, &e, "--all", "/tmp", "--dry-run"), 0);
	not_sent("transaction");
	assert_non_null(strstr(out, "read-only from now on"));
	assert_int_equal(RUN(cmd_backup, false, &e, "vm1", "/tmp/none.qcow2", "--dry-run"), 0);
	not_sent("blockdev-");
	assert_int_equal(access("/tmp/none.qcow2", F_OK), -1);
	assert_non_null(strstr(out, "backup of vm1 to /tmp/none.qcow2: nothing was done"));
}

/* ---- backup ------------------------------------------------------------------------ */

static char *target(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void backup_makes_its_target_and_cleans_up(void **state)
{
	struct err e = ERR_INIT;
	char cmd[300];

	(void)state;
	has_disk();
	says("query-block-jobs", JOB("running", "0", ""), JOB("running", "4194304", ""),
	     JOB("concluded", "8388608", ""));
	assert_int_equal(RUN(cmd_backup, true, &e, "vm1", target("b.qcow2"), "--speed", "2M"), 0);
	sent("\"node-name\": \"target-backup-vm1\", \"file\": {\"driver\": \"file\"");
	sent("{\"device\": \"vm1\", \"target\": \"target-backup-vm1\", \"sync\": \"full\", \"job-id\": \"backup-vm1\", \"speed\": 2097152, \"auto-dismiss\": false}");
	sent("{\"execute\": \"job-dismiss\", \"arguments\": {\"id\": \"backup-vm1\"}}");
	sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"target-backup-vm1\"}}");
	not_sent("job-cancel");
	assert_non_null(strstr(out, "\"status\": \"completed\""));
	snprintf(cmd, sizeof(cmd),
		 "qemu-img check -q %s && qemu-img info %s | grep -q '8 MiB (8388608'",
		 target("b.qcow2"), target("b.qcow2"));
	assert_int_equal(system(cmd), 0);
	/* It is there now: not overwritten without being told. */
	d.log[0] = '\0';
	assert_int_equal(RUN(cmd_backup, false, &e, "vm1", target("b.qcow2")), -EEXIST);
	assert_non_null(strstr(e.msg, "--existing"));
	not_sent("blockdev-");
	unlink(target("b.qcow2"));
}

static void a_refused_backup_leaves_no_file(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("blockdev-backup", "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}",
	     NULL, NULL);
	assert_int_equal(RUN(cmd_backup, false, &e, "vm1", target("r.raw"), "-f", "raw"),
			 -EREMOTEIO);
	sent("{\"execute\": \"blockdev-del\"");
	assert_int_equal(access(target("r.raw"), F_OK), -1);
	err_clear(&e);
	assert_int_equal(RUN(cmd_backup, false, &e, "vm1", target("r.raw"), "--existing"), -ENOENT);
}

static void an_existing_target_is_not_made_again(void **state)
{
	struct err e = ERR_INIT;
	struct stat st;

	(void)state;
	has_disk();
	says("query-block-jobs", JOB("concluded", "8388608", ""), NULL, NULL);
	assert_int_equal(write_file_durably(target("x.raw"), "keep", 4, 0600, &e), 0);
	assert_int_equal(
		RUN(cmd_backup, false, &e, "vm1", target("x.raw"), "-f", "raw", "--existing"), 0);
	not_sent("x-force");
	assert_int_equal(RUN(cmd_backup, false, &e, "vm1", target("x.raw"), "-f", "raw",
			     "--existing", "--force"),
			 0);
	sent("\"x-force\": true");
	assert_int_equal(stat(target("x.raw"), &st), 0);
	assert_int_equal(st.st_size, 4);
	unlink(target("x.raw"));
}

static void a_failed_job_is_a_failure(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("query-block-jobs",
	     JOB("concluded", "4096", ", \"error\": \"No space left on device\""), NULL, NULL);
	assert_int_equal(RUN(cmd_backup, false, &e, "vm1", target("f.qcow2")), -EREMOTEIO);
	assert_string_equal(e.msg, "job 'backup-vm1' failed: No space left on device");
	sent("job-dismiss");
	sent("blockdev-del");
	unlink(target("f.qcow2"));
}

static void ctrl_c_cancels(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("query-block-jobs", SIGINT_FIRST JOB("running", "0", ""), JOB("running", "4096", ""),
	     JOB("concluded", "4096", ", \"error\": \"Operation canceled\""));
	assert_int_equal(RUN(cmd_backup, false, &e, "vm1", target("c.qcow2")), -ECANCELED);
	sent("{\"execute\": \"job-cancel\", \"arguments\": {\"id\": \"backup-vm1\"}}");
	sent("job-dismiss");
	assert_int_equal(tool_exit_status(&e), TOOL_EXIT_CANCELLED);
	unlink(target("c.qcow2"));
}

static void a_second_ctrl_c_leaves_the_job(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("query-block-jobs", SIGINT_FIRST JOB("running", "0", ""),
	     SIGINT_FIRST JOB("running", "0", ""), JOB("running", "0", ""));
	assert_int_equal(RUN(cmd_backup, true, &e, "vm1", target("l.qcow2")), -ECANCELED);
	sent("job-cancel");
	not_sent("job-dismiss");
	not_sent("blockdev-del");
	assert_non_null(strstr(out, "\"status\": \"running\""));
	unlink(target("l.qcow2"));
}

static void a_restarted_daemon_is_found_again(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("query-block-jobs", JOB("running", "0", ""), HANG_UP, JOB("concluded", "8388608", ""));
	assert_int_equal(RUN(cmd_backup, false, &e, "vm1", target("h.qcow2")), 0);
	sent("job-dismiss");
	unlink(target("h.qcow2"));
}

static void no_wait_returns_at_once(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	assert_int_equal(
		RUN(cmd_backup, true, &e, "vm1", target("w.qcow2"), "--no-wait", "--job-id", "j"),
		0);
	assert_non_null(strstr(out, "\"job\": \"j\""));
	not_sent("query-block-jobs");
	unlink(target("w.qcow2"));
}

/* ---- stream, commit, mirror ------------------------------------------------------------ */

static void stream_names_nodes(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("query-block-jobs", JOB("running", "0", ""), JOB("concluded", "8388608", ""), NULL);
	assert_int_equal(
		RUN(cmd_stream, true, &e, "vm1", "--top", "/i/b", "--job-id", "backup-vm1"), 0);
	sent("{\"execute\": \"block-stream\", \"arguments\": {\"device\": \"#block7\", \"job-id\": \"backup-vm1\", \"speed\": 0, \"auto-dismiss\": false}}");
	assert_non_null(strstr(out, "\"status\": \"completed\", \"deletable\": [\"/i/a\"]"));
	d.log[0] = '\0';
	assert_int_equal(RUN(cmd_stream, false, &e, "vm1", "--base", "/i/c"), -EINVAL);
	err_clear(&e);
	assert_int_equal(RUN(cmd_stream, false, &e, "vm1", "--base", "/i/x"), -ESRCH);
	not_sent("block-stream");
}

static void commit_completes_when_ready(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("query-block-jobs", JOB("running", "0", ""), JOB("ready", "8388608", ""),
	     JOB("concluded", "8388608", ""));
	assert_int_equal(
		RUN(cmd_commit, true, &e, "vm1", "--base", "/i/b", "--job-id", "backup-vm1"), 0);
	sent("{\"device\": \"top\", \"base-node\": \"#block7\", \"top-node\": \"top\"");
	sent("{\"execute\": \"block-job-complete\", \"arguments\": {\"device\": \"backup-vm1\"}}");
	assert_non_null(strstr(out, "\"deletable\": [\"/i/c\"]"));
	sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"top\"}}");
	not_sent("\"node-name\": \"root\"");
}

static void mirror_ends_as_it_was_told(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("query-block-jobs", JOB("ready", "8388608", ""), JOB("concluded", "8388608", ""),
	     NULL);
	assert_int_equal(RUN(cmd_mirror, true, &e, "vm1", target("m.qcow2"), "--finish", "--job-id",
			     "backup-vm1"),
			 0);
	sent("\"sync\": \"full\", \"copy-mode\": \"background\"");
	sent("{\"execute\": \"block-job-cancel\", \"arguments\": {\"device\": \"backup-vm1\"}}");
	sent("{\"execute\": \"blockdev-del\"");
	unlink(target("m.qcow2"));
}

static void a_pivot_keeps_the_node(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	says("query-block-jobs", JOB("ready", "8388608", ""), JOB("concluded", "8388608", ""),
	     NULL);
	assert_int_equal(RUN(cmd_mirror, true, &e, "vm1", target("m.qcow2"), "--pivot", "--job-id",
			     "backup-vm1"),
			 0);
	sent("block-job-complete");
	not_sent("\"node-name\": \"target-backup-vm1\"}}");
	sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"top\"}}");
	unlink(target("m.qcow2"));
}

static void dry_runs_show_what_leaves(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	has_disk();
	assert_int_equal(RUN(cmd_commit, true, &e, "vm1", "--top", "/i/b", "--dry-run"), 0);
	assert_non_null(strstr(
		out,
		"\"chain-after\": [{\"image\": \"/i/c\", \"format\": \"qcow2\", \"note\": \"active\"}, {\"image\": \"/i/a\""));
	assert_non_null(strstr(out, "\"deletable\": [\"/i/b\"]"));
	assert_int_equal(RUN(cmd_commit, true, &e, "vm1", "--base", "/i/b", "--dry-run"), 0);
	assert_non_null(strstr(
		out,
		"\"chain-after\": [{\"image\": \"/i/b\", \"format\": \"qcow2\", \"note\": \"active\"}"));
	assert_int_equal(RUN(cmd_stream, false, &e, "vm1", "--base", "/i/a", "--dry-run"), 0);
	assert_non_null(strstr(out, "may be deleted then:\n    /i/b\n"));
	assert_int_equal(RUN(cmd_mirror, false, &e, "vm1", "/tmp/n.qcow2", "--pivot", "--dry-run"),
			 0);
	assert_non_null(strstr(out, "chain then:\n    /tmp/n.qcow2  qcow2  active\n"));
	not_sent("block-stream");
	not_sent("block-commit");
	not_sent("blockdev-");
}

/* ---- jobs ---------------------------------------------------------------------------- */

static void verbs_reach_the_job(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	says("query-block-jobs", JOB("running", "4194304", ""), NULL, NULL);
	assert_int_equal(RUN(cmd_job, false, &e, "pause", "backup-vm1"), 0);
	sent("{\"execute\": \"job-pause\", \"arguments\": {\"id\": \"backup-vm1\"}}");
	assert_int_equal(RUN(cmd_job, false, &e, "speed", "backup-vm1", "1.5M"), 0);
	sent("{\"execute\": \"block-job-set-speed\", \"arguments\": {\"device\": \"backup-vm1\", \"speed\": 1572864}}");
	assert_int_equal(RUN(cmd_job, false, &e, "dismiss", "backup-vm1"), 0);
	sent("{\"execute\": \"blockdev-del\", \"arguments\": {\"node-name\": \"target-backup-vm1\"}}");
	assert_int_equal(RUN(cmd_job, false, &e, "pause", "other"), -ESRCH);
	assert_int_equal(RUN(cmd_jobs, false, &e), 0);
	assert_non_null(strstr(out, "backup-vm1  backup  running   50.0% of 8.00 MiB"));
}

static int usage_status(int (*cmd)(struct tool *, int, char **, struct err *), const char *a,
			const char *b)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct err e = ERR_INIT;
		int null = open("/dev/null", O_WRONLY);

		dup2(null, 1);
		dup2(null, 2);
		run_tool(cmd, false, &e, a, b, NULL);
		_exit(99);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WEXITSTATUS(status);
}

static void wrong_use_is_status_2(void **state)
{
	(void)state;
	assert_int_equal(usage_status(cmd_backup, "vm1", NULL), 2);
	assert_int_equal(usage_status(cmd_backup, "--frob", NULL), 2);
	assert_int_equal(usage_status(cmd_backup, "--speed", NULL), 2);
	assert_int_equal(usage_status(cmd_backup, "--speed=x", "vm1"), 2);
	assert_int_equal(usage_status(cmd_attach, "--format=vmdk", "x"), 2);
	assert_int_equal(usage_status(cmd_job, "frob", "j"), 2);
	assert_int_equal(usage_status(cmd_job, "speed", "j"), 2);
	assert_int_equal(usage_status(cmd_list, "x", NULL), 2);
	assert_int_equal(usage_status(cmd_list, "--help", NULL), 0);
}

static int make_dir(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

#define WITH_DAEMON(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_and_times),
		cmocka_unit_test(progress_has_rate_and_time_left),
		cmocka_unit_test(progress_prints_few_lines_without_a_terminal),
		cmocka_unit_test(fast_progress_is_two_lines),
		cmocka_unit_test(ids_are_made_of_names),
		cmocka_unit_test(paths_become_absolute),
		cmocka_unit_test(no_daemon_is_said),
		WITH_DAEMON(errors_keep_their_class),
		WITH_DAEMON(qmp_sends_what_it_is_given),
		WITH_DAEMON(attach_adds_node_and_export),
		WITH_DAEMON(attach_takes_back_what_it_did),
		WITH_DAEMON(list_shows_dm_exports),
		WITH_DAEMON(chain_is_a_tree),
		WITH_DAEMON(detach_ends_export_then_nodes),
		WITH_DAEMON(a_busy_disk_stays),
		WITH_DAEMON(snapshot_names_disk_and_file),
		WITH_DAEMON(snapshot_of_all_is_one_transaction),
		WITH_DAEMON(dry_runs_ask_only),
		WITH_DAEMON(stream_names_nodes),
		WITH_DAEMON(commit_completes_when_ready),
		WITH_DAEMON(mirror_ends_as_it_was_told),
		WITH_DAEMON(a_pivot_keeps_the_node),
		WITH_DAEMON(dry_runs_show_what_leaves),
		WITH_DAEMON(backup_makes_its_target_and_cleans_up),
		WITH_DAEMON(a_refused_backup_leaves_no_file),
		WITH_DAEMON(an_existing_target_is_not_made_again),
		WITH_DAEMON(a_failed_job_is_a_failure),
		WITH_DAEMON(ctrl_c_cancels),
		WITH_DAEMON(a_second_ctrl_c_leaves_the_job),
		WITH_DAEMON(a_restarted_daemon_is_found_again),
		WITH_DAEMON(no_wait_returns_at_once),
		WITH_DAEMON(verbs_reach_the_job),
		cmocka_unit_test(wrong_use_is_status_2),
	};

	return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
