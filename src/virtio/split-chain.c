/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads a descriptor chain at the device end (virtio 1.3, sections 2.7.5 and 2.7.7). Every request
 * takes this path.
 *
 * Key idea: a reader loads each descriptor once, as a whole, and checks and uses only the copy.
 * There are three readers, from the fastest to the most general: read_three() for the chain of most
 * requests, read_usual() for usual chains (a loop without function calls, whose variables fit into
 * registers), and read_any() for every chain. If a reader does not accept a chain, the next one
 * starts again at the chain's head, and uses nothing that the earlier one has read. Only read_any()
 * looks up the regions of buffers, and writes error texts.
 *
 * A chain that never ends cannot block a reader. The size of the ring, the length of the indirect
 * table and the number of the caller's iovecs limit how many descriptors are read.
 */
#include "virtio/split-chain.h"

#include "util/checked.h"
#include "util/error.h"
#include "virtio/split.h"

#include <errno.h>
#include <inttypes.h>

/* Virtio forbids a descriptor chain that is longer than 2^32 bytes in total (2.7.5.2). */
#define CHAIN_MAX_BYTES (UINT64_C(1) << 32)

/* --- the usual chain ------------------------------------------------------- */

/* The state of the loop that reads a usual chain. The compiler keeps all of it in registers. */
struct usual {
	const struct vring_desc *table;
	unsigned count;      /* number of entries in the table */
	uint64_t addr, rest; /* the two words of the descriptor that was read last */
	struct iovec *iov;   /* the next iovec to fill */
	const struct iovec *end;
	uint64_t *guest_addr;
	uint64_t bytes;
};

static VUBLK_ALWAYS_INLINE uint16_t flags_of(const struct usual *usual)
{
	return (uint16_t)(usual->rest >> 32);
}

static VUBLK_ALWAYS_INLINE bool read_usual_desc(struct usual *usual, uint64_t index)
{
	const uint64_t *words;

	if (index >= usual->count)
		return false;
	words = (const uint64_t *)&usual->table[index];
	usual->addr = vublk_load_relaxed(&words[0]);
	usual->rest = vublk_load_relaxed(&words[1]);
	return true;
}

/*
 * Translates the buffer [addr, addr + bytes). Returns false unless the buffer lies in `region`. A
 * buffer of 0 bytes lies in no region.
 */
static VUBLK_ALWAYS_INLINE bool translate_in(const struct vublk_memory_map_region *region,
					     uint64_t addr, uint64_t bytes, char **host)
{
	uint64_t first = addr - region->guest_addr, last;

	if (__builtin_add_overflow(first, bytes - 1, &last) || last >= region->size_bytes)
		return false;
	*host = region->host + first;
	return true;
}

/* Translates the buffer of the descriptor that was read last. */
static VUBLK_ALWAYS_INLINE bool translate_usual(const struct vublk_memory_map_region *region,
						const struct usual *usual, char **host)
{
	return translate_in(region, usual->addr, (uint32_t)usual->rest, host);
}

static VUBLK_ALWAYS_INLINE bool add_usual(const struct vublk_memory_map_region *region,
					  struct usual *usual, bool wants_guest)
{
	char *host;

	if (usual->iov == usual->end || !translate_usual(region, usual, &host))
		return false;
	if (wants_guest)
		*usual->guest_addr++ = usual->addr;
	usual->bytes += (uint32_t)usual->rest;
	*usual->iov++ = (struct iovec){ host, (uint32_t)usual->rest };
	return true;
}

/*
 * Adds the buffer of the descriptor that was read last, and reads the next descriptor. Returns
 * false if the chain is not a usual one.
 */
static VUBLK_ALWAYS_INLINE bool add_usual_and_read(const struct vublk_memory_map_region *region,
						   struct usual *usual, bool wants_guest)
{
	return add_usual(region, usual, wants_guest) && read_usual_desc(usual, usual->rest >> 48);
}

/*
 * Enters the indirect table of the descriptor that was read last, and reads the table's first
 * descriptor. Returns false unless INDIRECT_DESC was negotiated and the table lies in the region
 * that the ring remembers, is aligned, consists of whole descriptors and is not too long.
 */
static VUBLK_ALWAYS_INLINE bool enter_usual(const struct vublk_device_ring *ring,
					    struct usual *usual)
{
	uint32_t bytes = (uint32_t)usual->rest;
	char *host;

