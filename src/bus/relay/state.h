/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_RELAY_STATE_H
#define VUBLK_BUS_RELAY_STATE_H

/*
 * The states of a VMM's session. Three objects have a state of their own: the session (the progress
 * of the message that is being served), the rings as a set (the device starts and stops all of them
 * together), and each ring (the VMM starts and stops each one separately).
 *
 * docs/relay-states.md has the drawings and says what each state and event means.
 */

enum vublk_relay_session_state {
	VUBLK_RELAY_READING,       /* waits for a message from the VMM */
	VUBLK_RELAY_SETTLING,      /* a message waits until the device matches the set-up */
	VUBLK_RELAY_ACTING,        /* a message waits for the device's answer to it */
	VUBLK_RELAY_LAST_SETTLING, /* like SETTLING, but the session ends after this message */
	VUBLK_RELAY_LAST_ACTING,   /* like ACTING, but the session ends after this message */
	VUBLK_RELAY_CLOSING,       /* no further message is read; the session is reset next */
	VUBLK_RELAY_ENDING,        /* the rings, and then the memory, are being reclaimed */
	VUBLK_RELAY_ENDED,         /* waits to be freed */
	VUBLK_RELAY_NUM_SESSION_STATES,
};

enum vublk_relay_session_event {
	VUBLK_RELAY_SESSION_MESSAGE,
	VUBLK_RELAY_SESSION_ASKED,
	VUBLK_RELAY_SESSION_ANSWERED,
	VUBLK_RELAY_SESSION_CLOSE,
	VUBLK_RELAY_SESSION_RESET,
	VUBLK_RELAY_SESSION_RECLAIMED,
	VUBLK_RELAY_NUM_SESSION_EVENTS,
};

enum vublk_relay_set_state {
	VUBLK_RELAY_SET_HERE,    /* the device has no rings */
	VUBLK_RELAY_SET_OUT,     /* the device has the rings that were handed over, and should
				    run them */
	VUBLK_RELAY_SET_PAUSING, /* the device is stopping the rings, so that they can be
				    reclaimed */
	VUBLK_RELAY_NUM_SET_STATES,
};

enum vublk_relay_set_event {
	VUBLK_RELAY_SET_HAND_OVER,
	VUBLK_RELAY_SET_PAUSE,
	VUBLK_RELAY_SET_RECLAIM,
	VUBLK_RELAY_NUM_SET_EVENTS,
};

enum vublk_relay_ring_state {
	VUBLK_RELAY_RING_WITHDRAWN, /* the VMM has not started the ring or has stopped it, and the
				       device does not have it */
	VUBLK_RELAY_RING_WANTED,    /* the VMM has started the ring, and the device should have
				       it */
	VUBLK_RELAY_RING_LEFT,      /* the ring has to run once more, to complete requests that a
				       stop left */
	VUBLK_RELAY_RING_HANDED,    /* the VMM has started the ring, and the device has it */
	VUBLK_RELAY_RING_DRAINING,  /* the device has the ring, and has to return it with all
				       requests complete */
	VUBLK_RELAY_RING_RETURNING, /* the device has the ring, and has to return it */
	/* like WITHDRAWN, WANTED and LEFT, but it is unknown which requests were begun */
	VUBLK_RELAY_RING_UNCERTAIN,
	VUBLK_RELAY_RING_UNCERTAIN_WANTED,
	VUBLK_RELAY_RING_UNCERTAIN_LEFT,
	VUBLK_RELAY_NUM_RING_STATES,
};

enum vublk_relay_ring_event {
	VUBLK_RELAY_RING_START,
	VUBLK_RELAY_RING_DRAIN,
	VUBLK_RELAY_RING_WITHDRAW,
	VUBLK_RELAY_RING_HAND_OVER,
	VUBLK_RELAY_RING_RECLAIM,
	VUBLK_RELAY_RING_DOUBT,
	VUBLK_RELAY_RING_CERTAIN,
	VUBLK_RELAY_NUM_RING_EVENTS,
};

/* A table of transitions, with the names of the states and events. State 0 is the initial state. */
struct vublk_relay_machine {
	unsigned num_states, num_events;
	const char *const *state_names, *const *event_names;
	const unsigned char *transitions; /* [num_states][num_events]: the next state plus 1; 0: no
					     effect */
};

extern const struct vublk_relay_machine vublk_relay_session_machine, vublk_relay_set_machine,
	vublk_relay_ring_machine;

/* Returns the next state according to the table, or -1 if the event has no effect in this state. */
int vublk_relay_next_state(const struct vublk_relay_machine *machine, unsigned state,
			   unsigned event);

#endif
