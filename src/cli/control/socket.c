/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The Unix socket of the control interface; see socket.h. src/proto/socket.c does the same for the
 * sockets of disks, but it belongs to the library, which does not export it.
 *
 * Key idea: no client can connect before the file has its mode. bind() creates the file with the
 * mode of the socket's inode, less the umask. So the inode gets the mode before bind(). The bits
 * that the umask removed are added before listen(); until then the kernel refuses every connection.
 */
#include "cli/control/socket.h"

#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 64
#define NS_PER_MS UINT64_C(1000000)

static int fill_address(struct sockaddr_un *address, const char *path, struct vublk_error *error)
{
	size_t bytes = strlen(path);

	if (!bytes)
		return vublk_cli_error(error, EINVAL, "the path of the control socket is empty; "
				       "give a path");
	if (bytes >= sizeof(address->sun_path))
		return vublk_cli_error(error, ENAMETOOLONG,
				       "the path of the socket has %zu bytes, but the maximum "
				       "is %zu; use a shorter or a relative path: '%s'",
				       bytes, sizeof(address->sun_path) - 1, path);
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

/* Tries to connect. Returns 0 or a positive errno value. */
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
				       "choose another path", path);
	case EADDRINUSE:
		return vublk_cli_error(error, code, "another process listens on the socket '%s'; "
				       "stop it or choose another path", path);
	case ENOENT:
		return vublk_cli_error(error, code, "cannot listen on the socket '%s' because its "
				       "directory does not exist; create the directory or choose "
				       "another path", path);
	case EACCES:
	case EROFS:
		return vublk_cli_error_errno(error, code, "cannot create the socket '%s' in its "
					     "directory; choose a directory in which this user can "
					     "create files", path);
	default:
		return vublk_cli_error_errno(error, code, "cannot listen on the socket '%s'", path);
	}
}

/*
 * Returns 0 if no process listens at the socket file, or if the file does not exist any more;
 * otherwise a negative errno. Only ECONNREFUSED proves that no process listens.
 */
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

/*
 * Removes a socket file that a killed process has left behind, if there is one. Returns 0 if
 * nothing exists at the path afterwards, otherwise a negative errno.
 */
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
 * Gives the file the permissions `mode`, including those that the umask removed, and records the
 * identity of the file in `listener`. Opens the file with O_PATH, so that a file that replaces the
 * socket meanwhile is not changed.
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

/* --- upgrades ---------------------------------------------------------------------- */

void vublk_control_socket_disown(struct vublk_control_socket *listener)
{
	listener->file = 0;
}

/* The text in `extra` is "control DEVICE INODE PATH". */
void vublk_control_socket_give(const struct vublk_control_socket *listener,
			       struct vublk_upgrade_extra *extra)
{
	snprintf(extra->text, sizeof(extra->text), "control %llu %llu %s",
		 (unsigned long long)listener->device, (unsigned long long)listener->file,
		 listener->path);
	extra->fds[0] = listener->fd;
	extra->num_fds = 1;
}

int vublk_control_socket_adopt(struct vublk_control_socket *listener,
			       struct vublk_upgrade_extra *extra, struct vublk_error *error)
{
	unsigned long long device = 0, file = 0;
	int length = 0;

	*listener = (struct vublk_control_socket){ .fd = -1 };
	if (extra->num_fds != 1 ||
	    sscanf(extra->text, "control %llu %llu %n", &device, &file, &length) != 2 || !length)
		return vublk_cli_error(error, EINVAL, "the old process did not hand over its "
				       "control socket");
	*listener = (struct vublk_control_socket){
		.fd = extra->fds[0],
		.path = extra->text + length,
		.device = (dev_t)device,
		.file = (ino_t)file,
	};
	extra->num_fds = 0;
	listen(listener->fd, BACKLOG); /* new clients then get the pid of this process from
					  SO_PEERCRED */
	return 0;
}

/* --- the connecting end ------------------------------------------------------------ */

static int connect_failed(int code, const char *path, struct vublk_error *error)
{
	switch (code) {
	case ENOENT:
		return vublk_cli_error(error, code, "the control socket '%s' does not exist; check "
				       "the path, and that vublk was started with --control", path);
	case ECONNREFUSED:
		return vublk_cli_error(error, code, "no process listens on the control socket "
				       "'%s', or the file is not a socket; start vublk with --control",
				       path);
	case EAGAIN:
		return vublk_cli_error(error, ETIMEDOUT, "the process at the control socket '%s' "
				       "did not accept the connection in time", path);
	default:
		return vublk_cli_error_errno(error, code, "cannot connect to the control socket '%s'",
					     path);
	}
}

static void set_timeout(int fd, unsigned timeout_ms)
{
	struct timeval limit = {
		.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000,
	};

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

/*
 * Sends blanks, which a control socket ignores at the beginning of a line. If the socket is that of
 * a disk, the process there refuses the blanks as a message and closes the connection immediately,
 * instead of after a time limit.
 */
static void send_blanks(int fd)
{
	static const char blanks[] = "                ";

	send(fd, blanks, sizeof(blanks) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
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
	set_timeout(fd, timeout_ms);
	code = try_connect(fd, &address);
	if (!code) {
		send_blanks(fd);
		return fd;
	}
	close(fd);
	return connect_failed(code, path, error);
}

uint64_t vublk_control_deadline(unsigned timeout_ms)
{
	return vublk_cli_now_ns() + timeout_ms * NS_PER_MS;
}

/*
 * Returns the time until the deadline as a timeout of poll(), rounded up, or -1 if there is no
 * deadline.
 */
static int left_ms(uint64_t deadline_ns)
{
	uint64_t now = vublk_cli_now_ns();

	if (deadline_ns == UINT64_MAX)
		return -1;
	return now >= deadline_ns ? 0 :
	       (int)VUBLK_CLI_MIN((deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS, (uint64_t)INT_MAX);
}

ssize_t vublk_control_socket_receive(int fd, void *to, size_t bytes, uint64_t deadline_ns)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	for (;;) {
		int wait_ms = left_ms(deadline_ns);
		ssize_t n;

		if (!wait_ms)
			return -ETIMEDOUT;
		if (poll(&poll_fd, 1, wait_ms) <= 0)
			continue;
		n = recv(fd, to, bytes, MSG_DONTWAIT);
		if (n >= 0)
			return n;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
}
