/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Moves the disk to a back-end at another path because a program asks for it. No request fails
 * because of the switch. The device connects to the new back-end, holds new requests, and waits
 * until the old back-end has completed its requests and a flush. Then the device disconnects from
 * the old back-end and starts the rings at the new one.
 *
 * Key idea: to the plane, a switch looks like a loss while no request is outstanding. So the
 * driver's rings stay with the plane, and the search for a back-end (reconnect.c) does the rest.
 * The search begins with the connection to the new back-end. If that back-end cannot be used, the
 * search continues at the path of the old one. Requests that do not use the shadow rings are moved
 * to them before the switch, and back afterwards.
 */
#include "device/device.h"

#include "plane/last-flush.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/fd.h"
#include "util/struct.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#define NS_PER_MS UINT64_C(1000000)
#define PAUSE_NS NS_PER_MS /* the time between two checks for unanswered messages on the old
			      connection */

static const char *path_of(const struct vublk_device *device, unsigned index)
{
	return index == VUBLK_MAX_PATHS ? device->mirror.target : device->settings.chardevs[index];
}

/* --- the end ------------------------------------------------------------------------------ */

static void release(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;

	vublk_loop_timer_disarm(&own->timer);
	vublk_loop_remove(&own->flushed);
	vublk_fd_close(&own->fd);
}

/*
 * Records and logs the failure of the switch. If the plane has ended the mirror for the switch,
 * ends the mirror.
 */
static void note_failure(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_switch *own = &device->path_switch;

	own->failure = *error;
	if (own->is_mirrored && device->mirror.phase >= VUBLK_DEVICE_MIRROR_LEAVING)
		vublk_device_mirror_abandon(device, error);
	vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_WARNING,
			  "cannot switch the disk to '%s': %s", path_of(device, own->target),
			  error->text);
}

/*
 * Ends the switch with the result own->failure. Until this call, the requests must not leave the
 * shadow rings.
 */
static void publish(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;

	release(device);
	own->phase = VUBLK_DEVICE_SWITCH_NONE;
	own->results[own->number % VUBLK_DEVICE_NUM_SWITCH_RESULTS] =
		(struct vublk_device_switch_result){ own->number, own->failure };
	vublk_device_notify_target(device, own->failure.code ? VUBLK_NOTICE_SWITCH_FAILED :
				   VUBLK_NOTICE_SWITCHED, path_of(device, own->target),
				   own->failure.code ? &own->failure : NULL);
	vublk_device_want_shadow(device, VUBLK_DEVICE_SHADOW_FOR_SWITCH, false, NULL, NULL);
}

/* Ends a switch that has failed while the back-end is connected. */
static void fail(struct vublk_device *device, const struct vublk_error *error)
{
	note_failure(device, error);
	publish(device);
}

/*
 * Called when it is known in an outage that the switch will fail. It stays under way until the outage
 * ends, because its result says where the disk continues.
 */
static void await_end_of_outage(struct vublk_device *device, const struct vublk_error *error)
{
	note_failure(device, error);
	release(device);
	device->path_switch.phase = VUBLK_DEVICE_SWITCH_RETURNING;
}

static void succeed(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;

	if (own->is_mirrored)
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
				  "switched the disk to its mirror at '%s'",
				  device->mirror.target);
	else
		vublk_log_limited(&device->log, &device->limit, VUBLK_LOG_INFO,
				  "switched the disk from '%s' to '%s'",
				  path_of(device, own->home), path_of(device, own->target));
	publish(device);
}

void vublk_device_switch_drop(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;

	if (own->phase == VUBLK_DEVICE_SWITCH_NONE)
		return;
	if (!own->failure.code)
		vublk_error_set(&own->failure, ECANCELED,
				"the device was closed during the switch");
	publish(device);
}