	if (!ring->has_indirect || bytes % sizeof(struct vring_desc) ||
	    bytes > VUBLK_RING_MAX_INDIRECT * sizeof(struct vring_desc) ||
	    !translate_usual(ring->near[VUBLK_NEAR_HEAD], usual, &host) ||
	    (uintptr_t)host % sizeof(uint64_t))
		return false;
	usual->table = (const struct vring_desc *)host;
	usual->count = bytes / sizeof(struct vring_desc);
	return read_usual_desc(usual, 0);
}

/*
 * Reads a usual chain: at least one readable buffer, then at least one writable one, and all of
 * them in the regions that the ring remembers. Returns false if the chain is of another kind or too
 * long, and has then written only to `chain` and its arrays.
 */
static VUBLK_ALWAYS_INLINE bool read_usual(const struct vublk_device_ring *ring,
					  struct vublk_chain *chain, bool wants_guest)
{
	const struct vublk_memory_map_region *first = ring->near[VUBLK_NEAR_HEAD];
	struct usual usual = {
		.table = ring->memory.desc, .count = ring->size,
		.iov = chain->iov, .guest_addr = chain->guest_addrs,
	};
	struct iovec *writable;

	if (!read_usual_desc(&usual, chain->head))
		return false;
	if (flags_of(&usual) == VRING_DESC_F_INDIRECT) {
		if (!enter_usual(ring, &usual))
			return false;
		first = ring->near[VUBLK_NEAR_FIRST];
	}
	usual.end = usual.iov + VUBLK_MIN(chain->max_iov, usual.count);
	if (flags_of(&usual) != VRING_DESC_F_NEXT || !add_usual_and_read(first, &usual, wants_guest))
		return false;
	while (flags_of(&usual) == VRING_DESC_F_NEXT)
		if (!add_usual_and_read(ring->near[VUBLK_NEAR_MIDDLE], &usual, wants_guest))
			return false;
	writable = usual.iov;
	chain->out_bytes = usual.bytes;
	while (flags_of(&usual) == (VRING_DESC_F_NEXT | VRING_DESC_F_WRITE))
		if (!add_usual_and_read(ring->near[VUBLK_NEAR_MIDDLE], &usual, wants_guest))
			return false;
	if (flags_of(&usual) != VRING_DESC_F_WRITE ||
	    !add_usual(ring->near[VUBLK_NEAR_LAST], &usual, wants_guest))
		return false;
	chain->num_out = (unsigned)(writable - chain->iov);
	chain->num_in = (unsigned)(usual.iov - writable);
	chain->in_bytes = usual.bytes - chain->out_bytes;
	return usual.bytes <= CHAIN_MAX_BYTES;
}

/* --- the chain of most requests -------------------------------------------- */

/*
 * Reads entry `i` of the table into iov[i] and, if `wants_guest` is set, guest[i]. Returns false
 * unless the upper half of the entry's second word (its flags and `next`) equals `wanted`, apart
 * from the bits in `ignored`, and the buffer lies in `region`. Stores the entry's flags. The
 * results are stored immediately, so few registers are needed.
 */
static VUBLK_ALWAYS_INLINE bool fill(const struct vublk_memory_map_region *region,
				     const struct vring_desc *table, unsigned i, uint64_t ignored,
				     uint64_t wanted, struct iovec *iov, uint64_t *guest,
				     bool wants_guest, unsigned *flags)
{
	const uint64_t *words = (const uint64_t *)&table[i];
	uint64_t addr = vublk_load_relaxed(&words[0]);
	uint64_t rest = vublk_load_relaxed(&words[1]);
	char *host;

	if ((rest >> 32 & ~ignored) != wanted ||
	    !translate_in(region, addr, (uint32_t)rest, &host))
		return false;
	iov[i] = (struct iovec){ host, (uint32_t)rest };
	if (wants_guest)
		guest[i] = addr;
	*flags = (uint16_t)(rest >> 32);
	return true;
}

/*
 * Reads a chain of three buffers in an indirect table, in this order: a header, data and a status.
 * Returns false if the chain is of another kind or too long, and has then written only to `chain`
 * and its arrays.
 */
