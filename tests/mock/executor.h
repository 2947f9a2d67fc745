/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_EXECUTOR_H
#define VUBLK_TESTS_EXECUTOR_H

/*
 * Makes a mock execute the requests of queue 0, on a disk in this process. Like a real back-end, the
 * executor sleeps until it is kicked, and it completes the requests that it has taken before it
 * returns the ring. It completes requests in order, so the requests that are outstanding at a loss
 * are those from the used index on.
 */
#include "mock/device-rig.h"

#include "virtio/device-ring.h"
#include "virtio/memory-map.h"

#define EXECUTOR_DISK_BYTES (32u << 10)
#define EXECUTOR_MAX_IOV 16

struct executor_request {
	struct vublk_chain chain;
	struct iovec iov[EXECUTOR_MAX_IOV];
};

struct executor {
	struct mock *mock;
	struct device_rig *rig;
	char *disk;     /* EXECUTOR_DISK_BYTES; may be the disk of another executor, too */
	unsigned delay; /* how many turns the executor makes before it completes a request */

	struct vublk_device_ring ring; /* size 0: the device has not started the ring */
	struct vublk_memory_map map;
	struct vublk_memory_map_region regions[2];
	bool is_awake;
	struct executor_request held[RIG_QUEUE_SIZE];
	unsigned num_held, num_turns;
};

/*
 * Handles one message, and takes and completes requests. Returns whether there was anything to do.
 * Must be called instead of mock_pump().
 */
bool executor_turn(struct executor *executor);
/* Must be called when the mock hangs up or dies. Drops the requests that were taken. Idempotent. */
void executor_stop(struct executor *executor);

#endif
