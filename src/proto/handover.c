/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sends and receives the messages between a process and the one that takes over from it; see
 * handover.h. This file does not know what is in a message.
 *
 * Key idea: while the old process waits in one of these calls, its disk is frozen. So each call
 * that can wait has a deadline.
 */
#include "proto/handover.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/loop.h"
#include "util/peer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define IN_TRANSIT_PAUSE_MS 1

static ssize_t payload_bytes(const void *opaque, struct vublk_error *error)
{
	const struct vublk_handover_header *header = opaque;

	if (header->kind && header->kind < VUBLK_HANDOVER_NUM_KINDS && !header->zero &&
	    header->bytes < VUBLK_HANDOVER_MAX_BYTES)
		return (ssize_t)header->bytes;
	return vublk_error_set(error, EPROTO, "received an invalid upgrade message: kind %u, a "
			       "payload of %llu bytes and a reserved field of 0x%x; expected kind "
			       "1 to %u, a payload of at most %u bytes and a reserved field of 0",
			       header->kind, (unsigned long long)header->bytes, header->zero,
			       VUBLK_HANDOVER_NUM_KINDS - 1, VUBLK_HANDOVER_MAX_BYTES - 1);
}

static void name(const void *opaque, char *text, size_t text_bytes)
{
	const struct vublk_handover_header *header = opaque;

	snprintf(text, text_bytes, "upgrade message %u", header->kind);
}

static const struct vublk_stream_format format = {
	.peer = "other process",
	.header_bytes = sizeof(struct vublk_handover_header),
	.max_payload_bytes = VUBLK_HANDOVER_MAX_BYTES,
	.max_fds = VUBLK_STREAM_MAX_FDS,
	.payload_bytes = payload_bytes,
	.name = name,
};

/* --- life ------------------------------------------------------------------------------------ */

int vublk_handover_open(struct vublk_handover_channel *channel, int fd, struct vublk_error *error)
{
	*channel = (struct vublk_handover_channel){
		.fd = fd,
		.payload = malloc(VUBLK_HANDOVER_MAX_BYTES),
	};
	vublk_stream_init(fd);
	if (channel->payload)
		return 0;
	vublk_handover_close(channel);
	return vublk_error_set_errno(error, ENOMEM, "cannot allocate a buffer for the messages of "
				     "an upgrade");
}

void vublk_handover_close(struct vublk_handover_channel *channel)
{
	vublk_fd_close_all(channel->fds, channel->num_fds);
	channel->num_fds = 0;
	free(channel->payload);
	channel->payload = NULL;
	vublk_fd_close(&channel->fd);
}

int vublk_handover_check_peer(const struct vublk_handover_channel *channel, int64_t *pid,
			      struct vublk_error *error)
{
	struct ucred peer = { 0 };
	int r = vublk_peer_credentials(channel->fd, &peer);

	if (r < 0)
		return vublk_error_set_errno(error, -r, "cannot find the user of the other process");
	if (peer.uid != geteuid())
		return vublk_error_set(error, EPERM, "the other process belongs to user %u, but "
				       "this one belongs to user %u; run both as the same user",
				       (unsigned)peer.uid, (unsigned)geteuid());
	*pid = peer.pid;
	return 0;
}

/* --- sending --------------------------------------------------------------------------------- */

/*
 * Waits until `fd` has one of `events`, `other_fd` (-1: no descriptor) is readable, or the deadline
 * passes. Returns false, without waiting, only if the deadline has already passed.
 */
