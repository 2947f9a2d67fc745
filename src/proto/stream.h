/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_STREAM_H
#define VUBLK_PROTO_STREAM_H

/*
 * Bytes and descriptors over a stream socket, whatever protocol they are of: what a
 * channel of each protocol does with the kernel. Never blocks.
 */

#include <vublk/error.h>

#include <sys/socket.h>
#include <sys/types.h>

#define VUBLK_STREAM_MAX_FDS 16 /* the most that any protocol here sends with a message */

/* Where a message's descriptors go; one that has no room is closed. */
struct vublk_stream_fds {
	int *fds;
	unsigned *num_fds; /* that are there already */
	unsigned max;      /* at most VUBLK_STREAM_MAX_FDS */
};

/* Makes the socket non-blocking and CLOEXEC. */
void vublk_stream_init(int fd);

/* How many bytes the socket took, or a negative errno; -EAGAIN: none. */
ssize_t vublk_stream_send(int fd, const struct msghdr *msg);

/*
 * Receives up to `part`, never more, for the descriptors of what follows would come with
 * it. `peer` is what the sentences call the other end. How many bytes came; 0: none yet;
 * -ENOTCONN: it closed or reset the connection, and the sentence says which, and no more;
 * -EPROTO: more descriptors than there may be; -EMFILE: descriptors were lost, for this
 * process has no room for them; or what the kernel says. The descriptors that came with
 * an error are in `fds`, too.
 */
ssize_t vublk_stream_receive(int fd, struct iovec part, const struct vublk_stream_fds *fds,
			     const char *peer, struct vublk_error *error);

#endif
