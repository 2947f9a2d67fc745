/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_VIRTIO_RING_H
#define VUBLK_VIRTIO_RING_H

/*
 * Virtqueues (virtio 1.3, section 2.6 and following): the driver end, which adds
 * descriptor chains and takes completions, and the device end, which takes
 * chains and pushes completions. The same calls whatever the layout; a file per
 * layout and end. No call here allocates (save init), locks, or enters the kernel.
 *
 * Each end is used by one thread at a time.
 */

#include "virtio/memory-map.h"

#include <vublk/error.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VUBLK_RING_MAX_SIZE 1024 /* what a device of ours accepts */

/*
 * Descriptors in an indirect table that a device of ours accepts. The
 * specification's limit is the queue size; drivers exceed it (Linux puts up to
 * seg_max buffers and two more into a table whatever the size). 1024 data buffers
 * are what preadv() takes; a request's header and status come on top.
 */
#define VUBLK_RING_MAX_INDIRECT (1024 + 2)

/*
 * Where a split ring's three parts are mapped here: `desc` aligned to 16 bytes,
 * `avail` to 2, `used` to 4. Whoever lays them out gives each part cache lines of
 * its own: the driver writes the first two, the device the third.
 */
struct vublk_split_ring {
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
};

/* Bytes of each part for `size` entries; with room for the event indices. */
uint64_t vublk_split_desc_bytes(unsigned size);
uint64_t vublk_split_avail_bytes(unsigned size);
uint64_t vublk_split_used_bytes(unsigned size);

/* --- driver end ------------------------------------------------------------ */

/* One buffer of a chain, in addresses that the device understands. */
struct vublk_ring_buffer {
	uint64_t addr;
	uint32_t bytes;
};

/* An indirect table that the caller keeps for a chain, in memory the device sees. */
struct vublk_ring_indirect {
	struct vring_desc *table; /* NULL: use the ring's own descriptors */
	uint64_t addr;
};

struct vublk_driver_ring; /* defined in virtio/driver-ring.h, embedded by its user */

/*
 * An empty ring; writes the indices and flags of the shared memory, the device's
 * too, for no device runs yet. `size` is a power of two up to
 * VUBLK_RING_MAX_SIZE; `features` are the negotiated ones (EVENT_IDX,
 * INDIRECT_DESC). `base` is the avail (and used) index to begin with: 0 for a
 * new ring. Calls are enabled. ENOMEM, EINVAL.
 */
int vublk_driver_ring_init(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error);
void vublk_driver_ring_deinit(struct vublk_driver_ring *ring);
/*
 * An empty ring again, of the same size and features, in other memory: what was
 * outstanding is forgotten. The base is 0, calls are enabled.
 */
void vublk_driver_ring_reset(struct vublk_driver_ring *ring, const struct vublk_split_ring *memory);

/*
 * Adds a chain of `num_out` buffers that the device reads, then `num_in` that it
 * writes. `token` (below the ring's size) comes back with the completion; the
 * caller has at most one chain outstanding for each token. -ENOSPC when there
 * are too few free descriptors, -ENOTSUP for an indirect table when INDIRECT_DESC
 * was not negotiated, -EINVAL for a chain without buffers. The table has room for
 * all the buffers and is the device's until the completion. Not yet visible to
 * the device.
 */
int vublk_driver_ring_add(struct vublk_driver_ring *ring, const struct vublk_ring_buffer *buffers,
			  unsigned num_out, unsigned num_in,
			  const struct vublk_ring_indirect *indirect, uint16_t token);

/*
 * Makes what was added visible to the device. True when the device wants a kick
 * for what this call published; the caller kicks then, for it is not said again.
 */
bool vublk_driver_ring_publish(struct vublk_driver_ring *ring);

/*
 * Takes one completion: 1: `token` and the `bytes` the device says it wrote; 0:
 * none; -EPROTO: the device broke the ring (an id out of range, or not
 * outstanding, an index that jumps); the sentence says how, and the ring takes
 * nothing any more: each later call fails in the same words. `bytes` is the
 * device's word and may be anything.
 */
int vublk_driver_ring_take(struct vublk_driver_ring *ring, uint16_t *token, uint32_t *bytes,
			   struct vublk_error *error);

/* Whether a completion waits, without taking it: a look at the used index. */
bool vublk_driver_ring_has_completion(const struct vublk_driver_ring *ring);

