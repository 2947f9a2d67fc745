/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_RELAY_RELAY_H
#define VUBLK_BUS_RELAY_RELAY_H

/*
 * The relay: the session of one VMM. Towards the VMM it is a back-end. The set-up that the VMM
 * sends goes to the device, which is the front-end of the real back-end.
 *
 * Key idea: the relay first notes what a message says (messages.c). Later it settles the session:
 * it makes the device match the set-up (reconcile.c). It settles the session before it answers a
 * message, and when there is no further message to read. So an acknowledgement says that the
 * back-end has done what the message asks for, or that the device holds the change until there is a
 * back-end.
 */
#include "bus/bus.h"
#include "bus/relay/state.h"
#include "proto/vhost-user/server.h"
#include "util/checked.h"

/* Bits of SET_FEATURES that the VMM and the relay use, and not the driver. */
#define VUBLK_RELAY_OWN_FEATURES                                                              \
	(VUBLK_BIT(VUBLK_VU_VIRTIO_F_PROTOCOL_FEATURES) | VUBLK_BIT(VHOST_F_LOG_ALL))

struct vublk_relay_queue {
	unsigned index;
	enum vublk_relay_ring_state state; /* vublk_relay_change_ring() */

	/* as the VMM set it up */
	uint32_t size;
	struct vhost_vring_addr addr; /* user addresses */
	bool has_addr;
	uint16_t base;
	bool enabled;
	int kick_fd, call_fd, err_fd; /* owned; -1: none */

	/* as the device was given it, if the device has the ring */
	int handed_kick_fd, handed_call_fd; /* owned, borrowed by the device */
	bool kick_changed, call_changed;    /* since the device was told */

	/* when it was reclaimed */
	uint16_t outstanding; /* requests of which only the in-flight area says which were begun */
	uint16_t undrained;   /* requests before `base` that a back-end gave back uncompleted */
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
 * Changes to pass to the device: MEMORY is passed while rings run, the other changes only when the
 * device has no rings.
 */
enum {
	VUBLK_RELAY_FEATURES = 1,
	VUBLK_RELAY_MEMORY = 2,
	VUBLK_RELAY_AREA = 4,
	VUBLK_RELAY_RESET = 8, /* the driver's session is over */
	VUBLK_RELAY_LOG = 16,  /* to another bitmap; no ring may write during the change */
};

/* The request to the device whose answer is awaited; there is one at a time. */
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
	struct vublk_device *device; /* the bus's */
	struct vublk_vu_server server; /* the connection, and the message that is served */

	/* as the VMM set it up */
	uint64_t offered_features, features;
	bool has_features;
	uint8_t status;
	uint8_t device_status; /* the bits that the device adds to `status`: NEEDS_RESET, or 0 */
	struct vublk_relay_memory memory;
	struct vublk_device_inflight area; /* fd owned; -1: none */
	struct vublk_device_dirty_log log; /* fd owned; -1: none; LOG_ALL turns it on */
	bool area_is_vmms; /* else the device's own, kept until the rings are handed over again */
	struct vublk_relay_queue *queues;
	unsigned num_queues;

	/* towards the device */
	unsigned changes;  /* VUBLK_RELAY_FEATURES, ... */
	enum vublk_relay_request asked;
	enum vublk_relay_set_state set; /* vublk_relay_change_set() */
	bool is_logging; /* the device was told to log */
	bool knows_write_cache; /* the VMM has read or set config.wce, or its rings began here */
	bool said_unshared; /* the warning that the VM's memory is not shared */
	struct vublk_loop_timer hold_timer; /* armed: no ring is started before it expires */
	struct vublk_relay_memory memory_before; /* restored when a change is refused */
	bool has_memory_before; /* false: no change is pending; the table before the first is empty */

	/* the message */
	enum vublk_relay_session_state state; /* vublk_relay_change_session() */
	int result; /* of the message, or of what was set up without an answer */
	struct vublk_error error;
	struct vublk_loop_task wake_task, end_task;
};

/* --- state.c ----------------------------------------------------------------- */

/* The only functions that change a state; an event without an entry changes nothing. */
void vublk_relay_change_session(struct vublk_relay *relay, enum vublk_relay_session_event event);
void vublk_relay_change_set(struct vublk_relay *relay, enum vublk_relay_set_event event);
void vublk_relay_change_ring(struct vublk_relay *relay, struct vublk_relay_queue *queue,
			     enum vublk_relay_ring_event event);

/* Whether the VMM has started the ring: from SET_VRING_KICK to GET_VRING_BASE. */
bool vublk_relay_is_started(const struct vublk_relay_queue *queue);
/* Whether the device has the ring. */
bool vublk_relay_is_handed(const struct vublk_relay_queue *queue);
/* Whether the VMM wants the ring back with all requests complete. */
bool vublk_relay_is_drained(const struct vublk_relay_queue *queue);
/* Whether it is unknown which requests of the ring a lost back-end had begun. */
bool vublk_relay_is_uncertain(const struct vublk_relay_queue *queue);

/* Notes that the set-up, or the message that is served, has failed. The first reason is kept. */
void vublk_relay_fail(struct vublk_relay *relay, const struct vublk_error *error);

/* --- rings.c ----------------------------------------------------------------- */

int vublk_relay_queues_init(struct vublk_relay *relay, struct vublk_error *error);
void vublk_relay_queues_deinit(struct vublk_relay *relay);

/*
 * Whether the device is to have the ring. If so, *ring gets the ring's guest addresses. A ring that
 * is in no memory region waits for one.
 */
