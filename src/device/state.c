/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The states of a device, the table of transitions, and functions that answer questions about the
 * state. The code that causes an event also takes the actions that follow from it.
 *
 * Key idea: only vublk_device_change_state() changes the state, and it follows the table. The
 * exception is a device that is taken over from another process. docs/device-states.md is a drawing
 * of the table; a test generates the drawing again and compares the two.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <linux/virtio_config.h>

static const char *const state_names[VUBLK_DEVICE_NUM_STATES] = {
	[VUBLK_DEVICE_CREATED] = "created",
	[VUBLK_DEVICE_REALIZING] = "realizing",
	[VUBLK_DEVICE_STOPPED] = "stopped",
	[VUBLK_DEVICE_STARTING] = "starting",
	[VUBLK_DEVICE_RUNNING] = "running",
	[VUBLK_DEVICE_STOPPING] = "stopping",
	[VUBLK_DEVICE_LOST] = "lost",
	[VUBLK_DEVICE_RECONNECTING] = "reconnecting",
};

static const char *const event_names[VUBLK_DEVICE_NUM_EVENTS] = {
	[VUBLK_DEVICE_EVENT_REALIZE] = "realize",
	[VUBLK_DEVICE_EVENT_REALIZED] = "realized",
	[VUBLK_DEVICE_EVENT_REALIZE_FAILED] = "realize failed",
	[VUBLK_DEVICE_EVENT_START] = "start",
	[VUBLK_DEVICE_EVENT_STARTED] = "started",
	[VUBLK_DEVICE_EVENT_STOP] = "stop",
	[VUBLK_DEVICE_EVENT_STOPPED] = "stopped",
	[VUBLK_DEVICE_EVENT_LOST] = "lost",
	[VUBLK_DEVICE_EVENT_RECONNECT] = "reconnect",
	[VUBLK_DEVICE_EVENT_RECONNECTED] = "reconnected",
	[VUBLK_DEVICE_EVENT_UNREALIZE] = "unrealize",
};

#define ON(event, state) [VUBLK_DEVICE_EVENT_##event] = VUBLK_DEVICE_##state + 1

/*
 * An entry is the next state plus one; 0: the event does not occur in this state. A start that
 * cannot continue (a reset, a pause, a refusal by the back-end) leads to STOPPING, because rings
 * that were handed over have to be stopped in any case.
 */
static const unsigned char transitions[VUBLK_DEVICE_NUM_STATES][VUBLK_DEVICE_NUM_EVENTS] = {
	[VUBLK_DEVICE_CREATED] = {
		ON(REALIZE, REALIZING),
	},
	[VUBLK_DEVICE_REALIZING] = {
		ON(REALIZED, STOPPED),
		ON(REALIZE_FAILED, CREATED),
		ON(UNREALIZE, CREATED),
	},
	[VUBLK_DEVICE_STOPPED] = {
		ON(START, STARTING),
		ON(LOST, LOST),
		ON(UNREALIZE, CREATED),
	},
	[VUBLK_DEVICE_STARTING] = {
		ON(STARTED, RUNNING),
		ON(STOP, STOPPING),
		ON(LOST, LOST),
		ON(UNREALIZE, CREATED),
	},
	[VUBLK_DEVICE_RUNNING] = {
		ON(STOP, STOPPING),
		ON(LOST, LOST),
		ON(UNREALIZE, CREATED),
	},
	[VUBLK_DEVICE_STOPPING] = {
		ON(STOPPED, STOPPED),
		ON(LOST, LOST),
		ON(UNREALIZE, CREATED),
	},
	[VUBLK_DEVICE_LOST] = {
		ON(RECONNECT, RECONNECTING),
		ON(UNREALIZE, CREATED),
	},
	[VUBLK_DEVICE_RECONNECTING] = {
		ON(RECONNECTED, STOPPED),
		ON(LOST, LOST),
		ON(UNREALIZE, CREATED),
	},
};

const char *vublk_device_state_name(enum vublk_device_state state)
{
	return (unsigned)state < VUBLK_DEVICE_NUM_STATES ? state_names[state] : "unknown";
}

