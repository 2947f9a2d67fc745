/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_RING_H
#define VUBLK_VIRTIO_RING_H

/*
 * Virtqueues (virtio 1.3, section 2.6 and following). The driver end adds descriptor chains and
 * takes completions. The device end takes chains and pushes completions. The functions do not
 * depend on the layout of the ring; each layout has one file per end. Only the init functions
 * allocate memory. No function takes a lock or makes a system call.
 *
 * Only one thread at a time may use an end of a ring.
 */

#include "virtio/memory-map.h"

#include <vublk/error.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VUBLK_RING_MAX_SIZE 1024 /* the largest size that vublk's devices accept */

/*
 * The largest number of descriptors in an indirect table that vublk's devices accept. The
 * specification's limit is the queue size, but drivers exceed it (Linux puts up to seg_max + 2
 * buffers into a table, whatever the queue size is). The limit has room for 1024 data buffers, the
 * maximum of preadv(), and for the header and the status.
 */
#define VUBLK_RING_MAX_INDIRECT (1024 + 2)

/*
 * The host addresses of a split ring's three parts: `desc` is aligned to 16 bytes, `avail` to 2,
 * `used` to 4. For speed, no two parts should share a cache line, especially not `used` with
 * another part, because the device writes `used` and the driver writes the others.
 */
struct vublk_split_ring {
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
};

/*
 * These functions return the size in bytes of each part of a ring with `size` entries, including
 * the event indices.
 */
uint64_t vublk_split_desc_bytes(unsigned size);
uint64_t vublk_split_avail_bytes(unsigned size);
uint64_t vublk_split_used_bytes(unsigned size);

/* --- driver end ------------------------------------------------------------ */

/* One buffer of a chain. `addr` is an address that the device can translate. */
struct vublk_ring_buffer {
	uint64_t addr;
	uint32_t bytes;
};

/* The caller's indirect table for one chain, in memory that the device can access. */
struct vublk_ring_indirect {
	struct vring_desc *table; /* NULL: the ring's own descriptors are used */
	uint64_t addr;
};

struct vublk_driver_ring; /* see virtio/driver-ring.h; embedded in the user's struct */

/*
 * Makes an empty ring, with calls enabled. Writes the indices and flags in the shared memory,
 * including those of the device, so no device may use the ring yet. `size` is a power of two up to
 * VUBLK_RING_MAX_SIZE. Of the negotiated `features`, only EVENT_IDX and INDIRECT_DESC matter.
 * `base` is the first avail and used index: 0 for a new ring. Errors: ENOMEM, EINVAL.
 */
int vublk_driver_ring_init(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error);
void vublk_driver_ring_deinit(struct vublk_driver_ring *ring);
/*
 * Discards outstanding chains, and makes the ring empty again in other memory, with the same size
 * and features. The base is 0, and calls are enabled.
 */
void vublk_driver_ring_reset(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory);

/*
 * Adds a chain of `num_out` buffers that the device reads, followed by `num_in` buffers that the
 * device writes. vublk_driver_ring_take() returns `token` with the completion. The token must be
 * below the ring's size, and at most one chain per token may be outstanding. The table of
 * `indirect` (may be NULL) must have room for all buffers, and belongs to the device until the
 * completion. The device does not see the chain before vublk_driver_ring_publish(). -ENOSPC: there
 * are too few free descriptors; -ENOTSUP: an indirect table was given, but INDIRECT_DESC was not
 * negotiated; -EINVAL: the chain has no buffer, or `token` is too large.
 */
int vublk_driver_ring_add(struct vublk_driver_ring *ring, const struct vublk_ring_buffer *buffers,
			  unsigned num_out, unsigned num_in,
			  const struct vublk_ring_indirect *indirect, uint16_t token);

/*
 * Makes the added chains visible to the device. Returns whether the device wants a kick for them.
 * If so, the caller must kick the device, because no later publish reports this again.
 */
bool vublk_driver_ring_publish(struct vublk_driver_ring *ring);

/*
 * Takes one completion. Returns 1 if there is one; then `token` is its token, and `bytes` is the
 * number of bytes that the device claims to have written, which is not checked. Returns 0 if there
 * is no completion. -EPROTO: the ring is broken, because the device completed a chain that is not
 * outstanding, or moved the used index too far. `error` says how, and each later call fails with
 * the same error.
 */
int vublk_driver_ring_take(struct vublk_driver_ring *ring, uint16_t *token, uint32_t *bytes,
			   struct vublk_error *error);

/* Returns whether there is a completion. Reads only the used index. */
bool vublk_driver_ring_has_completion(const struct vublk_driver_ring *ring);

/*
 * Enables calls. Returns false if there is a completion already; the caller must then take it
 * before it sleeps. In that case calls stay enabled, so a call may still come. A call may come even
 * while calls are disabled; with EVENT_IDX, one in 65536 completions causes a call.
 */
