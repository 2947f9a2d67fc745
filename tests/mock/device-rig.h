/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_DEVICE_RIG_H
#define VUBLK_TESTS_DEVICE_RIG_H

/*
 * A device on a test bus: the rig counts the callbacks and keeps their errors, and the test waits
 * for callbacks by running the device's loop. The memory is one region with a ring and a data area
 * per queue, which the test drives by hand.
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
#define RIG_DATA_BYTES (64 << 10)  /* of memory for the requests of each queue */
#define RIG_MEMORY_BYTES (1 << 20)
#define RIG_GUEST_ADDR UINT64_C(0x100000000)

struct device_rig {
	struct vublk_device *device;
	unsigned calls[RIG_NUM_CALLBACKS];
	struct vublk_error errors[RIG_NUM_CALLBACKS]; /* of the last call; code 0: no error */
	void (*hook)(struct device_rig *rig, enum rig_callback callback); /* called in each callback */
	uint64_t refused_features; /* offered, and not accepted by rig_set_up() */
	bool (*pump)(void *opaque); /* lets the other end work; true: it did something */
	void *pump_opaque;
	bool quiet; /* the log is not printed */
	unsigned num_failed_tries; /* tries to realize that failed, counted in the log */
	char last_failed_try[800];
	unsigned num_warnings;
	unsigned num_unwatched; /* lines at INFO or above about a lack of inotify */
	unsigned round_trips; /* of the last handshake or start, read from the log */
	char last_line[800]; /* the last line at INFO or above */

	int memfd;
	char *memory;
	struct vublk_driver_ring rings[RIG_MAX_QUEUES];
	int kicks[RIG_MAX_QUEUES], callfds[RIG_MAX_QUEUES];
	unsigned num_rings;
};

/* A device with chardev, queue-size 16, and no retries; the test sets further properties. */
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
/*
 * The same for a VM that can be moved with requests in flight: retries at once, and leaves
 * requests in the in-flight area. rig_init_movable() takes a mock that has been set up.
 */
void rig_init_movable(struct device_rig *rig, struct mock *mock);
void rig_begin_movable(struct device_rig *rig, struct mock *mock);
/* Pauses the VM and waits until the rings have stopped without an error. */
void rig_pause(struct device_rig *rig);

void rig_set(struct device_rig *rig, const char *name, const char *value);

/* Runs the loop until the callback has been called `calls` times; fails if that takes 20 s. */
void rig_wait(struct device_rig *rig, enum rig_callback callback, unsigned calls);
/* Lets both ends work once, and waits up to `timeout_ms` for an event. True: there was one. */
bool rig_turn(struct device_rig *rig, int timeout_ms);
/* Runs the loop until both ends are idle. */
void rig_settle(struct device_rig *rig);

/* Realizes and expects success, or failure with this code. */
void rig_realize(struct device_rig *rig);
void rig_realize_fails(struct device_rig *rig, int code);

/* Sets up memory, rings and features; rig_start() also sets DRIVER_OK and waits for started(). */
void rig_set_up(struct device_rig *rig, unsigned num_queues);
void rig_start(struct device_rig *rig, unsigned num_queues);
void rig_stop(struct device_rig *rig);

/*
 * Realizes, starts and stops the device. Returns 0, or the code of the error that realized() or
 * stopped() reported; *error is that error.
 */
int rig_try_session(struct device_rig *rig, unsigned num_queues, struct vublk_error *error);

/* Sets the indices as a back-end (`used`) and a driver (`avail`) would. */
void rig_set_indices(struct device_rig *rig, unsigned queue, uint16_t used, uint16_t avail);

/* Each kick and each call of these queues was signalled exactly once. */
void rig_expect_notified_once(struct device_rig *rig, unsigned num_queues);

/* Sends one request and returns its status byte. */
uint8_t rig_request(struct device_rig *rig, unsigned queue, uint32_t type, uint64_t sector, void *data,
		    unsigned bytes);
/*
 * The same in two steps: rig_submit() sends the request, and rig_finish() waits for it and returns
 * its status byte. A queue has at most one such request at a time.
 */
void rig_submit(struct device_rig *rig, unsigned queue, uint32_t type, uint64_t sector, const void *data,
		unsigned bytes);
uint8_t rig_finish(struct device_rig *rig, unsigned queue);

#endif
