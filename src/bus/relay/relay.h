/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_RELAY_RELAY_H
#define VUBLK_BUS_RELAY_RELAY_H

/*
 * The relay: the session of one VMM. To the VMM, the relay is the back-end. The relay passes the
 * VMM's set-up on to the device, which is the front-end of the real back-end.
 *
 * Key idea: the relay first records what a message says (messages.c). Later it settles the session:
 * it makes the device match the set-up (reconcile.c). It settles the session before it answers a
 * message, and when there is no further message to read. So an acknowledgement says that the
 * back-end has done what the message asks for, or that the device keeps the change for the next
 * back-end.
 */
#include "bus/bus.h"
#include "bus/relay/state.h"
#include "device/upgrade/upgrade.h"
#include "proto/vhost-user/server.h"
#include "util/checked.h"

/* Bits of SET_FEATURES that are for the relay and not from the driver. */
#define VUBLK_RELAY_OWN_FEATURES                                                              \
	(VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES) | VUBLK_BIT(VHOST_F_LOG_ALL))

struct vublk_relay_queue {
	unsigned index;
	enum vublk_relay_ring_state state; /* changed only by vublk_relay_change_ring() */

	/* as the VMM set it up */
	uint32_t size;
	struct vhost_vring_addr addr; /* user addresses */
	bool has_addr;
	uint16_t base;
	bool enabled;
	int kick_fd, call_fd, err_fd; /* owned; -1: none */

	/* as the device got it; valid if the device has the ring */
	int handed_kick_fd, handed_call_fd; /* owned by the relay, borrowed by the device */
	bool kick_changed, call_changed;    /* changed since the device got them */

	/* the position of the ring when it was reclaimed */
	uint16_t outstanding; /* requests of which only the in-flight area says which were begun */
	uint16_t undrained;   /* incomplete requests before `base` that a back-end left when it
				 returned the ring */
};

struct vublk_relay_region {
	struct vublk_vu_region wire; /* as the VMM sent it */
	int fd;                      /* owned */
};

struct vublk_relay_memory {
	unsigned num_regions;
	struct vublk_relay_region *regions;
};

/*
 * Changes that the device has not been told of. The device can get MEMORY while rings run, but the
 * other changes only while it has no rings.
 */
enum {
	VUBLK_RELAY_FEATURES = 1,
	VUBLK_RELAY_MEMORY = 2,
	VUBLK_RELAY_AREA = 4,
	VUBLK_RELAY_RESET = 8, /* the driver's session has ended */
	VUBLK_RELAY_LOG = 16,  /* the log is another bitmap, and rings must not run during the
				  change */
};

/* The request to the device that is not answered yet. At most one request is unanswered. */
enum vublk_relay_request {
	VUBLK_RELAY_ASKED_NOTHING,
	VUBLK_RELAY_ASKED_MEMORY,
	VUBLK_RELAY_ASKED_NOTIFIERS,
	VUBLK_RELAY_ASKED_CONFIG,
	VUBLK_RELAY_ASKED_WRITE_THROUGH, /* a write to the config, by the relay itself */
	VUBLK_RELAY_ASKED_LOG,
	VUBLK_RELAY_ASKED_AREA,
};

struct vublk_relay {
	struct vublk_bus *bus;
	struct vublk_device *device; /* owned by the bus */
	struct vublk_vu_server server; /* the connection, and the message that is being served */

	/* as the VMM set it up */
	uint64_t offered_features, features;
	bool has_features;
	uint8_t status;
	uint8_t device_status; /* bits that the relay adds to `status`: NEEDS_RESET, or 0 */
	struct vublk_relay_memory memory;
	struct vublk_device_inflight area; /* fd owned; -1: none */
	struct vublk_device_dirty_log log; /* fd owned; -1: none; LOG_ALL turns it on */
	bool area_is_vmms; /* false: it is the device's own, kept until the rings are handed over
			      again */
	struct vublk_relay_queue *queues;
	unsigned num_queues;

	/* what the device has been told, and what it has still to be told */
	unsigned changes;  /* VUBLK_RELAY_FEATURES, ... */
	enum vublk_relay_request asked;
	enum vublk_relay_set_state set; /* changed only by vublk_relay_change_set() */
	bool is_logging; /* the device was told to log */
	bool knows_write_cache; /* the VMM has read or set config.wce, or its rings began here */
	bool was_holding;   /* starts were held in the process from which this one took over */
	bool said_unshared; /* the warning about memory that is not shared has been logged */
	struct vublk_loop_timer hold_timer; /* while it is armed, no ring is started */
	struct vublk_relay_memory memory_before; /* restored when a change is refused */
	bool has_memory_before; /* false: no change is pending. Before the first change, the kept
				   table is empty. */