bool vublk_driver_ring_enable_calls(struct vublk_driver_ring *ring);
void vublk_driver_ring_disable_calls(struct vublk_driver_ring *ring);

/* Returns the number of chains that were added and whose completions have not been taken. */
unsigned vublk_driver_ring_outstanding(const struct vublk_driver_ring *ring);

/* --- device end ------------------------------------------------------------ */

/*
 * A chain, copied and translated. The device may read `iov[0 .. num_out)` and write `iov[num_out ..
 * num_out + num_in)`. The caller provides the array `iov`, with room for `max_iov` elements, and
 * may provide an array of the same size for the guest address of each iovec.
 */
struct vublk_chain {
	uint16_t head; /* identifies the chain for vublk_device_ring_push() */
	unsigned num_out, num_in;
	uint64_t out_bytes, in_bytes;
	unsigned max_iov;
	struct iovec *iov;
	uint64_t *guest_addrs; /* NULL: the caller does not want them */
};

struct vublk_dirty_log;
struct vublk_device_ring; /* see virtio/device-ring.h; embedded in the user's struct */

/*
 * Initializes the device's end of a ring in the driver's memory, whose host addresses are in
 * `memory`. `base` is the avail index at which to continue (SET_VRING_BASE); the used index is read
 * from the ring. Of the negotiated `features`, only EVENT_IDX, INDIRECT_DESC and NOTIFY_ON_EMPTY
 * matter. Kicks are enabled. Errors: ENOMEM, EINVAL.
 */
int vublk_device_ring_init(struct vublk_device_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error);
void vublk_device_ring_deinit(struct vublk_device_ring *ring);

/*
 * Begins to mark writes to the used ring in `log`, as writes to a used ring at guest address
 * `log_addr`. The log is borrowed until deinit or the next call, and must cover the whole used
 * ring. This function itself marks the whole used ring, because init has written to that ring, and
 * because an earlier device end may have died before it marked its writes. `log` NULL: stops
 * marking.
 */
void vublk_device_ring_log(struct vublk_device_ring *ring, const struct vublk_dirty_log *log,
			   uint64_t log_addr);

/*
 * Makes this end use the same ring at other host addresses. Called when the driver's memory has
 * been mapped elsewhere.
 */
void vublk_device_ring_move(struct vublk_device_ring *ring, const struct vublk_split_ring *memory);

/*
 * Takes the next available chain into `chain`. Returns 1 if one was taken, and 0 if none is
 * available. -EBADMSG: the chain is malformed (for example an address outside the memory, a loop,
 * an invalid indirect table, or too many segments). Then only chain->head is valid, and the caller
 * must push this head with length 0 or stop the queue; `error` says what is wrong. -EPROTO: the
 * ring is broken (the avail index jumped by more than the size, or a head is out of range or
 * already taken). Then the caller must stop the queue, and each later call fails with the same
 * error. Chains that were taken before can still be pushed.
 */
int vublk_device_ring_take(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   struct vublk_chain *chain, struct vublk_error *error);

/*
 * Like vublk_device_ring_take(), but takes the chain at `head`, which a previous device end took
 * and did not complete (in-flight recovery). The position in the avail ring does not change, so the
 * `base` that init got must be past these chains: it is the used index plus the number of chains in
 * flight. -EPROTO: `head` is out of range or already taken, which does not break the ring.
 */
int vublk_device_ring_take_again(struct vublk_device_ring *ring,
				 const struct vublk_memory_map *map, uint16_t head,
				 struct vublk_chain *chain, struct vublk_error *error);

/* Returns whether a chain is available, without taking it. */
bool vublk_device_ring_has_chain(const struct vublk_device_ring *ring);

/*
 * Adds the completion of a taken chain, with `bytes` as its used length. The driver does not see
 * the completion before vublk_device_ring_publish().
 */
void vublk_device_ring_push(struct vublk_device_ring *ring, uint16_t head, uint32_t bytes);

/*
 * Makes the pushed completions visible to the driver. Returns whether the driver wants a call for
 * them. If so, the caller must call the driver, because no later publish reports this again.
 */
bool vublk_device_ring_publish(struct vublk_device_ring *ring);

/*
 * Enables kicks. Returns false if a chain is available already; the caller must then take it before
 * it sleeps. A kick may come even while kicks are disabled.
 */
bool vublk_device_ring_enable_kicks(struct vublk_device_ring *ring);
void vublk_device_ring_disable_kicks(struct vublk_device_ring *ring);

/* Returns the avail index of the next chain to take (GET_VRING_BASE). */
uint16_t vublk_device_ring_base(const struct vublk_device_ring *ring);
/* Returns the used index that was published last. */
uint16_t vublk_device_ring_used(const struct vublk_device_ring *ring);

#endif
