/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starts and stops the rings, and implements the calls of the bus that cause this: status, reset,
 * pause, forced shutdown, kick. link/loss.c handles the loss of the back-end; resume.c decides
 * where rings resume.
 *
 * Key idea: the rings should run if the driver is ready and the VM runs, and the state says whether
 * they do. vublk_device_update() compares the two and begins a start or a stop. Neither is ever
 * interrupted: a reset or a pause during a start takes effect when the start is done. After a start
 * that fails the rings are stopped in the same way as after one that succeeded, and then the
 * connection is closed.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"

#include <errno.h>
#include <linux/virtio_config.h>

/* --- stop ----------------------------------------------------------------------------- */

void vublk_device_end_session(struct vublk_device *device)
{
	vublk_device_shadow_drop(device);
	device->has_acked_features = false;
	device->acked_features = 0;
	vublk_device_queues_reset(device);
	vublk_device_drop_inflight(device);
	device->resume = VUBLK_DEVICE_RESUME_NOTHING;
}

static void on_rings_stopped(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	uint64_t life = device->life;

	if (!error)
		vublk_device_rings_are_back(device);
	if (device->failure.code)
		error = &device->failure;
	if (error) {
		vublk_frontend_fail(&device->frontend, error);
		return;
	}
	vublk_device_ring_errors_unwatch(device);
	vublk_device_notifiers_settle(device);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_STOPPED, NULL);
	vublk_device_outage_end(device);
	vublk_device_watch_config(device);
	if (!device->status)
		vublk_device_end_session(device);
	if (device->ops->stopped)
		device->ops->stopped(device->bus, NULL);
	if (device->life == life)
		vublk_device_dirty_log_stopped(device);
	if (device->life == life)
		vublk_device_update(device);
}

static void stop_rings(struct vublk_device *device)
{
	vublk_device_shadow_part(device);
	device->leaves_requests = vublk_frontend_leaves_requests(&device->frontend,
								 device->drains);
	vublk_frontend_stop_rings(&device->frontend, device->rings, device->num_rings,
				  device->drains, on_rings_stopped, device);
}

/*
 * After a start that failed there is nothing to wait for: the connection is closed. Nor is there
 * before the plane has got the back-end's rings: no request can be completed.
 */
static void begin_stop(struct vublk_device *device, const char *why)
{
	bool waits = !device->failure.code && vublk_device_shadow_has_backend(device);

	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_STOP, why);
	if (!waits || !vublk_device_shadow_stop(device, stop_rings))
		stop_rings(device);
}

/* --- start ------------------------------------------------------------------------------ */

/*
 * Stops the rings if the start has failed or is not wanted any more. True: the rings are being
 * stopped.
 */
static bool turn_back(struct vublk_device *device, const struct vublk_error *error)
{
	if (error && !device->failure.code)
		device->failure = *error;
	if (!device->failure.code && vublk_device_needs_backend(device))
		return false;
	begin_stop(device, device->failure.code ? device->failure.text :
		   device->vm_running ? "reset meanwhile" : "paused meanwhile");
	return true;
}

/* The dirty log is on before the first request. */
static int run_shadow(struct vublk_device *device, struct vublk_error *error)
{
	int r = vublk_device_shadow_attach(device, error);

	if (!r)
		r = vublk_device_dirty_log_give(device, error);
	return r < 0 ? r : vublk_device_shadow_run(device, error);
}

static void on_rings_started(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	struct vublk_error own;

	if (turn_back(device, error))
		return;
	if (run_shadow(device, &own) < 0) {
		turn_back(device, &own);
		return;
	}
	vublk_log(&device->log, VUBLK_LOG_DEBUG, "the start took %u round trips",
		  device->frontend.round_trips);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_STARTED, NULL);
	vublk_device_outage_end(device);
	/* Some back-ends begin at the first kick, and the driver may have kicked before the start. */
	vublk_device_kick_rings(device);
	if (device->resume != VUBLK_DEVICE_RESUME_NOTHING)
		vublk_device_call_rings(device);
	device->resume = VUBLK_DEVICE_RESUME_NOTHING;
	vublk_device_notifiers_send(device);
	vublk_device_keepalive_begin(device);
	vublk_device_dirty_log_started(device);
	vublk_device_post_update(device); /* a pause may have waited for this back-end */
	if (device->ops->started)
		device->ops->started(device->bus);
}

