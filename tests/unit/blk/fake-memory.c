/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The functions of the stand-in device that change the memory shared with the driver. A hostile
 * back-end, or a lost one that is still alive, can make such changes. The other functions are in
 * fake-device.c.
 *
 * Key idea: all of them except fake_map_ring() use the mapping from which the stand-in device
 * serves requests.
 */
#include "fake-private.h"

#include "util/atomic.h"
#include "util/fd.h"
#include "util/memfd.h"
#include "virtio/split.h"

#include <stdlib.h>
#include <string.h>

static char *late_rings;
static uint64_t late_bytes;

void fake_push_id(unsigned queue, uint32_t id)
{
	struct vring_used *used = fake_queues[queue].ring.memory.used;
	uint16_t at = used->idx;

	used->ring[at % fake_plan.queue_size].id = id;
	used->ring[at % fake_plan.queue_size].len = 1;
	vublk_store_release(&used->idx, (uint16_t)(at + 1));
	vublk_eventfd_signal(fake_queues[queue].queue.call_fd);
}

/*
 * There are two kinds of writes. A new element of the used ring, whose id may be outstanding, can
 * pass the driver's checks. Random bytes fail a check, or break code that lacks a check.
 */
void fake_scribble(unsigned queue, unsigned *seed, unsigned count, bool wildly)
{
	struct vublk_memory_map_region *rings = &fake_regions[0];

	pthread_mutex_lock(&fake_lock);
	for (unsigned i = 0; i < count && fake_map.num_regions; i++) {
		struct vring_used *used = fake_queues[queue].ring.memory.used;
		uint64_t at = (uint64_t)rand_r(seed) % rings->size_bytes;

		if (rand_r(seed) % 4 && (wildly || (char *)used - rings->host > (long)at ||
					 (char *)used - rings->host + 512 <= (long)at)) {
			rings->host[at] = (char)rand_r(seed);
		} else {
			unsigned slot = used->idx % fake_plan.queue_size;

			used->ring[slot].id = (uint32_t)rand_r(seed) % fake_plan.queue_size;
			used->ring[slot].len = (uint32_t)rand_r(seed);
			vublk_store_release(&used->idx, (uint16_t)(used->idx + 1));
		}
	}
	pthread_mutex_unlock(&fake_lock);
	vublk_eventfd_signal(fake_queues[queue].queue.call_fd);
}

void fake_wipe(unsigned queue)
{
	const struct vublk_split_ring *ring = &fake_queues[queue].ring.memory;
	struct vublk_memory_map_region *shared = &fake_regions[0];
	struct vring_avail avail;
	uint16_t used_event, used;

	pthread_mutex_lock(&fake_lock);
	avail = *ring->avail;
	used = ring->used->idx;
	used_event = *vublk_split_used_event(ring, fake_plan.queue_size);
	memset(shared->host, 0xee, shared->size_bytes);
	*ring->avail = avail;
	*vublk_split_used_event(ring, fake_plan.queue_size) = used_event;
	ring->used->flags = 0;
	ring->used->idx = used;
	pthread_mutex_unlock(&fake_lock);
}

struct vublk_split_ring fake_map_ring(unsigned queue)
{
	const struct vublk_split_ring *ring = &fake_queues[queue].ring.memory;
	const char *base = fake_regions[0].host;

	late_bytes = fake_regions[0].size_bytes;
	late_rings = vublk_map_shared(fake_rings_fd, 0, late_bytes, NULL);
	return (struct vublk_split_ring){
		(struct vring_desc *)(late_rings + ((char *)ring->desc - base)),
		(struct vring_avail *)(late_rings + ((char *)ring->avail - base)),
		(struct vring_used *)(late_rings + ((char *)ring->used - base)),
	};
}

void fake_unmap_ring(void)
{
	vublk_unmap(late_rings, late_bytes);
}
