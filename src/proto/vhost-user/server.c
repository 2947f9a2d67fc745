/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server's end of a connection; see server.h. It does not know what requests mean, and has no
 * queues, memory or disk.
 *
 * Key idea: vublk_vu_server_run() is called whenever progress may be possible. The socket is
 * watched only while the owner is ready for a message, so a front-end that does not wait for
 * answers cannot fill this process's memory.
 */
#include "proto/vhost-user/server.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <sys/epoll.h>

/* The number of messages that are served before other descriptors of the loop get their turn. */
#define MESSAGES_PER_TURN 16

/* --- the connection -------------------------------------------------------- */

static void log_closed(struct vublk_vu_server *server, enum vublk_log_level level,
		       const struct vublk_error *why)
{
	vublk_log_limited(server->log, server->limit, level, "the connection%s%s is closed: %s",
			  server->peer ? " to the " : "", server->peer ? server->peer : "",
			  why->text);
	if (level != VUBLK_LOG_DEBUG && server->ops->refused)
		server->ops->refused(server->opaque, why);
}

/* Logs and reports the end of the connection. A disconnection by the front-end is not an error. */
static void lose(struct vublk_vu_server *server, const struct vublk_error *why)
{
	log_closed(server, why->code == ENOTCONN ? VUBLK_LOG_DEBUG : VUBLK_LOG_ERROR, why);
	server->ops->close(server->opaque);
}

/*
 * Watches the socket while the owner is ready for a message. If the socket cannot be watched, calls
 * ops->close() and returns false.
 */
static bool watch(struct vublk_vu_server *server)
{
	uint32_t events = EPOLLIN;
	struct vublk_error error = { 0 };

	if (!server->ops->is_reading(server->opaque)) {
		vublk_loop_remove(&server->source);
		return true;
	}
	if (vublk_channel_wants_write(&server->channel))
		events |= EPOLLOUT;
	if (server->source.loop) {
		vublk_loop_modify(&server->source, events);
		return true;
	}
	if (!vublk_loop_add(server->loop, &server->source, server->channel.fd, events, &error))
		return true;
	lose(server, &error);
	return false;
}

void vublk_vu_server_run(struct vublk_vu_server *server)
{
	server->budget = MESSAGES_PER_TURN;
	do {
		while (server->ops->step(server->opaque))
			;
	} while (!watch(server));
}

static void on_channel(void *opaque, uint32_t events)
{
	struct vublk_vu_server *server = opaque;
	struct vublk_error error = { 0 };

	if ((events & EPOLLOUT) && vublk_channel_flush(&server->channel, &error) < 0) {
		log_closed(server, VUBLK_LOG_DEBUG, &error);
		server->ops->close(server->opaque);
	}
	vublk_vu_server_run(server);
}

static void on_message_timeout(void *opaque, const struct vublk_error *error)
{
	struct vublk_vu_server *server = opaque;

	log_closed(server, VUBLK_LOG_WARNING, error);
	server->ops->close(server->opaque);
	vublk_vu_server_run(server);
}

/* --- life cycle ------------------------------------------------------------------ */

void vublk_vu_server_init(struct vublk_vu_server *server, const struct vublk_vu_server_ops *ops,
			  void *opaque, int fd, struct vublk_loop *loop,
			  const struct vublk_log *log, struct vublk_log_limit *limit)
{
	*server = (struct vublk_vu_server){
		.ops = ops,
		.opaque = opaque,
		.loop = loop,
		.log = log,
		.limit = limit,
		.source = { .fn = on_channel, .opaque = server },
		.reply_fd = -1,
		.queue_index = -1,
	};
	vublk_channel_init(&server->channel, fd);
	vublk_back_channel_init(&server->back_channel, loop, log, limit);
}

int vublk_vu_server_start(struct vublk_vu_server *server, int listen_fd, uint64_t timeout_ms,
			  struct vublk_error *error)
{
	int r = vublk_loop_add(server->loop, &server->source, server->channel.fd, EPOLLIN, error);

	if (r < 0)
		return r;
	vublk_message_timeout_begin(&server->message_timeout, server->loop, listen_fd, timeout_ms,
				    on_message_timeout, server);
	return 0;
}

void vublk_vu_server_stop(struct vublk_vu_server *server)
{
	vublk_loop_remove(&server->source);
}