static void on_start_memory(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	struct vublk_error own;

	if (turn_back(device, error))
		return;
	vublk_device_queues_collect(device);
	vublk_device_shadow_collect(device);
	if (vublk_device_ring_errors_watch(device, &own) < 0) {
		device->num_rings = 0; /* the back-end has no ring yet */
		turn_back(device, &own);
		return;
	}
	vublk_frontend_start_rings(&device->frontend, device->rings, device->num_rings,
				   on_rings_started, device);
}

static void on_inflight(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	if (turn_back(device, error))
		return;
	vublk_device_note_inflight_layout(device);
	vublk_frontend_set_memory(&device->frontend, &device->memory, on_start_memory, device);
}

/*
 * The features determine the layout of the area, so the area is requested after the features were
 * sent.
 */
static void on_session_for_inflight(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	unsigned num_rings;

	if (turn_back(device, error))
		return;
	vublk_device_queues_collect(device);
	num_rings = device->num_rings;
	/* The sizes of the rings are sent, but the rings are not handed over yet. */
	device->num_rings = 0;
	if (device->inflight.fd < 0) { /* a new area, with room for every queue */
		device->inflight.num_queues = (uint16_t)device->num_queues;
		device->inflight.queue_size = (uint16_t)device->settings.queue_size;
	}
	vublk_frontend_set_inflight(&device->frontend, &device->inflight, device->rings, num_rings,
				    on_inflight, device);
}

/* The answers about the memory come after this answer. They continue the start, or end it. */
static void on_session(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	if (error)
		device->failure = *error;
}

/*
 * Finds out whether the rings can resume. If not, the driver has to reset, and the bus is told
 * once.
 */
static bool recover(struct vublk_device *device)
{
	struct vublk_error error;

	if (device->resume != VUBLK_DEVICE_RESUME_NEVER &&
	    vublk_device_recover(device, &error) < 0) {
		device->resume = VUBLK_DEVICE_RESUME_NEVER;
		vublk_device_raise_needs_reset(device, &error);
		return false;
	}
	return device->resume != VUBLK_DEVICE_RESUME_NEVER;
}

static void begin_start(struct vublk_device *device)
{
	const struct vublk_device_dirty_log *dirty_log = vublk_device_is_shadowed(device) ?
		NULL : vublk_device_dirty_log_of_start(device);
	uint64_t features = vublk_device_session_features(device);
	struct vublk_error error;

	if (!recover(device))
		return;
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_START, NULL);
	device->failure.code = 0;
	device->num_rings = 0;
	device->frontend.round_trips = 0;
	if (vublk_device_shadow_prepare(device, &error) < 0) {
		turn_back(device, &error);
		return;
	}
	if (vublk_device_uses_inflight(device)) {
		vublk_frontend_begin_session(&device->frontend, features, dirty_log,
					     on_session_for_inflight, device);
		return;
	}
	/* Without this back-end's records the area would mislead the next one. */
	if (!vublk_device_records_requests(device))
		vublk_device_drop_inflight(device);
	vublk_frontend_begin_session(&device->frontend, features, dirty_log, on_session, device);
	vublk_frontend_set_memory(&device->frontend, vublk_device_shadow_memory(device),
				  on_start_memory, device);
}

/*
 * A pause has waited long enough for the next back-end. Which of the requests were executed is
 * unknown, as if the driver's rings had run at the loss.
 */
static void return_overdue(struct vublk_device *device)
{
	struct vublk_error error;

	vublk_error_set(&error, ETIMEDOUT, "no back-end has completed the requests that the driver "
			"waits for");
	vublk_device_note_loss(device);
	vublk_device_shadow_drop(device);
	if (device->ops->stopped)
		device->ops->stopped(device->bus, &error);
}

/*
 * While there is no back-end, the plane has the driver's rings. A pause returns them, if the driver
 * does not wait for a request.
 */
