/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_PLANE_H
#define VUBLK_PLANE_PLANE_H

/*
 * The request plane: takes requests from the driver's rings, puts them on rings of its own for the
 * back-end (shadow rings), and returns the completions to the driver.
 *
 * Key idea: the plane keeps a record (slot) of each request until it returns the completion to the
 * driver. When a back-end is lost, the plane takes the completions that the back-end has published,
 * and submits the remaining requests to the next back-end, in their original order. Repeating a
 * request is safe, because a write is submitted only when no earlier write to the same place is
 * outstanding. So a write that a completed write has overwritten is never executed again.
 *
 * The plane passes on the guest addresses of the driver's data buffers. It copies data only to keep
 * completed writes (replay.h), for a mirror (mirror.h), and to answer GET_ID. The header, the
 * ranges (of a discard, for example) and the status byte that the back-end gets are in the plane's
 * own memory, so the driver cannot change them after the plane has checked them.
 *
 * The functions declared here start no threads. Only one thread at a time may use a plane; thread.h
 * declares the thread that runs a plane.
 */
#include "plane/count.h"
#include "plane/limit.h"
#include "plane/mirror.h"
#include "plane/policy.h"
#include "plane/region.h"
#include "plane/replay.h"
#include "plane/slot.h"
#include "plane/trace.h"
#include "util/fault.h"
#include "util/log.h"
#include "virtio/blk-format.h"
#include "virtio/device-ring.h"
#include "virtio/driver-ring.h"
#include "worker/inflight.h"

#include <vublk/error.h>

/*
 * The largest number of iovecs of a chain: one per buffer, and some spare ones, because a buffer
 * that crosses the border between two memory regions is split.
 */
#define VUBLK_PLANE_MAX_IOV (VUBLK_RING_MAX_INDIRECT + 14)
/*
 * The value of a status byte until the back-end has completed the request. Virtio defines no status
 * with this value.
 */
#define VUBLK_PLANE_NO_STATUS 0xff
/* The type of a request whose chain is too short for a header. */
#define VUBLK_PLANE_NO_TYPE UINT32_MAX

/*
 * One of the driver's queues: where its ring is in the guest's memory, its notifiers, and its part
 * of the in-flight area.
 */
struct vublk_plane_setup {
	uint16_t size; /* 0: the queue is not used */
	uint16_t base;
	uint64_t desc_addr, avail_addr, used_addr; /* guest addresses */
	int kick_fd, call_fd; /* borrowed; -1: none */
	/* The queue's part of the in-flight area, where requests are recorded; NULL: no area. */
	struct vublk_inflight_split *inflight;
	uint16_t inflight_entries; /* how many entries `inflight` has room for; at least `size` */
};

enum vublk_plane_queue_phase {
	VUBLK_PLANE_QUEUE_UNUSED,
	VUBLK_PLANE_QUEUE_TAKING,
	VUBLK_PLANE_QUEUE_BROKEN, /* the driver broke the ring, so the plane takes no more chains */
};

/* The driver's end of a queue. */
struct vublk_plane_queue {
	unsigned index;
	enum vublk_plane_queue_phase phase;
	struct vublk_plane_setup setup;
	struct vublk_device_ring ring;
	struct vublk_inflight_queue inflight;
	struct vublk_inflight_pending pending; /* requests that an earlier process began and did
						  not complete */
	struct vublk_plane_slot *slots; /* one per entry of the ring */
	/*
	 * The ready list: held requests that no earlier write blocks, in the order in which they
	 * will be submitted. They wait for a back-end, for room on its ring, or for room for a copy
	 * of their data (replay.h, mirror.h).
	 */
	struct vublk_plane_slot *first_ready, *last_ready;
	struct vublk_ring_buffer *segments; /* max_segments per slot */
	struct virtio_blk_discard_write_zeroes *ranges; /* VUBLK_PLANE_MAX_RANGES per slot */
	unsigned pushed; /* how many completions have been added but not published yet */
	struct vublk_plane_waiting waiting[VUBLK_PLANE_NUM_KINDS];
	struct vublk_plane_waiter *waiters; /* one per slot */
	struct vublk_plane_count *counts; /* one per slot */
	struct vublk_plane_times *times; /* one per slot */
};

