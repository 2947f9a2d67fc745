/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_DEVICE_RIG_H
#define VUBLK_TESTS_DEVICE_RIG_H

/*
 * A device on a test bus, with guest memory and rings that the test drives by hand. The rig counts
 * the callbacks of the device and keeps their errors. A test waits for a callback by running the
 * device's loop. The memory is one region, which has a ring and a data area for each queue.
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
	RIG_INFLIGHT_MADE, RIG_NUM_CALLBACKS,
};

#define RIG_MAX_QUEUES 8
#define RIG_QUEUE_SIZE 16
#define RIG_QUEUE_BYTES 4096       /* of guest memory for each ring */
#define RIG_DATA_OFFSET (RIG_MAX_QUEUES * RIG_QUEUE_BYTES)
#define RIG_DATA_BYTES (64 << 10)  /* of guest memory for each data area */
#define RIG_MEMORY_BYTES (1 << 20)
#define RIG_GUEST_ADDR UINT64_C(0x100000000)

struct device_rig {
	struct vublk_device *device;
	unsigned calls[RIG_NUM_CALLBACKS];
	struct vublk_error errors[RIG_NUM_CALLBACKS]; /* of the last call; code 0: no error */
	void (*hook)(struct device_rig *rig, enum rig_callback callback); /* called in each callback */
	uint64_t refused_features; /* offered features that rig_set_up() does not accept */
	bool (*pump)(void *opaque); /* runs the back-end; returns whether it did any work */
	void *pump_opaque;
	bool quiet; /* do not print the log */
	unsigned num_failed_tries; /* failed attempts to realize, as the log reports them */
	char last_failed_try[800];
	unsigned num_warnings;
	unsigned num_timeouts; /* lines that report that something has exceeded its deadline */
	char last_timeout[800];
	unsigned num_unwatched; /* lines at INFO or above that report that inotify is unavailable */
	unsigned round_trips; /* of the last handshake or start, as the log reports them */
	char last_line[800]; /* the last line at INFO or above */

	int memfd;
	char *memory;
	struct vublk_driver_ring rings[RIG_MAX_QUEUES];
	int kicks[RIG_MAX_QUEUES], callfds[RIG_MAX_QUEUES];
	unsigned num_rings;
};

/*
 * Makes a device with this chardev, queue-size 16 and realize-retries 0. If `chardev` is NULL, the
 * test must set that property itself.
 */
void rig_init(struct device_rig *rig, const char *chardev);
/* Like rig_init(), with `mock` as the back-end. mock_init() must have been called. */
void rig_init_with_mock(struct device_rig *rig, struct mock *mock);
void rig_deinit(struct device_rig *rig);

/*
 * rig_prepare() initializes a mock and a device whose back-end is the mock, and rig_end() frees
 * both. If `reconnect_ms` is NULL, the property keeps its default. rig_begin() also realizes the
 * device.
 */
void rig_prepare(struct device_rig *rig, struct mock *mock, const char *reconnect_ms);
void rig_begin(struct device_rig *rig, struct mock *mock, const char *reconnect_ms);
void rig_end(struct device_rig *rig, struct mock *mock);
/*
 * Like rig_init_with_mock() and rig_begin(), for a VM that can migrate with requests in flight:
 * reconnect-ms is 1, and inflight-migration is on.
 */
void rig_init_movable(struct device_rig *rig, struct mock *mock);
void rig_begin_movable(struct device_rig *rig, struct mock *mock);
/* Pauses the VM, waits for stopped(), and checks that it reports no error. */
void rig_pause(struct device_rig *rig);

void rig_set(struct device_rig *rig, const char *name, const char *value);

/*
 * Runs the loop until `callback` has been called `calls` times in total. Fails after 20 s, or if
 * there are more calls.
 */
void rig_wait(struct device_rig *rig, enum rig_callback callback, unsigned calls);
/*
 * Runs the back-end and then the device once. If both are idle, waits up to `timeout_ms` for an
 * event of the device. Returns whether either end did any work.
 */
bool rig_turn(struct device_rig *rig, int timeout_ms);
/* Runs the back-end and the device until both are idle. */
void rig_settle(struct device_rig *rig);

/*
 * Realizes the device. rig_realize() expects success; rig_realize_fails() expects the errno `code`.
 */
void rig_realize(struct device_rig *rig);
void rig_realize_fails(struct device_rig *rig, int code);

/*
 * Accepts features, and sets the memory and the first `num_queues` queues. rig_start() also sets
 * DRIVER_OK and waits for started().
 */
void rig_set_up(struct device_rig *rig, unsigned num_queues);
void rig_start(struct device_rig *rig, unsigned num_queues);
void rig_stop(struct device_rig *rig);

/*
 * Realizes, starts and stops the device. Stores in `error` the error that realized() or stopped()
 * reported, and returns its code; 0: success.
 */
int rig_try_session(struct device_rig *rig, unsigned num_queues, struct vublk_error *error);

/* Sets the used and the available index of a ring, as a back-end and a driver would. */
void rig_set_indices(struct device_rig *rig, unsigned queue, uint16_t used, uint16_t avail);
/* Sets avail_event of a ring, as a back-end does after it has taken the requests before `event`. */
void rig_set_avail_event(struct device_rig *rig, unsigned queue, uint16_t event);

/*
 * Checks that the kick and the call eventfd of each of the first `num_queues` queues were signalled
 * exactly once.
 */
void rig_expect_notified_once(struct device_rig *rig, unsigned num_queues);

/*
 * Sends one request, waits for its completion, and returns its status byte. Copies the result of a
 * read to `data`.
 */
uint8_t rig_request(struct device_rig *rig, unsigned queue, uint32_t type, uint64_t sector, void *data,
		    unsigned bytes);
/*
 * rig_request() in two steps: rig_submit() sends the request, and rig_finish() waits for its
 * completion and returns its status byte. A queue has at most one such request at a time.
 */
void rig_submit(struct device_rig *rig, unsigned queue, uint32_t type, uint64_t sector, const void *data,
		unsigned bytes);
uint8_t rig_finish(struct device_rig *rig, unsigned queue);

#endif
