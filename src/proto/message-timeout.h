/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_MESSAGE_TIMEOUT_H
#define VUBLK_PROTO_MESSAGE_TIMEOUT_H

/*
 * A time limit for a client's first message, and for the rest of an incomplete message. Without
 * this limit, a client that connects and sends nothing would block a server that serves one client
 * at a time.
 *
 * Key idea: a client that exceeds the limit is disconnected only if another client waits. A VMM may
 * connect minutes before its device exists, and does no harm if no other client waits.
 */
#include "util/loop.h"

#include <vublk/error.h>

#define VUBLK_MESSAGE_TIMEOUT_NAME "message-timeout-ms"
#define VUBLK_MESSAGE_TIMEOUT_DEFAULT "10000"
#define VUBLK_MESSAGE_TIMEOUT_TEXT                                                            \
	"how long a client may send nothing, or only a part of a message, while another client waits; 0: no limit"
#define VUBLK_MESSAGE_TIMEOUT_MAX_MS 86400000

struct vublk_message_timeout {
	struct vublk_loop *loop;
	int listen_fd;    /* where the next client waits, borrowed; -1: there is no such socket */
	uint64_t ms;      /* 0: no limit */
	bool had_message;
	size_t in_bytes;  /* bytes of an incomplete message that have arrived */
	struct vublk_loop_timer timer;
	struct vublk_loop_source next_source; /* watches listen_fd when the time limit has passed */
	/*
	 * Called at most once, when the limit is exceeded and another client waits. Must end the
	 * connection.
	 */
	void (*expired)(void *opaque, const struct vublk_error *error);
	void *opaque;
};

/*
 * Called when a client has connected. `ms` is the limit; 0: no limit. Until
 * vublk_message_timeout_end(), the arguments are borrowed, and no other source of the loop may
 * watch `listen_fd`.
 */
void vublk_message_timeout_begin(struct vublk_message_timeout *timeout, struct vublk_loop *loop,
				 int listen_fd, uint64_t ms,
				 void (*expired)(void *opaque, const struct vublk_error *error),
				 void *opaque);
/*
 * Called after each attempt to receive. `is_complete`: the attempt completed a message. Otherwise
 * `in_bytes` bytes of an incomplete message have arrived so far.
 */
void vublk_message_timeout_note(struct vublk_message_timeout *timeout, bool is_complete,
				size_t in_bytes);
/* Called when the connection is closed. Idempotent; a no-op for a zeroed struct. */
void vublk_message_timeout_end(struct vublk_message_timeout *timeout);

#endif