/* The back-end's end of a queue. */
struct vublk_plane_side_queue {
	struct vublk_driver_ring ring;
	struct vublk_plane_slot **slots; /* the requests on the ring, indexed by token */
	const struct vublk_plane_region_queue *memory;
	int kick_fd, call_fd; /* eventfds, owned; -1: none */
};

/* The side of one back-end: the rings and the memory that the plane shares with it. */
struct vublk_plane_side {
	struct vublk_plane_region region;
	bool is_broken; /* the back-end broke a ring, or its rings are too small for a replay, so
			   the plane submits no more requests and takes no more completions */
	uint64_t features;          /* the features that were negotiated with the back-end */
	uint32_t max_segment_bytes; /* the largest segment of the plane's own writes; 0: no limit */
	unsigned num_queues;
	unsigned size; /* the largest number of entries of a ring */
	struct vublk_plane_side_queue *queues;
};

/*
 * Hooks: extra work for each request, which is done only while a feature that needs it is in use.
 */
#define VUBLK_PLANE_HOOK_LIMIT 1u /* requests wait for the limits */
#define VUBLK_PLANE_HOOK_TIME 2u  /* requests are timed (count.h) */
#define VUBLK_PLANE_HOOK_POLICY 4u /* the plane itself answers some requests (policy.h) */
#define VUBLK_PLANE_HOOK_TRACE 8u /* requests are recorded (trace.h) */
#define VUBLK_PLANE_HOOK_FAIL_FLUSH 16u /* the driver's next flush fails (policy.h) */
#define VUBLK_PLANE_HOOK_MIRROR 32u /* there is a mirror (mirror.h) */
/* These hooks have work to do when a request ends. */
#define VUBLK_PLANE_HOOKS_OF_END \
	(VUBLK_PLANE_HOOK_TIME | VUBLK_PLANE_HOOK_TRACE | VUBLK_PLANE_HOOK_MIRROR)

/* Callbacks, all called on the plane's thread. */
struct vublk_plane_ops {
	/* side->is_broken was set because of `error`. The owner must disconnect the back-end. */
	void (*side_broke)(void *opaque, const struct vublk_error *error);
	/* The driver broke the ring of queue `index`. The driver has to reset the device. */
	void (*queue_broke)(void *opaque, unsigned index, const struct vublk_error *error);
	/* A flush of the driver fails because of vublk_plane_fail_next_flush(). May be NULL. */
	void (*flush_failed)(void *opaque);
	/*
	 * The plane has called vublk_plane_fail_next_flush() itself, for a mirror. The device must
	 * keep the driver on the shadow rings until flush_failed(). May be NULL.
	 */
	void (*flush_must_fail)(void *opaque);
	/*
	 * The mirror has ended because of `error`, and the plane no longer uses the target. Not
	 * called if the owner has ended the mirror.
	 */
	void (*mirror_failed)(void *opaque, const struct vublk_error *error);
	/* Every region has been copied to the target for the first time. */
	void (*mirror_synced)(void *opaque);
	/*
	 * Called when a replay has succeeded, and when a replay or one of the plane's own flushes
	 * has failed for the first time since the last successful replay; see
	 * vublk_plane_replay_get_info(). May be NULL.
	 */
	void (*replay_ended)(void *opaque);
};

struct vublk_plane {
	const struct vublk_plane_ops *ops;
	void *opaque;
	const struct vublk_log *log;
	struct vublk_log_limit *limit; /* for log lines that a driver or a back-end can cause */

	const struct vublk_memory_map *map;
	const struct vublk_fault *fault;         /* records whether memory of `map` was truncated */
	struct vublk_dirty_log marks;
	const struct vublk_dirty_log *dirty_log; /* &marks; NULL: off */
	unsigned num_queues;
	struct vublk_plane_queue *queues;
	unsigned max_segments;
	struct vublk_plane_side *side; /* NULL: there is no back-end */
	bool takes; /* false: new chains stay in the driver's rings */
	bool driver_flushes; /* the driver has accepted FLUSH */
	unsigned hooks; /* a set of VUBLK_PLANE_HOOK_...; while it is empty, a request pays only for
			   a few tests */
	/*
	 * Set when a peer has filled an eventfd. From then on, the plane signals all eventfds
	 * without blocking. Atomic.
	 */
	bool is_careful;

