/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_PLANE_H
#define VUBLK_PLANE_PLANE_H

/*
 * The request plane: takes requests from the driver's rings, puts them on rings of its own for the
 * back-end (shadow rings), and returns the completions to the driver.
 *
 * Key idea: the plane keeps a record of each request that the driver has not got back. When a
 * back-end is lost, its published completions are taken, and all other requests are submitted to
 * the next back-end, in their original order. That is exact because a write is submitted only when
 * no earlier write to the same place is outstanding: a write that a completed write has overwritten
 * is never executed again.
 *
 * The data is not copied. The back-end gets the guest addresses of the buffers, and header and
 * status in memory of the plane, so it sees what was checked here.
 *
 * This file declares the part without threads. One thread at a time uses a plane; thread.h has the
 * thread that runs it.
 */
#include "plane/region.h"
#include "plane/slot.h"
#include "util/fault.h"
#include "util/log.h"
#include "virtio/blk-overlap.h"
#include "virtio/device-ring.h"
#include "virtio/driver-ring.h"
#include "worker/inflight.h"

#include <vublk/error.h>

/* The most buffers of a chain, plus some for buffers that cross regions. */
#define VUBLK_PLANE_MAX_IOV (VUBLK_RING_MAX_INDIRECT + 14)
/* The status of a request that the back-end has not completed; virtio defines no such status. */
#define VUBLK_PLANE_NO_STATUS 0xff

/* A ring in the guest's memory, and the driver's descriptors. */
struct vublk_plane_setup {
	uint16_t size; /* 0: the queue is not used */
	uint16_t base;
	uint64_t desc_addr, avail_addr, used_addr; /* guest addresses */
	int kick_fd, call_fd; /* borrowed; -1: none */
	/* Where requests are recorded for a later process; NULL: they are not. */
	struct vublk_inflight_split *inflight;
	uint16_t inflight_entries; /* at least size */
};

enum vublk_plane_queue_phase {
	VUBLK_PLANE_QUEUE_UNUSED,
	VUBLK_PLANE_QUEUE_TAKING,
	VUBLK_PLANE_QUEUE_BROKEN, /* the driver broke the ring: no chain is taken */
};

/* The driver's end of a queue. */
struct vublk_plane_queue {
	unsigned index;
	enum vublk_plane_queue_phase phase;
	struct vublk_plane_setup setup;
	struct vublk_device_ring ring;
	struct vublk_inflight_queue inflight;
	struct vublk_inflight_pending pending; /* begun by an earlier process */
	struct vublk_plane_slot *slots; /* one for each entry of the ring */
	struct vublk_ring_buffer *segments; /* max_segments for each slot */
	struct virtio_blk_discard_write_zeroes *ranges; /* VUBLK_PLANE_MAX_RANGES for each slot */
	unsigned pushed; /* completions that are not published */
};

/* The back-end's end of a queue. */
struct vublk_plane_side_queue {
	struct vublk_driver_ring ring;
	const struct vublk_plane_region_queue *memory;
	int kick_fd, call_fd; /* our own eventfds */
};

/* What belongs to one back-end. */
struct vublk_plane_side {
	struct vublk_plane_region region;
	bool is_broken; /* the back-end broke a ring: nothing more is taken from it */
	unsigned num_queues;
	struct vublk_plane_side_queue *queues;
};

/* Called on the plane's thread. */
struct vublk_plane_ops {
	/* The back-end broke a ring. It has to be disconnected. */
	void (*side_broke)(void *opaque, const struct vublk_error *error);
	/* The driver broke a ring. Only a reset helps. */
	void (*queue_broke)(void *opaque, unsigned index, const struct vublk_error *error);
};

struct vublk_plane {
	const struct vublk_plane_ops *ops;
	void *opaque;
	const struct vublk_log *log;
	struct vublk_log_limit *limit; /* of lines that drivers and back-ends cause */

	const struct vublk_memory_map *map;
	const struct vublk_fault *fault;         /* of the map's memory */
	struct vublk_dirty_log marks;
	const struct vublk_dirty_log *dirty_log; /* &marks; NULL: off */
	unsigned num_queues;
	struct vublk_plane_queue *queues;
	unsigned max_segments;
	struct vublk_plane_side *side; /* NULL: there is no back-end */
	bool takes; /* false: chains stay in the driver's rings */
	/* A peer keeps an eventfd full, so none is written to in a way that can block. Atomic. */
	bool is_careful;

	struct vublk_plane_slot *first, *last; /* of the requests that are not free */
	unsigned num_held, num_submitted;
	bool has_ended; /* a request has ended, so one that is held may be submitted now */
	struct vublk_blk_overlap overlap; /* of the writes that are not free */

	/* the chain that is being taken */
	struct iovec iov[VUBLK_PLANE_MAX_IOV];
	uint64_t guest_addrs[VUBLK_PLANE_MAX_IOV];
	unsigned near; /* the region of the last status byte */
};

/* --- plane.c: life, and the driver's rings ------------------------------------------------ */

int vublk_plane_init(struct vublk_plane *plane, unsigned num_queues, unsigned max_segments,
		     const struct vublk_plane_ops *ops, void *opaque, const struct vublk_log *log,
		     struct vublk_log_limit *limit, struct vublk_error *error);
