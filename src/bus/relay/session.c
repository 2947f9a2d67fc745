/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The course of a VMM's session; see vhost-user.h. What messages mean is in
 * vhost-user-messages.c, and what becomes of it in vhost-user-rings.c.
 *
 * The idea to read it by: go_on() is called whenever something may have become possible,
 * and takes the session as far as it gets without waiting. The device calls back from
 * within calls, too; so a callback notes what it heard and lets the loop call go_on().
 *
 * A VMM that waits for an answer is not listened to meanwhile. What it waits for has a
 * deadline (request-timeout-ms): a back-end past it is lost, and a lost one is waited for
 * by nobody.
 */
#include "bus/relay/relay.h"

#include "proto/vhost-user/server.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

/* Messages served before other descriptors of the loop have their turn. */
#define MESSAGES_AT_ONCE 16

/* --- messages ---------------------------------------------------------------- */

/* The message that is being served, if there is one, is the last. */
static void close_session(struct vublk_relay *relay)
{
	vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_CLOSE);
}

static const char *request_name(const struct vublk_relay *relay)
{
	return vublk_vu_request_name(VUBLK_VU_TO_BACKEND, relay->request.header.request);
}

static void send_answer(struct vublk_relay *relay)
{
	struct vublk_error error = { 0 };

	if (!vublk_channel_send(&relay->channel, &relay->reply, &error))
		return;
	vublk_log_limited(&relay->bus->log, &relay->bus->limit,
			  error.code == ENOTCONN ? VUBLK_LOG_DEBUG : VUBLK_LOG_ERROR,
			  "the connection to the VMM is closed: %s", error.text);
	close_session(relay);
}

static void finish_message(struct vublk_relay *relay)
{
	bool has_answer = vublk_vu_make_answer(&relay->reply, &relay->request,
					       relay->protocol_features, relay->result);

	if (relay->result) {
		vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_ERROR,
				  "the VMM's %s is refused: %s%s", request_name(relay),
				  relay->error.text,
				  has_answer ? "" : "; the connection is closed");
		if (!has_answer)
			close_session(relay);
	} else {
		vublk_log(&relay->bus->log, VUBLK_LOG_DEBUG, "VMM: %s", request_name(relay));
	}
	vublk_back_channel_set_suspended(&relay->back_channel, vublk_relay_is_suspended(relay));
	if (has_answer)
		send_answer(relay);
	vublk_fd_close(&relay->reply_fd);
	vublk_vu_message_deinit(&relay->request);
	relay->result = 0;
	relay->concerned = NULL;
	vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_ANSWERED);
}

/* True: there was a message, or the end of them. */
static bool receive(struct vublk_relay *relay)
{
	struct vublk_error error = { 0 };
	int r = vublk_channel_receive(&relay->channel, &relay->request, &error);

	vublk_message_timeout_note(&relay->message_timeout, r > 0, relay->channel.in_bytes);
	if (!r)
		return false;
	if (r < 0) {
		vublk_log_limited(&relay->bus->log, &relay->bus->limit,
				  r == -ENOTCONN ? VUBLK_LOG_DEBUG : VUBLK_LOG_ERROR,
				  "the connection to the VMM is closed: %s", error.text);
		close_session(relay);
		return true;
	}
	if (vublk_relay_note_message(relay, &error) < 0)
		vublk_relay_fail(relay, &error);
	if (relay->result || vublk_vu_is_answered(&relay->request, relay->protocol_features))
		vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_MESSAGE);
	else
		finish_message(relay);
	return true;
}

/* --- the course ---------------------------------------------------------------- */

/* The device is settled. A memory table that it refused is not there any more. */
static void end_change(struct vublk_relay *relay)
{
	vublk_relay_memory_commit(relay);
}

