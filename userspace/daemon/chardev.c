// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/chardev.h"
#include "daemon/monitor.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/util.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

/* Out of descriptors: accept() would fail at once, again and again. */
#define ACCEPT_PAUSE_MS 200
/* Between two lines about clients that are refused. */
#define REFUSAL_PAUSE_MS 1000

struct chardev {
	struct ev *ev;
	char *id, *path;
	bool server, bound;
	unsigned reconnect_s;
	int fd;
	struct ev_source *src;
	struct ev_timer *timer; /* server: accept again; client: connect again */
	dev_t dev;
	ino_t ino; /* of the socket file, so that we remove no other's */
	struct {
		uint64_t next_ms; /* when the next line may be written */
		unsigned n;	  /* refused since the last one */
	} refused;
};

static int make_address(const char *path, struct sockaddr_un *sa, struct err *e)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	if (!*path || strlen(path) >= sizeof(sa->sun_path))
		return err_set(e, ENAMETOOLONG, "UNIX socket path '%s' must have 1 to %zu bytes",
			       path, sizeof(sa->sun_path) - 1);
	memcpy(sa->sun_path, path, strlen(path));
	return 0;
}

static int new_socket(struct err *e)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd >= 0 ? fd : err_set(e, errno, "Could not create a socket: %s", strerror(errno));
}

/* A blocking connect: to a unix socket it takes no time, but for a full backlog (EAGAIN). */
static int connect_to(const char *path, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_un sa;
	int r;

	r = make_address(path, &sa, e);
	if (r < 0)
		return r;
	fd = new_socket(e);
	if (fd < 0)
		return fd;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return err_set(e, errno, "Failed to connect to '%s': %s", path, strerror(errno));
	return take_fd(fd);
}

/* Removes a socket that a killed daemon left; never a living one, never another file. */
static int remove_stale(const char *path, struct err *e)
{
	struct err why = ERR_INIT;
	struct stat st;
	int fd;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, EEXIST,
			       "Failed to bind socket to '%s': the file exists and is no socket",
			       path);
	fd = connect_to(path, &why);
	if (fd >= 0 || why.code == EAGAIN) {
		if (fd >= 0)
			close(fd);
		return err_set(e, EADDRINUSE,
			       "Failed to bind socket to '%s': another process listens there",
			       path);
	}
	if (why.code != ECONNREFUSED)
		return err_set(e, why.code, "Failed to bind socket to '%s': %s", path, why.msg);
	(void)unlink(path);
	return 0;
}

static int listen_on(struct chardev *c, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct sockaddr_un sa;
	struct stat st;
	mode_t mask;
	int r;

	r = make_address(c->path, &sa, e);
	if (r == 0)
		r = remove_stale(c->path, e);
	if (r < 0)
		return r;
	fd = new_socket(e);
	if (fd < 0)
		return fd;
	mask = umask(0117);
	r = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	if (r < 0)
		r = -errno;
	umask(mask);
	if (r == 0) {
		c->bound = true;
		if (listen(fd, 64) < 0 || lstat(c->path, &st) < 0)
			r = -errno;
	}
	if (r < 0)
		return err_set(e, -r, "Failed to bind socket to '%s': %s", c->path, strerror(-r));
	c->dev = st.st_dev;
	c->ino = st.st_ino;
	c->fd = take_fd(fd);
	return 0;
}

/* --- who may come in --- */

static bool in_groups(int fd, gid_t group)
{
	gid_t some[256], *list = some;
	socklen_t len = sizeof(some);
	bool found = false;
	int r = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, some, &len);

	if (r < 0 && errno == ERANGE) {
		list = xmalloc(len);
		r = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, list, &len);
	}
	for (size_t i = 0; r == 0 && i < len / sizeof(gid_t); i++)
		found = found || list[i] == group;
	if (list != some)
		free(list);
	return found;
}

bool chardev_peer_allowed(int fd, const char *path)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	struct stat st;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	if (peer.uid == 0 || peer.uid == geteuid())
		return true;
	if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	return peer.gid == st.st_gid || in_groups(fd, st.st_gid);
}

/* A flood of clients must not become one of lines. */
static void log_refusal(struct chardev *c, const char *why)
{
	uint64_t now = ev_now_ms();

	c->refused.n++;
	if (now < c->refused.next_ms)
		return;
	if (c->refused.n > 1)
		log_warn("Refused %u clients on '%s', the last one: %s", c->refused.n, c->path, why);
	else
		log_warn("Refused a client on '%s': %s", c->path, why);
	c->refused.n = 0;
	c->refused.next_ms = now + REFUSAL_PAUSE_MS;
}

static void admit(struct chardev *c, int fd)
{
	struct err e = ERR_INIT;

	if (!chardev_peer_allowed(fd, c->path)) {
		log_refusal(c, "it is neither root nor of the socket's group");
		close(fd);
	} else if (monitor_serve(fd, NULL, NULL, &e) < 0) {
		log_refusal(c, e.msg);
	}
}

static void on_listen(unsigned events, void *arg)
{
	struct chardev *c = arg;

	(void)events;
	/* A bounded number for each turn. */
	for (int i = 0; i < 16; i++) {
		int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			admit(c, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK) {
			log_warn("Could not accept a client on '%s': %s", c->path, strerror(errno));
			ev_source_set(c->src, 0);
			ev_timer_set(c->timer, ACCEPT_PAUSE_MS);
		}
		return;
	}
}

/* --- life --- */

static void on_closed(void *arg)
{
	struct chardev *c = arg;

	if (c->reconnect_s)
		ev_timer_set(c->timer, c->reconnect_s * 1000ull);
	else
		log_info("The connection to '%s' ended", c->path);
}

static void on_timer(void *arg)
{
	struct chardev *c = arg;
	struct err e = ERR_INIT;

	if (c->server) {
		ev_source_set(c->src, EV_IN);
		return;
	}
	c->fd = connect_to(c->path, &e);
	if (c->fd < 0 || chardev_start(c, &e) < 0)
		ev_timer_set(c->timer, c->reconnect_s * 1000ull);
}

struct chardev *chardev_open(struct ev *ev, const char *id, const char *path, bool server,
			     unsigned reconnect_s, struct err *e)
{
	struct chardev *c = xcalloc(1, sizeof(*c));
	int r;

	c->ev = ev;
	c->id = xstrdup(id);
	c->path = xstrdup(path);
	c->server = server;
	c->reconnect_s = reconnect_s;
	c->fd = -1;
	c->timer = ev_timer_new(ev, on_timer, c);
	if (server)
		r = listen_on(c, e);
	else
		r = c->fd = connect_to(path, e);
	if (r < 0) {
		chardev_close(c);
		return NULL;
	}
	return c;
}

int chardev_start(struct chardev *c, struct err *e)
{
	if (!c->server)
		return monitor_serve(take_fd(c->fd), on_closed, c, e);
	c->src = ev_add_fd(c->ev, c->fd, EV_IN, on_listen, c, e);
	return c->src ? 0 : -EIO;
}

static void remove_socket(struct chardev *c)
{
	struct stat st;

	if (c->bound && lstat(c->path, &st) == 0 && st.st_dev == c->dev && st.st_ino == c->ino)
		(void)unlink(c->path);
}

void chardev_close(struct chardev *c)
{
	if (!c)
		return;
	remove_socket(c);
	ev_source_free(c->src);
	ev_timer_free(c->timer);
	if (c->fd >= 0)
		close(c->fd);
	free(c->id);
	free(c->path);
	free(c);
}

const char *chardev_id(const struct chardev *c)
{
	return c->id;
}
