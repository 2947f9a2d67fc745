/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starts and stops the rings, and implements the calls of the bus that lead to a start or a stop:
 * status, reset, pause, forced shutdown, kick. link/loss.c handles the loss of the back-end;
 * resume.c decides where rings resume.
 *
 * Key idea: vublk_device_should_run() says whether the rings should run, and the state says whether
 * they do. vublk_device_update() compares the two and begins a start or a stop. Nothing interrupts
 * a message that is under way, so a reset or a pause during a start takes effect at the next
 * answer. If a start fails, the device stops the rings as usual, and then closes the connection,
 * unless exchange.c can return to the other path.
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
	vublk_device_exchange_end(device, VUBLK_DEVICE_EXCHANGE_EVENT_OVERTAKEN);
	if (device->state == VUBLK_DEVICE_STOPPED)
		vublk_device_choose_path(device);
}

/*
 * Ends the stop of an exchange and starts the rings again, on the other path or on the old one,
 * without telling the bus.
 */
static void begin_again(struct vublk_device *device)
{
	vublk_device_ring_errors_unwatch(device);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_STOPPED, "the device switches "
				  "requests between shadow rings and the direct path");
	vublk_device_update(device);
}

static void on_rings_stopped(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	uint64_t life = device->life;
	struct vublk_error own;
	int turned = 0;

	if (!error) {
		vublk_device_rings_are_back(device);
		turned = vublk_device_exchange_turn(device, &own);
	}
	if (turned > 0) {
		begin_again(device);
		return;
	}
	if (turned < 0)
		error = &own;
	else if (device->failure.code)
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
	bool drains = device->drains ||
		      device->exchange.phase == VUBLK_DEVICE_EXCHANGE_STOPPING;

	vublk_device_shadow_part(device);
	device->leaves_requests = vublk_frontend_leaves_requests(&device->frontend, drains);
	vublk_frontend_stop_rings(&device->frontend, device->rings, device->num_rings, drains,
				  on_rings_stopped, device);
}

static void stop_for_exchange(struct vublk_device *device)
{
	vublk_device_exchange_drained(device);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_STOP, "the device switches requests "
				  "between shadow rings and the direct path");
	stop_rings(device);
}

/*
 * Begins to stop the rings. If the plane has requests, the stop first waits until these are
 * complete, except after a start that failed.
 */
static void begin_stop(struct vublk_device *device, const char *why)
{
	bool waits = !device->failure.code && vublk_device_shadow_has_backend(device);

	vublk_device_switch_cancel(device, "the rings are being stopped");
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_STOP, why);
	if (!waits || !vublk_device_shadow_stop(device, stop_rings))
		stop_rings(device);
}

/* --- start ------------------------------------------------------------------------------ */

static const char *why_not(const struct vublk_device *device)
{
	if (!device->vm_running)
		return "the VM is paused";
	return device->pause.stops ? "the operator has paused the disk" :
	       "the driver has reset the device";
}

/*
 * Begins a stop if the current step of the start (`error`) or an earlier one has failed, or if the
 * rings need not run any more. Returns whether a stop has begun.
 */
static bool turn_back(struct vublk_device *device, const struct vublk_error *error)
{
	if (error && !device->failure.code)
		device->failure = *error;
	if (!device->failure.code && vublk_device_needs_backend(device))
		return false;
	begin_stop(device, device->failure.code ? device->failure.text : why_not(device));
	return true;
}

/*
 * Gives the plane the driver's rings, the dirty log and the side. The log comes before the side, so
 * that all writes are logged. A no-op without the plane.
 */
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
	vublk_device_fence_claim(device);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_STARTED, NULL);
	vublk_device_outage_end(device);
	/*
	 * Some back-ends begin to work only at a kick, and the driver may have kicked before the
	 * start.
	 */
	vublk_device_kick_rings(device);
	if (device->resume != VUBLK_DEVICE_RESUME_NOTHING)
		vublk_device_call_rings(device);
	device->resume = VUBLK_DEVICE_RESUME_NOTHING;
	vublk_device_exchange_started(device);
	vublk_device_notifiers_send(device);
	vublk_device_keepalive_begin(device);
	vublk_device_dirty_log_started(device);
	vublk_device_post_update(device); /* a pause may wait for this back-end */
	if (device->ops->started)
		device->ops->started(device->bus);
}