	/* the message that is being served */
	enum vublk_relay_session_state state; /* changed only by vublk_relay_change_session() */
	int result; /* the result of the message, or of a set-up that needs no answer */
	struct vublk_error error;
	struct vublk_loop_task wake_task, end_task;
};

/* --- state.c ----------------------------------------------------------------- */

/*
 * The only functions that change a state. An event that the table does not have for the state
 * changes nothing.
 */
void vublk_relay_change_session(struct vublk_relay *relay, enum vublk_relay_session_event event);
void vublk_relay_change_set(struct vublk_relay *relay, enum vublk_relay_set_event event);
void vublk_relay_change_ring(struct vublk_relay *relay, struct vublk_relay_queue *queue,
			     enum vublk_relay_ring_event event);

/*
 * Returns whether the VMM has started the ring. A ring is started from SET_VRING_KICK to
 * GET_VRING_BASE.
 */
bool vublk_relay_is_started(const struct vublk_relay_queue *queue);
/* Returns whether the device has the ring. */
bool vublk_relay_is_handed(const struct vublk_relay_queue *queue);
/* Returns whether the VMM wants the ring back with all requests complete. */
bool vublk_relay_is_drained(const struct vublk_relay_queue *queue);
/* Returns whether it is unknown which requests of the ring a lost back-end had begun. */
bool vublk_relay_is_uncertain(const struct vublk_relay_queue *queue);

/*
 * Records that the set-up, or the message that is being served, has failed. The first reason is
 * kept.
 */
void vublk_relay_fail(struct vublk_relay *relay, const struct vublk_error *error);

/* --- rings.c ----------------------------------------------------------------- */

int vublk_relay_queues_init(struct vublk_relay *relay, struct vublk_error *error);
void vublk_relay_queues_deinit(struct vublk_relay *relay);

/*
 * Returns whether the device should have the ring; if so, *ring gets the ring's guest addresses. A
 * ring outside of all memory regions has to wait.
 */
bool vublk_relay_is_wanted(const struct vublk_relay *relay, const struct vublk_relay_queue *queue,
			   struct vublk_device_queue *ring);
/* Returns whether the VMM has started no ring. */
bool vublk_relay_is_suspended(const struct vublk_relay *relay);
/*
 * Withdraws the ring: closes its kick descriptor, and the device should no longer have the ring.
 * Called when the VMM has stopped the ring, or when the ring is refused.
 */
void vublk_relay_withdraw_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue);
void vublk_relay_withdraw_all(struct vublk_relay *relay);
/*
 * Like vublk_relay_withdraw_queue(), but the back-end first completes all requests that it has
 * begun. If a stop left requests in the in-flight area, the ring runs once more to complete them.
 */
void vublk_relay_withdraw_drained(struct vublk_relay *relay, struct vublk_relay_queue *queue);
/* Returns whether the in-flight area has requests that a drain has to complete. */
bool vublk_relay_has_left(const struct vublk_relay *relay, const struct vublk_relay_queue *queue);
/* The first function delays the next start of rings for a moment. The second one ends the delay. */
void vublk_relay_hold(struct vublk_relay *relay);
void vublk_relay_release(struct vublk_relay *relay);
static inline bool vublk_relay_holds(const struct vublk_relay *relay)
{
	return relay->hold_timer.loop;
}
/*
 * Forgets the requests that were incomplete when the ring was reclaimed. Called when these requests
 * no longer matter. The ring is then not uncertain.
 */
void vublk_relay_begin_anew(struct vublk_relay *relay, struct vublk_relay_queue *queue);
/*
 * Called when the back-end is lost, because that back-end will not complete the requests that it
 * left.
 */
void vublk_relay_note_loss(struct vublk_relay *relay);
void vublk_relay_drop_area(struct vublk_relay *relay);
/*
 * Called when the driver's session has ended. Forgets everything that was set up in the session,
 * and makes the device forget it as well. Memory, call and error descriptors and the dirty log
 * belong to the VMM, so they stay.
 */
void vublk_relay_reset(struct vublk_relay *relay);
/*
 * Tells the VMM, through the status and the error descriptors of the queues, that the driver has to
 * reset the device.
 */
void vublk_relay_tell_needs_reset(struct vublk_relay *relay);

/* --- reclaim.c --------------------------------------------------------------- */

/*
 * Returns whether the rings have to be reclaimed: the device has other rings than are wanted, or a
 * change is pending that the device accepts only without rings.
 */
bool vublk_relay_must_reclaim(const struct vublk_relay *relay);
/*
 * Pauses the rings. If they have been paused, records where each one stopped, and ends the device's
 * session.
 */
void vublk_relay_reclaim(struct vublk_relay *relay);
/*
 * Marks rings as uncertain if they have outstanding requests and there is no in-flight area. After
 * a reset makes all rings certain.
 */
