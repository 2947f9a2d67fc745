/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_RELAY_RELAY_H
#define VUBLK_BUS_RELAY_RELAY_H

/*
 * The relay's session with one VMM. To the VMM, the relay is the back-end. It passes the VMM's
 * set-up on to the device, which acts as the front-end to the real back-end.
 *
 * Key idea: the relay first records what a message says (messages.c). Later it settles the session,
 * that is, it makes the device match the set-up (reconcile.c). It does so before it answers a
 * message, and whenever there is no message to read. So an acknowledgement means that the back-end
 * has done what the message asks for, or that the change is kept for the next start or the next
 * back-end.
 */
#include "bus/bus.h"
#include "bus/relay/state.h"
#include "device/upgrade/upgrade.h"
#include "proto/vhost-user/server.h"
#include "util/checked.h"

/* Bits of SET_FEATURES that the VMM sets for the relay. All other bits come from the driver. */
#define VUBLK_RELAY_OWN_FEATURES                                                              \
	(VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES) | VUBLK_BIT(VHOST_F_LOG_ALL))

struct vublk_relay_queue {
	unsigned index;
	enum vublk_relay_ring_state state; /* set by vublk_relay_change_ring() and upgrade.c */

	/* as the VMM set it up */
	uint32_t size;
	struct vhost_vring_addr addr; /* user addresses */
	bool has_addr;
	uint16_t base;
	bool enabled;
	int kick_fd, call_fd, err_fd; /* owned; -1: none */

	/* what the device was given; valid while it has the ring */
	int handed_kick_fd, handed_call_fd; /* owned by the relay, borrowed by the device */
	bool kick_changed, call_changed;    /* replaced by the VMM, and not yet passed on */

	/* the state of the ring when it was reclaimed; see struct vublk_device_place */
	uint16_t outstanding; /* incomplete requests, if only the in-flight area says which of them
				 were begun */
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
 * Changes that the relay has not passed on to the device. The device accepts MEMORY while its rings
 * run, and the other changes only while it has no rings.
 */
enum {
	VUBLK_RELAY_FEATURES = 1,
	VUBLK_RELAY_MEMORY = 2,
	VUBLK_RELAY_AREA = 4,
	VUBLK_RELAY_RESET = 8, /* the driver's session has ended */
	VUBLK_RELAY_LOG = 16,  /* the VMM has replaced the log's bitmap; rings must not run during
				  the change */
};

/* The request to the device whose answer is outstanding. At most one answer is outstanding. */
enum vublk_relay_request {
	VUBLK_RELAY_ASKED_NOTHING,
	VUBLK_RELAY_ASKED_MEMORY,
	VUBLK_RELAY_ASKED_NOTIFIERS,
	VUBLK_RELAY_ASKED_CONFIG,
	VUBLK_RELAY_ASKED_WRITE_THROUGH, /* the relay's own write to the config */
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
	struct vublk_device_dirty_log log; /* fd owned; -1: none; used while LOG_ALL is set */
	bool area_is_vmms; /* false: the area is the device's own, kept until the rings are handed
			      over again */
	struct vublk_relay_queue *queues;
	unsigned num_queues;

	/* what the device has been told, and what it still has to be told */
	unsigned changes;  /* VUBLK_RELAY_FEATURES, ... */
	enum vublk_relay_request asked;
	enum vublk_relay_set_state set; /* set by vublk_relay_change_set() and upgrade.c */
	bool is_logging; /* the device was told to log */

	/* other state of the session */
	bool knows_write_cache; /* the VMM has read or set config.wce, or the relay has handed over
				   rings of this session */
	bool was_holding;   /* starts were delayed in the process from which this process took
			       over */
	bool said_unshared; /* the warning about memory that is not shared has been logged */
	struct vublk_loop_timer hold_timer; /* while it is armed, no ring is started */
	struct vublk_relay_memory memory_before; /* restored when a change is refused */
	bool has_memory_before; /* memory_before is valid, because a change is pending; it may be an
				   empty table */

