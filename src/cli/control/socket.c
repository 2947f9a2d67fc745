/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Unix socket of the control interface; see socket.h. src/proto/socket.c does the same for the
 * sockets of disks, but it belongs to the library, which does not export it.
 *
 * Key idea: the file gets the mode of the socket's inode, less the umask, when bind() creates it.
 * So the inode gets its mode first, and bits that the umask removed are added before listen(),
 * because the kernel refuses every connection until then.
 */
#include "cli/control/socket.h"

#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64

static int fill_address(struct sockaddr_un *address, const char *path, struct vublk_error *error)
{
	size_t bytes = strlen(path);

	if (!bytes)
		return vublk_cli_error(error, EINVAL, "the path of the control socket is empty");
	if (bytes >= sizeof(address->sun_path))
		return vublk_cli_error(error, ENAMETOOLONG,
				       "the path of the control socket has %zu bytes, at most %zu are "
				       "possible; use a shorter or a relative one: '%s'", bytes,
				       sizeof(address->sun_path) - 1, path);
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	memcpy(address->sun_path, path, bytes);
	return 0;
}

static int new_socket(int flags, struct vublk_error *error)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);

	return fd < 0 ? vublk_cli_error_errno(error, errno, "cannot create a socket") : fd;
}

/* Returns 0 or an errno value. */
static int try_connect(int fd, const struct sockaddr_un *address)
{
	return connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? errno : 0;
}

/* --- the listening end ------------------------------------------------------------ */

static int listen_failed(int code, const char *path, struct vublk_error *error)
{
	switch (code) {
	case EEXIST:
		return vublk_cli_error(error, code, "'%s' exists and is not a socket; remove it or "
				       "choose another path for the control socket", path);
	case EADDRINUSE:
		return vublk_cli_error(error, code, "a process already listens at the control socket "
				       "'%s'; stop it or choose another path", path);
	case ENOENT:
		return vublk_cli_error(error, code, "cannot listen at the control socket '%s' because "
				       "its directory does not exist; create it or choose another "
				       "path", path);
	case EACCES:
	case EROFS:
		return vublk_cli_error_errno(error, code, "cannot create the control socket '%s' in "
					     "its directory; choose a directory that this user can "
					     "write to", path);
	default:
		return vublk_cli_error_errno(error, code, "cannot listen at the control socket '%s'",
					     path);
	}
}

/* Returns 0 if the file is a socket without a listener, which only ECONNREFUSED proves. */
static int probe(const struct sockaddr_un *address, struct vublk_error *error)
{
	int fd = new_socket(SOCK_NONBLOCK, error);
	int code;

	if (fd < 0)
		return fd;
	code = try_connect(fd, address);
	close(fd);
	if (code == ECONNREFUSED || code == ENOENT)
		return 0;
	if (!code || code == EAGAIN || code == EPROTOTYPE)
		code = EADDRINUSE;
	return listen_failed(code, address->sun_path, error);
}

/* Removes a socket file that a killed process has left behind. */
static int remove_stale(const struct sockaddr_un *address, struct vublk_error *error)
{
	const char *path = address->sun_path;
	struct stat st;
	int r;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : listen_failed(errno, path, error);
	if (!S_ISSOCK(st.st_mode))
		return listen_failed(EEXIST, path, error);
	r = probe(address, error);
	if (!r && unlink(path) < 0 && errno != ENOENT)
		r = listen_failed(errno, path, error);
	return r;
}

static int bind_to(int fd, const struct sockaddr_un *address, struct vublk_error *error)
{
	int r = bind(fd, (const struct sockaddr *)address, sizeof(*address));

	if (r < 0 && errno == EADDRINUSE) {
		r = remove_stale(address, error);
		if (r < 0)
			return r;
		r = bind(fd, (const struct sockaddr *)address, sizeof(*address));
	}
	return r < 0 ? listen_failed(errno, address->sun_path, error) : 0;
}

/*
 * Gives the file the permissions that the umask removed. Opens the file with O_PATH, so that
 * another file that replaces the socket meanwhile is not changed.
 */
static int set_mode(struct vublk_control_socket *listener, mode_t mode, struct vublk_error *error)
{
	int fd = open(listener->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char name[40];
	struct stat st;
	int code = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		code = errno;
	else if (!S_ISSOCK(st.st_mode))
		code = EEXIST;
	if (!code) {
		listener->device = st.st_dev;
		listener->file = st.st_ino;
		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		if ((st.st_mode & 07777) != mode && chmod(name, mode) < 0)
			code = errno;
	}
	if (fd >= 0)
		close(fd);
	return code ? listen_failed(code, listener->path, error) : 0;
}

static int set_up(struct vublk_control_socket *listener, const struct sockaddr_un *address,
		  mode_t mode, struct vublk_error *error)
{
	int r;

	if (fchmod(listener->fd, mode) < 0)
		return listen_failed(errno, listener->path, error);
	r = bind_to(listener->fd, address, error);
	if (!r)
		r = set_mode(listener, mode, error);
	if (!r && listen(listener->fd, BACKLOG) < 0)
		r = listen_failed(errno, listener->path, error);
	return r;
}

int vublk_control_socket_listen(const char *path, mode_t mode,
				struct vublk_control_socket *listener, struct vublk_error *error)
{
	struct sockaddr_un address;
	int r = fill_address(&address, path, error);

	*listener = (struct vublk_control_socket){ .fd = -1, .path = path };
	if (r < 0)
		return r;
	listener->fd = new_socket(SOCK_NONBLOCK, error);
	if (listener->fd < 0)
		return listener->fd;
	r = set_up(listener, &address, mode, error);
	if (r < 0)
		vublk_control_socket_close(listener);
	return r;
}

void vublk_control_socket_close(struct vublk_control_socket *listener)
{
	struct stat st;

	if (listener->fd < 0)
		return;
	if (listener->file && !lstat(listener->path, &st) && st.st_ino == listener->file &&
	    st.st_dev == listener->device)
		unlink(listener->path);
	close(listener->fd);
	listener->fd = -1;
}

/* --- the connecting end ------------------------------------------------------------ */

static int connect_failed(int code, const char *path, struct vublk_error *error)
{
	switch (code) {
	case ENOENT:
		return vublk_cli_error(error, code, "there is no control socket '%s'; check the path, "
				       "and that vublk was started with --control", path);
	case ECONNREFUSED:
		return vublk_cli_error(error, code, "no process listens at the control socket '%s', or "
				       "it is not a socket; start vublk with --control", path);
	case EAGAIN:
		return vublk_cli_error(error, ETIMEDOUT, "the process at the control socket '%s' does "
				       "not accept the connection in time", path);
	default:
		return vublk_cli_error_errno(error, code, "cannot connect to the control socket '%s'",
					     path);
	}
}

void vublk_control_socket_set_timeout(int fd, unsigned timeout_ms)
{
	struct timeval limit = {
		.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000,
	};

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

int vublk_control_socket_connect(const char *path, unsigned timeout_ms, struct vublk_error *error)
{
	struct sockaddr_un address;
	int fd, code, r = fill_address(&address, path, error);

	if (r < 0)
		return r;
	fd = new_socket(0, error);
	if (fd < 0)
		return fd;
	vublk_control_socket_set_timeout(fd, timeout_ms);
	code = try_connect(fd, &address);
	if (!code)
		return fd;
	close(fd);
	return connect_failed(code, path, error);
}
