/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connects, listens and accepts on Unix sockets without blocking, and checks sockets that are
 * already connected. stream.c and the channels send and receive.
 *
 * Key idea: most failures come from a wrong path, so the errno values that a path can cause have
 * their own error texts, which say what to do.
 */
#include "proto/vhost-user/channel.h"

#include "util/error.h"
#include "util/fd.h"
#include "util/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 16

static int fill_address(struct sockaddr_un *address, const char *path, struct vublk_error *error)
{
	size_t bytes = path ? strlen(path) : 0;

	if (!bytes)
		return vublk_error_set(error, EINVAL, "the path of the socket is empty; give a "
				       "path");
	if (bytes >= sizeof(address->sun_path))
		return vublk_error_set(error, ENAMETOOLONG,
				       "the path of the socket has %zu bytes, but the maximum is "
				       "%zu bytes; use a shorter or a relative path, not '%s'",
				       bytes, sizeof(address->sun_path) - 1, path);
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, path, bytes);
	return 0;
}

static int new_socket(struct vublk_error *error)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? vublk_error_set_errno(error, errno, "cannot create a socket") : fd;
}

/* Tries to connect. Returns 0 or a positive errno value; EAGAIN: the listener's backlog is full. */
static int try_connect(int fd, const struct sockaddr_un *address)
{
	return connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? errno : 0;
}

static int connect_failed(int code, const char *path, struct vublk_error *error)
{
	switch (code) {
	case ENOENT:
		return vublk_error_set(error, code,
				       "the socket '%s' does not exist; check the path, and start "
				       "the back-end if it is not running", path);
	case ECONNREFUSED:
		return vublk_error_set(error, code,
				       "no process listens on the socket '%s'; start the back-end",
				       path);
	case ENOTSOCK:
		return vublk_error_set(error, code, "'%s' is not a socket; check the path", path);
	case EPROTOTYPE:
		return vublk_error_set(error, code, "'%s' is not a stream socket; check the path",
				       path);
	case EAGAIN:
		return vublk_error_set(error, code,
				       "cannot connect to the socket '%s', because too many other "
				       "clients are waiting; try again later", path);
	default:
		return vublk_error_set_errno(error, code, "cannot connect to the socket '%s'",
					     path);
	}
}

/*
 * Checks that the file is a socket. connect() fails with ECONNREFUSED for any other file, as it
 * does for a socket without a listener.
 */
static int check_is_socket(const char *path, struct vublk_error *error)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return connect_failed(errno, path, error);
	if (!S_ISSOCK(st.st_mode))
		return connect_failed(ENOTSOCK, path, error);
	return 0;
}

bool vublk_socket_may_appear(int code)
{
	switch (code) {
	case EINVAL:
	case ENAMETOOLONG:
	case ENOTSOCK:
	case EPROTOTYPE:
	case ENOTDIR:
	case ELOOP:
		return false;
	default:
		return true;
	}
}

int vublk_socket_check_connect(const char *path, struct vublk_error *error)
{
	struct sockaddr_un address;
	struct vublk_error found = { 0 };
	int r = fill_address(&address, path, error);

	if (r < 0)
		return r;
	r = check_is_socket(path, &found);
	if (!r || vublk_socket_may_appear(found.code))
		return 0;
	if (error)
		*error = found;
	return r;
}

int vublk_socket_connect(const char *path, struct vublk_error *error)
{
	struct sockaddr_un address;
	VUBLK_FD int fd = -1;
	int r = fill_address(&address, path, error);

	if (!r)
		r = check_is_socket(path, error);
	if (r < 0)
		return r;
	fd = new_socket(error);
	if (fd < 0)
		return fd;
	r = try_connect(fd, &address);
	if (r)
		return connect_failed(r, path, error);
	return vublk_fd_steal(&fd);
}

static int bind_failed(int code, const char *path, struct vublk_error *error)
{
	switch (code) {
	case EEXIST:
		return vublk_error_set(error, code,
				       "'%s' exists and is not a socket; remove it or choose "
				       "another path", path);
	case EADDRINUSE:
		return vublk_error_set(error, code,
				       "another process listens on the socket '%s'; stop it or "
				       "choose another path", path);
	case ENOENT:
		return vublk_error_set(error, code,
				       "cannot listen on the socket '%s' because its directory "
				       "does not exist; create the directory or choose another "
				       "path", path);
	case EACCES:
	case EROFS:
		return vublk_error_set_errno(error, code,
					     "cannot create the socket '%s' in its directory; "
					     "choose a directory in which this user can create "
					     "files", path);
	default:
		return vublk_error_set_errno(error, code, "cannot listen on the socket '%s'",
					     path);
	}
}

