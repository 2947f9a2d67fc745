/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads a descriptor chain at the device end (virtio 1.3, sections 2.7.5 and 2.7.7). Every request
 * takes this path.
 *
 * Key idea: each descriptor is read once, whole, and only the copy is checked and used. A loop
 * without function calls, which runs in registers, reads the usual chain. Any other chain, rare or
 * malformed, is read again from its head, and nothing of the first attempt is used. This second
 * walk handles all cases, finds the regions of the buffers, and writes the error sentences.
 *
 * The loop and the walk are bounded by the ring's size, the table's length, and the caller's
 * iovecs.
 */
#include "virtio/split-chain.h"

#include "util/checked.h"
#include "util/error.h"
#include "virtio/split.h"

#include <errno.h>
#include <inttypes.h>

/* "A descriptor chain longer than 2^32 bytes in total" is forbidden (2.7.5.2). */
#define CHAIN_MAX_BYTES (UINT64_C(1) << 32)

/* Where the ring remembers the region of the chain's buffer number `filled`. */
static inline unsigned *near_of(struct vublk_device_ring *ring, unsigned filled)
{
	return &ring->near[VUBLK_MIN(filled, VUBLK_DEVICE_RING_NEAR - 1u)];
}

/* --- the usual chain ------------------------------------------------------- */

/*
 * Returns the indirect table in place if it is contiguous, aligned and consists of whole
 * descriptors, otherwise NULL.
 */
static VUBLK_ALWAYS_INLINE const struct vring_desc *usual_table(
	const struct vublk_device_ring *ring, const struct vublk_memory_map *map,
	struct vring_desc desc)
{
	void *host = vublk_memory_map_guest_in(map, ring->near[0], desc.addr, desc.len);

	if (!ring->has_indirect || !desc.len || desc.len % sizeof(desc) ||
	    desc.len > VUBLK_RING_MAX_INDIRECT * sizeof(desc) ||
	    (uintptr_t)host % sizeof(uint64_t))
		return NULL;
	return host;
}

/*
 * Reads a chain of readable and then writable buffers, each in the same region as the previous
 * chain's buffer at this position. False: it is another kind of chain; only `chain` was
 * written.
 */
static VUBLK_ALWAYS_INLINE bool read_usual(struct vublk_device_ring *ring,
					  const struct vublk_memory_map *map,
					  struct vublk_chain *chain, bool wants_guest)
{
	const struct vring_desc *table = ring->memory.desc;
	struct vring_desc desc = vublk_split_read_desc(&table[chain->head]);
	unsigned count = ring->size, filled = 0, num_out = 0;
	uint64_t in_bytes = 0, out_bytes = 0;

	if (desc.flags == VRING_DESC_F_INDIRECT) {
		table = usual_table(ring, map, desc);
		if (!table)
			return false;
		count = desc.len / sizeof(desc);
		desc = vublk_split_read_desc(&table[0]);
	}
	for (;; desc = vublk_split_read_desc(&table[desc.next])) {
		void *host = vublk_memory_map_guest_in(map, *near_of(ring, filled), desc.addr,
						       desc.len);

		if (!host || !desc.len || filled == chain->max_iov || filled == count)
			return false;
		if (wants_guest)
			chain->guest_addrs[filled] = desc.addr;
		chain->iov[filled++] = (struct iovec){ host, desc.len };
		if (desc.flags & VRING_DESC_F_WRITE) {
			in_bytes += desc.len;
		} else {
			out_bytes += desc.len;
			if (++num_out != filled)
				return false;
		}
		if (!(desc.flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT)))
			break;
		if (desc.flags & VRING_DESC_F_INDIRECT || desc.next >= count)
			return false;
	}
	chain->num_out = num_out;
	chain->num_in = filled - num_out;
	chain->out_bytes = out_bytes;
	chain->in_bytes = in_bytes;
	return out_bytes + in_bytes <= CHAIN_MAX_BYTES;
}

/* --- refusals -------------------------------------------------------------- */

static int refuse(const struct vublk_chain *chain, const char *what, struct vublk_error *error)
{
	return vublk_error_set(error, EBADMSG, "the chain at descriptor %u has %s", chain->head,
			       what);
}

static int refuse_buffer(int cause, const struct vublk_chain *chain, const struct vring_desc *desc,
			 struct vublk_error *error)
{
	if (cause == -E2BIG)
		return vublk_error_set(error, EBADMSG,
				       "the chain at descriptor %u has more than %u segments",
				       chain->head, chain->max_iov);
	return vublk_error_set(error, EBADMSG,
			       "the chain at descriptor %u has a buffer of %u bytes at 0x%" PRIx64
			       ", which is not within the driver's memory", chain->head, desc->len,
			       (uint64_t)desc->addr);
}

/* --- any chain ------------------------------------------------------------- */

/* The descriptors that a chain is read from: the ring's, then perhaps an indirect table. */
struct walk {
	const struct vring_desc *table;
	unsigned count;
	unsigned left; /* descriptors that may still follow; a chain with more has a loop */
	unsigned index;
	bool is_indirect;
};

/* Stores the guest addresses of the `n` iovecs of one buffer. */
static void note_guest(struct vublk_chain *chain, unsigned filled, int n, uint64_t addr)
{
	for (int i = 0; chain->guest_addrs && i < n; i++) {
		chain->guest_addrs[filled + (unsigned)i] = addr;
		addr += chain->iov[filled + (unsigned)i].iov_len;
	}
}

/*
 * Adds the iovecs of a buffer, and returns their number. If the buffer lies in one region, the
 * ring remembers the region's number.
 */
