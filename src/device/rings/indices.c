/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads the avail and used index of a ring in the guest's memory. Apart from the plane, the device
 * reads nothing else of a ring, and writes nothing to it.
 *
 * Key idea: the difference of the two indices is an upper bound on the number of outstanding
 * requests. It does not say which requests they are, nor which of them a back-end has begun.
 *
 * virtio 1.3, sections 2.7.6 and 2.7.8 (the indices of a split ring).
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/memfd.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_ring.h>
#include <stddef.h>

static const struct vublk_memory_region *find_region(const struct vublk_device *device,
						     uint64_t addr)
{
	for (unsigned i = 0; i < device->memory.num_regions; i++) {
		const struct vublk_memory_region *region = &device->memory.regions[i].region;

		if (addr >= region->guest_addr && addr - region->guest_addr < region->size_bytes)
			return region;
	}
	return NULL;
}

/* Reads an aligned index in the guest's memory. Pairs with A and B of virtio/split.h. */
static int read_index(const struct vublk_device *device, uint64_t addr, uint16_t *index,
		      struct vublk_error *error)
{
	const struct vublk_memory_region *region = find_region(device, addr);
	uint16_t raw;
	int r;

	if (!region)
		return vublk_error_set(error, EINVAL,
				       "the ring's index at 0x%" PRIx64 " is not in the memory that "
				       "was set", addr);
	r = vublk_read_shared_u16(region->fd, region->fd_offset, region->size_bytes,
				  addr - region->guest_addr, &raw, error);
	if (r < 0) {
		vublk_error_prepend(error, "the ring's index at 0x%" PRIx64, addr);
		return r;
	}
	*index = le16toh(raw);
	return 0;
}

int vublk_device_read_indices(const struct vublk_device *device, unsigned index, uint16_t *used,
			      uint16_t *avail, struct vublk_error *error)
{
	const struct vublk_device_queue *queue = &device->queues[index];
	int r = read_index(device, queue->used_addr + offsetof(struct vring_used, idx), used,
			   error);

	if (!r)
		r = read_index(device, queue->avail_addr + offsetof(struct vring_avail, idx), avail,
			       error);
	return r;
}

/*
 * A used index past the avail index at the loss means that the back-end still ran after the loss:
 * it may have seen every request that the driver has added since then.
 */
uint16_t vublk_device_count_outstanding(const struct vublk_device *device, unsigned index,
					uint16_t used, uint16_t avail)
{
	uint16_t now = (uint16_t)(avail - used), at_loss;

	if (device->resume != VUBLK_DEVICE_RESUME_RINGS || device->lost_avail[index] < 0)
		return now;
	at_loss = (uint16_t)(device->lost_avail[index] - used);
	return VUBLK_MIN(at_loss, now);
}
