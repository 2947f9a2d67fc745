/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The states of a session, of its rings as a set, and of each ring, with their tables of
 * transitions. This file only changes states: the code that causes an event does the work that goes
 * with it.
 *
 * Key idea: one function per object changes its state, and writes one line to the debug log.
 *
 * docs/relay-states.md is a drawing of these tables; test-relay-states compares the two.
 */
#include "bus/relay/relay.h"

#include <stdio.h>

/* --- the session ------------------------------------------------------------- */

static const char *const session_names[VUBLK_RELAY_NUM_SESSION_STATES] = {
	[VUBLK_RELAY_READING] = "reading",
	[VUBLK_RELAY_SETTLING] = "settling",
	[VUBLK_RELAY_ACTING] = "acting",
	[VUBLK_RELAY_LAST_SETTLING] = "last_settling",
	[VUBLK_RELAY_LAST_ACTING] = "last_acting",
	[VUBLK_RELAY_CLOSING] = "closing",
	[VUBLK_RELAY_ENDING] = "ending",
	[VUBLK_RELAY_ENDED] = "ended",
};

static const char *const session_event_names[VUBLK_RELAY_NUM_SESSION_EVENTS] = {
	[VUBLK_RELAY_SESSION_MESSAGE] = "message",
	[VUBLK_RELAY_SESSION_ASKED] = "asked",
	[VUBLK_RELAY_SESSION_ANSWERED] = "answered",
	[VUBLK_RELAY_SESSION_CLOSE] = "close",
	[VUBLK_RELAY_SESSION_RESET] = "reset",
	[VUBLK_RELAY_SESSION_RECLAIMED] = "reclaimed",
};

#define ON(event, state) [VUBLK_RELAY_SESSION_##event] = VUBLK_RELAY_##state + 1

/* In each table, an entry is the next state plus 1; 0: the event has no effect in this state. */
static const unsigned char
session_transitions[VUBLK_RELAY_NUM_SESSION_STATES][VUBLK_RELAY_NUM_SESSION_EVENTS] = {
	[VUBLK_RELAY_READING] = {
		ON(MESSAGE, SETTLING),
		ON(CLOSE, CLOSING),
	},
	[VUBLK_RELAY_SETTLING] = {
		ON(ASKED, ACTING),
		ON(ANSWERED, READING),
		ON(CLOSE, LAST_SETTLING),
	},
	[VUBLK_RELAY_ACTING] = {
		ON(ANSWERED, READING),
		ON(CLOSE, LAST_ACTING),
	},
	[VUBLK_RELAY_LAST_SETTLING] = {
		ON(ASKED, LAST_ACTING),
		ON(ANSWERED, CLOSING),
	},
	[VUBLK_RELAY_LAST_ACTING] = {
		ON(ANSWERED, CLOSING),
	},
	[VUBLK_RELAY_CLOSING] = {
		ON(RESET, ENDING),
	},
	[VUBLK_RELAY_ENDING] = {
		ON(RECLAIMED, ENDED),
	},
};

#undef ON

const struct vublk_relay_machine vublk_relay_session_machine = {
	VUBLK_RELAY_NUM_SESSION_STATES, VUBLK_RELAY_NUM_SESSION_EVENTS,
	session_names, session_event_names, session_transitions[0],
};

/* --- the rings as a set ------------------------------------------------------ */

static const char *const set_names[VUBLK_RELAY_NUM_SET_STATES] = {
	[VUBLK_RELAY_SET_HERE] = "here",
	[VUBLK_RELAY_SET_OUT] = "out",
	[VUBLK_RELAY_SET_PAUSING] = "pausing",
};

static const char *const set_event_names[VUBLK_RELAY_NUM_SET_EVENTS] = {
	[VUBLK_RELAY_SET_HAND_OVER] = "hand over",
	[VUBLK_RELAY_SET_PAUSE] = "pause",
	[VUBLK_RELAY_SET_RECLAIM] = "reclaim",
};

#define ON(event, state) [VUBLK_RELAY_SET_##event] = VUBLK_RELAY_SET_##state + 1

