/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_DEVICE_RIG_H
#define VUBLK_TESTS_DEVICE_RIG_H

/*
 * A device on a test bus: what it called back is counted and kept, and the test
 * waits for it by running the device's loop. One region of memory with a ring a
 * queue and a data area, driven by hand.
 */
#include "virtio/blk-format.h"
#include "virtio/driver-ring.h"

#include "mock-backend.h"

#include <vublk/device.h>

#include <stdbool.h>
#include <stdint.h>

enum rig_callback {
	RIG_REALIZED, RIG_STARTED, RIG_STOPPED, RIG_LOST, RIG_CONFIG_CHANGED,
	RIG_MEMORY_CHANGED, RIG_CONFIG_WRITTEN, RIG_NEEDS_RESET,
	RIG_RECONNECTED, RIG_GAVE_UP, RIG_NOTIFIERS_CHANGED, RIG_DIRTY_LOG_CHANGED,
	RIG_NUM_CALLBACKS,
};

#define RIG_MAX_QUEUES 8
#define RIG_QUEUE_SIZE 16
#define RIG_QUEUE_BYTES 4096       /* of memory for each ring */
#define RIG_DATA_OFFSET (RIG_MAX_QUEUES * RIG_QUEUE_BYTES)
#define RIG_MEMORY_BYTES (1 << 20)
#define RIG_GUEST_ADDR UINT64_C(0x100000000)

struct device_rig {
	struct vublk_device *device;
	unsigned calls[RIG_NUM_CALLBACKS];
	struct vublk_error errors[RIG_NUM_CALLBACKS]; /* of the last call; code 0: none */
	void (*hook)(struct device_rig *rig, enum rig_callback callback); /* called inside each */
	uint64_t refused_features; /* offered, and not accepted by rig_set_up() */
	bool (*pump)(void *opaque); /* lets the other end work; true: it had something to do */
	void *pump_opaque;
	bool quiet; /* does not print the log */
	unsigned num_failed_tries; /* to realize, as the log told them */
	char last_failed_try[800];
	unsigned num_warnings;
	unsigned num_unwatched; /* lines at INFO or above about a lack of inotify */
	unsigned round_trips; /* of the last handshake or start, as the log told them */
	char last_word[800]; /* at INFO or above */

	int memfd;
	char *memory;
	struct vublk_driver_ring rings[RIG_MAX_QUEUES];
	int kicks[RIG_MAX_QUEUES], callfds[RIG_MAX_QUEUES];
	unsigned num_rings;
};

/* A device with chardev, queue-size 16, and no retries; further properties are the test's. */
void rig_init(struct device_rig *rig, const char *chardev);
/* The same with a mock as the back-end. */
void rig_init_with_mock(struct device_rig *rig, struct mock *mock);
void rig_deinit(struct device_rig *rig);

/*
 * What most tests begin and end with: a new mock and a device that has it as its back-end.
 * `reconnect_ms` NULL: the default. rig_begin() also realizes the device.
 */
void rig_prepare(struct device_rig *rig, struct mock *mock, const char *reconnect_ms);
void rig_begin(struct device_rig *rig, struct mock *mock, const char *reconnect_ms);
void rig_end(struct device_rig *rig, struct mock *mock);

void rig_set(struct device_rig *rig, const char *name, const char *value);

/* Runs the loop until the callback has been called `calls` times; fails after 20 s. */
void rig_wait(struct device_rig *rig, enum rig_callback callback, unsigned calls);
/* Lets both ends work once, waiting up to `timeout_ms` for something. True: there was something. */
bool rig_turn(struct device_rig *rig, int timeout_ms);
/* Runs the loop until there is nothing to do. */
void rig_settle(struct device_rig *rig);

/* Realizes and expects success, or a failure with this code. */
void rig_realize(struct device_rig *rig);
void rig_realize_fails(struct device_rig *rig, int code);

/* Memory, rings, features, DRIVER_OK; waits for started(). */
void rig_set_up(struct device_rig *rig, unsigned num_queues);
void rig_start(struct device_rig *rig, unsigned num_queues);
void rig_stop(struct device_rig *rig);

/*
 * Realize, start, stop: 0, or the code of the failure that ended it (RIG_REALIZED's or
 * RIG_STOPPED's), whose sentence is in *error.
 */
int rig_try_session(struct device_rig *rig, unsigned num_queues, struct vublk_error *error);

/* As a back-end and a driver leave them: completed, and made available. */
void rig_set_indices(struct device_rig *rig, unsigned queue, uint16_t used, uint16_t avail);

/* One request on a queue, by hand: the status byte that came. */
uint8_t rig_request(struct device_rig *rig, unsigned queue, uint32_t type, uint64_t sector, void *data,
		    unsigned bytes);
/* The same in two steps: one request at a time. */
void rig_submit(struct device_rig *rig, unsigned queue, uint32_t type, uint64_t sector, const void *data,
		unsigned bytes);
uint8_t rig_finish(struct device_rig *rig, unsigned queue);

#endif
