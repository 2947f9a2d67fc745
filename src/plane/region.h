/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_REGION_H
#define VUBLK_PLANE_REGION_H

/*
 * The memory of the shadow rings: what the plane shares with one back-end in addition to the
 * guest's memory.
 *
 * Key idea: each back-end gets a file of its own, so a lost back-end that is still alive cannot
 * reach the headers of the next one. The file lies far above the guest's addresses. The
 * plane writes everything in it before the back-end may read it. What the back-end writes there
 * (used rings, status bytes, disk identifiers) is read once and checked.
 */
#include "virtio/blk-format.h"
#include "virtio/ring.h"

#include <vublk/error.h>

#include <linux/virtio_blk.h>

/* Above every physical address. Some back-ends register memory in units of 2 MiB. */
#define VUBLK_PLANE_REGION_ADDR (UINT64_C(1) << 53)
#define VUBLK_PLANE_REGION_ALIGN (UINT64_C(2) << 20)

/* Entries of the table that each slot has near its header, which are enough for most requests. */
#define VUBLK_PLANE_SHORT_TABLE 8
/* Ranges of one discard, write zeroes or secure erase. */
#define VUBLK_PLANE_MAX_RANGES 32

/* The part of a request that the back-end sees, in addition to the data. */
struct vublk_plane_shared_slot {
	struct virtio_blk_outhdr header;
	uint8_t status;
	char id[VUBLK_BLK_ID_BYTES]; /* the answer to GET_ID */
	struct vring_desc table[VUBLK_PLANE_SHORT_TABLE] __attribute__((aligned(16)));
};

/* One queue's part of the region. Slots are numbered like the entries of the ring. */
struct vublk_plane_region_queue {
	struct vublk_split_ring ring;
	uint64_t desc_addr, avail_addr, used_addr;
	struct vublk_plane_shared_slot *slots;
	uint64_t slots_addr;
	struct virtio_blk_discard_write_zeroes *ranges; /* VUBLK_PLANE_MAX_RANGES per slot */
	uint64_t ranges_addr;
	struct vring_desc *tables; /* long_table entries per slot */
	uint64_t tables_addr;
};

struct vublk_plane_region {
	int fd;
	uint64_t bytes;
	char *host;
	unsigned long_table; /* entries of a slot's long table */
	unsigned num_queues;
	struct vublk_plane_region_queue *queues;
};

/*
 * Makes the memory for queues of `size` entries, with tables of `long_table` entries. Only pages
 * that are used become resident. ENOMEM and others.
 */
int vublk_plane_region_init(struct vublk_plane_region *region, unsigned num_queues, unsigned size,
			    unsigned long_table, struct vublk_error *error);
/* Idempotent on a region that was zeroed with fd -1. */
void vublk_plane_region_deinit(struct vublk_plane_region *region);

#endif
