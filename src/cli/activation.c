/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Takes over the socket that the parent process passes; see activation.h.
 *
 * Key idea: the variables and the descriptor come from outside and may not fit the command line,
 * for example after a mistake in a socket unit. To serve the disk at a path that the user does not
 * expect would be worse than not to start. So this file checks the address, and the library checks
 * the kind of the socket.
 */
#include "cli/activation.h"

#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD 3 /* SD_LISTEN_FDS_START */

static int check_count(const char *count, const char *names, struct vublk_error *error)
{
	uint64_t number;

	if (vublk_cli_parse_number("LISTEN_FDS", count, 0, INT_MAX - FIRST_FD, &number, error) < 0)
		return -EINVAL;
	if (number == 1)
		return 0;
	return vublk_cli_error(error, EINVAL, "LISTEN_FDS passes %d sockets%s%.100s%s, but one is "
			       "needed; the socket unit must have exactly one ListenStream=",
			       (int)number, names ? " (" : "", names ? names : "", names ? ")" : "");
}

/* Returns whether LISTEN_FDS is meant for this process. */
static bool is_for_this_process(void)
{
	const char *pid = getenv("LISTEN_PID");
	uint64_t number = 0;

	return pid && getenv("LISTEN_FDS") &&
	       !vublk_cli_parse_number("LISTEN_PID", pid, 1, INT_MAX, &number, NULL) &&
	       number == (uint64_t)getpid();
}

int vublk_activation_take(struct vublk_activation *activation, struct vublk_error *error)
{
	int r = 0;

	*activation = (struct vublk_activation){ .fd = -1 };
	if (is_for_this_process()) {
		r = check_count(getenv("LISTEN_FDS"), getenv("LISTEN_FDNAMES"), error);
		if (!r && fcntl(FIRST_FD, F_SETFD, FD_CLOEXEC) < 0)
			r = vublk_cli_error(error, EINVAL, "LISTEN_FDS passes descriptor %d, which "
					    "is not open; unset LISTEN_FDS or pass a socket", FIRST_FD);
		if (!r)
			activation->fd = FIRST_FD;
	}
	snprintf(activation->text, sizeof(activation->text), "%d", activation->fd);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return r;
}

/* --- the address ----------------------------------------------------------------------- */

/*
 * Stores the path of the socket in `path`, which is empty if the socket has none. Returns 0 or a
 * negative errno.
 */
static int get_path(int fd, char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1])
{
	struct sockaddr_un address = { .sun_family = AF_UNSPEC };
	socklen_t bytes = sizeof(address);

	if (getsockname(fd, (struct sockaddr *)&address, &bytes) < 0)
		return -errno;
	if (address.sun_family != AF_UNIX || bytes <= offsetof(struct sockaddr_un, sun_path))
		bytes = offsetof(struct sockaddr_un, sun_path);
	bytes -= offsetof(struct sockaddr_un, sun_path);
	memcpy(path, address.sun_path, bytes);
	path[bytes] = '\0';
	return 0;
}

/* Returns whether the paths are equal or lead to the same file. */
static bool is_same(const char *a, const char *b)
{
	struct stat st[2];

	if (!strcmp(a, b))
		return true;
	return !stat(a, &st[0]) && !stat(b, &st[1]) && st[0].st_dev == st[1].st_dev &&
	       st[0].st_ino == st[1].st_ino;
}

static int check_path(const struct vublk_activation *activation, const char *option,
		      const char *path, struct vublk_error *error)
{
	char own[sizeof(((struct sockaddr_un *)0)->sun_path) + 1] = "";
	int r = get_path(activation->fd, own);

	if (r)
		return vublk_cli_error(error, EINVAL, "LISTEN_FDS passes descriptor %d, which is not a "
				       "socket (%s); pass a listening Unix socket", activation->fd, strerrordesc_np(-r));
	if (own[0] && is_same(own, path))
		return 0;
	return vublk_cli_error(error, EINVAL, "LISTEN_FDS passes a socket at '%s', but %s has the path "
			       "'%s'; use that path in ListenStream= of the socket unit", own, option,
			       path);
}

int vublk_activation_use(const struct vublk_activation *activation, const char *option,
			 const char *path, struct vublk_cli_options *options,
			 struct vublk_error *error)
{
	const char *given = vublk_cli_options_get(options, "fd");
	int r = 0;

	if (activation->fd < 0)
		return 0;
	if (given && strcmp(given, activation->text))
		return vublk_cli_error(error, EINVAL, "LISTEN_FDS passes a socket as descriptor %d, but the option fd "
				       "is '%s'; remove the option fd", activation->fd, given);
	if (path)
		r = check_path(activation, option, path, error);
	if (!r)
		vublk_cli_options_add_default(options, "fd", activation->text);
	return r;
}
