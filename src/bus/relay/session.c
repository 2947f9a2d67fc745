/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The course of a VMM's session, from the connection to the end. messages.c handles the messages,
 * and reconcile.c makes the device match what they say.
 *
 * Key idea: step() performs the next action. Whenever progress may be possible, step() is called
 * until the session has to wait. The device may call back while the relay is calling it, so a
 * callback only records the event and wakes the session (device-events.c).
 *
 * The relay reads nothing from the VMM while the VMM waits for an answer. The time limit for a
 * back-end's answer (request-timeout-ms) limits that wait: a back-end that exceeds it counts as
 * lost, and the relay does not wait for a lost back-end.
 */
#include "bus/relay/relay.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <stdlib.h>

/* --- messages ---------------------------------------------------------------- */

static void finish_message(struct vublk_relay *relay)
{
	vublk_back_channel_set_suspended(&relay->server.back_channel,
					 vublk_relay_is_suspended(relay));
	vublk_vu_server_answer(&relay->server, relay->result, &relay->error);
	relay->result = 0;
	vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_ANSWERED);
}

static void note_message(struct vublk_relay *relay)
{
	struct vublk_error error = { 0 };

	if (vublk_relay_note_message(relay, &error) < 0)
		vublk_relay_fail(relay, &error);
	if (relay->result ||
	    vublk_vu_is_answered(&relay->server.request, relay->server.protocol_features))
		vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_MESSAGE);
	else
		finish_message(relay);
}

/* --- the course ---------------------------------------------------------------- */

/*
 * Makes the device match the set-up. Returns whether it matches now; if so, frees the memory table
 * that was kept in case the back-end refused the new one.
 */
static bool settle(struct vublk_relay *relay)
{
	if (!vublk_relay_settle(relay))
		return false;
	vublk_relay_memory_commit(relay);
	return true;
}

/*
 * Applies changes for which no message is waiting. If that fails, closes the session and returns
 * true.
 */
static bool settle_unasked(struct vublk_relay *relay)
{
	if (!settle(relay) || !relay->result)
		return false;
	vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_ERROR,
			  "refused the VMM's configuration: %s; closed the connection",
			  relay->error.text);
	vublk_bus_notify_refused(relay->bus, &relay->error);
	relay->result = 0;
	vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_CLOSE);
	return true;
}

static bool step_reading(struct vublk_relay *relay)
{
	int r = vublk_vu_server_receive(&relay->server);

	if (r > 0)
		note_message(relay);
	return r || settle_unasked(relay);
}

static bool step_settling(struct vublk_relay *relay)
{
	struct vublk_error error;
	int r = 0;

	if (!settle(relay))
		return false;
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

static bool step_acting(struct vublk_relay *relay)
{
	if (relay->asked)
		return false;
	finish_message(relay);
	return true;
}

static bool step_closing(struct vublk_relay *relay)
{
	vublk_relay_reset(relay); /* the next VMM brings another driver */
	vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_RESET);
	return true;
}

/*
 * Ends the session: waits until the rings are reclaimed, and then has the back-end release the
 * VMM's memory, so that the VMM can free it.
 */
static bool step_ending(struct vublk_relay *relay)
{
	if (!settle(relay))
		return false;
	if (relay->memory.num_regions) {
		vublk_relay_memory_clear(relay);
		relay->changes |= VUBLK_RELAY_MEMORY;
		return true;
	}
	vublk_vu_server_stop(&relay->server);
	vublk_relay_change_session(relay, VUBLK_RELAY_SESSION_RECLAIMED);
	vublk_loop_post(&relay->bus->loop, &relay->end_task);
	return true;
}

static bool step(void *opaque)
{
	struct vublk_relay *relay = opaque;

	switch (relay->state) {
	case VUBLK_RELAY_READING:
		return step_reading(relay);
	case VUBLK_RELAY_SETTLING:
	case VUBLK_RELAY_LAST_SETTLING:
		return step_settling(relay);
	case VUBLK_RELAY_ACTING:
	case VUBLK_RELAY_LAST_ACTING:
		return step_acting(relay);
	case VUBLK_RELAY_CLOSING:
		return step_closing(relay);
	case VUBLK_RELAY_ENDING:
		return step_ending(relay);
	default: /* ENDED: end_task frees the session */
		return false;
	}
}

