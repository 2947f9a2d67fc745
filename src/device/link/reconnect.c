/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Searches for another back-end after a loss: decides when the next try is made, and which
 * conditions a new back-end has to meet. The lengths of the pauses are in outage.c.
 *
 * Key idea: every loss, before or after the handshake, leads to LOST, and from there
 * one timer leads to the next try. A new file in the socket's directory makes the timer expire
 * immediately, and soon again, because a back-end creates its socket a moment before it
 * listens. A device that listens waits for a connection instead. Nothing blocks: unrealize
 * ends the search at any moment.
 *
 * An outage ends when the rings run, or when the handshake is done and no ring has to run. A
 * connection alone does not end it.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <linux/virtio_blk.h>

#define NS_PER_MS UINT64_C(1000000)

/* --- the next try ------------------------------------------------------------------------------------ */

static void give_up(struct vublk_device *device, const struct vublk_error *cause)
{
	struct vublk_error error = *cause;

	vublk_error_prepend(&error, "the device gave up reconnecting after %u ms",
			    (unsigned)device->settings.reconnect_deadline_ms);
	vublk_device_outage_end(device);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING, "%s", error.text);
	if (device->ops->gave_up)
		device->ops->gave_up(device->bus, &error);
}

/* Listens. The timer is armed for the deadline only. */
static void await_connection(struct vublk_device *device)
{
	if (vublk_device_outage_deadline_ns(device) != UINT64_MAX)
		vublk_loop_timer_arm(&device->loop, &device->connect_timer,
				     vublk_device_outage_deadline_ns(device));
	vublk_device_listen(device);
}

/* This function may call the bus, so the caller has to call it last. */
static void plan_next_try(struct vublk_device *device, const struct vublk_error *error)
{
	uint64_t now = vublk_now_ns(), until = vublk_device_outage_deadline_ns(device);

	if (now >= until) {
		give_up(device, error);
		return;
	}
	if (device->settings.server) {
		await_connection(device);
		return;
	}
	vublk_device_watch_socket(device);
	now += vublk_device_outage_next_pause_ms(device) * NS_PER_MS;
	vublk_loop_timer_arm(&device->loop, &device->connect_timer, VUBLK_MIN(now, until));
}

void vublk_device_reconnect_wake(struct vublk_device *device)
{
	device->reconnect.pause_ms = VUBLK_DEVICE_SHORTEST_PAUSE_MS;
	device->reconnect.refusals = 0;
	if (device->state == VUBLK_DEVICE_LOST)
		vublk_loop_timer_arm(&device->loop, &device->connect_timer, vublk_now_ns());
}

/* --- the tries --------------------------------------------------------------------------------- */

void vublk_device_reconnect_failed(struct vublk_device *device, const struct vublk_error *error)
{
	vublk_frontend_close(&device->frontend);
	if (device->state == VUBLK_DEVICE_RECONNECTING) {
		device->reconnect.refusals++;
		vublk_device_change_state(device, VUBLK_DEVICE_EVENT_LOST, error->text);
	}
	vublk_device_outage_report(device, error);
	plan_next_try(device, error);
}

void vublk_device_reconnect_overdue(struct vublk_device *device)
{
	struct vublk_error error = device->reconnect.refusal;

	if (!error.code)
		vublk_error_set(&error, ENOTCONN, "no back-end has connected to '%s'",
				device->settings.chardev);
	plan_next_try(device, &error);
}

/*
 * The device is not in the data path and does not know whether the driver has flushed. The config
 * does not tell whether a flush is needed, because some back-ends say "write-through" and have a
 * cache.
 */
static void warn_of_unflushed_writes(struct vublk_device *device)
{
	if ((device->resume != VUBLK_DEVICE_RESUME_RINGS &&
	     !vublk_device_shadow_is_attached(device)) || !device->settings.warn_unflushed ||
	    device->reconnect.warned_unflushed || vublk_device_uses_inflight(device) ||
	    !(device->acked_features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)))
		return;
	device->reconnect.warned_unflushed = true;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "the back-end at '%s' was lost and has no in-flight area: if it kept "
			  "completed writes in its own memory, those that the driver had not "
			  "flushed are lost, and the driver is not told; let such a back-end write "
			  "through", device->settings.chardev);
}

