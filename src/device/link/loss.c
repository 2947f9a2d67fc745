/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handles the loss of a connected back-end: records the state of the rings, and calls the bus's
 * callbacks for all operations that were under way. The search for another back-end is in
 * reconnect.c.
 *
 * Key idea: the device brings its own state up to date before it calls the bus. A callback may
 * unrealize the device, so the code compares device->life before the next callback.
 */
#include "device/device.h"

/*
 * Ends the operations whose callbacks the bus awaits. Returns false if a callback has unrealized
 * the device.
 */
static bool fail_requests(struct vublk_device *device, const struct vublk_error *error)
{
	uint64_t life = device->life;
	bool memory = device->memory_change_under_way, area = device->inflight_under_way;
	bool write = device->config_write != VUBLK_DEVICE_WRITE_NONE &&
		     device->config_write != VUBLK_DEVICE_WRITE_RESTORING;

	device->memory_change_under_way = false;
	device->inflight_under_way = false;
	device->config_write = VUBLK_DEVICE_WRITE_NONE;
	device->config_read = VUBLK_DEVICE_READ_NONE;
	device->config_read_again = false;
	if (memory && device->ops->memory_changed)
		device->ops->memory_changed(device->bus, error);
	if (write && device->life == life && device->ops->config_written)
		device->ops->config_written(device->bus, error);
	if (area && device->life == life && device->ops->inflight_made)
		device->ops->inflight_made(device->bus, NULL, 0, error);
	if (device->life == life)
		vublk_device_dirty_log_stopped(device);
	return device->life == life;
}

/*
 * Handles the rings at a loss if requests pass through the plane. The plane keeps the driver's
 * rings if they should run, or if a stop may wait until the next back-end has completed the
 * outstanding requests. Otherwise the rings are taken away from the plane. If a stop is overdue,
 * the outstanding requests are dropped.
 */
static void note_shadow(struct vublk_device *device)
{
	bool waits = vublk_device_shadow_lose(device);

	if (!vublk_device_shadow_is_attached(device))
		return;
	if (vublk_device_should_run(device)) {
		vublk_device_shadow_resume(device); /* undoes a stop that was under way, even one
						       for a change of the memory */
	} else if (!vublk_device_shadow_is_unsettled(device) ||
		   (!waits && !vublk_device_shadow_has_requests(device))) {
		vublk_device_shadow_return(device);
	} else if (!waits) {
		vublk_device_note_loss(device);
		vublk_device_shadow_drop(device);
	} else if (!vublk_device_needs_backend(device)) {
		vublk_device_shadow_return(device);
	}
}

/*
 * Records where the rings resume. `rings`: the lost back-end had the rings, so it may have worked
 * on them, and it has not said where it stopped.
 */
static void note_rings(struct vublk_device *device, bool rings)
{
	if (vublk_device_is_shadowed(device)) {
		note_shadow(device);
	} else if (rings && device->num_rings && vublk_frontend_may_have_begun(&device->frontend)) {
		vublk_device_note_loss(device);
		vublk_device_dirty_log_mark_rings(device);
	} else {
		vublk_device_note_loss_at_rest(device);
	}
}

void vublk_device_on_loss(struct vublk_device *device, const struct vublk_error *error)
{
	bool rings = vublk_device_backend_has_rings(device);
	uint64_t life = device->life;

	vublk_device_fence_lost(device, error);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_LOST, error->text);
	vublk_device_ring_errors_unwatch(device);
	vublk_device_notifiers_settle(device);
	vublk_device_exchange_end(device, VUBLK_DEVICE_EXCHANGE_EVENT_LOST);
	note_rings(device, rings);
	vublk_device_reconnect_begin(device, error);
	vublk_device_switch_lost(device, error);
	if (rings && !device->status) /* a reset was waiting for the back-end to return the rings */
		vublk_device_end_session(device);
	vublk_device_notify_lost(device, error);
	if (!fail_requests(device, error))
		return;
	if (rings && !vublk_device_has_rings_out(device) && device->ops->stopped)
		device->ops->stopped(device->bus, error);
	if (device->life == life && device->ops->lost)
		device->ops->lost(device->bus, error);
}