/* Nothing more to read: what was noted without an answer is done. True: that ended it. */
static bool settle_unasked(struct vublk_relay *relay)
{
	if (!vublk_relay_settle(relay))
		return false;
	end_change(relay);
	if (!relay->result)
		return false;
	vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_ERROR,
			  "what the VMM set up is refused: %s; the connection is closed",
			  relay->error.text);
	relay->result = 0;
	close_session(relay);
	return true;
}

static bool go_on_reading(struct vublk_relay *relay, unsigned *budget)
{
	if (*budget && receive(relay)) {
		--*budget;
		return true;
	}
	return settle_unasked(relay);
}

static bool go_on_closing(struct vublk_relay *relay)
{
	vublk_relay_reset(relay); /* the next VMM's driver is another one */
	vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_RESET);
	return true;
}

/* The VMM's memory is released with its rings, so that the VMM can free it. */
static bool go_on_ending(struct vublk_relay *relay)
{
	if (!vublk_relay_settle(relay))
		return false;
	end_change(relay);
	if (relay->memory.num_regions) {
		vublk_relay_memory_clear(relay);
		relay->changes |= VUBLK_RELAY_MEMORY;
		return true;
	}
	vublk_loop_remove(&relay->source);
	vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_RECLAIMED);
	vublk_loop_post(&relay->bus->loop, &relay->end_task);
	return true;
}

static bool go_on_settling(struct vublk_relay *relay)
{
	struct vublk_error error;
	int r = 0;

	if (!vublk_relay_settle(relay))
		return false;
	end_change(relay);
	if (!relay->result)
		r = vublk_relay_act_on_message(relay, &error);
	if (r < 0)
		vublk_relay_fail(relay, &error);
	if (r > 0)
		vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_ASKED);
	else
		finish_message(relay);
	return true;
}

static bool go_on_acting(struct vublk_relay *relay)
{
	if (relay->asked)
		return false;
	finish_message(relay);
	return true;
}

/* While a message waits the VMM is not listened to. */
static void watch(struct vublk_relay *relay)
{
	uint32_t events = EPOLLIN;
	struct vublk_error error = { 0 };

	if (relay->state != VUBLK_RELAY_READING) {
		vublk_loop_remove(&relay->source);
		return;
	}
	if (vublk_channel_wants_write(&relay->channel))
		events |= EPOLLOUT;
	if (relay->source.loop) {
		vublk_loop_modify(&relay->source, events);
		return;
	}
	if (vublk_loop_add(&relay->bus->loop, &relay->source, relay->channel.fd, events,
			   &error) < 0) {
		vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_ERROR,
				  "the connection to the VMM is closed: %s", error.text);
		close_session(relay);
		vublk_loop_post(&relay->bus->loop, &relay->go_on_task);
	}
}

static void go_on(void *opaque)
{
	struct vublk_relay *relay = opaque;
	unsigned budget = MESSAGES_AT_ONCE;
	bool more = true;

	while (more) {
		switch (relay->state) {
		case VUBLK_RELAY_READING:
			more = go_on_reading(relay, &budget);
			break;
		case VUBLK_RELAY_SETTLING:
		case VUBLK_RELAY_LAST_SETTLING:
			more = go_on_settling(relay);
			break;
		case VUBLK_RELAY_ACTING:
		case VUBLK_RELAY_LAST_ACTING:
			more = go_on_acting(relay);
			break;
		case VUBLK_RELAY_CLOSING:
			more = go_on_closing(relay);
			break;
		case VUBLK_RELAY_ENDING:
			more = go_on_ending(relay);
			break;
		default: /* ENDED: it is freed by a task */
			return;
		}
	}
	watch(relay);
}

static void on_channel(void *opaque, uint32_t events)
{
	struct vublk_relay *relay = opaque;
	struct vublk_error error = { 0 };

	if ((events & EPOLLOUT) && vublk_channel_flush(&relay->channel, &error) < 0) {
		vublk_log(&relay->bus->log, VUBLK_LOG_DEBUG,
			  "the connection to the VMM is closed: %s", error.text);
		close_session(relay);
	}
	go_on(relay);
}