static const unsigned char
set_transitions[VUBLK_RELAY_NUM_SET_STATES][VUBLK_RELAY_NUM_SET_EVENTS] = {
	[VUBLK_RELAY_SET_HERE] = {
		ON(HAND_OVER, OUT),
	},
	[VUBLK_RELAY_SET_OUT] = {
		ON(PAUSE, PAUSING),
	},
	[VUBLK_RELAY_SET_PAUSING] = {
		ON(RECLAIM, HERE),
	},
};

#undef ON

const struct vublk_relay_machine vublk_relay_set_machine = {
	VUBLK_RELAY_NUM_SET_STATES, VUBLK_RELAY_NUM_SET_EVENTS,
	set_names, set_event_names, set_transitions[0],
};

/* --- a ring ------------------------------------------------------------------ */

static const char *const ring_names[VUBLK_RELAY_NUM_RING_STATES] = {
	[VUBLK_RELAY_RING_WITHDRAWN] = "withdrawn",
	[VUBLK_RELAY_RING_WANTED] = "wanted",
	[VUBLK_RELAY_RING_LEFT] = "left",
	[VUBLK_RELAY_RING_HANDED] = "handed",
	[VUBLK_RELAY_RING_DRAINING] = "draining",
	[VUBLK_RELAY_RING_RETURNING] = "returning",
	[VUBLK_RELAY_RING_UNCERTAIN] = "uncertain",
	[VUBLK_RELAY_RING_UNCERTAIN_WANTED] = "uncertain_wanted",
	[VUBLK_RELAY_RING_UNCERTAIN_LEFT] = "uncertain_left",
};

static const char *const ring_event_names[VUBLK_RELAY_NUM_RING_EVENTS] = {
	[VUBLK_RELAY_RING_START] = "start",
	[VUBLK_RELAY_RING_DRAIN] = "drain",
	[VUBLK_RELAY_RING_WITHDRAW] = "withdraw",
	[VUBLK_RELAY_RING_HAND_OVER] = "hand over",
	[VUBLK_RELAY_RING_RECLAIM] = "reclaim",
	[VUBLK_RELAY_RING_DOUBT] = "doubt",
	[VUBLK_RELAY_RING_CERTAIN] = "certain",
};

#define ON(event, state) [VUBLK_RELAY_RING_##event] = VUBLK_RELAY_RING_##state + 1

/*
 * A ring is handed over only if it is certain, so a ring that the device has is never uncertain.
 * The event "drain" has no effect on a withdrawn ring, because the relay refuses GET_VRING_BASE if
 * a stop has left requests.
 */
static const unsigned char
ring_transitions[VUBLK_RELAY_NUM_RING_STATES][VUBLK_RELAY_NUM_RING_EVENTS] = {
	[VUBLK_RELAY_RING_WITHDRAWN] = {
		ON(START, WANTED),
		ON(DOUBT, UNCERTAIN),
	},
	[VUBLK_RELAY_RING_WANTED] = {
		ON(DRAIN, LEFT),
		ON(WITHDRAW, WITHDRAWN),
		ON(HAND_OVER, HANDED),
		ON(DOUBT, UNCERTAIN_WANTED),
	},
	[VUBLK_RELAY_RING_LEFT] = {
		ON(WITHDRAW, WITHDRAWN),
		ON(HAND_OVER, DRAINING),
		ON(DOUBT, UNCERTAIN_LEFT),
	},
	[VUBLK_RELAY_RING_HANDED] = {
		ON(DRAIN, DRAINING),
		ON(WITHDRAW, RETURNING),
		ON(RECLAIM, WANTED),
	},
	[VUBLK_RELAY_RING_DRAINING] = {
		ON(WITHDRAW, RETURNING),
		ON(RECLAIM, WITHDRAWN),
	},
	[VUBLK_RELAY_RING_RETURNING] = {
		ON(START, HANDED),
		ON(DRAIN, DRAINING),
		ON(RECLAIM, WITHDRAWN),
	},
	[VUBLK_RELAY_RING_UNCERTAIN] = {
		ON(START, UNCERTAIN_WANTED),
		ON(CERTAIN, WITHDRAWN),
	},
	[VUBLK_RELAY_RING_UNCERTAIN_WANTED] = {
		ON(DRAIN, UNCERTAIN_LEFT),
		ON(WITHDRAW, UNCERTAIN),
		ON(CERTAIN, WANTED),
	},
	[VUBLK_RELAY_RING_UNCERTAIN_LEFT] = {
		ON(WITHDRAW, UNCERTAIN),
		ON(CERTAIN, LEFT),
	},
};

