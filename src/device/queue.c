/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The queues as the driver has set them up, and the checks before they are handed to the back-end.
 * This file never reads the memory of a ring.
 *
 * Key idea: the set-up is in three arrays. `queues` has the driver's set-up, `bases` the index at
 * which each queue resumes, and `rings` the set-up that the back-end has or is being given, without
 * the queues that are not used.
 */
#include "device/device.h"

#include "util/checked.h"
#include "util/error.h"
#include "util/struct.h"
#include "virtio/ring.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

void vublk_device_unwatch_kicks(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_queues; i++)
		vublk_loop_remove(&device->kick_sources[i]);
}

int vublk_device_queues_init(struct vublk_device *device, struct vublk_error *error)
{
	device->queues = calloc(device->num_queues, sizeof(*device->queues));
	device->bases = calloc(device->num_queues, sizeof(*device->bases));
	device->rings = calloc(device->num_queues, sizeof(*device->rings));
	device->lost_avail = calloc(device->num_queues, sizeof(*device->lost_avail));
	device->notifiers_changed = calloc(device->num_queues, 1);
	device->kick_sources = calloc(device->num_queues, sizeof(*device->kick_sources));
	device->notifiers = calloc(2 * device->num_queues, sizeof(*device->notifiers));
	device->num_rings = 0;
	device->num_notifiers = 0;
	if (device->queues && device->bases && device->rings && device->lost_avail &&
	    device->notifiers_changed && device->kick_sources && device->notifiers)
		return 0;
	vublk_device_queues_deinit(device);
	return vublk_error_set_errno(error, ENOMEM, "cannot allocate %u queues",
				     device->num_queues);
}

void vublk_device_queues_deinit(struct vublk_device *device)
{
	if (device->kick_sources)
		vublk_device_unwatch_kicks(device);
	free(device->kick_sources);
	free(device->queues);
	free(device->bases);
	free(device->rings);
	free(device->lost_avail);
	free(device->notifiers_changed);
	free(device->notifiers);
	device->queues = NULL;
	device->bases = NULL;
	device->rings = NULL;
	device->lost_avail = NULL;
	device->notifiers_changed = NULL;
	device->notifiers = NULL;
	device->kick_sources = NULL;
	device->num_rings = 0;
	device->num_notifiers = 0;
	device->num_queues = 0;
}

unsigned vublk_device_num_queues(const struct vublk_device *device)
{
	return device->num_queues;
}

unsigned vublk_device_queue_size(const struct vublk_device *device)
{
	return device->num_queues ? (unsigned)device->settings.queue_size : 0;
}

void vublk_device_queues_reset(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_queues; i++)
		device->queues[i] = (struct vublk_device_queue){ .kick_fd = -1, .call_fd = -1 };
	vublk_device_unwatch_kicks(device);
	vublk_device_post_update(device);
}

/* --- set-up ----------------------------------------------------------------------------- */

int vublk_device_queue_check(const struct vublk_device *device, unsigned index,
			     const struct vublk_device_queue *queue, struct vublk_error *error)
{
	unsigned max = vublk_device_queue_size(device);

	if (!vublk_is_power_of_two(queue->size) || queue->size < VUBLK_MIN_QUEUE_SIZE ||
	    queue->size > max)
		return vublk_error_set(error, EINVAL,
				       "queue %u: the size must be a power of two from %u to %u, "
				       "not %u",
				       index, VUBLK_MIN_QUEUE_SIZE, max, queue->size);
	if (queue->desc_addr % VRING_DESC_ALIGN_SIZE ||
	    queue->avail_addr % VRING_AVAIL_ALIGN_SIZE ||
	    queue->used_addr % VRING_USED_ALIGN_SIZE)
		return vublk_error_set(error, EINVAL,
				       "queue %u: the parts of the ring are at 0x%" PRIx64 ", "
				       "0x%" PRIx64 " and 0x%" PRIx64 "; expected addresses "
				       "aligned to 16, 2 and 4 bytes", index,
				       queue->desc_addr, queue->avail_addr, queue->used_addr);
	return 0;
}

int vublk_device_set_queue(struct vublk_device *device, unsigned index,
			   const struct vublk_device_queue *given, size_t given_bytes,
			   struct vublk_error *error)
{
	int r = vublk_device_require_set_up(device, "setting up a queue", error);
	struct vublk_device_queue queue = { .kick_fd = -1, .call_fd = -1 }, before;