void vublk_device_switch_cancel(struct vublk_device *device, const char *why)
{
	struct vublk_error error;

	if (device->path_switch.phase == VUBLK_DEVICE_SWITCH_NONE ||
	    device->path_switch.phase > VUBLK_DEVICE_SWITCH_FLUSHING)
		return;
	vublk_error_set(&error, EBUSY, "%s", why);
	fail(device, &error);
}

/* --- away from the old back-end ------------------------------------------------------------- */

/*
 * Makes the target of the mirror the only path of the disk. If that fails, the disk stays at the
 * old path, to which the device connects again.
 */
static void commit(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;
	struct vublk_error error;

	if (vublk_device_mirror_commit(device, &error) < 0) {
		note_failure(device, &error);
		own->target = own->home;
	} else {
		own->target = own->home = 0;
	}
}

/*
 * Closes the connection to the old back-end, which has completed all requests. So the fence does
 * not have to wait for the end of its process.
 */
static void leave(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;
	struct vublk_error error;

	vublk_loop_remove(&own->flushed);
	if (own->target == VUBLK_MAX_PATHS)
		commit(device);
	own->phase = VUBLK_DEVICE_SWITCH_LEAVING;
	vublk_loop_timer_disarm(&own->timer);
	vublk_error_set(&error, ECANCELED, "the device disconnects from the back-end at '%s' to "
			"switch to another one",
			path_of(device, own->home));
	vublk_frontend_fail(&device->frontend, &error);
}

static bool has_messages(const struct vublk_device *device)
{
	return device->memory_change_under_way || device->inflight_under_way ||
	       !vublk_frontend_is_idle(&device->frontend);
}

static void leave_when_idle(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;

	if (has_messages(device))
		vublk_loop_timer_arm(&device->loop, &own->timer, vublk_now_ns() + PAUSE_NS);
	else
		leave(device);
}

/*
 * Called when the old back-end has failed the flush. The disk stays with the old back-end, to which
 * the device connects again. Until the rings run, the switch and its need for the shadow rings
 * continue, because the plane has the driver's rings but no side.
 */
static void stay(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_switch *own = &device->path_switch;

	vublk_plane_thread_fail_next_flush(device->shadow.thread);
	vublk_device_want_shadow(device, VUBLK_DEVICE_SHADOW_FOR_FLUSH, true, NULL, NULL);
	note_failure(device, error);
	vublk_fd_close(&own->fd);
	own->target = own->home;
	own->phase = VUBLK_DEVICE_SWITCH_LEAVING;
	leave_when_idle(device);
}

/* Called when the old back-end may have completed the flush. */
static void on_flushed(void *opaque, uint32_t events)
{
	struct vublk_device *device = opaque;
	struct vublk_device_switch *own = &device->path_switch;
	struct vublk_error error;
	int r = vublk_plane_last_flush_end(device->shadow.side, &error);

	if (!r)
		return;
	vublk_loop_remove(&own->flushed);
	own->is_flushed = true;
	if (r > 0)
		leave_when_idle(device);
	else if (r == -EIO)
		stay(device, &error);
	else
		vublk_frontend_fail(&device->frontend, &error);
}

/*
 * Begins the flush of the old back-end. The plane takes no request before a back-end is connected
 * again.
 */
static void flush_source(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;
	struct vublk_error error;
	int fd;

	own->phase = VUBLK_DEVICE_SWITCH_FLUSHING;
	vublk_device_shadow_part(device);
	fd = vublk_plane_last_flush_begin(device->shadow.side);
	if (fd < 0) {
		own->is_flushed = true;
		leave_when_idle(device);
	} else if (vublk_loop_add(&device->loop, &own->flushed, fd, EPOLLIN, &error) < 0) {
		vublk_frontend_fail(&device->frontend, &error);
	}
}

/* Abandons the switch while the plane still uses the old back-end. */
static void remain(struct vublk_device *device, const struct vublk_error *cause)
{
	struct vublk_error error = *cause;

	vublk_error_prepend(&error, "the disk stays at '%s'",
			    path_of(device, device->path_switch.home));
	fail(device, &error);
	if (!device->memory_change_under_way) /* the end of that change resumes the plane */
		vublk_device_shadow_resume(device);
}

