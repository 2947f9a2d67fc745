/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * This file implements the driver's side of the plane. It takes over the rings in the guest's
 * memory and later returns them to the driver. take.c, submit.c and complete.c handle the requests,
 * and side.c implements the back-end's side.
 *
 * Key idea: the driver's rings stay attached when one back-end is lost and another takes its place.
 * During the outage, the driver's requests only take longer.
 */
#include "plane/plane.h"

#include "util/atomic.h"
#include "util/checked.h"
#include "util/error.h"
#include "util/loop.h"
#include "virtio/ring-handover.h"
#include "virtio/split.h"

#include <errno.h>
#include <stdlib.h>

/* --- life ------------------------------------------------------------------ */

int vublk_plane_init(struct vublk_plane *plane, unsigned num_queues, unsigned max_segments,
		     const struct vublk_plane_ops *ops, void *opaque, const struct vublk_log *log,
		     struct vublk_log_limit *limit, struct vublk_error *error)
{
	*plane = (struct vublk_plane){
		.ops = ops,
		.opaque = opaque,
		.log = log,
		.limit = limit,
		.max_segments = max_segments,
		.num_queues = num_queues,
		.queues = calloc(num_queues, sizeof(*plane->queues)),
		.now_ns = vublk_now_ns,
	};
	if (!plane->queues)
		return vublk_error_set_errno(error, ENOMEM, "cannot allocate %u queues",
					     num_queues);
	for (unsigned i = 0; i < num_queues; i++)
		plane->queues[i].index = i;
	return 0;
}

void vublk_plane_deinit(struct vublk_plane *plane)
{
	vublk_plane_keep_deinit(plane);
	vublk_plane_mirror_free(plane);
	free(plane->queues);
	plane->queues = NULL;
}

/* --- the driver's rings ------------------------------------------------------ */

static int find_ring(const struct vublk_plane_setup *setup, const struct vublk_memory_map *map,
		     struct vublk_split_ring *ring, struct vublk_error *error)
{
	const struct vublk_split_addrs addrs = {
		.desc = setup->desc_addr,
		.avail = setup->avail_addr,
		.used = setup->used_addr,
	};

	return vublk_split_ring_find(map, vublk_memory_map_guest, &addrs, setup->size, ring, error);
}

static void free_queue(struct vublk_plane_queue *queue)
{
	vublk_device_ring_deinit(&queue->ring);
	free(queue->slots);
	free(queue->segments);
	free(queue->ranges);
	free(queue->waiters);
	free(queue->counts);
	free(queue->times);
	*queue = (struct vublk_plane_queue){ .index = queue->index };
}

/*
 * Allocates the records of a queue's requests. The arrays for long requests are large, but pages
 * that are never used cost no memory.
 */
static int make_slots(struct vublk_plane *plane, struct vublk_plane_queue *queue, unsigned size)
{
	queue->slots = calloc(size, sizeof(*queue->slots));
	queue->segments = calloc((size_t)size * plane->max_segments, sizeof(*queue->segments));
	queue->ranges = calloc((size_t)size * VUBLK_PLANE_MAX_RANGES, sizeof(*queue->ranges));
	queue->waiters = calloc(size, sizeof(*queue->waiters));
	queue->counts = calloc(size, sizeof(*queue->counts));
	queue->times = calloc(size, sizeof(*queue->times));
	if (!queue->slots || !queue->segments || !queue->ranges || !queue->waiters || !queue->counts ||
	    !queue->times)
		return -ENOMEM;
	for (unsigned i = 0; i < size; i++) {
		queue->slots[i].queue = (uint16_t)queue->index;
		queue->slots[i].head = (uint16_t)i;
	}
	return 0;
}

/* Sets up the device's end of a queue on the ring in `memory`. */
typedef int begin_fn(struct vublk_plane_queue *queue, const struct vublk_plane_setup *setup,
		     uint64_t features, const struct vublk_split_ring *memory,
		     struct vublk_error *error);

