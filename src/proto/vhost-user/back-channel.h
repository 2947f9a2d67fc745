/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_BACK_CHANNEL_H
#define VUBLK_PROTO_VHOST_USER_BACK_CHANNEL_H

/*
 * The back-end channel (SET_BACKEND_REQ_FD), on which the back-end sends requests to the
 * front-end; this is the back-end's end. Its only request is CONFIG_CHANGE_MSG.
 *
 * Key idea: at most one request is unanswered. A change that happens before its answer is announced
 * after the answer. All calls come from one thread.
 */
#include "proto/vhost-user/channel.h"
#include "util/log.h"
#include "util/loop.h"

struct vublk_back_channel {
	struct vublk_channel channel; /* fd -1: not open */
	struct vublk_loop_source source;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit;
	bool has_ack;        /* REPLY_ACK was negotiated */
	bool is_unanswered;
	bool once_more;      /* announce another change after the answer */
	bool is_stale;       /* the front-end has not read the latest configuration */
	bool is_suspended;   /* no ring is started, so no request may be sent */
};

/* All arguments are borrowed. */
void vublk_back_channel_init(struct vublk_back_channel *back, struct vublk_loop *loop,
			     const struct vublk_log *log, struct vublk_log_limit *limit);
/* Owns `fd`, even on failure, and closes the previous channel. */
int vublk_back_channel_open(struct vublk_back_channel *back, int fd, struct vublk_error *error);
/* Idempotent. */
void vublk_back_channel_close(struct vublk_back_channel *back);

/*
 * A back-end sends no requests while no ring is started ("Suspended device state"). A new channel
 * is suspended. After the start, vublk_back_channel_remind() announces the changes that happened in
 * the suspended state.
 */
void vublk_back_channel_set_suspended(struct vublk_back_channel *back, bool is_suspended);

/* The configuration has changed: tells the front-end, if the channel is open. */
void vublk_back_channel_tell_config(struct vublk_back_channel *back);
/* Tells the front-end again, unless it has read the latest configuration. */
void vublk_back_channel_remind(struct vublk_back_channel *back);
/* The front-end has read the configuration. */
void vublk_back_channel_config_was_read(struct vublk_back_channel *back);

#endif