/* No driver's ring is attached. */
void vublk_plane_deinit(struct vublk_plane *plane);

/*
 * Takes over the driver's rings, in the memory of `map`, with `features` as negotiated with the
 * driver. The setups, one for each queue, are copied; map, fault and the memory of the in-flight
 * area are borrowed. Requests that an earlier process began and did not complete are taken again. A
 * failure changes nothing. EFAULT: a ring is not in the memory; EPROTO: the in-flight area does not
 * belong to it; EINVAL, ENOMEM.
 */
int vublk_plane_attach(struct vublk_plane *plane, const struct vublk_plane_setup *setups,
		       uint64_t features, const struct vublk_memory_map *map,
		       const struct vublk_fault *fault, struct vublk_error *error);
/* Returns the driver's rings. Requests that the driver has not got back are dropped. Idempotent. */
void vublk_plane_detach(struct vublk_plane *plane);
/* The avail index of the next chain of a queue that is attached. */
uint16_t vublk_plane_base(const struct vublk_plane *plane, unsigned index);

/*
 * Uses another mapping of the guest's memory. Requests whose buffers are not in it are completed as
 * failed, or without a status if that is not in it either; there must be none on the back-end's
 * ring. EFAULT: a ring is not in the memory; nothing has changed.
 */
int vublk_plane_set_map(struct vublk_plane *plane, const struct vublk_memory_map *map,
			const struct vublk_fault *fault, struct vublk_error *error);

/*
 * Pages that the plane and the back-end write are marked from here on; the struct is copied. NULL:
 * no longer.
 */
void vublk_plane_set_dirty_log(struct vublk_plane *plane, const struct vublk_dirty_log *log);

/* Requests that the driver has not got back. */
static inline unsigned vublk_plane_outstanding(const struct vublk_plane *plane)
{
	return plane->num_held + plane->num_submitted;
}

/* --- side.c: the back-end's rings ------------------------------------------------------------ */

/* Makes the memory for rings of up to `size` entries. */
int vublk_plane_side_new(unsigned num_queues, unsigned size, unsigned max_segments,
			 struct vublk_plane_side **side, struct vublk_error *error);
void vublk_plane_side_free(struct vublk_plane_side *side);
/*
 * Makes empty rings of these sizes (0: the queue is not used) before each start by the back-end,
 * which stays the same. `features` are the negotiated ones.
 */
int vublk_plane_side_reset(struct vublk_plane_side *side, const uint16_t *sizes, uint64_t features,
			   struct vublk_error *error);

/* A back-end runs the side's rings from here on. The requests that are held are submitted. */
void vublk_plane_set_side(struct vublk_plane *plane, struct vublk_plane_side *side);
/*
 * The back-end is lost, or has stopped its rings: takes the completions that it has published, and
 * keeps all other requests for the next one. The side is not used after the call.
 */
void vublk_plane_lose_side(struct vublk_plane *plane);

/* --- overlap.c: writes to the same place -------------------------------------------------- */

/* Called when a write is taken and when it ends: later writes to the same place wait meanwhile. */
void vublk_plane_begin_write(struct vublk_plane *plane, struct vublk_plane_slot *slot);
void vublk_plane_end_write(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/* Whether an earlier write to the same place is outstanding. */
bool vublk_plane_must_wait(const struct vublk_plane *plane, const struct vublk_plane_slot *slot);

/* --- publish.c, end.c, submit.c, take.c, complete.c: requests -------------------------------- */

/* Completes a taken chain. The driver does not see the completion before publish. */
void vublk_plane_push(struct vublk_plane *plane, struct vublk_plane_queue *queue, uint16_t head,
		      uint32_t bytes);
/* Makes everything visible to the driver and the back-end, and notifies them. */
void vublk_plane_publish(struct vublk_plane *plane);

/* Ends a request with this status. */
void vublk_plane_end(struct vublk_plane *plane, struct vublk_plane_slot *slot, uint8_t status);

/* Takes the requests again that an earlier process began. */
void vublk_plane_take_again(struct vublk_plane *plane, struct vublk_plane_queue *queue);

/* Puts a request that is held on the back-end's ring, if nothing is in the way. */
void vublk_plane_submit(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/* Does so for all requests that are held, if a request has ended. */
void vublk_plane_submit_held(struct vublk_plane *plane);

/* Takes at most `max` chains of a queue and submits those that may be. Returns the number taken. */
unsigned vublk_plane_take(struct vublk_plane *plane, struct vublk_plane_queue *queue,
			  unsigned max);

/* Takes the back-end's completions, at most `max` for each queue. Returns the number taken. */
unsigned vublk_plane_complete(struct vublk_plane *plane, unsigned max);

/* --- round.c ------------------------------------------------------------------------------- */

/*
 * Takes no more chains. The driver's kicks stay enabled from here on, because the next device end
 * of its rings may not enable them.
 */
void vublk_plane_stop(struct vublk_plane *plane);
/* Takes chains again. */
void vublk_plane_resume(struct vublk_plane *plane);
/* One round of all of these. Returns whether there was work. */
bool vublk_plane_work(struct vublk_plane *plane);
/* Before and after a sleep. False: there is work already. */
bool vublk_plane_enable_notifications(struct vublk_plane *plane);
void vublk_plane_disable_notifications(struct vublk_plane *plane);

#endif
