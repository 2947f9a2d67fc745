/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The back channel: a second socket, on which the back-end sends requests and the front-end answers
 * them. Only CONFIG_CHANGE_MSG is served. The back-end's end of such a channel is in
 * proto/vhost-user/back-channel.c.
 *
 * Key idea: a disk works without this channel. So once it exists, no failure of the channel ends
 * the connection: if a message cannot be sent or received, the channel is closed, and a request
 * that is invalid or not served is refused. Both cause a limited number of log lines.
 *
 * Specification: "Back-end communication", "VHOST_USER_SET_BACKEND_REQ_FD".
 */
#include "frontend/frontend.h"

#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define MESSAGES_PER_TURN 16

static void abandon(struct vublk_frontend *frontend, const char *why)
{
	vublk_log_limited(frontend->log, frontend->limit, VUBLK_LOG_WARNING,
			  "closed the back channel: %s; the back-end can no longer report changes "
			  "of the disk's configuration", why);
	vublk_frontend_close_back_channel(frontend);
	frontend->ops->back_channel_closed(frontend->opaque);
}

/*
 * Called when the channel has failed. ENOTCONN does not deserve a warning, because every back-end
 * closes the channel when it ends.
 */
static void on_failed(struct vublk_frontend *frontend, const struct vublk_error *error)
{
	if (error->code != ENOTCONN) {
		abandon(frontend, error->text);
		return;
	}
	vublk_log(frontend->log, VUBLK_LOG_DEBUG, "the back-end closed the back channel");
	vublk_frontend_close_back_channel(frontend);
	frontend->ops->back_channel_closed(frontend->opaque);
}

/* --- requests ----------------------------------------------------------------------- */

static void answer(struct vublk_frontend *frontend, const struct vublk_vu_message *request,
		   uint64_t result)
{
	struct vublk_frontend_back_channel *backend = &frontend->back_channel;
	struct vublk_vu_message reply;
	struct vublk_error error;

	if (!(request->header.flags & VUBLK_VU_FLAG_NEED_REPLY) ||
	    !vublk_frontend_has(frontend, VUBLK_VU_F_REPLY_ACK))
		return;
	vublk_vu_message_init(&reply, request->header.request);
	reply.header.flags |= VUBLK_VU_FLAG_REPLY;
	reply.header.size = sizeof(uint64_t);
	reply.payload.u64 = result;
	if (vublk_channel_send(&backend->channel, &reply, &error) < 0)
		on_failed(frontend, &error);
	else if (vublk_channel_wants_write(&backend->channel))
		vublk_loop_modify(&backend->source, EPOLLIN | EPOLLOUT);
}

static int check_served(const struct vublk_vu_message *message, struct vublk_error *error)
{
	int r = vublk_vu_check_request(VUBLK_VU_TO_FRONTEND, message, error);

	if (r < 0 || message->header.request == VUBLK_VU_BACKEND_CONFIG_CHANGE_MSG)
		return r;
	return vublk_error_set(error, ENOTSUP, "%s is not supported",
			       vublk_vu_request_name(VUBLK_VU_TO_FRONTEND,
						     message->header.request));
}

static void serve(struct vublk_frontend *frontend, const struct vublk_vu_message *message)
{
	struct vublk_error error;
	int r = check_served(message, &error);

	if (r < 0)
		vublk_log_limited(frontend->log, frontend->limit, VUBLK_LOG_WARNING,
				  "refused a message on the back channel: %s", error.text);
	answer(frontend, message, r < 0);
	if (!r)
		frontend->ops->config_changed(frontend->opaque);
}

/* Receives messages. A callback may close the back channel, which sets source.loop to NULL. */
static void receive(struct vublk_frontend *frontend)
{
	struct vublk_frontend_back_channel *backend = &frontend->back_channel;

	for (unsigned i = 0; i < MESSAGES_PER_TURN && backend->source.loop; i++) {
		struct vublk_vu_message message;
		struct vublk_error error;
		int r = vublk_channel_receive(&backend->channel, &message, &error);

		if (r < 0)
			on_failed(frontend, &error);
		if (r <= 0)
			return;
		serve(frontend, &message);
		vublk_vu_message_deinit(&message);
	}
}

static void on_channel(void *opaque, uint32_t events)
{
	struct vublk_frontend *frontend = opaque;
	struct vublk_frontend_back_channel *backend = &frontend->back_channel;
	struct vublk_error error;

	if (events & EPOLLOUT) {
		int r = vublk_channel_flush(&backend->channel, &error);

		if (r < 0) {
			on_failed(frontend, &error);
			return;
		}
		if (!r)
			vublk_loop_modify(&backend->source, EPOLLIN);
	}
	receive(frontend);
}

/* --- giving the back-end its end ------------------------------------------------------------ */

static void on_handed_over(void *opaque, unsigned tag, struct vublk_vu_message *reply)
{
	if (reply->payload.u64)
		abandon(opaque, "the back-end refused its end of the channel (SET_BACKEND_REQ_FD)");
}

static void send_other_end(struct vublk_frontend *frontend, int fd)
{
	struct vublk_vu_message message;

	vublk_vu_message_init(&message, VUBLK_VU_SET_BACKEND_REQ_FD);
	message.fds[0] = fd;
	message.num_fds = 1;
	if (!vublk_frontend_has(frontend, VUBLK_VU_F_REPLY_ACK)) {
		vublk_frontend_send(frontend, &message);
		return;
	}
	message.header.flags |= VUBLK_VU_FLAG_NEED_REPLY;
	vublk_frontend_ask(frontend, &message, sizeof(uint64_t), on_handed_over, frontend, 0);
}

int vublk_frontend_adopt_back_channel(struct vublk_frontend *frontend, int fd,
				      struct vublk_error *error)
{
	struct vublk_frontend_back_channel *backend = &frontend->back_channel;
	int r;

	vublk_channel_init(&backend->channel, fd);
	backend->source = (struct vublk_loop_source){ .fn = on_channel, .opaque = frontend };
	r = vublk_loop_add(frontend->loop, &backend->source, fd, EPOLLIN, error);
	if (r < 0)
		vublk_channel_deinit(&backend->channel);
	return r;
}

void vublk_frontend_open_back_channel(struct vublk_frontend *frontend)
{
	struct vublk_error error;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
		vublk_error_set_errno(&error, errno, "cannot create the back channel");
		vublk_frontend_fail(frontend, &error);
		return;
	}
	if (vublk_frontend_adopt_back_channel(frontend, ends[0], &error) < 0)
		vublk_frontend_fail(frontend, &error);
	else
		send_other_end(frontend, ends[1]);
	vublk_fd_close(&ends[1]);
}
