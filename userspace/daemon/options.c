// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/keyval.h"
#include "daemon/options.h"
#include "daemon/qapi.h"
#include "daemon/version.h"
#include "lib/util.h"

static const char help_text[] =
	"Usage: livechaind [options]\n"
	"Serves qcow2 backing chains as device-mapper disks, steered by QMP.\n"
	"\n"
	"  --blockdev [driver=]DRIVER,node-name=N[,KEY=VALUE...]  or JSON\n"
	"                         opens an image, as the command blockdev-add\n"
	"  --export [type=]dm,id=ID,node-name=N[,name=NAME][,writable=on]  or JSON\n"
	"                         makes a node a disk, as the command block-export-add\n"
	"  --chardev socket,id=ID,path=PATH[,server=on][,reconnect=SECONDS]\n"
	"                         a unix socket: listens with server=on, else connects\n"
	"  --monitor [chardev=]ID speaks QMP on a chardev\n"
	"  --qmp PATH             listens for QMP on PATH (default, if there is no\n"
	"                         --monitor: " DEFAULT_QMP_PATH ")\n"
	"  --object iothread,...  accepted, without effect\n"
	"  --state-dir DIR        what a restart needs (default " DEFAULT_STATE_DIR ")\n"
	"  --name NAME            what query-name answers\n"
	"  --pidfile FILE         writes and locks FILE\n"
	"  --daemonize            returns when all is up, goes on in the background\n"
	"  --log-level LEVEL      error, warning, notice (default), info or debug\n"
	"  -h, --help             this text\n"
	"  -V, --version          version\n"
	"\n"
	"The order of the options does not matter: chardevs, monitors, blockdevs (in\n"
	"their order), exports.\n";

enum {
	OPT_BLOCKDEV = CHAR_MAX + 1,
	OPT_EXPORT,
	OPT_CHARDEV,
	OPT_MONITOR,
	OPT_QMP,
	OPT_OBJECT,
	OPT_NBD_SERVER,
	OPT_STATE_DIR,
	OPT_NAME,
	OPT_PIDFILE,
	OPT_DAEMONIZE,
	OPT_LOG_LEVEL,
};

static const struct option long_options[] = {
	{ "blockdev", required_argument, NULL, OPT_BLOCKDEV },
	{ "export", required_argument, NULL, OPT_EXPORT },
	{ "chardev", required_argument, NULL, OPT_CHARDEV },
	{ "monitor", required_argument, NULL, OPT_MONITOR },
	{ "qmp", required_argument, NULL, OPT_QMP },
	{ "object", required_argument, NULL, OPT_OBJECT },
	{ "nbd-server", required_argument, NULL, OPT_NBD_SERVER },
	{ "state-dir", required_argument, NULL, OPT_STATE_DIR },
	{ "name", required_argument, NULL, OPT_NAME },
	{ "pidfile", required_argument, NULL, OPT_PIDFILE },
	{ "daemonize", no_argument, NULL, OPT_DAEMONIZE },
	{ "log-level", required_argument, NULL, OPT_LOG_LEVEL },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ 0 },
};

/* --- tables of what the frame's own options accept --- */

static const char *const backend_values[] = { "socket", NULL };
static const struct qapi_type backend = QAPI_ENUM("ChardevBackendKind", backend_values);
static const struct qapi_member chardev_members[] = {
	{ "backend", &backend, 0, NULL },
	{ "id", &qapi_str, 0, NULL },
	{ "path", &qapi_str, 0, NULL },
	{ "server", &qapi_bool, QAPI_OPT, NULL },
	/* We never wait for a first client, nor does anything depend on that. */
	{ "wait", &qapi_bool, QAPI_OPT, NULL },
	{ "reconnect", &qapi_uint32, QAPI_OPT, NULL },
	{ 0 },
};

static const char *const mode_values[] = { "control", NULL };
static const struct qapi_type mode = QAPI_ENUM("MonitorMode", mode_values);
static const struct qapi_member monitor_members[] = {
	{ "chardev", &qapi_str, 0, NULL },
	{ "id", &qapi_str, QAPI_OPT, NULL },
	{ "mode", &mode, QAPI_OPT, NULL },
	/* Accepted for scripts' sake: every message stays on one line. */
	{ "pretty", &qapi_bool, QAPI_OPT, NULL },
	{ 0 },
};

