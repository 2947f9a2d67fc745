/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VUBLK_TESTS_BLK_RIG_H
#define VUBLK_TESTS_BLK_RIG_H

/* A disk on the stand-in device, and a record of the events that the disk has reported. */

#include "fake-device.h"
#include "harness.h"

#include <vublk/blk.h>

#include <pthread.h>

#define KIB 1024
#define DISK_BYTES (1024 * KIB)

extern struct vublk_error error; /* of the last call that failed */

extern struct told {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned events[VUBLK_BLK_WRITES_LOST + 1]; /* how often each occurred; wait_for_event()
						       sets it to 0 */
	char text[VUBLK_ERROR_TEXT_BYTES];          /* of the last event that had an error */
	struct vublk_blk *blk; /* the disk whose functions the handler calls */
	uint64_t capacity_bytes; /* at the last event */
	int close_result;        /* of vublk_blk_close() in the handler */
} told;

/* Waits until the event has occurred at least once since the last wait for this event. */
void wait_for_event(enum vublk_blk_event event);

/* With these options the disk does not reconnect, so the loss of the back-end is permanent. */
extern const struct vublk_option blk_fails_at_once[];
/* Opens a disk on the device that fake_plan describes. */
struct vublk_blk *open_disk_with(const struct vublk_option *options);
struct vublk_blk *open_disk(void); /* with blk_fails_at_once */
/* Calls fake_init() and then open_disk(). */
struct vublk_blk *set_up(void);
void tear_down(struct vublk_blk *blk);

/* Calls fake_init(), and opens a disk with this many queues. */
struct vublk_blk *begin(unsigned num_queues, const struct vublk_option *options);
/* Disconnects the back-end. Returns when the disk has reported LOST. */
void lose(void);
/* Connects the disk to another back-end. Returns when the disk has reported RECONNECTED. */
void find(void);

/* Adds and submits `count` reads of the first 4 KiB. Their user data is &told. */
void read_many(struct vublk_blk *blk, unsigned queue, unsigned count);

#endif
