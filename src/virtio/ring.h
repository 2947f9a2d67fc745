/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_RING_H
#define VUBLK_VIRTIO_RING_H

/*
 * Virtqueues (virtio 1.3, section 2.6 and following): the driver end adds descriptor chains
 * and takes completions, and the device end takes chains and pushes completions. The calls do
 * not depend on the layout; each layout has one file per end. No call allocates (except init),
 * locks, or enters the kernel.
 *
 * One thread at a time uses each end.
 */

#include "virtio/memory-map.h"

#include <vublk/error.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VUBLK_RING_MAX_SIZE 1024 /* the largest that our devices accept */

/*
 * Descriptors in the largest indirect table that our devices accept. The specification's limit
 * is the queue size, which drivers exceed (Linux puts up to seg_max + 2 buffers into a table
 * whatever the queue size). preadv() takes 1024 data buffers; header and status are extra.
 */
#define VUBLK_RING_MAX_INDIRECT (1024 + 2)

/*
 * The host addresses of a split ring's three parts: `desc` is aligned to 16 bytes, `avail` to
 * 2, `used` to 4. For speed each part should have its own cache lines, because the driver
 * writes the first two and the device the third.
 */
struct vublk_split_ring {
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
};

/* Bytes of each part for `size` entries, including the event indices. */
uint64_t vublk_split_desc_bytes(unsigned size);
uint64_t vublk_split_avail_bytes(unsigned size);
uint64_t vublk_split_used_bytes(unsigned size);

/* --- driver end ------------------------------------------------------------ */

/* One buffer of a chain, in addresses that the device understands. */
struct vublk_ring_buffer {
	uint64_t addr;
	uint32_t bytes;
};

/* An indirect table of the caller for one chain, in memory that the device can access. */
struct vublk_ring_indirect {
	struct vring_desc *table; /* NULL: use the ring's own descriptors */
	uint64_t addr;
};

struct vublk_driver_ring; /* defined in virtio/driver-ring.h, embedded by its user */

/*
 * Makes an empty ring: writes the indices and flags in the shared memory, including those of
 * the device, because no device runs yet. `size` is a power of two up to VUBLK_RING_MAX_SIZE;
 * `features` are the negotiated ones (EVENT_IDX, INDIRECT_DESC). `base` is the first avail (and
 * used) index: 0 for a new ring. Calls are enabled. ENOMEM, EINVAL.
 */
int vublk_driver_ring_init(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error);
void vublk_driver_ring_deinit(struct vublk_driver_ring *ring);
/*
 * Makes the ring empty again, with the same size and features in other memory; outstanding
 * chains are forgotten. The base is 0, calls are enabled.
 */
void vublk_driver_ring_reset(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory);

/*
 * Adds a chain of `num_out` buffers that the device reads, then `num_in` that it
 * writes. `token` (below the ring's size) comes back with the completion; the
 * caller has at most one chain outstanding for each token. -ENOSPC when there
 * are too few free descriptors, -ENOTSUP for an indirect table when INDIRECT_DESC
 * was not negotiated, -EINVAL for a chain without buffers. The table has room for
 * all the buffers and belongs to the device until the completion. The device does
 * not see the chain before publish.
 */
int vublk_driver_ring_add(struct vublk_driver_ring *ring, const struct vublk_ring_buffer *buffers,
			  unsigned num_out, unsigned num_in,
			  const struct vublk_ring_indirect *indirect, uint16_t token);

/*
 * Makes the added chains visible to the device. True: the device wants a kick for them; the
 * caller must kick, because this is reported only once.
 */
bool vublk_driver_ring_publish(struct vublk_driver_ring *ring);

/*
 * Takes one completion. 1: `token`, and the `bytes` that the device claims to have written,
 * which are not checked; 0: no completion; -EPROTO: the device broke the ring (an id that is
 * out of range or not outstanding, an index that jumps). The sentence says how, and each later
 * call fails in the same words.
 */
int vublk_driver_ring_take(struct vublk_driver_ring *ring, uint16_t *token, uint32_t *bytes,
			   struct vublk_error *error);

/* Whether a completion waits. This function looks at the used index only. */
bool vublk_driver_ring_has_completion(const struct vublk_driver_ring *ring);

/*
 * Enables calls. False: a completion already waits, and the caller takes it instead of
 * sleeping; calls stay enabled, and one more call may come. Even while calls are disabled a call
 * may come: with EVENT_IDX once in 65536 completions.
 */
