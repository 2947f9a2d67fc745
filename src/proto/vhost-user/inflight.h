/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PROTO_VHOST_USER_INFLIGHT_H
#define VUBLK_PROTO_VHOST_USER_INFLIGHT_H

#include <stdint.h>

/*
 * The shared area in which a back-end records the disk requests in flight (specification: "Inflight
 * I/O tracking"). The area has one region per queue; the regions follow each other.
 *
 * The specification leaves the distance between regions to the back-end. libvhost-user, SPDK and
 * `vublk serve` align each region to VUBLK_INFLIGHT_ALIGN bytes. yc-libvhost-server does not, and
 * accepts only the size that it computes itself.
 */
#define VUBLK_INFLIGHT_ALIGN 64
#define VUBLK_INFLIGHT_VERSION 1

struct vublk_inflight_split_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct vublk_inflight_split {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct vublk_inflight_split_desc desc[];
};

_Static_assert(sizeof(struct vublk_inflight_split_desc) == 16, "wire size");
_Static_assert(sizeof(struct vublk_inflight_split) == 16, "wire size");

/*
 * The first function returns the size of one queue's region, rounded up to VUBLK_INFLIGHT_ALIGN.
 * The second returns the size of an area of such regions.
 */
uint64_t vublk_inflight_split_region_bytes(uint16_t queue_size);
uint64_t vublk_inflight_split_area_bytes(uint16_t num_queues, uint16_t queue_size);

/* Returns the size of one queue's region without padding. No layout has smaller regions. */
uint64_t vublk_inflight_split_least_bytes(uint16_t queue_size);
/*
 * Returns the distance between the regions of an area of `area_bytes` bytes, or 0 if the area is
 * too small for every layout. The size of the area tells which layout it has.
 */
uint64_t vublk_inflight_split_stride(uint64_t area_bytes, uint16_t num_queues,
				     uint16_t queue_size);

#endif