/* Called when the target of the mirror has executed a flush, or the mirror has ended. */
static void on_mirror_left(struct vublk_device *device, const struct vublk_error *error)
{
	if (device->path_switch.phase != VUBLK_DEVICE_SWITCH_FLUSHING_TARGET)
		return;
	if (error)
		remain(device, error);
	else
		flush_source(device);
}

/* Called when all requests that the plane has taken are complete. */
static void on_drained(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;
	struct vublk_error error;

	if (own->phase != VUBLK_DEVICE_SWITCH_DRAINING)
		return;
	if (!own->is_mirrored) {
		flush_source(device);
		return;
	}
	own->phase = VUBLK_DEVICE_SWITCH_FLUSHING_TARGET;
	if (vublk_device_mirror_leave(device, on_mirror_left, &error) < 0)
		remain(device, &error);
}

static void on_timer(void *opaque)
{
	struct vublk_device *device = opaque;
	struct vublk_device_switch *own = &device->path_switch;
	unsigned timeout_ms = (unsigned)device->settings.request_timeout_ms;
	struct vublk_error error;

	if (own->is_flushed) {
		leave_when_idle(device);
	} else if (own->phase == VUBLK_DEVICE_SWITCH_FLUSHING) {
		vublk_error_set(&error, ETIMEDOUT, "the back-end did not complete the final flush "
				"of a switch within %u ms", timeout_ms);
		vublk_frontend_fail(&device->frontend, &error);
	} else if (own->phase == VUBLK_DEVICE_SWITCH_FLUSHING_TARGET) {
		vublk_error_set(&error, ETIMEDOUT, "the mirror at '%s' did not complete a flush within %u "
				"ms", device->mirror.target, timeout_ms);
		remain(device, &error);
	} else {
		vublk_error_set(&error, ETIMEDOUT, "the back-end did not complete all requests%s "
				"within %u ms", own->is_mirrored ? ", or the mirror did not catch up," :
				"", timeout_ms);
		remain(device, &error);
	}
}

/* --- to the new back-end ---------------------------------------------------------------------- */

static void look_at(struct vublk_device *device, unsigned index)
{
	vublk_device_paths_choose(device, index, vublk_now_ns());
	vublk_loop_timer_arm(&device->loop, &device->connect_timer, vublk_now_ns());
}

/*
 * Returns to the old back-end. The new one was given no request, so the fence does not have to wait
 * for the end of its process.
 */
static void return_home(struct vublk_device *device, const struct vublk_error *cause)
{
	struct vublk_device_switch *own = &device->path_switch;

	vublk_device_fence_release(device);
	vublk_device_paths_choose(device, own->home, vublk_now_ns());
	device->paths.last = own->home;
	await_end_of_outage(device, cause);
}

/*
 * Handles the loss of the new back-end. Without shadow rings, this back-end may have taken requests
 * as soon as it had a ring, even before the start was complete, so the fence applies, as after the
 * loss of any back-end that had the rings. With shadow rings, a back-end gets no request before the
 * start is complete, so the device returns to the old back-end.
 */
static void lose_target(struct vublk_device *device, const struct vublk_error *cause)
{
	struct vublk_error error = *cause;

	if (!device->fence.owns || vublk_device_is_shadowed(device)) {
		return_home(device, cause);
		look_at(device, device->path_switch.home);
		return;
	}
	vublk_error_prepend(&error, "the connection to the new back-end was lost after it received "
			    "the rings");
	await_end_of_outage(device, &error);
}

