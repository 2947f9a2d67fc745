/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state of the vfio-user bus: whether it has a client, and what it waits for. The code that
 * causes an event does the work that goes with it; this file only changes the state.
 *
 * Key idea: one function changes the state, according to a table, so that an event that arrives
 * twice or too late has no effect.
 */
#include "bus/vfio-user/private.h"

static const char *const state_names[VUBLK_VFIO_USER_NUM_STATES] = {
	[VUBLK_VFIO_USER_NO_CLIENT] = "no client",
	[VUBLK_VFIO_USER_NEGOTIATING] = "negotiating",
	[VUBLK_VFIO_USER_SERVING] = "serving",
	[VUBLK_VFIO_USER_CLEARING] = "clearing",
};

static const char *const event_names[VUBLK_VFIO_USER_NUM_EVENTS] = {
	[VUBLK_VFIO_USER_EVENT_CONNECT] = "connect",
	[VUBLK_VFIO_USER_EVENT_VERSION] = "version",
	[VUBLK_VFIO_USER_EVENT_HANG_UP] = "hang-up",
	[VUBLK_VFIO_USER_EVENT_CLEARED] = "cleared",
};

#define ON(event, state) [VUBLK_VFIO_USER_EVENT_##event] = VUBLK_VFIO_USER_##state + 1

/* An entry is the next state plus 1; 0: the event has no effect in this state. */
static const unsigned char
transitions[VUBLK_VFIO_USER_NUM_STATES][VUBLK_VFIO_USER_NUM_EVENTS] = {
	[VUBLK_VFIO_USER_NO_CLIENT] = { ON(CONNECT, NEGOTIATING) },
	[VUBLK_VFIO_USER_NEGOTIATING] = { ON(VERSION, SERVING), ON(HANG_UP, CLEARING) },
	[VUBLK_VFIO_USER_SERVING] = { ON(HANG_UP, CLEARING) },
	[VUBLK_VFIO_USER_CLEARING] = { ON(CLEARED, NO_CLIENT) },
};

bool vublk_vfio_user_change_state(struct vublk_vfio_user *bus, enum vublk_vfio_user_event event,
				  const char *why)
{
	unsigned next = transitions[bus->state][event];

	if (!next)
		return false;
	vublk_log(bus->log, VUBLK_LOG_DEBUG, "vfio-user: %s, %s -> %s%s%s",
		  state_names[bus->state], event_names[event], state_names[next - 1],
		  why ? ": " : "", why ? why : "");
	bus->state = (enum vublk_vfio_user_state)(next - 1);
	return true;
}

bool vublk_vfio_user_has_client(const struct vublk_vfio_user *bus)
{
	return bus->state == VUBLK_VFIO_USER_NEGOTIATING || bus->state == VUBLK_VFIO_USER_SERVING;
}