static void update_without_backend(struct vublk_device *device)
{
	if (!vublk_device_shadow_is_attached(device))
		return;
	if (device->shadow.is_overdue)
		return_overdue(device);
	else if (vublk_device_should_run(device))
		vublk_device_shadow_resume(device);
	else if (vublk_device_shadow_has_requests(device))
		vublk_device_shadow_stop(device, NULL);
	else
		vublk_device_shadow_return(device);
}

void vublk_device_update(struct vublk_device *device)
{
	uint64_t life = device->life;

	if (!vublk_device_backend_has_rings(device))
		update_without_backend(device); /* may call the bus */
	if (device->life != life)
		return;
	if (device->state == VUBLK_DEVICE_STOPPED && vublk_device_needs_backend(device) &&
	    !device->memory_change_under_way && !device->inflight_under_way)
		begin_start(device);
	else if (device->state == VUBLK_DEVICE_RUNNING && !vublk_device_should_run(device) &&
		 !device->memory_change_under_way && !device->num_notifiers &&
		 !vublk_device_dirty_log_is_changing(device))
		begin_stop(device, NULL);
	else
		vublk_device_notifiers_send(device);
	vublk_device_watch_kicks(device);
}

void vublk_device_on_update_task(void *opaque)
{
	vublk_device_update(opaque);
}

/* --- status ------------------------------------------------------------------------------- */

uint8_t vublk_device_status(const struct vublk_device *device)
{
	return device->status;
}

static int reset(struct vublk_device *device)
{
	device->status = 0;
	device->early_kick = VUBLK_DEVICE_KICK_NONE;
	if (vublk_device_backend_has_rings(device))
		vublk_device_update(device);
	else
		vublk_device_end_session(device);
	return 0;
}

int vublk_device_set_status(struct vublk_device *device, uint8_t status,
			    struct vublk_error *error)
{
	int r;

	if (device->state == VUBLK_DEVICE_CREATED || device->state == VUBLK_DEVICE_REALIZING)
		return vublk_device_require(device, VUBLK_DEVICE_STOPPED, "setting the status",
					    error);
	if (!status)
		return reset(device);
	if (vublk_device_has_rings_out(device) && !device->status)
		return vublk_error_set(error, EBUSY,
				       "the status cannot be set before the reset is done: wait for "
				       "stopped()");
	if (status & VIRTIO_CONFIG_S_DRIVER_OK && !vublk_device_is_driver_ready(device)) {
		r = vublk_device_check_start(device, error);
		if (r < 0)
			return r;
	}
	device->status = status;
	vublk_device_update(device);
	return 0;
}

/* --- kick ---------------------------------------------------------------------------------- */

int vublk_device_kick(struct vublk_device *device, unsigned index)
{
	if (index >= device->num_queues || !device->queues[index].size)
		return -EINVAL;
	if (device->queues[index].kick_fd >= 0)
		vublk_eventfd_signal(device->queues[index].kick_fd);
	if (vublk_device_take_early_kick(device))
		vublk_device_update(device);
	return 0;
}

/* --- pause -------------------------------------------------------------------------------- */

int vublk_device_set_vm_running(struct vublk_device *device, bool running)
{
	bool changed = device->vm_running != running;

	device->vm_running = running;
	if (changed)
		vublk_device_update(device);
	/* Returns 1 if a start or stop is under way, because a callback follows at its end. */
	if (vublk_device_should_run(device))
		return device->state == VUBLK_DEVICE_STARTING ||
		       device->state == VUBLK_DEVICE_STOPPING;
	return vublk_device_has_rings_out(device);
}

void vublk_device_set_drains(struct vublk_device *device, bool drains)
{
	device->drains = drains;
}

/* --- forced shutdown ------------------------------------------------------------------------ */

int vublk_device_force_shutdown(struct vublk_device *device)
{
	bool rings = vublk_device_backend_has_rings(device);
	struct vublk_error error;

	if (device->state == VUBLK_DEVICE_CREATED || device->state == VUBLK_DEVICE_REALIZING)
		return 0;
	device->is_shutting_down = true;
	if (rings && device->settings.skip_get_vring_base) {
		vublk_error_set(&error, ECANCELED,
				"the rings are abandoned in a forced shutdown; requests that the "
				"back-end had begun may or may not have been executed");
		vublk_frontend_fail(&device->frontend, &error); /* no message is sent after this */
	}
	reset(device);
	return rings;
}