void vublk_device_switch_lost(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_switch *own = &device->path_switch;

	switch (own->phase) {
	case VUBLK_DEVICE_SWITCH_NONE:
	case VUBLK_DEVICE_SWITCH_RETURNING:
	case VUBLK_DEVICE_SWITCH_SEEKING:
		break;
	case VUBLK_DEVICE_SWITCH_EXCHANGING:
	case VUBLK_DEVICE_SWITCH_DRAINING:
	case VUBLK_DEVICE_SWITCH_FLUSHING_TARGET:
	case VUBLK_DEVICE_SWITCH_FLUSHING:
		await_end_of_outage(device, error);
		break;
	case VUBLK_DEVICE_SWITCH_LEAVING:
		vublk_device_fence_release(device);
		own->phase = own->failure.code ? VUBLK_DEVICE_SWITCH_RETURNING :
						 VUBLK_DEVICE_SWITCH_MOVING;
		device->lent_fd = vublk_fd_steal(&own->fd);
		look_at(device, own->target);
		break;
	case VUBLK_DEVICE_SWITCH_MOVING:
		lose_target(device, error);
		break;
	}
}

void vublk_device_switch_failed(struct vublk_device *device, const struct vublk_error *error)
{
	struct vublk_device_switch *own = &device->path_switch;

	if (own->phase == VUBLK_DEVICE_SWITCH_MOVING)
		return_home(device, error);
	own->is_first_try = false;
	if (own->phase == VUBLK_DEVICE_SWITCH_SEEKING && device->paths.active != own->target)
		await_end_of_outage(device, error);
}

/* Called when the outage has ended, or the device has given up. Ends a failed switch. */
static void settle(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;
	bool has_moved = own->is_mirrored &&
			 !strcmp(vublk_device_path(device), device->mirror.target);

	if (!vublk_device_is_connected(device))
		vublk_error_prepend(&own->failure, "the disk has no back-end");
	else
		vublk_error_prepend(&own->failure, "the disk %s at '%s'",
				    device->paths.active == own->home && !has_moved ? "stays" : "continues",
				    vublk_device_path(device));
	publish(device);
}

/*
 * Handles the end of an outage in which the disk was to continue at own->target. The device may
 * instead have connected to another path, or have given up.
 */
static void end_search(struct vublk_device *device)
{
	struct vublk_device_switch *own = &device->path_switch;
	struct vublk_error error = device->reconnect.refusal;

	if (vublk_device_is_connected(device) && device->paths.active == own->target) {
		succeed(device);
		return;
	}
	if (!error.code)
		vublk_error_set(&error, ENOTCONN, "no back-end has connected to '%s'",
				path_of(device, own->target));
	note_failure(device, &error);
	settle(device);
}

void vublk_device_switch_arrived(struct vublk_device *device)
{
	switch (device->path_switch.phase) {
	case VUBLK_DEVICE_SWITCH_MOVING:
		if (vublk_device_is_connected(device))
			succeed(device);
		break;
	case VUBLK_DEVICE_SWITCH_RETURNING:
		settle(device);
		break;
	case VUBLK_DEVICE_SWITCH_SEEKING:
		end_search(device);
		break;
	default:
		break;
	}
}

/* --- the calls -------------------------------------------------------------------------------- */

void vublk_device_switch_init(struct vublk_device *device)
{
	device->path_switch = (struct vublk_device_switch){
		.fd = -1,
		.timer = { .fn = on_timer, .opaque = device },
		.flushed = { .fn = on_flushed, .opaque = device },
	};
}

static int find(struct vublk_device *device, const char *chardev, struct vublk_error *error)
{
	unsigned num_paths = vublk_device_num_paths(device);

	if (!chardev) {
		int r = vublk_device_mirror_check_synced(device, error);

		return r < 0 ? r : VUBLK_MAX_PATHS;
	}
	for (unsigned i = 0; i < num_paths; i++)
		if (!strcmp(path_of(device, i), chardev))
			return (int)i;
	return vublk_error_set(error, EINVAL, "'%s' is not one of the disk's paths; pass all paths "
			       "to the device when you start it", chardev);
}