void vublk_device_reconnect_begin(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_reconnect *reconnect = &device->reconnect;
	uint64_t now = vublk_now_ns(), delay_ms;
	uint64_t limit_ms = device->settings.reconnect_ms;

	if (!vublk_device_will_reconnect(&device->settings) || device->is_shutting_down)
		return;
	vublk_loop_timer_disarm(&device->config_timer);
	if (!reconnect->lost_ns) {
		vublk_device_outage_begin(device, now);
		warn_of_unflushed_writes(device);
	} else {
		reconnect->refusals++;
	}
	if (device->settings.server) {
		await_connection(device);
		return;
	}
	vublk_device_watch_socket(device);
	/* A back-end that was lost right after it was found is not tried again immediately. */
	delay_ms = vublk_device_outage_next_pause_ms(device);
	if (!reconnect->refusals && now - reconnect->tried_ns >= limit_ms * NS_PER_MS)
		delay_ms = 0;
	vublk_loop_timer_arm(&device->loop, &device->connect_timer, now + delay_ms * NS_PER_MS);
}

/* --- after the handshake --------------------------------------------------------------------------- */

static void refuse(struct vublk_device *device, struct vublk_error *error)
{
	vublk_error_prepend(error, "the new back-end at '%s' cannot take the old one's place",
			    device->settings.chardev);
	vublk_device_reconnect_failed(device, error);
}

/*
 * The memory may have been set while there was no back-end, so the number of regions could not be
 * compared with the back-end's limit.
 */
static int check_slots(const struct vublk_device *device, struct vublk_error *error)
{
	unsigned slots = vublk_device_memory_slots(device);

	if (device->memory.num_regions <= slots)
		return 0;
	return vublk_error_set(error, ENOSPC, "it accepts %u memory regions, and there are %u", slots,
			       device->memory.num_regions);
}

/* The rings are started last, after the bus has been told about the new back-end. */
static void tell_bus(struct vublk_device *device, bool config_changed)
{
	uint64_t life = device->life;

	if (device->ops->reconnected)
		device->ops->reconnected(device->bus);
	if (device->life == life && config_changed && device->ops->config_changed)
		device->ops->config_changed(device->bus);
	if (device->life == life)
		vublk_device_update(device);
	if (device->life == life && device->state == VUBLK_DEVICE_STOPPED)
		vublk_device_outage_end(device);
}

static void finish(struct vublk_device *device)
{
	bool config_changed = device->reconnect.config_changed;
	struct vublk_error error;

	if (check_slots(device, &error) < 0) {
		refuse(device, &error);
		return;
	}
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_RECONNECTED, NULL);
	vublk_device_unwatch_socket(device);
	device->reconnect.config_changed = false;
	if (config_changed)
		vublk_device_bump_config_generation(device);
	if (device->config_read_again)
		vublk_device_refresh_config(device);
	vublk_device_watch_config(device);
	tell_bus(device, config_changed);
}

static void on_wce_restored(void *opaque, const struct vublk_error *refusal)
{
	struct vublk_device *device = opaque;
	struct vublk_error error;

	if (!refusal) {
		finish(device);
		return;
	}
	error = *refusal;
	vublk_error_prepend(&error, "the write cache cannot be set as the driver has it");
	refuse(device, &error);
}

void vublk_device_reconnect_negotiated(struct vublk_device *device)
{
	uint8_t theirs = device->frontend.config[VUBLK_BLK_WCE_OFFSET];
	struct vublk_error error;

	if (vublk_device_take_offer(device, &error) < 0)
		refuse(device, &error);
	else if (device->config[VUBLK_BLK_WCE_OFFSET] != theirs)
		vublk_frontend_write_wce(&device->frontend, device->config[VUBLK_BLK_WCE_OFFSET],
					 on_wce_restored, device);
	else
		finish(device);
}