/* JSON or key=value text. */
static struct json *parse_text(const char *text, const char *implied, unsigned flags, bool *keyval,
			       struct err *e)
{
	struct json *j;

	*keyval = text[0] != '{';
	if (*keyval)
		return keyval_parse(text, implied, flags, e);
	j = json_parse(text, strlen(text), e);
	return j;
}

/* The same, checked and converted by @members. */
static struct json *parse_checked(const char *text, const char *implied, unsigned flags,
				  const struct qapi_member *members, struct err *e)
{
	bool keyval;
	_cleanup_json_ struct json *given = parse_text(text, implied, flags, &keyval, e);
	struct json *ret = NULL;

	if (!given)
		return NULL;
	if (!keyval)
		return qapi_check(members, given, e) == 0 ? take_ptr(given) : NULL;
	return qapi_convert_keyval(members, given, &ret, e) == 0 ? ret : NULL;
}

static char *absolute(const char *path)
{
	_cleanup_free_ char *cwd = path[0] == '/' ? NULL : getcwd(NULL, 0);

	return cwd ? path_join(cwd, path) : xstrdup(path);
}

static void set_path(char **where, const char *path)
{
	free(*where);
	*where = absolute(path);
}

/* --- one option each --- */

static const struct option_chardev *find_chardev(const struct options *o, const char *id)
{
	for (size_t i = 0; i < o->nr_chardevs; i++)
		if (streq(o->chardevs[i].id, id))
			return &o->chardevs[i];
	return NULL;
}

static int add_chardev(struct options *o, const char *text, struct err *e)
{
	_cleanup_json_ struct json *j =
		parse_checked(text, "backend", KEYVAL_FLAGS, chardev_members, e);
	struct option_chardev c = { 0 };
	uint64_t reconnect = 0;
	const char *id;

	if (!j)
		return -EINVAL;
	id = json_str_of(json_get(j, "id"));
	if (find_chardev(o, id))
		return err_set(e, EEXIST, "Duplicate ID '%s' for chardev", id);
	(void)json_u64_of(json_get(j, "reconnect"), &reconnect);
	c.server = json_bool_of(json_get(j, "server"));
	if (c.server && reconnect)
		return err_set(
			e, EINVAL,
			"'reconnect' option is incompatible with socket in server listen mode");
	c.id = xstrdup(id);
	c.path = absolute(json_str_of(json_get(j, "path")));
	c.reconnect_s = (unsigned)reconnect;
	o->chardevs = xreallocarray(o->chardevs, o->nr_chardevs + 1, sizeof(c));
	o->chardevs[o->nr_chardevs++] = c;
	return 0;
}

static int add_monitor(struct options *o, const char *text, struct err *e)
{
	_cleanup_json_ struct json *j = parse_checked(text, "chardev", 0, monitor_members, e);

	if (!j)
		return -EINVAL;
	o->monitors = xreallocarray(o->monitors, o->nr_monitors + 1, sizeof(*o->monitors));
	o->monitors[o->nr_monitors++] = xstrdup(json_str_of(json_get(j, "chardev")));
	return 0;
}

static int add_item(struct option_item **items, size_t *nr, const char *text, const char *implied,
		    struct err *e)
{
	struct option_item item = { 0 };

	item.opts = parse_text(text, implied, 0, &item.keyval, e);
	if (!item.opts)
		return -EINVAL;
	item.text = xstrdup(text);
	*items = xreallocarray(*items, *nr + 1, sizeof(item));
	(*items)[(*nr)++] = item;
	return 0;
}

static int check_object(const char *text, struct err *e)
{
	bool keyval;
	_cleanup_json_ struct json *j = parse_text(text, "qom-type", 0, &keyval, e);
	const char *type;

	if (!j || json_need_str(j, "qom-type", &type, e) < 0)
		return -EINVAL;
	if (streq(type, "iothread"))
		return 0;
	return err_set(e, EINVAL,
		       "Objects of type '%s' are not supported: only 'iothread' is accepted "
		       "(without effect)",
		       type);
}

