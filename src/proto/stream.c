/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See the header. */
#include "proto/stream.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>

void vublk_stream_init(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

ssize_t vublk_stream_send(int fd, const struct msghdr *msg)
{
	ssize_t n;

	do
		n = sendmsg(fd, msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* --- receiving -------------------------------------------------------------- */

static int receive_failed(int code, const char *peer, struct vublk_error *error)
{
	if (code && code != ECONNRESET && code != EPIPE && code != ENOTCONN)
		return vublk_error_set_errno(error, code, "cannot receive from the %s", peer);
	return vublk_error_set(error, ENOTCONN, "the %s %s the connection", peer,
			       code ? "reset" : "closed");
}

/* Puts what came where it belongs; returns how many came, closing the surplus. */
static unsigned take_fds(const struct vublk_stream_fds *fds, struct msghdr *msg)
{
	unsigned came = 0;

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++, came++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(fd), sizeof(fd));
			if (*fds->num_fds < fds->max)
				fds->fds[(*fds->num_fds)++] = fd;
			else
				vublk_fd_close(&fd);
		}
	}
	return came;
}

/*
 * The kernel drops descriptors for want of room in the control buffer or in this
 * process's table. In the first case the buffer is full of those that came.
 */
static int check_fds(unsigned before, unsigned came, unsigned max, bool truncated,
		     const char *peer, struct vublk_error *error)
{
	if (truncated && came < max)
		return vublk_error_set(error, EMFILE,
				       "file descriptors that the %s sent were lost, probably "
				       "because this process has too many open; "
				       "raise its limit (ulimit -n)", peer);
	if (truncated || before + came > max)
		return vublk_error_set(error, EPROTO,
				       "a message came with more than %u file descriptors", max);
	return 0;
}

ssize_t vublk_stream_receive(int fd, struct iovec part, const struct vublk_stream_fds *fds,
			     const char *peer, struct vublk_error *error)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * VUBLK_STREAM_MAX_FDS)];
	} control;
	/* Room for exactly the descriptors that there may be: what does not fit is surplus. */
	struct msghdr msg = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = CMSG_SPACE(sizeof(int) * fds->max),
	};
	unsigned before = *fds->num_fds, came;
	ssize_t n;
	int r;

	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return receive_failed(n < 0 ? errno : 0, peer, error);
	came = take_fds(fds, &msg);
	r = check_fds(before, came, fds->max, msg.msg_flags & MSG_CTRUNC, peer, error);
	return r < 0 ? r : n;
}