/* virtio/split.h explains the letter B at the load of the used index. */
static int begin_queue(struct vublk_plane_queue *queue, const struct vublk_plane_setup *setup,
		       uint64_t features, const struct vublk_split_ring *memory,
		       struct vublk_error *error)
{
	uint16_t base = setup->base;
	int r = vublk_inflight_queue_begin(&queue->inflight, setup->inflight,
					   setup->inflight_entries, memory, setup->size,
					   vublk_load_acquire(&memory->used->idx), /* B */
					   &base, &queue->pending, error);

	if (!r)
		r = vublk_device_ring_init(&queue->ring, memory, setup->size, base, features,
					   error);
	if (!r)
		vublk_device_ring_disable_kicks(&queue->ring);
	return r;
}

/* Like begin_queue(), but changes neither the ring nor the in-flight area. */
static int adopt_queue(struct vublk_plane_queue *queue, const struct vublk_plane_setup *setup,
		       uint64_t features, const struct vublk_split_ring *memory,
		       struct vublk_error *error)
{
	queue->inflight.region = setup->inflight;
	return vublk_device_ring_adopt(&queue->ring, memory, setup->size, features, error);
}

static int attach_queue(struct vublk_plane *plane, struct vublk_plane_queue *queue,
			const struct vublk_plane_setup *setup, uint64_t features,
			const struct vublk_memory_map *map, begin_fn *begin,
			struct vublk_error *error)
{
	struct vublk_split_ring memory;
	int r = find_ring(setup, map, &memory, error);

	if (r < 0)
		return r;
	if (make_slots(plane, queue, setup->size) < 0)
		return vublk_error_set(error, ENOMEM, "cannot allocate %u requests", setup->size);
	r = begin(queue, setup, features, &memory, error);
	if (r < 0)
		return r;
	queue->setup = *setup;
	queue->phase = VUBLK_PLANE_QUEUE_TAKING;
	return 0;
}

static int attach(struct vublk_plane *plane, const struct vublk_plane_setup *setups,
		  uint64_t features, const struct vublk_memory_map *map,
		  const struct vublk_fault *fault, begin_fn *begin, struct vublk_error *error)
{
	unsigned num_slots = 0;
	int r;

	for (unsigned i = 0; i < plane->num_queues; i++)
		num_slots += setups[i].size;
	r = vublk_order_init(&plane->order, num_slots + VUBLK_PLANE_MIRROR_COPIES, error);
	for (unsigned i = 0; i < plane->num_queues && !r; i++) {
		if (!setups[i].size)
			continue;
		r = attach_queue(plane, &plane->queues[i], &setups[i], features, map, begin, error);
		if (r < 0)
			vublk_error_prepend(error, "queue %u", i);
	}
	if (r < 0) {
		vublk_plane_detach(plane);
		return r;
	}
	plane->map = map;
	plane->fault = fault;
	plane->takes = true;
	plane->driver_flushes = features & VUBLK_BIT(VIRTIO_BLK_F_FLUSH);
	return 0;
}

int vublk_plane_adopt(struct vublk_plane *plane, const struct vublk_plane_setup *setups,
		      uint64_t features, const struct vublk_memory_map *map,
		      const struct vublk_fault *fault, struct vublk_error *error)
{
	return attach(plane, setups, features, map, fault, adopt_queue, error);
}

int vublk_plane_attach(struct vublk_plane *plane, const struct vublk_plane_setup *setups,
		       uint64_t features, const struct vublk_memory_map *map,
		       const struct vublk_fault *fault, struct vublk_error *error)
{
	int r = attach(plane, setups, features, map, fault, begin_queue, error);

	for (unsigned i = 0; i < plane->num_queues && !r; i++)
		if (plane->queues[i].pending.count)
			vublk_plane_take_again(plane, &plane->queues[i]);
	return r;
}