bool vublk_relay_is_wanted(const struct vublk_relay *relay, const struct vublk_relay_queue *queue,
			   struct vublk_device_queue *ring);
/* Whether no ring is started, as the VMM sees it. */
bool vublk_relay_is_suspended(const struct vublk_relay *relay);
/* Call it when the VMM has stopped the ring, or when the ring is refused. */
void vublk_relay_withdraw_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue);
void vublk_relay_withdraw_all(struct vublk_relay *relay);
/*
 * Like vublk_relay_withdraw_queue(), but after the back-end has completed all requests that it had
 * begun. A ring that was stopped with requests left in the in-flight area runs once more to
 * complete them.
 */
void vublk_relay_withdraw_drained(struct vublk_relay *relay, struct vublk_relay_queue *queue);
/* Whether requests are left in the in-flight area that a drain has to complete first. */
bool vublk_relay_has_left(const struct vublk_relay *relay, const struct vublk_relay_queue *queue);
/* Delays the start of rings for a moment. */
void vublk_relay_hold(struct vublk_relay *relay);
void vublk_relay_release(struct vublk_relay *relay);
static inline bool vublk_relay_holds(const struct vublk_relay *relay)
{
	return relay->hold_timer.loop;
}
/* Forgets which requests were left, because the ring is now a different one. */
void vublk_relay_begin_anew(struct vublk_relay *relay, struct vublk_relay_queue *queue);
/* The back-end is lost: it will not complete the requests that it left. */
void vublk_relay_note_loss(struct vublk_relay *relay);
void vublk_relay_drop_area(struct vublk_relay *relay);
/*
 * The driver's session is over: forgets everything that was set up in it, and makes the device
 * forget it as well. Memory, call and error descriptors and the dirty log belong to the VMM and
 * stay.
 */
void vublk_relay_reset(struct vublk_relay *relay);
/* Tells the VMM, by the status and the queues' error descriptors, that the driver has to reset. */
void vublk_relay_tell_needs_reset(struct vublk_relay *relay);

/* --- reclaim.c --------------------------------------------------------------- */

/* Whether the rings that the device has are not those that are wanted. */
bool vublk_relay_must_reclaim(const struct vublk_relay *relay);
/* Pauses the rings, or, when they are paused, ends the device's session with them. */
void vublk_relay_reclaim(struct vublk_relay *relay);
/* Marks the rings whose outstanding requests no in-flight area describes. */
void vublk_relay_mark_uncertain(struct vublk_relay *relay);
void vublk_relay_end_device_session(struct vublk_relay *relay);
/* Closes the descriptors that were duplicated for the device. */
void vublk_relay_close_handed(struct vublk_relay_queue *queue);

/* --- handover.c -------------------------------------------------------------- */

/* Hands over the rings that are wanted. False: there was nothing to do. */
bool vublk_relay_hand_over(struct vublk_relay *relay);

/* --- reconcile.c ------------------------------------------------------------- */

/*
 * Makes the device match what the VMM wants, as far as possible without waiting. Returns true if
 * the device matches. Failures are passed to vublk_relay_fail().
 */
bool vublk_relay_settle(struct vublk_relay *relay);
/* Call it when the device has refused to log. */
void vublk_relay_refuse_log(struct vublk_relay *relay, const struct vublk_error *error);

/* --- memory.c ---------------------------------------------------------------- */

void vublk_relay_memory_commit(struct vublk_relay *relay);
/* True: a change was pending, and the table before it is the current one again. */
bool vublk_relay_memory_roll_back(struct vublk_relay *relay);
void vublk_relay_memory_clear(struct vublk_relay *relay);
/* Gives the table to the device. 1: memory_changed() follows. */
int vublk_relay_memory_give(struct vublk_relay *relay, struct vublk_error *error);
/* Whether the ring is in the table. If so, *ring gets its size and guest addresses. */
bool vublk_relay_memory_find_ring(const struct vublk_relay *relay,
				  const struct vublk_relay_queue *queue,
				  struct vublk_device_queue *ring);
/* When rings are to start: warns once if the VM's memory is not shared. */
void vublk_relay_memory_check_shared(struct vublk_relay *relay);
/* How many regions the VMM may have. */
unsigned vublk_relay_memory_slots(const struct vublk_relay *relay);

/* --- area.c ------------------------------------------------------------------ */

/* The device's answer to GET_INFLIGHT_FD; `area` is NULL if there is `error` instead. */
void vublk_relay_on_area_made(struct vublk_relay *relay, const struct vublk_device_inflight *area,
			      const struct vublk_error *error);

/* --- messages.c -------------------------------------------------------------- */

bool vublk_relay_has_message(uint32_t request);
/* The queue that the message is about. */
static inline struct vublk_relay_queue *vublk_relay_concerned(struct vublk_relay *relay)
{
	return &relay->queues[relay->server.queue_index];
}

/* Checks the request and notes what it says. A note that fails has changed nothing. */
int vublk_relay_note_message(struct vublk_relay *relay, struct vublk_error *error);
/*
 * Does the rest of a message's work when the device matches the set-up. Returns 1 while the message
 * has to wait; relay->asked says for what.
 */
int vublk_relay_act_on_message(struct vublk_relay *relay, struct vublk_error *error);
/* Notes which features are on offer now. */
void vublk_relay_make_offer(struct vublk_relay *relay);

/* --- device-events.c --------------------------------------------------------- */

extern const struct vublk_device_bus_ops vublk_relay_device_ops;
/* Makes the loop continue with the session. */
void vublk_relay_wake(struct vublk_relay *relay);

#endif
