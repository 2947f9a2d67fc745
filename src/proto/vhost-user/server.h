/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_SERVER_H
#define VUBLK_PROTO_VHOST_USER_SERVER_H

/*
 * The server's end of a vhost-user connection: the main channel, the back-end channel, the request
 * that is being served and its answer, and the time limit for messages. `vublk serve`
 * (backend/session.c) and the relay (bus/relay/session.c) use it.
 *
 * Key idea: the owner has a state, and a step() that performs the next action. The server calls
 * step() until the owner has to wait. Then the server watches the socket, if the owner is ready for
 * a message. Only the owner knows what a request means. Checks that do not depend on the meaning
 * are made here and in request.c. All calls come from one thread.
 */
#include "proto/message-timeout.h"
#include "proto/vhost-user/back-channel.h"
#include "proto/vhost-user/channel.h"
#include "proto/vhost-user/request.h"

struct vublk_vu_server_ops {
	/* Returns whether the owner serves this request. */
	bool (*has_message)(uint32_t request);
	/* Performs the next action. Returns false if the owner has to wait for an event. */
	bool (*step)(void *opaque);
	/* Returns whether the owner is ready for a message. If not, messages wait in the socket. */
	bool (*is_reading)(const void *opaque);
	/*
	 * Called when the connection has ended, or has to be closed; the reason has been logged.
	 * The server may call close() more than once, and while the owner is in the middle of its
	 * work, so the owner must only record the end.
	 */
	void (*close)(void *opaque);
	/*
	 * Called when a message was refused, or when the connection is closed because a message is
	 * invalid or late; the reason has been logged. May be NULL.
	 */
	void (*refused)(void *opaque, const struct vublk_error *why);
};

struct vublk_vu_server {
	const struct vublk_vu_server_ops *ops;
	void *opaque;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit; /* must outlive the connection */
	const char *peer; /* the front-end's name in log lines; NULL: log lines have no name */

	struct vublk_channel channel;
	struct vublk_loop_source source;
	struct vublk_message_timeout message_timeout;
	struct vublk_back_channel back_channel;
	unsigned budget; /* how many more messages may be read in this turn of the loop */

	/* set by the owner */
	unsigned num_queues;
	uint64_t offered_protocol_features, protocol_features;

	/* the request that is being served */
	struct vublk_vu_message request;
	struct vublk_vu_message reply; /* begun by vublk_vu_server_check(); the owner adds the
					  payload */
	int reply_fd;    /* owned; sent with the reply; -1: no descriptor */
	int queue_index; /* the queue that the request is about; -1: no queue */
};

/*
 * Initializes the server's end of a connection on the socket `fd`. Takes ownership of `fd`. Reads
 * nothing before vublk_vu_server_start().
 */
void vublk_vu_server_init(struct vublk_vu_server *server, const struct vublk_vu_server_ops *ops,
			  void *opaque, int fd, struct vublk_loop *loop,
			  const struct vublk_log *log, struct vublk_log_limit *limit);
/*
 * Begins to read. While another front-end waits at `listen_fd` (-1: there is no such socket), the
 * first message, and the rest of an incomplete one, must arrive within `timeout_ms` (0: no limit).
 */
int vublk_vu_server_start(struct vublk_vu_server *server, int listen_fd, uint64_t timeout_ms,
			  struct vublk_error *error);
/* Stops reading permanently. The connection stays open until vublk_vu_server_deinit(). */
void vublk_vu_server_stop(struct vublk_vu_server *server);
/* Closes the connection. Idempotent. */
void vublk_vu_server_deinit(struct vublk_vu_server *server);

/* Runs the owner's steps. Must be called only from the loop, never from within a step. */
void vublk_vu_server_run(struct vublk_vu_server *server);

/* --- for step() -------------------------------------------------------------- */

/*
 * Receives a message into server->request. Returns 1 if the message is complete. Returns 0 if the
 * message is incomplete, or if other descriptors of the loop have to get their turn first. On
 * failure, calls ops->close() and returns a negative errno.
 */
int vublk_vu_server_receive(struct vublk_vu_server *server);
/*
 * Begins the reply, and makes every check that is the same for all owners: that the request is
 * well-formed, that the owner serves it, that the feature that it needs was offered (and accepted
 * for GET_VRING_BASE_SKIP_DRAIN), and that its queue exists. Errors: EPROTO, ENOTSUP.
 */
int vublk_vu_server_check(struct vublk_vu_server *server, struct vublk_error *error);
const char *vublk_vu_server_request_name(const struct vublk_vu_server *server);
/*
 * For SET_PROTOCOL_FEATURES: the first function checks the features in the request, and the second
 * one accepts them.
 */
int vublk_vu_server_check_features(const struct vublk_vu_server *server,
				   struct vublk_error *error);
void vublk_vu_server_accept_features(struct vublk_vu_server *server);
/*
 * Logs the result (0, or a negative errno with `why`), sends an answer if one is due, and frees the
 * request. If a refusal cannot be answered, ops->close() is called.
 */
void vublk_vu_server_answer(struct vublk_vu_server *server, int result,
			    const struct vublk_error *why);

#endif