static int take_option(struct options *o, int opt, const char *arg, struct err *e)
{
	switch (opt) {
	case OPT_BLOCKDEV:
		return add_item(&o->blockdevs, &o->nr_blockdevs, arg, "driver", e);
	case OPT_EXPORT:
		return add_item(&o->exports, &o->nr_exports, arg, "type", e);
	case OPT_CHARDEV:
		return add_chardev(o, arg, e);
	case OPT_MONITOR:
		return add_monitor(o, arg, e);
	case OPT_OBJECT:
		return check_object(arg, e);
	case OPT_NBD_SERVER:
		return err_set(e, ENOTSUP,
			       "NBD exports are not supported by this version: use "
			       "--export type=dm");
	case OPT_QMP:
		set_path(&o->qmp, arg);
		return 0;
	case OPT_STATE_DIR:
		set_path(&o->state_dir, arg);
		return 0;
	case OPT_PIDFILE:
		set_path(&o->pidfile, arg);
		return 0;
	case OPT_NAME:
		free(o->name);
		o->name = xstrdup(arg);
		return 0;
	case OPT_DAEMONIZE:
		o->daemonize = true;
		return 0;
	case OPT_LOG_LEVEL:
		if (log_level_parse(arg, &o->log_level) == 0)
			return 0;
		return err_set(e, EINVAL,
			       "'%s' is not a log level: error, warning, notice, info or debug",
			       arg);
	}
	return -EINVAL;
}

/* getopt's complaint in our words: @opt is ':' (no value) or '?'. */
static int bad_option(int opt, char **argv, struct err *e)
{
	const char *word = optind > 0 ? argv[optind - 1] : "";

	if (opt == ':')
		return err_set(e, EINVAL, "Option '%s' needs a value", word);
	if (optopt && optopt <= CHAR_MAX)
		return err_set(e, EINVAL, "Unknown option '-%c'; see --help", optopt);
	return err_set(e, EINVAL, "Unknown or ambiguous option '%s'; see --help", word);
}

static int check_monitors(const struct options *o, struct err *e)
{
	for (size_t i = 0; i < o->nr_monitors; i++) {
		if (!find_chardev(o, o->monitors[i]))
			return err_set(e, EINVAL, "chardev \"%s\" not found", o->monitors[i]);
		for (size_t k = 0; k < i; k++)
			if (streq(o->monitors[i], o->monitors[k]))
				return err_set(e, EBUSY, "Device '%s' is in use", o->monitors[i]);
	}
	return 0;
}

int options_parse(struct options *o, int argc, char **argv, FILE *out, struct err *e)
{
	int opt, r;

	*o = (struct options){ .log_level = LOG_LVL_NOTICE };
	o->state_dir = xstrdup(DEFAULT_STATE_DIR);
	o->name = xstrdup("livechain");
	optind = 0; /* start anew */
	opterr = 0;
	while ((opt = getopt_long(argc, argv, ":hV", long_options, NULL)) >= 0) {
		if (opt == 'h' || opt == 'V') {
			if (opt == 'h')
				(void)fputs(help_text, out);
			else
				fprintf(out, "livechaind %s (QMP as of QEMU %d.%d)\n",
					LIVECHAIN_VERSION, QMP_MAJOR, QMP_MINOR);
			return 1;
		}
		if (opt == '?' || opt == ':')
			return bad_option(opt, argv, e);
		r = take_option(o, opt, optarg, e);
		if (r < 0) {
			err_prefix(e, "%s",
				   argv[optind - 1] == optarg ? argv[optind - 2]
							      : argv[optind - 1]);
			return r;
		}
	}
	if (optind < argc)
		return err_set(e, EINVAL, "Unexpected argument '%s'; see --help", argv[optind]);
	if (!o->nr_monitors && !o->qmp)
		o->qmp = xstrdup(DEFAULT_QMP_PATH);
	return check_monitors(o, e);
}

static void items_done(struct option_item *items, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		json_unref(items[i].opts);
		free(items[i].text);
	}
	free(items);
}

void options_done(struct options *o)
{
	for (size_t i = 0; i < o->nr_chardevs; i++) {
		free(o->chardevs[i].id);
		free(o->chardevs[i].path);
	}
	for (size_t i = 0; i < o->nr_monitors; i++)
		free(o->monitors[i]);
	free(o->chardevs);
	free(o->monitors);
	items_done(o->blockdevs, o->nr_blockdevs);
	items_done(o->exports, o->nr_exports);
	free(o->qmp);
	free(o->pidfile);
	free(o->state_dir);
	free(o->name);
	*o = (struct options){ 0 };
}