static bool wait_for(int fd, short events, int other_fd, uint64_t deadline_ns)
{
	struct pollfd wait[] = {
		{ .fd = fd, .events = events }, { .fd = other_fd, .events = POLLIN },
	};
	uint64_t now = vublk_now_ns();

	if (now >= deadline_ns)
		return false;
	poll(wait, VUBLK_ARRAY_SIZE(wait), (int)VUBLK_MIN((deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS,
				      (uint64_t)INT32_MAX));
	return true;
}

/*
 * Waits until it is worth trying to send again. Returns false if the deadline has passed. `result`
 * is -EAGAIN if the socket was full, or -ETOOMANYREFS if too many descriptors were in transit in
 * sockets. In the second case, waits for a moment, so that the receiver can take descriptors out.
 */
static bool wait_for_room(int fd, ssize_t result, uint64_t deadline_ns)
{
	uint64_t soon = vublk_now_ns() + IN_TRANSIT_PAUSE_MS * NS_PER_MS;

	if (result == -EAGAIN)
		return wait_for(fd, POLLOUT, -1, deadline_ns);
	while (vublk_now_ns() < soon)
		if (!wait_for(-1, 0, -1, VUBLK_MIN(soon, deadline_ns)))
			break;
	return vublk_now_ns() < deadline_ns;
}

int vublk_handover_send(struct vublk_handover_channel *channel, enum vublk_handover_kind kind,
			const void *payload, size_t bytes, const int *fds, unsigned num_fds,
			uint64_t deadline_ns, struct vublk_error *error)
{
	const struct vublk_handover_header header = { .kind = kind, .bytes = bytes };
	const struct vublk_stream_message message = {
		.header = &header, .header_bytes = sizeof(header),
		.payload = payload, .payload_bytes = bytes, .fds = fds, .num_fds = num_fds,
	};
	size_t sent = 0;

	if (bytes >= VUBLK_HANDOVER_MAX_BYTES)
		return vublk_error_set(error, EMSGSIZE, "cannot send an upgrade message of %zu "
				       "bytes; the maximum is %u bytes", bytes,
				       VUBLK_HANDOVER_MAX_BYTES - 1);
	while (sent < sizeof(header) + bytes) {
		ssize_t n = vublk_stream_send_message(channel->fd, &message, sent);

		if (n > 0)
			sent += (size_t)n;
		else if (n != -EAGAIN && n != -ETOOMANYREFS)
			return vublk_error_set_errno(error, (int)-n, "cannot send a message to the "
						     "other process");
		else if (!wait_for_room(channel->fd, n, deadline_ns))
			return vublk_error_set(error, ETIMEDOUT, n == -EAGAIN ?
					       "the other process did not read its socket in time" :
					       "cannot pass file descriptors to the other process, "
					       "because too many are in transit; raise the limit "
					       "of open files (ulimit -n)");
	}
	return 0;
}

int vublk_handover_send_fds(struct vublk_handover_channel *channel, const int *fds,
			    unsigned num_fds, uint64_t deadline_ns, struct vublk_error *error)
{
	int r = 0;

	for (unsigned i = 0; i < num_fds && !r; i += VUBLK_STREAM_MAX_FDS)
		r = vublk_handover_send(channel, VUBLK_HANDOVER_DESCRIPTORS, NULL, 0, fds + i,
					VUBLK_MIN(num_fds - i, (unsigned)VUBLK_STREAM_MAX_FDS),
					deadline_ns, error);
	return r;
}

void vublk_handover_refuse(struct vublk_handover_channel *channel, const struct vublk_error *why)
{
	vublk_handover_send(channel, VUBLK_HANDOVER_REFUSED, why->text, strlen(why->text), NULL, 0, 0,
			    NULL);
}

/* --- receiving ------------------------------------------------------------------------------- */

int vublk_handover_receive(struct vublk_handover_channel *channel, struct vublk_error *error)
{
	const struct vublk_stream_place place = { &channel->header, channel->payload, channel->fds,
						  &channel->num_fds };
	int r;

	if (!vublk_stream_reader_bytes(&channel->reader)) {
		vublk_fd_close_all(channel->fds, channel->num_fds);
		channel->num_fds = 0;
	}
	r = vublk_stream_read(channel->fd, &format, &channel->reader, &place, error);
	if (r != 1 || channel->header.kind != VUBLK_HANDOVER_REFUSED)
		return r;
	return vublk_error_set(error, ECANCELED, "%.*s",
			       (int)VUBLK_MIN(channel->header.bytes, UINT64_C(400)),
			       (const char *)channel->payload);
}

bool vublk_handover_is_readable(int fd)
{
	struct pollfd look = { .fd = fd, .events = POLLIN };

	return poll(&look, 1, 0) == 1;
}

int vublk_handover_wait(struct vublk_handover_channel *channel, int stop_fd, uint64_t deadline_ns,
			struct vublk_error *error)
{
	for (;;) {
		int r = vublk_handover_receive(channel, error);

		if (r)
			return r < 0 ? r : 0;
		if (vublk_handover_is_readable(stop_fd))
			return vublk_error_set(error, EINTR, "this process was asked to stop");
		if (!wait_for(channel->fd, POLLIN, stop_fd, deadline_ns))
			return vublk_error_set(error, ETIMEDOUT, "the other process did not answer in "
					       "time");
	}
}