static VUBLK_ALWAYS_INLINE bool read_three(const struct vublk_device_ring *ring, uint16_t head,
					   struct vublk_chain *chain, bool wants_guest)
{
	const uint64_t *words = (const uint64_t *)&ring->memory.desc[head];
	uint64_t addr = vublk_load_relaxed(&words[0]);
	uint64_t rest = vublk_load_relaxed(&words[1]);
	uint64_t *guest = chain->guest_addrs;
	const uint64_t next_of_status = UINT64_C(0xffff0000);
	const struct vring_desc *table;
	struct iovec *iov = chain->iov;
	uint64_t data_in, bytes;
	unsigned flags, is_read;
	char *host;

	if ((uint16_t)(rest >> 32) != VRING_DESC_F_INDIRECT || (uint32_t)rest != 3 * sizeof(*table) ||
	    !ring->has_indirect || chain->max_iov < 3 ||
	    !translate_in(ring->near[VUBLK_NEAR_HEAD], addr, 3 * sizeof(*table), &host) ||
	    (uintptr_t)host % sizeof(uint64_t))
		return false;
	table = (const struct vring_desc *)host;
	if (!fill(ring->near[VUBLK_NEAR_FIRST], table, 0, 0, VRING_DESC_F_NEXT | 1 << 16, iov,
		  guest, wants_guest, &flags) ||
	    !fill(ring->near[VUBLK_NEAR_LAST], table, 2, next_of_status, VRING_DESC_F_WRITE, iov,
		  guest, wants_guest, &flags) ||
	    !fill(ring->near[VUBLK_NEAR_MIDDLE], table, 1, VRING_DESC_F_WRITE,
		  VRING_DESC_F_NEXT | 2 << 16, iov, guest, wants_guest, &flags))
		return false;
	is_read = flags / VRING_DESC_F_WRITE;
	data_in = is_read ? iov[1].iov_len : 0;
	bytes = iov[0].iov_len + iov[1].iov_len + iov[2].iov_len;
	chain->num_out = 2 - is_read;
	chain->num_in = 1 + is_read;
	chain->in_bytes = data_in + iov[2].iov_len;
	chain->out_bytes = bytes - chain->in_bytes;
	return bytes <= CHAIN_MAX_BYTES;
}

/* --- regions ------------------------------------------------------------------- */

VUBLK_COLD void vublk_split_forget_regions(struct vublk_device_ring *ring,
					   const struct vublk_memory_map *map)
{
	static const struct vublk_memory_map_region nowhere;

	ring->near_regions = map->regions;
	ring->near_count = map->num_regions;
	for (unsigned i = 0; i < VUBLK_NUM_NEARS; i++)
		ring->near[i] = map->num_regions ? &map->regions[0] : &nowhere;
}

/*
 * Translates [addr, addr + bytes). Returns NULL unless the range lies in one region, which the ring
 * then remembers for `which`.
 */
static void *find_and_remember(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			       enum vublk_device_ring_near which, uint64_t addr, uint64_t bytes)
{
	unsigned number;
	void *host = vublk_memory_map_guest_find(map, &number, addr, bytes);

	if (host)
		ring->near[which] = &map->regions[number];
	return host;
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
			       "the chain at descriptor %u has a buffer of %u bytes at "
			       "0x%" PRIx64 ", which is outside the driver's memory",
			       chain->head, desc->len, (uint64_t)desc->addr);
}

/* --- any chain ------------------------------------------------------------- */