	struct vublk_plane_slot *first, *last; /* the list of slots that are not free */
	unsigned num_held, num_submitted; /* how many slots are HELD, and how many SUBMITTED;
					     limits.num_waiting counts those that are WAITING */
	bool has_ended; /* since vublk_plane_submit_held() last ran, a request has ended, or
			   something else has made it possible to submit ready requests */
	struct vublk_order order; /* of the writes that have not ended */
	struct vublk_plane_limits limits;
	struct vublk_plane_policy policy;
	struct vublk_plane_counts counts;
	struct vublk_plane_replay *replay; /* NULL: completed writes are not kept */
	struct vublk_plane_mirror *mirror; /* NULL: none */
	struct vublk_plane_trace *trace; /* NULL: no trace is written */
	uint64_t (*now_ns)(void); /* the clock of limits, mirror and trace */

	/* scratch space for the chain that is being taken */
	struct iovec iov[VUBLK_PLANE_MAX_IOV];
	uint64_t guest_addrs[VUBLK_PLANE_MAX_IOV];
	unsigned near; /* the index of the region that had the last status byte; the next search
			  begins there */
};

/* --- plane.c: life, and the driver's rings ------------------------------------------------ */

int vublk_plane_init(struct vublk_plane *plane, unsigned num_queues, unsigned max_segments,
		     const struct vublk_plane_ops *ops, void *opaque, const struct vublk_log *log,
		     struct vublk_log_limit *limit, struct vublk_error *error);
/* Frees the plane's memory. The driver's rings must be detached. */
void vublk_plane_deinit(struct vublk_plane *plane);

/*
 * Takes over the driver's rings in the memory of `map`. The driver has accepted `features`.
 * `setups` has one element per queue, and is copied; `map`, `fault` and the in-flight area are
 * borrowed. The plane first takes the requests that an earlier process began and did not complete.
 * After a failure no ring is attached. Errors: EFAULT if a ring is not in the memory, EPROTO if the
 * in-flight area is invalid or does not belong to the ring, EINVAL, ENOMEM.
 */
int vublk_plane_attach(struct vublk_plane *plane, const struct vublk_plane_setup *setups,
		       uint64_t features, const struct vublk_memory_map *map,
		       const struct vublk_fault *fault, struct vublk_error *error);
/*
 * Like vublk_plane_attach(), but for rings that a plane in another process uses. Changes neither
 * the rings nor the in-flight area. plane/handover.h has the next steps.
 */
int vublk_plane_adopt(struct vublk_plane *plane, const struct vublk_plane_setup *setups,
		      uint64_t features, const struct vublk_memory_map *map,
		      const struct vublk_fault *fault, struct vublk_error *error);
/* Returns the rings to the driver, and drops the requests that are not complete. Idempotent. */
void vublk_plane_detach(struct vublk_plane *plane);
/* Returns the avail index of the chain to take next. The queue must be attached. */
uint16_t vublk_plane_base(const struct vublk_plane *plane, unsigned index);

/*
 * Replaces the mapping of the guest's memory. Must be called while no request is on a back-end's
 * ring. A request fails if one of its buffers or its status byte is outside the new mapping; a
 * status byte outside it is not written. Error: EFAULT if a ring is not in the new mapping; then
 * nothing has changed.
 */
int vublk_plane_set_map(struct vublk_plane *plane, const struct vublk_memory_map *map,
			const struct vublk_fault *fault, struct vublk_error *error);

/* Returns whether the buffers and the status byte of a request are in `map`. */
bool vublk_plane_is_mapped(const struct vublk_memory_map *map, const struct vublk_plane_slot *slot);

/*
 * Makes the plane mark in `log` the guest's pages that it or the back-end writes. `log` is copied.
 * NULL stops the marking.
 */
void vublk_plane_set_dirty_log(struct vublk_plane *plane, const struct vublk_dirty_log *log);

/* Returns the number of requests that were taken from the driver and are not complete. */
static inline unsigned vublk_plane_outstanding(const struct vublk_plane *plane)
{
	return plane->num_held + plane->num_submitted + plane->limits.num_waiting;
}

/*
 * Returns how many bytes of the disk a request reads or changes: those of its data, or the sum of
 * its ranges. If a slot has ranges, slot->bytes also includes the gaps between them.
 */