/*
 * Checks that no process listens at a socket file. If the file still exists, only ECONNREFUSED
 * proves this.
 */
static int probe(const struct sockaddr_un *address, const char *path, struct vublk_error *error)
{
	VUBLK_FD int fd = new_socket(error);
	int code;

	if (fd < 0)
		return fd;
	code = try_connect(fd, address);
	switch (code) {
	case ECONNREFUSED:
	case ENOENT: /* the file was removed in the meantime */
		return 0;
	case 0:
	case EAGAIN:
	case EPROTOTYPE:
		return bind_failed(EADDRINUSE, path, error);
	default:
		return bind_failed(code, path, error);
	}
}

/* Checks that the path is free, or has only a socket file without a listener. */
static int check_unused(const struct sockaddr_un *address, const char *path,
			struct vublk_error *error)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : bind_failed(errno, path, error);
	if (!S_ISSOCK(st.st_mode))
		return bind_failed(EEXIST, path, error);
	return probe(address, path, error);
}

/* Removes a socket file that a killed process has left behind. */
static int remove_stale(const struct sockaddr_un *address, const char *path,
			struct vublk_error *error)
{
	int r = check_unused(address, path, error);

	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = bind_failed(errno, path, error);
	return r;
}

/* Stores the directory of the path in `directory`, and the last part of the path in `name`. */
static void split_path(const struct sockaddr_un *address, char *directory, const char **name)
{
	const char *slash = strrchr(address->sun_path, '/');
	size_t bytes = slash ? (size_t)(slash - address->sun_path) + 1 : 0;

	memcpy(directory, address->sun_path, bytes);
	strcpy(directory + bytes, bytes ? "" : ".");
	*name = address->sun_path + bytes;
}

int vublk_socket_check_listen(const char *path, struct vublk_error *error)
{
	struct sockaddr_un address;
	char directory[sizeof(address.sun_path) + 1];
	const char *name;
	struct stat st;
	int r = fill_address(&address, path, error);

	if (r < 0)
		return r;
	split_path(&address, directory, &name);
	if (!name[0])
		return vublk_error_set(error, EISDIR, "cannot listen on '%s' because it is a "
				       "directory; append the name of the socket", path);
	if (stat(directory, &st) < 0)
		return bind_failed(errno, path, error);
	if (!S_ISDIR(st.st_mode))
		return bind_failed(ENOTDIR, path, error);
	if (faccessat(AT_FDCWD, directory, W_OK | X_OK, AT_EACCESS) < 0)
		return bind_failed(errno, path, error);
	return check_unused(&address, path, error);
}

bool vublk_socket_is_same(const char *a, const char *b)
{
	struct sockaddr_un addresses[2];
	char directory[sizeof(addresses[0].sun_path) + 1];
	const char *names[2];
	struct stat st[2];

	if (fill_address(&addresses[0], a, NULL) < 0 || fill_address(&addresses[1], b, NULL) < 0)
		return false;
	if (!stat(a, &st[0]) && !stat(b, &st[1]))
		return st[0].st_dev == st[1].st_dev && st[0].st_ino == st[1].st_ino;
	for (unsigned i = 0; i < 2; i++) {
		split_path(&addresses[i], directory, &names[i]);
		if (stat(directory, &st[i]) < 0)
			return !strcmp(a, b);
	}
	return st[0].st_dev == st[1].st_dev && st[0].st_ino == st[1].st_ino &&
	       !strcmp(names[0], names[1]);
}

/* Begins to listen on the socket `fd`, which is bound at `path`. Removes the file on failure. */
static int begin_to_listen(int fd, const char *path, const struct vublk_socket_access *access,
			   struct vublk_error *error)
{
	ino_t file = vublk_socket_file(path);
	int r = vublk_socket_access_apply(access, path, error);

	if (!r && listen(fd, BACKLOG) < 0)
		r = bind_failed(errno, path, error);
	if (r < 0)
		vublk_socket_remove(path, file);
	return r;
}

int vublk_socket_listen(const char *path, struct vublk_error *error)
{
	return vublk_socket_listen_with(path, &(struct vublk_socket_access){ 0 }, error);
}