const char *vublk_device_event_name(enum vublk_device_event event)
{
	return event_names[event];
}

int vublk_device_next_state(enum vublk_device_state state, enum vublk_device_event event)
{
	return transitions[state][event] - 1;
}

bool vublk_device_change_state(struct vublk_device *device, enum vublk_device_event event,
			       const char *why)
{
	int next = vublk_device_next_state(device->state, event);

	if (next < 0)
		return false;
	vublk_log(&device->log, VUBLK_LOG_DEBUG, "device: %s, %s -> %s%s%s",
		  state_names[device->state], event_names[event], state_names[next],
		  why ? ": " : "", why ? why : "");
	device->state = next;
	return true;
}

void vublk_device_adopt_state(struct vublk_device *device, enum vublk_device_state state)
{
	vublk_log(&device->log, VUBLK_LOG_DEBUG, "device: %s, taken over -> %s",
		  state_names[device->state], state_names[state]);
	device->state = state;
}

enum vublk_device_state vublk_device_state(const struct vublk_device *device)
{
	return device->state;
}

bool vublk_device_is_connected(const struct vublk_device *device)
{
	return device->state == VUBLK_DEVICE_STOPPED || vublk_device_backend_has_rings(device);
}

bool vublk_device_is_driver_ready(const struct vublk_device *device)
{
	return device->status & VIRTIO_CONFIG_S_DRIVER_OK ||
	       device->early_kick == VUBLK_DEVICE_KICK_STARTS;
}

bool vublk_device_should_run(const struct vublk_device *device)
{
	return device->vm_running && !device->pause.stops && vublk_device_is_driver_ready(device);
}

bool vublk_device_switch_holds(const struct vublk_device *device)
{
	enum vublk_device_switch_phase phase = device->path_switch.phase;

	return phase >= VUBLK_DEVICE_SWITCH_DRAINING && phase <= VUBLK_DEVICE_SWITCH_LEAVING;
}

bool vublk_device_backend_has_rings(const struct vublk_device *device)
{
	return device->state == VUBLK_DEVICE_STARTING ||
	       device->state == VUBLK_DEVICE_RUNNING || device->state == VUBLK_DEVICE_STOPPING;
}

int vublk_device_forbid(const struct vublk_device *device, const char *what,
			struct vublk_error *error)
{
	return vublk_error_set(error, EBUSY, "%s is not possible while the device is %s", what,
			       state_names[device->state]);
}

int vublk_device_require(const struct vublk_device *device, enum vublk_device_state state,
			 const char *what, struct vublk_error *error)
{
	if (device->state == state)
		return 0;
	return vublk_error_set(error, EBUSY, "%s is only possible while the device is %s; it is %s",
			       what, state_names[state], state_names[device->state]);
}

/*
 * Returns whether the VM is paused and each base is known. In this case the rings do not resume by
 * themselves, and a change of the set-up loses no request.
 */
static bool is_at_rest(const struct vublk_device *device)
{
	return !device->vm_running && device->resume != VUBLK_DEVICE_RESUME_RINGS &&
	       device->resume != VUBLK_DEVICE_RESUME_NEVER;
}

int vublk_device_require_set_up(const struct vublk_device *device, const char *what,
				struct vublk_error *error)
{
	if (device->state != VUBLK_DEVICE_STOPPED && device->state != VUBLK_DEVICE_LOST &&
	    device->state != VUBLK_DEVICE_RECONNECTING)
		return vublk_device_forbid(device, what, error);
	if (vublk_device_shadow_is_attached(device))
		return vublk_error_set(error, EBUSY,
				       "%s is possible only after the driver has reset the device, "
				       "because its rings have requests that the next back-end "
				       "completes", what);
	if (vublk_device_will_reconnect(&device->settings) && vublk_device_is_driver_ready(device) &&
	    !is_at_rest(device))
		return vublk_error_set(error, EBUSY,
				       "%s is possible only after the driver has reset the device, "
				       "because its rings are in use and resume when a back-end "
				       "connects", what);
	return 0;
}