void vublk_relay_mark_uncertain(struct vublk_relay *relay);
void vublk_relay_end_device_session(struct vublk_relay *relay);
/* Closes the descriptors that were duplicated for the device. */
void vublk_relay_close_handed(struct vublk_relay_queue *queue);

/* --- handover.c -------------------------------------------------------------- */

/*
 * Hands over the rings that are wanted. Returns false if there is nothing to hand over, or if the
 * rings have to wait.
 */
bool vublk_relay_hand_over(struct vublk_relay *relay);

/* --- reconcile.c ------------------------------------------------------------- */

/*
 * Makes the device match what the VMM wants, as far as possible without waiting. Returns true if
 * the device matches. Failures are passed to vublk_relay_fail().
 */
bool vublk_relay_settle(struct vublk_relay *relay);
/* Called when the device has refused to log: switches LOG_ALL off, and records the failure. */
void vublk_relay_refuse_log(struct vublk_relay *relay, const struct vublk_error *error);

/* --- memory.c ---------------------------------------------------------------- */

void vublk_relay_memory_commit(struct vublk_relay *relay);
/*
 * Undoes the pending change: the table from before the change becomes the current one again.
 * Returns whether a change was pending.
 */
bool vublk_relay_memory_roll_back(struct vublk_relay *relay);
void vublk_relay_memory_clear(struct vublk_relay *relay);
/*
 * Gives the current table to the device. Returns 1 if memory_changed() will report the result, 0 if
 * the change is complete, or a negative errno.
 */
int vublk_relay_memory_give(struct vublk_relay *relay, struct vublk_error *error);
/*
 * Returns whether the ring lies in the table's memory. If so, *ring gets its size and guest
 * addresses.
 */
bool vublk_relay_memory_find_ring(const struct vublk_relay *relay,
				  const struct vublk_relay_queue *queue,
				  struct vublk_device_queue *ring);
/* Called before rings start: logs one warning if the VM's memory is probably not shared. */
void vublk_relay_memory_check_shared(struct vublk_relay *relay);
/*
 * Adds a region to the current table without telling the device. Takes ownership of `fd`, even on
 * failure.
 */
int vublk_relay_memory_take(struct vublk_relay *relay, const struct vublk_vu_region *wire, int fd,
			    struct vublk_error *error);
/* Returns how many memory regions the VMM may set up. */
unsigned vublk_relay_memory_slots(const struct vublk_relay *relay);

/* --- area.c ------------------------------------------------------------------ */

/*
 * Called with the device's answer to GET_INFLIGHT_FD: fills the reply with `area`, or refuses the
 * message with `error`. One of the two is NULL.
 */
void vublk_relay_on_area_made(struct vublk_relay *relay, const struct vublk_device_inflight *area,
			      const struct vublk_error *error);

/* --- messages.c -------------------------------------------------------------- */

bool vublk_relay_has_message(uint32_t request);
/* Returns the queue that the message is about. */
static inline struct vublk_relay_queue *vublk_relay_concerned(struct vublk_relay *relay)
{
	return &relay->queues[relay->server.queue_index];
}

/* Checks the message and records what it says. A failure changes nothing. */
int vublk_relay_note_message(struct vublk_relay *relay, struct vublk_error *error);
/*
 * Does the rest of a message's work when the device matches the set-up. Returns 1 while the message
 * has to wait; relay->asked says for what.
 */
int vublk_relay_act_on_message(struct vublk_relay *relay, struct vublk_error *error);
/* Records which features are offered to the VMM now. */
void vublk_relay_make_offer(struct vublk_relay *relay);

/* --- session.c --------------------------------------------------------------- */

/*
 * Makes the session of the VMM that is connected at `fd`, and sets bus->client. Takes ownership of
 * `fd`, even on failure.
 */
int vublk_relay_new(struct vublk_bus *bus, int fd, struct vublk_error *error);
/* Begins to read messages. */
int vublk_relay_read_messages(struct vublk_relay *relay, struct vublk_error *error);
/* The functions of the type. */
int vublk_relay_serve(struct vublk_bus *bus, int fd, struct vublk_error *error);
void vublk_relay_end(struct vublk_bus *bus);
void vublk_relay_free(struct vublk_bus *bus);

/* --- upgrade.c ---------------------------------------------------------------- */

extern const struct vublk_bus_handover_ops vublk_relay_handover;
extern const struct vublk_section_type vublk_relay_sections[];

/* --- device-events.c --------------------------------------------------------- */

extern const struct vublk_device_bus_ops vublk_relay_device_ops;
/* Makes the loop run the session's next steps. */
void vublk_relay_wake(struct vublk_relay *relay);

#endif
