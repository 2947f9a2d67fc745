/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors and their owners. Each descriptor has one owner at any time. */
#include "util/fd.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

void vublk_fd_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
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

int vublk_eventfd_new(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

void vublk_eventfd_signal(int fd)
{
	const uint64_t one = 1;
	ssize_t n;

	do
		n = write(fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

int vublk_eventfd_clear(int fd)
{
	uint64_t count;
	ssize_t n;

	do
		n = read(fd, &count, sizeof(count));
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN)
		return -errno;
	return n ? n == (ssize_t)sizeof(count) : -EPIPE;
}