bool vublk_driver_ring_enable_calls(struct vublk_driver_ring *ring);
void vublk_driver_ring_disable_calls(struct vublk_driver_ring *ring);

/* The number of chains that were added and whose completions were not taken. */
unsigned vublk_driver_ring_outstanding(const struct vublk_driver_ring *ring);

/* --- device end ------------------------------------------------------------ */

/*
 * A copied and translated chain: the device may read `iov[0 .. num_out)` and write
 * `iov[num_out .. num_out + num_in)`. The caller provides the array, with room for `max_iov`, and
 * may provide another one for the guest address of each iovec.
 */
struct vublk_chain {
	uint16_t head; /* identifies the chain for vublk_device_ring_push() */
	unsigned num_out, num_in;
	uint64_t out_bytes, in_bytes;
	unsigned max_iov;
	struct iovec *iov;
	uint64_t *guest_addrs; /* NULL: not wanted */
};

struct vublk_dirty_log;
struct vublk_device_ring; /* defined in virtio/device-ring.h, embedded by its user */

/*
 * Makes the device end of a ring in the driver's memory; `memory` has the ring's host addresses.
 * `base` is the avail index to continue at (SET_VRING_BASE); the used index is read
 * from the ring. `features` are the negotiated ones (EVENT_IDX, INDIRECT_DESC,
 * NOTIFY_ON_EMPTY). Kicks are enabled. ENOMEM, EINVAL.
 */
int vublk_device_ring_init(struct vublk_device_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error);
void vublk_device_ring_deinit(struct vublk_device_ring *ring);

/*
 * Starts to mark writes to the used ring in `log`, as if the ring were at guest address `log_addr`.
 * The log is borrowed until deinit, and has to cover the whole used ring. The call itself marks the
 * whole used ring, because init has written to it, and an earlier device end may have died before
 * it marked its writes. `log` NULL: writes are not marked any more.
 */
void vublk_device_ring_log(struct vublk_device_ring *ring, const struct vublk_dirty_log *log,
			   uint64_t log_addr);

/* Uses the same ring at other host addresses, because the driver's memory was mapped again. */
void vublk_device_ring_move(struct vublk_device_ring *ring, const struct vublk_split_ring *memory);

/*
 * Takes the next available chain into `chain`. 1: taken; 0: no chain is available.
 * -EBADMSG: the chain is malformed (an address outside memory, a loop, a wrong indirect table,
 * too many segments): only chain->head is valid, and the caller pushes it with length 0 or
 * stops the queue; the sentence says what is wrong. -EPROTO: the ring is broken (the avail
 * index jumped by more than the size, or a head is out of range or already taken): the queue
 * must stop, and each later call fails in the same words. Chains taken before can be pushed.
 */
int vublk_device_ring_take(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   struct vublk_chain *chain, struct vublk_error *error);

/*
 * Takes, like vublk_device_ring_take(), the chain at `head`, which a previous device end took and
 * did not complete (in-flight recovery). The avail index does not move, so the `base` of init must
 * count these chains as taken: the used index plus the number in flight. -EPROTO: `head` is out of
 * range or already taken; that does not break the ring.
 */
int vublk_device_ring_take_again(struct vublk_device_ring *ring,
				 const struct vublk_memory_map *map, uint16_t head,
				 struct vublk_chain *chain, struct vublk_error *error);

/* Whether a chain is available. This function does not take the chain. */
bool vublk_device_ring_has_chain(const struct vublk_device_ring *ring);

/* Completes a taken chain. The driver does not see the completion before publish. */
void vublk_device_ring_push(struct vublk_device_ring *ring, uint16_t head, uint32_t bytes);

/*
 * Makes the pushed completions visible to the driver. True: the driver wants a call for them;
 * the caller must call, because this is reported only once.
 */
bool vublk_device_ring_publish(struct vublk_device_ring *ring);

/*
 * Enables kicks. False: a chain already waits, and the caller takes it instead of sleeping. As
 * with calls, a kick may come while they are disabled.
 */
bool vublk_device_ring_enable_kicks(struct vublk_device_ring *ring);
void vublk_device_ring_disable_kicks(struct vublk_device_ring *ring);

/* The avail index of the next chain to take (GET_VRING_BASE). */
uint16_t vublk_device_ring_base(const struct vublk_device_ring *ring);
/* The used index that was last published. */
uint16_t vublk_device_ring_used(const struct vublk_device_ring *ring);

#endif