/* The position in a chain. `table` is the ring's descriptor table or, later, an indirect table. */
struct walk {
	const struct vring_desc *table;
	unsigned count;
	unsigned left; /* how many more descriptors may be read; a longer chain has a loop */
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

static enum vublk_device_ring_near which_buffer(const struct walk *walk, unsigned filled,
						const struct vring_desc *desc)
{
	if (!filled)
		return walk->is_indirect ? VUBLK_NEAR_FIRST : VUBLK_NEAR_HEAD;
	return desc->flags & VRING_DESC_F_NEXT ? VUBLK_NEAR_MIDDLE : VUBLK_NEAR_LAST;
}

/*
 * Adds the iovecs of a buffer. Returns their number, or a negative errno. If the buffer lies in one
 * region, the ring remembers this region.
 */
static int translate(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
		     struct vublk_chain *chain, const struct walk *walk,
		     const struct vring_desc *desc)
{
	unsigned filled = chain->num_out + chain->num_in;
	void *host = find_and_remember(ring, map, which_buffer(walk, filled, desc), desc->addr,
				       desc->len);

	if (!host || filled == chain->max_iov)
		return vublk_memory_map_iov(map, desc->addr, desc->len, chain->iov + filled,
					    chain->max_iov - filled);
	chain->iov[filled] = (struct iovec){ host, desc->len };
	return 1;
}

/*
 * Adds a buffer. A buffer of 0 bytes is refused, because the specification gives it no meaning, and
 * its address cannot be checked. No known driver makes such a buffer, and QEMU also refuses it.
 */
static int add_buffer(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
		      struct vublk_chain *chain, const struct walk *walk,
		      const struct vring_desc *desc, struct vublk_error *error)
{
	bool is_writable = desc->flags & VRING_DESC_F_WRITE;
	int n;

	if (!desc->len)
		return refuse(chain, "an empty buffer", error);
	if (!is_writable && chain->num_in)
		return refuse(chain, "a readable buffer after a writable one", error);
	n = translate(ring, map, chain, walk, desc);
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

/*
 * Returns the indirect table, or a copy of it if it spans regions or is not aligned. NULL: a part
 * of the table is outside the driver's memory.
 */
static const struct vring_desc *find_table(struct vublk_device_ring *ring,
					   const struct vublk_memory_map *map,
					   const struct vring_desc *desc)
{
	void *host = find_and_remember(ring, map, VUBLK_NEAR_HEAD, desc->addr, desc->len);

	if (host && !((uintptr_t)host % sizeof(uint64_t)))
		return host;
	return vublk_memory_map_read(map, desc->addr, ring->table, desc->len) < 0 ? NULL :
										   ring->table;
}

/*
 * Continues with the indirect table of `desc`. Ignores the flag WRITE and the field `next` of
 * `desc` (2.7.5.3.2).
 */
static int enter_table(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
		       const struct vublk_chain *chain, const struct vring_desc *desc,
		       struct walk *walk, struct vublk_error *error)
{
	const struct vring_desc *table = NULL;
	const char *wrong = NULL;

	if (!ring->has_indirect)
		wrong = "although INDIRECT_DESC was not negotiated";
	else if (walk->is_indirect)
		wrong = "inside an indirect table";
	else if (desc->flags & VRING_DESC_F_NEXT)
		wrong = "in a descriptor that also has the flag NEXT";
	else if (!desc->len || desc->len % sizeof(*desc))
		wrong = "whose length is not a positive multiple of 16 bytes";
	else if (desc->len / sizeof(*desc) > VUBLK_RING_MAX_INDIRECT)
		wrong = "that is longer than any request needs";
	else if (!(table = find_table(ring, map, desc)))
		wrong = "that is outside the driver's memory";
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

/*
 * Reads the descriptor at walk->index, and adds its buffer or enters its indirect table. Returns 1
 * if the descriptor was the last one, 0 if the chain continues, or a negative errno.
 */
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
	r = add_buffer(ring, map, chain, walk, &desc, error);
	if (r < 0)
		return r;
	if (!(desc.flags & VRING_DESC_F_NEXT))
		return 1;
	if (desc.next >= walk->count)
		return vublk_error_set(error, EBADMSG, "descriptor %u of the chain at descriptor "
				       "%u has %u as its next descriptor, but the table's last "
				       "descriptor is %u",
				       walk->index, chain->head, desc.next, walk->count - 1);
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

static VUBLK_NOINLINE int read_other(struct vublk_device_ring *ring,
				     const struct vublk_memory_map *map,
				     struct vublk_chain *chain, struct vublk_error *error)
{
	bool is_usual;

	if (chain->guest_addrs)
		is_usual = read_usual(ring, chain, true);
	else
		is_usual = read_usual(ring, chain, false);
	return is_usual ? 1 : read_any(ring, map, chain, error);
}

/*
 * Each fast reader is compiled with and without guest addresses, because most device ends need
 * none. The call of read_other() is a tail call, so this function has few registers to save.
 */
int vublk_split_read_chain(struct vublk_device_ring *ring, const struct vublk_memory_map *map,
			   uint16_t head, struct vublk_chain *chain, struct vublk_error *error)
{
	chain->head = head;
	if (chain->guest_addrs ? read_three(ring, head, chain, true) :
				 read_three(ring, head, chain, false))
		return 1;
	return read_other(ring, map, chain, error);
}