int vublk_socket_listen_with(const char *path, const struct vublk_socket_access *access,
			     struct vublk_error *error)
{
	struct sockaddr_un address;
	VUBLK_FD int fd = -1;
	int r = fill_address(&address, path, error);

	if (r < 0)
		return r;
	fd = new_socket(error);
	if (fd < 0)
		return fd;
	r = bind(fd, (struct sockaddr *)&address, sizeof(address));
	if (r < 0 && errno == EADDRINUSE) {
		r = remove_stale(&address, path, error);
		if (r < 0)
			return r;
		r = bind(fd, (struct sockaddr *)&address, sizeof(address));
	}
	if (r < 0)
		return bind_failed(errno, path, error);
	r = begin_to_listen(fd, path, access, error);
	return r < 0 ? r : vublk_fd_steal(&fd);
}

void vublk_socket_listen_again(int fd)
{
	if (fd >= 0)
		listen(fd, BACKLOG);
}

ino_t vublk_socket_file(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

void vublk_socket_remove(const char *path, ino_t file)
{
	if (file && vublk_socket_file(path) == file)
		unlink(path);
}

int vublk_socket_accept(int listen_fd, struct vublk_error *error)
{
	int fd;

	do
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	while (fd < 0 && errno == EINTR);
	if (fd >= 0)
		return fd;
	if (errno == EAGAIN || errno == ECONNABORTED)
		return -EAGAIN;
	return vublk_error_set_errno(error, errno, "cannot accept a connection");
}

int64_t vublk_socket_peer_pid(int fd)
{
	struct ucred peer = { 0 };

	return vublk_peer_credentials(fd, &peer) < 0 ? 0 : peer.pid;
}

static int get_option(int fd, int option, int *value)
{
	socklen_t bytes = sizeof(*value);

	return getsockopt(fd, SOL_SOCKET, option, value, &bytes) < 0 ? errno : 0;
}

int vublk_socket_check_given(int fd, bool *listening, struct vublk_error *error)
{
	int domain = 0, type = 0, accepts = 0;
	struct sockaddr_un peer;
	socklen_t bytes = sizeof(peer);
	int code = get_option(fd, SO_DOMAIN, &domain);

	if (code)
		return vublk_error_set(error, EINVAL, "descriptor %d is not a socket (%s); pass a "
				       "listening or connected Unix stream socket", fd,
				       strerrordesc_np(code));
	if (domain != AF_UNIX)
		return vublk_error_set(error, EINVAL, "descriptor %d is a socket of address family "
				       "%d; expected AF_UNIX, because descriptors are passed over "
				       "Unix sockets only", fd,
				       domain);
	if (get_option(fd, SO_TYPE, &type) || type != SOCK_STREAM)
		return vublk_error_set(error, EINVAL, "descriptor %d is a Unix socket, but not of "
				       "type SOCK_STREAM; pass a stream socket", fd);
	*listening = !get_option(fd, SO_ACCEPTCONN, &accepts) && accepts;
	if (!*listening && getpeername(fd, (struct sockaddr *)&peer, &bytes) < 0)
		return vublk_error_set(error, EINVAL, "descriptor %d is a Unix stream socket that "
				       "is neither listening nor connected; call listen() or "
				       "connect() before passing it",
				       fd);
	return 0;
}

int vublk_socket_check_connected(int fd, struct vublk_error *error)
{
	struct sockaddr_un peer;
	socklen_t bytes = sizeof(peer);
	int domain = 0, type = 0, code;

	code = get_option(fd, SO_DOMAIN, &domain);
	if (!code)
		code = get_option(fd, SO_TYPE, &type);
	if (code == ENOTSOCK)
		return vublk_error_set(error, ENOTSOCK, "descriptor %d is not a socket; expected a "
				       "connected Unix stream socket", fd);
	if (code)
		return vublk_error_set(error, EINVAL, "cannot use descriptor %d: %s", fd,
				       strerrordesc_np(code));
	if (domain != AF_UNIX || type != SOCK_STREAM)
		return vublk_error_set(error, EINVAL, "descriptor %d is another kind of socket; "
				       "expected a connected Unix stream socket", fd);
	if (getpeername(fd, (struct sockaddr *)&peer, &bytes) < 0)
		return vublk_error_set(error, ENOTCONN, "the socket of descriptor %d is not "
				       "connected; connect it to the back-end first", fd);
	return 0;
}
