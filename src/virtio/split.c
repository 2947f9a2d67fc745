/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Computes and checks the layout of a split ring (virtio 1.3, section 2.7), for both ends. */
#include "virtio/split.h"

#include "util/checked.h"
#include "util/error.h"

#include <errno.h>
#include <inttypes.h>

uint64_t vublk_split_desc_bytes(unsigned size)
{
	return sizeof(struct vring_desc) * (uint64_t)size;
}

uint64_t vublk_split_avail_bytes(unsigned size)
{
	return sizeof(struct vring_avail) + sizeof(uint16_t) * ((uint64_t)size + 1);
}

uint64_t vublk_split_used_bytes(unsigned size)
{
	return sizeof(struct vring_used) + sizeof(struct vring_used_elem) * (uint64_t)size +
	       sizeof(uint16_t);
}

static int check_part(const char *name, const void *part, unsigned alignment,
		      struct vublk_error *error)
{
	if (part && (uintptr_t)part % alignment == 0)
		return 0;
	return vublk_error_set(error, EINVAL,
			       "the ring's %s is at %p; expected a multiple of %u; check the ring "
			       "addresses that the driver set", name, part,
			       alignment);
}

int vublk_split_ring_check(const struct vublk_split_ring *memory, unsigned size,
			   struct vublk_error *error)
{
	int ret;

	if (!vublk_is_power_of_two(size) || size > VUBLK_RING_MAX_SIZE)
		return vublk_error_set(error, EINVAL,
				       "the ring has %u entries; expected a power of two up to %u",
				       size, VUBLK_RING_MAX_SIZE);
	ret = check_part("descriptor table", memory->desc, VRING_DESC_ALIGN_SIZE, error);
	if (ret < 0)
		return ret;
	ret = check_part("available ring", memory->avail, VRING_AVAIL_ALIGN_SIZE, error);
	if (ret < 0)
		return ret;
	return check_part("used ring", memory->used, VRING_USED_ALIGN_SIZE, error);
}

/* A part of a ring, before its address is translated. */
struct part {
	const char *name;
	uint64_t addr, bytes;
};

int vublk_split_ring_find(const struct vublk_memory_map *map, vublk_split_translate_fn *translate,
			  const struct vublk_split_addrs *addrs, unsigned size,
			  struct vublk_split_ring *ring, struct vublk_error *error)
{
	const struct part parts[] = {
		{ "descriptor table", addrs->desc, vublk_split_desc_bytes(size) },
		{ "avail ring", addrs->avail, vublk_split_avail_bytes(size) },
		{ "used ring", addrs->used, vublk_split_used_bytes(size) },
	};
	void *hosts[VUBLK_ARRAY_SIZE(parts)];

	for (unsigned i = 0; i < VUBLK_ARRAY_SIZE(parts); i++) {
		hosts[i] = translate(map, parts[i].addr, parts[i].bytes);
		if (!hosts[i])
			return vublk_error_set(error, EFAULT, "the %s of 0x%" PRIx64 " bytes at "
					       "0x%" PRIx64 " is outside the shared memory",
					       parts[i].name, parts[i].bytes, parts[i].addr);
	}
	*ring = (struct vublk_split_ring){ hosts[0], hosts[1], hosts[2] };
	return vublk_split_ring_check(ring, size, error);
}
