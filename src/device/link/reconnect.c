/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looks for another back-end after a loss: decides when to make the next try, and checks whether a
 * new back-end can take the old one's place. outage.c determines the lengths of the pauses.
 *
 * Key idea: every loss, before or after the handshake, leads to LOST, and in LOST one timer starts
 * the next try. When the socket appears, the device tries immediately, and again soon afterwards,
 * because a back-end creates its socket a moment before it listens. A device with the property
 * server waits for a connection instead. Nothing blocks: unrealize can end the search at any
 * moment.
 *
 * An outage ends when the rings run, or when the handshake is done and no ring has to run. A
 * connection alone does not end an outage.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <linux/virtio_blk.h>

#define NS_PER_MS UINT64_C(1000000)

/* --- the next try ----------------------------------------------------------------------------- */

static void give_up(struct vublk_device *device, const struct vublk_error *cause)
{
	struct vublk_error error = *cause;

	vublk_error_prepend(&error, "the device gave up reconnecting after %u ms",
			    (unsigned)device->settings.reconnect_deadline_ms);
	vublk_device_outage_end(device);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING, "%s", error.text);
	vublk_device_notify_gave_up(device, &error);
	if (device->ops->gave_up)
		device->ops->gave_up(device->bus, &error);
}

/*
 * Polls the listening socket, and arms the timer for the deadline of the outage, if there is one.
 */
static void await_connection(struct vublk_device *device)
{
	if (vublk_device_outage_deadline_ns(device) != UINT64_MAX)
		vublk_loop_timer_arm(&device->loop, &device->connect_timer,
				     vublk_device_outage_deadline_ns(device));
	vublk_device_listen(device);
}

/*
 * Plans the next try or, at the deadline, ends the search with `error` and calls gave_up(), which
 * may unrealize the device. So the caller must call this function last.
 */
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
	until = VUBLK_MIN(until, vublk_device_paths_deadline_ns(device));
	vublk_loop_timer_arm(&device->loop, &device->connect_timer, VUBLK_MIN(now, until));
}

void vublk_device_reconnect_wake(struct vublk_device *device)
{
	device->reconnect.pause_ms = VUBLK_DEVICE_SHORTEST_PAUSE_MS;
	device->reconnect.refusals = 0;
	if (device->state == VUBLK_DEVICE_LOST)
		vublk_loop_timer_arm(&device->loop, &device->connect_timer, vublk_now_ns());
}

/* --- the tries -------------------------------------------------------------------------------- */

void vublk_device_reconnect_failed(struct vublk_device *device, const struct vublk_error *error)
{
	vublk_frontend_close(&device->frontend);
	if (device->state == VUBLK_DEVICE_RECONNECTING) {
		device->reconnect.refusals++;
		vublk_device_change_state(device, VUBLK_DEVICE_EVENT_LOST, error->text);
	}
	vublk_device_outage_report(device, error);
	vublk_device_switch_failed(device, error);
	plan_next_try(device, error);
}

void vublk_device_reconnect_overdue(struct vublk_device *device)
{
	struct vublk_error error = device->reconnect.refusal;

	if (!error.code)
		vublk_error_set(&error, ENOTCONN, "no back-end has connected to '%s'",
				vublk_device_path(device));
	plan_next_try(device, &error);
}

/*
 * Warns, once per device, that completed writes may be lost. The device does not know whether the
 * driver has flushed them. The config does not tell whether a flush was needed, because some
 * back-ends say "write-through" although they have a cache. There is no warning for a back-end that
 * offers an in-flight area, even if the device does not use the area, because such a back-end is
 * designed to be replaced after a loss.
 */
static void warn_of_unflushed_writes(struct vublk_device *device)
{
	bool is_designed = device->frontend.info.protocol_features &
			   VUBLK_BIT(VUBLK_VU_F_INFLIGHT_SHMFD);

	if ((device->resume != VUBLK_DEVICE_RESUME_RINGS &&
	     !vublk_device_shadow_is_attached(device)) || !device->settings.warn_unflushed ||
	    device->path_switch.phase == VUBLK_DEVICE_SWITCH_LEAVING ||
	    vublk_device_replays(device) || device->reconnect.warned_unflushed || is_designed ||
	    !(device->acked_features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH)))
		return;
	device->reconnect.warned_unflushed = true;
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "the connection to the back-end at '%s' was lost, and this back-end has "
			  "no in-flight area: if it cached completed writes in its own memory, "
			  "those that the driver had not flushed are lost, and the driver is not "
			  "notified; run such a back-end with write-through caching, or set "
			  "unflushed=replay",
			  vublk_device_path(device));
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
	/* If the back-end was lost soon after the last try, the next try is not immediate. */
	delay_ms = vublk_device_outage_next_pause_ms(device);
	if (!reconnect->refusals && now - reconnect->tried_ns >= limit_ms * NS_PER_MS)
		delay_ms = 0;
	vublk_loop_timer_arm(&device->loop, &device->connect_timer,
			     VUBLK_MIN(now + delay_ms * NS_PER_MS,
				       vublk_device_paths_deadline_ns(device)));
}

/* --- after the handshake ---------------------------------------------------------------------- */

static void refuse(struct vublk_device *device, struct vublk_error *error)
{
	vublk_error_prepend(error, "cannot replace the previous back-end with the new one at '%s'",
			    vublk_device_path(device));
	vublk_device_reconnect_failed(device, error);
}

/*
 * Checks the number of memory regions against the back-end's limit, less the slot that the shadow
 * rings need. The memory may have been set while no back-end was connected.
 */
static int check_slots(const struct vublk_device *device, struct vublk_error *error)
{
	unsigned slots = vublk_device_memory_room(device);

	if (device->memory.num_regions <= slots)
		return 0;
	return vublk_device_too_many_regions(device->memory.num_regions, slots,
					     vublk_device_plane_needs_slot(device), error);
}

/*
 * Tells the program and the bus about the new back-end, and then starts the rings if they should
 * run.
 */
static void tell_bus(struct vublk_device *device, bool config_changed)
{
	uint64_t life = device->life;

	if (config_changed)
		vublk_device_notify_config(device);
	vublk_device_notify_connected(device);
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
	device->paths.last = device->paths.active;
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
	vublk_error_prepend(&error, "cannot set the write cache to the driver's setting");
	refuse(device, &error);
}

void vublk_device_reconnect_negotiated(struct vublk_device *device)
{
	uint8_t theirs = device->frontend.config[VUBLK_BLK_WCE_OFFSET];
	struct vublk_error error;

	vublk_device_choose_path(device); /* the choice depends on this back-end's offer */
	if (vublk_device_take_offer(device, &error) < 0)
		refuse(device, &error);
	else if (device->config[VUBLK_BLK_WCE_OFFSET] != theirs)
		vublk_frontend_write_wce(&device->frontend, device->config[VUBLK_BLK_WCE_OFFSET],
					 on_wce_restored, device);
	else
		finish(device);
}