static inline uint64_t vublk_plane_bytes(const struct vublk_plane *plane,
					 const struct vublk_plane_slot *slot)
{
	const struct virtio_blk_discard_write_zeroes *ranges =
		&plane->queues[slot->queue].ranges[(size_t)slot->head * VUBLK_PLANE_MAX_RANGES];
	uint64_t bytes = 0;

	if (!slot->num_ranges)
		return slot->bytes;
	for (unsigned i = 0; i < slot->num_ranges; i++)
		bytes += (uint64_t)ranges[i].num_sectors << VUBLK_SECTOR_SHIFT;
	return bytes;
}

/*
 * Returns whether no request is outstanding, every completed write is stable or was never kept, and
 * the mirror, if there is one, has no work in progress (vublk_plane_mirror_is_settled()).
 */
static inline bool vublk_plane_is_settled(const struct vublk_plane *plane)
{
	return !vublk_plane_outstanding(plane) &&
	       (!plane->replay || vublk_plane_replay_is_settled(plane)) &&
	       (!plane->mirror || vublk_plane_mirror_is_settled(plane));
}

/* --- side.c: the back-end's rings ------------------------------------------------------------ */

/*
 * Makes a side, with memory for rings of up to `size` entries. If `has_own` is set, there is also
 * memory for the plane's own requests (replay.h).
 */
int vublk_plane_side_new(unsigned num_queues, unsigned size, unsigned max_segments, bool has_own,
			 struct vublk_plane_side **side, struct vublk_error *error);
/*
 * Makes a side whose memory is the file `fd`, which another process made for its side. The new side
 * has no eventfds and no rings. Takes ownership of `fd`, even on failure. Errors: EINVAL if `fd` is
 * not the memory of a side or has another size, and others.
 */
int vublk_plane_side_adopt(unsigned num_queues, unsigned size, unsigned max_segments, bool has_own,
			   int fd, struct vublk_plane_side **side, struct vublk_error *error);
void vublk_plane_side_free(struct vublk_plane_side *side);
/* Zeroes the memory that the side shares with its back-end. The rings must not run. */
void vublk_plane_side_clear(struct vublk_plane_side *side);
/*
 * Makes an empty ring of sizes[i] entries for each queue; 0: the queue is not used. The sizes may
 * differ from those of the driver's rings, but must not exceed the `size` of
 * vublk_plane_side_new(). Must be called each time before the back-end starts the rings.
 * `features` are those that were negotiated with the back-end.
 */
int vublk_plane_side_reset(struct vublk_plane_side *side, const uint16_t *sizes, uint64_t features,
			   struct vublk_error *error);

/*
 * Begins to use `side`. The back-end must run the side's rings already. Submits the held requests.
 * If copies of completed writes are kept (replay.h), the back-end gets these first.
 */
void vublk_plane_set_side(struct vublk_plane *plane, struct vublk_plane_side *side);
/*
 * Called when the back-end is lost or has stopped its rings. Takes the completions that the
 * back-end has published, and keeps all other requests for the next back-end. The plane does not
 * use the side afterwards.
 */
void vublk_plane_lose_side(struct vublk_plane *plane);

/* --- overlap.c: writes to the same place -------------------------------------------------- */

