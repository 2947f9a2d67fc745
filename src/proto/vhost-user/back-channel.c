/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sends CONFIG_CHANGE_MSG, and no other request, and receives the answers; see back-channel.h.
 *
 * Key idea: a front-end may send only answers on this channel. After any other message this file
 * closes the channel, but the main connection stays open.
 *
 * Specification: "Back-end message types".
 */
#include "proto/vhost-user/back-channel.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/epoll.h>

static void watch(struct vublk_back_channel *back)
{
	vublk_loop_modify(&back->source, vublk_channel_wants_write(&back->channel) ?
			  EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void send_config_change(struct vublk_back_channel *back)
{
	struct vublk_error error = { 0 };
	struct vublk_vu_message message;

	if (back->channel.fd < 0 || back->is_suspended)
		return;
	if (back->is_unanswered) {
		back->once_more = true;
		return;
	}
	vublk_vu_message_init(&message, VUBLK_VU_BACKEND_CONFIG_CHANGE_MSG);
	if (back->has_ack)
		message.header.flags |= VUBLK_VU_FLAG_NEED_REPLY;
	if (vublk_channel_send(&back->channel, &message, &error)) {
		vublk_log_limited(back->log, back->limit,
				  error.code == ENOTCONN ? VUBLK_LOG_DEBUG : VUBLK_LOG_WARNING,
				  "cannot notify the front-end that the disk's configuration "
				  "changed: %s", error.text);
		return;
	}
	back->is_unanswered = back->has_ack;
	watch(back);
}

void vublk_back_channel_set_suspended(struct vublk_back_channel *back, bool is_suspended)
{
	back->is_suspended = is_suspended;
}

void vublk_back_channel_tell_config(struct vublk_back_channel *back)
{
	back->is_stale = true;
	send_config_change(back);
}

void vublk_back_channel_remind(struct vublk_back_channel *back)
{
	if (back->is_stale)
		send_config_change(back);
}

void vublk_back_channel_config_was_read(struct vublk_back_channel *back)
{
	back->is_stale = false;
}

static void on_answered(struct vublk_back_channel *back)
{
	back->is_unanswered = false;
	if (!back->once_more)
		return;
	back->once_more = false;
	vublk_back_channel_remind(back);
}

static int take_answers(struct vublk_back_channel *back, struct vublk_error *error)
{
	struct vublk_vu_message reply;
	int r;

	while ((r = vublk_channel_receive(&back->channel, &reply, error)) == 1) {
		r = back->is_unanswered ?
			    vublk_vu_check_reply(VUBLK_VU_BACKEND_CONFIG_CHANGE_MSG,
						 sizeof(uint64_t), &reply, error) :
			    vublk_error_set(error, EPROTO, "the front-end sent a message, but no "
					    "reply is expected");
		if (!r && reply.payload.u64)
			vublk_log_limited(back->log, back->limit, VUBLK_LOG_WARNING,
					  "the front-end rejected the notification that the disk's "
					  "configuration changed (it replied %" PRIu64 ")",
					  reply.payload.u64);
		vublk_vu_message_deinit(&reply);
		if (r)
			return r;
		on_answered(back);
	}
	return r;
}

static void on_channel(void *opaque, uint32_t events)
{
	struct vublk_back_channel *back = opaque;
	struct vublk_error error = { 0 };
	int r = vublk_channel_flush(&back->channel, &error);

	if (r >= 0)
		r = take_answers(back, &error);
	if (r >= 0) {
		watch(back);
		return;
	}
	vublk_log_limited(back->log, back->limit,
			  r == -ENOTCONN ? VUBLK_LOG_DEBUG : VUBLK_LOG_WARNING,
			  "closed the channel for notifications to the front-end: %s", error.text);
	vublk_back_channel_close(back);
}

void vublk_back_channel_init(struct vublk_back_channel *back, struct vublk_loop *loop,
			     const struct vublk_log *log, struct vublk_log_limit *limit)
{
	*back = (struct vublk_back_channel){
		.channel.fd = -1,
		.source = { .fn = on_channel, .opaque = back },
		.loop = loop,
		.log = log,
		.limit = limit,
		.is_suspended = true,
	};
}

int vublk_back_channel_open(struct vublk_back_channel *back, int fd, struct vublk_error *error)
{
	int r;

	vublk_back_channel_close(back);
	vublk_channel_init(&back->channel, fd);
	r = vublk_loop_add(back->loop, &back->source, fd, EPOLLIN, error);
	if (r)
		vublk_back_channel_close(back);
	return r;
}

void vublk_back_channel_close(struct vublk_back_channel *back)
{
	vublk_loop_remove(&back->source);
	vublk_channel_deinit(&back->channel);
	back->is_unanswered = false;
	back->once_more = false;
}