static void on_hold_timer(void *opaque)
{
	struct vublk_relay *relay = opaque;

	vublk_relay_release(relay);
	go_on(relay);
}

/* --- life ------------------------------------------------------------------------ */

static void free_relay(struct vublk_bus *bus)
{
	struct vublk_relay *relay = bus->client;

	bus->client = NULL;
	vublk_loop_remove(&relay->source);
	vublk_message_timeout_end(&relay->message_timeout);
	vublk_loop_timer_disarm(&relay->hold_timer);
	vublk_loop_cancel(&bus->loop, &relay->go_on_task);
	vublk_loop_cancel(&bus->loop, &relay->end_task);
	vublk_back_channel_close(&relay->back_channel);
	vublk_channel_deinit(&relay->channel);
	vublk_vu_message_deinit(&relay->request);
	vublk_fd_close(&relay->reply_fd);
	vublk_relay_drop_area(relay);
	vublk_fd_close(&relay->log.fd);
	vublk_relay_queues_deinit(relay);
	vublk_relay_memory_clear(relay);
	free(relay);
}

static void on_end(void *opaque)
{
	struct vublk_bus *bus = opaque;

	free_relay(bus);
	vublk_bus_client_gone(bus);
}

static void on_message_timeout(void *opaque, const struct vublk_error *error)
{
	struct vublk_relay *relay = opaque;

	vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING,
			  "the connection to a VMM is closed: %s", error->text);
	close_session(relay);
	vublk_relay_wake(relay);
}

static int begin(struct vublk_relay *relay, struct vublk_error *error)
{
	int r = vublk_relay_queues_init(relay, error);

	if (r < 0)
		return r;
	vublk_relay_make_offer(relay);
	vublk_message_timeout_begin(&relay->message_timeout, &relay->bus->loop,
				    relay->bus->listen_fd, relay->bus->message_timeout_ms,
				    on_message_timeout, relay);
	return vublk_loop_add(&relay->bus->loop, &relay->source, relay->channel.fd, EPOLLIN,
			      error);
}

static int serve(struct vublk_bus *bus, int fd, struct vublk_error *error)
{
	struct vublk_relay *relay = calloc(1, sizeof(*relay));
	int r;

	if (!relay) {
		vublk_fd_close(&fd);
		return vublk_error_set_errno(error, ENOMEM, "cannot make a session");
	}
	relay->bus = bus;
	relay->device = bus->device;
	relay->reply_fd = relay->area.fd = relay->log.fd = -1;
	relay->source = (struct vublk_loop_source){ .fn = on_channel, .opaque = relay };
	relay->hold_timer = (struct vublk_loop_timer){ .fn = on_hold_timer, .opaque = relay };
	relay->go_on_task = (struct vublk_loop_task){ .fn = go_on, .opaque = relay };
	relay->end_task = (struct vublk_loop_task){ .fn = on_end, .opaque = bus };
	vublk_channel_init(&relay->channel, fd);
	vublk_back_channel_init(&relay->back_channel, &bus->loop, &bus->log,
				&bus->limit);
	bus->client = relay;
	r = begin(relay, error);
	if (r < 0)
		free_relay(bus);
	return r;
}

static void end_client(struct vublk_bus *bus)
{
	struct vublk_relay *relay = bus->client;

	close_session(relay);
	vublk_relay_wake(relay);
}

static const struct vublk_device_property options[] = { VUBLK_BUS_OPTIONS, { NULL } };

/* The VMM decides, whatever its front-end's size is. */
static const struct vublk_option defaults[] = {
	{ "queue-size", "1024" },
	{ NULL },
};

const struct vublk_bus_type vublk_bus_vhost_user = {
	.name = "vhost-user",
	.options = options,
	.defaults = defaults,
	.device_ops = &vublk_relay_device_ops,
	.serve = serve,
	.end = end_client,
	.free_client = free_relay,
};
