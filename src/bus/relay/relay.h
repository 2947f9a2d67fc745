/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_BUS_RELAY_RELAY_H
#define VUBLK_BUS_RELAY_RELAY_H

/*
 * The relay: a VMM's session. Towards the VMM it is a back-end; what the VMM sets up goes
 * to the device, which is the front-end of the real back-end.
 *
 * What the VMM says is noted (vhost-user-messages.c), and what it wants is held against
 * what the device has (vhost-user-rings.c). Messages without an answer are only noted;
 * before anything is answered, and when there is nothing more to read, the device is made
 * to be what the VMM wants: it is settled. So an acknowledgement says that the back-end has
 * done it, or that the device holds it until there is a back-end.
 */
#include "bus/bus.h"
#include "bus/relay/state.h"
#include "proto/vhost-user/back-channel.h"
#include "proto/vhost-user/channel.h"
#include "proto/message-timeout.h"
#include "proto/vhost-user/codec.h"
#include "util/checked.h"

/* Bits of SET_FEATURES that are not the driver's, but ours and the VMM's. */
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

	/* as the device has it */
	int handed_kick_fd, handed_call_fd; /* owned, borrowed by the device */
	bool kick_changed, call_changed;    /* since it was handed over */

	/* of a ring with which a back-end was lost, when it was taken back */
	uint16_t outstanding; /* requests of which only the in-flight area says which were begun */
	uint16_t undrained;   /* requests before `base` that a back-end gave back uncompleted */
};

struct vublk_relay_region {
	struct vublk_memory_region region; /* the descriptor is owned */
	uint64_t user_addr;
};

struct vublk_relay_memory {
	unsigned num_regions;
	struct vublk_relay_region *regions;
};

/* What the device is to be told when the rings are back, or with them out (MEMORY). */
enum {
	VUBLK_RELAY_FEATURES = 1,
	VUBLK_RELAY_MEMORY = 2,
	VUBLK_RELAY_AREA = 4,
	VUBLK_RELAY_RESET = 8, /* the driver's session is over */
	VUBLK_RELAY_LOG = 16,  /* into another bitmap, with no write in between */
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
	struct vublk_channel channel;
	struct vublk_loop_source source;
	struct vublk_message_timeout message_timeout;
	struct vublk_back_channel back_channel;

	/* as the VMM set it up */
	uint64_t offered_features, offered_protocol_features;
	uint64_t features, protocol_features;
	bool has_features;
	uint8_t status;
	uint8_t device_status; /* NEEDS_RESET, or 0: the bits that the device adds to it */
	struct vublk_relay_memory memory;
	struct vublk_device_inflight area; /* fd owned; -1: none */
	struct vublk_device_dirty_log log; /* fd owned; -1: none; LOG_ALL says whether it is on */
	bool area_is_vmms; /* else the device's own, kept while rings are handed over anew */
	struct vublk_relay_queue *queues;
	unsigned num_queues;

	/* towards the device */
	unsigned changes;  /* VUBLK_RELAY_FEATURES, ... */
	enum vublk_relay_request asked;
	enum vublk_relay_set_state set; /* vublk_relay_change_set() */
	bool is_logging;   /* the device was told to */
	bool knows_write_cache; /* the VMM has read config.wce or set it, or its rings began here */
	bool said_unshared; /* that the VM's memory is not shared */
	struct vublk_loop_timer hold_timer; /* armed: no ring is started before it expires */
	struct vublk_relay_memory memory_before; /* to go back to when a change is refused */

	/* the message */
	enum vublk_relay_session_state state; /* vublk_relay_change_session() */
	struct vublk_vu_message request, reply;
	int reply_fd; /* owned; sent with the reply */
	struct vublk_relay_queue *concerned;
	int result;
	struct vublk_error error;
	struct vublk_loop_task go_on_task, end_task;
};

/* --- state.c ----------------------------------------------------------------- */

/* The only functions that change a state; an event without an entry changes nothing. */
void vublk_relay_change_session(struct vublk_relay *relay, enum vublk_relay_session_event event);
void vublk_relay_change_set(struct vublk_relay *relay, enum vublk_relay_set_event event);
void vublk_relay_change_ring(struct vublk_relay *relay, struct vublk_relay_queue *queue,
			     enum vublk_relay_ring_event event);

/* Whether the VMM has started the ring: from SET_VRING_KICK to GET_VRING_BASE. */
bool vublk_relay_is_started(const struct vublk_relay_queue *queue);
/* Whether the device has it. */
bool vublk_relay_is_handed(const struct vublk_relay_queue *queue);
/* Whether the VMM wants it back with all requests complete. */
bool vublk_relay_is_drained(const struct vublk_relay_queue *queue);
/* Whether it is unknown which of its requests a lost back-end had begun. */
bool vublk_relay_is_uncertain(const struct vublk_relay_queue *queue);

