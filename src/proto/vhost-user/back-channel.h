/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_BACK_CHANNEL_H
#define VUBLK_PROTO_VHOST_USER_BACK_CHANNEL_H

/*
 * The back-end's end of the back-end channel (SET_BACKEND_REQ_FD), on which the back-end sends
 * requests to the front-end. The only request that it sends is CONFIG_CHANGE_MSG.
 *
 * Key idea: at most one request is unanswered. If the configuration changes again before the answer
 * arrives, the next request is sent after the answer, unless the front-end has read the
 * configuration by then. All calls come from one thread.
 */
#include "proto/vhost-user/channel.h"
#include "util/log.h"
#include "util/loop.h"

struct vublk_back_channel {
	struct vublk_channel channel; /* fd -1: the channel is not open */
	struct vublk_loop_source source;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit;
	bool has_ack;        /* REPLY_ACK was negotiated */
	bool is_unanswered;
	bool once_more;      /* send another request after the answer */
	bool is_stale;       /* the front-end has not read the latest configuration */
	bool is_suspended;   /* no ring is started, so no request may be sent */
};

/* Makes a channel that is not open. All arguments except `back` are borrowed. */
void vublk_back_channel_init(struct vublk_back_channel *back, struct vublk_loop *loop,
			     const struct vublk_log *log, struct vublk_log_limit *limit);
/* Closes the previous channel and opens one on `fd`. Takes ownership of `fd`, even on failure. */
int vublk_back_channel_open(struct vublk_back_channel *back, int fd, struct vublk_error *error);
/* Closes the channel. Idempotent. */
void vublk_back_channel_close(struct vublk_back_channel *back);

/*
 * A back-end sends no requests while no ring is started ("Suspended device state"). A new channel
 * is suspended. After ending the suspended state, call vublk_back_channel_remind() to announce the
 * changes that happened in it.
 */
void vublk_back_channel_set_suspended(struct vublk_back_channel *back, bool is_suspended);

/*
 * Records that the configuration has changed. If the channel is open and not suspended, the
 * front-end is notified: now, or when it has answered the previous message.
 */
void vublk_back_channel_tell_config(struct vublk_back_channel *back);
/*
 * Tells the front-end of the latest change, unless the front-end has read the configuration since.
 */
void vublk_back_channel_remind(struct vublk_back_channel *back);
/* Called when the front-end has read the configuration. */
void vublk_back_channel_config_was_read(struct vublk_back_channel *back);

#endif
