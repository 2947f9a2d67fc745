/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a chain of descriptors at the device end (virtio 1.3, sections 2.7.5 and
 * 2.7.7), on the path of every request.
 *
 * The idea to read it by: each descriptor is read once, whole, and what is checked and used
 * is the copy. The walk is in locals, which stay in registers, for all that takes part in it
 * is put into one function; what refuses a chain gets values, and is out of the way.
 *
 * It is bounded: by the ring's size, by the table's length, and by the caller's iovecs.
 */
#include "virtio/split-chain.h"

#include "util/error.h"
#include "virtio/split.h"

#include <errno.h>
#include <inttypes.h>

/* "A descriptor chain longer than 2^32 bytes in total" is forbidden (2.7.5.2). */
#define CHAIN_MAX_BYTES (UINT64_C(1) << 32)

/* What a chain is read from: the ring's descriptors, and then perhaps one table. */
struct walk {
	const struct vring_desc *table;
	unsigned count;
	unsigned left; /* a chain has no more descriptors than its table, else it loops */
	unsigned index;
	bool is_indirect;

	/* what was found */
	unsigned num_out, num_in;
	uint64_t out_bytes, in_bytes;
};

/* --- refusals -------------------------------------------------------------- */

static VUBLK_COLD int refuse_buffer(int cause, unsigned head, unsigned max_iov,
				    struct vring_desc desc, struct vublk_error *error)
{
	if (cause == -E2BIG)
		return vublk_error_set(error, EBADMSG,
				       "the chain at descriptor %u has more than %u segments", head,
				       max_iov);
	return vublk_error_set(error, EBADMSG,
			       "the chain at descriptor %u has a buffer of %u bytes at 0x%" PRIx64
			       ", which is not within the driver's memory", head, desc.len,
			       (uint64_t)desc.addr);
}

static VUBLK_COLD int refuse(unsigned head, const char *what, struct vublk_error *error)
{
	return vublk_error_set(error, EBADMSG, "the chain at descriptor %u has %s", head, what);
}

static VUBLK_COLD int refuse_table(unsigned head, const char *wrong, struct vring_desc desc,
				   struct vublk_error *error)
{
	return vublk_error_set(error, EBADMSG, "the chain at descriptor %u has an indirect table %s "
			       "(%u bytes at 0x%" PRIx64 ")", head, wrong, desc.len,
			       (uint64_t)desc.addr);
}

static VUBLK_COLD int refuse_loop(unsigned head, unsigned count, struct vublk_error *error)
{
	return vublk_error_set(error, EBADMSG, "the chain at descriptor %u has a loop: it is longer "
			       "than the %u descriptors of its table", head, count);
}

static VUBLK_COLD int refuse_next(unsigned head, unsigned next, unsigned count,
				  struct vublk_error *error)
{
	return vublk_error_set(error, EBADMSG, "the chain at descriptor %u goes on at descriptor %u "
			       "of %u", head, next, count);
}

/* --- buffers --------------------------------------------------------------- */

/* Most buffers lie in one region, and in that of the buffer at the same place before. */
static VUBLK_ALWAYS_INLINE int translate(struct vublk_device_ring *ring,
					 const struct vublk_memory_map *map, struct iovec *iov,
					 unsigned filled, unsigned max_iov,
					 struct vring_desc desc)
{
	unsigned *near = &ring->near[filled & (VUBLK_DEVICE_RING_NEAR - 1)];
	void *host = vublk_memory_map_guest_near(map, near, desc.addr, desc.len);

	if (VUBLK_UNLIKELY(!host || filled == max_iov))
		return vublk_memory_map_iov(map, desc.addr, desc.len, iov + filled,
					    max_iov - filled);
	iov[filled] = (struct iovec){ .iov_base = host, .iov_len = desc.len };
	return 1;
}

/*
 * The specification gives a buffer without bytes no meaning and its address
 * cannot be checked; no driver is known to make one, and QEMU refuses them too.
 */
static VUBLK_ALWAYS_INLINE int add_buffer(struct vublk_device_ring *ring,
					  const struct vublk_memory_map *map,
					  struct walk *walk, const struct vublk_chain *chain,
					  struct vring_desc desc, struct vublk_error *error)
{
	bool is_writable = desc.flags & VRING_DESC_F_WRITE;
	int n;