void vublk_plane_detach(struct vublk_plane *plane)
{
	if (plane->hooks & VUBLK_PLANE_HOOK_TIME)
		for (struct vublk_plane_slot *slot = plane->first; slot; slot = slot->next)
			vublk_plane_count_drop(plane, slot);
	if (plane->replay)
		vublk_plane_keep_reset(plane);
	if (plane->mirror)
		vublk_plane_mirror_detach(plane);
	for (unsigned i = 0; i < plane->num_queues; i++)
		free_queue(&plane->queues[i]);
	plane->first = plane->last = NULL;
	plane->num_held = plane->num_submitted = plane->limits.num_waiting = 0;
	for (unsigned kind = 0; kind < VUBLK_PLANE_NUM_KINDS; kind++)
		plane->limits.num_of_kind[kind] = 0;
	vublk_order_deinit(&plane->order);
	plane->takes = false;
	plane->map = NULL;
	plane->fault = NULL;
	plane->dirty_log = NULL;
}

uint16_t vublk_plane_base(const struct vublk_plane *plane, unsigned index)
{
	return vublk_device_ring_base(&plane->queues[index].ring);
}

/* --- a change of the guest's memory ------------------------------------------------ */

bool vublk_plane_is_mapped(const struct vublk_memory_map *map, const struct vublk_plane_slot *slot)
{
	for (unsigned i = 0; i < slot->num_segments; i++)
		if (!vublk_memory_map_guest(map, slot->segments[i].addr, slot->segments[i].bytes))
			return false;
	return vublk_memory_map_guest(map, slot->status_addr, 1);
}

/* Fails the requests that have a buffer or the status byte outside the new mapping. */
static void end_lost_requests(struct vublk_plane *plane)
{
	struct vublk_plane_slot *next;

	vublk_plane_forget_writes(plane);
	for (struct vublk_plane_slot *slot = plane->first; slot; slot = next) {
		next = slot->next;
		if (!vublk_plane_is_mapped(plane->map, slot))
			vublk_plane_end(plane, slot, VIRTIO_BLK_S_IOERR);
	}
	vublk_plane_begin_writes_again(plane);
	vublk_plane_sort_held(plane);
	vublk_plane_publish(plane);
}

int vublk_plane_set_map(struct vublk_plane *plane, const struct vublk_memory_map *map,
			const struct vublk_fault *fault, struct vublk_error *error)
{
	struct vublk_split_ring memory;

	for (unsigned i = 0; i < plane->num_queues; i++) {
		struct vublk_plane_queue *queue = &plane->queues[i];
		int r;

		if (queue->phase == VUBLK_PLANE_QUEUE_UNUSED)
			continue;
		r = find_ring(&queue->setup, map, &memory, error);
		if (r < 0) {
			vublk_error_prepend(error, "queue %u", i);
			return r;
		}
	}
	for (unsigned i = 0; i < plane->num_queues; i++) {
		struct vublk_plane_queue *queue = &plane->queues[i];

		if (queue->phase != VUBLK_PLANE_QUEUE_UNUSED &&
		    !find_ring(&queue->setup, map, &memory, NULL))
			vublk_device_ring_move(&queue->ring, &memory);
	}
	plane->map = map;
	plane->fault = fault;
	end_lost_requests(plane);
	return 0;
}

void vublk_plane_set_dirty_log(struct vublk_plane *plane, const struct vublk_dirty_log *log)
{
	if (log)
		plane->marks = *log;
	plane->dirty_log = log ? &plane->marks : NULL;
	for (unsigned i = 0; i < plane->num_queues; i++) {
		struct vublk_plane_queue *queue = &plane->queues[i];

		if (queue->phase != VUBLK_PLANE_QUEUE_UNUSED)
			vublk_device_ring_log(&queue->ring, plane->dirty_log,
					      queue->setup.used_addr);
	}
}