static void on_start_memory(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	struct vublk_error own;

	if (error && vublk_device_is_shadowed(device))
		vublk_device_shadow_free_side(device); /* the back-end does not have the side's
							  memory */
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
	vublk_device_note_inflight_layout(device, device->frontend.inflight.area);
	vublk_frontend_set_memory(&device->frontend, vublk_device_shadow_memory(device),
				  on_start_memory, device);
}

/*
 * Called when the back-end has answered the features. Requests or hands over the in-flight area.
 * The features come first, because they determine the area's layout.
 */
static void on_session_for_inflight(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;
	unsigned num_rings;

	if (turn_back(device, error))
		return;
	vublk_device_queues_collect(device);
	vublk_device_shadow_collect(device);
	num_rings = device->num_rings;
	/* This message needs only the sizes of the rings, which are handed over later. */
	device->num_rings = 0;
	vublk_frontend_set_inflight(&device->frontend, vublk_device_shadow_area(device),
				    device->rings, num_rings, on_inflight, device);
}

/*
 * Called when the back-end has answered the features. Only records a refusal, because the next
 * answer, which is about the memory, continues or ends the start.
 */
static void on_session(void *opaque, const struct vublk_error *error)
{
	struct vublk_device *device = opaque;

	if (error)
		device->failure = *error;
}

/*
 * Decides where the rings resume, and returns whether they can. If they cannot, the driver has to
 * reset the device, and the bus is told once.
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

/*
 * Chooses the path of this start. If the direct path may replace the plane, a start with the plane
 * counts as an exchange, so that it can be undone if it fails.
 */
static void settle_path(struct vublk_device *device)
{
	vublk_device_choose_path(device);
	vublk_device_mirror_begin_start(device);
	if (vublk_device_is_shadowed(device) && vublk_device_may_be_direct(device) &&
	    !vublk_device_shadow_is_attached(device))
		vublk_device_exchange_change(device, VUBLK_DEVICE_EXCHANGE_EVENT_START, NULL);
}

static void begin_start(struct vublk_device *device)
{
	const struct vublk_device_dirty_log *dirty_log;
	struct vublk_error error;
	uint64_t features;

	settle_path(device);
	vublk_device_replay_begin_start(device);
	features = vublk_device_session_features(device);
	if (!recover(device)) {
		vublk_device_exchange_end(device, VUBLK_DEVICE_EXCHANGE_EVENT_OVERTAKEN);
		return;
	}
	dirty_log = vublk_device_is_shadowed(device) ? NULL :
		    vublk_device_dirty_log_of_start(device);
	vublk_device_change_state(device, VUBLK_DEVICE_EVENT_START, NULL);
	device->failure.code = 0;
	device->num_rings = 0;
	device->frontend.round_trips = 0;
	if (dirty_log) /* the back-end can log only without the plane's memory */
		vublk_device_shadow_free_side(device);
	if (vublk_device_shadow_prepare(device, &error) < 0) {
		turn_back(device, &error);
		return;
	}
	if (vublk_device_backend_records(device)) {
		vublk_frontend_begin_session(&device->frontend, features, dirty_log,
					     on_session_for_inflight, device);
		return;
	}
	/*
	 * Neither this back-end nor the plane records requests, so a later back-end must not rely
	 * on the area.
	 */
	if (!vublk_device_records_requests(device))
		vublk_device_drop_inflight(device);
	vublk_frontend_begin_session(&device->frontend, features, dirty_log, on_session, device);
	vublk_frontend_set_memory(&device->frontend, vublk_device_shadow_memory(device),
				  on_start_memory, device);
}

/*
 * Called when a stop has waited too long for the next back-end, or no back-end is expected. Takes
 * the driver's rings from the plane, and calls stopped(). If requests are outstanding, the rings
 * are as after a loss: it is unknown which requests were executed.
 */
static void return_overdue(struct vublk_device *device)
{
	struct vublk_error error;

	vublk_error_set(&error, ETIMEDOUT, "no back-end completed the driver's outstanding "
			"requests in time");
	if (!vublk_device_shadow_has_requests(device)) {
		vublk_device_replay_overdue(device, &error);
		vublk_device_shadow_return(device);
	} else {
		vublk_device_note_loss(device);
		vublk_device_shadow_drop(device);
	}
	if (device->ops->stopped)
		device->ops->stopped(device->bus, &error);
}

