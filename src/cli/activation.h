/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_ACTIVATION_H
#define VUBLK_CLI_ACTIVATION_H

/*
 * Takes over the listening socket that the parent process, usually systemd, passes to this one:
 * socket activation, as in sd_listen_fds(3).
 */
#include "cli/options.h"

#include <vublk/error.h>

struct vublk_activation {
	int fd; /* -1: the parent has passed no socket */
	char text[16]; /* the number of the descriptor */
};

/*
 * Reads LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, and removes them from the environment, so that
 * no child process tries to use the socket. Ignores variables for another process. Errors: EINVAL
 * if the variables do not pass exactly one open descriptor.
 */
int vublk_activation_take(struct vublk_activation *activation, struct vublk_error *error);

/*
 * If the parent has passed a socket, adds it to `options` as the library's option `fd`. The socket
 * has to listen at `path`, the value of the command-line option `option` (NULL: the user gives no
 * path). Errors: EINVAL if the socket has another address, or if `options` has another `fd`.
 */
int vublk_activation_use(const struct vublk_activation *activation, const char *option,
			 const char *path, struct vublk_cli_options *options,
			 struct vublk_error *error);

#endif
