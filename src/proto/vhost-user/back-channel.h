/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_BACK_CHANNEL_H
#define VUBLK_PROTO_VHOST_USER_BACK_CHANNEL_H

/*
 * The channel on which a back-end speaks first (SET_BACKEND_REQ_FD), as whoever serves a
 * front-end has it: it says that the configuration has changed, once at a time, and again
 * when it changed once more meanwhile. One thread.
 */
#include "proto/vhost-user/channel.h"
#include "util/log.h"
#include "util/loop.h"

struct vublk_back_channel {
	struct vublk_channel channel; /* fd -1: there is none */
	struct vublk_loop_source source;
	struct vublk_loop *loop;
	const struct vublk_log *log;
	struct vublk_log_limit *limit;
	bool has_ack;        /* REPLY_ACK was negotiated */
	bool is_unanswered;
	bool once_more;      /* when that is answered */
	bool is_stale;       /* what the front-end has read is not what there is */
	bool is_suspended;   /* no ring is started, so no request may be sent */
};

/* All but the channel itself is borrowed. */
void vublk_back_channel_init(struct vublk_back_channel *back, struct vublk_loop *loop,
			     const struct vublk_log *log, struct vublk_log_limit *limit);
/* Takes `fd`, also on failure, in the place of the one before it. */
int vublk_back_channel_open(struct vublk_back_channel *back, int fd, struct vublk_error *error);
/* Idempotent. */
void vublk_back_channel_close(struct vublk_back_channel *back);

/*
 * While no ring is started a back-end sends no requests ("Suspended device state"). A new
 * channel is suspended. What changes meanwhile is told by the vublk_back_channel_remind()
 * that follows the start.
 */
void vublk_back_channel_set_suspended(struct vublk_back_channel *back, bool is_suspended);

/* The configuration has changed: the front-end is told, if there is a channel. */
void vublk_back_channel_tell_config(struct vublk_back_channel *back);
/* Tells it again unless it has read the configuration since. */
void vublk_back_channel_remind(struct vublk_back_channel *back);
/* The front-end has read it. */
void vublk_back_channel_config_was_read(struct vublk_back_channel *back);

#endif
