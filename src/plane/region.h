/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_PLANE_REGION_H
#define VUBLK_PLANE_REGION_H

/*
 * The memory of the shadow rings, which the plane shares with one back-end. The back-end gets it in
 * addition to the guest's memory.
 *
 * Key idea: each back-end gets a file of its own, so a lost back-end that is still alive cannot
 * change what the next one reads. The file's guest address is far above the guest's memory. The
 * plane writes each part of the file before the back-end may read that part. The plane reads each
 * value that the back-end writes there (used rings, status bytes, disk identifiers) only once, and
 * checks its copy.
 */
#include "virtio/blk-format.h"
#include "virtio/ring.h"
#include "virtio/write-replay.h"

#include <vublk/error.h>

#include <linux/virtio_blk.h>
#include <stdbool.h>

/*
 * The address is above every guest-physical address. The alignment suits back-ends that register
 * memory in units of 2 MiB.
 */
#define VUBLK_PLANE_REGION_ADDR (UINT64_C(1) << 53)
#define VUBLK_PLANE_REGION_ALIGN (UINT64_C(2) << 20)

/*
 * Must be incremented with every change of the region's layout, because another version may take
 * over a region that is in use.
 */
#define VUBLK_PLANE_REGION_LAYOUT 1

/*
 * The number of entries in the short indirect table next to each slot's header. Most requests fit
 * in this table.
 */
#define VUBLK_PLANE_SHORT_TABLE 8
/* The largest number of ranges of one discard, write zeroes or secure erase. */
#define VUBLK_PLANE_MAX_RANGES 32

/*
 * How many requests of its own the plane can have at the same time: the writes of a replay, and a
 * flush, which has the last slot.
 */
#define VUBLK_PLANE_NUM_OWN (VUBLK_WRITE_REPLAY_SLOTS + 1)
/* How much memory each of the plane's own requests has for data. */
#define VUBLK_PLANE_BOUNCE_BYTES VUBLK_WRITE_REPLAY_BYTES

/*
 * The mirror (mirror.h) copies the data of writes to chunks of a pool. It also copies up to
 * VUBLK_PLANE_MIRROR_COPIES regions of the disk at the same time, each through a chunk of its own.
 */
#define VUBLK_PLANE_MIRROR_CHUNK 65536u
#define VUBLK_PLANE_MIRROR_CHUNKS 128u
#define VUBLK_PLANE_MIRROR_COPIES 8u

/*
 * The parts of a request that the plane shares in this memory. The data stays in the guest's
 * memory, unless the request is mirrored.
 */
struct vublk_plane_shared_slot {
	struct virtio_blk_outhdr header;
	uint8_t status;
	char id[VUBLK_BLK_ID_BYTES]; /* the result of GET_ID */
	struct vring_desc table[VUBLK_PLANE_SHORT_TABLE] __attribute__((aligned(16)));
};

/* One of the plane's own requests. */
struct vublk_plane_shared_own {
	struct virtio_blk_outhdr header;
	uint8_t status;
	struct virtio_blk_discard_write_zeroes range;
	struct vring_desc table[3] __attribute__((aligned(16)));
};

/*
 * One queue's part of the region. Slot N belongs to the request with token N on the back-end's ring
 * (submit.c).
 */
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
	unsigned long_table; /* number of entries of a slot's long table */
	unsigned num_queues;
	struct vublk_plane_region_queue *queues;
	struct vublk_plane_shared_own *own; /* VUBLK_PLANE_NUM_OWN elements; NULL: none */
	uint64_t own_addr;
	char *bounce; /* VUBLK_PLANE_BOUNCE_BYTES per own request */
	uint64_t bounce_addr;
	struct vublk_plane_shared_own *copies; /* VUBLK_PLANE_MIRROR_COPIES elements, for the
						  mirror's own requests */
	uint64_t copies_addr;
	char *chunks; /* VUBLK_PLANE_MIRROR_CHUNKS of the pool, then one per copy */
	uint64_t chunks_addr;
};

/*
 * Makes the memory for queues of `size` entries, with long tables of `long_table` entries, and, if
 * `has_own` is set, for the plane's own requests. Pages that are never touched cost no memory.
 * Errors: ENOMEM and others.
 */
int vublk_plane_region_init(struct vublk_plane_region *region, unsigned num_queues, unsigned size,
			    unsigned long_table, bool has_own, struct vublk_error *error);
/*
 * Like vublk_plane_region_init(), but uses the file `fd`, in which another process has made such a
 * region. Takes ownership of `fd`, even on failure. Does not change the file. Errors: EINVAL if the
 * file is not for a region of this size, and others. `fd` -1: makes a new file.
 */
int vublk_plane_region_adopt(struct vublk_plane_region *region, unsigned num_queues, unsigned size,
			     unsigned long_table, bool has_own, int fd, struct vublk_error *error);
/*
 * Unmaps the memory and closes its file. Idempotent; a no-op for a zeroed region whose `fd` is -1.
 */
void vublk_plane_region_deinit(struct vublk_plane_region *region);

#endif