/* Called for each new write. Makes the write wait for the earlier writes to the same place. */
void vublk_plane_begin_write(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/* Called when a write ends. Makes the writes ready that waited only for this write. */
void vublk_plane_end_write(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Ends a write, or a mirror's copy of a region, that has no blockers. Makes the writes ready that
 * waited only for the ended write or copy.
 */
void vublk_plane_end_order(struct vublk_plane *plane, struct vublk_order_write *write);
/*
 * A caller that may end writes while they wait for other writes must call the first function before
 * it ends them, and the second one afterwards. The second function rebuilds the order from the list
 * of requests, which has the oldest first. So a write that is already on the back-end's ring gets
 * no blockers.
 */
void vublk_plane_forget_writes(struct vublk_plane *plane);
void vublk_plane_begin_writes_again(struct vublk_plane *plane);
/* Rebuilds the ready lists of all queues. Called when many requests have changed. */
void vublk_plane_sort_held(struct vublk_plane *plane);

/* --- publish.c, end.c, submit.c, take.c, complete.c: requests -------------------------------- */

/*
 * Adds the completion of the chain at `head`, with the used length `bytes`. The driver sees the
 * completion only after vublk_plane_publish().
 */
void vublk_plane_push(struct vublk_plane *plane, struct vublk_plane_queue *queue, uint16_t head,
		      uint32_t bytes);
/*
 * Makes the new completions visible to the driver, and the new requests to the back-end and the
 * target of the mirror. Notifies each of them that has enabled notifications.
 */
void vublk_plane_publish(struct vublk_plane *plane);

/*
 * Completes a request with `status`: writes the status for the driver, adds the completion, and
 * frees the slot.
 */
void vublk_plane_end(struct vublk_plane *plane, struct vublk_plane_slot *slot, uint8_t status);

/* Adds a slot at the end of the list of requests, with the state HELD. */
void vublk_plane_append(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Computes the fields of a slot that follow from its header, segments and ranges. Returns false if
 * the plane would not have submitted such a request.
 */
bool vublk_plane_derive(const struct vublk_plane *plane, struct vublk_plane_slot *slot);

/* Takes the queue's pending requests: those that an earlier process did not complete. */
void vublk_plane_take_again(struct vublk_plane *plane, struct vublk_plane_queue *queue);

/* Puts a held request on the back-end's ring, unless the request has to wait. */
void vublk_plane_submit(struct vublk_plane *plane, struct vublk_plane_slot *slot);
/*
 * Puts the ready requests of all queues on the back-end's rings, as far as there is room. Does
 * nothing unless plane->has_ended is set.
 */
void vublk_plane_submit_held(struct vublk_plane *plane);
/* Adds a held request, which must have no blockers, to the ready list of its queue. */
static inline void vublk_plane_add_ready(struct vublk_plane *plane, struct vublk_plane_slot *slot)
{
	struct vublk_plane_queue *queue = &plane->queues[slot->queue];

	slot->next_ready = NULL;
	if (queue->first_ready)
		queue->last_ready->next_ready = slot;
	else
		queue->first_ready = slot;
	queue->last_ready = slot;
}
/*
 * Returns whether chains are taken even if the back-end's ring has no room for them. That is the
 * case while flushes fail, because a flush must then fail without waiting behind other requests.
 */
static inline bool vublk_plane_takes_all(const struct vublk_plane *plane)
{
	return plane->replay && plane->replay->fails_flushes;
}

/*
 * Returns how many entries of the back-end's ring the new requests of a queue may use: none if
 * side->is_broken, or while a request is in the queue's ready list. While vublk_plane_takes_all()
 * returns true, the result is the size of the driver's ring. There must be a back-end.
 */
static inline unsigned vublk_plane_room(const struct vublk_plane *plane,
					const struct vublk_plane_queue *queue)
{
	if (plane->side->is_broken)
		return 0;
	if (vublk_plane_takes_all(plane))
		return queue->setup.size;
	return queue->first_ready ? 0 : plane->side->queues[queue->index].ring.num_free;
}

/*
 * Takes at most `max` chains from a queue while the back-end's ring has room, and submits the
 * requests that need not wait. Returns the number of chains taken.
 */
unsigned vublk_plane_take(struct vublk_plane *plane, struct vublk_plane_queue *queue,
			  unsigned max);

/* Takes at most `max` completions per queue from the back-end. Returns the total number. */
unsigned vublk_plane_complete(struct vublk_plane *plane, unsigned max);

/* --- round.c ------------------------------------------------------------------------------- */

/*
 * Stops taking chains, and lets all requests that wait for the limits pass. Enables the driver's
 * kicks and leaves them enabled, because the back-end that runs the driver's rings next may not
 * enable them.
 */
void vublk_plane_stop(struct vublk_plane *plane);
/* Undoes vublk_plane_stop(): the plane takes chains again. */
void vublk_plane_resume(struct vublk_plane *plane);
/*
 * Does one round: takes, submits and completes requests, and publishes the results. Returns whether
 * there was work.
 */
bool vublk_plane_work(struct vublk_plane *plane);
/*
 * The first function enables kicks and calls before a sleep, and returns false if there is work
 * already. The second one disables them after the sleep.
 */
bool vublk_plane_enable_notifications(struct vublk_plane *plane);
void vublk_plane_disable_notifications(struct vublk_plane *plane);

#endif
