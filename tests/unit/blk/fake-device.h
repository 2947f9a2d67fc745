/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FAKE_DEVICE_H
#define VUBLK_TESTS_FAKE_DEVICE_H

/*
 * A stand-in for src/device: include/vublk/device.h over a disk in memory, without a socket and
 * without a back-end. There is one such device per process, and each test case is a process.
 *
 * Key idea: the program that links the stand-in decides what the device offers, when it answers,
 * and what it does to the rings. So the in-process bus and the block API meet devices that behave
 * as no honest back-end would.
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

/* A request as the device found it on the ring. */
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
	bool holds_realize;             /* realize() ends with fake_realize() */
	int realize_error, start_error; /* positive errno: realizing or starting fails with it */
	bool memory_asks_backend;       /* set_memory() answers later while the rings run */
	bool holds_memory;              /* the answer comes with fake_answer_memory() */
	int memory_error;               /* the answer: a positive errno, or 0 */
	int wce_error;
	bool breaks_at_start;           /* needs a reset before the rings run */
	bool never_stops;               /* set_status(0) ends with ETIMEDOUT */
	bool tracked;                   /* the back-end has an in-flight area */
	bool next_is_blind;             /* the next back-end has no in-flight area: needs_reset() */
};

extern struct fake_plan fake_plan;

/* Makes the usual plan and a zeroed disk of `bytes`. */
void fake_init(uint64_t bytes);
void fake_deinit(void);
char *fake_disk(void);

/*
 * Events of the device. These functions only queue the event for the device's thread. Threads: any.
 */
void fake_disconnect(const char *why);
void fake_reconnect(void); /* a back-end is found; its rings start if DRIVER_OK is set */
void fake_reconnect_and_lose(const char *why); /* a back-end is found, and lost before its rings run */
void fake_give_up(void);   /* reconnect-deadline-ms has passed */
void fake_resize(uint64_t bytes);
void fake_realize(void);
void fake_await_memory(void);  /* blocks until a change is held */
void fake_answer_memory(void); /* answers the change that is held, and holds no further one */
void fake_needs_reset(const char *why);

/*
 * The device's end of a queue, which the caller drives: executes and completes up to `max`
 * requests, and returns their number. With a `status` other than OK a request is not executed.
 */
unsigned fake_serve(unsigned queue, unsigned max);
unsigned fake_serve_with(unsigned queue, unsigned max, uint8_t status);
/* Completes one request without writing its status. */
unsigned fake_serve_without_status(unsigned queue);
/* Takes one request and does not complete it. False: the ring has none. */
bool fake_take(unsigned queue, struct fake_request *request);
/* Completes the request of the last fake_take(). */
void fake_give_back(unsigned queue, uint8_t status);
/* Writes a used element with any id. */
void fake_push_id(unsigned queue, uint32_t id);
/*
 * Writes `count` times at random into the memory that the driver shares with the device: used ring,
 * descriptors, headers, statuses. `wildly`: also writes where this breaks the ring immediately.
 */
void fake_scribble(unsigned queue, unsigned *seed, unsigned count, bool wildly);
/* Overwrites all memory that the driver shares, except the indices. */
void fake_wipe(unsigned queue);
/*
 * Returns another mapping of the queue's present ring, which remains valid when the rings are
 * replaced.
 */
struct vublk_split_ring fake_map_ring(unsigned queue);
void fake_unmap_ring(void);
/* The device wants no kicks, like a back-end that polls. */
void fake_disable_kicks(unsigned queue);
/* The next kick blocks its thread. */
void fake_block_kicks(unsigned queue);
/* Calls the driver without a completion. */
void fake_call(unsigned queue);

/* The request of the last fake_serve(), and counts since the start. */
extern struct fake_request fake_last;
unsigned fake_kicks(unsigned queue); /* counted from the kick eventfd */
extern unsigned fake_num_discards, fake_num_zeroes, fake_num_flushes, fake_num_stops;
extern unsigned fake_num_changes; /* of the memory, sent to the back-end */

/*
 * Starts one thread per queue, which serves the queue while a back-end is connected, until
 * fake_stop_threads().
 */
void fake_start_threads(void);
void fake_stop_threads(void);

#endif
