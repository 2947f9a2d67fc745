/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Functions that close descriptors or transfer their ownership, so that each descriptor has exactly
 * one owner at any time.
 */
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void vublk_fd_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

void vublk_fd_set_nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void vublk_fd_close_all(int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		vublk_fd_close(&fds[i]);
}

int vublk_fd_steal(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}
