/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The size of the in-flight area: who makes it (either end may) and who checks
 * it must agree on it to the byte. No overflow: both factors have 16 bits.
 * Specification: "Inflight I/O tracking".
 */
#include "proto/inflight.h"

#include "util/checked.h"

uint64_t vublk_inflight_split_region_bytes(uint16_t queue_size)
{
	return vublk_round_up(sizeof(struct vublk_inflight_split) +
			      queue_size * (uint64_t)sizeof(struct vublk_inflight_split_desc),
			      VUBLK_INFLIGHT_ALIGN);
}

uint64_t vublk_inflight_split_area_bytes(uint16_t num_queues, uint16_t queue_size)
{
	return num_queues * vublk_inflight_split_region_bytes(queue_size);
}
