/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_PLANE_RIG_H
#define VUBLK_TESTS_PLANE_RIG_H

/*
 * A plane between a driver and a back-end, all on one thread. The test acts as the driver on the
 * driver's rings, and as the device on the back-end's rings.
 */
#include "plane/handover.h"
#include "plane/plane.h"

#define RIG_BASE UINT64_C(0x100000)
#define RIG_BYTES (UINT64_C(10) << 20)
#define RIG_MAX_QUEUES 4
#define RIG_SECTORS 64
#define RIG_MAX_HANDOVERS 64 /* per back-end */
#define RIG_MAX_SEGMENTS 32 /* per request */
#define RIG_RING_BYTES UINT64_C(0x20000) /* of guest memory for each queue's ring */

/* A request of the driver. Its buffers are a header of 16 bytes, data, and a status byte. */
struct rig_request {
	bool is_used; /* set while the request is outstanding */
	uint32_t type;
	uint64_t sector;
	unsigned num_sectors;
	uint64_t id;        /* the number that a write stores in each of its sectors */
	uint64_t submitted; /* for the test: the time of submission */
};

struct plane_rig {
	struct vublk_plane plane;
	struct vublk_log_limit limit;
	struct vublk_memory_map map;
	struct vublk_memory_map_region region;
	struct vublk_fault fault;
	unsigned num_queues, size;
	unsigned side_size; /* the number of entries of the next back-end's rings */
	uint64_t features;
	struct vublk_driver_ring drivers[RIG_MAX_QUEUES];
	struct rig_request requests[RIG_MAX_QUEUES][VUBLK_RING_MAX_SIZE];
	unsigned outstanding;

	struct vublk_plane_setup setups[RIG_MAX_QUEUES];
	uint64_t log_bytes; /* size of the log of completed writes; 0: no log */

	struct vublk_plane_side *side; /* of the present back-end; NULL: no back-end */
	/*
	 * The sides of the planes that rig_install() has replaced, the oldest first. The sides are
	 * freed only when the back-end is lost, because the back-end still uses the mapping of the
	 * oldest side.
	 */
	struct vublk_plane_side *old_sides[RIG_MAX_HANDOVERS];
	unsigned num_old_sides;
	struct vublk_memory_map side_map; /* the guest's memory and the memory of `side` */
	struct vublk_memory_map_region side_regions[2];
	struct vublk_device_ring devices[RIG_MAX_QUEUES];

	/* the back-end to which the disk is mirrored; side NULL: there is none */
	struct {
		struct vublk_plane_side *side;
		struct vublk_memory_map map;
		struct vublk_memory_map_region region; /* the memory of `side` */
		struct vublk_device_ring devices[RIG_MAX_QUEUES];
	} target;

	struct vublk_mirror_state *mirror_state; /* of the next mirror; NULL: it has no state
						    file */

	bool is_notified; /* set when the plane is kicked or called; the test clears it */

	unsigned side_broke, queue_broke, mirror_failed, mirror_synced;
	struct vublk_error error; /* the error of the last of these events */
};

/*
 * Makes a plane with driver's rings of `size` entries, which start at index `base`. Sets side_size
 * to `size`; the test may change it before rig_connect(). A failure fails the case.
 */
void rig_init(struct plane_rig *rig, unsigned num_queues, unsigned size, uint16_t base,
	      uint64_t features);
void rig_deinit(struct plane_rig *rig);
/*
 * Makes the plane keep completed writes in a log of `bytes` bytes. Must be called before the first
 * rig_connect().
 */
void rig_keep_writes(struct plane_rig *rig, uint64_t bytes);

/* Connects a new back-end with rings of side_size entries. Call rig_lose() before the next one. */
void rig_connect(struct plane_rig *rig);
void rig_lose(struct plane_rig *rig);

/* A plane that has taken over the rig's requests, or failed to. */
struct rig_successor {
	struct vublk_plane plane;
	struct vublk_plane_side *side;
	struct vublk_error error;
};
/* Writes the state of the plane to `to`, which the caller must deinit. */
void rig_give(struct plane_rig *rig, struct vublk_sections_writer *to);
/*
 * Makes a new plane from `state`. Copies the settings that a device takes from its properties, such
 * as the limits, from the rig's plane. Returns 0, or a negative errno with a sentence in
 * next->error. Afterwards the caller must call one of the two functions below; after a failure,
 * rig_discard().
 */
int rig_take_over(struct plane_rig *rig, const struct vublk_sections_writer *state,
		  struct rig_successor *next);
/* Frees the new plane. The rig's plane continues. */
void rig_discard(struct plane_rig *rig, struct rig_successor *next);
/* Makes the new plane the rig's plane, and frees the old one. */
void rig_install(struct plane_rig *rig, struct rig_successor *next);

/* Returns a pointer to the driver's memory at this guest address. */
void *rig_host(struct plane_rig *rig, uint64_t addr);
/* These return the guest addresses of the buffers of the request with this token. */
uint64_t rig_header(const struct plane_rig *rig, unsigned queue, uint16_t token);
uint64_t rig_data(const struct plane_rig *rig, unsigned queue, uint16_t token);
uint64_t rig_status(const struct plane_rig *rig, unsigned queue, uint16_t token);

/*
 * Adds a request with this token, one data buffer per sector, and publishes it. Returns 0, or
 * -ENOSPC if the ring is full.
 */
int rig_add(struct plane_rig *rig, unsigned queue, uint16_t token,
	    const struct rig_request *request);
/*
 * Takes the next completion from the driver's ring, and stores its token and the number of bytes
 * that the device has written. Returns whether there was a completion.
 */
bool rig_take(struct plane_rig *rig, unsigned queue, uint16_t *token, uint32_t *bytes);

/* A request as the back-end sees it. */
struct rig_chain {
	struct vublk_chain chain;
	struct iovec iov[VUBLK_PLANE_MAX_IOV];
	struct virtio_blk_outhdr header;
	uint8_t *status;
};

/*
 * Takes the next chain from the back-end's ring. Returns whether there was one. A malformed chain
 * fails the case.
 */
bool rig_backend_take(struct plane_rig *rig, unsigned queue, struct rig_chain *chain);
/* Adds the completion of a chain. The plane sees it only after rig_backend_publish(). */
void rig_backend_push(struct plane_rig *rig, unsigned queue, const struct rig_chain *chain,
		      uint8_t status);
void rig_backend_publish(struct plane_rig *rig, unsigned queue);
/* The back-end completes its next request, and the driver takes the completion. */
void rig_complete(struct plane_rig *rig, unsigned queue, uint8_t status);

/*
 * Begins to mirror a disk of `bytes` bytes, in regions of `region_bytes`, to a new target with
 * rings of `size` entries, at `rate` bytes per second (0: no limit). Returns -EBUSY if the plane
 * has not ended the previous mirror completely.
 */
int rig_mirror(struct plane_rig *rig, uint64_t bytes, uint64_t region_bytes, unsigned size,
	       uint64_t rate);
/*
 * Ends the mirror, if there is one, and frees its target. With mirror_state, writes wait until
 * vublk_plane_mirror_release() or the next mirror.
 */
void rig_end_mirror(struct plane_rig *rig);
/* These functions do for the target what those above do for the back-end. */
bool rig_target_take(struct plane_rig *rig, unsigned queue, struct rig_chain *chain);
void rig_target_push(struct plane_rig *rig, unsigned queue, const struct rig_chain *chain,
		     uint8_t status);
void rig_target_publish(struct plane_rig *rig, unsigned queue);

#endif