/* What was to be done fails, with the first reason if there are more. */
void vublk_relay_fail(struct vublk_relay *relay, const struct vublk_error *error);

/* --- vhost-user-messages.c ---------------------------------------------------- */

/* Checks the message in relay->request, and notes what it says. */
int vublk_relay_note_message(struct vublk_relay *relay, struct vublk_error *error);
/* What it does when the device is settled. 1: relay->waits_on says what it waits for. */
int vublk_relay_act_on_message(struct vublk_relay *relay, struct vublk_error *error);
/* The device's answer to GET_INFLIGHT_FD; `area` NULL: it has none. */
void vublk_relay_on_area_made(struct vublk_relay *relay, const struct vublk_device_inflight *area,
			      const struct vublk_error *error);
/* Notes what is on offer now. */
void vublk_relay_make_offer(struct vublk_relay *relay);

/* --- vhost-user-rings.c ------------------------------------------------------- */

int vublk_relay_queues_init(struct vublk_relay *relay, struct vublk_error *error);
void vublk_relay_queues_deinit(struct vublk_relay *relay);

/*
 * Takes the device as far towards what the VMM wants as it gets without waiting. True: it
 * is there. What fails is given to vublk_relay_fail().
 */
bool vublk_relay_settle(struct vublk_relay *relay);
/* The ring is the VMM's again, or not used any more. */
void vublk_relay_withdraw_queue(struct vublk_relay *relay, struct vublk_relay_queue *queue);
void vublk_relay_withdraw_all(struct vublk_relay *relay);
/*
 * The same, when the back-end has completed all that it had begun. A ring that was stopped
 * with requests left in the in-flight area runs once more for that.
 */
void vublk_relay_withdraw_drained(struct vublk_relay *relay, struct vublk_relay_queue *queue);
/* Whether requests were left in the in-flight area that a drain has to complete first. */
bool vublk_relay_has_left(const struct vublk_relay *relay, const struct vublk_relay_queue *queue);
/* Whether no ring is started, as the VMM sees it. */
bool vublk_relay_is_suspended(const struct vublk_relay *relay);
/* What was left of it before is nobody's concern any more: it is another ring. */
void vublk_relay_begin_anew(struct vublk_relay *relay, struct vublk_relay_queue *queue);
/* The back-end is lost: requests that it gave back uncompleted are outstanding for good. */
void vublk_relay_note_loss(struct vublk_relay *relay);
/* Rings are not started before the VMM has said nothing of the kind for a moment. */
void vublk_relay_hold(struct vublk_relay *relay);
void vublk_relay_release(struct vublk_relay *relay);
/* The driver has to reset the device: the VMM is told by the queues' error descriptors. */
void vublk_relay_tell_needs_reset(struct vublk_relay *relay);
void vublk_relay_drop_area(struct vublk_relay *relay);
/*
 * The driver's session is over: forgets everything that was set up in it, and has the
 * device do the same. Memory, call and error descriptors and the dirty log belong to the
 * VMM and stay.
 */
void vublk_relay_reset(struct vublk_relay *relay);

/* The log is wanted no more: the device was told, and refused. */
void vublk_relay_refuse_log(struct vublk_relay *relay, const struct vublk_error *error);

/* --- vhost-user-memory.c ------------------------------------------------------- */

/*
 * SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG. The descriptors are taken, and what was there
 * before is kept until vublk_relay_memory_commit() or ..._roll_back().
 */
int vublk_relay_memory_set(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_memory_add(struct vublk_relay *relay, struct vublk_error *error);
int vublk_relay_memory_remove(struct vublk_relay *relay, struct vublk_error *error);
void vublk_relay_memory_commit(struct vublk_relay *relay);
/* True: there was something to go back to. */
bool vublk_relay_memory_roll_back(struct vublk_relay *relay);
void vublk_relay_memory_clear(struct vublk_relay *relay);

/* Gives it to the device. 1: memory_changed() tells the end. */
int vublk_relay_memory_give(struct vublk_relay *relay, struct vublk_error *error);
/* Whether the ring of `queue` is in it, with its guest addresses in `ring`. */
bool vublk_relay_memory_find_ring(const struct vublk_relay *relay,
				  const struct vublk_relay_queue *queue,
				  struct vublk_device_queue *ring);
/* When rings are to start: says once if the VM's memory is not shared. */
void vublk_relay_memory_check_shared(struct vublk_relay *relay);
/* How many regions the VMM may have. */
unsigned vublk_relay_memory_slots(const struct vublk_relay *relay);

#endif
