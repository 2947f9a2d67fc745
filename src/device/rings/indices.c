/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads the avail index, the used index and avail_event of a ring in the guest's memory. Except for
 * the plane, no other part of the device accesses a ring's memory.
 *
 * Key idea: the avail index minus the used index is an upper bound on the number of outstanding
 * requests. It does not say which requests are outstanding, or which of them a back-end has begun.
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

/*
 * Reads an aligned index in the guest's memory. The read is the other half of barrier pairs A and B
 * in virtio/split.h.
 */
static int read_index(const struct vublk_device *device, uint64_t addr, uint16_t *index,
		      struct vublk_error *error)
{
	const struct vublk_memory_region *region = find_region(device, addr);
	uint16_t raw;
	int r;

	if (!region)
		return vublk_error_set(error, EINVAL,
				       "the ring's index at 0x%" PRIx64 " is outside the guest's "
				       "memory", addr);
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

int vublk_device_read_avail_event(const struct vublk_device *device, unsigned index,
				  uint16_t *event, struct vublk_error *error)
{
	const struct vublk_device_queue *queue = &device->queues[index];

	return read_index(device, queue->used_addr + offsetof(struct vring_used, ring) +
			  queue->size * sizeof(struct vring_used_elem), event, error);
}

/*
 * If the used index has passed the avail index that was recorded at the loss, the lost back-end
 * continued after the loss. In that case, it may have seen every request that the driver has added
 * since. The subtraction then makes `at_loss` wrap around to a large number, so all requests count.
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
