/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FAKE_DEVICE_H
#define VUBLK_TESTS_FAKE_DEVICE_H

/*
 * A stand-in for src/device: include/vublk/device.h over a disk in memory, without
 * a socket and without a back-end. The program that links it decides what the
 * device offers, when it answers, and what it does to the rings, so that the
 * in-process bus and the block API can be shown what no honest back-end does.
 *
 * There is one such device a process (each test case is a process).
 */

#include "util/checked.h"
#include "virtio/blk-format.h"
#include "virtio/device-ring.h"

#include <vublk/device.h>

#include <stdbool.h>
#include <stdint.h>

#define FAKE_MAX_QUEUES 8
#define FAKE_FEATURES \
	(VUBLK_BIT(VIRTIO_BLK_F_SEG_MAX) | VUBLK_BIT(VIRTIO_BLK_F_BLK_SIZE) | \
	 VUBLK_BIT(VIRTIO_BLK_F_FLUSH) | VUBLK_BIT(VIRTIO_BLK_F_CONFIG_WCE) | \
	 VUBLK_BIT(VIRTIO_BLK_F_MQ) | VUBLK_BIT(VIRTIO_BLK_F_DISCARD) | \
	 VUBLK_BIT(VIRTIO_BLK_F_WRITE_ZEROES) | VUBLK_BIT(VIRTIO_RING_F_INDIRECT_DESC) | \
	 VUBLK_BIT(VIRTIO_RING_F_EVENT_IDX) | VUBLK_BIT(VIRTIO_F_VERSION_1))

/* A request as the device end found it. */
struct fake_request {
	uint32_t type;
	uint64_t sector;
	unsigned num_segments; /* between header and status */
	uint64_t data_bytes;
	uint64_t range_sector; /* of discard and write zeroes */
	uint32_t range_sectors;
	uint32_t range_flags;
};

/* Set before the disk is opened; the functions below change it later. */
struct fake_plan {
	unsigned num_queues;
	unsigned queue_size;
	unsigned memory_slots;
	uint64_t features;
	struct virtio_blk_config config;
	int realize_error, start_error; /* positive errno: that is how it ends */
	bool memory_asks_backend;       /* set_memory() answers later, while the rings run */
	int memory_error;               /* and this is the answer */
	int wce_error;
	bool breaks_at_start;           /* needs a reset before the rings run */
	bool never_stops;               /* set_status(0) ends with ETIMEDOUT */
	bool tracked;                   /* there is an in-flight area */
	bool next_is_blind;             /* the next back-end has none: needs_reset() */
};

extern struct fake_plan fake_plan;

/* A plan with usual values and a disk of `bytes`, filled with a pattern by the caller. */
void fake_init(uint64_t bytes);
void fake_deinit(void);
char *fake_disk(void);

/* What the device's thread will say next; returns at once. Any thread. */
void fake_disconnect(const char *why);
void fake_reconnect(void); /* a back-end is found; its rings start if DRIVER_OK is set */
void fake_reconnect_in_vain(const char *why); /* it is lost before its rings run */
void fake_give_up(void);   /* reconnect-deadline-ms is over */
void fake_resize(uint64_t bytes);
void fake_needs_reset(const char *why);

/*
 * The device end of a queue, driven by the caller. serve() takes what is available
 * and completes it, up to `max`; returns how many. `result`: the status byte.
 */
unsigned fake_serve(unsigned queue, unsigned max);
unsigned fake_serve_with(unsigned queue, unsigned max, uint8_t status);
/* Takes one and gives it no status byte, but completes it. */
unsigned fake_serve_without_status(unsigned queue);
/* Takes one and does nothing with it. False: there is none. */
bool fake_take(unsigned queue, struct fake_request *request);
/* Completes the one that take() gave. */
void fake_give_back(unsigned queue, uint8_t status);
/* Writes a used element that nobody asked for. */
void fake_push_id(unsigned queue, uint32_t id);
/*
 * Writes `count` times at random into what the driver shares with the device: used
 * ring, descriptors, headers, statuses. `wildly`: also what stops the ring at once.
 */
void fake_scribble(unsigned queue, unsigned *seed, unsigned count, bool wildly);
/* Writes over all that the driver shares, save the indices. */
void fake_wipe(unsigned queue);
/* Another mapping of a queue's ring as it is now, which stays when the rings are replaced. */
struct vublk_split_ring fake_map_ring(unsigned queue);
void fake_unmap_ring(void);
/* As a back-end that polls: it wants no kicks. */
void fake_disable_kicks(unsigned queue);
/* The next kick blocks the thread that makes it. */
void fake_block_kicks(unsigned queue);
/* Calls without a reason. */
void fake_call(unsigned queue);

/* What the last serve() or take() saw, and counts since the start. */
extern struct fake_request fake_last;
unsigned fake_kicks(unsigned queue); /* taken from the kick eventfd */
extern unsigned fake_num_discards, fake_num_zeroes, fake_num_flushes, fake_num_stops;

/* A thread for each queue that serves until stop, while the device has a back-end. */
void fake_start_threads(void);
void fake_stop_threads(void);

#endif
