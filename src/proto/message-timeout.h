/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_MESSAGE_TIMEOUT_H
#define VUBLK_PROTO_MESSAGE_TIMEOUT_H

/*
 * The time that a client has for its first message, and for the rest of a message that it
 * has begun. A server that has one client at a time would otherwise be locked by one that
 * connects and sends nothing.
 *
 * A client that takes longer is disconnected when another one waits, not before: a VMM may
 * connect minutes before its device exists, and that harms nobody else.
 */
#include "util/loop.h"

#include <vublk/error.h>

#define VUBLK_MESSAGE_TIMEOUT_NAME "message-timeout-ms"
#define VUBLK_MESSAGE_TIMEOUT_DEFAULT "10000"
#define VUBLK_MESSAGE_TIMEOUT_TEXT                                                            \
	"How long a client may send no message, or half of one, while another waits; 0: forever"
#define VUBLK_MESSAGE_TIMEOUT_MAX_MS 86400000

struct vublk_message_timeout {
	struct vublk_loop *loop;
	int listen_fd;    /* borrowed; where the next client waits; -1: none can */
	uint64_t ms;      /* 0: no limit */
	bool had_message;
	size_t in_bytes;  /* of the message that has begun */
	struct vublk_loop_timer timer;
	struct vublk_loop_source next_source; /* in the loop when the time is over */
	/* Told once; it ends the connection. */
	void (*expired)(void *opaque, const struct vublk_error *error);
	void *opaque;
};

/* A client has connected. Nothing else in the loop watches `listen_fd` meanwhile. */
void vublk_message_timeout_begin(struct vublk_message_timeout *timeout, struct vublk_loop *loop,
				 int listen_fd, uint64_t ms,
				 void (*expired)(void *opaque, const struct vublk_error *error),
				 void *opaque);
/* After each attempt to receive: a message is complete, or so much of one is there. */
void vublk_message_timeout_note(struct vublk_message_timeout *timeout, bool is_complete,
				size_t in_bytes);
/* The connection is closed. Idempotent; zeroed: nothing. */
void vublk_message_timeout_end(struct vublk_message_timeout *timeout);

#endif