static bool is_reading(const void *opaque)
{
	const struct vublk_relay *relay = opaque;

	return relay->state == VUBLK_RELAY_READING;
}

/* Called when the session has to end. A message that is being served is finished first. */
static void close_session(void *opaque)
{
	vublk_relay_change_session(opaque, VUBLK_RELAY_SESSION_CLOSE);
}

static void on_refused(void *opaque, const struct vublk_error *why)
{
	struct vublk_relay *relay = opaque;

	vublk_bus_notify_refused(relay->bus, why);
}

static const struct vublk_vu_server_ops server_ops = {
	.has_message = vublk_relay_has_message,
	.step = step,
	.is_reading = is_reading,
	.close = close_session,
	.refused = on_refused,
};

static void on_wake(void *opaque)
{
	struct vublk_relay *relay = opaque;

	vublk_vu_server_run(&relay->server);
}

static void on_hold_timer(void *opaque)
{
	struct vublk_relay *relay = opaque;

	vublk_relay_release(relay);
	vublk_vu_server_run(&relay->server);
}

/* --- life ------------------------------------------------------------------------ */

void vublk_relay_free(struct vublk_bus *bus)
{
	struct vublk_relay *relay = bus->client;

	bus->client = NULL;
	vublk_vu_server_deinit(&relay->server);
	vublk_loop_timer_disarm(&relay->hold_timer);
	vublk_loop_cancel(&bus->loop, &relay->wake_task);
	vublk_loop_cancel(&bus->loop, &relay->end_task);
	vublk_relay_drop_area(relay);
	vublk_fd_close(&relay->log.fd);
	vublk_relay_queues_deinit(relay);
	vublk_relay_memory_clear(relay);
	free(relay);
}

static void on_end(void *opaque)
{
	struct vublk_bus *bus = opaque;

	vublk_relay_free(bus);
	vublk_bus_client_gone(bus);
}

int vublk_relay_read_messages(struct vublk_relay *relay, struct vublk_error *error)
{
	return vublk_vu_server_start(&relay->server, relay->bus->listen_fd,
				     relay->bus->message_timeout_ms, error);
}

int vublk_relay_new(struct vublk_bus *bus, int fd, struct vublk_error *error)
{
	struct vublk_relay *relay = calloc(1, sizeof(*relay));
	int r;

	if (!relay) {
		vublk_fd_close(&fd);
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate a session");
	}
	relay->bus = bus;
	relay->device = bus->device;
	relay->area.fd = relay->log.fd = -1;
	relay->hold_timer = (struct vublk_loop_timer){ .fn = on_hold_timer, .opaque = relay };
	relay->wake_task = (struct vublk_loop_task){ .fn = on_wake, .opaque = relay };
	relay->end_task = (struct vublk_loop_task){ .fn = on_end, .opaque = bus };
	vublk_vu_server_init(&relay->server, &server_ops, relay, fd, &bus->loop, &bus->log,
			     &bus->limit);
	relay->server.peer = "VMM";
	bus->client = relay;
	r = vublk_relay_queues_init(relay, error);
	if (r < 0)
		vublk_relay_free(bus);
	return r;
}

int vublk_relay_serve(struct vublk_bus *bus, int fd, struct vublk_error *error)
{
	int r = vublk_relay_new(bus, fd, error);

	if (r < 0)
		return r;
	vublk_relay_make_offer(bus->client);
	r = vublk_relay_read_messages(bus->client, error);
	if (r < 0)
		vublk_relay_free(bus);
	return r;
}

void vublk_relay_end(struct vublk_bus *bus)
{
	struct vublk_relay *relay = bus->client;

	close_session(relay);
	vublk_relay_wake(relay);
}
