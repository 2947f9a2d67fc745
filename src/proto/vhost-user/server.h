/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_SERVER_H
#define VUBLK_PROTO_VHOST_USER_SERVER_H

/*
 * The server's end of a vhost-user connection: the channel, the back-end's own channel, one
 * request at a time and its answer, and the time limit for messages. `vublk serve`
 * (backend/session.c) and the relay (bus/relay/session.c) use it.
 *
 * Key idea: the owner has a state and a step() that performs the next action. The server calls
 * step() until it can do no more without waiting, and then watches the socket, if the owner is
 * ready for a message. Only the owner knows what a request means; every check that does not depend
 * on the meaning is made here and in request.c. All calls come from one thread.
 */
#include "proto/message-timeout.h"
#include "proto/vhost-user/back-channel.h"
#include "proto/vhost-user/channel.h"
#include "proto/vhost-user/request.h"

struct vublk_vu_server_ops {
	/* Whether the owner's table has a row for this request. */
	bool (*has_message)(uint32_t request);
	/* Performs the next action. False: the owner has to wait for an event. */
	bool (*step)(void *opaque);
	/* Whether the owner is ready for a message; otherwise messages wait in the socket. */
	bool (*is_reading)(const void *opaque);
	/*
	 * The connection has ended; the reason has been logged. The functions below may call this,
	 * also more than once, so the owner only notes the end.
	 */
	void (*close)(void *opaque);
};

struct vublk_vu_server {
	const struct vublk_vu_server_ops *ops;
	void *opaque;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit; /* outlives the connection */
	const char *peer; /* what log lines call the front-end; NULL: they do not name it */

	struct vublk_channel channel;
	struct vublk_loop_source source;
	struct vublk_message_timeout message_timeout;
	struct vublk_back_channel back_channel;
	unsigned budget; /* messages that may still be read in this turn of the loop */

	/* set by the owner */
	unsigned num_queues;
	uint64_t offered_protocol_features, protocol_features;

	/* the request that is being served */
	struct vublk_vu_message request;
	struct vublk_vu_message reply; /* header.size 0: an acknowledgement, if one is due */
	int reply_fd;    /* owned; sent with the reply; -1: none */
	int queue_index; /* of the queue that the request is about; -1: none */
};

/* Takes ownership of `fd`, from which nothing is read before vublk_vu_server_start(). */
void vublk_vu_server_init(struct vublk_vu_server *server, const struct vublk_vu_server_ops *ops,
			  void *opaque, int fd, struct vublk_loop *loop,
			  const struct vublk_log *log, struct vublk_log_limit *limit);
/*
 * Starts to read. While the next front-end waits at `listen_fd` (-1: there is no such socket), the
 * time for a message is limited to `timeout_ms` (0: no limit).
 */
int vublk_vu_server_start(struct vublk_vu_server *server, int listen_fd, uint64_t timeout_ms,
			  struct vublk_error *error);
/* Stops reading permanently; the connection stays open until vublk_vu_server_deinit(). */
void vublk_vu_server_stop(struct vublk_vu_server *server);
/* Idempotent. */
void vublk_vu_server_deinit(struct vublk_vu_server *server);

/* Runs the owner's steps. Call it from the loop only, and never from within a step. */
void vublk_vu_server_run(struct vublk_vu_server *server);

/* --- for step() -------------------------------------------------------------- */

/*
 * Receives a message into server->request. 1: it is complete; 0: it is not, or other descriptors of
 * the loop have their turn first; negative errno: ops->close() was called.
 */
int vublk_vu_server_receive(struct vublk_vu_server *server);
/*
 * Begins the reply, and makes every check that is the same for all owners: the request is
 * well-formed, is in the owner's table, needs only features that were offered or accepted, and
 * names a queue that exists. EPROTO, ENOTSUP.
 */
int vublk_vu_server_check(struct vublk_vu_server *server, struct vublk_error *error);
const char *vublk_vu_server_request_name(const struct vublk_vu_server *server);
/*
 * For SET_PROTOCOL_FEATURES: the first function checks the features, and the second one accepts
 * them.
 */
int vublk_vu_server_check_features(const struct vublk_vu_server *server,
				   struct vublk_error *error);
void vublk_vu_server_accept_features(struct vublk_vu_server *server);
/*
 * Logs the result (0, or a negative errno with `why`), answers if an answer is due, and
 * releases the request. ops->close() is called if a refusal cannot be answered.
 */
void vublk_vu_server_answer(struct vublk_vu_server *server, int result,
			    const struct vublk_error *why);

#endif