static bool waits_for_backend(const struct vublk_device *device)
{
	return device->state != VUBLK_DEVICE_LOST || device->reconnect.lost_ns;
}

/*
 * Called in an update while no back-end has the rings. The plane keeps the driver's rings while
 * they should run. Otherwise the plane returns them when it has nothing that only a back-end can
 * complete, or when no back-end is expected, or none has come in time.
 */
static void update_without_backend(struct vublk_device *device)
{
	if (!vublk_device_shadow_is_attached(device))
		return;
	if (device->shadow.is_overdue)
		return_overdue(device);
	else if (vublk_device_should_run(device))
		vublk_device_shadow_resume(device);
	else if (!vublk_device_shadow_is_unsettled(device))
		vublk_device_shadow_return(device);
	else if (waits_for_backend(device))
		vublk_device_shadow_stop(device, NULL);
	else
		return_overdue(device);
}

/* Returns whether the back-end has to answer a message before the rings are stopped. */
static bool is_busy(const struct vublk_device *device)
{
	return device->memory_change_under_way || device->num_notifiers ||
	       vublk_device_dirty_log_is_changing(device);
}

/*
 * May call the bus's callbacks. The back-end gets the driver's descriptors before an exchange begins.
 * An exchange that was cancelled may have left idle descriptors at the back-end, which then does not
 * know of the requests for whose completion the next exchange waits.
 */
static void update_running(struct vublk_device *device)
{
	uint64_t life = device->life;

	if (!vublk_device_should_run(device) || !vublk_device_exchange_is_due(device))
		vublk_device_exchange_cancel(device);
	vublk_device_notifiers_send(device);
	if (device->life != life || device->state != VUBLK_DEVICE_RUNNING || is_busy(device))
		return;
	if (!vublk_device_should_run(device))
		begin_stop(device, NULL);
	else if (vublk_device_exchange_is_due(device) &&
		 device->exchange.phase == VUBLK_DEVICE_EXCHANGE_NONE)
		vublk_device_exchange_begin(device, stop_for_exchange);
}

void vublk_device_update(struct vublk_device *device)
{
	uint64_t life = device->life;

	vublk_device_pause_apply(device);
	if (!vublk_device_backend_has_rings(device))
		update_without_backend(device); /* may call the bus's callbacks */
	if (device->life != life)
		return;
	if (device->state == VUBLK_DEVICE_STOPPED && vublk_device_needs_backend(device) &&
	    !device->memory_change_under_way && !device->inflight_under_way)
		begin_start(device);
	else if (device->state == VUBLK_DEVICE_RUNNING)
		update_running(device);
	if (device->life == life && device->state == VUBLK_DEVICE_RUNNING)
		vublk_device_dirty_log_settle(device); /* may call the bus's callbacks */
	if (device->life == life)
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

/*
 * Ends the driver's session while no back-end has the rings. A pause that waits for the next
 * back-end then also ends, with stopped().
 */
static void end_session_without_backend(struct vublk_device *device)
{
	bool is_pausing = vublk_device_shadow_is_attached(device) && !device->vm_running;

	vublk_device_end_session(device);
	if (is_pausing && device->ops->stopped)
		device->ops->stopped(device->bus, NULL);
}

static int reset(struct vublk_device *device)
{
	device->status = 0;
	device->early_kick = VUBLK_DEVICE_KICK_NONE;
	if (vublk_device_backend_has_rings(device))
		vublk_device_update(device);
	else
		end_session_without_backend(device);
	return 0;
}

int vublk_device_set_status(struct vublk_device *device, uint8_t status,
			    struct vublk_error *error)
{
	int r;

	if (device->state == VUBLK_DEVICE_CREATED || device->state == VUBLK_DEVICE_REALIZING)
		return vublk_device_forbid(device, "setting the status", error);
	if (!status)
		return reset(device);
	if (vublk_device_has_rings_out(device) && !device->status)
		return vublk_error_set(error, EBUSY,
				       "cannot set the status before the reset is complete; wait "
				       "for stopped()");
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
	/* Returns 1 if a start or a stop is under way, because started() or stopped() follows. */
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
				"the forced shutdown does not wait for the back-end; requests that "
				"it had begun may or may not have been executed");
		vublk_frontend_fail(&device->frontend, &error); /* closes the connection without a
								   message */
	}
	reset(device);
	return rings;
}
