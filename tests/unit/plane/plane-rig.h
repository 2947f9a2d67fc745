/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_PLANE_RIG_H
#define VUBLK_TESTS_PLANE_RIG_H

/*
 * A plane between a driver and back-ends in the same thread. The driver end of the driver's rings
 * and the device end of the back-end's rings are the test's.
 */
#include "plane/plane.h"

#define RIG_BASE UINT64_C(0x100000)
#define RIG_BYTES (UINT64_C(4) << 20)
#define RIG_MAX_QUEUES 4
#define RIG_SECTORS 64
#define RIG_RING_BYTES UINT64_C(0x20000) /* of memory for each queue's ring */

/* A request of the driver: 16 bytes of header, the data, a status. */
struct rig_request {
	bool is_used; /* outstanding */
	uint32_t type;
	uint64_t sector;
	unsigned num_sectors;
	uint64_t id;        /* of a write; its content */
	uint64_t submitted; /* the time */
};

struct plane_rig {
	struct vublk_plane plane;
	struct vublk_log_limit limit;
	struct vublk_memory_map map;
	struct vublk_memory_map_region region;
	struct vublk_fault fault;
	unsigned num_queues, size;
	uint64_t features;
	struct vublk_driver_ring drivers[RIG_MAX_QUEUES];
	struct rig_request requests[RIG_MAX_QUEUES][VUBLK_RING_MAX_SIZE];
	unsigned outstanding;

	struct vublk_plane_side *side; /* of the present back-end */
	struct vublk_memory_map side_map; /* the guest's memory and the side's */
	struct vublk_memory_map_region side_regions[2];
	struct vublk_device_ring devices[RIG_MAX_QUEUES];

	unsigned side_broke, queue_broke;
	struct vublk_error error; /* of the last of these */
};

/* Must succeed. The rings start at `base`. */
void rig_init(struct plane_rig *rig, unsigned num_queues, unsigned size, uint16_t base,
	      uint64_t features);
void rig_deinit(struct plane_rig *rig);

/* A new back-end; the rings of the last one are not used any more. */
void rig_connect(struct plane_rig *rig);
void rig_lose(struct plane_rig *rig);

/* The driver's memory. */
void *rig_host(struct plane_rig *rig, uint64_t addr);
/* Where the buffers of a request are. */
uint64_t rig_header(const struct plane_rig *rig, unsigned queue, uint16_t token);
uint64_t rig_data(const struct plane_rig *rig, unsigned queue, uint16_t token);
uint64_t rig_status(const struct plane_rig *rig, unsigned queue, uint16_t token);

/* Adds a request with this token, and publishes it. -ENOSPC: the ring is full. */
int rig_add(struct plane_rig *rig, unsigned queue, uint16_t token,
	    const struct rig_request *request);
/* Takes the driver's next completion. Returns whether there was one. */
bool rig_take(struct plane_rig *rig, unsigned queue, uint16_t *token, uint32_t *bytes);

/* What a back-end got. */
struct rig_chain {
	struct vublk_chain chain;
	struct iovec iov[VUBLK_PLANE_MAX_IOV];
	struct virtio_blk_outhdr header;
	uint8_t *status;
};

/* The back-end takes its next chain. Returns whether there was one; a malformed one fails. */
bool rig_backend_take(struct plane_rig *rig, unsigned queue, struct rig_chain *chain);
/* Pushes it; without rig_backend_publish() the plane does not see the completion. */
void rig_backend_push(struct plane_rig *rig, unsigned queue, const struct rig_chain *chain,
		      uint8_t status);
void rig_backend_publish(struct plane_rig *rig, unsigned queue);

#endif