#undef ON

const struct vublk_relay_machine vublk_relay_ring_machine = {
	VUBLK_RELAY_NUM_RING_STATES, VUBLK_RELAY_NUM_RING_EVENTS,
	ring_names, ring_event_names, ring_transitions[0],
};

/* --- changes ----------------------------------------------------------------- */

int vublk_relay_next_state(const struct vublk_relay_machine *machine, unsigned state,
			   unsigned event)
{
	return machine->transitions[state * machine->num_events + event] - 1;
}

/* Logs the change and returns the next state. If the event has no effect, returns `state`. */
static unsigned change(const struct vublk_relay *relay, const struct vublk_relay_machine *machine,
		       unsigned state, unsigned event, const char *object)
{
	int next = vublk_relay_next_state(machine, state, event);

	if (next < 0)
		return state;
	vublk_log(&relay->bus->log, VUBLK_LOG_DEBUG, "%s: %s, %s -> %s", object,
		  machine->state_names[state], machine->event_names[event],
		  machine->state_names[next]);
	return (unsigned)next;
}

void vublk_relay_change_session(struct vublk_relay *relay, enum vublk_relay_session_event event)
{
	relay->state = change(relay, &vublk_relay_session_machine, relay->state, event,
			      "relay session");
}

void vublk_relay_change_set(struct vublk_relay *relay, enum vublk_relay_set_event event)
{
	relay->set = change(relay, &vublk_relay_set_machine, relay->set, event, "relay rings");
}

void vublk_relay_change_ring(struct vublk_relay *relay, struct vublk_relay_queue *queue,
			     enum vublk_relay_ring_event event)
{
	char object[32];

	snprintf(object, sizeof(object), "relay ring %u", queue->index);
	queue->state = change(relay, &vublk_relay_ring_machine, queue->state, event, object);
}

bool vublk_relay_is_started(const struct vublk_relay_queue *queue)
{
	switch (queue->state) {
	case VUBLK_RELAY_RING_WITHDRAWN:
	case VUBLK_RELAY_RING_RETURNING:
	case VUBLK_RELAY_RING_UNCERTAIN:
		return false;
	default:
		return true;
	}
}

bool vublk_relay_is_handed(const struct vublk_relay_queue *queue)
{
	return queue->state == VUBLK_RELAY_RING_HANDED ||
	       queue->state == VUBLK_RELAY_RING_DRAINING ||
	       queue->state == VUBLK_RELAY_RING_RETURNING;
}

bool vublk_relay_is_drained(const struct vublk_relay_queue *queue)
{
	return queue->state == VUBLK_RELAY_RING_LEFT ||
	       queue->state == VUBLK_RELAY_RING_DRAINING ||
	       queue->state == VUBLK_RELAY_RING_UNCERTAIN_LEFT;
}

bool vublk_relay_is_uncertain(const struct vublk_relay_queue *queue)
{
	return queue->state == VUBLK_RELAY_RING_UNCERTAIN ||
	       queue->state == VUBLK_RELAY_RING_UNCERTAIN_WANTED ||
	       queue->state == VUBLK_RELAY_RING_UNCERTAIN_LEFT;
}

/* --- the reason of a refusal ------------------------------------------------- */

void vublk_relay_fail(struct vublk_relay *relay, const struct vublk_error *error)
{
	if (relay->result)
		return;
	relay->result = -error->code;
	relay->error = *error;
}