/*
 * Asks for a call when the next completion comes; false when one has come
 * already, so that the caller takes it instead of sleeping. Calls stay enabled
 * then, and one more may come. Disabled is a wish, not a promise: with EVENT_IDX
 * a call may come once in 65536 completions.
 */
bool vublk_driver_ring_enable_calls(struct vublk_driver_ring *ring);
void vublk_driver_ring_disable_calls(struct vublk_driver_ring *ring);

/* Chains that are added and not taken back. */
unsigned vublk_driver_ring_outstanding(const struct vublk_driver_ring *ring);

/* --- device end ------------------------------------------------------------ */

/*
 * A chain, copied and translated: `iov[0 .. num_out)` is what the device may
 * read, `iov[num_out .. num_out + num_in)` what it may write. The array is the
 * caller's, with room for `max_iov`.
 */
struct vublk_chain {
	uint16_t head; /* names the chain to vublk_device_ring_push() */
	unsigned num_out, num_in;
	uint64_t out_bytes, in_bytes;
	unsigned max_iov;
	struct iovec *iov;
};

struct vublk_dirty_log;
struct vublk_device_ring; /* defined in virtio/device-ring.h, embedded by its user */

/*
 * Over the driver's memory, already translated. `base` is the avail index to go
 * on from (SET_VRING_BASE); the used index is read from the ring. `features` are
 * the negotiated ones (EVENT_IDX, INDIRECT_DESC, NOTIFY_ON_EMPTY). Kicks are
 * enabled. ENOMEM, EINVAL.
 */
int vublk_device_ring_init(struct vublk_device_ring *ring, const struct vublk_split_ring *memory,
			   unsigned size, uint16_t base, uint64_t features,
			   struct vublk_error *error);
void vublk_device_ring_deinit(struct vublk_device_ring *ring);

/*
 * From now on what is written to the used ring is marked in `log` (borrowed until
 * deinit), as if the ring were at guest address `log_addr`; the log covers all of it.
 * All of it is marked at once, for init has written to it, and perhaps a device end
 * before this one, which died before it could mark.
 */
void vublk_device_ring_log(struct vublk_device_ring *ring, const struct vublk_dirty_log *log,
			   uint64_t log_addr);

/*
 * Takes the next available chain: 1: `chain` has it; 0: none;
 * -EBADMSG: this chain is malformed (an address outside memory, a loop, a wrong
 * indirect table, too many segments): chain->head is valid, nothing else is, and
 * the caller pushes it with length 0 or stops the queue; the sentence says what
 * is wrong. -EPROTO: the ring itself is broken (the avail index jumped by more
 * than the size, or a head is out of range or taken already): the queue must
 * stop; each later call fails in the same words. What was taken can be pushed.
 */
int vublk_device_ring_take(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   struct vublk_chain *chain, struct vublk_error *error);

/*
 * The same for the chain at `head`, which was taken before and not completed
 * (in-flight recovery); the avail index does not move, so the `base` of init has
 * to count these chains as taken: the used index and as many more as are in
 * flight. -EPROTO for a head out of range or taken already; that does not break
 * the ring.
 */
int vublk_device_ring_take_again(struct vublk_device_ring *ring,
				 const struct vublk_memory_map *map, uint16_t head,
				 struct vublk_chain *chain, struct vublk_error *error);

/* Whether a chain waits, without taking it. */
bool vublk_device_ring_has_chain(const struct vublk_device_ring *ring);

/* Completes a taken chain; the driver does not see it before publish. */
void vublk_device_ring_push(struct vublk_device_ring *ring, uint16_t head, uint32_t bytes);

/*
 * Makes what was pushed visible to the driver. True when the driver wants a call
 * for what this call published; the caller calls then, for it is not said again.
 */
bool vublk_device_ring_publish(struct vublk_device_ring *ring);

/*
 * Asks for a kick when the next chain comes; false when one waits already, so that
 * it is taken instead. As with calls, a kick may come while they are disabled.
 */
bool vublk_device_ring_enable_kicks(struct vublk_device_ring *ring);
void vublk_device_ring_disable_kicks(struct vublk_device_ring *ring);

/* The avail index of the next chain that would be taken (GET_VRING_BASE). */
uint16_t vublk_device_ring_base(const struct vublk_device_ring *ring);
/* The used index as published. */
uint16_t vublk_device_ring_used(const struct vublk_device_ring *ring);

#endif