static void count(struct vublk_device *device, enum vublk_device_switch_phase phase, unsigned target)
{
	struct vublk_device_switch *own = &device->path_switch;

	own->phase = phase;
	own->home = device->paths.active;
	own->target = target;
	own->failure.code = 0;
	own->is_mirrored = target == VUBLK_MAX_PATHS;
	own->number++;
	vublk_device_notify_target(device, VUBLK_NOTICE_SWITCH_STARTED, path_of(device, target), NULL);
}

/*
 * Switches during an outage: chooses path `index` for the next try. Replaces an earlier switch of
 * this kind. Error: EBUSY if the fence does not permit the move.
 */
static int switch_lost_disk(struct vublk_device *device, unsigned index, struct vublk_error *error)
{
	struct vublk_device_switch *own = &device->path_switch;
	struct vublk_error overtaken;
	int r = index == device->paths.active ? 0 : vublk_device_fence_check(device, error);

	if (r < 0)
		return r;
	vublk_error_set(&overtaken, EBUSY, "another switch was requested");
	if (own->phase == VUBLK_DEVICE_SWITCH_SEEKING)
		fail(device, &overtaken);
	else if (own->phase == VUBLK_DEVICE_SWITCH_RETURNING)
		publish(device);
	count(device, VUBLK_DEVICE_SWITCH_SEEKING, index);
	own->is_first_try = true;
	look_at(device, index);
	return 1;
}

static int check_ready(const struct vublk_device *device, struct vublk_error *error)
{
	bool runs = device->state == VUBLK_DEVICE_RUNNING;

	if (device->state == VUBLK_DEVICE_RECONNECTING)
		return vublk_error_set(error, EBUSY, "the back-end at '%s' has accepted a connection "
				       "and has not answered yet; try again later, or end that "
				       "back-end", vublk_device_path(device));
	if (!runs && device->state != VUBLK_DEVICE_STOPPED)
		return vublk_error_set(error, EBUSY, "the device is %s; try again when it is "
				       "running or stopped",
				       vublk_device_state_name(device->state));
	if (has_messages(device) || device->num_notifiers ||
	    vublk_device_dirty_log_is_changing(device))
		return vublk_error_set(error, EBUSY, "the device waits for an answer from the "
				       "back-end; try again later");
	if (!runs && (device->fence.owns || vublk_device_has_rings_out(device)))
		return vublk_error_set(error, EBUSY, "the driver's rings are stopped, so the "
				       "device cannot tell whether the back-end has flushed its "
				       "writes; try again when the VM runs");
	return 0;
}

/*
 * Makes the old back-end complete the requests that the plane has taken. A change of the guest's
 * memory also stops the plane, and has to end first, because the plane reports the completion of
 * its requests only to the last caller that has stopped it.
 */
static void drain(struct vublk_device *device)
{
	if (device->memory_change_under_way)
		return;
	device->shadow.drained = on_drained;
	if (device->path_switch.is_mirrored)
		vublk_plane_thread_catch_up(device->shadow.thread);
	else
		vublk_plane_thread_stop(device->shadow.thread);
}

void vublk_device_switch_memory_changed(struct vublk_device *device)
{
	if (device->path_switch.phase == VUBLK_DEVICE_SWITCH_DRAINING)
		drain(device);
}

/*
 * Called when no exchange of the request path (rings/exchange.c) is pending. The switch continues
 * only if the requests pass through the plane, because only the plane can hold requests.
 */
static void on_path_settled(void *opaque, enum vublk_device_path path,
			    const struct vublk_error *refusal)
{
	struct vublk_device *device = opaque;
	struct vublk_device_switch *own = &device->path_switch;
	struct vublk_error error;

	if (own->phase != VUBLK_DEVICE_SWITCH_EXCHANGING)
		return;
	if (path != VUBLK_DEVICE_PATH_SHADOW || !vublk_device_shadow_has_backend(device)) {
		vublk_error_set(&error, refusal ? refusal->code : EBUSY, "the device cannot hold "
				"back requests: %s",
				refusal ? refusal->text : "the rings do not run");
		fail(device, &error);
		return;
	}
	own->phase = VUBLK_DEVICE_SWITCH_DRAINING;
	vublk_loop_timer_arm(&device->loop, &own->timer,
			     vublk_now_ns() + device->settings.request_timeout_ms * NS_PER_MS);
	drain(device);
}

