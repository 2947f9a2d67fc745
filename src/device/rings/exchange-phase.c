/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The phases of an exchange of the request path, and the table of transitions. exchange.c has the
 * actions of each phase.
 *
 * Key idea: only vublk_device_exchange_change() changes the phase, and it follows the table.
 * docs/exchange-phases.md is a drawing of the table; a test generates the drawing again and
 * compares the two.
 */
#include "device/device.h"

static const char *const phase_names[VUBLK_DEVICE_EXCHANGE_NUM_PHASES] = {
	[VUBLK_DEVICE_EXCHANGE_NONE] = "none",
	[VUBLK_DEVICE_EXCHANGE_DRAINING] = "draining",
	[VUBLK_DEVICE_EXCHANGE_PARKING] = "parking",
	[VUBLK_DEVICE_EXCHANGE_STOPPING] = "stopping",
	[VUBLK_DEVICE_EXCHANGE_STARTING] = "starting",
	[VUBLK_DEVICE_EXCHANGE_UNDOING] = "undoing",
	[VUBLK_DEVICE_EXCHANGE_REFUSED] = "refused",
};

static const char *const event_names[VUBLK_DEVICE_EXCHANGE_NUM_EVENTS] = {
	[VUBLK_DEVICE_EXCHANGE_EVENT_BEGIN] = "begin",
	[VUBLK_DEVICE_EXCHANGE_EVENT_START] = "start",
	[VUBLK_DEVICE_EXCHANGE_EVENT_ALIVE] = "alive",
	[VUBLK_DEVICE_EXCHANGE_EVENT_DRAINED] = "drained",
	[VUBLK_DEVICE_EXCHANGE_EVENT_STOPPED] = "stopped",
	[VUBLK_DEVICE_EXCHANGE_EVENT_STARTED] = "started",
	[VUBLK_DEVICE_EXCHANGE_EVENT_OVERDUE] = "overdue",
	[VUBLK_DEVICE_EXCHANGE_EVENT_REFUSED] = "refused",
	[VUBLK_DEVICE_EXCHANGE_EVENT_OVERTAKEN] = "overtaken",
	[VUBLK_DEVICE_EXCHANGE_EVENT_LOST] = "lost",
};

#define ON(event, phase) \
	[VUBLK_DEVICE_EXCHANGE_EVENT_##event] = VUBLK_DEVICE_EXCHANGE_##phase + 1

/* An entry is the next phase plus one; 0: the event has no effect in this phase. */
static const unsigned char
	transitions[VUBLK_DEVICE_EXCHANGE_NUM_PHASES][VUBLK_DEVICE_EXCHANGE_NUM_EVENTS] = {
	[VUBLK_DEVICE_EXCHANGE_NONE] = {
		ON(BEGIN, DRAINING),
		ON(START, STARTING),
		ON(REFUSED, REFUSED),
	},
	[VUBLK_DEVICE_EXCHANGE_DRAINING] = {
		ON(ALIVE, PARKING),
		ON(DRAINED, STOPPING),
		ON(OVERDUE, REFUSED),
		ON(OVERTAKEN, NONE),
		ON(LOST, NONE),
	},
	[VUBLK_DEVICE_EXCHANGE_PARKING] = {
		ON(DRAINED, STOPPING),
		ON(OVERDUE, REFUSED),
		ON(OVERTAKEN, NONE),
		ON(LOST, NONE),
	},
	[VUBLK_DEVICE_EXCHANGE_STOPPING] = {
		ON(STOPPED, STARTING),
		ON(REFUSED, UNDOING),
		ON(OVERTAKEN, NONE),
		ON(LOST, NONE),
	},
	[VUBLK_DEVICE_EXCHANGE_STARTING] = {
		ON(STARTED, NONE),
		ON(REFUSED, UNDOING),
		ON(OVERTAKEN, NONE),
		ON(LOST, NONE),
	},
	[VUBLK_DEVICE_EXCHANGE_UNDOING] = {
		ON(STARTED, REFUSED),
		ON(OVERTAKEN, NONE),
		ON(LOST, NONE),
	},
	[VUBLK_DEVICE_EXCHANGE_REFUSED] = {
		ON(OVERTAKEN, NONE),
		ON(LOST, NONE),
	},
};

const char *vublk_device_exchange_phase_name(enum vublk_device_exchange_phase phase)
{
	return phase_names[phase];
}

const char *vublk_device_exchange_event_name(enum vublk_device_exchange_event event)
{
	return event_names[event];
}

int vublk_device_exchange_next(enum vublk_device_exchange_phase phase,
			       enum vublk_device_exchange_event event)
{
	return transitions[phase][event] - 1;
}

bool vublk_device_exchange_change(struct vublk_device *device,
				  enum vublk_device_exchange_event event, const char *why)
{
	struct vublk_device_exchange *exchange = &device->exchange;
	int next = vublk_device_exchange_next(exchange->phase, event);

	if (next < 0)
		return false;
	vublk_log(&device->log, VUBLK_LOG_DEBUG, "exchange: %s, %s -> %s%s%s",
		  phase_names[exchange->phase], event_names[event], phase_names[next],
		  why ? ": " : "", why ? why : "");
	exchange->phase = (enum vublk_device_exchange_phase)next;
	return true;
}
