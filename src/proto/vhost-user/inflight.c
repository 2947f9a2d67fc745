/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Computes the size of the in-flight area. src/backend/ and src/device/ create areas and use their
 * contents; src/frontend/ only passes them on.
 *
 * Key idea: both peers compute the size, so they have to use the same layout. The products cannot
 * overflow, because the number of queues and the queue size have 16 bits each.
 *
 * Specification: "Inflight I/O tracking".
 */
#include "proto/vhost-user/inflight.h"

#include "util/checked.h"

uint64_t vublk_inflight_split_least_bytes(uint16_t queue_size)
{
	return sizeof(struct vublk_inflight_split) +
	       queue_size * (uint64_t)sizeof(struct vublk_inflight_split_desc);
}

uint64_t vublk_inflight_split_region_bytes(uint16_t queue_size)
{
	return vublk_round_up(vublk_inflight_split_least_bytes(queue_size), VUBLK_INFLIGHT_ALIGN);
}

uint64_t vublk_inflight_split_area_bytes(uint16_t num_queues, uint16_t queue_size)
{
	return num_queues * vublk_inflight_split_region_bytes(queue_size);
}

/* An area may be larger than its layout, because some peers round its size up to pages. */
uint64_t vublk_inflight_split_stride(uint64_t area_bytes, uint16_t num_queues,
				     uint16_t queue_size)
{
	uint64_t least = vublk_inflight_split_least_bytes(queue_size);

	if (area_bytes >= vublk_inflight_split_area_bytes(num_queues, queue_size))
		return vublk_inflight_split_region_bytes(queue_size);
	return area_bytes >= num_queues * least ? least : 0;
}