void vublk_vu_server_deinit(struct vublk_vu_server *server)
{
	vublk_loop_remove(&server->source);
	vublk_message_timeout_end(&server->message_timeout);
	vublk_back_channel_close(&server->back_channel);
	vublk_channel_deinit(&server->channel);
	vublk_vu_message_deinit(&server->request);
	vublk_fd_close(&server->reply_fd);
}

/* --- a request ------------------------------------------------------------- */

int vublk_vu_server_receive(struct vublk_vu_server *server)
{
	struct vublk_error error = { 0 };
	int r;

	if (!server->budget)
		return 0;
	server->budget--;
	r = vublk_channel_receive(&server->channel, &server->request, &error);
	vublk_message_timeout_note(&server->message_timeout, r > 0, vublk_stream_reader_bytes(&server->channel.reader));
	if (r < 0)
		lose(server, &error);
	return r;
}

const char *vublk_vu_server_request_name(const struct vublk_vu_server *server)
{
	return vublk_vu_request_name(VUBLK_VU_TO_BACKEND, server->request.header.request);
}

static bool is_offered(const struct vublk_vu_server *server)
{
	uint32_t request = server->request.header.request;
	const struct vublk_vu_request_info *info =
		vublk_vu_request_info(VUBLK_VU_TO_BACKEND, request);

	return info && server->ops->has_message(request) &&
	       (info->protocol_feature < 0 ||
		server->offered_protocol_features & VUBLK_BIT(info->protocol_feature));
}

int vublk_vu_server_check(struct vublk_vu_server *server, struct vublk_error *error)
{
	int r;

	server->queue_index = -1;
	vublk_vu_reply_init(&server->reply, &server->request);
	r = vublk_vu_check_request(VUBLK_VU_TO_BACKEND, &server->request, error);
	if (r < 0)
		return r;
	if (!is_offered(server))
		return vublk_error_set(error, ENOTSUP, "%s needs a feature that this disk does not offer",
				       vublk_vu_server_request_name(server));
	r = vublk_vu_check_accepted(&server->request, server->protocol_features, error);
	if (!r)
		r = vublk_vu_check_queue(&server->request, server->num_queues,
					 &server->queue_index, error);
	return r;
}

int vublk_vu_server_check_features(const struct vublk_vu_server *server,
				   struct vublk_error *error)
{
	uint64_t features = server->request.payload.u64;
	int r = vublk_vu_refuse_unknown_bits("SET_PROTOCOL_FEATURES", features,
					     server->offered_protocol_features, error);

	return r < 0 ? r : vublk_vu_check_skip_drain(features, error);
}

void vublk_vu_server_accept_features(struct vublk_vu_server *server)
{
	server->protocol_features = server->request.payload.u64;
	server->back_channel.has_ack =
		server->protocol_features & VUBLK_BIT(VUBLK_VU_F_REPLY_ACK);
}

static void log_result(struct vublk_vu_server *server, int result, const struct vublk_error *why,
		       bool has_answer)
{
	const char *name = vublk_vu_server_request_name(server);
	const char *end = has_answer ? "" : "; closed the connection";
	const char *peer = server->peer;

	if (!result)
		vublk_log(server->log, VUBLK_LOG_DEBUG, "%s%s%s", peer ? peer : "",
			  peer ? ": " : "", name);
	else if (peer)
		vublk_log_limited(server->log, server->limit, VUBLK_LOG_ERROR,
				  "refused %s from the %s: %s%s", name, peer, why->text, end);
	else
		vublk_log_limited(server->log, server->limit, VUBLK_LOG_ERROR, "%s%s", why->text,
				  end);
	if (result && server->ops->refused)
		server->ops->refused(server->opaque, why);
}

void vublk_vu_server_answer(struct vublk_vu_server *server, int result,
			    const struct vublk_error *why)
{
	bool has_answer = vublk_vu_make_answer(&server->reply, &server->request,
					       server->protocol_features, result);
	struct vublk_error error = { 0 };

	log_result(server, result, why, has_answer);
	if (result && !has_answer)
		server->ops->close(server->opaque);
	if (has_answer && vublk_channel_send(&server->channel, &server->reply, &error) < 0)
		lose(server, &error);
	vublk_fd_close(&server->reply_fd);
	vublk_vu_message_deinit(&server->request);
	server->queue_index = -1;
}