static int translate(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
		     struct vublk_chain *chain, const struct vring_desc *desc)
{
	unsigned filled = chain->num_out + chain->num_in;
	void *host = vublk_memory_map_guest_find(map, near_of(ring, filled), desc->addr,
						 desc->len);

	if (!host || filled == chain->max_iov)
		return vublk_memory_map_iov(map, desc->addr, desc->len, chain->iov + filled,
					    chain->max_iov - filled);
	chain->iov[filled] = (struct iovec){ host, desc->len };
	return 1;
}

/*
 * The specification gives a buffer of 0 bytes no meaning, and its address cannot be checked.
 * No known driver makes one, and QEMU refuses them, too.
 */
static int add_buffer(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
		      struct vublk_chain *chain, const struct vring_desc *desc,
		      struct vublk_error *error)
{
	bool is_writable = desc->flags & VRING_DESC_F_WRITE;
	int n;

	if (!desc->len)
		return refuse(chain, "an empty buffer", error);
	if (!is_writable && chain->num_in)
		return refuse(chain, "a readable buffer after a writable one", error);
	n = translate(ring, map, chain, desc);
	if (n < 0)
		return refuse_buffer(n, chain, desc, error);
	note_guest(chain, chain->num_out + chain->num_in, n, desc->addr);
	if (is_writable) {
		chain->num_in += (unsigned)n;
		chain->in_bytes += desc->len;
	} else {
		chain->num_out += (unsigned)n;
		chain->out_bytes += desc->len;
	}
	if (chain->out_bytes + chain->in_bytes > CHAIN_MAX_BYTES)
		return refuse(chain, "more than 2^32 bytes", error);
	return 0;
}

/* Returns the table in place, or a copy if the table spans regions or is not aligned. */
static const struct vring_desc *find_table(struct vublk_device_ring *ring,
					   const struct vublk_memory_map *map,
					   const struct vring_desc *desc)
{
	void *host = vublk_memory_map_guest_find(map, near_of(ring, 0), desc->addr, desc->len);

	if (host && !((uintptr_t)host % sizeof(uint64_t)))
		return host;
	return vublk_memory_map_read(map, desc->addr, ring->table, desc->len) < 0 ? NULL :
										   ring->table;
}

/* Ignores the flag WRITE and the field next of a descriptor with a table (2.7.5.3.2). */
static int enter_table(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
		       const struct vublk_chain *chain, const struct vring_desc *desc,
		       struct walk *walk, struct vublk_error *error)
{
	const struct vring_desc *table = NULL;
	const char *wrong = NULL;

	if (!ring->has_indirect)
		wrong = "but INDIRECT_DESC was not negotiated";
	else if (walk->is_indirect)
		wrong = "inside an indirect table";
	else if (desc->flags & VRING_DESC_F_NEXT)
		wrong = "in a descriptor that also has the flag NEXT";
	else if (!desc->len || desc->len % sizeof(*desc))
		wrong = "whose length is not a positive multiple of 16 bytes";
	else if (desc->len / sizeof(*desc) > VUBLK_RING_MAX_INDIRECT)
		wrong = "that is longer than any request needs";
	else if (!(table = find_table(ring, map, desc)))
		wrong = "that is not within the driver's memory";
	if (wrong)
		return vublk_error_set(error, EBADMSG, "the chain at descriptor %u has an indirect "
				       "table %s (%u bytes at 0x%" PRIx64 ")", chain->head, wrong,
				       desc->len, (uint64_t)desc->addr);
	*walk = (struct walk){
		.table = table,
		.count = desc->len / sizeof(*desc),
		.left = desc->len / sizeof(*desc),
		.is_indirect = true,
	};
	return 0;
}

/* Reads the descriptor at walk->index. 1: it was the last; 0: continue. */
static int step(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
		struct vublk_chain *chain, struct walk *walk, struct vublk_error *error)
{
	struct vring_desc desc;
	int r;

	if (!walk->left--)
		return vublk_error_set(error, EBADMSG, "the chain at descriptor %u has a loop: it is "
				       "longer than the %u descriptors of its table", chain->head,
				       walk->count);
	desc = vublk_split_read_desc(&walk->table[walk->index]);
	if (desc.flags & VRING_DESC_F_INDIRECT)
		return enter_table(ring, map, chain, &desc, walk, error);
	r = add_buffer(ring, map, chain, &desc, error);
	if (r < 0)
		return r;
	if (!(desc.flags & VRING_DESC_F_NEXT))
		return 1;
	if (desc.next >= walk->count)
		return vublk_error_set(error, EBADMSG, "the chain at descriptor %u continues at "
				       "descriptor %u of %u", chain->head, desc.next, walk->count);
	walk->index = desc.next;
	return 0;
}

static VUBLK_COLD int read_any(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			       struct vublk_chain *chain, struct vublk_error *error)
{
	struct walk walk = {
		.table = ring->memory.desc,
		.count = ring->size,
		.left = ring->size,
		.index = chain->head,
	};
	int r;

	chain->num_out = chain->num_in = 0;
	chain->out_bytes = chain->in_bytes = 0;
	do
		r = step(ring, map, chain, &walk, error);
	while (!r);
	return r;
}

int vublk_split_read_chain(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   uint16_t head, struct vublk_chain *chain, struct vublk_error *error)
{
	bool is_usual;

	chain->head = head;
	/* Two copies of the loop, because most device ends need no guest addresses. */
	if (chain->guest_addrs)
		is_usual = read_usual(ring, map, chain, true);
	else
		is_usual = read_usual(ring, map, chain, false);
	return is_usual ? 1 : read_any(ring, map, chain, error);
}