	if (VUBLK_UNLIKELY(!desc.len))
		return refuse(chain->head, "an empty buffer", error);
	if (VUBLK_UNLIKELY(!is_writable && walk->num_in))
		return refuse(chain->head, "a buffer to read after one to write", error);
	n = translate(ring, map, chain->iov, walk->num_out + walk->num_in, chain->max_iov, desc);
	if (VUBLK_UNLIKELY(n < 0))
		return refuse_buffer(n, chain->head, chain->max_iov, desc, error);
	if (is_writable) {
		walk->num_in += (unsigned)n;
		walk->in_bytes += desc.len;
	} else {
		walk->num_out += (unsigned)n;
		walk->out_bytes += desc.len;
	}
	return 0;
}

/* --- indirect tables ------------------------------------------------------- */

/*
 * Where the table is read: in place, or as a copy if it lies across two regions or where no
 * descriptor can be read at once.
 */
static VUBLK_ALWAYS_INLINE const struct vring_desc *find_table(
	struct vublk_device_ring *ring, const struct vublk_memory_map *map, struct vring_desc desc)
{
	void *host = vublk_memory_map_guest_near(map, &ring->near[0], desc.addr, desc.len);

	if (host && !((uintptr_t)host % sizeof(uint64_t)))
		return host;
	return vublk_memory_map_read(map, desc.addr, ring->table, desc.len) < 0 ? NULL :
										 ring->table;
}

/* The flag WRITE and the field next of such a descriptor mean nothing (2.7.5.3.2). */
static VUBLK_ALWAYS_INLINE int enter_table(struct vublk_device_ring *ring,
					   const struct vublk_memory_map *map,
					   struct walk *walk, unsigned head,
					   struct vring_desc desc, struct vublk_error *error)
{
	const struct vring_desc *table = NULL;
	const char *wrong = NULL;

	if (VUBLK_UNLIKELY(!ring->has_indirect))
		wrong = "but INDIRECT_DESC was not negotiated";
	else if (VUBLK_UNLIKELY(walk->is_indirect))
		wrong = "inside an indirect table";
	else if (VUBLK_UNLIKELY(desc.flags & VRING_DESC_F_NEXT))
		wrong = "with the flag NEXT too";
	else if (VUBLK_UNLIKELY(!desc.len || desc.len % sizeof(desc)))
		wrong = "whose length is no positive multiple of 16 bytes";
	else if (VUBLK_UNLIKELY(desc.len / sizeof(desc) > VUBLK_RING_MAX_INDIRECT))
		wrong = "that is longer than any request needs";
	else if (VUBLK_UNLIKELY(!(table = find_table(ring, map, desc))))
		wrong = "that is not within the driver's memory";
	if (VUBLK_UNLIKELY(wrong != NULL))
		return refuse_table(head, wrong, desc, error);
	walk->table = table;
	walk->count = walk->left = desc.len / sizeof(desc);
	walk->index = 0;
	walk->is_indirect = true;
	return 0;
}

/* --- the walk -------------------------------------------------------------- */

/* Reads the descriptor at walk->index: 1: it was the last, 0: go on. */
static VUBLK_ALWAYS_INLINE int step(struct vublk_device_ring *ring,
				    const struct vublk_memory_map *map, struct walk *walk,
				    const struct vublk_chain *chain, struct vublk_error *error)
{
	struct vring_desc desc;
	int r;

	if (VUBLK_UNLIKELY(!walk->left--))
		return refuse_loop(chain->head, walk->count, error);
	desc = vublk_split_read_desc(&walk->table[walk->index]);
	if (desc.flags & VRING_DESC_F_INDIRECT)
		return enter_table(ring, map, walk, chain->head, desc, error);
	r = add_buffer(ring, map, walk, chain, desc, error);
	if (VUBLK_UNLIKELY(r < 0))
		return r;
	if (!(desc.flags & VRING_DESC_F_NEXT))
		return 1;
	if (VUBLK_UNLIKELY(desc.next >= walk->count))
		return refuse_next(chain->head, desc.next, walk->count, error);
	walk->index = desc.next;
	return 0;
}

int vublk_split_read_chain(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   uint16_t head, struct vublk_chain *chain, struct vublk_error *error)
{
	struct walk walk = {
		.table = ring->memory.desc,
		.count = ring->size,
		.left = ring->size,
		.index = head,
	};
	int r;

	chain->head = head;
	do
		r = step(ring, map, &walk, chain, error);
	while (!r);
	chain->num_out = walk.num_out;
	chain->num_in = walk.num_in;
	chain->out_bytes = walk.out_bytes;
	chain->in_bytes = walk.in_bytes;
	/* Fewer than 2^32 descriptors of fewer than 2^32 bytes: the sum has not wrapped. */
	if (VUBLK_UNLIKELY(r > 0 && walk.out_bytes + walk.in_bytes > CHAIN_MAX_BYTES))
		return refuse(head, "more than 2^32 bytes", error);
	return r;
}