static void begin(struct vublk_device *device, unsigned index, int fd)
{
	struct vublk_device_switch *own = &device->path_switch;

	own->fd = fd;
	own->is_flushed = false;
	count(device, VUBLK_DEVICE_SWITCH_EXCHANGING, index);
	if (device->state == VUBLK_DEVICE_STOPPED) {
		leave(device);
		return;
	}
	vublk_device_want_shadow(device, VUBLK_DEVICE_SHADOW_FOR_SWITCH, true, on_path_settled,
				 device);
}

/*
 * Returns whether a switch may begin: no switch is under way, or only one that waits for the end of
 * an outage. In the second case, the new switch replaces that one.
 */
static bool may_begin(const struct vublk_device *device)
{
	enum vublk_device_switch_phase phase = device->path_switch.phase;

	return phase == VUBLK_DEVICE_SWITCH_NONE ||
	       (device->state == VUBLK_DEVICE_LOST && phase >= VUBLK_DEVICE_SWITCH_RETURNING);
}

int vublk_device_switch(struct vublk_device *device, const char *chardev, struct vublk_error *error)
{
	int index, r, fd;

	if (!may_begin(device))
		return vublk_error_set(error, EBUSY, "another switch is under way; try again when "
				       "it has ended");
	index = find(device, chardev, error);
	if (index < 0)
		return index;
	if (index == VUBLK_MAX_PATHS && device->state != VUBLK_DEVICE_RUNNING)
		return vublk_error_set(error, EBUSY, "the device is %s: the disk can be switched to its "
				       "mirror only while the VM runs",
				       vublk_device_state_name(device->state));
	if (index < VUBLK_MAX_PATHS && device->mirror.phase != VUBLK_DEVICE_MIRROR_NONE)
		return vublk_error_set(error, EBUSY, "the disk is being mirrored to '%s': end the mirror "
				       "first, or switch to it", device->mirror.target);
	if (device->state == VUBLK_DEVICE_LOST)
		return switch_lost_disk(device, (unsigned)index, error);
	r = check_ready(device, error);
	if (r < 0 || (unsigned)index == device->paths.active)
		return r;
	fd = vublk_socket_connect(path_of(device, (unsigned)index), error);
	if (fd < 0)
		return fd;
	begin(device, (unsigned)index, fd);
	return 1;
}

int vublk_device_get_switch_result(const struct vublk_device *device, uint64_t number,
				   struct vublk_device_switch_info *info, size_t info_bytes)
{
	const struct vublk_device_switch *own = &device->path_switch;
	const struct vublk_device_switch_result *result =
		&own->results[number % VUBLK_DEVICE_NUM_SWITCH_RESULTS];
	struct vublk_device_switch_info all = { .number = number };

	all.is_under_way = own->phase != VUBLK_DEVICE_SWITCH_NONE && own->number == number;
	if (!all.is_under_way && (!number || result->number != number))
		return -ENOENT;
	if (!all.is_under_way && result->failure.code) {
		all.code = result->failure.code;
		snprintf(all.reason, sizeof(all.reason), "%s", result->failure.text);
	}
	vublk_struct_out(info, info_bytes, &all, sizeof(all));
	return 0;
}

void vublk_device_get_switch(const struct vublk_device *device, struct vublk_device_switch_info *info,
			     size_t info_bytes)
{
	struct vublk_device_switch_info none = { 0 };

	if (vublk_device_get_switch_result(device, device->path_switch.number, info, info_bytes) < 0)
		vublk_struct_out(info, info_bytes, &none, sizeof(none));
}