	/* the message that is being served */
	enum vublk_relay_session_state state; /* set only by vublk_relay_change_session() */
	int result; /* the result of the message or, if no message is being served, of the set-up */
	struct vublk_error error;
	struct vublk_loop_task wake_task, end_task;
};

/* --- state.c ----------------------------------------------------------------- */

/*
 * Only these functions change a state, except that an upgrade restores the states of each ring and
 * of the rings as a set. An event that the table does not list for the current state has no effect.
 */
void vublk_relay_change_session(struct vublk_relay *relay, enum vublk_relay_session_event event);
void vublk_relay_change_set(struct vublk_relay *relay, enum vublk_relay_set_event event);
void vublk_relay_change_ring(struct vublk_relay *relay, struct vublk_relay_queue *queue,
			     enum vublk_relay_ring_event event);

/*
 * Returns whether the VMM has started the ring (SET_VRING_KICK) and has not stopped it. A ring that
 * is being drained still counts as started.
 */
bool vublk_relay_is_started(const struct vublk_relay_queue *queue);
/* Returns whether the device has the ring. */
bool vublk_relay_is_handed(const struct vublk_relay_queue *queue);
/* Returns whether the VMM wants the ring back with all requests complete. */
bool vublk_relay_is_drained(const struct vublk_relay_queue *queue);
/* Returns whether it is unknown which requests of the ring a lost back-end had begun. */
bool vublk_relay_is_uncertain(const struct vublk_relay_queue *queue);

/*
 * Records that the set-up, or the message that is being served, has failed. Later failures are
 * ignored.
 */
void vublk_relay_fail(struct vublk_relay *relay, const struct vublk_error *error);

/* --- rings.c ----------------------------------------------------------------- */

int vublk_relay_queues_init(struct vublk_relay *relay, struct vublk_error *error);
void vublk_relay_queues_deinit(struct vublk_relay *relay);

/*
 * Returns whether the device should have the ring. If so, stores the ring's size and guest
 * addresses in *ring. A ring that is not in the VMM's memory has to wait.
 */
bool vublk_relay_is_wanted(const struct vublk_relay *relay, const struct vublk_relay_queue *queue,
			   struct vublk_device_queue *ring);
/* Returns whether none of the VMM's rings is started. */
bool vublk_relay_is_suspended(const struct vublk_relay *relay);
/*
 * Withdraws the ring: closes its kick descriptor, and records that the device should not have it.
 * Called when the VMM has stopped the ring or reset the device, or when the ring was refused.
 */
void vublk_relay_withdraw_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue);
void vublk_relay_withdraw_all(struct vublk_relay *relay);
/*
 * Like vublk_relay_withdraw_queue(), but the back-end first completes all requests that it has
 * begun. If a stop left requests in the in-flight area, the ring runs once more to complete them.
 */
void vublk_relay_withdraw_drained(struct vublk_relay *relay, struct vublk_relay_queue *queue);
/* Returns whether a drain has to complete requests that a stop left in the in-flight area. */
bool vublk_relay_has_left(const struct vublk_relay *relay, const struct vublk_relay_queue *queue);
/* The first function delays starts of rings for a moment. The second one ends the delay. */
void vublk_relay_hold(struct vublk_relay *relay);
void vublk_relay_release(struct vublk_relay *relay);
static inline bool vublk_relay_holds(const struct vublk_relay *relay)
{
	return relay->hold_timer.loop;
}
/*
 * Forgets the requests that were incomplete when the ring was reclaimed. Called when these requests
 * no longer matter. Afterwards the ring is certain.
 */
void vublk_relay_begin_anew(struct vublk_relay *relay, struct vublk_relay_queue *queue);
/*
 * Called when the back-end is lost. The requests that the back-end left incomplete when it returned
 * a ring count as outstanding from then on, because it will not complete them.
 */
void vublk_relay_note_loss(struct vublk_relay *relay);
void vublk_relay_drop_area(struct vublk_relay *relay);
/*
 * Called when the driver's session has ended. Forgets everything that was set up in the session,
 * and records that the device has to forget it, too. The memory, the call and error descriptors and
 * the dirty log belong to the VMM, so they stay.
 */
void vublk_relay_reset(struct vublk_relay *relay);
/*
 * Tells the VMM, through the status and the error descriptors of the queues, that the driver has to
 * reset the device.
 */
void vublk_relay_tell_needs_reset(struct vublk_relay *relay);

/* --- reclaim.c --------------------------------------------------------------- */

