/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disconnects clients that send nothing, or only part of a message, while another client waits; see
 * message-timeout.h.
 */
#include "proto/message-timeout.h"

#include "util/error.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/epoll.h>

/* Called when the time limit has expired and another client waits. */
static void on_next(void *opaque, uint32_t events)
{
	struct vublk_message_timeout *timeout = opaque;
	struct vublk_error error;

	vublk_message_timeout_end(timeout);
	if (timeout->had_message)
		vublk_error_set(&error, ETIMEDOUT, "the client sent %zu bytes of a message but did not "
				"complete the message within %" PRIu64 " ms (%s), and another "
				"client is waiting",
				timeout->in_bytes, timeout->ms, VUBLK_MESSAGE_TIMEOUT_NAME);
	else
		vublk_error_set(&error, ETIMEDOUT, "the client sent no message within %" PRIu64 " ms "
				"(%s), and another client is waiting",
				timeout->ms, VUBLK_MESSAGE_TIMEOUT_NAME);
	timeout->expired(timeout->opaque, &error);
}

static void on_timer(void *opaque)
{
	struct vublk_message_timeout *timeout = opaque;

	/* If the loop cannot watch listen_fd now, try again when the timer has expired once more. */
	if (vublk_loop_add(timeout->loop, &timeout->next_source, timeout->listen_fd, EPOLLIN, NULL))
		vublk_loop_timer_arm(timeout->loop, &timeout->timer,
				     vublk_now_ns() + timeout->ms * UINT64_C(1000000));
}

void vublk_message_timeout_begin(struct vublk_message_timeout *timeout, struct vublk_loop *loop,
				 int listen_fd, uint64_t ms,
				 void (*expired)(void *opaque, const struct vublk_error *error),
				 void *opaque)
{
	*timeout = (struct vublk_message_timeout){
		.loop = loop,
		.listen_fd = listen_fd,
		.ms = ms,
		.timer = { .fn = on_timer, .opaque = timeout },
		.next_source = { .fn = on_next, .opaque = timeout },
		.expired = expired,
		.opaque = opaque,
	};
	vublk_message_timeout_note(timeout, false, 0);
}

void vublk_message_timeout_note(struct vublk_message_timeout *timeout, bool is_complete,
				size_t in_bytes)
{
	timeout->had_message |= is_complete;
	timeout->in_bytes = is_complete ? 0 : in_bytes;
	if (timeout->had_message && !timeout->in_bytes) {
		vublk_message_timeout_end(timeout);
		return;
	}
	if (!timeout->ms || timeout->listen_fd < 0 || timeout->timer.loop ||
	    timeout->next_source.loop)
		return;
	vublk_loop_timer_arm(timeout->loop, &timeout->timer,
			     vublk_now_ns() + timeout->ms * UINT64_C(1000000));
}

void vublk_message_timeout_end(struct vublk_message_timeout *timeout)
{
	vublk_loop_timer_disarm(&timeout->timer);
	vublk_loop_remove(&timeout->next_source);
}
