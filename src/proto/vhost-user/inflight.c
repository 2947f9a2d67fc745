/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The size of the in-flight area: who makes it (either end may) and who checks
 * it must agree on it to the byte. No overflow: both factors have 16 bits.
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

/* An area that is larger than both layouts is one whose end is rounded up, to pages say. */
uint64_t vublk_inflight_split_stride(uint64_t area_bytes, uint16_t num_queues,
				     uint16_t queue_size)
{
	uint64_t least = vublk_inflight_split_least_bytes(queue_size);

	if (area_bytes >= vublk_inflight_split_area_bytes(num_queues, queue_size))
		return vublk_inflight_split_region_bytes(queue_size);
	return area_bytes >= num_queues * least ? least : 0;
}
