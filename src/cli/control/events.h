/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_CLI_CONTROL_EVENTS_H
#define VUBLK_CLI_CONTROL_EVENTS_H

/*
 * The events of a control socket: the latest notices of the served object, which clients get as
 * lines of JSON (docs/control.md).
 *
 * Key idea: the latest events are in a ring of fixed size. Each event has a sequence number, and
 * for each client only the number of its next event is kept. A new event overwrites the oldest one,
 * so the object never waits for a client. If the next event of a slow client has been overwritten,
 * the client gets the number of events that it has missed instead.
 */
#include <vublk/notice.h>

#include <json-c/json.h>

#define VUBLK_CONTROL_KEPT_EVENTS 256

struct vublk_control_events;

/* A client's command, as the cause of events. */
struct vublk_control_cause {
	const char *command; /* its name, static; NULL: no command */
	int64_t pid;         /* the client's process; 0: unknown */
};

/* Returns an empty ring of events, or NULL if there is no memory. */
struct vublk_control_events *vublk_control_events_new(void);
/* Frees the ring. NULL is a no-op. */
void vublk_control_events_free(struct vublk_control_events *events);

/*
 * Adds a notice to the ring `events` as an event. This function is a vublk_notice_fn. It may have
 * to wait while another thread copies one event. Must be called on the thread that calls
 * vublk_control_events_set_cause().
 */
void vublk_control_events_add(void *events, const struct vublk_notice *notice,
			      size_t notice_bytes);

/*
 * Makes `cause` the cause of the events that are added from now on. Must be called on the thread
 * that adds events.
 */
void vublk_control_events_set_cause(struct vublk_control_events *events,
				    const struct vublk_control_cause *cause);

/*
 * Returns the sequence number that the next added event will have. Any thread may call this
 * function.
 */
uint64_t vublk_control_events_next(struct vublk_control_events *events);

/*
 * Returns a line for the client whose next event has the sequence number *next, and advances *next.
 * The line has the event, or the number of events that the client has missed. The caller must free
 * the line with free(). Returns NULL, and leaves *next unchanged, if there is no such event yet, or
 * no memory. Any thread may call this function.
 */
char *vublk_control_events_take(struct vublk_control_events *events, uint64_t *next);

#endif