/*
 * Returns whether the rings have to be reclaimed: the device's rings differ from the ones that the
 * VMM wants, or a change is pending that the device accepts only while it has no rings.
 */
bool vublk_relay_must_reclaim(const struct vublk_relay *relay);
/*
 * Reclaims the rings in two calls. The first one pauses the rings or, after a reset, stops them.
 * Once they have stopped, the second one records where each ring stopped, and ends the device's
 * session.
 */
void vublk_relay_reclaim(struct vublk_relay *relay);
/*
 * Marks the rings with outstanding requests as uncertain if there is no in-flight area. If a reset
 * is pending, makes all rings certain instead.
 */
void vublk_relay_mark_uncertain(struct vublk_relay *relay);
void vublk_relay_end_device_session(struct vublk_relay *relay);
/* Closes the descriptors that were duplicated for the device. */
void vublk_relay_close_handed(struct vublk_relay_queue *queue);

/* --- handover.c -------------------------------------------------------------- */

/*
 * Hands the wanted rings over to the device. Returns false if there is nothing to do, or if the
 * rings have to wait.
 */
bool vublk_relay_hand_over(struct vublk_relay *relay);

/* --- reconcile.c ------------------------------------------------------------- */

/*
 * Makes the device match what the VMM wants, as far as possible without waiting. Returns false if
 * the device has to finish something first. Returns true if the device matches, except for rings
 * that have to wait. Failures are passed to vublk_relay_fail().
 */
bool vublk_relay_settle(struct vublk_relay *relay);
/* Called when the device has refused to log: switches LOG_ALL off, and records the failure. */
void vublk_relay_refuse_log(struct vublk_relay *relay, const struct vublk_error *error);

/* --- memory.c ---------------------------------------------------------------- */

void vublk_relay_memory_commit(struct vublk_relay *relay);
/*
 * Undoes all pending changes: restores the table from before the first of them. Returns whether a
 * change was pending.
 */
bool vublk_relay_memory_roll_back(struct vublk_relay *relay);
void vublk_relay_memory_clear(struct vublk_relay *relay);
/*
 * Gives the current table to the device. Returns 1 if memory_changed() will report the result, 0 if
 * no report follows, or a negative errno.
 */
int vublk_relay_memory_give(struct vublk_relay *relay, struct vublk_error *error);
/*
 * Returns whether the ring lies in the memory of the table. If so, stores the ring's size and guest
 * addresses in *ring.
 */
bool vublk_relay_memory_find_ring(const struct vublk_relay *relay,
				  const struct vublk_relay_queue *queue,
				  struct vublk_device_queue *ring);
/* Called before rings start. Logs a warning, once, if the VM's memory is probably not shared. */
void vublk_relay_memory_check_shared(struct vublk_relay *relay);
/*
 * Adds a region that the device already has to the current table. Takes ownership of `fd`, even on
 * failure.
 */
int vublk_relay_memory_take(struct vublk_relay *relay, const struct vublk_vu_region *wire, int fd,
			    struct vublk_error *error);
/* Returns how many memory regions the VMM may set up. */
unsigned vublk_relay_memory_slots(const struct vublk_relay *relay);

/* --- area.c ------------------------------------------------------------------ */

/*
 * Called when the device has made the area for GET_INFLIGHT_FD, or has failed to make it. Fills the
 * reply with `area`. If `area` is NULL, refuses the message with `error` or, if the back-end was
 * lost, asks the device again, which then makes the area itself.
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
 * Does the rest of a message's work once the device matches the set-up. Returns 1 if the message
 * has to wait for the device's answer to relay->asked, otherwise 0 or a negative errno.
 */
int vublk_relay_act_on_message(struct vublk_relay *relay, struct vublk_error *error);
/* Records the features that the relay offers to the VMM from now on. */
void vublk_relay_make_offer(struct vublk_relay *relay);

/* --- session.c --------------------------------------------------------------- */

/*
 * Creates the session of the VMM that is connected on `fd`, and sets bus->client. Takes ownership
 * of `fd`, even on failure.
 */
int vublk_relay_new(struct vublk_bus *bus, int fd, struct vublk_error *error);
/* Begins to read messages. */
int vublk_relay_read_messages(struct vublk_relay *relay, struct vublk_error *error);
/* The functions of the bus type (type.c). */
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
