/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The callbacks through which the device reports events to the relay.
 *
 * Key idea: the device may call back while the relay is calling it. So a callback only records the
 * event and posts a task, in which the loop continues the session.
 */
#include "bus/relay/relay.h"

#include "util/checked.h"

static struct vublk_relay *relay_of(void *opaque)
{
	return ((struct vublk_bus *)opaque)->client;
}

/*
 * Records that the device has answered `request`. Returns false if the relay was not waiting for
 * this answer.
 */
static bool answered(struct vublk_relay *relay, enum vublk_relay_request request)
{
	if (relay->asked != request)
		return false;
	relay->asked = VUBLK_RELAY_ASKED_NOTHING;
	return true;
}

void vublk_relay_wake(struct vublk_relay *relay)
{
	vublk_loop_post(&relay->bus->loop, &relay->wake_task);
}

static void on_started(void *opaque)
{
	struct vublk_relay *relay = relay_of(opaque);

	vublk_bus_note_started(opaque);
	if (!relay)
		return;
	relay->device_status = 0;
	/*
	 * While the VMM has started no ring, the relay reports no change of the config. Changes
	 * that were held back are reported now.
	 */
	vublk_back_channel_set_suspended(&relay->server.back_channel,
					 vublk_relay_is_suspended(relay));
	vublk_back_channel_remind(&relay->server.back_channel);
	vublk_relay_wake(relay);
}

static void on_stopped(void *opaque, const struct vublk_error *error)
{
	struct vublk_relay *relay = relay_of(opaque);

	vublk_bus_note_stopped(opaque, error);
	if (!relay)
		return;
	answered(relay, VUBLK_RELAY_ASKED_NOTIFIERS);
	vublk_relay_wake(relay);
}

static void on_lost(void *opaque, const struct vublk_error *error)
{
	struct vublk_relay *relay = relay_of(opaque);

	if (relay) {
		vublk_relay_note_loss(relay);
		vublk_relay_wake(relay);
	}
	vublk_bus_on_lost(opaque, error);
}

static void on_reconnected(void *opaque)
{
	struct vublk_relay *relay = relay_of(opaque);

	vublk_bus_on_reconnected(opaque);
	if (relay)
		vublk_relay_wake(relay);
}

static void on_config_changed(void *opaque)
{
	struct vublk_relay *relay = relay_of(opaque);

	if (relay)
		vublk_back_channel_tell_config(&relay->server.back_channel);
}

/*
 * The loss of the back-end is not a refusal, because the next back-end gets the memory with the
 * rest of the set-up.
 */
static void on_memory_changed(void *opaque, const struct vublk_error *error)
{
	struct vublk_relay *relay = relay_of(opaque);

	if (!relay)
		return;
	answered(relay, VUBLK_RELAY_ASKED_MEMORY);
	if (error && vublk_device_state(relay->device) != VUBLK_DEVICE_LOST) {
		vublk_relay_fail(relay, error);
		if (vublk_relay_memory_roll_back(relay))
			relay->changes |= VUBLK_RELAY_MEMORY;
	}
	vublk_relay_wake(relay);
}

static void on_notifiers_changed(void *opaque)
{
	struct vublk_relay *relay = relay_of(opaque);

	if (!relay)
		return;
	answered(relay, VUBLK_RELAY_ASKED_NOTIFIERS);
	vublk_relay_wake(relay);
}

static void on_config_written(void *opaque, const struct vublk_error *error)
{
	struct vublk_relay *relay = relay_of(opaque);
	bool is_own;

	if (!relay)
		return;
	is_own = answered(relay, VUBLK_RELAY_ASKED_WRITE_THROUGH);
	answered(relay, VUBLK_RELAY_ASKED_CONFIG);
	if (error && is_own)
		vublk_log_limited(&relay->bus->log, &relay->bus->limit, VUBLK_LOG_WARNING,
				  "cannot turn the back-end's write cache off for a VMM that "
				  "resumes a disk: %s", error->text);
	else if (error)
		vublk_relay_fail(relay, error);
	vublk_relay_wake(relay);
}

static void on_dirty_log_changed(void *opaque, const struct vublk_error *error)
{
	struct vublk_relay *relay = relay_of(opaque);

	if (!relay)
		return;
	answered(relay, VUBLK_RELAY_ASKED_LOG);
	if (error && relay->is_logging)
		vublk_relay_refuse_log(relay, error);
	vublk_relay_wake(relay);
}

static void on_needs_reset(void *opaque, const struct vublk_error *error)
{
	struct vublk_relay *relay = relay_of(opaque);

	if (relay)
		vublk_relay_tell_needs_reset(relay);
}

static void on_inflight_made(void *opaque, const struct vublk_device_inflight *area,
			     size_t area_bytes, const struct vublk_error *error)
{
	struct vublk_relay *relay = relay_of(opaque);

	if (!relay)
		return;
	answered(relay, VUBLK_RELAY_ASKED_AREA);
	vublk_relay_on_area_made(relay, area, error);
	vublk_relay_wake(relay);
}

const struct vublk_device_bus_ops vublk_relay_device_ops = {
	.realized = vublk_bus_on_realized,
	.started = on_started,
	.stopped = on_stopped,
	.lost = on_lost,
	.reconnected = on_reconnected,
	.gave_up = vublk_bus_on_gave_up,
	.config_changed = on_config_changed,
	.memory_changed = on_memory_changed,
	.notifiers_changed = on_notifiers_changed,
	.config_written = on_config_written,
	.dirty_log_changed = on_dirty_log_changed,
	.needs_reset = on_needs_reset,
	.inflight_made = on_inflight_made,
};