	if (r < 0)
		return r;
	if (index >= device->num_queues)
		return vublk_error_set(error, EINVAL, "there is no queue %u; the device has %u "
				       "queue%s", index, device->num_queues,
				       device->num_queues == 1 ? "" : "s");
	r = vublk_struct_needs(struct vublk_device_queue, call_fd, given, given_bytes, error);
	if (given && !r)
		r = vublk_struct_in(&queue, sizeof(queue), given, given_bytes,
				    "vublk_device_queue", error);
	if (given && !r)
		r = vublk_device_queue_check(device, index, &queue, error);
	if (r < 0)
		return r;
	before = device->queues[index];
	device->queues[index] = queue;
	/*
	 * If the driver is ready, the check at DRIVER_OK is over, so this set-up is checked here.
	 */
	if (vublk_device_is_driver_ready(device))
		r = vublk_device_queues_check(device, &device->memory, error);
	if (r < 0)
		device->queues[index] = before;
	else
		device->bases[index] = queue.base;
	vublk_device_unwatch_kicks(device);
	vublk_device_post_update(device);
	return r;
}

int vublk_device_get_queue(const struct vublk_device *device, unsigned index,
			   struct vublk_device_queue *queue, size_t queue_bytes)
{
	struct vublk_device_queue set_up;

	if (index >= device->num_queues)
		return -EINVAL;
	set_up = device->queues[index];
	set_up.base = device->bases[index];
	vublk_struct_out(queue, queue_bytes, &set_up, sizeof(set_up));
	return 0;
}

uint16_t vublk_device_queue_base(const struct vublk_device *device, unsigned index)
{
	return index < device->num_queues ? device->bases[index] : 0;
}

/* --- places ------------------------------------------------------------------------------- */

static bool is_in_memory(const struct vublk_frontend_memory *memory, uint64_t addr,
			 uint64_t bytes)
{
	for (unsigned i = 0; i < memory->num_regions; i++) {
		const struct vublk_memory_region *region = &memory->regions[i].region;

		if (addr >= region->guest_addr &&
		    vublk_range_within(addr - region->guest_addr, bytes, region->size_bytes))
			return true;
	}
	return false;
}

int vublk_device_queues_check(const struct vublk_device *device,
			      const struct vublk_frontend_memory *memory,
			      struct vublk_error *error)
{
	for (unsigned i = 0; i < device->num_queues; i++) {
		const struct vublk_device_queue *queue = &device->queues[i];

		if (!queue->size ||
		    (is_in_memory(memory, queue->desc_addr, vublk_split_desc_bytes(queue->size)) &&
		     is_in_memory(memory, queue->avail_addr,
				  vublk_split_avail_bytes(queue->size)) &&
		     is_in_memory(memory, queue->used_addr, vublk_split_used_bytes(queue->size))))
			continue;
		return vublk_error_set(error, EINVAL,
				       "queue %u: the parts of the ring, at 0x%" PRIx64 ", "
				       "0x%" PRIx64 " and 0x%" PRIx64 ", are not all in the "
				       "guest's memory", i,
				       queue->desc_addr, queue->avail_addr, queue->used_addr);
	}
	return 0;
}

int vublk_device_check_start(const struct vublk_device *device, struct vublk_error *error)
{
	if (device->state == VUBLK_DEVICE_LOST && !device->reconnect.lost_ns)
		return vublk_error_set(error, ENOTCONN,
				       "the device cannot start, because the connection to its "
				       "back-end was lost");
	if (!device->has_acked_features)
		return vublk_error_set(error, EINVAL,
				       "the device cannot start, because the driver has not "
				       "accepted features");
	if (!device->memory.num_regions)
		return vublk_error_set(error, EINVAL,
				       "the device cannot start, because the guest's memory has "
				       "not been set");
	return vublk_device_queues_check(device, &device->memory, error);
}

/* --- handing over ---------------------------------------------------------------------------- */

void vublk_device_queues_collect(struct vublk_device *device)
{
	device->num_rings = 0;
	for (unsigned i = 0; i < device->num_queues; i++) {
		const struct vublk_device_queue *queue = &device->queues[i];

		if (!queue->size)
			continue;
		device->rings[device->num_rings++] = (struct vublk_frontend_queue){
			.index = (uint16_t)i,
			.size = queue->size,
			.base = device->bases[i],
			.desc_addr = queue->desc_addr,
			.avail_addr = queue->avail_addr,
			.used_addr = queue->used_addr,
			.kick_fd = queue->kick_fd,
			.call_fd = queue->call_fd,
			.err_fd = -1,
		};
	}
}

void vublk_device_queues_store_bases(struct vublk_device *device)
{
	for (unsigned i = 0; i < device->num_rings; i++)
		device->bases[device->rings[i].index] = device->rings[i].base;
	device->num_rings = 0;
}
