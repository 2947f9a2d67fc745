/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_FAKE_DEVICE_H
#define VUBLK_TESTS_FAKE_DEVICE_H

/*
 * A stand-in for src/device. It implements include/vublk/device.h with a disk in memory, without a
 * socket, and simulates back-ends. There is one such device per process, and each test case is a
 * process.
 *
 * Key idea: the test decides what the device offers, when it answers, and what it does to the
 * rings. So a test can expose the in-process bus and the block API to behavior that no honest
 * back-end shows.
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

/* A request that the device has found on a ring. */
struct fake_request {
	uint32_t type;
	uint64_t sector;
	unsigned num_segments; /* descriptors between header and status */
	uint64_t data_bytes;   /* in all of these segments */
	/* The only range of a discard or write zeroes; 0 for other types. */
	uint64_t range_sector;
	uint32_t range_sectors;
	uint32_t range_flags;
};

/* The behavior of the device. A test sets it before opening the disk, and may change it later. */
struct fake_plan {
	unsigned num_queues;
	unsigned queue_size;
	unsigned memory_slots;
	uint64_t features;
	struct virtio_blk_config config;
	bool holds_realize;             /* realize() ends only when the test calls fake_realize() */
	int realize_error, start_error; /* positive errno: realizing or starting fails with it */
	bool memory_asks_backend;       /* while the rings run, set_memory() returns 1 and
					   memory_changed() reports the result */
	bool holds_memory;              /* memory_changed() waits for fake_answer_memory() */
	int memory_error;               /* the result that memory_changed() reports: a positive
					   errno, or 0; EINVAL: set_memory() itself fails while the
					   rings run */
	int wce_error;                  /* positive errno: a change of the write cache fails */
	bool breaks_at_start;           /* the device needs a reset before the rings run */
	bool never_stops;               /* a stop fails with ETIMEDOUT, and the back-end is lost */
	unsigned replay_mib;            /* the value of the property replay-mib */
	bool has_cache;                 /* the loss of the back-end undoes all unflushed writes */
	bool tracked;                   /* the back-end has an in-flight area */
	bool next_is_blind;             /* the next back-end has no in-flight area, so the device
					   calls needs_reset() */
};

extern struct fake_plan fake_plan;

/* Sets fake_plan to its defaults, and makes a zeroed disk of `bytes`. */
void fake_init(uint64_t bytes);
void fake_deinit(void);
/* Returns the content of the disk. */
char *fake_disk(void);
/* With `has_cache`: zeroes this range in the content that the last flush made stable. */
void fake_cache_drop(uint64_t offset, uint64_t bytes);

/*
 * Except for fake_await_memory(), each of these queues an event for the bus's thread, and returns
 * before that thread handles the event. Any thread may call them.
 */
void fake_disconnect(const char *why);
void fake_reconnect(void); /* a back-end is found, and the rings start if DRIVER_OK is set */
void fake_reconnect_and_lose(const char *why); /* a back-end is found, and lost before the rings
						  run */
void fake_give_up(void);   /* reconnect-deadline-ms has passed */
void fake_resize(uint64_t bytes);
void fake_realize(void);
void fake_await_memory(void);  /* waits until a change of the memory is held; see holds_memory */
void fake_answer_memory(void); /* answers the held change; later changes are not held */
void fake_needs_reset(const char *why);

/*
 * Acts as the device on the calling thread: executes and completes up to `max` requests of the
 * queue, and returns their number, which is 0 if no back-end is connected.
 */
unsigned fake_serve(unsigned queue, unsigned max);
/* Like fake_serve(), but with this status. If it is not OK, the requests are not executed. */
unsigned fake_serve_with(unsigned queue, unsigned max, uint8_t status);
/* Completes one request without executing it, and leaves its status byte unchanged. */
unsigned fake_serve_without_status(unsigned queue);
/*
 * Takes one request without completing it. Stores it in `request`, unless that is NULL. Returns
 * false if the ring has no request.
 */
bool fake_take(unsigned queue, struct fake_request *request);
/* Completes the request of the last fake_take() without executing it. */
void fake_give_back(unsigned queue, uint8_t status);
/* Adds an element with this id, which may be invalid, to the used ring. */
void fake_push_id(unsigned queue, uint32_t id);
/*
 * Makes `count` random writes to the memory that the driver shares with the device: used ring,
 * descriptors, headers, statuses. Then calls the driver. `wildly`: the used ring's flags and index
 * may be overwritten, too, which breaks the ring.
 */
void fake_scribble(unsigned queue, unsigned *seed, unsigned count, bool wildly);
/*
 * Overwrites the region that contains the rings. Keeps only the indices, the avail ring's flags and
 * the used event of this queue's ring, and clears the flags of its used ring.
 */
void fake_wipe(unsigned queue);
/*
 * Maps the queue's present ring once more. The mapping remains valid when the device replaces the
 * rings, until fake_unmap_ring() ends it. There can be only one such mapping at a time.
 */
struct vublk_split_ring fake_map_ring(unsigned queue);
void fake_unmap_ring(void);
/* Makes the device disable kicks, like a back-end that polls. */
void fake_disable_kicks(unsigned queue);
/* Makes the next kick block the thread that sends it. */
void fake_block_kicks(unsigned queue);
/* Calls the driver although there is no completion. */
void fake_call(unsigned queue);

/* The last request that fake_serve() or a similar function has completed. */
extern struct fake_request fake_last;
/*
 * Clears the kick eventfd of the queue. Returns how often, since the start of the process, it was
 * found signalled; several kicks between two uses of this function count as one.
 */
unsigned fake_kicks(unsigned queue);
/* Counts since the start of the process. */
extern unsigned fake_num_discards, fake_num_zeroes, fake_num_flushes, fake_num_stops;
extern unsigned fake_num_changes; /* how many changes of the memory were sent to the back-end */

/*
 * Starts one thread per queue. Each thread serves its queue while a back-end is connected, until
 * fake_stop_threads().
 */
void fake_start_threads(void);
void fake_stop_threads(void);

#endif
